"""Runs the suite under pytest: an item a shape, its engines interleaved round by round.

pytest-benchmark times each round, keeps the statistics and writes the JSON that its own `compare`
reads. No number without its gate: a difference between pdepth's votes and the definition's ends
the run; so does a timed round whose votes are others. How many votes of a peer differ from
pdepth's is stored with them, and an engine that fails is left out of its shape.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.logger import PytestBenchmarkWarning

from pdepth.io.atomic import replacing

from ..common import definition_votes, first_difference, machine, memory_now, memory_peak
from .engines import CEILING, PDEPTH, PEER, Engine
from .shapes import CLASSES, K, Labels, Problem, Shape, image_source

REST = 0.02  # seconds before each call: threads of the engine before it spin a while longer
BRIEF = 1e10  # floating-point operations under which a call is so short that ten are one round
APART = 2e12  # ... over which only pdepth is also started in a process of its own
SAMPLE = 5e8  # float64 differences that the gate computes for a probe, three queries at least
PACKAGES = ("numpy", "torch", "pytest-benchmark")


class Refused(ValueError):
    """pdepth's votes are not the definition's: no number."""


@dataclass
class Suite:
    """A run: what to measure, how, and where; and pytest's plugin of the shape at hand.

    Attributes:
        rounds: of each shape; ten times as many of a brief one.
        patience: seconds after which a shape begins no further round.
        apart: also start engines in processes of their own, for first call and memory; without
            it only pdepth's fastest.
        say: told of each step.
    """

    shapes: Sequence[Shape]
    engines: Sequence[Engine]
    rounds: int
    patience: float
    apart: bool
    say: Callable[[str], None]
    about: dict[str, Any] = field(init=False)
    present: Shape = field(init=False)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        used = [engine.package for engine in self.engines if engine.package]
        about = machine(*dict.fromkeys([*PACKAGES, *used]))
        self.about = about | {"k": K, "classes": CLASSES, "images": image_source()}

    def pytest_collection(self, session: pytest.Session) -> bool:
        shape = self.present
        session.items = [ShapeItem.from_parent(session, name=shape.name, shape=shape, suite=self)]
        session.testscollected = 1
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_machine_info(self) -> dict[str, Any]:
        return self.about

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_commit_info(self) -> dict[str, Any]:
        return {"id": self.about["commit"], "dirty": self.about["commit"].endswith("-dirty")}

    def pytest_report_teststatus(self) -> tuple[str, str, str]:
        return "", "", ""  # no dots between our own lines

    def pytest_exception_interact(self, call: pytest.CallInfo[Any]) -> None:
        assert call.excinfo is not None
        self.failure = call.excinfo.value


class ShapeItem(pytest.Item):
    """All engines on one shape."""

    def __init__(self, *, shape: Shape, suite: Suite, **options: Any) -> None:
        super().__init__(**options)
        self.shape, self.suite = shape, suite

    def runtest(self) -> None:
        shape, suite = self.shape, self.suite
        engines = [engine for engine in suite.engines if shape.work <= engine.limit]
        suite.say(f"{shape.name}: rows")
        problem = shape.fill(shape)
        suite.say(f"{shape.name}: votes")
        taken = {engine.name: engine.take(problem) for engine in engines}
        votes = cast(engines, taken, problem, suite.say)
        engines = [engine for engine in engines if engine.name in votes]
        checked, differing = gate(problem, engines, votes)
        suite.say(f"{shape.name}: first calls")
        cold = first_calls(problem, [each for each in engines if self._goes_apart(each)])
        kept: dict[str, Any] = {}
        suite.say(f"{shape.name}: rounds")
        begin = time.monotonic()
        for number in range(self._rounds()):
            if number and time.monotonic() - begin > suite.patience:
                break
            turn = number % len(engines)  # none always follows the same other
            for engine in engines[turn:] + engines[:turn]:
                clock = self._clock(engine, stored=not number)
                time.sleep(REST)
                again = clock.pedantic(engine.run, args=(taken[engine.name], K))
                if engine.kind == PDEPTH:
                    _same(engine.name, "those it cast before", again, votes[engine.name])
                if number:
                    kept[engine.name].update(clock.stats["total"])
                else:
                    kept[engine.name] = clock.stats
        for engine in engines:
            kept[engine.name].extra_info |= {
                "kind": engine.kind,
                "exact": engine.exact,
                "checked": checked,
                "differing": differing.get(engine.name),
                **cold.get(engine.name, {"first": None, "extra_bytes": None}),
            }

    def _rounds(self) -> int:
        return self.suite.rounds * (10 if self.shape.work < BRIEF else 1)

    def _goes_apart(self, engine: Engine) -> bool:
        if engine is self.suite.engines[0]:
            return True
        return self.suite.apart and engine.kind == PEER and self.shape.work < APART

    def _clock(self, engine: Engine, stored: bool) -> Any:
        """A fixture for one round: the first's statistics are stored, the later ones' added."""
        session: Any = self.config.pluginmanager.get_plugin("pytest-benchmark")
        clock: Any = BenchmarkFixture(  # type: ignore[no-untyped-call]
            self,
            add_stats=session.benchmarks.append if stored else lambda stats: None,
            logger=session.logger,
            warner=self.warn,
            disabled=False,
            **session.options,
        )
        clock.name, clock.group = engine.name, self.shape.name
        clock.fullname = f"{self.shape.name}: {engine.name}"
        clock.param = engine.name
        clock.params = {
            "engine": engine.name,
            "kind": self.shape.kind,
            "group": self.shape.group,
            "support": self.shape.support,
            "queries": self.shape.queries,
            "widths": list(self.shape.widths),
        }
        return clock

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


def cast(
    engines: Sequence[Engine],
    taken: Mapping[str, Any],
    problem: Problem,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The votes (L, N) of each engine by name, which warms it too; without those that failed.

    Raises what an engine of pdepth's raises.
    """
    wanted = len(problem.layers), len(problem.layers[0][1])
    votes: dict[str, Any] = {}
    for engine in engines:
        try:
            votes[engine.name] = engine.run(taken[engine.name], K)
            if engine.kind != CEILING and np.shape(votes[engine.name]) != wanted:
                shape = np.shape(votes[engine.name])
                raise ValueError(f"its votes have shape {shape}; {wanted} is wanted")
        except Exception as error:
            if engine.kind == PDEPTH:
                raise
            votes.pop(engine.name, None)
            say(f"{engine.name} is left out: {type(error).__name__}: {error}")
    return votes


def gate(
    problem: Problem, engines: Sequence[Engine], votes: Mapping[str, Any]
) -> tuple[int, dict[str, int]]:
    """How many votes a sample has checked, and how many of each engine differ from the first's.

    Raises Refused if the first's differ from the definition's on the sample, or those of another
    engine of pdepth's from the first's anywhere.
    """
    first, checked = engines[0].name, 0
    for probe, (support, queries) in enumerate(problem.layers):
        count = min(len(queries), 3 + int(SAMPLE / support.size))
        rows = np.sort(np.random.default_rng(1).choice(len(queries), count, replace=False))
        wanted = definition_votes(support, problem.labels, queries[rows], K)
        whose = f"the definition's at probe {probe}, on a sample"
        _same(first, whose, votes[first][probe, rows], wanted)
        checked += count
    for engine in engines:
        if engine.kind == PDEPTH:
            _same(engine.name, f"{first}'s", votes[engine.name], votes[first])
    return checked, {
        engine.name: int((votes[engine.name] != votes[first]).sum())
        for engine in engines
        if engine.kind != CEILING
    }


def _same(name: str, whose: str, found: Labels, wanted: Labels) -> None:
    wrong, first = first_difference(np.ravel(found), np.ravel(wanted))
    if wrong:
        raise Refused(f"{wrong} of {found.size} votes of {name} are not {whose}{first}; no number.")


def first_calls(problem: Problem, engines: Sequence[Engine]) -> dict[str, dict[str, Any]]:
    """Each engine's first call in a fresh process, its imports and the rows at hand.

    Seconds, and the bytes by which its peak exceeds what the process held (Linux; else None).
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npz"
        np.savez(rows, problem.labels, *(each for layer in problem.layers for each in layer))
        for engine in engines:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                seconds, extra = fresh.submit(_first_call, rows, engine).result()
            found[engine.name] = {"first": seconds, "extra_bytes": extra}
    return found


def _first_call(rows: Path, engine: Engine) -> tuple[float, int | None]:
    engine.start()
    with np.load(rows) as stored:
        labels, *both = (stored[name] for name in stored.files)
    taken = engine.take(Problem(labels, list(zip(both[::2], both[1::2], strict=True))))
    before = memory_now()
    begin = time.perf_counter()
    engine.run(taken, K)
    seconds = time.perf_counter() - begin
    return seconds, None if before is None else memory_peak() - before


def run(suite: Suite, unfinished: Path | None = None) -> dict[str, Any]:
    """Measure; returns what pytest-benchmark would have stored, of all shapes.

    Args:
        unfinished: a file that keeps each shape as it ends. A later run of the same suite on the
            same machine, commit and versions goes on from there; it is left for the caller to
            remove.

    Raises what ended the run: Refused by the gate, or an engine's own error.
    """
    for engine in suite.engines:
        engine.start()
    same = _identity(suite)
    kept = _kept(same, unfinished)
    for shape in suite.shapes:
        if shape.name in kept:
            suite.say(f"{shape.name}: measured before")
            continue
        kept[shape.name] = _measure(suite, shape)
        if unfinished is not None:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            with replacing(unfinished) as temporary:
                temporary.write_text(json.dumps({"run": same, "shapes": kept}))
    parts: list[dict[str, Any]] = [kept[shape.name] for shape in suite.shapes]
    return parts[0] | {"benchmarks": [found for part in parts for found in part["benchmarks"]]}


def _identity(suite: Suite) -> dict[str, Any]:
    """What two runs have in common whose shapes may stand in one table."""
    about = {name: value for name, value in suite.about.items() if name != "date"}
    names = [engine.name for engine in suite.engines]
    return about | {"engines": names, "rounds": suite.rounds, "patience": suite.patience}


def _kept(same: dict[str, Any], unfinished: Path | None) -> dict[str, Any]:
    """The shapes that an interrupted run of this identity has measured, by name."""
    if unfinished is None or not unfinished.exists() or same["commit"].endswith("-dirty"):
        return {}
    found = json.loads(unfinished.read_text())
    return dict(found["shapes"]) if found["run"] == same else {}


def _measure(suite: Suite, shape: Shape) -> dict[str, Any]:
    suite.present, suite.failure = shape, None
    with tempfile.TemporaryDirectory() as folder:
        settings, found = Path(folder) / "pytest.ini", Path(folder) / "found.json"
        settings.write_text("[pytest]\n")  # none of those of the folder that we are in
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PytestBenchmarkWarning)  # of runs that store nothing
            status = pytest.main(
                [
                    *("-c", str(settings), "--noconftest", "-p", "no:cacheprovider"),
                    *("-qq", "--capture=no", "--tb=no", "--no-summary"),
                    *("-p", "benchmark"),  # also where plugins are not loaded by themselves
                    *("--benchmark-disable-gc", "--benchmark-quiet"),
                    *(f"--benchmark-storage=file://{folder}", f"--benchmark-json={found}"),
                ],
                plugins=[suite],
            )
        if suite.failure is not None:
            raise suite.failure
        if status == pytest.ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if status != pytest.ExitCode.OK:
            raise RuntimeError(f"pytest ended with {status!r}.")
        results: dict[str, Any] = json.loads(found.read_text())
        return results
