"""bench/studies/libraries.py, which runs other tests beside the real libraries: what it reads and tells."""

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
    about = {"versions": {"pdepth": "1", "faiss-cpu": "1.15"}, "commit": "c", "date": "d"}
    found = {"name": "oodeel", "passed": 3, "failed": [], "skipped": {}, "machine": about}
    return found | changed


def test_a_report_is_read() -> None:
    report = libraries.Report.read(JUNIT)
    assert report.passed == 1
    assert report.failed == ("tests.test_a::test_two", "tests.test_a::test_three")
    assert report.skipped == {"no faiss": 2, "this machine lacks amx": 1}
    assert report.wrong() == 4


def test_what_is_skipped_for_want_of_a_library_has_failed() -> None:
    assert libraries.verdict(result(skipped={"this machine lacks amx": 2})) == ""
    wrong = "oodeel: 2 tests failed, or were skipped though they need not be."
    assert libraries.verdict(result(skipped={"no faiss": 1}, failed=["one"])) == wrong
    assert libraries.verdict(result(passed=0)) == "oodeel: no test ran."


def test_the_lowest_versions_are_the_highest_of_the_lower_bounds() -> None:
    project = '["a-b>=1.4", "c[x,y]>=2", "d", "a-b>=1.10.3,<3; python_version >= \'3.11\'"]'
    assert libraries.lowest(project) == ["a-b==1.10.*", "c==2.0.*"]
    if common.CHECKOUT:
        assert "scikit-learn==1.6.*" in libraries.lowest(
            (common.HOME / "pyproject.toml").read_text()
        )


def test_results_take_the_place_of_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "STORED", tmp_path / "libraries.json")
    for given in (result(), result(name="newest"), result(passed=4), result(name="gone")):
        libraries.store(given)
    stored = json.loads(libraries.STORED.read_text())
    assert [(each["name"], each["passed"]) for each in stored["environments"]] == [
        ("newest", 3),
        ("oodeel", 4),
    ]
    assert "| oodeel | faiss-cpu 1.15 | 4 | 0 | 0 | c, d |" in libraries.table(stored)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["odeel2"], "WORD is 'odeel2'; a part of one of newest, oldest, oodeel"),
        (["oodeel", "--quick"], "--quick goes with --bench."),
        (["oodeel", "--no-install", "--into", "nowhere"], "oodeel: there is no "),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    given: list[str],
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["libraries.py", *given])
    monkeypatch.setenv("PDEPTH_COMMIT", "1234567")
    with pytest.raises(SystemExit) as caught:
        libraries.main()
    assert wanted in f"{caught.value}{capsys.readouterr().err}"


def test_every_environment_has_been_run_and_the_page_tells() -> None:
    if not common.CHECKOUT:
        pytest.skip("an installed copy has no page")
    stored = json.loads(libraries.STORED.read_text())
    names = [environment.name for environment in libraries.ENVIRONMENTS]
    assert [found["name"] for found in stored["environments"]] == names
    assert [libraries.verdict(found) for found in stored["environments"]] == [""] * len(names)
    assert libraries.table(stored) in (common.HOME / libraries.PAGE).read_text()


def test_every_test_file_of_a_library_has_an_environment() -> None:
    """presets, which needs scikit-learn alone, runs in CI."""
    given = {each for environment in libraries.ENVIRONMENTS for each in environment.tests}
    folder = Path(__file__).parents[1] / "compat"
    found = {f"tests/compat/{path.name}" for path in folder.glob("test_*.py")}
    found -= {"tests/compat/test_shared.py"}  # what several of them need
    assert found - given == {"tests/compat/test_presets.py"}


def test_results_that_are_written_do_not_dirty_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDEPTH_COMMIT", "1234567")
    assert common.commit() == ("1234567" if common.CHECKOUT else "")
