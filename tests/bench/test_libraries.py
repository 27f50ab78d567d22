"""The study that runs other tests beside the real libraries: what it reads, stores and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdepth.bench import common
from pdepth.bench.studies import libraries

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_one[1]" />
<testcase classname="tests.test_a" name="test_two"><failure message="wrong" /></testcase>
<testcase classname="tests.test_a" name="test_three"><error message="no fixture" /></testcase>
<testcase classname="tests.test_a" name="test_four"><skipped message="no faiss" /></testcase>
<testcase classname="tests.test_a" name="test_five"><skipped message="no faiss" /></testcase>
<testcase name="test_six"><skipped message="this machine lacks amx" /></testcase>
</testsuite></testsuites>"""


def result(**changed: Any) -> dict[str, Any]:
    machine = {"versions": {"pdepth": "1", "faiss-cpu": "1.15"}, "commit": "c", "date": "d"}
    unchanged = {"name": "oodeel", "passed": 3, "failed": [], "skipped": {}, "machine": machine}
    return unchanged | changed


def test_a_report_is_read() -> None:
    report = libraries.Report.read(JUNIT)
    assert report.passed == 1
    assert report.failed == ("tests.test_a::test_two", "tests.test_a::test_three")
    assert report.skipped == {"no faiss": 2, "this machine lacks amx": 1}
    assert report.wrong() == 4


def test_a_test_that_is_skipped_for_a_missing_library_has_failed() -> None:
    assert libraries.verdict(result(skipped={"this machine lacks amx": 2})) == ""
    sentence = "oodeel: 2 tests failed, or were skipped though they need not be."
    assert libraries.verdict(result(skipped={"no faiss": 1}, failed=["one"])) == sentence
    assert libraries.verdict(result(passed=0)) == "oodeel: no test ran."


def test_the_lowest_versions_are_the_highest_of_the_lower_bounds() -> None:
    project = '["a-b>=1.4", "c[x,y]>=2", "d", "a-b>=1.10.3,<3; python_version >= \'3.11\'"]'
    assert libraries.lowest(project) == ["a-b==1.10.*", "c==2.0.*"]
    if common.CHECKOUT:
        assert "scikit-learn==1.6.*" in libraries.lowest(
            (common.HOME / "pyproject.toml").read_text()
        )


def test_results_take_the_place_of_earlier_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "libraries.json"
    for value in (result(), result(name="newest"), result(passed=4), result(name="gone")):
        libraries.store(value, path)
    stored = json.loads(path.read_text())
    assert [(row["name"], row["passed"]) for row in stored["environments"]] == [
        ("newest", 3),
        ("oodeel", 4),
    ]
    assert "| oodeel | faiss-cpu 1.15 | 4 | 0 | 0 | c, d |" in libraries.table(stored)


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["odeel2"], "WORD: expected a part of one of newest, oldest, oodeel", 2),
        (["oodeel", "--quick"], "--quick: expected with --bench, got without.", 2),
        (["oodeel", "--no-install"], "oodeel: expected an environment with ", 1),
    ],
)
def test_mistakes_are_reported_before_anything_runs(
    arguments: list[str],
    sentence: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PDEPTH_COMMIT", "1234567")
    results = tmp_path / "results.json"
    with pytest.raises(SystemExit) as caught:
        libraries.main([*arguments, "--into", str(tmp_path), "--results", str(results)])
    assert sentence in f"{caught.value}{capsys.readouterr().err}"
    assert (2 if caught.value.code == 2 else 1) == code  # a text is an exit code of 1
    assert not results.exists()


def test_an_environment_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(environment: libraries.Environment, folder: Path) -> None:
        if environment.name == "oldest":
            raise libraries.Failed("exit code 1 of pip install")

    def run_tests(environment: libraries.Environment, folder: Path) -> dict[str, Any]:
        return result(name=environment.name, passed=0 if environment.name == "oodeel" else 3)

    monkeypatch.setenv("PDEPTH_COMMIT", "1234567")
    monkeypatch.setattr(libraries, "make", make)
    monkeypatch.setattr(libraries, "run_tests", run_tests)
    results = tmp_path / "results.json"
    with pytest.raises(SystemExit) as caught:
        libraries.main(["--into", str(tmp_path), "--results", str(results)])
    assert str(caught.value) == "oldest: exit code 1 of pip install.\noodeel: no test ran."
    stored = [row["name"] for row in json.loads(results.read_text())["environments"]]
    names = [environment.name for environment in libraries.ENVIRONMENTS]
    assert stored == [name for name in names if name != "oldest"]
    libraries.main(["newest", "--into", str(tmp_path), "--results", str(results)])


def test_every_environment_has_been_run() -> None:
    if not common.CHECKOUT:
        pytest.skip("needs a checkout: an installed copy has no stored results")
    stored = json.loads(libraries.STORED.read_text())["environments"]
    names = [environment.name for environment in libraries.ENVIRONMENTS]
    assert [row["name"] for row in stored] == names
    assert [libraries.verdict(row) for row in stored] == [""] * len(names)


def test_every_test_file_of_a_library_has_an_environment() -> None:
    """And every test file of an environment is there."""
    tests = {name for environment in libraries.ENVIRONMENTS for name in environment.tests}
    root = Path(__file__).parents[2]
    files = {f"tests/compat/{path.name}" for path in (root / "tests/compat").glob("test_*.py")}
    # shared by several libraries, or needs scikit-learn alone: the project's own tests run them
    own = {
        f"tests/compat/test_{name}.py"
        for name in ("shared", "presets", "fitted_index", "narrow", "neighbor_ids")
    }
    assert files - tests == own
    assert all((root / name).is_file() for name in tests if name.endswith(".py"))


def test_results_that_are_written_do_not_dirty_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDEPTH_COMMIT", "1234567")
    assert common.commit() == ("1234567" if common.CHECKOUT else "")
