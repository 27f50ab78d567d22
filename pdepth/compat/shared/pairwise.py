"""Sums over pairs of a row and a query, in the definition's order, and squared norms."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.native import check_headroom, default_arithmetic

IN_CACHE = 1 << 17  # terms that a thread computes at a time

Float = NDArray[np.float64]


def squared_differences(rows: Float, queries: Float) -> Float:
    """Compute the terms of squared distances."""
    difference = rows - queries
    return difference * difference


@default_arithmetic()
def pair_sums(
    terms: Callable[[Float, Float], Float],
    rows: NDArray[Any],
    queries: NDArray[Any],
    row_numbers: NDArray[np.int64],
    query_numbers: NDArray[np.int64],
    num_threads: int,
) -> Float:
    """Sum the terms of pairs of rows and queries, as `definition.total` does.

    Args:
        terms: takes the pairs' rows and queries (p, D), widened to float64, and gives their terms.
        rows, queries: (M, D), (N, D).
        row_numbers, query_numbers: (P,) the pairs.

    Returns:
        (P,) float64; infinite where a sum is beyond float64.
    """
    sums = np.empty(len(row_numbers))
    step = max(1, IN_CACHE // rows.shape[1])

    def compute(begin: int) -> None:
        chunk = slice(begin, begin + step)
        pair = (
            rows[row_numbers[chunk]].astype(np.float64),
            queries[query_numbers[chunk]].astype(np.float64),
        )
        with np.errstate(over="ignore"):
            sums[chunk] = definition.total(terms(*pair))

    begins = range(0, len(row_numbers), step)
    if len(begins) < 2:  # a thread takes longer to begin
        for begin in begins:
            compute(begin)
        return sums
    check_headroom(num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(compute, begins))
    return sums


@default_arithmetic()
def squared_norms(rows: NDArray[Any]) -> Float:
    """Compute the squared norms (M,) of rows (M, D) in float64, in NumPy's order of summation."""
    norms: Float = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return norms
