"""Exact nearest neighbours for UMAP, with a search index so that `transform` works.

    from pdepth.compat.umap import precomputed_knn

    knn = precomputed_knn(X, n_neighbors=15, metric="euclidean")
    reducer = umap.UMAP(n_neighbors=15, metric="euclidean", precomputed_knn=knn).fit(X)
    reducer.transform(more)

UMAP finds neighbours by pynndescent, which misses some; here none is missed, each row comes first
among its own, as there, also where it has copies, and of equally far rows the first count.

UMAP has to be fitted on the same rows in the same order, with the same metric. It compares no more
than the number of rows: a reducer of other ones is wrong, or its fit ends in an error of NumPy's.
`unique=True` is not for precomputed neighbours, as UMAP says itself.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import as_floats, as_single, to_numpy
from pdepth.arrays.frames import is_frame
from pdepth.arrays.rows import check_array
from pdepth.arrays.sources import opened
from pdepth.native import default_arithmetic
from pdepth.optional import require_tested
from pdepth.search.index import Index

require_tested("umap", "pdepth.compat.umap", "umap", "0.5", "0.6")

from pynndescent import NNDescent

__all__ = ["ExactSearchIndex", "precomputed_knn"]

_METRICS = {"euclidean": "sqeuclidean", "l2": "sqeuclidean", "cosine": "cosine"}

Graph = tuple[NDArray[np.int32], NDArray[np.float32]]


class Neighbors(tuple[NDArray[np.int32], NDArray[np.float32], "ExactSearchIndex"]):
    """Rows, distances and a search index, of which each entry that is asked for is a copy.

    UMAP writes to the arrays when it is fitted, and adds rows to the index in `update`: so each
    fit has its own, and any number may be fitted on the same neighbours. The copies of the index
    share rows and packed rows. What is unpacked is not copied.
    """

    def __getitem__(self, place: Any) -> Any:
        return copy.copy(super().__getitem__(place))


def precomputed_knn(
    X: Any, n_neighbors: int = 15, metric: str = "euclidean", *, num_threads: int | None = None
) -> Neighbors:
    """Find the neighbours of all rows, for `UMAP(precomputed_knn=...)`.

    Args:
        X: (N, D) array, NumPy or torch, or a DataFrame of numbers: the data that UMAP is fitted on.
        n_neighbors: as of UMAP, at most N; each row is its own first neighbour, as UMAP has it.
        metric: "euclidean" ("l2"), or "cosine".
        num_threads: of searches, those of `transform` too; None for the process's share of cores.

    Returns:
        Rows (N, n_neighbors) int32, distances (N, n_neighbors) float32, nearest first, and the
        index that `transform` and `update` ask: a tuple that any number of fits may take.

    Raises:
        ValueError, TypeError: for wrong arguments, NaN, and by cosine a row of zeros.
    """
    index = ExactSearchIndex(X, n_neighbors, metric, num_threads)
    return Neighbors((*index.neighbor_graph, index))


class ExactSearchIndex(NNDescent):
    """Stands where UMAP keeps pynndescent's index, and answers exactly, from a `pdepth.Index`.

    Args: as of `precomputed_knn`.
    """

    metric: str
    num_threads: int | None
    index: Index

    def __init__(
        self, X: Any, n_neighbors: int, metric: str = "euclidean", num_threads: int | None = None
    ) -> None:
        arguments.check_choice(metric, "metric", tuple(_METRICS))
        self.metric, self.num_threads = metric, num_threads
        self.n_neighbors: int = arguments.check_int(n_neighbors, "n_neighbors")
        X = opened(X, "X") if is_frame(X) else X
        check_array(X, "X")
        X = as_floats(X)  # so that `update` may add any
        self.index = Index(X, metric=_METRICS[metric], num_threads=num_threads)
        if self.n_neighbors > len(X):
            raise ValueError(
                f"n_neighbors: expected at most {len(X)}, the rows of X, got {self.n_neighbors}."
            )
        self._raw_data = to_numpy(X)
        self._angular_trees = metric == "cosine"  # which UMAP chooses `epsilon` by

    @property
    def neighbor_graph(self) -> Graph:
        """The n_neighbors nearest rows (N, n_neighbors) of each row, itself first."""
        count, others = len(self.index), self.n_neighbors - 1
        rows, distances = np.empty((count, 1), np.int32), np.zeros((count, 1), np.float32)
        rows[:, 0] = np.arange(count)
        if others:
            near, far = self._answer(None, others)
            rows, distances = np.hstack([rows, near]), np.hstack([distances, far])
        return rows, distances

    def query(self, query_data: Any, k: int = 10, epsilon: float = 0.1) -> Graph:
        """Find the k nearest rows (n, k) int32 of queries (n, D), and distances (n, k) float32.

        epsilon: accepted; nothing is left out.
        """
        return self._answer(query_data, k)

    def prepare(self) -> None:
        """Do nothing: rows are packed at the first query."""

    def update(
        self, xs_fresh: Any = None, xs_updated: Any = None, updated_indices: Any = None
    ) -> None:
        """Add rows (n, D), in the type of those before: float32, or float64 where these were wider.

        Copies that were made of this index do not have them.

        Raises ValueError for rows that are to replace others, and numbers beyond float32.
        """
        if xs_updated is not None or updated_indices is not None:
            raise ValueError(
                "xs_updated: expected None, since rows are not replaced; make a new index."
            )
        if xs_fresh is not None:
            fresh, kind = to_numpy(xs_fresh), self._raw_data.dtype
            fresh = as_single(fresh, "xs_fresh") if kind == np.float32 else np.asarray(fresh, kind)
            index = copy.copy(self.index)
            index.add(fresh)
            self.index = index
            self._raw_data = np.concatenate([self._raw_data, fresh])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @default_arithmetic()
    def _answer(self, queries: Any, k: int) -> Graph:
        squared, rows = map(to_numpy, self.index.kneighbors(queries, k))
        # For rows of norm one, |x - y|^2 = 2 - 2 cos.
        distances = squared / 2 if self.metric == "cosine" else np.sqrt(squared)
        with np.errstate(over="ignore"):  # beyond float32: infinite
            return rows.astype(np.int32), distances.astype(np.float32)
