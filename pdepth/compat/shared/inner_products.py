"""Largest inner products, exactly; on a device by a search for smallest distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import kneighbors
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.problem import probe_rows
from pdepth.arrays.rows import is_torch
from pdepth.compat.shared.packing import packing_memory
from pdepth.compat.shared.pairwise import pair_sums, squared_norms
from pdepth.native import default_arithmetic, default_threads
from pdepth.search.index import Index

SPARE = 8  # rows beyond the k that are candidates at first
GROWTH = 8  # times as many candidates for a query that these do not decide
HELD = 1 << 24  # candidates that are held at a time


def largest_inner_products(
    support: Any, queries: Any, k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the k largest inner products (N, k) of each query, and their support rows (N, k).

    In the order (product descending, row). A product is a float64 sum in the order of
    `definition.total`, the same bits everywhere; each of its terms is exact, or of float64 rows
    rounded once.

    Args:
        support: (M, D) float32 or float64, NumPy or torch, of at least k rows.
        queries: (N, D), likewise.

    Raises:
        ValueError, TypeError: as `pdepth.kneighbors`.
    """
    if not is_on_device(support):
        memory = packing_memory(support)
        found = kneighbors(support, queries, k=k, metric="inner_product", memory=memory)
        return to_numpy(found[0]), to_numpy(found[1])
    probe_rows("probe 0", support, queries)  # refuses what cannot be searched
    return InnerProductIndex(support).search(queries, k)


def is_on_device(rows: Any) -> bool:
    """Whether rows are a tensor of a device, whose kernels know squared distances alone."""
    return is_torch(rows) and rows.device.type != "cpu"


class InnerProductIndex:
    """Rows (M, D) float32 or float64, finite, that are searched for largest inner products.

    How: more columns, whose squares add up to R - |y|^2 for a support row y, R the largest |y|^2,
    and which are 0 for a query x, make squared distances |x|^2 + R - 2 x.y: the nearest rows are
    those of the largest products. Three float32 columns leave a remainder, which is measured; the
    norms, the backend's distance and the product here are each rounded by less than (D + 8) epsilon
    of (|x| + sqrt(R))^2. So where a row's distance is greater than the k-th by more than eight
    times that and twice the remainder, a query's margin, its product is less than those of the k
    nearer rows, and no row beyond it is among the largest. The few before it are ordered by their
    products; a query that has more of them than there were candidates is searched again with eight
    times as many. Half of what distance lacks to |x|^2 + R is the product to within a quarter of
    the margin: three such roundings and the remainder, halved, and a product's own, which is a
    quarter of one.
    """

    @default_arithmetic()
    def __init__(self, support: Any) -> None:
        rows = to_numpy(support)
        norms = squared_norms(rows)
        self._largest_norm = norms.max()
        columns, self._remainder = _columns(self._largest_norm - norms)
        extended = np.hstack([rows, columns])
        self._rows = extended[:, : rows.shape[1]]  # the caller's own may change
        self._extended = Index(convert_like(extended, support), copy=False)

    def __len__(self) -> int:
        return len(self._rows)

    @default_arithmetic()
    def candidates(
        self, queries: NDArray[Any], k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Find the k nearest rows in the extended space.

        Returns:
            Squared distances (N, k) there, rows (N, k), nearest first, and the margins (N,).
        """
        extended = np.hstack([queries, np.zeros((len(queries), 3), queries.dtype)])
        distances, rows = self._extended.kneighbors(convert_like(extended, self._extended.rows), k)
        reach = (np.sqrt(squared_norms(queries)) + np.sqrt(self._largest_norm)) ** 2
        rounding = 8 * (self._rows.shape[1] + 8) * np.finfo(np.float64).eps * reach
        return to_numpy(distances), to_numpy(rows), rounding + 2 * self._remainder

    @default_arithmetic()
    def approximate_products(
        self, queries: NDArray[Any], distances: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Compute products (N, k) from extended distances, to within a quarter of the margins."""
        norms = squared_norms(queries)[:, None]
        products: NDArray[np.float64] = (norms + self._largest_norm - distances) / 2
        return products

    @default_arithmetic()
    def search(self, queries: Any, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find the k largest products, as `largest_inner_products`."""
        queries, num_threads = to_numpy(queries), default_threads()
        products = np.empty((len(queries), k))
        rows = np.empty((len(queries), k), dtype=np.int64)
        active, width = np.arange(len(queries)), k + SPARE
        while len(active):
            width = min(width, len(self))
            undecided = []
            for numbers in np.array_split(active, -(-len(active) * width // HELD)):
                distances, near, margin = self.candidates(queries[numbers], width)
                limit = distances[:, k - 1] + margin
                decided = (distances[:, -1] > limit) | (width == len(self))
                undecided.append(numbers[~decided])
                numbers, near = numbers[decided], near[decided]
                # What is beyond the limit for every query needs no product.
                inside = (distances[decided] <= limit[decided, None]).sum(1)
                near = near[:, : inside.max(initial=k)]
                repeated = np.repeat(numbers, near.shape[1])
                exact = pair_sums(
                    np.multiply, self._rows, queries, near.ravel(), repeated, num_threads
                ).reshape(near.shape)
                order = np.lexsort((near, -exact))[:, :k]
                products[numbers] = np.take_along_axis(exact, order, axis=1)
                rows[numbers] = np.take_along_axis(near, order, axis=1)
            active, width = np.concatenate(undecided), GROWTH * width
        return products, rows


def _columns(targets: NDArray[np.float64]) -> tuple[NDArray[np.float32], float]:
    """Find columns (M, 3) float32 whose squares add up to `targets` (M,).

    Returns the columns, and by how much at most they do not.
    """
    columns = np.empty((len(targets), 3), dtype=np.float32)
    for column in columns.T:
        root = np.sqrt(targets)
        column[:] = np.minimum(root, np.finfo(np.float32).max)
        # Not more than the root: what is left over has a root, too.
        column[column > root] = np.nextafter(column[column > root], np.float32(0))
        targets = np.maximum(targets - column.astype(np.float64) ** 2, 0)
    return columns, float(targets.max())
