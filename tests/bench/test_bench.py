"""The benchmark suite: engines, gate, stored results and tables."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pdepth import cli, definition

pytest.importorskip("pytest_benchmark")
pytest.importorskip("matplotlib")

from pdepth.bench import common, gate, pages
from pdepth.bench.suite import engines, measure, picture, render, results, shapes

from helpers.engines import Fickle


def whole_numbers(shape: shapes.Shape) -> shapes.Problem:
    """Rows far apart and exact in float32, so that every peer finds the same neighbours."""
    rng = np.random.default_rng(0)
    count = shape.support + shape.queries
    rows = [rng.integers(-200, 200, (count, width)).astype(np.float32) for width in shape.widths]
    labels = rng.integers(0, 10, shape.support)
    layers = [(values[: shape.support], values[shape.support :]) for values in rows]
    return shapes.Problem(labels, layers)


TINY = shapes.Shape("random", 300, 40, (24,), whole_numbers)
TWO = shapes.Shape("trained network", 200, 30, (20, 9), whole_numbers)


class Wrong(engines.Pdepth):
    def __init__(self) -> None:
        super().__init__()
        self.name = "wrong"

    def run(self, prepared: Any, k: int) -> Any:
        votes = super().run(prepared, k).copy()
        votes[-1, 7] += 1
        return votes


class AlmostPeer(engines.Engine):
    name = "almost"

    def votes(self, support: Any, labels: Any, queries: Any, k: int) -> Any:
        votes = definition.probe_votes(support, labels, queries, k=k).votes
        votes[:3] += 1
        return votes


def suite(*members: engines.Engine, shape: shapes.Shape = TINY, **options: Any) -> measure.Suite:
    defaults: dict[str, Any] = {"rounds": 1, "patience": 600, "fresh": False, "report": str}
    return measure.Suite([shape], members, **(defaults | options))


@pytest.fixture(scope="module", autouse=True)
def short_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "REST", 0.0)
        patch.setattr(measure, "BRIEF", 0.0)
        yield


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """One small run of everything."""
    every, _ = engines.pick(None, None)
    return measure.run(
        measure.Suite([TINY, TWO], [*every, AlmostPeer()], 1, 600, False, lambda text: None)
    )


@pytest.mark.parametrize("engine", engines.registry(), ids=lambda engine: engine.name)
@pytest.mark.parametrize("shape", [TINY, TWO], ids=lambda shape: shape.kind)
def test_every_engine_casts_the_votes_of_the_definition(engine, shape):
    if (reason := engine.missing()) is not None:
        pytest.skip(reason)
    engine.start()
    problem = whole_numbers(shape)
    votes = engine.run(engine.prepare(problem), shapes.K)
    if engine.kind == engines.CEILING:
        assert votes is None
        return
    for row, (support, queries) in zip(votes, problem.layers, strict=True):
        expected = definition.probe_votes(support, problem.labels, queries, k=shapes.K).votes
        np.testing.assert_array_equal(row, expected)
        chunked = gate.definition_votes(support, problem.labels, queries, shapes.K)
        np.testing.assert_array_equal(chunked, expected)


def test_the_registries_have_no_name_twice_and_cover_the_networks():
    for names in ([s.name for s in shapes.SHAPES], [e.name for e in engines.registry()]):
        assert len(set(names)) == len(names)
    assert engines.registry()[0].kind == engines.PDEPTH
    measured = {shape.widths[0] for shape in shapes.SHAPES if shape.group == "layer"}
    for widths in shapes.NETWORKS.values():
        assert measured >= set(widths)
    assert sum(shapes.NETWORKS["ResNet18"]) == 314_378
    assert len(shapes.NETWORKS["VGG16"]) == 15


@pytest.mark.parametrize("kind", ["random", "softmax", "equal rows", "half one-hot"])
def test_shapes_are_filled_as_they_say_and_always_alike(kind):
    fill = next(shape.fill for shape in shapes.SHAPES if shape.kind == kind)
    shape = shapes.Shape(kind, 50, 20, (6,), fill)
    problem, again = fill(shape), fill(shape)
    ((support, queries),) = problem.layers
    assert (support.shape, queries.shape, problem.labels.shape) == ((50, 6), (20, 6), (50,))
    assert support.dtype == queries.dtype == np.float32
    np.testing.assert_array_equal(support, again.layers[0][0])


def test_the_trained_network_needs_no_data(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(shapes, "DATA", Path("nowhere"))
    shape = shapes.Shape("trained network", 400, 60, (48, 32, 16, 10), shapes.trained)
    problem = shape.fill(shape)
    assert [y.shape for y, _ in problem.layers] == [(400, w) for w in shape.widths]
    assert [x.shape for _, x in problem.layers] == [(60, w) for w in shape.widths]
    np.testing.assert_allclose(problem.layers[-1][0].sum(axis=1), 1, rtol=1e-5)


def test_the_gate_refuses_a_wrong_engine():
    with pytest.raises(
        measure.Refused, match="1 of 12 .* the definition's at probe 0, .* sample, the first at 7"
    ):
        measure.run(suite(Wrong(), shape=shapes.Shape("random", 300, 12, (24,), whole_numbers)))
    with pytest.raises(measure.Refused, match="are not pdepth cpu's"):
        measure.run(suite(engines.Pdepth(), Wrong(), shape=TWO))


def test_a_peer_that_fails_is_left_out_and_named():
    class Broken(engines.Engine):
        name = "broken"

    class Short(AlmostPeer):
        name = "short"

        def votes(self, *arguments: Any) -> Any:
            return super().votes(*arguments)[1:]

    lines: list[str] = []
    stored = measure.run(suite(engines.Pdepth(), Broken(), Short(), report=lines.append))
    assert [record["name"] for record in stored["benchmarks"]] == ["pdepth cpu"]
    assert any(line.startswith("broken is left out: NotImplementedError") for line in lines)
    assert "short is left out: ValueError: votes: expected shape (1, 40), got (1, 39)" in lines


@pytest.mark.slow
def test_an_interrupted_run_is_resumed(tmp_path, monkeypatch):
    class Interrupted(AlmostPeer):
        calls = 0

        def votes(self, *arguments: Any) -> Any:
            self.calls += 1
            if self.calls == 3:  # the gate and the round of the first shape are over
                raise KeyboardInterrupt
            return super().votes(*arguments)

    class Other(AlmostPeer):
        name = "other"

    def both(*members: engines.Engine, rounds: int = 1) -> measure.Suite:
        lines.clear()
        return measure.Suite([TINY, TWO], members, rounds, 600, False, lines.append)

    lines: list[str] = []
    monkeypatch.setattr(measure, "machine", lambda *_: {"commit": "1234567", "date": lines[:]})
    unfinished = tmp_path / "deep" / "suite.unfinished"
    with pytest.raises(KeyboardInterrupt):
        measure.run(both(engines.Pdepth(), Interrupted()), unfinished)
    first = json.loads(unfinished.read_text())["shapes"][TINY.name]["benchmarks"]
    before = unfinished.read_bytes()
    stored = measure.run(both(engines.Pdepth(), AlmostPeer()), unfinished)
    assert lines[0] == f"{TINY.name}: measured before"
    assert stored["benchmarks"][:2] == first
    assert {record["group"] for record in stored["benchmarks"]} == {TINY.name, TWO.name}
    for others in (both(engines.Pdepth(), Other()), both(engines.Pdepth(), AlmostPeer(), rounds=2)):
        unfinished.write_bytes(before)
        measure.run(others, unfinished)
        assert lines[0] == f"{TINY.name}: rows"
    unfinished.write_bytes(before)
    monkeypatch.setattr(measure, "machine", lambda *_: {"commit": "1234567-dirty"})
    measure.run(both(engines.Pdepth(), AlmostPeer()), unfinished)
    assert lines[0] == f"{TINY.name}: rows"  # what was changed is unknown


def test_a_round_with_other_votes_ends_the_run():
    with pytest.raises(measure.Refused, match="those of its first call"):
        measure.run(suite(Fickle(), rounds=4))


def test_rounds_are_interleaved():
    calls = []

    class Recorded(AlmostPeer):
        def __init__(self, name: str) -> None:
            self.name = name

        def votes(self, *arguments: Any) -> Any:
            calls.append(self.name)
            return super().votes(*arguments)

    stored = measure.run(suite(engines.Pdepth(), Recorded("a"), Recorded("b"), rounds=2))
    assert calls == ["a", "b"] * 3  # the gate and two rounds
    stats = [record["stats"] for record in stored["benchmarks"]]
    assert [each["rounds"] for each in stats] == [2] * 3
    assert len({tuple(each["data"]) for each in stats}) == 3


@pytest.mark.slow
def test_what_is_stored(stored, tmp_path):
    machine = stored["machine_info"]
    assert machine["versions"].keys() >= {"pdepth", "python", "numpy", "torch"}
    assert machine["threads"] >= 1
    assert machine["processor"]
    assert "node" not in machine  # host names are private
    if common.CHECKOUT:
        assert re.match(r"[0-9a-f]{7}", stored["commit_info"]["id"])
    records = [record for record in stored["benchmarks"] if record["group"] == TINY.name]
    by_name = {record["name"]: record for record in records}
    first = next(iter(by_name.values()))
    assert first["extra_info"]["kind"] == engines.PDEPTH
    assert first["extra_info"]["first"] > 0
    if sys.platform == "linux":
        assert first["extra_info"]["extra_bytes"] >= 0
    assert by_name["almost"]["extra_info"]["differing"] == 3
    assert by_name["float32 product"]["extra_info"]["differing"] is None
    render.save(stored, tmp_path / "now.json")
    compare = [sys.executable, "-m", "pytest_benchmark", "compare", str(tmp_path / "now.json")]
    done = subprocess.run(compare, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert TINY.name in done.stdout + done.stderr
    assert "float32 product" in done.stdout + done.stderr


def test_rendering_is_deterministic_and_stays_between_the_marks(stored, tmp_path, monkeypatch):
    pytest.importorskip("torch")  # of the float32 product
    monkeypatch.setattr(common, "HOME", tmp_path)
    page = tmp_path / common.PAGE
    page.parent.mkdir()
    page.write_text("before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n")
    pages.render("x", render.tables(stored))
    once = page.read_text()
    pages.render("x", render.tables(json.loads(json.dumps(stored))))
    assert page.read_text() == once
    assert once.startswith("before\n<!-- x -->\nSeconds, medians")
    assert once.endswith("\n<!-- end of x -->\nafter\n")
    assert "old" not in once
    assert re.search(r"\| 300 x 40 x 24 \|.*\(3\)", once)  # the votes of "almost" that differ
    for name in ("a.png", "b.png"):
        picture.draw(stored, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    page.write_text("no marks")
    with pytest.raises(ValueError, match="expected the marks"):
        pages.render("x", "text")
    assert page.read_text() == "no marks"


def test_the_stored_results_and_the_page_agree():
    if not common.CHECKOUT:
        pytest.skip("an installed copy has no page")
    stored = render.load()
    assert render.tables(stored) in (common.HOME / common.PAGE).read_text()
    summary = render.summary(stored)
    assert summary in (common.HOME / common.README).read_text()
    assert summary.count("\n| ") == 1 + len(render.SUMMARY_SHAPES) + 1  # the rule, the network


def test_networks_are_the_sums_of_their_layers():
    def record(shape: shapes.Shape, engine: str, kind: str, seconds: float) -> dict[str, Any]:
        params = {"kind": shape.kind, "group": "layer", "support": 10_000, "queries": 10_000}
        return {
            "group": shape.name,
            "name": engine,
            "params": params | {"widths": list(shape.widths)},
            "stats": {"data": [seconds, 99.0, 0.5]},
            "extra_info": {"kind": kind, "exact": True, "differing": 0},
        }

    layers = [
        shapes.Shape("random", 10_000, 10_000, (width,), whole_numbers)
        for width in (3072, 2048, 10)
    ]
    rows = results.rows_of(
        {
            "benchmarks": [
                record(shape, engine, kind, seconds)
                for shape in layers
                for engine, kind, seconds in (("ours", "pdepth", 1.5), ("theirs", "peer", 3.0))
            ]
        }
    )
    text = render._networks(rows)
    assert "| MLP | 8 | 12.0 | 24.0 theirs | 2.00 |" in text
    assert "ResNet18" not in text  # its widest layers were not measured


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


MINE = """
from pdepth import definition
from pdepth.bench.suite.engines import Engine

class Mine(Engine):
    name = "mine"

    def votes(self, support, labels, queries, k):
        return definition.probe_votes(support, labels, queries, k=k).votes
"""


@pytest.mark.slow
def test_a_selection_prints_and_stores_nothing_but_its_json(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SHAPES", (TINY, TWO))
    monkeypatch.setattr(measure, "BRIEF", 1e10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "HOME", tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    assert pickle.loads(pickle.dumps(engines.load_engine("mine.py:Mine"))).name == "mine"
    result = call(
        "--shape", "300*", "--engine", "pdepth portable", "--with", "mine.py:Mine",
        "--rounds", 1, "--json", "now.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "300 x 40 x 24, 10 rounds" in result.stdout
    records = json.loads((tmp_path / "now.json").read_text())["benchmarks"]
    names = [record["name"] for record in records]
    assert names[1:3] == ["pdepth portable", "mine"]
    assert names[-1] == "memory read"
    assert "faiss" not in names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py", "now.json"]


def test_a_whole_run_stores_and_renders(tmp_path, monkeypatch):
    pytest.importorskip("torch")  # of the float32 product
    mine = [engines.Pdepth(), AlmostPeer(), engines.FLOAT32]
    monkeypatch.setattr(shapes, "SHAPES", (TINY,))
    monkeypatch.setattr(engines, "registry", lambda: mine)
    cold = {"pdepth cpu": {"first": 0.5, "extra_bytes": 10**7}}
    monkeypatch.setattr(measure, "first_calls", lambda *_: cold)
    monkeypatch.setattr(common, "HOME", tmp_path)
    assert "stored results: expected a file" in refused("--render")
    result = call("--rounds", 1)
    assert result.exit_code == 0, result.output
    written = [tmp_path / "bench/results/suite.json", tmp_path / "docs/bench.png"]
    page, *before = [tmp_path / common.PAGE, *(path.read_bytes() for path in written)]
    text = page.read_text()
    assert "![Time of every engine](bench.png)" in text
    assert "10 MB (" in text
    readme = tmp_path / "README.md"
    assert not readme.exists()
    readme.write_text("no marks\n")
    page.write_text(text.replace("Seconds, medians", "overwritten"))
    again = call("--render")
    assert again.exit_code == 0
    assert "README.md: expected the marks <!-- pdepth bench: summary --> and" in again.stdout
    assert (page.read_text(), readme.read_text()) == (text, "no marks\n")
    readme.write_text(
        "a\n<!-- pdepth bench: summary -->\n\n<!-- end of pdepth bench: summary -->\n"
    )
    monkeypatch.setattr(render, "SUMMARY_SHAPES", (TINY.name,))
    assert call("--render").stdout.endswith(f"{readme}.\n")
    assert f"\n| {TINY.name} | " in readme.read_text()
    assert before == [path.read_bytes() for path in written]


def test_a_refused_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SHAPES", (TINY,))
    monkeypatch.setattr(engines, "registry", lambda: [Wrong(), engines.FLOAT32])
    monkeypatch.setattr(common, "HOME", tmp_path)
    result = call("--json", tmp_path / "now.json")
    assert result.exit_code == 2
    assert "Error: 1 of 40 votes of wrong are not the definition's at probe 0" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_list_and_mistakes(tmp_path):
    pytest.importorskip("torch")  # of the float32 product
    listed = call("--list").stdout.splitlines()
    assert {"10,000 x 10,000 x 512", "float32 product"} <= set(listed)
    assert "5,000 x 1,000 x 64" in call("--list", "--quick").stdout.splitlines()
    assert "--shape: expected a pattern that matches one of: 10,000" in refused("--shape", "x")
    assert "--engine: expected a pattern that matches one of: " in refused(
        "--list", "--engine", "x"
    )
    assert "expected one alone or none" in refused("--list", "--reference")
    assert "--with: expected an existing file, got" in refused("--with", "gone.py:Class")
    (tmp_path / "number.py").write_text("def number():\n    return 1\n")
    assert "expected a subclass of pdepth.bench.suite.engines.Engine, got int." in refused(
        "--with", f"{tmp_path}/number.py:number"
    )
    (tmp_path / "mine.py").write_text(MINE.replace('"mine"', '"pdepth portable"'))
    assert "no engine of the suite has, got 'pdepth portable'." in refused(
        "--with", f"{tmp_path}/mine.py:Mine"
    )


def test_a_missing_extra_is_named(monkeypatch):
    for module in ("pytest_benchmark", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert refused("--quick") == (
                f"Error: pdepth bench needs {module}: pip install 'pdepth[bench]'.\n"
            )


def test_an_engine_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(engines.Faiss, "module", "no_such_module")
    listed = call("--list")
    assert "faiss" not in listed.stdout.splitlines()
    assert "faiss is left out: faiss-cpu is not installed.\n" in listed.stderr


def test_an_engine_of_version_0_1_takes_its_input() -> None:
    with pytest.warns(DeprecationWarning, match="Old.take is now called prepare"):

        class Old(engines.Engine):
            name = "old"

            def take(self, problem: Any) -> Any:
                return "taken"

    assert Old().prepare(None) == "taken"  # type: ignore[arg-type]
