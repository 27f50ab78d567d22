"""A similarity backend for FiftyOne by pdepth's engine, and prediction depth in sample fields.

By configuration, for `compute_similarity(samples, backend="pdepth")` and the App:

    export FIFTYONE_BRAIN_SIMILARITY_BACKENDS="*,pdepth"
    export FIFTYONE_BRAIN_SIMILARITY_PDEPTH_CONFIG_CLS=pdepth.compat.fiftyone.PdepthSimilarityConfig

or without it, `compute_similarity(samples, backend=PdepthSimilarityConfig)`. This is a subclass of
FiftyOne's own backend, "sklearn", whose are embeddings, ids, views and what is stored. Found here
are the nearest neighbours of all rows, of ids and of vectors, rows within a radius, near-duplicates
and the most unique rows.

metric:
    "cosine" (1 - cos, FiftyOne's default) and "euclidean" are answered here, in float64 throughout:
    neighbours come in the order (distance, row). Others are FiftyOne's own code.
center:
    False: the metric is that of the embeddings. True: of the embeddings less their mean, which is
    what FiftyOne's backend takes for queries by ids and of all rows.

What differs from FiftyOne's backend. At the first query of all rows or of ids it subtracts their
mean from the embeddings that it holds, so that later answers, and `get_embeddings`, depend on which
came before; vectors are compared as they are, with rows with or without their mean, and beyond
15,000 rows, or where an id is outside of the view, with unit rows by Euclidean distance. Here an
answer depends on the query alone. A row that is asked by its id, or because all are, is left out of
its own neighbours at any number of rows; where k is None, or more than there are, all others are
given. Where queries are aggregated, a row's distance to itself does not count, or is 0 if there is
no other, as there. A row of zeros has no cosine here: ValueError.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pdepth
from pdepth.arrays.problem import checked_rows
from pdepth.compat.shared.radius import Space, square_within
from pdepth.native import default_threads
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

FEW = 64
"""Queries up to which the engine would be longer at packing the support than at the search."""
AT_ONCE = 256  # rows whose near-duplicates are found together
SHRUNK = 0.8  # part of the rows that is undecided, below which they are gathered anew
_METRICS = {"cosine": "cosine", "euclidean": "sqeuclidean"}
_AFTER = {"mean": "post-mean"}  # of queries that have become one


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
class _Active:
    """The rows that a view has in the index.

    Attributes:
        numbers: (n,) their numbers in the index, or None for all.
        metric: one of `_METRICS`.
        mean: (1, D) what is subtracted from rows and queries, or None.
        space: the rows as they are compared.
    """

    numbers: NDArray[np.intp] | None
    metric: str
    mean: NDArray[Any] | None
    space: Space

    @classmethod
    def of(cls, rows: Any, numbers: Any, metric: str, mean: Any) -> _Active:
        made = _compared(rows, "the index", metric, mean)
        return cls(numbers, metric, mean, Space(made, default_threads()))

    def compared(self, vectors: NDArray[Any], what: str) -> NDArray[Any]:
        """Vectors (N, D) as they are compared with the rows."""
        if vectors.shape[1:] != self.space.rows.shape[1:]:
            raise ValueError(
                f"{what} has width {vectors.shape[1]} and the index {self.space.rows.shape[1]}; "
                "equal widths are wanted."
            )
        return _compared(vectors, what, self.metric, self.mean)

    def distances(self, squared: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metric's distances, of squared ones; of unit rows |x - y|^2 = 2 - 2 cos."""
        found: NDArray[np.float64] = squared / 2 if self.metric == "cosine" else np.sqrt(squared)
        return found

    def limit(self, thresh: Any) -> float:
        """The greatest squared distance of a row that is `thresh` away."""
        return 2 * float(thresh) if self.metric == "cosine" else square_within(float(thresh))


@dataclass(frozen=True, eq=False)
class _Asked:
    """Queries.

    Attributes:
        vectors: (N, D) as they are compared.
        own: (N,) which active row each is, -1 for none.
        full: all active rows are asked. single: one query, and not a list of one.
    """

    vectors: NDArray[Any]
    own: NDArray[np.intp]
    full: bool
    single: bool


def _same(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _compared(
    rows: NDArray[Any], what: str, metric: str, mean: NDArray[Any] | None
) -> NDArray[Any]:
    if mean is not None:
        rows = rows - mean
    made = checked_rows(rows, what, _METRICS[metric])
    compared: NDArray[Any] = made.array
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
        """FiftyOne's `_kneighbors`: rows, of all rows, or ids; and float64 distances if asked.

        `reverse` is for aggregated queries alone, as there.
        """
        if not self._ours or aggregation is not None:
            return super()._kneighbors(query, k, reverse, aggregation, return_dists)
        active, asked = self._active, self._asked(query)
        rows = len(active.space.rows)
        most = rows - (asked.own >= 0)  # neighbours that each query has
        counts = most if k is None else np.minimum(k, most)
        squared, near = self._nearest(active, asked, int(counts.max(initial=0)))
        inds = [each[:count] for each, count in zip(near, counts, strict=True)]
        dists = [
            active.distances(each[:count]) for each, count in zip(squared, counts, strict=True)
        ]
        return self._format_output(inds, dists, asked.full, asked.single, return_dists)

    def _nearest(
        self, active: _Active, asked: _Asked, k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Squared distances and rows (N, k) of each query's nearest, without its own row."""
        space = active.space
        if k == 0:
            return np.empty((len(asked.own), 0)), np.empty((len(asked.own), 0), dtype=np.int64)
        if asked.full:
            squared, near = pdepth.kneighbors(space.rows, k=k)
            return squared, near
        # One more, which a query's own row may be.
        more = min(k + int((asked.own >= 0).any()), len(space.rows))
        if len(asked.vectors) <= FEW:
            squared, near = space.nearest(asked.vectors, more)
        else:
            squared, near = pdepth.kneighbors(space.rows, asked.vectors, k=more)
        order = np.argsort(near == asked.own[:, None], axis=1, kind="stable")
        return np.take_along_axis(squared, order, 1), np.take_along_axis(near, order, 1)

    def _radius_neighbors(
        self, query: Any = None, thresh: Any = None, return_dists: bool = False
    ) -> Any:
        """FiftyOne's `_radius_neighbors`: rows at a distance of at most `thresh`, by row."""
        if not self._ours:
            return super()._radius_neighbors(query, thresh, return_dists)
        active, asked = self._active, self._asked(query)
        found = active.space.within(asked.vectors, active.limit(thresh))
        inds = [near[near != row] for near, row in zip(found, asked.own, strict=True)]
        dists = None
        if return_dists:
            sizes = [len(near) for near in inds]
            whose = np.repeat(np.arange(len(inds)), sizes)
            squared = active.space.of_pairs(asked.vectors, np.concatenate(inds), whose)
            dists = np.split(active.distances(squared), np.cumsum(sizes)[:-1])
        return self._format_output(inds, dists, asked.full, asked.single, return_dists)

    def _kneighbors_aggregate(
        self, query: Any, k: int | None, reverse: bool, aggregation: str, return_dists: bool
    ) -> Any:
        if not self._ours or query is None or aggregation not in _AGGREGATIONS:
            return super()._kneighbors_aggregate(query, k, reverse, aggregation, return_dists)
        active, asked = self._active, self._asked(query, mean=aggregation == "mean")
        if len(asked.vectors) == 1 and k is not None and not reverse:
            k = min(k, len(active.space.rows))
            squared, near = active.space.nearest(asked.vectors, max(k, 1))
            inds, dists = near[0, :k], active.distances(squared[0, :k])
        else:
            each = active.distances(active.space.squared(asked.vectors))
            own = np.flatnonzero(asked.own >= 0)
            each[own, asked.own[own]] = np.nan
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of a row that only itself asks
                dists = _AGGREGATIONS[_AFTER.get(aggregation, aggregation)](each, axis=0)
            dists[np.isnan(dists)] = 0
            inds = np.argsort(-dists if reverse else dists, kind="stable")[:k]
            dists = dists[inds]
        return self._format_output([inds], [dists], False, True, return_dists)

    def _remove_duplicates_thresh(self, thresh: Any, ids: Any) -> list[Any]:
        """The ids that are kept, one after the other: those near to a kept one before are not.

        What FiftyOne's own makes of the neighbours of all rows; of rows that are out already none
        are asked, so that many neighbours, of a wide radius, are never held.
        """
        if not self._ours:
            kept: list[Any] = super()._remove_duplicates_thresh(thresh, ids)
            return kept
        active = self._active
        space, limit = active.space, active.limit(thresh)
        stays = np.ones(len(space.rows), dtype=np.bool_)
        left = np.arange(len(stays))  # rows of the space: those undecided, and some that are out
        undecided = left
        while len(undecided):
            if len(undecided) < SHRUNK * len(left):
                space = Space(space.rows[np.isin(left, undecided)], space.threads)
                left = undecided
            some = undecided[:AT_ONCE]
            asked = space.rows[np.searchsorted(left, some)]
            for row, near in zip(some, space.within(asked, limit), strict=True):
                if stays[row]:
                    stays[left[near[left[near] > row]]] = False
            undecided = undecided[AT_ONCE:][stays[undecided[AT_ONCE:]]]
        return [ids[row] for row in np.flatnonzero(stays)]

    @property
    def _ours(self) -> bool:
        return self.config.metric in _METRICS

    @property
    def _active(self) -> _Active:
        """What is compared now. The base forgets it when embeddings change, as its own helper."""
        numbers = self._current_inds
        held: _Active | None = getattr(self, "_neighbors_helper", None)
        if held is None or not _same(held.numbers, numbers):
            rows = self._embeddings if numbers is None else self._embeddings[numbers]
            if not len(rows):
                raise ValueError("the index has no embeddings here; at least one is wanted.")
            mean = self._embeddings.mean(axis=0, keepdims=True) if self.config.center else None
            held = _Active.of(rows, numbers, self.config.metric, mean)
            self._neighbors_helper = held
        return held

    def _asked(self, query: Any, mean: bool = False) -> _Asked:
        """What is asked: every row, ids, or vectors; with `mean` the mean of several."""
        active = self._active
        raw, _, full, single = self._parse_neighbors_query(query)
        if full:
            rows = active.space.rows
            return _Asked(rows, np.arange(len(rows)), True, False)
        own = np.full(len(raw), -1)
        given = np.atleast_1d(np.asarray(query))
        if not np.issubdtype(given.dtype, np.number):
            places = self._get_ids_to_inds(full=False)
            own = np.array([places.get(each, -1) for each in given])
        if mean and len(raw) > 1:
            raw, own = raw.mean(axis=0, keepdims=True), np.full(1, -1)
        return _Asked(active.compared(raw, "query"), own, False, single)


def write_depth(
    samples: Any,
    result: DepthResult,
    *,
    ids: Sequence[str] | None = None,
    groups: Any = None,
    prefix: str = "",
) -> None:
    """Write a result into sample fields: depth, undefined, votes and, if given, groups.

    Args:
        samples: a FiftyOne dataset or view.
        result: of N examples.
        ids: N sample ids, those of the examples; None where the samples are the examples, in order.
        groups: (N,) strings or integers, for the field "group".
        prefix: what the names of the fields begin with.

    The fields: "depth", integers; "undefined", booleans; "votes", a list of each sample's votes in
    the order of probes, -1 where one is not known (FiftyOne's lists of integers have no None).

    Raises ValueError where there are not N ids or groups, or an id is given twice or is of no
    sample; nothing is written then.
    """
    own = samples.values("id")
    given = own if ids is None else [str(each) for each in ids]
    counted = (("ids" if ids is not None else "samples", given), ("groups", groups))
    for what, each in counted:
        if each is not None and len(each) != len(result):
            raise ValueError(
                f"{what} has {len(each)} entries and the result {len(result)} examples; "
                "as many are wanted."
            )
    if len(set(given)) < len(given):
        raise ValueError("ids holds an id twice; one an example is wanted.")
    strange = set(given) - set(own)
    if strange:
        raise ValueError(f"ids holds {min(strange)}, which is no sample's.")
    fields = {
        "depth": result.depth.tolist(),
        "undefined": result.undefined.tolist(),
        "votes": result.votes.T.tolist(),
    }
    if groups is not None:
        fields["group"] = np.asarray(groups).tolist()
    for name, values in fields.items():
        samples.set_values(prefix + name, dict(zip(given, values, strict=True)), key_field="id")
