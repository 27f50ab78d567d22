"""The definition itself as a backend: float64 NumPy, for checking the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.arrays.arguments import Layer, Problem
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Progress


def available() -> str | None:
    """None: it needs nothing but NumPy."""
    return None


def votes(
    problem: Problem,
    wanted: NDArray[np.int32] | None,
    return_counts: bool,
    progress: Progress | None,
) -> EncodedVotes:
    """All votes; or with `wanted` (N,) only those that equal it from there to the last probe."""
    tables = []
    for number, layer in enumerate(problem.layers):
        if progress is not None:
            progress(number, 0.0, problem.count)
        table = definition.probe_votes(*_arrays(problem, layer), **_options(problem))
        tables.append(table)
    coded = EncodedVotes(
        votes=np.stack([table.votes for table in tables]).astype(np.int32),
        tied=np.stack([table.tied for table in tables]),
        counts=np.stack([table.counts for table in tables]).astype(np.int32)
        if return_counts
        else None,
    )
    if wanted is None:
        return coded
    settled = np.logical_and.accumulate((coded.votes == wanted)[::-1])[::-1]
    return EncodedVotes(np.where(settled, coded.votes, UNKNOWN).astype(np.int32))


def neighbors(
    problem: Problem, progress: Progress | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared distances (N, k) and rows (N, k), in the order (distance, row)."""
    if progress is not None:
        progress(0, 0.0, problem.count)
    support, _, queries = _arrays(problem, problem.layers[0])
    return definition.kneighbors(support, queries, **_options(problem))


def _arrays(problem: Problem, layer: Layer) -> tuple[Any, Any, Any]:
    queries = None if layer.queries is None else layer.queries.widened()
    return layer.support.widened(), problem.codes, queries


def _options(problem: Problem) -> dict[str, Any]:
    return {
        "query_rows": problem.query_rows,
        "k": problem.k,
        "exclude_self": problem.exclude_self,
    }
