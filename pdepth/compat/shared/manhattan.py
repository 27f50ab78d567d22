"""Nearest rows by the sum of absolute differences (L1), in plain float64 NumPy.

For rules that are defined by it, not for speed: the backends' filters are made for squared
differences.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.arrays.rows import Rows
from pdepth.native import check_headroom, default_arithmetic

CHUNK = 1 << 22  # numbers of queries, of support rows or of distances that are held
IN_CACHE = 1 << 16  # differences that a thread adds up at a time


@default_arithmetic()
def manhattan_neighbors(
    support: Rows, queries: Rows, k: int, num_threads: int
) -> NDArray[np.int64]:
    """Find the k nearest support rows (N, k) of each query, in the order (distance, row).

    A distance is a float64 sum in the order of `definition.total`: the same bits everywhere,
    whatever the chunks and threads.
    """
    neighbors = np.empty((len(queries), k), dtype=np.int64)
    step = max(1, CHUNK // max(support.width, len(support)))
    check_headroom(num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        for begin in range(0, len(queries), step):
            query_chunk = queries[begin : begin + step].widened()
            distances = _distances(support, query_chunk, pool)
            neighbors[begin : begin + step] = list(
                pool.map(lambda row: definition.nearest(row, k), distances)
            )
    return neighbors


def _distances(
    support: Rows, queries: NDArray[np.float64], pool: ThreadPoolExecutor
) -> NDArray[np.float64]:
    """Compute the distances (n, M) of queries (n, D) to all support rows."""
    distances = np.empty((len(queries), len(support)))
    step = max(1, CHUNK // support.width)
    for begin in range(0, len(support), step):
        chunk = support[begin : begin + step].widened()
        list(pool.map(partial(_sum_up, chunk), queries, distances[:, begin : begin + step]))
    return distances


def _sum_up(
    rows: NDArray[np.float64], query: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Write the distances of rows (c, D) to the query (D,) into `out` (c,)."""
    step = max(1, IN_CACHE // rows.shape[1])
    for begin in range(0, len(rows), step):
        chunk = slice(begin, begin + step)
        terms = rows[chunk] - query
        np.abs(terms, out=terms)
        while (width := terms.shape[1]) > 1:  # definition.total, in place
            terms[:, : width // 2] += terms[:, width - width // 2 :]
            terms = terms[:, : width - width // 2]
        out[chunk] = terms[:, 0]
