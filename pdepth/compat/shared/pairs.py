"""Sums over pairs of a row and a query, in the definition's order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition

IN_CACHE = 1 << 17  # terms that a thread computes at a time

Float = NDArray[np.float64]


def squared_differences(one: Float, other: Float) -> Float:
    """The terms of a squared distance."""
    difference = one - other
    return difference * difference


def over_pairs(
    terms: Callable[[Float, Float], Float],
    rows: NDArray[Any],
    queries: NDArray[Any],
    which: NDArray[np.int64],
    whose: NDArray[np.int64],
    threads: int,
) -> Float:
    """`definition.total` (P,) of `terms` of rows `which` (P,) and queries `whose` (P,), widened."""
    found = np.empty(len(which))
    step = max(1, IN_CACHE // rows.shape[1])

    def some(at: int) -> None:
        part = slice(at, at + step)
        pair = rows[which[part]].astype(np.float64), queries[whose[part]].astype(np.float64)
        with np.errstate(over="ignore"):  # beyond float64: infinite
            found[part] = definition.total(terms(*pair))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(0, len(which), step)))
    return found
