"""What neighbours say beside their vote: purity of classes, and hubs.

    votes = probe_votes(support, labels, return_counts=True)
    purity(votes, labels)  # (L, M)
    hubs(support[3], k=10).occurrence  # (M,)

Deep k-NN's credibility is in `pdepth.analysis.deep_knn`, ConFrag's neighbourhood agreement, for
labels of a regression, in `pdepth.analysis.fragments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.result import Votes
from pdepth.votes import kneighbors

__all__ = ["Hubs", "class_purity", "hubs", "occurrence", "purity"]


def purity(votes: Votes, labels: Any) -> Any:
    """Of each query's k neighbours, the share with its label: (L, N) or (N,) float64.

    Args:
        votes: with counts; of the support itself for the purity of its rows.
        labels: (N,) of the queries, each a class of the support.
    """
    own, total, _ = _own(votes, labels)
    return convert_like(own / total, votes.counts)


def class_purity(votes: Votes, labels: Any) -> Any:
    """The mean purity of each class's queries: (L, C) or (C,) float64; NaN for a class of none.

    The share of all neighbours of a class's queries that are of it. Arguments as in `purity`.
    """
    own, total, codes = _own(votes, labels)
    of = np.arange(len(to_numpy(votes.classes))) == codes[:, None]
    with np.errstate(invalid="ignore"):
        found = (own @ of) / (total @ of)
    return convert_like(found, votes.counts)


def _own(votes: Votes, labels: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp]]:
    """Neighbours (..., N) with each query's label, all of them, and the labels' places (N,)."""
    if not isinstance(votes, Votes):
        raise TypeError(f"votes is a {type(votes).__name__}; what probe_votes returns is wanted.")
    if votes.counts is None:
        raise ValueError("purity needs counts, and these Votes have none: return_counts=True.")
    counts = to_numpy(votes.counts)
    _, codes = arguments.encode_known_labels(labels, to_numpy(votes.classes), counts.shape[-2])
    return counts[..., np.arange(len(codes)), codes], counts.sum(axis=-1), codes


@dataclass(frozen=True, eq=False)
class Hubs:
    """How often each of M support rows is among the k nearest of a query.

    Attributes:
        occurrence: (M,) int64, the k-occurrence N_k; its mean is N k / M.
        skewness: of the occurrences, their third standardised moment: 0 where hubs are as frequent
            as rows that are hardly ever near; NaN where all are equal.
        mislabelling: (M,) int64, how often the row has another label than the query ("bad
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
        support, queries, k, options: as in `pdepth.kneighbors`; without queries the support's own
            rows ask, each without itself.
        labels: (M,) integers, for `mislabelling`; only where the support's own rows ask.
    """
    _, rows = kneighbors(support, queries, k=k, **options)
    found = to_numpy(rows)
    count = len(support)
    times = occurrence(found, count)
    bad = None
    if labels is not None:
        if queries is not None or options.get("query_rows") is not None:
            raise ValueError("labels go with the support's own rows, all of them, as queries.")
        own = arguments.check_integers(labels, "labels", count)
        bad = convert_like(occurrence(found[own[found] != own[:, None]], count), rows)
    centred = times - times.mean()
    spread = float((centred**2).mean())
    skewness = float((centred**3).mean()) / spread**1.5 if spread else float("nan")
    return Hubs(convert_like(times, rows), skewness, bad)


def occurrence(rows: Any, count: int) -> NDArray[np.int64]:
    """How often each of `count` rows occurs in neighbour lists (N, k), int64."""
    found: NDArray[np.int64] = np.bincount(np.asarray(to_numpy(rows)).ravel(), minlength=count)
    return found
