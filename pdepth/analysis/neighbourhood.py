"""Purity of classes and hubs among neighbours.

    votes = probe_votes(support, labels, return_counts=True)
    purity(votes, labels)  # (L, M)
    hubs(support[3], k=10).occurrence  # (M,)

Deep k-NN's credibility is in `pdepth.analysis.deep_knn`; ConFrag's neighbourhood agreement, for
labels of a regression, is in `pdepth.analysis.fragments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.vote_counts import check_counts, counts_of_labels
from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.result import Votes
from pdepth.votes import kneighbors

__all__ = ["Hubs", "class_purity", "hubs", "occurrence", "purity"]


def purity(votes: Votes, labels: Any) -> Any:
    """Share of each query's k neighbours that have its label: (L, N) or (N,) float64.

    Args:
        votes: with counts; of the support itself for the purity of its rows.
        labels: (N,) of the queries, each a class of the support.
    """
    own, total, _ = _count_own_class(votes, labels)
    return convert_like(own / total, votes.counts)


def class_purity(votes: Votes, labels: Any) -> Any:
    """Mean purity of each class's queries: (L, C) or (C,) float64; NaN for a class without any.

    It is the share of all neighbours of a class's queries that are of this class. Arguments as in
    `purity`.
    """
    own, total, codes = _count_own_class(votes, labels)
    members = np.arange(len(to_numpy(votes.classes))) == codes[:, None]
    with np.errstate(invalid="ignore"):
        shares = (own @ members) / (total @ members)
    return convert_like(shares, votes.counts)


def _count_own_class(
    votes: Votes, labels: Any
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp]]:
    """Neighbours (..., N) with each query's label, all neighbours (..., N), class codes (N,)."""
    counts = to_numpy(check_counts(votes))
    _, codes = arguments.encode_known_labels(labels, to_numpy(votes.classes), counts.shape[-2])
    return counts_of_labels(counts, codes), counts.sum(axis=-1), codes


@dataclass(frozen=True, eq=False)
class Hubs:
    """How often each of M support rows is among the k nearest neighbours of a query.

    Attributes:
        occurrence: (M,) int64, the k-occurrence N_k; its mean is N k / M.
        skewness: third standardised moment of the occurrences: greater than 0 where few rows are
            neighbours very often; NaN where all occurrences are equal.
        mislabelling: (M,) int64, how often the row's label differs from the query's ("bad
            occurrence"); None without labels.
    """

    occurrence: Any
    skewness: float
    mislabelling: Any = None


def hubs(
    support: Any, queries: Any = None, *, labels: Any = None, k: int = 30, **options: Any
) -> Hubs:
    """The hubs of embeddings (M, D), by Radovanovic, Nanopoulos and Ivanovic (JMLR 2010).

    Args:
        support, queries, k, options: as in `pdepth.kneighbors`; without queries the support's rows
            are the queries, each without itself.
        labels: (M,) integers, for `mislabelling`; only where the queries are the support's rows.
    """
    _, rows = kneighbors(support, queries, k=k, **options)
    neighbors = to_numpy(rows)
    count = len(support)
    times = occurrence(neighbors, count)
    mislabelling = None
    if labels is not None:
        if queries is not None or options.get("query_rows") is not None:
            raise ValueError(
                "labels: expected all rows of the support as queries, got other queries; leave out "
                "queries and query_rows."
            )
        classes = arguments.check_integers(labels, "labels", count)
        different = neighbors[classes[neighbors] != classes[:, None]]
        mislabelling = convert_like(occurrence(different, count), rows)
    centred = times - times.mean()
    variance = float((centred**2).mean())
    skewness = float((centred**3).mean()) / variance**1.5 if variance else float("nan")
    return Hubs(convert_like(times, rows), skewness, mislabelling)


def occurrence(rows: Any, count: int) -> NDArray[np.int64]:
    """How often each of `count` rows occurs in neighbour lists (N, k), int64."""
    times: NDArray[np.int64] = np.bincount(np.asarray(to_numpy(rows)).ravel(), minlength=count)
    return times
