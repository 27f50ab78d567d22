"""Largest inner products, exactly, by the engine of smallest distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition, kneighbors, validate
from pdepth.compat.kinds import like, on_host
from pdepth.native import default_threads

SPARE = 8  # rows beyond the k that are looked at first
AT_ONCE = 1 << 17  # terms of products that are computed at a time: what a core's cache holds


def largest_products(
    support: Any, queries: Any, k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k largest inner products (N, k) of each query, and their support rows (N, k).

    In the order (product descending, row). A product is a float64 sum in the order of
    `definition.total`, the same bits everywhere; of float32 rows each of its terms is exact.

    Args:
        support: (M, D), NumPy or torch, of at least k rows. queries: (N, D).

    Raises ValueError and TypeError as `pdepth.kneighbors`.

    How: with one more column, c = sqrt(R - |y|^2) for a support row y, R the largest |y|^2, and 0
    for a query x, squared distances are |x|^2 + R - 2 x.y, and the nearest rows those of the
    largest products. That column, the engine's distance and our product are each rounded, by less
    than (D + 8) epsilon of (|x| + sqrt(R))^2. So where a row's distance is greater than the k-th
    by more than eight times as much, its product is less than those of the k nearer rows, and none
    beyond it can be among the largest. The few before it are ordered by their products; a query
    that has more of them than were asked for is asked again for eight times as many.
    """
    validate.layer("probe 0", support, queries, "sqeuclidean", default_threads(), None)
    rows, asked = definition.as_rows(support), definition.as_rows(queries)
    squares = _squares(rows)
    lifted = np.hstack([rows, np.sqrt(squares.max() - squares)[:, None]])
    flat = np.hstack([asked, np.zeros((len(asked), 1))])
    reach = (np.sqrt(_squares(asked)) + np.sqrt(squares.max())) ** 2
    margin = 8 * (rows.shape[1] + 8) * np.finfo(np.float64).eps * reach

    products = np.empty((len(asked), k))
    largest = np.empty((len(asked), k), dtype=np.int64)
    left, width = np.arange(len(asked)), k + SPARE
    lifted = like(lifted, support)
    while len(left):
        width = min(width, len(rows))
        again = []
        for some in np.array_split(left, -(-len(left) * width // (1 << 24))):
            found = kneighbors(lifted, like(flat[some], support), k=width)
            distances, near = map(on_host, found)
            settled = distances[:, -1] > distances[:, k - 1] + margin[some]
            settled |= width == len(rows)
            again.append(some[~settled])
            some, near = some[settled], near[settled]
            every = _products(rows, asked, near, some)
            order = np.lexsort((near, -every))[:, :k]
            products[some] = np.take_along_axis(every, order, axis=1)
            largest[some] = np.take_along_axis(near, order, axis=1)
        left, width = np.concatenate(again), 8 * width
    return products, largest


def _squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows)
    return squares


def _products(
    rows: NDArray[np.float64],
    asked: NDArray[np.float64],
    near: NDArray[np.int64],
    who: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(n, w) products of the queries `who` (n,) with the rows `near` (n, w) of each."""
    found = np.empty(near.size)
    whose, flat = np.repeat(who, near.shape[1]), near.ravel()
    step = max(1, AT_ONCE // rows.shape[1])
    for at in range(0, len(flat), step):
        part = slice(at, at + step)
        found[part] = definition.total(rows[flat[part]] * asked[whose[part]])
    return found.reshape(near.shape)
