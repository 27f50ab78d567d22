"""The compiled engine: distance, selection, certificate and vote in one C++ kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import _native, native
from pdepth.arrays.arguments import Problem
from pdepth.arrays.encoded import EncodedVotes, Progress, empty_votes
from pdepth.arrays.rows import Rows

HELD = 3 << 29
"""Bytes of one layer's packed support held at a time; a larger one is packed in stretches."""
QUERIES = 4 << 20, 256 << 20  # bytes of packed queries and their lists: no less, and at most
LEAST = 1 << 20  # what is not halved once more when memory runs out


def working_set(width: int, rows: int, threads: int, memory: int | None) -> int:
    """Bytes that a layer of the support takes beside its rows, at most: what is held of it packed,
    the queries of a tile and their lists, an order of the rows, and some doubles a thread."""
    held = HELD if memory is None else min(HELD, memory // 4)
    queries = min(QUERIES[1], max(QUERIES[0], held))
    packed = min(held, 4 * (width + 32) * (rows + 64))
    return packed + queries + 64 * rows + threads * (16 * width + (1 << 20))


def available() -> str | None:
    """None: the portable level runs on any machine."""
    return None


def votes(
    problem: Problem,
    wanted: NDArray[np.int32] | None,
    return_counts: bool,
    progress: Progress | None,
) -> EncodedVotes:
    """All votes; or with `wanted` (N,) only those that equal it from there to the last probe."""
    shape = (len(problem.layers), problem.count)
    out = EncodedVotes(
        votes=empty_votes(*shape),
        tied=None if wanted is not None else np.empty(shape, dtype=np.bool_),
        counts=np.empty((*shape, len(problem.classes)), np.int32)
        if return_counts and wanted is None
        else None,
    )
    _run(problem, progress, wanted=wanted, votes=out.votes, tied=out.tied, counts=out.counts)
    return out


def neighbors(
    problem: Problem, progress: Progress | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared distances (N, k) and rows (N, k), in the order (distance, row)."""
    shape = (problem.count, problem.k)
    distances, rows = np.full(shape, np.nan), np.full(shape, -1)
    _run(problem, progress, distances=distances, rows=rows, within=problem.within)
    return distances, rows


def _run(problem: Problem, progress: Progress | None, **answers: NDArray[Any] | None) -> None:
    def borrowed(rows: Rows) -> tuple[NDArray[Any], str]:
        return rows.on_host().array, rows.type

    names = ("wanted", "votes", "tied", "counts", "distances", "rows", "within")
    asked = dict.fromkeys(names) | answers
    layers = [
        (borrowed(layer.support), None if layer.queries is None else borrowed(layer.queries))
        for layer in problem.layers
    ]
    held = HELD if problem.memory is None else min(HELD, problem.memory // 4)
    while True:
        try:
            return _native_run(problem, layers, asked, held, progress)
        except MemoryError:
            # The same votes in smaller pieces, as long as these are not smaller than a page or so.
            if held < LEAST:
                raise
            held //= 2


def _native_run(
    problem: Problem,
    layers: list[Any],
    asked: dict[str, Any],
    held: int,
    progress: Progress | None,
) -> None:
    _native.run(
        layers=layers,
        codes=problem.codes,
        classes=len(problem.classes),
        k=problem.k,
        exclude_self=problem.exclude_self,
        query_rows=problem.query_rows,
        queries=problem.count,
        level=native.simd_level(),
        threads=problem.threads,
        held_bytes=held,
        progress=progress,
        **asked,
    )
