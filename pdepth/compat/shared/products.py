"""Largest inner products, exactly, by the engine of smallest distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import kneighbors
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.problem import probe_rows
from pdepth.compat.shared.packing import little
from pdepth.compat.shared.pairs import over_pairs
from pdepth.native import default_threads

SPARE = 8  # rows beyond the k that are looked at first
AT_ONCE = 1 << 24  # neighbours that are held at a time


def largest_products(
    support: Any, queries: Any, k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k largest inner products (N, k) of each query, and their support rows (N, k).

    In the order (product descending, row). A product is a float64 sum in the order of
    `definition.total`, the same bits everywhere; each of its terms is exact, or of float64 rows
    rounded once.

    Args:
        support: (M, D) float32 or float64, NumPy or torch, of at least k rows. queries: (N, D).

    Raises ValueError and TypeError as `pdepth.kneighbors`.
    """
    probe_rows("probe 0", support, queries)
    return Lifted(support).largest(queries, k)


class Lifted:
    """Rows (M, D) float32 or float64, finite, among which the largest products are nearest rows.

    How: more columns, whose squares add up to R - |y|^2 for a support row y, R the largest |y|^2,
    and which are 0 for a query x, make squared distances |x|^2 + R - 2 x.y: the nearest rows are
    those of the largest products. Three float32 columns leave a remainder, which is measured; the
    norms, the engine's distance and our product are each rounded by less than (D + 8) epsilon of
    (|x| + sqrt(R))^2. So where a row's distance is greater than the k-th by more than eight times
    that and twice the remainder, a query's margin, its product is less than those of the k nearer
    rows, and no row beyond it is among the largest. The few before it are ordered by their
    products; a query that has more of them than were looked at is asked again for eight times as
    many. Half of what distance lacks to |x|^2 + R is the product to within a quarter of the margin:
    three such roundings and the remainder, halved, and a product's own, which is a quarter of one.
    """

    def __init__(self, support: Any) -> None:
        rows = to_numpy(support)
        norms = _squares(rows)
        self._most = norms.max()
        columns, self._remainder = _columns(self._most - norms)
        whole = np.hstack([rows, columns])
        self._rows = whole[:, : rows.shape[1]]  # the caller's own may change
        self._lifted = convert_like(whole, support)

    def __len__(self) -> int:
        return len(self._rows)

    def near(
        self, queries: NDArray[Any], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Squared distances (N, k), lifted, rows (N, k), nearest first, and the margins (N,)."""
        flat = np.hstack([queries, np.zeros((len(queries), 3), queries.dtype)])
        asked, memory = convert_like(flat, self._lifted), little(self._lifted)
        distances, rows = map(to_numpy, kneighbors(self._lifted, asked, k=k, memory=memory))
        reach = (np.sqrt(_squares(queries)) + np.sqrt(self._most)) ** 2
        rounding = 8 * (self._rows.shape[1] + 8) * np.finfo(np.float64).eps * reach
        return distances, rows, rounding + 2 * self._remainder

    def products(
        self, queries: NDArray[Any], distances: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The products (N, k) behind lifted distances, to within a quarter of the margins."""
        products: NDArray[np.float64] = (_squares(queries)[:, None] + self._most - distances) / 2
        return products

    def largest(self, queries: Any, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """As `largest_products`."""
        asked, threads = to_numpy(queries), default_threads()
        products = np.empty((len(asked), k))
        largest = np.empty((len(asked), k), dtype=np.int64)
        left, width = np.arange(len(asked)), k + SPARE
        while len(left):
            width = min(width, len(self))
            again = []
            for some in np.array_split(left, -(-len(left) * width // AT_ONCE)):
                distances, near, margin = self.near(asked[some], width)
                limit = distances[:, k - 1] + margin
                settled = (distances[:, -1] > limit) | (width == len(self))
                again.append(some[~settled])
                some, near = some[settled], near[settled]
                # What is beyond the limit for every query needs no product.
                inside = (distances[settled] <= limit[settled, None]).sum(1)
                near = near[:, : inside.max(initial=k)]
                whose = np.repeat(some, near.shape[1])
                every = over_pairs(np.multiply, self._rows, asked, near.ravel(), whose, threads)
                every = every.reshape(near.shape)
                order = np.lexsort((near, -every))[:, :k]
                products[some] = np.take_along_axis(every, order, axis=1)
                largest[some] = np.take_along_axis(near, order, axis=1)
            left, width = np.concatenate(again), 8 * width
        return products, largest


def _columns(wanted: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """(M, 3) float32 whose squares add up to `wanted` (M,), and by how much at most they do not."""
    columns = np.empty((len(wanted), 3), dtype=np.float32)
    for column in columns.T:
        root = np.sqrt(wanted)
        column[:] = np.minimum(root, np.finfo(np.float32).max)
        # Not more than the root: what is left over has a root, too.
        column[column > root] = np.nextafter(column[column > root], np.float32(0))
        wanted = np.maximum(wanted - column.astype(np.float64) ** 2, 0)
    return columns, float(wanted.max())


def _squares(rows: NDArray[Any]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return squares
