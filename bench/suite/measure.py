"""Runs the suite under pytest: an item a shape, its engines interleaved round by round.

pytest-benchmark times each round, keeps the statistics and writes the JSON that its own `compare`
reads. No number without its gate: a difference between pdepth's votes and the definition's ends
the run; so does a timed round whose votes differ from the first. How many votes of a peer differ
from pdepth's is stored with its times, and a peer that fails is left out of its shape.
"""

from __future__ import annotations

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

from pdepth.bench.common import machine
from pdepth.bench.gate import definition_votes, first_difference
from pdepth.bench.pages import load, save
from pdepth.bench.peak import memory_now, memory_peak
from pdepth.bench.suite.engines import CEILING, PDEPTH, PEER, Engine
from pdepth.bench.suite.shapes import CLASSES, K, Labels, Problem, Shape, image_source

REST = 0.02  # seconds before each call, while threads of the previous engine still spin
BRIEF = 1e10  # floating-point operations below which a shape has ten times as many rounds
FRESH = 2e12  # ... above which only pdepth is also started in a process of its own
SAMPLE = 5e8  # float64 differences that the gate computes for a probe, three queries at least
PACKAGES = ("numpy", "torch", "pytest-benchmark")


class Refused(ValueError):
    """pdepth's votes are not the definition's: no number."""


@dataclass(eq=False)  # pytest keeps its plugins in a set
class Suite:
    """A run: what to measure and how; and pytest's plugin for the shape being measured.

    Attributes:
        shapes, engines: what is measured; the first engine is pdepth's fastest.
        rounds: of each shape; ten times as many of a brief one.
        patience: seconds after which a shape begins no further round.
        fresh: also start the peers in processes of their own, for first call and memory; without
            it only pdepth's fastest.
        report: called with a line at each step.
        record: `machine()`, with k, classes and images.
        shape: the one being measured.
        failure: the error that ended the run.
    """

    shapes: Sequence[Shape]
    engines: Sequence[Engine]
    rounds: int
    patience: float
    fresh: bool
    report: Callable[[str], None]
    record: dict[str, Any] = field(init=False)
    shape: Shape = field(init=False)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        packages = [engine.package for engine in self.engines if engine.package]
        record = machine(*dict.fromkeys([*PACKAGES, *packages]))
        self.record = record | {"k": K, "classes": CLASSES, "images": image_source()}

    def pytest_collection(self, session: pytest.Session) -> bool:
        shape = self.shape
        session.items = [ShapeItem.from_parent(session, name=shape.name, shape=shape, suite=self)]
        session.testscollected = 1
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_machine_info(self) -> dict[str, Any]:
        return self.record

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_commit_info(self) -> dict[str, Any]:
        commit = self.record["commit"]
        return {"id": commit, "dirty": commit.endswith("-dirty")}

    def pytest_report_teststatus(self) -> tuple[str, str, str]:
        return "", "", ""  # no dots between the lines of `report`

    def pytest_exception_interact(self, call: pytest.CallInfo[Any]) -> None:
        assert call.excinfo is not None
        self.failure = call.excinfo.value


class ShapeItem(pytest.Item):
    """All engines on one shape."""

    shape: Shape
    suite: Suite

    def __init__(self, *, shape: Shape, suite: Suite, **options: Any) -> None:
        super().__init__(**options)
        self.shape, self.suite = shape, suite

    def runtest(self) -> None:
        """Measure the shape: rows, gate, first calls, rounds."""
        shape, suite = self.shape, self.suite
        engines = [engine for engine in suite.engines if shape.work <= engine.limit]
        suite.report(f"{shape.name}: rows")
        problem = shape.fill(shape)
        suite.report(f"{shape.name}: votes")
        prepared = {engine.name: engine.prepare(problem) for engine in engines}
        votes = first_votes(engines, prepared, problem, suite.report)
        engines = [engine for engine in engines if engine.name in votes]
        checked, differing = gate(problem, engines, votes)
        suite.report(f"{shape.name}: first calls")
        fresh = first_calls(problem, [engine for engine in engines if self._starts_fresh(engine)])
        suite.report(f"{shape.name}: rounds")
        stats = self._time(engines, prepared, votes)
        for engine in engines:
            stats[engine.name].extra_info |= {
                "kind": engine.kind,
                "exact": engine.exact,
                "checked": checked,
                "differing": differing.get(engine.name),
                **fresh.get(engine.name, {"first": None, "extra_bytes": None}),
            }

    def _time(
        self, engines: list[Engine], prepared: Mapping[str, Any], votes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Interleaved rounds; pytest-benchmark's statistics of each engine by name."""
        stats: dict[str, Any] = {}
        begin = time.monotonic()
        for number in range(self._rounds()):
            if number and time.monotonic() - begin > self.suite.patience:
                break
            turn = number % len(engines)  # no engine always follows the same other
            for engine in engines[turn:] + engines[:turn]:
                clock = self._clock(engine, stored=not number)
                time.sleep(REST)
                again = clock.pedantic(engine.run, args=(prepared[engine.name], K))
                if engine.kind == PDEPTH:
                    _same(engine.name, "those of its first call", again, votes[engine.name])
                if number:
                    stats[engine.name].update(clock.stats["total"])
                else:
                    stats[engine.name] = clock.stats
        return stats

    def _rounds(self) -> int:
        return self.suite.rounds * (10 if self.shape.work < BRIEF else 1)

    def _starts_fresh(self, engine: Engine) -> bool:
        if engine is self.suite.engines[0]:
            return True
        return self.suite.fresh and engine.kind == PEER and self.shape.work < FRESH

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


def first_votes(
    engines: Sequence[Engine],
    prepared: Mapping[str, Any],
    problem: Problem,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """The votes (L, N) of each engine by name, which warms it too; without those that failed.

    Raises what an engine of pdepth's raises.
    """
    expected = len(problem.layers), len(problem.layers[0][1])
    votes: dict[str, Any] = {}
    for engine in engines:
        try:
            votes[engine.name] = engine.run(prepared[engine.name], K)
            if engine.kind != CEILING and np.shape(votes[engine.name]) != expected:
                shape = np.shape(votes[engine.name])
                raise ValueError(f"votes: expected shape {expected}, got {shape}")
        except Exception as error:
            if engine.kind == PDEPTH:
                raise
            votes.pop(engine.name, None)
            report(f"{engine.name} is left out: {type(error).__name__}: {error}")
    return votes


def gate(
    problem: Problem, engines: Sequence[Engine], votes: Mapping[str, Any]
) -> tuple[int, dict[str, int]]:
    """How many votes of a sample were compared, and how many of each engine are not the first's.

    Raises Refused if the first's differ from the definition's on the sample, or those of another
    engine of pdepth's from the first's anywhere.
    """
    first, checked = engines[0].name, 0
    for probe, (support, queries) in enumerate(problem.layers):
        count = min(len(queries), 3 + int(SAMPLE / support.size))
        rows = np.sort(np.random.default_rng(1).choice(len(queries), count, replace=False))
        expected = definition_votes(support, problem.labels, queries[rows], K)
        origin = f"the definition's at probe {probe}, on a sample"
        _same(first, origin, votes[first][probe, rows], expected)
        checked += count
    for engine in engines:
        if engine.kind == PDEPTH:
            _same(engine.name, f"{first}'s", votes[engine.name], votes[first])
    return checked, {
        engine.name: int((votes[engine.name] != votes[first]).sum())
        for engine in engines
        if engine.kind != CEILING
    }


def _same(name: str, origin: str, votes: Labels, expected: Labels) -> None:
    wrong, place = first_difference(np.ravel(votes), np.ravel(expected))
    if wrong:
        raise Refused(
            f"{wrong} of {votes.size} votes of {name} are not {origin}{place}; no number."
        )


def first_calls(problem: Problem, engines: Sequence[Engine]) -> dict[str, dict[str, Any]]:
    """Each engine's first call in a fresh process, its imports and the rows at hand.

    Seconds, and the bytes by which its peak exceeds what the process held (Linux; else None).
    """
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npz"
        np.savez(rows, problem.labels, *(array for layer in problem.layers for array in layer))
        for engine in engines:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                seconds, extra = process.submit(_first_call, rows, engine).result()
            results[engine.name] = {"first": seconds, "extra_bytes": extra}
    return results


def _first_call(rows: Path, engine: Engine) -> tuple[float, int | None]:
    engine.start()
    with np.load(rows) as stored:
        labels, *arrays = (stored[name] for name in stored.files)
    prepared = engine.prepare(Problem(labels, list(zip(arrays[::2], arrays[1::2], strict=True))))
    before = memory_now()
    begin = time.perf_counter()
    engine.run(prepared, K)
    seconds = time.perf_counter() - begin
    return seconds, None if before is None else memory_peak() - before


def run(suite: Suite, unfinished: Path | None = None) -> dict[str, Any]:
    """Measure all shapes; returns what pytest-benchmark would have stored.

    Args:
        suite: what to measure.
        unfinished: a file that keeps each shape as it ends. A later run of the same suite on the
            same machine, commit and versions resumes from it; the caller removes it.

    Raises what ended the run: Refused by the gate, or an engine's own error.
    """
    for engine in suite.engines:
        engine.start()
    identity = _identity(suite)
    measured = _resume(identity, unfinished)
    for shape in suite.shapes:
        if shape.name in measured:
            suite.report(f"{shape.name}: measured before")
            continue
        measured[shape.name] = _measure(suite, shape)
        if unfinished is not None:
            save({"run": identity, "shapes": measured}, unfinished)
    results: list[dict[str, Any]] = [measured[shape.name] for shape in suite.shapes]
    return results[0] | {"benchmarks": [row for result in results for row in result["benchmarks"]]}


def _identity(suite: Suite) -> dict[str, Any]:
    """What has to be equal in two runs for their shapes to stand in one table."""
    record = {name: value for name, value in suite.record.items() if name != "date"}
    names = [engine.name for engine in suite.engines]
    return record | {"engines": names, "rounds": suite.rounds, "patience": suite.patience}


def _resume(identity: dict[str, Any], unfinished: Path | None) -> dict[str, Any]:
    """The shapes that an interrupted run of this identity has measured, by name."""
    if unfinished is None or not unfinished.exists() or identity["commit"].endswith("-dirty"):
        return {}
    stored = load(unfinished)
    return dict(stored["shapes"]) if stored["run"] == identity else {}


def _measure(suite: Suite, shape: Shape) -> dict[str, Any]:
    """pytest-benchmark's results of one shape, from a pytest run of its own in this process."""
    suite.shape, suite.failure = shape, None
    with tempfile.TemporaryDirectory() as folder:
        settings, results = Path(folder) / "pytest.ini", Path(folder) / "results.json"
        settings.write_text("[pytest]\n")  # not those of the working directory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PytestBenchmarkWarning)  # of runs that store nothing
            status = pytest.main(
                [
                    *("-c", str(settings), "--noconftest", "-p", "no:cacheprovider"),
                    *("-qq", "--capture=no", "--tb=no", "--no-summary"),
                    *("-p", "benchmark"),  # also where plugins are not loaded by themselves
                    *("--benchmark-disable-gc", "--benchmark-quiet"),
                    *(f"--benchmark-storage=file://{folder}", f"--benchmark-json={results}"),
                ],
                plugins=[suite],
            )
        if suite.failure is not None:
            raise suite.failure
        if status == pytest.ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if status != pytest.ExitCode.OK:
            raise RuntimeError(f"pytest: expected exit code 0, got {status!r}.")
        measured: dict[str, Any] = load(results)
        return measured
