"""Deep k-NN: how well the votes of all probes conform to those of held-out examples.

Source: Papernot and McDaniel, "Deep k-Nearest Neighbors: Towards Confident, Interpretable and
Robust Deep Learning", arXiv 1803.04765.

    deep = DeepKNN(k=75).fit(support, labels).calibrate(held_out, held_out_labels)
    found = deep.score(queries)  # found.prediction, .credibility, .confidence, .nonconformity

Nonconformity of a class is how many of the L k neighbours, over all probes, are of other classes. A
class's p-value is the share of calibration scores, each a held-out example's nonconformity with its
own label, that are greater than or equal to its nonconformity: a quotient of two whole numbers,
rounded once. The prediction is the class of the greatest p-value, of equals the smallest label; its
p-value is the credibility, and 1 less the second greatest the confidence.

cleverhans' `DkNNModel` computes the same in float32, but drops calibration scores of 0: of fewer in
all, the shares between 0 and 1 are greater. `trim_zeros=True` does so too.

`kth_distances` is another score under a like name, that of oodeel's and pytorch-ood's DKNN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.rows import is_torch
from pdepth.result import Votes, margins
from pdepth.votes import kneighbors, probe_votes

__all__ = [
    "Conformity",
    "DeepKNN",
    "calibration_scores",
    "conformity",
    "kth_distances",
    "nonconformity",
    "p_values",
]


@dataclass(frozen=True, eq=False)
class Conformity:
    """How N queries conform to C classes; arrays of the votes' kind.

    Attributes:
        prediction: (N,) the class with the greatest p-value; of equals the smallest label.
        credibility: (N,) float64, its p-value.
        confidence: (N,) float64, 1 less the second greatest p-value; 1 where there is one class.
        p_values: (N, C) float64.
        nonconformity: (N, C) int64, neighbours of other classes over all probes.
        classes: (C,) the labels of the columns, ascending.
    """

    prediction: Any
    credibility: Any
    confidence: Any
    p_values: Any
    nonconformity: Any
    classes: Any


class DeepKNN:
    """Deep k-NN over embeddings of several probes, or of one.

    Args:
        k: neighbours at each probe; the paper has 75 for its digits.
        metric: "cosine", as the paper, or "sqeuclidean".
        trim_zeros: drop calibration scores of 0, as cleverhans does.
        options: others of `pdepth.probe_votes`: backend, num_threads, memory.

    Raises ValueError and TypeError as `pdepth.probe_votes`; RuntimeError for a step out of turn.
    """

    def __init__(
        self, k: int = 75, *, metric: str = "cosine", trim_zeros: bool = False, **options: Any
    ) -> None:
        self.k = arguments.check_int(k, "k")
        self.metric = arguments.check_choice(metric, "metric", arguments.METRICS)
        self.trim_zeros, self.options = trim_zeros, options
        self._support: tuple[Any, Any] | None = None
        self._calibration: NDArray[np.int64] | None = None

    def fit(self, support: Any, labels: Any) -> DeepKNN:
        """Hold embeddings, one array (M, D) or as many as there are probes, and labels (M,).

        What was calibrated before is forgotten. No copies are made.
        """
        if isinstance(support, Iterator):
            raise TypeError(
                f"support is a {type(support).__name__}, which is read once; "
                "a sequence or mapping of arrays is wanted."
            )
        self._support, self._calibration = (support, labels), None
        return self

    def calibrate(self, queries: Any, labels: Any) -> DeepKNN:
        """Keep the scores of held-out embeddings (n, D), one array a probe, and labels (n,)."""
        self._calibration = calibration_scores(
            self._votes(queries), labels, trim_zeros=self.trim_zeros
        )
        return self

    def score(self, queries: Any) -> Conformity:
        """The conformity of embeddings (N, D), one array a probe."""
        if self._calibration is None:
            raise RuntimeError("score is asked of a DeepKNN that has not been calibrated.")
        return conformity(self._votes(queries), self._calibration)

    def _votes(self, queries: Any) -> Votes:
        if self._support is None:
            raise RuntimeError("calibrate is asked of a DeepKNN that has not been fitted.")
        if queries is None:
            raise TypeError("queries is None; embeddings outside of the support are wanted.")
        return probe_votes(
            *self._support,
            queries,
            k=self.k,
            metric=self.metric,
            return_counts=True,
            **self.options,
        )


def conformity(votes: Votes, calibration: Any) -> Conformity:
    """All of Deep k-NN in one call, of votes with counts and calibration scores (n,)."""
    scores = to_numpy(nonconformity(_counts(votes)))
    at_least, total = _at_least(scores, calibration), len(calibration)
    best = at_least.argmax(axis=1)
    greatest = at_least[np.arange(len(best)), best]
    found = {
        "prediction": to_numpy(votes.classes)[best],
        "credibility": greatest / total,
        "confidence": (total - greatest + margins(at_least)) / total,
        "p_values": at_least / total,
        "nonconformity": scores,
    }
    given = {name: convert_like(each, votes.counts) for name, each in found.items()}
    return Conformity(classes=votes.classes, **given)


def nonconformity(counts: Any) -> Any:
    """Votes for other classes (N, C) int64, over all probes, of vote counts (L, N, C) or (N, C).

    Raises ValueError or TypeError for another shape, and for counts that are no integers.
    """
    given = to_numpy(counts) if is_torch(counts) else np.asarray(counts)
    if given.ndim not in (2, 3):
        raise ValueError(f"counts has shape {given.shape}; (probes, queries, classes) is wanted.")
    if given.dtype.kind not in "iu":
        raise TypeError(f"counts has elements of type {given.dtype}; integers are wanted.")
    own = given.sum(axis=0, dtype=np.int64) if given.ndim == 3 else given.astype(np.int64)
    return convert_like(own.sum(axis=1, keepdims=True) - own, counts)


def calibration_scores(votes: Votes, labels: Any, *, trim_zeros: bool = False) -> NDArray[np.int64]:
    """The nonconformity of held-out examples with their labels (n,), ascending; int64.

    Args:
        votes: of the examples, with counts.
        labels: (n,) integers, each a class of the votes.
        trim_zeros: without the scores of 0.

    Raises ValueError for a label that is no class, and where no score is left.
    """
    scores, classes = to_numpy(nonconformity(_counts(votes))), to_numpy(votes.classes)
    own, place = arguments.encode_known_labels(labels, classes, len(scores))
    found = np.sort(scores[np.arange(len(own)), place])
    if trim_zeros:
        found = found[found > 0]
        if not len(found):
            raise ValueError("trim_zeros leaves no calibration score: all are 0.")
    return found


def p_values(scores: Any, calibration: Any) -> NDArray[np.float64]:
    """The share of calibration scores (n,) that are at least as great as each score (...)."""
    found: NDArray[np.float64] = _at_least(scores, calibration) / len(calibration)
    return found


def kth_distances(support: Any, queries: Any = None, *, k: int = 50, **options: Any) -> Any:
    """Squared distance (N,) float64 of each query to its k-th nearest row, rows of norm one.

    Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv 2204.06507:
    far is strange. Arguments as `pdepth.kneighbors`, with `metric="cosine"` unless told.
    """
    return kneighbors(support, queries, k=k, **{"metric": "cosine"} | options)[0][:, -1]


def _at_least(scores: Any, calibration: Any) -> NDArray[np.int64]:
    """How many calibration scores are >= each score."""
    ordered = np.sort(arguments.check_integers(calibration, "calibration"))
    if not len(ordered):
        raise ValueError("calibration is empty; at least one score is wanted.")
    found: NDArray[np.int64] = len(ordered) - np.searchsorted(
        ordered, to_numpy(scores), side="left"
    )
    return found


def _counts(votes: Votes) -> Any:
    if votes.counts is None:
        raise ValueError("Deep k-NN needs counts, and these Votes have none: return_counts=True.")
    return votes.counts
