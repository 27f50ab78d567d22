"""Rows within a radius, and the nearest of few queries: exactly, by float64 products.

The engine finds a known number of neighbours of many queries. Of how many rows are within a radius
nothing is known beforehand, and for few queries packing the support costs more than the search.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.compat.shared.pairs import over_pairs, squared_differences

Float = NDArray[np.float64]
Int = NDArray[np.int64]
AT_ONCE = 1 << 23  # distances that are held at a time; of terms of rows that are widened an eighth
_FLOAT = np.finfo(np.float64)


class Space:
    """Rows (M, D), NumPy floats or integers without NaN, and squared distances to them.

    A squared distance is that of `pdepth.definition`, to the bit. How: in float64,
    |x|^2 + |y|^2 - 2 x.y is less than (D + 8) epsilon of (|x| + |y|)^2 away from the definition's
    sum, however the product is added up, and of the smallest normal number where terms underflow.
    Pairs that eight times that cannot decide are computed by the definition.
    """

    def __init__(self, rows: NDArray[Any], threads: int) -> None:
        self.rows, self.threads = rows, threads
        self._squares = np.concatenate([_squares(part) for _, part in self._widened()])

    def squared(self, queries: NDArray[Any]) -> Float:
        """Squared distances (N, M) to all rows."""
        n, m = len(queries), len(self.rows)
        which, whose = np.tile(np.arange(m), n), np.repeat(np.arange(n), m)
        return self.of_pairs(queries, which, whose).reshape(n, m)

    def of_pairs(self, queries: NDArray[Any], which: Int, whose: Int) -> Float:
        """Squared distances (P,) of rows `which` (P,) to queries `whose` (P,)."""
        return over_pairs(squared_differences, self.rows, queries, which, whose, self.threads)

    def within(self, queries: NDArray[Any], limit: float) -> Iterator[Int]:
        """Of each query in turn the rows (n,) whose squared distance is <= limit, ascending."""
        for some, near, margin in self._approximate(queries):
            with np.errstate(invalid="ignore"):  # NaN, of overflow, is decided by neither
                found = near <= limit - margin
                whose, which = np.nonzero(~found & ~(near > limit + margin))
            found[whose, which] = self.of_pairs(some, which, whose) <= limit
            yield from map(np.flatnonzero, found)

    def nearest(self, queries: NDArray[Any], k: int) -> tuple[Float, Int]:
        """Squared distances (N, k) and rows (N, k) of the k nearest, by (distance, row)."""
        squared, rows = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
        at = 0
        for some, near, margin in self._approximate(queries):
            kth = np.partition(near, k - 1, axis=1)[:, k - 1, None]
            # k rows are truly within kth + margin, and so seem within twice the margin.
            whose, which = np.nonzero(~(near > kth + 2 * margin))
            exact = self.of_pairs(some, which, whose)
            order = np.lexsort((which, exact, whose))
            first = np.searchsorted(whose, np.arange(len(some)))
            chosen = order[first[:, None] + np.arange(k)]
            part = slice(at, at + len(some))
            squared[part], rows[part] = exact[chosen], which[chosen]
            at += len(some)
        return squared, rows

    def _approximate(self, queries: NDArray[Any]) -> Iterator[tuple[NDArray[Any], Float, Float]]:
        """Some queries (n, D), squared distances (n, M) in float64, and their margins (n, 1)."""
        step = max(1, AT_ONCE // len(self.rows))
        for begin in range(0, len(queries), step):
            some = queries[begin : begin + step]
            asked = some.astype(np.float64)
            own = _squares(asked)[:, None]
            asked = -2 * asked
            near = np.empty((len(some), len(self.rows)))
            with np.errstate(over="ignore", invalid="ignore"):
                for part, rows in self._widened():
                    near[:, part] = asked @ rows.T
                near += own
                near += self._squares
                reach = (np.sqrt(own) + np.sqrt(self._squares.max())) ** 2
                margin = 8 * (self.rows.shape[1] + 8) * (_FLOAT.eps * reach + _FLOAT.tiny)
            yield some, near, margin

    def _widened(self) -> Iterator[tuple[slice, Float]]:
        step = max(1, AT_ONCE // 8 // self.rows.shape[1])
        for begin in range(0, len(self.rows), step):
            part = slice(begin, begin + step)
            yield part, self.rows[part].astype(np.float64, copy=False)


def square_within(radius: float) -> float:
    """The greatest float64 whose root, rounded to float64, is at most `radius`."""
    if not 0 <= radius < math.inf:
        return radius  # no square, or every one
    square = radius * radius
    while math.sqrt(square) > radius:
        square = math.nextafter(square, -math.inf)
    while math.sqrt(further := math.nextafter(square, math.inf)) <= radius:
        square = further
    return square


def _squares(rows: Float) -> Float:
    squares: Float = np.einsum("ij,ij->i", rows, rows)
    return squares
