"""The key table: exact votes, and depth only, by width, beside what else gives them on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import torch

from pdepth import definition
from pdepth.bench.gpu import budget
from pdepth.bench.gpu.context import Bench, search
from pdepth.bench.gpu.rivals import query_chunks, rivals
from pdepth.bench.suite.shapes import CLASSES, K
from pdepth.kernels import settle

WIDTHS = (64, 128, 512, 4096, 256, 65_536)  # what tells most comes first
KINDS = ("normal", "classes")
BESIDE = ("torch matmul + topk", "flashlib")
ROUNDS = 3
SAMPLE = 64  # queries, fewer where they are wide
AT_A_TIME = 1 << 27  # float64 differences


def table(bench: Bench) -> None:
    """The key table: a layer's exact votes and depth by width, beside peers and products."""
    widths = (64, 300) if bench.tiny and not bench.stubbed else WIDTHS
    for width, kind in product(widths, KINDS):
        rows = bench.size(50_000 if width <= 4096 else 20_000)
        rows = min(rows, 60) if bench.tiny else rows
        name = f"{rows:,} x {rows:,} x {width:,}, {kind}"
        if name in bench.results:
            continue
        if bench.left() < (seconds := budget.row_seconds(width)):
            bench.leave_out(f"table: {name}, about {seconds:.0f} s")
            continue
        bench.results[name] = row = measured(bench, kind, rows, width)
        bench.keep()
        bench.differing += row["differing"]
        bench.say(f"{name}: {_in_words(row)}")


def measured(bench: Bench, kind: str, rows: int, width: int) -> dict[str, Any]:
    """One row of the table: times if all its own answers are right, else how many are not."""
    support, queries, labels = bench.rows_of(kind, rows, width)
    queries = queries[:4] if bench.tiny else queries
    votes = search(support, queries, labels)
    place = torch.arange(len(votes), device=votes.device)
    target = votes.where(place % 2 == 0, (votes + 1) % CLASSES)
    depth = search(support, queries, labels, target)
    sample = sample_of(len(votes), width)
    wanted = votes_in_float64(support, queries[sample], labels)
    wrong = sample[(_at(votes, sample) != wanted).nonzero()[0]]
    differing = 0
    if not bench.stubbed:
        by_definition = _by_definition(support, queries, labels, wrong)
        differing = int((by_definition != _at(votes, wrong)).sum())
        differing += int((depth != votes.where(votes == target, settle.UNKNOWN.value)).sum())
    if differing:
        return {"width": width, "kind": kind, "differing": differing, "compared": len(sample)}
    ways = {
        name: way
        for name, way in rivals(support, queries, labels).items()
        if name in BESIDE and (name != "flashlib" or find_spec("flashlib"))
    }
    taken = bench.interleaved(
        {
            "votes": partial(search, support, queries, labels),
            "depth only": partial(search, support, queries, labels, target),
            "float16 product": _product(support, queries),
            **ways,
        },
        rounds=ROUNDS,
    )
    work = 2e-12 * rows * len(queries) * width
    seconds = {name: value for name, value in taken.items() if isinstance(value, float)}
    return {
        "width": width, "kind": kind, "differing": 0, "compared": len(sample),
        "seconds": seconds,
        "TFLOP/s": {name: work / value for name, value in seconds.items()},
        "errors": {name: value for name, value in taken.items() if isinstance(value, str)},
        "others differ": {
            name: int((way().to(votes.dtype) != votes).sum())
            for name, way in ways.items()
            if name in seconds
        },
    }  # fmt: skip


def _product(support: torch.Tensor, queries: torch.Tensor) -> Callable[[], None]:
    """The product alone, in 16 bits by cuBLAS."""
    support, queries = support.half(), queries.half()

    def multiply() -> None:
        for chunk in query_chunks(queries, len(support)):
            chunk @ support.T

    return multiply


def sample_of(count: int, width: int) -> torch.Tensor:
    """(n,) int64, on the CPU: numbers of queries, the first and the last among them."""
    size = min(count, SAMPLE if width <= 4096 else SAMPLE // 4)
    return torch.linspace(0, count - 1, size, dtype=torch.float64, device="cpu").long()


def votes_in_float64(
    support: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor
) -> np.ndarray[Any, np.dtype[Any]]:
    """(n,) votes of queries (n, D): plain torch, differences in float64, a stable sort."""
    step = max(1, AT_A_TIME // support.shape[1])
    votes = []
    for query in queries.double():
        distances = torch.cat(
            [(rows.double() - query).square_().sum(dim=1) for rows in support.split(step)]
        )
        nearest = labels[distances.sort(stable=True).indices[:K]].cpu().numpy()
        votes.append(int(np.bincount(nearest).argmax()))
    return np.array(votes)


def _by_definition(
    support: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor
) -> np.ndarray[Any, np.dtype[Any]]:
    """(n,) votes of some queries, of the first eight of them: the last word where sums in another
    order part ties in another way."""
    some = rows[:8]
    votes = np.full(len(rows), -1)
    if len(some):
        asked = queries[some].cpu().numpy()
        votes[: len(some)] = definition.probe_votes(
            support.cpu().numpy(), labels.cpu().numpy(), asked, k=K
        ).votes
    return votes


def _at(votes: torch.Tensor, rows: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    found: np.ndarray[Any, np.dtype[Any]] = votes[rows.to(votes.device)].cpu().numpy()
    return found


def _in_words(row: dict[str, Any]) -> str:
    if row["differing"]:
        return f"{row['differing']} answers differ, so that no time is taken"
    rates = [f"{name} {rate:.1f}" for name, rate in row["TFLOP/s"].items()]
    return "TFLOP/s: " + ", ".join([*rates, *(f"{n}: {e}" for n, e in row["errors"].items())])


HEADER = ("votes", "depth only", "float16 product", *BESIDE)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of some rows, in effective TFLOP/s."""
    lines = [
        f"| D | rows | {' | '.join(HEADER)} |",
        f"| ---: | --- | {' | '.join(['---:'] * len(HEADER))} |",
    ]
    for row in sorted(rows, key=lambda row: (row["width"], row["kind"])):
        if row["differing"]:
            cells = [f"{row['differing']} differ"] + ["-"] * (len(HEADER) - 1)
        else:
            rates = row["TFLOP/s"]
            cells = [f"{rates[name]:.1f}" if name in rates else "-" for name in HEADER]
        lines.append(f"| {row['width']:,} | {row['kind']} | {' | '.join(cells)} |")
    return "\n".join(lines)
