"""What the checks of a run cost: of what it remembers, and of the files that it writes.

    python bench/studies/checks.py                  every case: measure, store, render
    python bench/studies/checks.py NAME ...         some of them, beside what is stored
    python bench/studies/checks.py --render         the table of docs/memory.md, as stored

CIFAR-10 under its ResNet18, `prediction_depth` with `run_dir` and its result's file. Each check is
timed as it is called; a case ends in an error where one that it should have is never called. All
is computed by one thread: of several, those that wait for the others on a busy machine spin, and
count as working.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.data import Subset

from pdepth import depth, native, prediction_depth
from pdepth.arrays import arguments, problem, sources
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import real_data
from pdepth.bench.pages import load, render, save
from pdepth.embeddings import resuming
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.recompute import RecomputedEmbeddings
from pdepth.io import array_files, embedding_store, journal, tables

NAME, STORED = "bench/studies/checks.py", HOME / RESULTS / "checks.json"
PAGE = Path("docs", "memory.md")

FIRST_TWICE = "the first batch, read twice"
ROWS = "labels and inputs of each row"
VALUES = "whether the run can resume: the first rows' values, twice"
REPEATS = "whether values can be computed again: the same once more"
WEIGHTS = "the network's weights"
LOCKS = "locks"
JOURNAL = "files of the journal"
RESULT = "the result's file"
MEMORY = "room for threads, and maps that are cut short"
STORE = "files of the store"


@dataclass(frozen=True)
class Case:
    """Of CIFAR-10: support rows and queries, the budget, and whether embeddings are kept."""

    rows: int
    queries: int
    memory: str
    kept: bool = False


CASES = {
    "whole": Case(10_000, 2_000, "6GiB"),
    "small": Case(2_000, 400, "6GiB"),
    "small kept": Case(2_000, 400, "6GiB", kept=True),
}


@dataclass(frozen=True, eq=False)
class Entered:
    """A context manager whose beginning and end are timed, and not what is within."""

    costs: Costs
    check: str
    manager: Any

    def __enter__(self) -> Any:
        with self.costs.taken(self.check):
            return self.manager.__enter__()

    def __exit__(self, *error: Any) -> Any:
        with self.costs.taken(self.check):
            return self.manager.__exit__(*error)


class Costs:
    """Processor seconds and calls by check."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    @contextmanager
    def taken(self, check: str) -> Iterator[None]:
        begin = time.thread_time()
        try:
            yield
        finally:
            self.seconds[check] = self.seconds.get(check, 0.0) + time.thread_time() - begin
            self.calls[check] = self.calls.get(check, 0) + 1

    def timed(self, check: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, its time added to a check's."""

        @wraps(call)
        def wrapped(*args: Any, **options: Any) -> Any:
            with self.taken(check):
                return call(*args, **options)

        return wrapped

    def entered(self, check: str, manager: Callable[..., Any]) -> Callable[..., Any]:
        """The context manager, the time of its beginning and its end added to a check's."""

        @wraps(manager)
        def wrapped(*args: Any, **options: Any) -> Entered:
            return Entered(self, check, manager(*args, **options))

        return wrapped

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Time every check that is called meanwhile."""
        crc32 = SimpleNamespace(crc32=self.timed(STORE, zlib.crc32))
        replaced: list[tuple[Any, str, Any]] = [(array_files, "zlib", crc32)]
        for check, owner, name in (
            (FIRST_TWICE, Batches, "check_repeats"),
            (ROWS, Batches, "_compare"),
            (VALUES, resuming, "first_of"),
            (REPEATS, RecomputedEmbeddings, "_repeats"),
            (WEIGHTS, depth, "fingerprint_of_network"),
            (JOURNAL, journal, "_digest"),
            (JOURNAL, journal, "_digest_of_file"),
            (JOURNAL, journal, "_identity_of"),
            (RESULT, tables, "_checksum"),
            (MEMORY, native, "check_headroom"),
        ):
            replaced.append((owner, name, self.timed(check, getattr(owner, name))))
        for module in (journal, embedding_store):
            replaced.append((module, "locked", self.entered(LOCKS, module.locked)))
        for module in (arguments, problem, sources):
            replaced.append((module, "watched", self.entered(MEMORY, module.watched)))
        with ExitStack() as stack:
            for owner, name, timed in replaced:
                stack.enter_context(patch.object(owner, name, timed))
            yield


def measure(model: nn.Module, support: Any, queries: Any, case: Case) -> dict[str, Any]:
    """A run and its result's file: processor seconds of all, and seconds and calls by check."""
    costs = Costs()
    with tempfile.TemporaryDirectory() as name, costs.counting():
        folder = Path(name)
        begin = time.process_time()
        result = prediction_depth(
            model, support, queries, memory=case.memory, num_threads=1, progress=False,
            run_dir=folder / "run", keep_embeddings=folder / "kept" if case.kept else None,
        )  # fmt: skip
        result.save(folder / "depth.parquet")
        total = time.process_time() - begin
    expected = {FIRST_TWICE, ROWS, VALUES, WEIGHTS, LOCKS, JOURNAL, RESULT, MEMORY}
    if missing := (expected | ({STORE} if case.kept else set())) - set(costs.calls):
        raise SystemExit(f"{NAME}: expected a call of every check, got none of {missing}.")
    return {"processor_seconds": total, "seconds": costs.seconds, "calls": costs.calls}


def measure_case(name: str) -> dict[str, Any]:
    """One of `CASES`, and of what machine it is."""
    torch.set_num_threads(1)
    data, case = real_data(), CASES[name]
    support = Subset(data.dataset("train"), range(case.rows))
    queries = Subset(data.dataset("test"), range(case.queries))
    record = measure(data.resnet18(), support, queries, case)
    of = machine("numpy", "torch", "torchvision") | {"threads": 1}
    return asdict(case) | record | {"machine": of}


def table(stored: dict[str, Any]) -> str:
    """A line a check, a column a case."""
    cases = list(stored.values())
    titles = [f"{case['rows']:,} x {case['queries']:,}{', kept' * case['kept']}" for case in cases]
    checks = {check for case in cases for check in case["seconds"]}
    order = sorted(checks, key=lambda check: -max(c["seconds"].get(check, 0) for c in cases))
    lines = [
        "Processor seconds of each check of a run with `run_dir`, CIFAR-10 under its ResNet18, "
        f"support x queries, within {' and '.join(sorted({c['memory'] for c in cases}))}; kept: "
        "with `keep_embeddings`. The first rows' values cost the same for any number of rows.",
        "",
        f"| check | {' | '.join(titles)} |",
        f"| --- |{' ---: |' * len(cases)}",
    ]
    for check in order:
        cells = [f"{c['seconds'][check]:.3f}" if check in c["seconds"] else "" for c in cases]
        lines.append(f"| {check} | {' | '.join(cells)} |")
    sums = [sum(case["seconds"].values()) for case in cases]
    totals = [case["processor_seconds"] for case in cases]
    shares = [
        f"**{100 * checks / total:.2f} %**" for checks, total in zip(sums, totals, strict=True)
    ]
    lines += [
        f"| all checks | {' | '.join(f'{checks:.2f}' for checks in sums)} |",
        f"| the run | {' | '.join(f'{total:.1f}' for total in totals)} |",
        f"| share | {' | '.join(shares)} |",
        "",
        f"<small>{'; '.join(dict.fromkeys(describe(c['machine']) for c in cases))}</small>",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*CASES, []], metavar="NAME")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    if not options.render:
        stored = load(STORED) if STORED.exists() else {}
        for name in options.names or CASES:
            stored[name] = measure_case(name)
            save({case: stored[case] for case in CASES if case in stored}, STORED)
    render(NAME, table(load(STORED)), PAGE)


if __name__ == "__main__":
    main()
