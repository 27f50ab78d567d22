"""Time and memory of one probe's votes on a CPU: pdepth beside its exact peers.

    python bench/cpu.py            measure, store bench/results/cpu.json, render README's tables
    python bench/cpu.py --quick    the small shapes only, nothing stored
    python bench/cpu.py --render   README's tables from the stored results

Engines of one shape run interleaved in one process. No number without its gate: pdepth's votes are
compared with the float64 definition on a sample of the queries, and a difference ends the run; how
many votes of each peer differ from pdepth's stands beside its time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pdepth
from pdepth import definition, native

from common import RESULTS, machine, render, version_of, where

NAME, STORED = "bench/cpu.py", RESULTS / "cpu.json"
PACKAGES = ("numpy", "torch", "scikit-learn-intelex", "faiss-cpu")
SHAPES = [  # support rows, queries, width
    (10_000, 10_000, 64),
    (10_000, 10_000, 512),
    (50_000, 10_000, 512),
    (100_000, 10_000, 16),
    (10_000, 10_000, 4096),
]
QUICK = [(10_000, 2_000, 64), (10_000, 2_000, 512)]
K, CLASSES = 30, 10

Array = Any
Shape = tuple[int, int, int]
Engine = Callable[[Array, Array, Array], Array]


def with_pdepth(level: str) -> Engine:
    def run(support: Array, labels: Array, queries: Array) -> Array:
        os.environ[native.SIMD] = level
        return pdepth.probe_votes(support, labels, queries, k=K).votes

    return run


def with_sklearnex(support: Array, labels: Array, queries: Array) -> Array:
    from sklearnex.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(K, algorithm="brute").fit(support, labels).predict(queries)


def with_faiss(support: Array, labels: Array, queries: Array) -> Array:
    import faiss

    index = faiss.IndexFlatL2(support.shape[1])
    index.add(support)
    near = labels[index.search(queries, K)[1]]
    return np.stack([(near == c).sum(axis=1) for c in range(CLASSES)]).argmax(axis=0)


def matrix_product(support: Array, labels: Array, queries: Array) -> None:
    """The ceiling: what float32 distances cost if selection were free."""
    import torch

    y, x = torch.from_numpy(support), torch.from_numpy(queries)
    out = torch.empty(1024, len(support))
    for begin in range(0, len(queries), 1024):
        part = x[begin : begin + 1024]
        torch.matmul(part, y.T, out=out[: len(part)])


def engines() -> dict[str, Engine]:
    found = {
        f"pdepth {level}": with_pdepth(level)
        for level, runs in native.simd_levels().items()
        if runs and level != "portable"
    }
    for name, package, engine in (
        ("scikit-learn-intelex", "scikit-learn-intelex", with_sklearnex),
        ("faiss", "faiss-cpu", with_faiss),
    ):
        if version_of(package) is None:
            print(f"{name} is not installed: left out", file=sys.stderr)
        else:
            found[name] = engine
    return found


def layer_of(shape: Shape) -> tuple[Array, Array, Array]:
    """Random support, labels and queries."""
    rows, asked, width = shape
    rng = np.random.default_rng(0)
    support = rng.standard_normal((rows, width), dtype=np.float32)
    queries = rng.standard_normal((asked, width), dtype=np.float32)
    return support, rng.integers(0, CLASSES, rows), queries


def extra_memory(shape: Shape) -> int | None:
    """Bytes by which a call's peak exceeds what its process held before it (Linux)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def field(name: str) -> int:
        line = next(li for li in status.read_text().splitlines() if li.startswith(name))
        return int(line.split()[1]) * 1024

    layer = layer_of(shape)
    pdepth.probe_votes(*layer_of((100, 10, 4)), k=K)  # what is loaded at the first call is no cost
    try:
        reset.write_text("5")
        before = field("VmRSS")
    except (OSError, StopIteration):
        return None
    pdepth.probe_votes(*layer, k=K)
    return field("VmHWM") - before


def gate(support: Array, labels: Array, queries: Array, votes: Array, sample: int) -> None:
    """Ends the run unless the votes of a sample are the definition's."""
    rows = np.random.default_rng(1).choice(len(queries), sample, replace=False)
    oracle = definition.probe_votes(support, labels, queries[rows], k=K).votes
    if differing := int((votes[rows] != oracle).sum()):
        raise SystemExit(f"{differing} of {sample} votes differ from the definition: no number.")


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    rows, asked, width = shape
    support, labels, queries = layer_of(shape)
    table = engines()
    ours = next(name for name in reversed(table) if name.startswith("pdepth"))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        extra = apart.submit(extra_memory, shape).result()
    votes = table[ours](support, labels, queries)
    gate(support, labels, queries, votes, sample=min(asked, 100_000_000 // (rows * width) + 5))
    differing = {}
    for name, engine in table.items():
        differing[name] = int((engine(support, labels, queries) != votes).sum())
    times: dict[str, list[float]] = {name: [] for name in [*table, "matrix product"]}
    for _ in range(rounds):
        for name in times:
            run = table.get(name, matrix_product)
            begin = time.perf_counter()
            run(support, labels, queries)
            times[name].append(time.perf_counter() - begin)
    return {"shape": shape, "times": times, "differing": differing, "extra_bytes": extra}


def special_layers(rounds: int, rows: int = 50_000, asked: int = 10_000) -> list[dict[str, Any]]:
    """Layers that break engines, each beside a random one of the same shape."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows)

    def random(width: int) -> Array:
        return rng.standard_normal((rows + asked, width), dtype=np.float32)

    def equal(width: int) -> Array:
        return np.repeat(random(width)[:1], rows + asked, axis=0)

    def softmax(width: int) -> Array:
        values = np.exp(3 * random(width))
        values /= values.sum(axis=1, keepdims=True)
        hot = rng.random(len(values)) < 0.5
        values[hot] = np.eye(width, dtype=np.float32)[values[hot].argmax(axis=1)]
        return values

    found = []
    for name, make, width in (
        ("equal rows", equal, 64),
        ("equal rows", equal, 512),
        ("half one-hot", softmax, 10),
        ("half one-hot", softmax, 100),
    ):
        layers = {"random": random(width), "special": make(width)}
        times: dict[str, list[float]] = {kind: [] for kind in layers}
        for layer in layers.values():
            votes = pdepth.probe_votes(layer[:rows], labels, layer[rows:], k=K).votes
            gate(layer[:rows], labels, layer[rows:], votes, sample=40)
        for _ in range(rounds):
            for kind, layer in layers.items():
                begin = time.perf_counter()
                pdepth.probe_votes(layer[:rows], labels, layer[rows:], k=K)
                times[kind].append(time.perf_counter() - begin)
        found.append({"layer": name, "shape": (rows, asked, width), "times": times})
    return found


def speed_table(results: dict[str, Any]) -> str:
    names = list(results["speed"][0]["times"])
    lines = [
        "| support x queries x width | "
        + " | ".join(names)
        + " | best peer / pdepth | of the matrix product | extra memory |",
        "| --- |" + " ---: |" * (len(names) + 3),
    ]
    for row in results["speed"]:
        rows, asked, width = row["shape"]
        middle = {name: median(times) for name, times in row["times"].items()}
        ours = min(t for name, t in middle.items() if name.startswith("pdepth"))
        peers = [t for n, t in middle.items() if not n.startswith("pdepth") and "product" not in n]
        best = f"{min(peers) / ours:.2f}" if peers else ""
        extra = f"{row['extra_bytes'] / 1e6:.0f} MB" if row["extra_bytes"] is not None else ""
        cells = []
        for name, seconds in middle.items():
            count = row["differing"].get(name, 0)
            cells.append(f"{seconds:.3f}" + (f" ({count} differ)" if count else ""))
        share = f"{middle['matrix product'] / ours:.0%}"
        lines.append(
            f"| {rows:,} x {asked:,} x {width} | {' | '.join(cells)} | {best} | {share} | {extra} |"
        )
    return "\n".join(lines)


def special_table(results: dict[str, Any]) -> str:
    lines = [
        "| layer | support x queries x width | random layer | this layer | ratio |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in results["special"]:
        rows, asked, width = row["shape"]
        random, special = (median(row["times"][kind]) for kind in ("random", "special"))
        lines.append(
            f"| {row['layer']} | {rows:,} x {asked:,} x {width} | {random:.3f} | {special:.3f} | "
            f"{special / random:.2f} |"
        )
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> str:
    rounds = len(next(iter(results["speed"][0]["times"].values())))
    return (
        f"Seconds, medians of {rounds} interleaved rounds, k = {K}, {CLASSES} classes, float32; "
        f"{where(results['machine'])}.\n\n{speed_table(results)}\n\n{special_table(results)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, nothing stored")
    parser.add_argument("--render", action="store_true", help="README from the stored results")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.render:
        render(NAME, tables(json.loads(STORED.read_text())))
        return
    results: dict[str, Any] = {"machine": machine(*PACKAGES), "speed": []}
    for shape in QUICK if options.quick else SHAPES:
        print(f"{shape} ...", file=sys.stderr)
        results["speed"].append(measure(shape, options.rounds))
    rows = 5_000 if options.quick else 50_000
    os.environ.pop(native.SIMD, None)
    results["special"] = special_layers(options.rounds, rows)
    print(tables(results))
    if not options.quick:
        STORED.parent.mkdir(exist_ok=True)
        STORED.write_text(json.dumps(results, indent=1) + "\n")
        render(NAME, tables(results))


if __name__ == "__main__":
    main()
