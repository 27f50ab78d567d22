"""Nearest rows of few columns: a tree where it is faster than a backend, with the same answers."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import encode_labels
from pdepth.arrays.mapped import watched
from pdepth.arrays.problem import checked_rows
from pdepth.arrays.rows import is_torch, rows_of
from pdepth.compat.shared.fitted import FittedRows
from pdepth.compat.shared.pairwise import pair_sums, squared_differences
from pdepth.native import check_headroom, default_arithmetic, default_threads
from pdepth.optional import require
from pdepth.result import Votes
from pdepth.search.index_state import Sample
from pdepth.search.voting import count_votes

Float = NDArray[np.float64]
Int = NDArray[np.int64]

WIDEST = 15  # columns up to which scikit-learn builds a tree
LEAF = 30  # rows of a leaf, scikit-learn's default
FEWEST = 2000  # rows below which a backend is always as fast
SAMPLES = 1024, 4096  # rows of trees that tell how much of a tree a query visits
ASKED = 32  # queries of a sample
HELD = 1 << 22  # candidates of ties that are ordered at a time
CHUNK, LEAST = 4096, 512  # queries of a tree at a time: at most, and at least
_FLOAT = np.finfo(np.float64)
_EPS = float(_FLOAT.eps)
_UNDERFLOW = 1e-150  # above the root of what squares lose where they vanish


class ExactTree:
    """The nearest of rows (M, D) float64 by scikit-learn's tree, in the definition's order.

    The tree's distances are roots of sums whose terms are positive, each operation rounded once: to
    within a relative (D + 8) epsilon, and what squares lose where they vanish. So k rows are truly
    within its k-th distance enlarged by that, and no row that is nearer is left out among those
    that it finds within four times as much. These candidates are ordered by (squared distance in
    float64 by the definition, row).
    """

    def __init__(self, rows: Float, leaf_size: int = LEAF) -> None:
        neighbors = require("sklearn.neighbors", "ExactTree", "sklearn")
        self.rows = rows
        self.kd_tree: Any = neighbors.KDTree(rows, leaf_size=leaf_size)

    @default_arithmetic()
    def visited(self, k: int) -> float:
        """Count the distances that the tree computes for one of its rows, on average."""
        asked = self.rows[:: max(1, len(self.rows) // ASKED)]
        self.kd_tree.reset_n_calls()
        self.kd_tree.query(asked, min(k, len(self.rows)))
        return float(self.kd_tree.get_n_calls()) / len(asked)

    def kneighbors(self, queries: Float, k: int, num_threads: int) -> tuple[Float, Int] | None:
        """Find squared distances (N, k) and rows (N, k); None where too many rows are tied."""
        step = min(CHUNK, max(LEAST, -(-len(queries) // num_threads)))
        chunks = [queries[begin : begin + step] for begin in range(0, len(queries), step)]
        find = partial(self._chunk, k=k)
        if len(chunks) == 1 or num_threads == 1:
            found = [find(chunk) for chunk in chunks]
        else:
            check_headroom(num_threads)
            with ThreadPoolExecutor(num_threads) as pool:
                found = list(pool.map(find, chunks))
        if any(part is None for part in found):
            return None
        squared, rows = zip(*[part for part in found if part is not None], strict=True)
        return np.concatenate(squared), np.concatenate(rows)

    @default_arithmetic()
    def _chunk(self, queries: Float, k: int) -> tuple[Float, Int] | None:
        width = min(k + 1, len(self.rows))
        distances, near = self.kd_tree.query(queries, width)
        if not np.isfinite(distances).all():
            return None  # beyond float64
        reach = 1 + 4 * (queries.shape[1] + 8) * _EPS
        limit = distances[:, k - 1] * reach + _UNDERFLOW
        squared, rows = self._ordered(queries, near, k)
        tied = np.flatnonzero((distances[:, -1] <= limit) & (width < len(self.rows)))
        if len(tied):
            counts = self.kd_tree.query_radius(queries[tied], limit[tied], count_only=True)
            if counts.sum() > HELD:
                return None
            within = self.kd_tree.query_radius(queries[tied], limit[tied])
            for query, candidates in zip(tied, within, strict=True):
                some = slice(query, query + 1)
                squared[some], rows[some] = self._ordered(queries[some], candidates[None], k)
        return squared, rows

    def _ordered(self, queries: Float, near: Int, k: int) -> tuple[Float, Int]:
        """The k first of candidates (n, c), by the definition."""
        repeated = np.repeat(np.arange(len(near)), near.shape[1])
        terms = squared_differences, self.rows, queries
        exact = pair_sums(*terms, near.ravel(), repeated, 1).reshape(near.shape)
        if (exact[:, :-1] < exact[:, 1:]).all():
            return exact[:, :k], near[:, :k]
        order = np.lexsort((near, exact))[:, :k]
        return np.take_along_axis(exact, order, 1), np.take_along_axis(near, order, 1)


class NarrowRows(FittedRows):
    """`FittedRows` of few columns, on the host, by squared distance: by a tree where it is faster.

    A tree is built for the first query for which it is faster; its rows are float64. As the index,
    it is made anew where a sample of the rows was changed.
    """

    def _begin(self) -> None:
        super()._begin()
        self._tree: tuple[ExactTree, Sample] | None = None
        self._growth: dict[int, tuple[float, float]] = {}
        self._encoded: tuple[Int, NDArray[np.int32]] | None = None  # classes, and codes of labels

    def tree(self) -> ExactTree:
        """The tree of the rows as they are."""
        with self._lock, watched([("support (probe 0)", self.rows)]):
            if self._tree is None or self._tree[1].changed(rows_of(self.rows, "")) >= 0:
                rows = checked_rows(self.rows, "support (probe 0)")  # refuses NaN
                self._tree = ExactTree(np.ascontiguousarray(rows.widened())), Sample.of(rows)
            return self._tree[0]

    def kneighbors(self, queries: Any, **options: Any) -> Any:
        found = self._by_tree(queries, **options)
        return super().kneighbors(queries, **options) if found is None else found

    def votes(self, queries: Any, *, return_counts: bool = False, **options: Any) -> Any:
        found = self._by_tree(queries, **options)
        if found is None:
            return super().votes(queries, return_counts=return_counts, **options)
        if self._encoded is None:
            self._encoded = encode_labels(self.labels, len(self.rows))
        classes, codes = self._encoded
        near, threads = found[1], options["num_threads"]
        counted = count_votes(
            codes, near, len(classes), near.shape[1:], num_threads=threads, counts=return_counts
        )
        kept = counted.counts[0] if return_counts else None
        return Votes(classes[counted.votes[0]], classes, counted.tied[0], kept)

    def _by_tree(self, queries: Any, *, k: int, num_threads: int | None) -> Any:
        """Neighbours in NumPy's arrays, or None where a backend is to find them."""
        count, rows = len(self.rows if queries is None else queries), len(self.rows)
        threads = num_threads or default_threads()
        own = queries is None
        if not own and queries.shape[1] != self.rows.shape[1]:
            return None  # and says what is wrong
        if rows < FEWEST or not self._is_faster(count, k + own):
            return None
        tree = self.tree()
        asked = tree.rows if own else _widened(queries)
        if asked is None:
            return None
        found = tree.kneighbors(asked, k + own, threads)
        if found is None or not own:
            return found
        squared, near = found
        order = np.argsort(near == np.arange(rows)[:, None], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(squared, order, 1), np.take_along_axis(near, order, 1)

    def _is_faster(self, queries: int, k: int) -> bool:
        """Predict whether a tree takes less than a backend, by what was measured of both (AVX2).

        In microseconds: a tree takes 0.03 and more a distance that it computes, and some to order
        what it found; a backend reads all rows once for all queries, and a part of each for
        every query. How many distances it will be follows from trees of two samples: in 10 columns
        of noise a tenth of all, in 10 of a curve some dozens.
        """
        rows, columns = self.rows.shape
        visited = self._visited(k)
        tree = 150 + queries * (3 + (0.03 + 0.002 * columns) * visited + 0.2 * k)
        backend = 100 + 0.004 * rows + queries * (3 + 0.0002 * rows + 0.05 * k)
        return bool(tree < backend)

    def _visited(self, k: int) -> float:
        """Predict how many distances a tree of all rows computes for a query."""
        rows, key = len(self.rows), 1 << (k - 1).bit_length()
        if key not in self._growth:
            step = max(1, rows // SAMPLES[1])
            with watched([("support (probe 0)", self.rows)]):
                sample = _widened(self.rows[::step][: SAMPLES[1]])
            if sample is None:
                return math.inf
            halved = sample[:: max(1, len(sample) // SAMPLES[0])]
            few, many = (max(1.0, ExactTree(some).visited(k)) for some in (halved, sample))
            growth: float = math.log(many / few) / math.log(max(len(sample) / len(halved), 1.001))
            self._growth[key] = many, max(0.0, growth)
        many, growth = self._growth[key]
        visited: float = many * (rows / min(rows, SAMPLES[1])) ** growth
        return min(float(rows), visited)


def fitted_rows(rows: Any, labels: Any, metric: str) -> FittedRows:
    """Rows as they are searched fastest."""
    on_host = not is_torch(rows) or rows.device.type == "cpu"
    if metric == "sqeuclidean" and on_host and rows.shape[1] <= WIDEST:
        return NarrowRows(rows, labels, metric=metric)
    return FittedRows(rows, labels, metric=metric)


def _widened(array: Any) -> Float | None:
    """Rows (n, D) in float64; None for NaN or infinity, of which a backend says where it is."""
    rows = np.ascontiguousarray(rows_of(array, "queries (probe 0)").widened())
    return rows if np.isfinite(rows).all() else None
