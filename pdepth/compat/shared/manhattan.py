"""Nearest rows by the sum of absolute differences (L1), in plain float64 NumPy.

For rules that ask for it, not for speed: the engine's filters are made for squared differences.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.arrays.rows import Rows

AT_ONCE = 1 << 22  # numbers of queries, of support rows or of distances that are held
IN_CACHE = 1 << 16  # differences that a thread adds up at a time


def nearest_rows(support: Rows, queries: Rows, k: int, threads: int) -> NDArray[np.int64]:
    """The k nearest support rows (N, k) of each query, in the order (distance, row).

    A distance is a float64 sum of exact terms but for their rounding, in the order of
    `definition.total`: the same bits everywhere, whatever the blocks and threads.
    """
    found = np.empty((len(queries), k), dtype=np.int64)
    step = max(1, AT_ONCE // max(support.width, len(support)))
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(queries), step):
            asked = queries[begin : begin + step].widened()
            every = _distances(support, asked, pool)
            found[begin : begin + step] = list(
                pool.map(lambda distances: definition.nearest(distances, k), every)
            )
    return found


def _distances(
    support: Rows, asked: NDArray[np.float64], pool: ThreadPoolExecutor
) -> NDArray[np.float64]:
    """(n, M) from each of the queries (n, D) to each row of the support."""
    every = np.empty((len(asked), len(support)))
    step = max(1, AT_ONCE // support.width)
    for first in range(0, len(support), step):
        rows = support[first : first + step].widened()
        parts = every[:, first : first + step]
        list(pool.map(partial(_sum_up, rows), asked, parts))
    return every


def _sum_up(
    rows: NDArray[np.float64], query: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Distances from the query (D,) to rows (c, D), into `out` (c,)."""
    step = max(1, IN_CACHE // rows.shape[1])
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        terms = rows[part] - query
        np.abs(terms, out=terms)
        while (width := terms.shape[1]) > 1:  # definition.total, where the terms are
            terms[:, : width // 2] += terms[:, width - width // 2 :]
            terms = terms[:, : width - width // 2]
        out[part] = terms[:, 0]
