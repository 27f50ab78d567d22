"""Every study's stored result is what its page shows, and what they share."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from pdepth.bench import common, pages
from pdepth.bench.studies import (
    checks,
    cifar10,
    cleaning,
    cluster,
    compat,
    findings,
    install,
    keeping,
    label_issues,
    libraries,
    memory,
    networks,
    noise,
    placements,
    presets,
    wheel,
)

STUDIES = (
    *(checks, cifar10, cleaning, cluster, compat, findings, install, keeping, label_issues),
    *(libraries, memory, networks, noise),
    *(placements, presets, wheel),
)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.NAME)
def test_the_stored_result_and_the_page_agree(study: ModuleType) -> None:
    if not common.CHECKOUT:
        pytest.skip("needs a checkout: an installed copy has no pages")
    assert Path(study.__file__ or "").relative_to(common.HOME).as_posix() == study.NAME
    if not study.STORED.exists():
        pytest.skip(f"{study.NAME} has no stored result")
    begin, end = f"<!-- {study.NAME} -->\n", f"\n<!-- end of {study.NAME} -->"
    page = (common.HOME / study.PAGE).read_text()
    assert page.split(begin)[1].split(end)[0] == study.table(pages.load(study.STORED))


def test_a_study_measures_or_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure() -> dict[str, Any]:
        calls.append("measured")
        return {"value": len(calls)}

    def publish(*arguments: str) -> str:
        pages.publish(arguments, "x", measure, json.dumps, tmp_path / "x.json", Path("x.md"))
        return (tmp_path / "x.md").read_text()

    calls: list[str] = []
    monkeypatch.setattr(common, "HOME", tmp_path)
    expected = '<!-- x -->\n{"value": 1}\n<!-- end of x -->\n'
    assert publish() == expected
    assert publish("--render") == expected
    assert calls == ["measured"]
    with pytest.raises(SystemExit, match="x: expected no argument or --render, got --rendr"):
        publish("--rendr")


def test_a_study_of_a_wheel_is_told_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(*arguments: str) -> str:
        stored = tmp_path / "x.json"
        pages.publish_of_wheel(arguments, "x", measure, json.dumps, stored, Path("x.md"))
        return (tmp_path / "x.md").read_text()

    def measure(wheel: Path) -> dict[str, Any]:
        return {"wheel": wheel.name}

    monkeypatch.setattr(common, "HOME", tmp_path)
    expected = '<!-- x -->\n{"wheel": "a.whl"}\n<!-- end of x -->\n'
    assert publish("dist/a.whl") == expected
    assert publish("--render") == expected
    for wrong in ((), ("a.tar.gz",), ("a.whl", "--render")):
        with pytest.raises(SystemExit, match="x: expected NAME.whl or --render, got"):
            publish(*wrong)


def test_calls_that_are_measured_on_another_machine_have_theirs() -> None:
    names = [call.name for call in compat.CALLS]
    old = {"machine": "a", "calls": [{"call": names[1], "n": 1}, {"call": names[0], "n": 2}]}
    new = {"machine": "b", "calls": [{"call": names[2], "n": 3}, {"call": names[1], "n": 4}]}
    both = compat.merged(old, new, partly=True)
    assert both["machine"] == "a"
    assert both["calls"] == [
        {"call": names[0], "n": 2},
        {"call": names[1], "n": 4, "machine": "b"},
        {"call": names[2], "n": 3, "machine": "b"},
    ]
    both = compat.merged(both, {"machine": "c", "calls": [{"call": names[0]}]}, partly=False)
    assert both["machine"] == "c"
    assert [call.get("machine") for call in both["calls"]] == [None, "b", "b"]


def test_a_wheel_of_other_votes_has_no_times() -> None:
    class Worker:
        def __init__(self, votes: int) -> None:
            self.votes = votes
            self.calls: list[int] = []

        def time(self, shape: str, level: str, calls: int) -> tuple[float, int]:
            self.calls.append(calls)
            return wheel.LEAST / 4, self.votes

    cells = {("avx2", "one"): 0, ("avx2", "other"): 0}
    workers: dict[str, Any] = {"wheel": Worker(1), "local": Worker(1)}
    times = wheel.time_round(workers, cells)
    assert times == dict.fromkeys(cells, dict.fromkeys(workers, wheel.LEAST / 4))
    assert set(cells.values()) == {4}
    assert workers["wheel"].calls == [1, 4, 1, 4]
    with pytest.raises(AssertionError, match="one, avx2: votes differ"):
        wheel.time_round(workers | {"wheel": Worker(2)}, cells)
