"""What a search keeps beside its votes: the processor time of neighbours and of a map, by width.

    OPENBLAS_NUM_THREADS=1 python bench/studies/keeping.py    measure, store, render docs/maps.md
    python bench/studies/keeping.py --render                  the page's table, as stored

One probe of each width of the ResNet18 that is trained on CIFAR-10: training images vote, test
images are asked, all votes are cast, by one thread. A call without anything kept, one that keeps
`NEAREST` neighbours and all counts and one that keeps a map of principal components are
interleaved in turn; the least processor time of `ROUNDS` counts, since other work only adds to it.
The gate: all have the same votes. NumPy's threads that wait would count, too: hence the variable.

Beside it, the variance of all support rows along the axes of a sample, as a share of what the best
two axes have: those of the covariance of all rows, where these are at most `WIDEST` wide.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pdepth
from pdepth.arrays.rows import Rows
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import real_data
from pdepth.bench.pages import publish
from pdepth.search import mapping

NAME, STORED = "bench/studies/keeping.py", HOME / RESULTS / "keeping.json"
PAGE = Path("docs", "maps.md")
PACKAGES = "numpy", "torch"
SUPPORT, QUERIES, K, NEAREST, ROUNDS = 2_000, 250, 30, 8, 5
BATCH = 250  # images of a forward pass
WIDEST = 4_096  # of which the covariance is decomposed
KEPT: dict[str, dict[str, Any]] = {
    "votes": {},
    "neighbors": {"return_neighbors": NEAREST},
    "map": {"return_map": "pca"},
}


def layers() -> tuple[dict[str, list[Any]], list[Any]]:
    """Support and queries at one probe of each width, by its name; and the labels of both."""
    data = real_data()
    network, labels = data.resnet18(), []
    found: dict[str, list[Any]] = {}
    for side, (split, count) in enumerate((("train", SUPPORT), ("test", QUERIES))):
        images, classes = (tensor[:count] for tensor in data.dataset(split).tensors)
        labels.append(classes.numpy())
        for begin in range(0, count, BATCH):
            embeddings = pdepth.capture(network, images[begin : begin + BATCH]).embeddings
            for name in {rows.shape[1]: name for name, rows in embeddings.items()}.values():
                rows = embeddings[name].numpy()
                sides = found.setdefault(name, [])
                if len(sides) == side:
                    sides.append(np.empty((count, rows.shape[1]), rows.dtype))
                sides[side][begin : begin + BATCH] = rows
    return found, labels


def seconds_of(support: Any, labels: Any, queries: Any, asked: Any) -> dict[str, float]:
    """The least processor time of each kind of call."""
    least = dict.fromkeys(KEPT, np.inf)
    for number in range(ROUNDS):
        votes = []
        for name, options in sorted(KEPT.items(), reverse=number % 2 > 0):
            begin = time.process_time()
            result = pdepth.depth_from_embeddings(
                [support], labels, asked, [queries], k=K, early_exit=False, num_threads=1, **options
            )
            least[name] = min(least[name], time.process_time() - begin)
            votes.append(result.votes)
        if any((votes[0] != other).any() for other in votes[1:]):
            raise SystemExit("The votes differ: no number.")
    return least


def share_of_best(support: Any) -> float | None:
    """The variance along the axes of a sample, of that along the best two; None of wide rows."""
    rows = support.astype(np.float64)
    if rows.shape[1] > WIDEST:
        return None
    rows -= rows.mean(axis=0)
    axes = mapping.fit(Rows(support, "float32")).components
    best = np.linalg.eigvalsh(rows.T @ rows)[-len(axes) :].sum()
    return float(((rows @ axes.T) ** 2).sum() / best)


def measure() -> dict[str, Any]:
    torch.set_num_threads(1)
    found, (labels, asked) = layers()
    probes = []
    for name, (support, queries) in found.items():
        times = seconds_of(support, labels, queries, asked)
        share = share_of_best(support)
        probes.append({"probe": name, "width": support.shape[1], "best": share, **times})
        print(probes[-1], flush=True)
    sizes = {"support": SUPPORT, "queries": QUERIES, "k": K, "nearest": NEAREST, "rounds": ROUNDS}
    return {"machine": machine(*PACKAGES), **sizes, "probes": probes}


def table(results: dict[str, Any]) -> str:
    nearest, rows = results["nearest"], results["support"] + results["queries"]
    lines = [
        f"Processor seconds of one probe's votes, {results['support']:,} x {results['queries']:,} "
        f"rows of a ResNet18 on CIFAR-10, k = {results['k']}, and how many more it takes to keep "
        f"{nearest} neighbours, or a map of the {rows:,} rows:",
        "",
        f"| probe | width | votes | {nearest} neighbours | map | axes of the sample |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for probe in sorted(results["probes"], key=lambda each: each["width"]):
        more = [probe[name] - probe["votes"] for name in ("neighbors", "map")]
        best = "-" if probe["best"] is None else f"{100 * probe['best']:.1f} %"
        lines.append(
            f"| {probe['probe']} | {probe['width']:,} | {probe['votes']:.3f} | {more[0]:+.3f} | "
            f"{more[1]:+.3f} | {best} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            "The last column is the variance of all support rows along the axes that were fitted "
            "to a sample, as a share of what the best two axes have.",
            "",
            f"<small>{describe(results['machine'])}; one thread, minima of {results['rounds']} "
            "interleaved rounds beside other work</small>",
        ]
    )


if __name__ == "__main__":
    publish(sys.argv[1:], NAME, measure, table, STORED, PAGE)
