"""Former scores of suspect labels, deprecated: `pdepth.label_issues` ranks better.

The rule is the depth of the votes against the given label: the first probe from which on every vote
is the label, L where the last vote is not. A network that learnt a wrong label gives it late. Where
the counts of votes are known, the share of neighbours that contradict the label is a second score.
Both functions will be removed in version 0.3.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_shape, labels_and_votes
from pdepth.analysis.vote_counts import check_counts, count_other_classes, counts_of_labels
from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.optional import require
from pdepth.result import DepthResult, Votes
from pdepth.votes import depth_from_votes

__all__ = ["Suspicion", "label_depth", "label_issues", "mislabelled"]


def _deprecated(name: str, instead: str) -> None:
    warnings.warn(f"{name} is deprecated; use {instead}.", DeprecationWarning, stacklevel=3)


def label_depth(votes: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Depth (N,) of votes (L, N) against given labels (N,); L where the last vote is another."""
    depth: NDArray[np.int64] = depth_from_votes(votes, labels)[0]
    return depth


@dataclass(frozen=True, eq=False)
class Suspicion:
    """Evidence against the labels of M rows; arrays of the same kind as the votes.

    Attributes:
        against: (M,) float64, share of all probes' neighbours with another label, which is Deep
            k-NN's nonconformity of the label divided by L k. 1 is the most suspicious.
        depth: (M,) int64, see `label_depth`.
        both: (M,) float64, the mean of `against` and depth / L.
    """

    against: Any
    depth: Any
    both: Any


def mislabelled(votes: Votes, labels: Any) -> Suspicion:
    """Evidence against each label of the support, by votes that leave each row out.

    Deprecated: `pdepth.label_issues(votes, labels).score` finds more of the wrong ones.

    Args:
        votes: with counts, of several probes: `probe_votes(support, labels, return_counts=True)`.
        labels: (M,) those of the support.

    Raises:
        ValueError: no counts, counts of a single array or of weighted votes, or a label that is no
            class of the votes.
    """
    _deprecated("mislabelled", "pdepth.label_issues(votes, labels).score")
    counts, classes = to_numpy(check_counts(votes)), to_numpy(votes.classes)
    if counts.ndim != 3:
        raise ValueError(
            f"votes: expected counts (L, M, C) of several probes, got shape {counts.shape}; pass "
            "a list with one array per probe to probe_votes."
        )
    layers = len(counts)
    given_labels, codes = arguments.encode_known_labels(labels, classes, counts.shape[1])
    if counts.dtype.kind == "f":
        raise ValueError(
            "votes: expected counts of neighbours, got weights; use weights='uniform'."
        )
    others = counts_of_labels(count_other_classes(counts), codes)
    neighbors = counts.sum(axis=(0, 2), dtype=np.int64)
    depth = label_depth(to_numpy(votes.votes), given_labels)
    # One division of whole numbers: equal evidence gives equal scores.
    both = (others * layers + depth * neighbors) / (2 * layers * neighbors)
    scores = (others / neighbors, depth, both)
    return Suspicion(*(convert_like(values, votes.counts) for values in scores))


def label_issues(result: DepthResult, *, ids: Any = None, threshold: float = 0.0) -> Any:
    """Labels that the probes contradict, in the columns of cleanlab's `CleanLearning`.

    Deprecated: `pdepth.label_issues(result).to_cleanlab()` has these columns, of a better score.

    Columns: `id`, if given; `is_label_issue`, whether label_quality is at most `threshold`;
    `label_quality`, 1 - d / L, where d is the depth of the votes against the given label: 1 where
    every probe votes for the label, 0 where the last does not; `given_label`; `predicted_label`,
    the network's class; `depth`, d. As in cleanlab low is bad, and rows keep their order; but
    cleanlab's quality is of predicted probabilities, and this one of neighbours' votes.

    For a result of the support itself, each row left out of its own vote, raise the threshold: the
    network may have memorised wrong labels, so that its last probes give them.

    Raises:
        ValueError: a result without labels; one whose votes early exit left unknown, unless its
            `reference` is "label"; a threshold that is not from 0 to below 1.
    """
    _deprecated("this label_issues", "pdepth.label_issues(result).to_cleanlab()")
    pandas = require("pandas", "label_issues", "tables")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a number from 0 to below 1, got {threshold}.")
    if result.reference == "label":
        depth, labels = result.depth, result.labels
    else:
        labels, votes = labels_and_votes(result, "label_issues")
        depth = label_depth(votes, labels)
    quality = 1 - depth / len(result.probes)
    return pandas.DataFrame(
        ({} if ids is None else {"id": check_shape(ids, "ids", (len(result),))})
        | {
            "is_label_issue": quality <= threshold,
            "label_quality": quality,
            "given_label": labels,
            "predicted_label": result.predictions,
            "depth": depth,
        }
    )
