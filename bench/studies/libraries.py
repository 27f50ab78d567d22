"""The tests of pdepth.compat beside the real libraries, in environments that hold them.

    python bench/studies/libraries.py            make all environments, run tests, store, render
    python bench/studies/libraries.py WORD       only environments with this word in their names
    python bench/studies/libraries.py --bench    bench/studies/compat.py instead, where it is due
    python bench/studies/libraries.py --render   the table of docs/compat.md, as stored

Some libraries' pins exclude each other, and some are large: here each has an environment of its
own, made by `python -m venv` and `pip install` in .venvs, or in `--into DIR`, and kept; 6 GB each,
most of it torch. `--no-install` uses those that are there as they are. "oldest" holds the lowest
versions that pyproject.toml promises. `--results FILE` stores elsewhere, and renders nothing.
`--bench --quick` tries a tenth of the rows, and stores nothing.

A skipped test counts as failed, since what it needs is here; except where it needs another machine,
or the library has no such feature. HOME is an empty directory while tests run, since FiftyOne makes
its database there.

Exit code: 0 if every environment was made and its tests passed; 1 if tests failed, an environment
cannot be made or lacks a library, in a sentence each, after all others have run; 2 for wrong
options.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pdepth.bench.common import HOME, RESULTS, commit
from pdepth.bench.pages import load, render, save

NAME, STORED = "bench/studies/libraries.py", HOME / RESULTS / "libraries.json"
PAGE, PROJECT = Path("docs", "compat.md"), Path("pyproject.toml")
TESTING = ("pytest>=8", "hypothesis>=6.100", "scikit-learn>=1.6")  # scikit-learn has the digits
HARMLESS = re.compile(  # reasons of a skip that do not depend on what is installed
    "this machine lacks|no GPU engine here|.* does not have a decision_function method"
)
ALL_TESTS = ("-m", "slow or not slow")
VARIABLES = {"SCIPY_ARRAY_API": "1"}  # without it scikit-learn skips a check of its estimators
RECORD = (
    "import json, sys; from pdepth.bench.common import machine; "
    "print(json.dumps(machine(*sys.argv[1:])))"
)


class Failed(RuntimeError):
    """An environment that cannot be made, or cannot run its tests."""


@dataclass(frozen=True)
class Environment:
    """What is installed together, and what runs there.

    Attributes:
        name: of its folder, and in the table.
        extras: of pdepth.
        libraries: distributions that have to be there.
        tests: arguments of pytest.
        more: what pip installs beside pdepth.
        oldest: install the lowest promised version of everything.
        bench: the word for bench/studies/compat.py; None for nothing to measure.
    """

    name: str
    extras: str
    libraries: tuple[str, ...]
    tests: tuple[str, ...]
    more: tuple[str, ...] = ()
    oldest: bool = False
    bench: str | None = None

    def requirements(self) -> tuple[str, ...]:
        """Arguments of `pip install`."""
        return "-e", f".[{self.extras}]", *TESTING, *self.more


TOGETHER = tuple(
    f"tests/compat/test_{name}.py"
    for name in (
        *("sklearn", "sklearn_graphs", "sklearn_patch", "sklearn_weights"),
        *("faiss", "faiss_arguments", "faiss_indexes", "cleanlab", "cleanlab_copies"),
        *("lightly", "dino", "metric_learning", "torchdr", "umap"),
    )
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
        (*TOGETHER, "-k", "not faissknn"),  # it needs NumPy 2, and cleanlab 2.7 needs NumPy 1
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
        "FiftyOne",
        "torch,fiftyone",  # tests need torch
        ("fiftyone", "fiftyone-brain"),
        ("tests/compat/test_fiftyone.py",),
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
    """The outcome of tests: how many passed, which failed, how many were skipped, by reason."""

    passed: int
    failed: tuple[str, ...]
    skipped: Mapping[str, int]

    @classmethod
    def read(cls, junit: str) -> Report:
        """From the text of pytest's `--junitxml`."""
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
        """Tests that failed, or were skipped although what they need is installed."""
        needless = sum(n for reason, n in self.skipped.items() if not HARMLESS.match(reason))
        return len(self.failed) + needless


def lowest(project: str) -> list[str]:
    """pip's constraints for the lowest versions that a pyproject.toml promises.

    A package with several bounds has the highest of them, as where all extras are installed.
    """
    bounds: dict[str, tuple[int, ...]] = {}
    for name, bound in re.findall(r'"([\w-]+)(?:\[[\w,]*\])?>=([\d.]+)', project):
        numbers = tuple(map(int, f"{bound}.0".split(".")[:2]))
        bounds[name] = max(bounds.get(name, ()), numbers)
    return [f"{name}=={'.'.join(map(str, bound))}.*" for name, bound in sorted(bounds.items())]


def make(environment: Environment, folder: Path) -> None:
    """Make the environment in a folder, or bring it up to date; raises Failed."""
    try:
        if not (folder / "pyvenv.cfg").exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        with tempfile.TemporaryDirectory() as scratch:
            constraints = Path(scratch, "constraints.txt")
            project = (HOME / PROJECT).read_text()
            constraints.write_text("\n".join(lowest(project) if environment.oldest else []))
            command = [python(folder), "-m", "pip", "install", "-q", "-c", str(constraints)]
            subprocess.run([*command, *environment.requirements()], cwd=HOME, check=True)
    except subprocess.CalledProcessError as error:
        command_line = " ".join(map(str, error.cmd))
        raise Failed(f"exit code {error.returncode} of {command_line}") from error


def python(folder: Path) -> str:
    """An environment's interpreter."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def run_tests(environment: Environment, folder: Path) -> dict[str, Any]:
    """Run the tests of an environment; what is stored of it.

    Raises Failed where a library is missing, or pytest does not write a report.
    """
    command = [python(folder), "-c", RECORD, *environment.libraries, "numpy", "torch"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"pdepth cannot be imported in {folder}: {done.stderr.strip()[-500:]}")
    record = json.loads(done.stdout.splitlines()[-1])
    missing = [name for name, number in record["versions"].items() if number is None]
    if missing:
        raise Failed(f"{folder} lacks {', '.join(missing)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        junit, begin = Path(home, "junit.xml"), time.perf_counter()
        command = [python(folder), "-m", "pytest", "-q", f"--junitxml={junit}", *ALL_TESTS]
        subprocess.run(
            [*command, *environment.tests],
            cwd=HOME,
            check=False,
            env=os.environ | {"HOME": home, "USERPROFILE": home, **VARIABLES},
        )
        if not junit.exists():
            raise Failed("pytest has written no report")
        report = Report.read(junit.read_text())
    return {
        "name": environment.name,
        "tests": environment.tests,
        "passed": report.passed,
        "failed": report.failed,
        "skipped": report.skipped,
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": record,
    }


def verdict(result: dict[str, Any]) -> str:
    """What is wrong with a stored result in a sentence; empty where nothing is."""
    report = Report(result["passed"], tuple(result["failed"]), result["skipped"])
    if wrong := report.wrong():
        return f"{result['name']}: {wrong} tests failed, or were skipped though they need not be."
    return "" if report.passed else f"{result['name']}: no test ran."


def run_bench(environment: Environment, folder: Path, quick: bool) -> None:
    """bench/studies/compat.py in an environment; raises Failed."""
    arguments = [*filter(None, [environment.bench]), *["--quick"] * quick]
    command = [python(folder), "bench/studies/compat.py", *arguments]
    if code := subprocess.run(command, cwd=HOME, check=False).returncode:
        raise Failed(f"exit code {code} of bench/studies/compat.py")


def table(stored: dict[str, Any]) -> str:
    """A line an environment."""
    lines = [
        "| environment | libraries | passed | failed | skipped | commit, date |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for result in stored["environments"]:
        record = result["machine"]
        versions = [f"{name} {n}" for name, n in record["versions"].items() if name != "pdepth"]
        lines.append(
            f"| {result['name']} | {', '.join(versions)} | {result['passed']} | "
            f"{len(result['failed'])} | {sum(result['skipped'].values())} | "
            f"{record['commit']}, {record['date']} |"
        )
    return "\n".join(lines)


def store(result: dict[str, Any], path: Path) -> None:
    """Put an environment's result in the place of its earlier one."""
    earlier = load(path)["environments"] if path.exists() else []
    by_name = {each["name"]: each for each in [*earlier, result]}
    names = [environment.name for environment in ENVIRONMENTS]
    save({"environments": [by_name[name] for name in names if name in by_name]}, path)


def run(environment: Environment, options: argparse.Namespace) -> str:
    """Make and test, or measure, an environment; what is wrong in a sentence, or nothing."""
    folder = options.into.resolve() / environment.name
    print(f"{environment.name}: {folder}", flush=True)
    try:
        if not options.no_install:
            make(environment, folder)
        elif not Path(python(folder)).exists():
            raise Failed(f"expected an environment with {python(folder)}, found none")
        if options.bench:
            run_bench(environment, folder, options.quick)
            return ""
        result = run_tests(environment, folder)
    except Failed as error:
        return f"{environment.name}: {error}."
    store(result, options.results or STORED)
    return verdict(result)


def parse(arguments: Sequence[str] | None) -> tuple[list[Environment], argparse.Namespace]:
    """The chosen environments, and the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", nargs="?", default="", metavar="WORD")
    parser.add_argument("--into", type=Path, default=HOME / ".venvs", metavar="DIR")
    parser.add_argument("--results", type=Path, metavar="FILE")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args(arguments)
    chosen = [environment for environment in ENVIRONMENTS if options.word in environment.name]
    if not chosen:
        names = ", ".join(environment.name for environment in ENVIRONMENTS)
        parser.error(f"WORD: expected a part of one of {names}; got {options.word!r}.")
    if options.quick and not options.bench:
        parser.error("--quick: expected with --bench, got without.")
    if options.bench:
        chosen = [environment for environment in chosen if environment.bench is not None]
    return [] if options.render else chosen, options


def main(arguments: Sequence[str] | None = None) -> None:
    environments, options = parse(arguments)
    os.environ["PDEPTH_COMMIT"] = commit()  # the first result that is written changes the checkout
    sentences = [run(environment, options) for environment in environments]
    if STORED.exists() and not options.bench and options.results is None:
        render(NAME, table(load(STORED)), PAGE)
    if any(sentences):
        raise SystemExit("\n".join(filter(None, sentences)))


if __name__ == "__main__":
    main()
