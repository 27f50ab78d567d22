"""Rows within a radius, or of products above a limit: exactly, by float64 products.

The backends find a known number of neighbours; how many rows are within a radius is not known
beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.compat.shared.pairwise import pair_sums, squared_differences, squared_norms
from pdepth.native import default_arithmetic

Float = NDArray[np.float64]
Int = NDArray[np.int64]
HELD = 1 << 23  # distances that are held at a time; of terms of rows that are widened an eighth
_FLOAT = np.finfo(np.float64)


class DistanceIndex:
    """Squared distances to rows (M, D), NumPy floats or integers without NaN.

    A squared distance is that of `pdepth.definition`, to the bit. How: in float64,
    |x|^2 + |y|^2 - 2 x.y is less than (D + 8) epsilon of (|x| + |y|)^2 away from the definition's
    sum, however the product is added up, and of the smallest normal number where terms underflow.
    Pairs that eight times that cannot decide are computed by the definition.
    """

    rows: NDArray[Any]
    num_threads: int

    def __init__(self, rows: NDArray[Any], num_threads: int) -> None:
        self.rows, self.num_threads = rows, num_threads
        self._norms = np.concatenate([squared_norms(chunk) for _, chunk in self._chunks()])

    def distances(self, queries: NDArray[Any]) -> Float:
        """Compute the squared distances (N, M) to all rows."""
        n, m = len(queries), len(self.rows)
        row_numbers, query_numbers = np.tile(np.arange(m), n), np.repeat(np.arange(n), m)
        return self.pair_distances(queries, row_numbers, query_numbers).reshape(n, m)

    def pair_distances(self, queries: NDArray[Any], row_numbers: Int, query_numbers: Int) -> Float:
        """Compute the squared distances (P,) of pairs of rows (P,) and queries (P,)."""
        return pair_sums(
            squared_differences, self.rows, queries, row_numbers, query_numbers, self.num_threads
        )

    def radius_neighbors(self, queries: NDArray[Any], limit: float) -> Iterator[Int]:
        """Yield for each query the rows (n,) at a squared distance <= limit, ascending."""
        for chunk, distances, margin in self._approximate(queries):
            # NaN, of overflow, is decided by neither.
            with np.errstate(invalid="ignore"), default_arithmetic():
                inside = distances <= limit - margin
                query_numbers, row_numbers = np.nonzero(~inside & ~(distances > limit + margin))
                exact = self.pair_distances(chunk, row_numbers, query_numbers)
                inside[query_numbers, row_numbers] = exact <= limit
            yield from map(np.flatnonzero, inside)

    def _approximate(self, queries: NDArray[Any]) -> Iterator[tuple[NDArray[Any], Float, Float]]:
        """Yield query chunks (n, D), squared distances (n, M) by products, and margins (n, 1)."""
        step = max(1, HELD // len(self.rows))
        for begin in range(0, len(queries), step):
            chunk = queries[begin : begin + step]
            distances = np.empty((len(chunk), len(self.rows)))
            with np.errstate(over="ignore", invalid="ignore"), default_arithmetic():
                widened = chunk.astype(np.float64)
                norms = squared_norms(widened)[:, None]
                widened = -2 * widened
                for columns, rows in self._chunks():
                    distances[:, columns] = widened @ rows.T
                distances += norms
                distances += self._norms
                reach = (np.sqrt(norms) + np.sqrt(self._norms.max())) ** 2
                margin = 8 * (self.rows.shape[1] + 8) * (_FLOAT.eps * reach + _FLOAT.tiny)
            yield chunk, distances, margin

    def _chunks(self) -> Iterator[tuple[slice, Float]]:
        """Yield the rows in float64, a chunk at a time, and which they are."""
        step = max(1, HELD // 8 // self.rows.shape[1])
        for begin in range(0, len(self.rows), step):
            chunk = slice(begin, begin + step)
            yield chunk, self.rows[chunk].astype(np.float64, copy=False)


def products_above(
    rows: NDArray[Any], queries: NDArray[Any], limit: float, num_threads: int
) -> Iterator[Int]:
    """Yield for each query (N, D) the rows (n,) of an inner product >= limit, ascending.

    A product is a float64 sum in the order of `definition.total`. In float64 a product is less than
    (D + 8) epsilon of |x| |y| away from that, however it is added up, and of the smallest normal
    number where terms underflow; pairs that eight times that cannot decide are summed so.
    """
    widened = rows.astype(np.float64)
    largest = np.sqrt(squared_norms(widened).max())
    step = max(1, HELD // len(rows))
    for begin in range(0, len(queries), step):
        chunk = queries[begin : begin + step]
        with np.errstate(over="ignore", invalid="ignore"), default_arithmetic():
            asked = chunk.astype(np.float64)
            products = asked @ widened.T
            reach = np.sqrt(squared_norms(asked))[:, None] * largest
            margin = 8 * (rows.shape[1] + 8) * (_FLOAT.eps * reach + _FLOAT.tiny)
            inside = products >= limit + margin
            query_numbers, row_numbers = np.nonzero(~inside & ~(products < limit - margin))
            exact = pair_sums(np.multiply, rows, chunk, row_numbers, query_numbers, num_threads)
            inside[query_numbers, row_numbers] = exact >= limit
        yield from map(np.flatnonzero, inside)


@default_arithmetic()
def squared_radius(radius: float) -> float:
    """Return the greatest float64 whose root, rounded to float64, is at most `radius`."""
    if not 0 <= radius < math.inf:
        return radius  # no square, or every one
    square = radius * radius
    while math.sqrt(square) > radius:
        square = math.nextafter(square, -math.inf)
    while math.sqrt(larger := math.nextafter(square, math.inf)) <= radius:
        square = larger
    return square
