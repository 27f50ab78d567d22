"""The tests of pdepth.compat beside the real libraries, in environments that hold them.

    python bench/studies/libraries.py            makes every environment and runs its tests; stored, and
                                         rendered into docs/compat.md
    python bench/studies/libraries.py WORD       only environments with this word in their names
    python bench/studies/libraries.py --bench    bench/studies/compat.py instead, in each that it needs
    python bench/studies/libraries.py --render   the page's table from the stored results

Some libraries' pins exclude each other, and some are large: here each has an environment of its
own, made by `python -m venv` and `pip install` in .venvs, or in `--into DIR`, and kept; 6 GB each,
most of it torch. `--no-install` takes those that are there as they are. "oldest" holds the lowest
versions that pyproject.toml promises. `--bench --quick` tries a tenth of the rows, and stores
nothing.

A test that is skipped counts as one that failed, since what it needs is here; but for what the
machine, or the library itself, lacks. Home is an empty directory while tests run: FiftyOne's
database, for one, is made in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pdepth.bench.common import HOME, RESULTS, commit, render
from pdepth.io.atomic import replacing

NAME, STORED = "bench/studies/libraries.py", HOME / RESULTS / "libraries.json"
PAGE, PROJECT = Path("docs", "compat.md"), Path("pyproject.toml")
TESTING = ("pytest>=8", "hypothesis>=6.100", "scikit-learn>=1.6")  # scikit-learn has the digits
HARMLESS = re.compile(  # reasons of a skip that say nothing of a library's being here
    "this machine lacks|no GPU engine here|.* does not have a decision_function method"
)
WHOLE = {"SCIPY_ARRAY_API": "1"}  # or scikit-learn skips a check of its estimators
ABOUT = (
    "import json, sys; from pdepth.bench.common import machine; "
    "print(json.dumps(machine(*sys.argv[1:])))"
)


@dataclass(frozen=True)
class Environment:
    """What is installed together, and what runs there.

    extras: of pdepth; more: what pip installs beside it. libraries: distributions that have to be
        there.
    tests: what pytest is given. oldest: of everything, the lowest version that is promised.
    bench: the word that bench/studies/compat.py is given; None for nothing to measure.
    """

    name: str
    extras: str
    libraries: tuple[str, ...]
    tests: tuple[str, ...]
    more: tuple[str, ...] = ()
    oldest: bool = False
    bench: str | None = None

    def requirements(self) -> tuple[str, ...]:
        """What pip is given."""
        return "-e", f".[{self.extras}]", *TESTING, *self.more


TOGETHER = tuple(
    f"tests/compat/test_{each}.py"
    for each in ("sklearn", "faiss", "cleanlab", "lightly", "dino", "metric_learning", "torchdr")
)
LIBRARIES = (
    "scikit-learn",
    "faiss-cpu",
    "cleanlab",
    "lightly",
    "pytorch-metric-learning",
    "torchdr",
)
ENVIRONMENTS = (
    Environment("newest", "test", (*LIBRARIES, "faissknn"), TOGETHER, bench=""),
    Environment(
        "oldest",
        "sklearn,faiss,cleanlab,lightly,torchdr",
        LIBRARIES,
        (*TOGETHER, "-k", "not faissknn"),  # which wants NumPy 2, and cleanlab 2.7 wants 1
        more=("pytorch-metric-learning", "datasets"),
        oldest=True,
    ),
    Environment(
        "oodeel",
        "oodeel",
        ("oodeel", "faiss-cpu"),
        ("tests/compat/test_oodeel.py",),
        bench="oodeel",
    ),
    Environment(
        "aucurriculum",
        "aucurriculum",
        ("aucurriculum", "autrainer"),
        ("tests/compat/test_aucurriculum.py",),
        bench="aucurriculum",
    ),
    Environment(
        "FiftyOne", "fiftyone", ("fiftyone", "fiftyone-brain"), ("tests/compat/test_fiftyone.py",)
    ),
    Environment(
        "Lightning",
        "lightning",
        ("lightning",),
        ("tests/analysis/test_training.py", "-k", "lightning"),
    ),
)


@dataclass(frozen=True)
class Report:
    """What became of tests: how many passed, which failed, and how many were skipped, by reason."""

    passed: int
    failed: tuple[str, ...]
    skipped: Mapping[str, int]

    @classmethod
    def read(cls, junit: str) -> Report:
        """Of pytest's `--junitxml`."""
        failed, skipped, passed = [], Counter[str](), 0
        for case in ElementTree.fromstring(junit).iter("testcase"):
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(f"{case.get('classname')}::{case.get('name')}".lstrip(":"))
            elif skip is not None:
                skipped[skip.get("message", "")] += 1
            else:
                passed += 1
        return cls(passed, tuple(failed), dict(skipped))

    def wrong(self) -> int:
        """Tests that failed, or were skipped though what they need ought to be here."""
        needless = sum(n for reason, n in self.skipped.items() if not HARMLESS.match(reason))
        return len(self.failed) + needless


def lowest(project: str) -> list[str]:
    """pip's constraints for the lowest versions that a pyproject.toml promises.

    Of several bounds of a package the highest, which it has to be where all extras are there.
    """
    bounds: dict[str, tuple[int, ...]] = {}
    for name, bound in re.findall(r'"([\w-]+)(?:\[[\w,]*\])?>=([\d.]+)', project):
        parts = tuple(map(int, f"{bound}.0".split(".")[:2]))
        bounds[name] = max(bounds.get(name, ()), parts)
    return [f"{name}=={'.'.join(map(str, parts))}.*" for name, parts in sorted(bounds.items())]


def make(environment: Environment, folder: Path) -> None:
    """The environment, made or brought up to date, in a folder of its own."""
    if not (folder / "pyvenv.cfg").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        bounds = Path(scratch, "constraints.txt")
        project = (HOME / PROJECT).read_text()
        bounds.write_text("\n".join(lowest(project) if environment.oldest else []))
        command = [python(folder), "-m", "pip", "install", "-q", "-c", str(bounds)]
        subprocess.run([*command, *environment.requirements()], cwd=HOME, check=True)


def python(folder: Path) -> str:
    """An environment's interpreter."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def tested(environment: Environment, folder: Path) -> dict[str, Any]:
    """Run the tests of an environment that is there: what is stored of it.

    Raises SystemExit where a library is missing, or pytest does not get as far as a report.
    """
    run = [python(folder), "-c", ABOUT, *environment.libraries, "numpy", "torch"]
    said = subprocess.run(run, cwd=HOME, check=True, capture_output=True, text=True).stdout
    about = json.loads(said.splitlines()[-1])
    missing = [name for name, found in about["versions"].items() if found is None]
    if missing:
        raise SystemExit(f"{environment.name}: {folder} lacks {', '.join(missing)}.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        written, begin = Path(home, "junit.xml"), time.perf_counter()
        command = [python(folder), "-m", "pytest", "-q", f"--junitxml={written}"]
        subprocess.run(
            [*command, *environment.tests],
            cwd=HOME,
            check=False,
            env=os.environ | {"HOME": home, "USERPROFILE": home, **WHOLE},
        )
        if not written.exists():
            raise SystemExit(f"{environment.name}: pytest has written no report.")
        report = Report.read(written.read_text())
    return {
        "name": environment.name,
        "tests": environment.tests,
        "passed": report.passed,
        "failed": report.failed,
        "skipped": report.skipped,
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": about,
    }


def verdict(found: dict[str, Any]) -> str:
    """What is wrong with stored results in a sentence; empty where nothing is."""
    report = Report(found["passed"], tuple(found["failed"]), found["skipped"])
    if wrong := report.wrong():
        return f"{found['name']}: {wrong} tests failed, or were skipped though they need not be."
    return "" if report.passed else f"{found['name']}: no test ran."


def table(stored: dict[str, Any]) -> str:
    lines = [
        "| environment | libraries | passed | failed | skipped | commit, date |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for found in stored["environments"]:
        about = found["machine"]
        versions = [f"{name} {n}" for name, n in about["versions"].items() if name != "pdepth"]
        lines.append(
            f"| {found['name']} | {', '.join(versions)} | {found['passed']} | "
            f"{len(found['failed'])} | {sum(found['skipped'].values())} | "
            f"{about['commit']}, {about['date']} |"
        )
    return "\n".join(lines)


def store(found: dict[str, Any]) -> None:
    """Put an environment's results in the place of its earlier ones."""
    held = json.loads(STORED.read_text())["environments"] if STORED.exists() else []
    by_name = {each["name"]: each for each in [*held, found]}
    kept = [by_name[each.name] for each in ENVIRONMENTS if each.name in by_name]
    with replacing(STORED) as temporary:
        temporary.write_text(json.dumps({"environments": kept}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--into", type=Path, default=HOME / ".venvs", metavar="DIR")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    named = [each for each in ENVIRONMENTS if options.word in each.name]
    if not named:
        names = ", ".join(each.name for each in ENVIRONMENTS)
        parser.error(f"WORD is {options.word!r}; a part of one of {names} is wanted.")
    if options.quick and not options.bench:
        parser.error("--quick goes with --bench.")
    wrong = []
    os.environ["PDEPTH_COMMIT"] = commit()  # the first results change the checkout
    for environment in () if options.render else named:
        folder = options.into.resolve() / environment.name
        if options.bench and environment.bench is None:
            continue
        print(f"{environment.name}: {folder}", flush=True)
        if not options.no_install:
            make(environment, folder)
        elif not Path(python(folder)).exists():
            raise SystemExit(f"{environment.name}: there is no {python(folder)}.")
        if options.bench:
            given = filter(None, [environment.bench, "--quick" if options.quick else ""])
            subprocess.run(
                [python(folder), "bench/studies/compat.py", *given], cwd=HOME, check=True
            )
        else:
            found = tested(environment, folder)
            store(found)
            wrong.append(verdict(found))
    if not options.bench:
        render(NAME, table(json.loads(STORED.read_text())), PAGE)
    if any(wrong):
        raise SystemExit("\n".join(filter(None, wrong)))


if __name__ == "__main__":
    main()
