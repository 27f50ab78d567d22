"""Noisy labels: predict from a middle probe, and evaluate scores that find wrong labels.

A network memorises wrong labels in its later layers (Baldock, Maennel and Neyshabur, arXiv
2106.09647), so the votes of an earlier probe may be right more often than the network. Held-out
examples choose that probe; their labels may be as noisy as the others', since noise that does not
depend on the input lowers every probe's agreement with them alike.

    middle = MiddleProbeClassifier(k=30).fit(support, labels, held_out, held_out_labels)
    middle.predict(queries)  # by the votes of middle.probes_

    issues = pdepth.label_issues(probe_votes(support, labels, return_counts=True), labels)
    precision_recall(issues.score, is_wrong).average
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_probe_arrays
from pdepth.analysis.suspect_labels import Suspicion, mislabelled
from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.definition import majority
from pdepth.result import Votes
from pdepth.votes import probe_votes

__all__ = [
    "MiddleProbeClassifier",
    "PrecisionRecall",
    "Suspicion",
    "mislabelled",
    "precision_recall",
]

MODES = ("best", "mix")


class MiddleProbeClassifier:
    """k-NN votes of one probe, or of adjacent probes, chosen by held-out examples.

    Args:
        k: neighbours at each probe.
        mode: "best", the single probe whose votes are right most often on held-out examples; "mix",
            the run of adjacent probes whose added votes are. Of several, the fewest probes, then
            the first.
        options: further options of `pdepth.probe_votes`: metric, weights, backend, num_threads,
            memory.

    Attributes (after `fit`):
        classes_: (C,) labels of the support, ascending.
        probes_: range of the probes that vote.
        held_out_accuracy_: (L, L) float64; row i, column j: accuracy of the added votes of probes i
            to j on held-out examples; NaN below the diagonal. The diagonal is each probe by itself.

    Raises:
        ValueError, TypeError: as `pdepth.probe_votes`.
        RuntimeError: `predict`, `predict_proba` or `score` before `fit`.
    """

    k: int
    options: dict[str, Any]

    classes_: Any
    probes_: range
    held_out_accuracy_: NDArray[np.float64]

    def __init__(self, k: int = 30, *, mode: str = "best", **options: Any) -> None:
        self.k, self.options = arguments.check_int(k, "k"), options
        self.mode: str = arguments.check_choice(mode, "mode", MODES)
        self._support: tuple[list[Any], Any] | None = None

    def fit(
        self, support: Any, labels: Any, held_out: Any, held_out_labels: Any
    ) -> MiddleProbeClassifier:
        """Choose the probes that vote. The support is kept without a copy.

        Args:
            support, held_out: embeddings (M, D) and (n, D), one array per probe. The network must
                not have been trained on held-out rows, whose labels it would have memorised.
            labels, held_out_labels: (M,) and (n,) integers, possibly noisy.
        """
        arrays = check_probe_arrays(support, "support")
        votes = self._vote(arrays, labels, check_probe_arrays(held_out, "held_out"))
        counts = to_numpy(votes.counts)
        targets = arguments.check_integers(held_out_labels, "held_out_labels", counts.shape[1])
        self.held_out_accuracy_ = accuracy_of_runs(counts, to_numpy(votes.classes), targets)
        self.probes_ = choose_probes(self.held_out_accuracy_, self.mode)
        self.classes_, self._support = votes.classes, (arrays, labels)
        return self

    def predict(self, queries: Any) -> Any:
        """(N,) class with most votes, the smallest of several; queries: one array per probe."""
        votes, counts = self._count(queries)
        return convert_like(to_numpy(votes.classes)[majority(counts)[0]], votes.classes)

    def predict_proba(self, queries: Any) -> Any:
        """(N, C) float64: each class's share of the votes."""
        votes, counts = self._count(queries)
        return convert_like(counts / counts.sum(axis=1, keepdims=True), votes.classes)

    def score(self, queries: Any, labels: Any) -> float:
        """Accuracy of `predict` on labels (N,)."""
        predictions = to_numpy(self.predict(queries))
        return float(
            (predictions == arguments.check_integers(labels, "labels", len(predictions))).mean()
        )

    def _count(self, queries: Any) -> tuple[Votes, NDArray[Any]]:
        """Votes of the chosen probes, and their counts (N, C), added."""
        if self._support is None:
            raise RuntimeError(
                "MiddleProbeClassifier.predict: expected a fitted classifier; call fit first."
            )
        support, labels = self._support
        arrays = check_probe_arrays(queries, "queries")
        if len(arrays) != len(support):
            raise ValueError(
                f"queries: expected {len(support)} probes as in support, got {len(arrays)}."
            )
        chosen = slice(self.probes_.start, self.probes_.stop)
        votes = self._vote(support[chosen], labels, arrays[chosen])
        return votes, to_numpy(votes.counts).sum(axis=0)

    def _vote(self, support: list[Any], labels: Any, queries: list[Any]) -> Votes:
        return probe_votes(support, labels, queries, k=self.k, return_counts=True, **self.options)


def accuracy_of_runs(
    counts: NDArray[Any], classes: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Accuracy (L, L) of the added votes of probes i to j on n examples; NaN where i > j.

    Args:
        counts: (L, n, C) vote counts.
        classes: (C,) labels of the columns.
        labels: (n,).
    """
    layers = len(counts)
    accuracy = np.full((layers, layers), np.nan)
    for first in range(layers):
        added = np.zeros_like(counts[0])
        for last in range(first, layers):
            added += counts[last]
            accuracy[first, last] = (classes[majority(added)[0]] == labels).mean()
    return accuracy


def choose_probes(accuracy: NDArray[np.float64], mode: str) -> range:
    """The run of probes with the greatest accuracy (L, L); the shortest of several, then the first.

    Args:
        mode: "best" for runs of one probe, "mix" for all.
    """
    runs = [
        (-accuracy[first, last], last - first, first)
        for first, last in zip(*np.triu_indices(len(accuracy)), strict=True)
        if mode == "mix" or first == last
    ]
    _, length, first = min(runs)
    return range(int(first), int(first + length + 1))


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall of the rows whose score is at least each threshold.

    Attributes:
        thresholds: (T,) distinct scores, the greatest first.
        precision, recall: (T,) float64.
        average: mean of the precisions, each weighted by the recall that it adds, as scikit-learn's
            `average_precision_score`. A random score has the share of relevant rows.
    """

    thresholds: NDArray[Any]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average: float


def precision_recall(scores: Any, relevant: Any) -> PrecisionRecall:
    """How well scores (N,), the greatest first, find the relevant rows (N,) bool.

    Raises:
        ValueError: different lengths, NaN, or no relevant row.
    """
    values = np.asarray(to_numpy(scores))
    is_relevant = arguments.check_integers(relevant, "relevant", len(values)).astype(bool)
    if values.ndim != 1:
        raise ValueError(f"scores: expected shape (N,), got {values.shape}.")
    if np.isnan(values).any():
        raise ValueError(f"scores: expected numbers, got NaN in row {np.isnan(values).argmax()}.")
    if not is_relevant.any():
        raise ValueError("relevant: expected at least one true entry, got none.")
    distinct, place = np.unique(values, return_inverse=True)
    hits = np.bincount(place, is_relevant, len(distinct))[::-1].cumsum()
    retrieved = np.bincount(place, minlength=len(distinct))[::-1].cumsum()
    precision, recall = hits / retrieved, hits / hits[-1]
    average = float((np.diff(recall, prepend=0) * precision).sum())
    return PrecisionRecall(distinct[::-1], precision, recall, average)
