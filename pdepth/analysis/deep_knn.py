"""Deep k-NN: how well the neighbours at all probes conform to those of held-out examples.

Source: Papernot and McDaniel, "Deep k-Nearest Neighbors: Towards Confident, Interpretable and
Robust Deep Learning", arXiv 1803.04765.

    deep = DeepKNN(k=75).fit(support, labels).calibrate(held_out, held_out_labels)
    result = deep.score(queries)  # .prediction, .credibility, .confidence, .nonconformity

The nonconformity of a class is the number of neighbours of other classes, over all L probes with k
neighbours each. A calibration score is a held-out example's nonconformity with its own label. The
p-value of a class is the share of calibration scores that are greater than or equal to its
nonconformity: a quotient of two whole numbers, rounded once. The prediction is the class with the
greatest p-value, the smallest label of several; its p-value is the credibility, and 1 minus the
second greatest p-value is the confidence.

cleverhans' `DkNNModel` computes the same in float32, but drops calibration scores of 0: of fewer
scores in all, the shares between 0 and 1 are greater. `trim_zeros=True` does so too.

`kth_distances` is another score with a similar name, that of oodeel's and pytorch-ood's DKNN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_not_iterator
from pdepth.analysis.vote_counts import check_counts, count_other_classes, counts_of_labels
from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
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
    """How N queries conform to C classes; arrays of the same kind as the votes.

    Attributes:
        prediction: (N,) class with the greatest p-value; the smallest label of several.
        credibility: (N,) float64, p-value of the prediction.
        confidence: (N,) float64, 1 minus the second greatest p-value; 1 where there is one class.
        p_values: (N, C) float64.
        nonconformity: (N, C) int64, neighbours of other classes over all probes.
        classes: (C,) labels of the columns, ascending.
    """

    prediction: Any
    credibility: Any
    confidence: Any
    p_values: Any
    nonconformity: Any
    classes: Any


class DeepKNN:
    """Deep k-NN over embeddings of one probe or several.

    Args:
        k: neighbours at each probe; the paper uses 75 for its digits.
        metric: "cosine", as the paper, or "sqeuclidean".
        trim_zeros: drop calibration scores of 0, as cleverhans does.
        options: further options of `pdepth.probe_votes`: backend, num_threads, memory.

    Raises:
        ValueError, TypeError: as `pdepth.probe_votes`.
        RuntimeError: `calibrate` before `fit`, or `score` before `calibrate`.
    """

    trim_zeros: bool
    options: dict[str, Any]

    def __init__(
        self, k: int = 75, *, metric: str = "cosine", trim_zeros: bool = False, **options: Any
    ) -> None:
        self.k: int = arguments.check_int(k, "k")
        self.metric: str = arguments.check_choice(metric, "metric", arguments.DISTANCES)
        self.trim_zeros, self.options = trim_zeros, options
        self._support: tuple[Any, Any] | None = None
        self._calibration: NDArray[np.int64] | None = None

    def fit(self, support: Any, labels: Any) -> DeepKNN:
        """Keep the support, without a copy; an earlier calibration is discarded.

        Args:
            support: embeddings, one array (M, D) or one array per probe.
            labels: (M,) integers.
        """
        check_not_iterator(support, "support")
        self._support, self._calibration = (support, labels), None
        return self

    def calibrate(self, queries: Any, labels: Any) -> DeepKNN:
        """Compute calibration scores from held-out embeddings (n, D) per probe and labels (n,)."""
        self._calibration = calibration_scores(
            self._votes(queries), labels, trim_zeros=self.trim_zeros
        )
        return self

    def score(self, queries: Any) -> Conformity:
        """The conformity of embeddings (N, D) per probe."""
        if self._calibration is None:
            raise RuntimeError(
                "DeepKNN.score: expected a calibrated DeepKNN; call calibrate first."
            )
        return conformity(self._votes(queries), self._calibration)

    def _votes(self, queries: Any) -> Votes:
        if self._support is None:
            raise RuntimeError("DeepKNN.calibrate: expected a fitted DeepKNN; call fit first.")
        if queries is None:
            raise TypeError("queries: expected embeddings of rows outside the support, got None.")
        return probe_votes(
            *self._support,
            queries,
            k=self.k,
            metric=self.metric,
            return_counts=True,
            **self.options,
        )


def conformity(votes: Votes, calibration: Any) -> Conformity:
    """Deep k-NN in one call.

    Args:
        votes: of N queries, with counts.
        calibration: (n,) integers, see `calibration_scores`.
    """
    scores = to_numpy(nonconformity(check_counts(votes)))
    at_least, total = _count_at_least(scores, calibration), len(calibration)
    best = at_least.argmax(axis=1)
    greatest = at_least[np.arange(len(best)), best]
    values = {
        "prediction": to_numpy(votes.classes)[best],
        "credibility": greatest / total,
        "confidence": (total - greatest + margins(at_least)) / total,
        "p_values": at_least / total,
        "nonconformity": scores,
    }
    converted = {name: convert_like(value, votes.counts) for name, value in values.items()}
    return Conformity(classes=votes.classes, **converted)


def nonconformity(counts: Any) -> Any:
    """Neighbours of other classes than each, over all probes.

    Args:
        counts: vote counts (L, N, C) or (N, C), integers.

    Returns:
        (N, C) int64, of the same kind as `counts`.

    Raises:
        ValueError, TypeError: another shape, or counts that are not integers.
    """
    return convert_like(count_other_classes(counts), counts)


def calibration_scores(votes: Votes, labels: Any, *, trim_zeros: bool = False) -> NDArray[np.int64]:
    """Nonconformity of held-out examples with their own labels, ascending, int64.

    Args:
        votes: of the n examples, with counts.
        labels: (n,) integers, each a class of the votes.
        trim_zeros: drop scores of 0.

    Raises:
        ValueError: a label that is no class of the votes, or no score is left.
    """
    others = count_other_classes(check_counts(votes))
    _, codes = arguments.encode_known_labels(labels, to_numpy(votes.classes), len(others))
    scores = np.sort(counts_of_labels(others, codes))
    if trim_zeros:
        scores = scores[scores > 0]
        if not len(scores):
            raise ValueError("trim_zeros: expected at least one score above 0, got only zeros.")
    return scores


def p_values(scores: Any, calibration: Any) -> NDArray[np.float64]:
    """Share of calibration scores (n,) that are greater than or equal to each score (...)."""
    shares: NDArray[np.float64] = _count_at_least(scores, calibration) / len(calibration)
    return shares


def kth_distances(support: Any, queries: Any = None, *, k: int = 50, **options: Any) -> Any:
    """Squared distance (N,) float64 of each query to its k-th nearest row, rows of norm one.

    A large distance marks a query as out of distribution: Sun et al., "Out-of-Distribution
    Detection with Deep Nearest Neighbors", arXiv 2204.06507. Arguments are those of
    `pdepth.kneighbors`; the default metric is "cosine".
    """
    return kneighbors(support, queries, k=k, **{"metric": "cosine"} | options)[0][:, -1]


def _count_at_least(scores: Any, calibration: Any) -> NDArray[np.int64]:
    """Number of calibration scores that are >= each score."""
    ordered = np.sort(arguments.check_integers(calibration, "calibration"))
    if not len(ordered):
        raise ValueError("calibration: expected at least one score, got none.")
    smaller = np.searchsorted(ordered, to_numpy(scores), side="left")
    at_least: NDArray[np.int64] = len(ordered) - smaller
    return at_least
