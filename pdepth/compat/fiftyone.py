"""A similarity backend for FiftyOne with pdepth's search, and prediction depth in sample fields.

By configuration, for `compute_similarity(samples, backend="pdepth")` and the App:

    export FIFTYONE_BRAIN_SIMILARITY_BACKENDS="*,pdepth"
    export FIFTYONE_BRAIN_SIMILARITY_PDEPTH_CONFIG_CLS=pdepth.compat.fiftyone.PdepthSimilarityConfig

or without it, `compute_similarity(samples, backend=PdepthSimilarityConfig)`. This is a subclass of
FiftyOne's own backend, "sklearn", which keeps embeddings, ids, views and storage. pdepth finds the
nearest neighbours of all rows, of ids and of vectors, rows within a radius, near-duplicates and the
most unique rows.

metric:
    "cosine" (1 - cos, FiftyOne's default) and "euclidean" are answered here, in float64 throughout:
    neighbours come in the order (distance, row). Others are FiftyOne's own code.
center:
    False: the metric is that of the embeddings. True: of the embeddings less their mean, which is
    what FiftyOne's backend takes for queries by ids and of all rows.

What differs from FiftyOne's backend. At the first query of all rows or of ids it subtracts their
mean from the embeddings that it holds, so that later results, and `get_embeddings`, depend on which
came before; vectors are compared as they are, with rows with or without their mean, and beyond
15,000 rows, or where an id is outside of the view, with unit rows by Euclidean distance. Here a
result depends on the query alone. A row that is queried by its id, or because all are, is left out
of its own neighbours at any number of rows; where k is None, or more than there are, all others are
returned. Where queries are aggregated, a row's distance to itself does not count, or is 0 if there
is no other, as there. A row of zeros has no cosine here: ValueError.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.problem import checked_rows
from pdepth.compat.shared.fitted import FittedRows
from pdepth.compat.shared.neighbor_ids import neighbor_ids
from pdepth.compat.shared.radius import DistanceIndex, squared_radius
from pdepth.native import default_arithmetic, default_threads
from pdepth.optional import require_tested
from pdepth.result import DepthResult

require_tested("fiftyone.brain", "pdepth.compat.fiftyone", "fiftyone", "1.22", "1.23")

from fiftyone.brain.internal.core.sklearn import (
    _AGGREGATIONS,
    SklearnSimilarity,
    SklearnSimilarityConfig,
    SklearnSimilarityIndex,
)

__all__ = [
    "PdepthSimilarity",
    "PdepthSimilarityConfig",
    "PdepthSimilarityIndex",
    "write_depth",
]

CHUNK = 256  # rows whose near-duplicates are found together
SHRUNK = 0.8  # share of the rows that is undecided, below which they are gathered anew
_METRICS = {"cosine": "cosine", "euclidean": "sqeuclidean"}
_AGGREGATION_OF_ONE = {"mean": "post-mean"}  # after queries have been averaged to one


class PdepthSimilarityConfig(SklearnSimilarityConfig):
    """FiftyOne's configuration of a similarity index; see the module for `metric` and `center`."""

    def __init__(self, metric: str = "cosine", center: bool = False, **kwargs: Any) -> None:
        super().__init__(metric=metric, **kwargs)
        self.center = center

    @property
    def method(self) -> str:
        return "pdepth"


class PdepthSimilarity(SklearnSimilarity):
    """FiftyOne's factory of similarity indexes."""

    def initialize(self, samples: Any, brain_key: str | None) -> PdepthSimilarityIndex:
        return PdepthSimilarityIndex(samples, self.config, brain_key, backend=self)


@dataclass(frozen=True, eq=False)
class _ActiveRows:
    """The rows of the index that are in the current view.

    Attributes:
        numbers: (n,) their numbers in the index, or None for all.
        metric: one of `_METRICS`.
        mean: (1, D) what is subtracted from rows and queries, or None.
        index: the rows as they are compared, for radii. fitted: the same, for nearest neighbours.
    """

    numbers: NDArray[np.intp] | None
    metric: str
    mean: NDArray[Any] | None
    index: DistanceIndex
    fitted: FittedRows

    @classmethod
    def make(cls, rows: Any, numbers: Any, metric: str, mean: Any) -> _ActiveRows:
        compared = _compared(rows, "the index", metric, mean)
        index = DistanceIndex(compared, default_threads())
        return cls(numbers, metric, mean, index, FittedRows(compared))

    def compared(self, vectors: NDArray[Any], name: str) -> NDArray[Any]:
        """Return vectors (N, D) as they are compared with the rows."""
        if vectors.shape[1:] != self.index.rows.shape[1:]:
            raise ValueError(
                f"{name}: expected width {self.index.rows.shape[1]} as in the index, got "
                f"{vectors.shape[1]}."
            )
        return _compared(vectors, name, self.metric, self.mean)

    @default_arithmetic()
    def distances(self, squared: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the metric's distances from squared ones; for unit rows |x - y|^2 = 2 - 2 cos."""
        result: NDArray[np.float64] = squared / 2 if self.metric == "cosine" else np.sqrt(squared)
        return result

    def squared_limit(self, thresh: Any) -> float:
        """Return the greatest squared distance of a row that is `thresh` away."""
        return 2 * float(thresh) if self.metric == "cosine" else squared_radius(float(thresh))


@dataclass(frozen=True, eq=False)
class _Queries:
    """Queries, parsed.

    Attributes:
        vectors: (N, D) as they are compared.
        own: (N,) which active row each is, -1 for none.
        full: whether they are all active rows. single: whether they are one, not a list of one.
    """

    vectors: NDArray[Any]
    own: NDArray[np.intp]
    full: bool
    single: bool


def _same(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _compared(
    rows: NDArray[Any], name: str, metric: str, mean: NDArray[Any] | None
) -> NDArray[Any]:
    checked = checked_rows(rows if mean is None else rows - mean, name, _METRICS[metric])
    compared: NDArray[Any] = checked.divided().array
    return compared


class PdepthSimilarityIndex(SklearnSimilarityIndex):
    """FiftyOne's similarity index over embeddings in memory, with neighbours by pdepth."""

    def _kneighbors(
        self,
        query: Any = None,
        k: int | None = None,
        reverse: bool = False,
        aggregation: str | None = None,
        return_dists: bool = False,
    ) -> Any:
        """Find rows nearest to all rows, ids or vectors: FiftyOne's `_kneighbors`.

        `reverse` is for aggregated queries alone, as there. Distances are float64.
        """
        if not self._is_exact or aggregation is not None:
            return super()._kneighbors(query, k, reverse, aggregation, return_dists)
        active, queries = self._active_rows, self._parsed(query)
        available = len(active.index.rows) - (queries.own >= 0)  # neighbours of each query
        counts = available if k is None else np.minimum(k, available)
        squared, near = self._nearest(active, queries, int(counts.max(initial=0)))
        inds = [rows[:count] for rows, count in zip(near, counts, strict=True)]
        dists = [active.distances(row[:count]) for row, count in zip(squared, counts, strict=True)]
        return self._format_output(inds, dists, queries.full, queries.single, return_dists)

    def _nearest(
        self, active: _ActiveRows, queries: _Queries, k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find squared distances and rows (N, k) of each query's nearest, without its own row."""
        index = active.index
        if k == 0:
            return np.empty((len(queries.own), 0)), np.empty((len(queries.own), 0), dtype=np.int64)
        if queries.full:
            squared, near = active.fitted.kneighbors(None, k=k)
            return squared, near
        # One more, which may be a query's own row.
        width = min(k + int((queries.own >= 0).any()), len(index.rows))
        squared, near = active.fitted.kneighbors(queries.vectors, k=width)
        order = np.argsort(near == queries.own[:, None], axis=1, kind="stable")
        return np.take_along_axis(squared, order, 1), np.take_along_axis(near, order, 1)

    def _radius_neighbors(
        self, query: Any = None, thresh: Any = None, return_dists: bool = False
    ) -> Any:
        """Find rows at a distance of at most `thresh`, by row: FiftyOne's `_radius_neighbors`."""
        if not self._is_exact:
            return super()._radius_neighbors(query, thresh, return_dists)
        active, queries = self._active_rows, self._parsed(query)
        within = active.index.radius_neighbors(queries.vectors, active.squared_limit(thresh))
        inds = [near[near != own] for near, own in zip(within, queries.own, strict=True)]
        dists = None
        if return_dists:
            sizes = [len(near) for near in inds]
            query_numbers = np.repeat(np.arange(len(inds)), sizes)
            squared = active.index.pair_distances(
                queries.vectors, np.concatenate(inds), query_numbers
            )
            dists = np.split(active.distances(squared), np.cumsum(sizes)[:-1])
        return self._format_output(inds, dists, queries.full, queries.single, return_dists)

    def _kneighbors_aggregate(
        self, query: Any, k: int | None, reverse: bool, aggregation: str, return_dists: bool
    ) -> Any:
        if not self._is_exact or query is None or aggregation not in _AGGREGATIONS:
            return super()._kneighbors_aggregate(query, k, reverse, aggregation, return_dists)
        active, queries = self._active_rows, self._parsed(query, mean=aggregation == "mean")
        if len(queries.vectors) == 1 and k is not None and not reverse:
            k = min(k, len(active.index.rows))
            squared, near = active.fitted.kneighbors(queries.vectors, k=max(k, 1))
            inds, dists = near[0, :k], active.distances(squared[0, :k])
        else:
            every = active.distances(active.index.distances(queries.vectors))
            own = np.flatnonzero(queries.own >= 0)
            every[own, queries.own[own]] = np.nan
            aggregate = _AGGREGATIONS[_AGGREGATION_OF_ONE.get(aggregation, aggregation)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of a row that is the only query
                dists = aggregate(every, axis=0)
            dists[np.isnan(dists)] = 0
            inds = np.argsort(-dists if reverse else dists, kind="stable")[:k]
            dists = dists[inds]
        return self._format_output([inds], [dists], False, True, return_dists)

    def _remove_duplicates_thresh(self, thresh: Any, ids: Any) -> list[Any]:
        """Return the ids that are kept, in order: a row near to one kept before it is not.

        FiftyOne's own code does so with the neighbours of all rows; here rows that are removed are
        no queries, so that many neighbours, of a wide radius, are never held.
        """
        if not self._is_exact:
            unique: list[Any] = super()._remove_duplicates_thresh(thresh, ids)
            return unique
        active = self._active_rows
        index, limit = active.index, active.squared_limit(thresh)
        kept = np.ones(len(index.rows), dtype=np.bool_)
        indexed = np.arange(len(kept))  # rows of `index`: those undecided, and some removed ones
        undecided = indexed
        while len(undecided):
            if len(undecided) < SHRUNK * len(indexed):
                index = DistanceIndex(index.rows[np.isin(indexed, undecided)], index.num_threads)
                indexed = undecided
            chunk = undecided[:CHUNK]
            queries = index.rows[np.searchsorted(indexed, chunk)]
            for row, near in zip(chunk, index.radius_neighbors(queries, limit), strict=True):
                if kept[row]:
                    kept[indexed[near[indexed[near] > row]]] = False
            undecided = undecided[CHUNK:][kept[undecided[CHUNK:]]]
        return [ids[row] for row in np.flatnonzero(kept)]

    @property
    def _is_exact(self) -> bool:
        """Whether pdepth answers by the metric of the index."""
        return self.config.metric in _METRICS

    @property
    def _active_rows(self) -> _ActiveRows:
        """The rows of the view; the base class forgets them when embeddings change, as its own."""
        numbers = self._current_inds
        active: _ActiveRows | None = getattr(self, "_neighbors_helper", None)
        if active is None or not _same(active.numbers, numbers):
            rows = self._embeddings if numbers is None else self._embeddings[numbers]
            if not len(rows):
                raise ValueError("the index: expected at least one embedding, got none.")
            mean = self._embeddings.mean(axis=0, keepdims=True) if self.config.center else None
            active = _ActiveRows.make(rows, numbers, self.config.metric, mean)
            self._neighbors_helper = active
        return active

    def _parsed(self, query: Any, mean: bool = False) -> _Queries:
        """Parse a query: None for every row, ids, or vectors; with `mean` the mean of several."""
        active = self._active_rows
        vectors, _, full, single = self._parse_neighbors_query(query)
        if full:
            rows = active.index.rows
            return _Queries(rows, np.arange(len(rows)), True, False)
        own = np.full(len(vectors), -1)
        values = np.atleast_1d(np.asarray(query))
        if not np.issubdtype(values.dtype, np.number):
            places = self._get_ids_to_inds(full=False)
            own = np.array([places.get(value, -1) for value in values])
        if mean and len(vectors) > 1:
            vectors, own = vectors.mean(axis=0, keepdims=True), np.full(1, -1)
        return _Queries(active.compared(vectors, "query"), own, False, single)


def write_depth(
    samples: Any,
    result: DepthResult,
    *,
    ids: Sequence[str] | None = None,
    groups: Any = None,
    prefix: str = "",
    support_ids: Sequence[str] | None = None,
) -> None:
    """Write a result into sample fields: depth, undefined, votes and, optionally, more.

    The fields: "depth", integers; "undefined", booleans; "votes", a list of each sample's votes in
    the order of probes, -1 where one is not known (FiftyOne's lists of integers have no None).

    Args:
        samples: a FiftyOne dataset or view.
        result: of N examples.
        ids: N sample ids, those of the examples; None where the samples are the examples, in order.
        groups: (N,) strings or integers, for the field "group".
        prefix: of the fields' names.
        support_ids: (M,) sample ids of the support, for the field "neighbors": the ids of each
            example's nearest rows at the last probe, of a result that kept them.
            None: those of the examples, where they are the support; else no such field.

    Raises:
        ValueError: there are not N ids or groups, or an id occurs twice or is of no sample; nothing
            is written then.
    """
    existing = samples.values("id")
    sample_ids = existing if ids is None else [str(value) for value in ids]
    for name, column in (("samples" if ids is None else "ids", sample_ids), ("groups", groups)):
        if column is not None and len(column) != len(result):
            raise ValueError(
                f"{name}: expected {len(result)} entries, one for each example of the result, got "
                f"{len(column)}."
            )
    if len(set(sample_ids)) < len(sample_ids):
        raise ValueError("ids: expected distinct ids, got one twice.")
    unknown = set(sample_ids) - set(existing)
    if unknown:
        raise ValueError(f"ids: expected ids of samples, got {min(unknown)}.")
    fields = {
        "depth": result.depth.tolist(),
        "undefined": result.undefined.tolist(),
        "votes": result.votes.T.tolist(),
    }
    if groups is not None:
        fields["group"] = np.asarray(groups).tolist()
    if support_ids is None and result.leave_one_out and result.neighbors is not None:
        whole = len(result) == len(result.neighbors.codes)
        support_ids = sample_ids if whole else None
    if support_ids is not None:
        fields["neighbors"] = neighbor_ids(result, [str(value) for value in support_ids])
    for name, values in fields.items():
        samples.set_values(
            prefix + name, dict(zip(sample_ids, values, strict=True)), key_field="id"
        )
