"""Whole datasets within a memory budget: what it costs to have less, measured.

    python bench/studies/memory.py                        every section: measure, store, render
    python bench/studies/memory.py cifar10 mapped ...     some of them
    python bench/studies/memory.py --render               the tables of docs/memory.md, as stored

linear: time against rows, queries and width, doubled. mapped: a memory map of float16 rows beside
the same rows in memory. resume: kills at random moments. cifar10: depths of test images under a
ResNet18 within 8 and 4 GiB, or `--memory`; each run is stored when it has ended, and has the same
depths as others of its size, or no number. own: of training images, each left out of its own vote.
spill: test images with what does not fit on disk, beside computing it again, interleaved; `--rows`
and `--queries` are 10,000 and 2,000 unless given, `--disk` the folder, `--rounds` how often.
theirs: what aucurriculum's way would need for the same, its time measured on a sample and scaled.
Each case runs in a process of its own; memory is that process's peak as the operating system
reports it. `--rows N` and `--queries N` make the CIFAR-10 cases smaller, and the budgets too.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pdepth
from pdepth.bench.common import HOME, RESULTS, machine
from pdepth.bench.pages import load, render, save
from pdepth.bench.studies import memory_cases
from pdepth.bench.studies.memory_cases import MAPPED_ROWS, MAPPED_WIDTH
from pdepth.bench.studies.memory_tables import ROUNDS, SAMPLE, table
from pdepth.progress import fastest
from pdepth.search.chunks import KeptLists

NAME, STORED = "bench/studies/memory.py", HOME / RESULTS / "memory.json"
PAGE = Path("docs", "memory.md")
PACKAGES = "numpy", "torch"
KILLS = 20


@dataclass(frozen=True)
class Sizes:
    """Of the CIFAR-10 cases; memory is a budget in place of the usual ones, or "". disk, rounds: of
    the case that spills."""

    rows: int
    queries: int
    memory: str
    disk: str = ""
    rounds: int = ROUNDS

    def budget(self, gib: int) -> str:
        """A budget for all 50,000 rows, scaled to fewer."""
        return f"{round(gib * 1024 * self.rows / 50_000)}MiB"


def command(case: str, **arguments: Any) -> list[str]:
    """The command line of a case."""
    return [sys.executable, memory_cases.__file__, case, json.dumps(arguments)]


def run_case(case: str, **arguments: Any) -> dict[str, Any]:
    """A case's record, from a process of its own."""
    print(f"{case} {arguments} ...", flush=True)
    done = subprocess.run(command(case, **arguments), check=True, capture_output=True, text=True)
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {record['seconds']:.1f} s", flush=True)
    return record


def check_equal(answers: list[Any]) -> None:
    """The gate: end the run where answers differ."""
    if len(set(answers)) != 1:
        raise SystemExit("The answers differ: no number.")


def measure_cifar10(sizes: Sizes) -> dict[str, Any]:
    *budgets, last = [sizes.memory] if sizes.memory else [sizes.budget(8), sizes.budget(4)]
    for memory in budgets:
        store("cifar10", with_run(sizes.rows, sizes.queries, memory))
    return with_run(sizes.rows, sizes.queries, last)


def measure_own(sizes: Sizes) -> dict[str, Any]:
    return with_run(sizes.rows, 0, sizes.memory or sizes.budget(8))


def measure_spill(sizes: Sizes) -> dict[str, Any]:
    """Processor seconds with spill and without, in turn."""
    memory = sizes.memory or sizes.budget(4)
    arguments: dict[str, Any] = {"rows": sizes.rows, "queries": sizes.queries, "memory": memory}
    with tempfile.TemporaryDirectory(dir=sizes.disk or None) as folder:
        rounds = [
            [run_case("cifar10", **arguments, spill=spill) for spill in (None, folder)]
            for _ in range(sizes.rounds)
        ]
    check_equal([record["depths"] for pair in rounds for record in pair])
    again, spilled = zip(*rounds, strict=True)
    return arguments | {
        "again": median(record["processor_seconds"] for record in again),
        "spilled": median(record["processor_seconds"] for record in spilled),
        "ratio": median(a["processor_seconds"] / b["processor_seconds"] for a, b in rounds),
        "again_forward": median(record["forward"] / record["seconds"] for record in again),
        "spilled_forward": median(record["forward"] / record["seconds"] for record in spilled),
        "again_peak": max(record["peak"] for record in again),
        "peak": max(record["peak"] for record in spilled),
        "before": max(record["before"] for record in spilled),
        "rounds": sizes.rounds,
    }


def with_run(rows: int, queries: int, memory: str) -> dict[str, Any]:
    """The stored CIFAR-10 runs with one more, or with one of them measured anew."""
    arguments: dict[str, Any] = {"rows": rows, "queries": queries, "memory": memory}
    run = arguments | run_case("cifar10", **arguments) | {"machine": machine(*PACKAGES)}
    others = stored().get("cifar10", {"runs": []})["runs"]
    # another machine's forward pass may have other bits
    comparable = [
        other
        for other in others
        if _case(other)[:2] == (rows, queries) and _bits(other["machine"]) == _bits(run["machine"])
    ]
    check_equal([other["depths"] for other in [run, *comparable]])
    kept = [other for other in others if _case(other) != _case(run)]
    return {"runs": sorted([*kept, run], key=lambda each: (_case(each)[:2], -each["peak"]))}


def _case(run: dict[str, Any]) -> tuple[int, int, str]:
    return run["rows"], run["queries"], run["memory"]


def _bits(record: dict[str, Any]) -> tuple[str, str]:
    """What the bits of a forward pass depend on."""
    return record["processor"], record["versions"]["torch"]


def measure_aucurriculum(sizes: Sizes) -> dict[str, Any]:
    """aucurriculum's way, timed on a sample and scaled.

    It takes a forward pass a probe, all embeddings of one probe on the host and once more where it
    searches, and 1,024 x rows of distances.
    """
    import torch

    from pdepth.bench.data import real_data
    from pdepth.bench.suite.engines import Aucurriculum

    data, engine = real_data(), Aucurriculum()
    engine.start()
    model, images = data.resnet18(), data.dataset("train")
    bill = pdepth.plan(model, images, data.dataset("test"), batch_size=64, measure=False)
    inputs = images.tensors[0][: SAMPLE[1]]
    with torch.no_grad():
        forward = fastest(partial(model, inputs)) / len(inputs)
    rng, search = np.random.default_rng(0), 0.0
    for width in bill.widths:
        values = rng.standard_normal((sum(SAMPLE), width), np.float32)
        support, queries = values[: SAMPLE[0]], values[SAMPLE[0] :]
        labels = np.arange(len(support)) % 10
        seconds = fastest(partial(engine.votes, support, labels, queries, 30), runs=1)
        search += seconds * sizes.rows / SAMPLE[0] * sizes.queries / SAMPLE[1]
    return {
        "rows": sizes.rows,
        "queries": sizes.queries,
        "forward": forward * len(bill.widths) * (sizes.rows + sizes.queries),
        "search": search,
        "memory": 2 * 4 * sizes.rows * max(bill.widths) + 4 * 1024 * sizes.rows,
    }


def measure_mapped(sizes: Sizes) -> dict[str, Any]:
    memory = sizes.memory or "2GiB"
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.npy")
        out = np.lib.format.open_memmap(path, "w+", np.float16, (MAPPED_ROWS, MAPPED_WIDTH))
        rng = np.random.default_rng(0)
        for begin in range(0, MAPPED_ROWS, 50_000):
            out[begin : begin + 50_000] = rng.standard_normal((50_000, MAPPED_WIDTH), np.float32)
        out.flush()
        del out
        rounds = [
            [
                run_case("mapped", path=path, memory=memory, in_memory=in_memory)
                for in_memory in (True, False)
            ]
            for _ in range(ROUNDS)
        ]
    check_equal([record["votes"] for pair in rounds for record in pair])
    held, read = zip(*rounds, strict=True)
    return {
        "held": median(record["seconds"] for record in held),
        "read": median(record["seconds"] for record in read),
        "speed": median(a["seconds"] / b["seconds"] for a, b in rounds),
        "held_peak": max(record["peak"] for record in held),
        "peak": max(record["peak"] for record in read),
        "before": read[0]["before"],
        "memory": memory,
    }


def measure_linear(sizes: Sizes) -> dict[str, Any]:
    """Medians of interleaved rounds, in this process."""
    base = {"rows": 20_000, "queries": 2_000, "width": 2_048}
    cases = [base] + [base | {key: base[key] * by} for key in base for by in (2, 4, 8)]
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for case in cases:
            shape = case["rows"] + case["queries"], case["width"]
            values = rng.standard_normal(shape, np.float32)
            support, queries = values[: case["rows"]], values[case["rows"] :]
            labels, begin = np.arange(len(support)) % 10, time.perf_counter()
            pdepth.probe_votes(support, labels, queries)
            seconds.setdefault(json.dumps(case), []).append(time.perf_counter() - begin)
    medians = {key: median(times) for key, times in seconds.items()}
    rows = []
    for key in base:
        lengths = [base[key] * by for by in (1, 2, 4, 8)]
        times = [medians[json.dumps(base | {key: length})] for length in lengths]
        slope = float(np.polyfit(np.log(lengths), np.log(times), 1)[0])
        rows.append({"of": key, "sizes": lengths, "seconds": times, "exponent": slope})
    return {"base": base, "table": rows}


def measure_resume(sizes: Sizes) -> dict[str, Any]:
    """Runs that are killed at random moments until they end."""
    memory = sizes.memory or "80MB"
    whole = [run_case("small", memory=memory, run_dir=None) for _ in range(ROUNDS)]
    check_equal([record["depths"] for record in whole])
    work = median(record["seconds"] for record in whole)
    begin = time.perf_counter()
    run_case("small", memory=memory, run_dir=None)
    start = time.perf_counter() - begin - work
    rng, kills, passing = random.Random(0), 0, 0
    costs: list[float] = []
    ends = 0
    while kills < KILLS:
        with tempfile.TemporaryDirectory() as folder:
            run = run_with_kills(Path(folder) / "run", memory, start, work, rng)
        check_equal([run["depths"], whole[0]["depths"]])
        kills, passing, ends = kills + run["kills"], passing + run["passing"], ends + 1
        if run["kills"]:
            costs.append((run["seconds"] / work - 1) / run["kills"])
        print(f"  {kills} kills, {ends} ends, the same bits", flush=True)
    if not passing:
        raise SystemExit("No kill came while a support passed by: no number.")
    return {
        "kills": kills,
        "passing": passing,
        "ends": ends,
        "work": work,
        "twice": median(costs),
        "memory": memory,
    }


def run_with_kills(
    run_dir: Path, memory: str, start: float, work: float, rng: random.Random
) -> dict[str, Any]:
    """One run, killed and resumed until it ends.

    Args:
        run_dir: of the run.
        memory: its budget.
        start: seconds before the work begins.
        work: seconds of a run in one piece.
        rng: draws the moments.

    Returns:
        Seconds of work in all, kills, those while a support passed by, and the depths' digest.
    """
    seconds, kills, passing = 0.0, 0, 0
    while True:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command("small", memory=memory, run_dir=str(run_dir)),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            out, _ = process.communicate(timeout=start + rng.uniform(0.1, 0.9) * work)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            seconds += max(0.0, time.perf_counter() - begin - start)
            kills += 1
            passing += (run_dir / f"{KeptLists.NAME}.npz").exists()
            continue
        record = json.loads(out.splitlines()[-1])
        seconds += record["seconds"]
        return {
            "seconds": seconds,
            "kills": kills,
            "passing": passing,
            "depths": record["depths"],
        }


SECTIONS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "linear": measure_linear,
    "mapped": measure_mapped,
    "resume": measure_resume,
    "cifar10": measure_cifar10,
    "own": measure_own,
    "spill": measure_spill,
    "theirs": measure_aucurriculum,
}


def stored() -> dict[str, Any]:
    """Stored results by section; "own" is among the runs of "cifar10"."""
    return load(STORED) if STORED.exists() else {}


def store(section: str, record: dict[str, Any]) -> None:
    """Put a section's record in the place of its earlier one."""
    save(stored() | {"cifar10" if section == "own" else section: record}, STORED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--memory", default="")
    parser.add_argument("--disk", default="")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    for section in [] if options.render else options.sections or list(SECTIONS):
        rows, queries = (10_000, 2_000) if section == "spill" else (50_000, 10_000)
        sizes = Sizes(
            options.rows or rows,
            queries if options.queries is None else options.queries,
            options.memory,
            options.disk,
            options.rounds,
        )
        record = SECTIONS[section](sizes)
        store(section, record if "runs" in record else record | {"machine": machine(*PACKAGES)})
    render(NAME, table(stored()), PAGE)


if __name__ == "__main__":
    main()
