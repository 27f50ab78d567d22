"""Whole datasets inside a memory budget: what it costs to have less, measured.

    python bench/studies/memory.py                      every part; stored, and rendered into docs/memory.md
    python bench/studies/memory.py cifar10 mapped ...   some of them
    python bench/studies/memory.py --render             the page's tables from the stored results

cifar10: depths of test images under a ResNet18 within 8 and 4 GiB, or what `--memory` says; each
run is stored when it has ended, and has the same depths as others of its size, or no number. own:
of training images, each left out of its own vote. theirs: what aucurriculum's way would need for
the same, its time measured on a part and scaled. mapped: a memory map of float16 rows beside the
same rows in memory. linear: time against rows, queries and width, doubled. resume: kills at random
moments. Each case runs in a process of its own; memory is that process's peak as the operating
system tells it. `--rows N` and `--queries N` make the CIFAR-10 cases smaller, and the budgets too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pdepth
from pdepth import _native
from pdepth.bench.common import HOME, RESULTS, machine, memory_now, memory_peak, render, where
from pdepth.io.atomic import replacing
from pdepth.progress import fastest

NAME, STORED, PAGE = (
    "bench/studies/memory.py",
    HOME / RESULTS / "memory.json",
    Path("docs", "memory.md"),
)
FILE = Path(__file__).resolve()
PACKAGES = "numpy", "torch"
MAPPED_ROWS, MAPPED_WIDTH, MAPPED_QUERIES = 1_000_000, 2_048, 2_000
KILLS, ROUNDS = 20, 3
PART = 2_000, 256  # rows and queries of what is measured of another's way


# ---- cases, each in a process of its own ----


class Shares:
    """Seconds by what they were spent on: the network, the search, and within it settlement."""

    def __init__(self) -> None:
        self.seconds = {"forward": 0.0, "search": 0.0, "settling": 0.0}

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - begin

        return wrapped

    def searched(self, **given: Any) -> float:
        begin = time.perf_counter()
        settling = RUN(**given)
        self.seconds["search"] += time.perf_counter() - begin
        self.seconds["settling"] += settling / given["threads"]
        return settling


RUN = _native.run


def cifar10(memory: str, rows: int, queries: int) -> dict[str, Any]:
    """The depths of test images, or with no queries of the training images themselves."""
    from torch.utils.data import Subset

    from pdepth.bench.common import real_data

    data = real_data()
    support = Subset(data.dataset("train"), range(rows))
    asked = Subset(data.dataset("test"), range(queries)) if queries else None
    model, shares, said = data.resnet18(), Shares(), []
    model.forward = shares.timed("forward", model.forward)
    setattr(_native, "run", shares.searched)  # noqa: B010 - a compiled module's

    def note(event: Any) -> None:
        if event.stage == "note":
            said.append(event.text)

    before, begin, used = memory_now(), time.perf_counter(), time.process_time()
    result = pdepth.prediction_depth(model, support, asked, memory=memory, progress=note)
    return {
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - used,
        **shares.seconds,
        "peak": memory_peak(),
        "before": before,
        "notes": said,
        "depths": digest(result),
        "undefined": int(result.undefined.sum()),
        "alive": result.known.sum(axis=1).tolist(),
    }


def mapped(path: str, memory: str, held: bool) -> dict[str, Any]:
    """Votes of float16 rows from a map, or from memory."""
    rows = np.load(path, mmap_mode="r")
    labels, asked = np.arange(len(rows)) % 10, np.array(rows[:MAPPED_QUERIES]) + np.float16(0.5)
    support: Any = {"probe": np.array(rows) if held else Mapped(rows)}
    before, begin = memory_now(), time.perf_counter()
    found = pdepth.probe_votes(
        support, labels, {"probe": asked}, memory=None if held else memory, return_counts=False
    )
    seconds = time.perf_counter() - begin
    votes = hashlib.sha256(np.ascontiguousarray(found.votes).tobytes()).hexdigest()
    return {"seconds": seconds, "peak": memory_peak(), "before": before, "votes": votes}


class Mapped:
    """A file read in slices, so that its pages are not this process's memory."""

    def __init__(self, rows: Any) -> None:
        self.path, self.offset = rows.filename, rows.offset
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, some: slice) -> Any:
        begin, end, _ = some.indices(len(self))
        width = self.shape[1]
        return np.fromfile(
            self.path,
            self.dtype,
            (end - begin) * width,
            offset=self.offset + begin * width * self.dtype.itemsize,
        ).reshape(-1, width)

    def __len__(self) -> int:
        return int(self.shape[0])


def small(memory: str, run_dir: str | None) -> dict[str, Any]:
    """Every vote of 4,000 rows among 48,000 under a small network, in half a minute."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from pdepth.search import passing

    passing.PAUSE = 0.5  # the run is short
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024),
        nn.ReLU(), nn.Linear(1024, 5),
    )  # fmt: skip
    labels = torch.arange(52_000) % 5
    rows = torch.randn(52_000, 64) + 2 * nn.functional.one_hot(labels, 64)
    support = TensorDataset(rows[:48_000], labels[:48_000])
    queries = TensorDataset(rows[48_000:], labels[48_000:])
    begin = time.perf_counter()
    result = pdepth.prediction_depth(
        net, support, queries, memory=memory, early_exit=False, run_dir=run_dir, progress=False
    )
    return {"seconds": time.perf_counter() - begin, "depths": digest(result)}


def digest(result: pdepth.DepthResult) -> str:
    """Of depths and votes."""
    held = result.depth.tobytes() + result.votes.tobytes()
    return hashlib.sha256(held).hexdigest()


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "cifar10": cifar10,
    "mapped": mapped,
    "small": small,
}


def command(case: str, **given: Any) -> list[str]:
    return [sys.executable, str(FILE), "--case", json.dumps([case, given])]


def apart(case: str, **given: Any) -> dict[str, Any]:
    """A case's numbers, from a process of its own."""
    print(f"{case} {given} ...", flush=True)
    done = subprocess.run(command(case, **given), check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {found['seconds']:.1f} s", flush=True)
    return found


# ---- parts ----


def part_cifar10(rows: int, queries: int, memory: str) -> dict[str, Any]:
    budgets = [memory] if memory else [_scaled(8, rows), _scaled(4, rows)]
    for each in budgets:
        found = ran(rows, queries, each)
        if each != budgets[-1]:
            store("cifar10", found)
    return found


def part_own(rows: int, queries: int, memory: str) -> dict[str, Any]:
    return ran(rows, 0, memory or _scaled(8, rows))


def _scaled(gib: int, rows: int) -> str:
    """That of all rows, for fewer."""
    return f"{round(gib * 1024 * rows / 50_000)}MiB"


def ran(rows: int, queries: int, memory: str) -> dict[str, Any]:
    """One more CIFAR-10 run beside those that are stored, or in the place of one."""
    given: dict[str, Any] = {"rows": rows, "queries": queries, "memory": memory}
    run = given | apart("cifar10", **given) | {"machine": machine(*PACKAGES)}
    size = rows, queries
    others = stored().get("cifar10", {"runs": []})["runs"]
    alike = [each for each in others if size == (each["rows"], each["queries"])]
    # Another machine's forward pass may have other bits.
    here = [each for each in alike if same_bits(each["machine"]) == same_bits(run["machine"])]
    _equal([each["depths"] for each in [run, *here]])
    kept = [each for each in others if (*size, memory) != _place(each)]
    return {"runs": sorted([*kept, run], key=lambda each: (_place(each)[:2], -each["peak"]))}


def same_bits(about: dict[str, Any]) -> tuple[str, str]:
    return about["processor"], about["versions"]["torch"]


def _place(run: dict[str, Any]) -> tuple[int, int, str]:
    return run["rows"], run["queries"], run["memory"]


def part_theirs(rows: int, queries: int, memory: str) -> dict[str, Any]:
    """A forward pass a probe, all embeddings of one probe on the host and once more where it
    searches, 1,024 x rows of distances: some of it, timed, times how much more there would be."""
    import torch

    from pdepth.bench.common import real_data
    from pdepth.bench.suite.engines import Aucurriculum

    data, engine = real_data(), Aucurriculum()
    engine.start()
    model, images = data.resnet18(), data.dataset("train")
    bill = pdepth.plan(model, images, data.dataset("test"), batch_size=64, measure=False)
    inputs = images.tensors[0][: PART[1]]
    with torch.no_grad():
        forward = fastest(partial(model, inputs)) / len(inputs)
    rng, search = np.random.default_rng(0), 0.0
    for width in bill.widths:
        values = rng.standard_normal((sum(PART), width), np.float32)
        support, asked = values[: PART[0]], values[PART[0] :]
        labels = np.arange(len(support)) % 10
        seconds = fastest(partial(engine.votes, support, labels, asked, 30), runs=1)
        search += seconds * rows / PART[0] * queries / PART[1]
    return {
        "rows": rows,
        "queries": queries,
        "forward": forward * len(bill.widths) * (rows + queries),
        "search": search,
        "memory": 2 * 4 * rows * max(bill.widths) + 4 * 1024 * rows,
    }


def part_mapped(rows: int, queries: int, memory: str) -> dict[str, Any]:
    memory = memory or "2GiB"
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.npy")
        out = np.lib.format.open_memmap(path, "w+", np.float16, (MAPPED_ROWS, MAPPED_WIDTH))
        rng = np.random.default_rng(0)
        for begin in range(0, MAPPED_ROWS, 50_000):
            out[begin : begin + 50_000] = rng.standard_normal((50_000, MAPPED_WIDTH), np.float32)
        out.flush()
        del out
        runs = [
            [apart("mapped", path=path, memory=memory, held=held) for held in (True, False)]
            for _ in range(ROUNDS)
        ]
    _equal([each["votes"] for pair in runs for each in pair])
    held, read = ([pair[place] for pair in runs] for place in (0, 1))
    return {
        "held": median(each["seconds"] for each in held),
        "read": median(each["seconds"] for each in read),
        "speed": median(a["seconds"] / b["seconds"] for a, b in zip(held, read, strict=True)),
        "held_peak": max(each["peak"] for each in held),
        "peak": max(each["peak"] for each in read),
        "before": read[0]["before"],
        "memory": memory,
    }


def part_linear(rows: int, queries: int, memory: str) -> dict[str, Any]:
    """Medians of interleaved rounds, in this process."""
    base = {"rows": 20_000, "queries": 2_000, "width": 2_048}
    cases = [base] + [base | {key: base[key] * by} for key in base for by in (2, 4, 8)]
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for case in cases:
            shape = case["rows"] + case["queries"], case["width"]
            values = rng.standard_normal(shape, np.float32)
            support, asked = values[: case["rows"]], values[case["rows"] :]
            labels, begin = np.arange(len(support)) % 10, time.perf_counter()
            pdepth.probe_votes(support, labels, asked)
            seconds.setdefault(json.dumps(case), []).append(time.perf_counter() - begin)
    taken = {key: median(each) for key, each in seconds.items()}
    table = []
    for key in base:
        sizes = [base[key] * by for by in (1, 2, 4, 8)]
        times = [taken[json.dumps(base | {key: size})] for size in sizes]
        slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
        table.append({"of": key, "sizes": sizes, "seconds": times, "exponent": slope})
    return {"base": base, "table": table}


def part_resume(rows: int, queries: int, memory: str) -> dict[str, Any]:
    """A run killed at random moments until it ends, again and again."""
    memory = memory or "80MB"
    whole = [apart("small", memory=memory, run_dir=None) for _ in range(ROUNDS)]
    _equal([each["depths"] for each in whole])
    work = median(each["seconds"] for each in whole)
    begin = time.perf_counter()
    apart("small", memory=memory, run_dir=None)
    start = time.perf_counter() - begin - work
    rng, kills, twice, ended, passing = random.Random(0), 0, [], 0, 0
    while kills < KILLS:
        with tempfile.TemporaryDirectory() as folder:
            spent, killed = 0.0, 0
            while True:
                begin = time.perf_counter()
                process = subprocess.Popen(
                    command("small", memory=memory, run_dir=str(Path(folder) / "run")),
                    stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                try:
                    out, _ = process.communicate(timeout=start + rng.uniform(0.1, 0.9) * work)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    spent += max(0.0, time.perf_counter() - begin - start)
                    killed += 1
                    passing += (Path(folder) / "run" / "passing.npz").exists()
                    continue
                found = json.loads(out.splitlines()[-1])
                _equal([found["depths"], whole[0]["depths"]])
                spent += found["seconds"]
                break
        kills, ended = kills + killed, ended + 1
        if killed:
            twice.append((spent / work - 1) / killed)
        print(f"  {kills} kills, {ended} ends, the same bits", flush=True)
    if not passing:
        raise SystemExit("No kill met a support that passed by: no number.")
    return {
        "kills": kills,
        "passing": passing,
        "ends": ended,
        "work": work,
        "twice": median(twice),
        "memory": memory,
    }


def _equal(found: list[Any]) -> None:
    if len(set(found)) != 1:
        raise SystemExit("The answers differ: no number.")


PARTS: dict[str, Callable[[int, int, str], dict[str, Any]]] = {
    "linear": part_linear,
    "mapped": part_mapped,
    "resume": part_resume,
    "cifar10": part_cifar10,
    "own": part_own,
    "theirs": part_theirs,
}


# ---- the page ----


def stored() -> dict[str, Any]:
    """By part; runs of its own network are one part, "cifar10"."""
    found: dict[str, Any] = json.loads(STORED.read_text()) if STORED.exists() else {}
    return found


def store(name: str, found: dict[str, Any]) -> None:
    every = stored() | {"cifar10" if name == "own" else name: found}
    STORED.parent.mkdir(parents=True, exist_ok=True)
    with replacing(STORED) as temporary:
        temporary.write_text(json.dumps(every, indent=1) + "\n")


def tables(every: dict[str, Any]) -> str:
    blocks = []
    for name, text in TEXTS.items():
        if name in every:
            measured = every[name].get("runs", [every[name]])
            told = dict.fromkeys(where(each["machine"]) for each in measured)
            blocks += [text(every[name]), f"<small>{'; '.join(told)}</small>"]
    return "\n\n".join(blocks)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds > 100 else f"{seconds:.1f} s"


def _bytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _run_row(run: dict[str, Any]) -> str:
    rest = run["seconds"] - run["forward"] - run["search"]
    shares = [run["forward"], run["search"] - run["settling"], run["settling"], rest]
    listed = " | ".join(f"{share / run['seconds']:.0%}" for share in shares)
    passes = [text for text in run["notes"] if "passes" in text]
    count = passes[-1].split("computed in ")[-1].split()[0] if passes else "1"
    asked = f"{run['queries']:,}" if run["queries"] else "its own rows"
    return (
        f"| {run['rows']:,} | {asked} | {run['memory']} | {_minutes(run['seconds'])} | "
        f"{_minutes(run['processor_seconds'])} | {_bytes(run['peak'])} | {_bytes(run['before'])} | "
        f"{count} | {listed} |"
    )


def text_cifar10(found: dict[str, Any]) -> str:
    return "\n".join(
        [
            "**CIFAR-10, ResNet18**, 11 probes to 65,536 wide, k = 30, early exit; the same depths "
            "in all runs of a size:",
            "",
            "| support | queries | memory | time | processor time | peak | before the start | "
            "passes | forward | filter | settlement | reading and the rest |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *map(_run_row, found["runs"]),
        ]
    )


def text_theirs(found: dict[str, Any]) -> str:
    total = found["forward"] + found["search"]
    return (
        f"**The same in aucurriculum's way**, {found['rows']:,} x {found['queries']:,}: a forward "
        f"pass a probe {_minutes(found['forward'])}, distances and their smallest "
        f"{_minutes(found['search'])}, together {_minutes(total)} (measured on {PART[0]:,} x "
        f"{PART[1]:,} and scaled), and {_bytes(found['memory'])} of memory; its queries would vote "
        "on themselves."
    )


def text_mapped(found: dict[str, Any]) -> str:
    return (
        f"**A support from disk**, {MAPPED_ROWS:,} x {MAPPED_WIDTH:,} float16 "
        f"({_bytes(2 * MAPPED_ROWS * MAPPED_WIDTH)}), {MAPPED_QUERIES:,} queries, "
        f"the same votes: {found['held']:.1f} s in memory with a peak of "
        f"{_bytes(found['held_peak'])}; {found['read']:.1f} s within {found['memory']}, peak "
        f"{_bytes(found['peak'])}: {found['speed']:.0%} of the speed."
    )


def text_linear(found: dict[str, Any]) -> str:
    base = found["base"]
    lines = [
        f"**Cost grows linearly**, from {base['rows']:,} support rows, {base['queries']:,} "
        f"queries, width {base['width']}, float32; one doubled thrice, medians of {ROUNDS}:",
        "",
        "| doubled | x 1 | x 2 | x 4 | x 8 | exponent |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in found["table"]:
        times = " | ".join(f"{seconds:.2f} s" for seconds in each["seconds"])
        lines.append(f"| {each['of']} | {times} | {each['exponent']:.2f} |")
    return "\n".join(lines)


def text_resume(found: dict[str, Any]) -> str:
    return (
        f"**Kills**: {found['kills']} at random moments, {found['passing']} of them while a "
        f"support passed by, {found['ends']} ends, all with the bits of a run in one piece "
        f"({found['work']:.0f} s of work in {found['memory']}); a kill costs {found['twice']:.0%} "
        "of the work once more (median; the time of a start is taken off, and no better known than "
        "to a few per cent)."
    )


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "cifar10": text_cifar10,
    "theirs": text_theirs,
    "mapped": text_mapped,
    "linear": text_linear,
    "resume": text_resume,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--memory", default="")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        case, options = json.loads(given.case)
        print(json.dumps(CASES[case](**options)))
        return
    for name in [] if given.render else given.parts or list(PARTS):
        found = PARTS[name](given.rows, given.queries, given.memory)
        store(name, found if "runs" in found else found | {"machine": machine(*PACKAGES)})
    render(NAME, tables(stored()), PAGE)


if __name__ == "__main__":
    main()
