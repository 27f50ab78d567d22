"""Where labels are noisy: predicting from a middle probe, and finding the labels that are wrong.

A network that learns wrong labels by heart does so in its later layers (Baldock, Maennel and
Neyshabur, arXiv 2106.09647), so the votes of a probe before these may be right more often than the
network. Which probe that is, held-out examples say; their labels may be as noisy as the others',
since noise that does not look at the input lowers every probe's agreement with them alike.

    middle = MiddleProbeClassifier(k=30).fit(support, labels, held_out, held_out_labels)
    middle.predict(queries)  # by the votes of middle.probes_

    found = mislabelled(probe_votes(support, labels, return_counts=True), labels)
    found.against  # of the votes of all probes on each row, the share for other classes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.deep_knn import nonconformity
from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.result import Votes
from pdepth.votes import depth_from_votes, probe_votes

__all__ = [
    "MiddleProbeClassifier",
    "PrecisionRecall",
    "Suspicion",
    "mislabelled",
    "precision_recall",
]

MODES = ("best", "mix")


class MiddleProbeClassifier:
    """k-NN votes of the probe, or of the adjacent probes, that held-out examples choose.

    Args:
        k: neighbours at each probe.
        mode: "best", the one probe whose votes give held-out labels most often; "mix", the run of
            adjacent probes whose added votes do. Of equals the fewest probes, then the first.
        options: others of `pdepth.probe_votes`: metric, weights, backend, num_threads, memory.

    Attributes, after `fit`:
        classes_: (C,) the labels of the support, ascending.
        probes_: range of the probes that vote.
        held_out_accuracy_: (L, L) float64, of the votes of probes i to j added, in row i and column
            j, how often they give the held-out labels; NaN below the diagonal. The diagonal is each
            probe by itself.

    Raises ValueError and TypeError as `pdepth.probe_votes`; RuntimeError for a step out of turn.
    """

    classes_: Any
    probes_: range
    held_out_accuracy_: NDArray[np.float64]

    def __init__(self, k: int = 30, *, mode: str = "best", **options: Any) -> None:
        self.k, self.options = arguments.check_int(k, "k"), options
        self.mode = arguments.check_choice(mode, "mode", MODES)
        self._support: tuple[list[Any], Any] | None = None

    def fit(
        self, support: Any, labels: Any, held_out: Any, held_out_labels: Any
    ) -> MiddleProbeClassifier:
        """Choose where to predict from. No copies are made.

        Args:
            support, held_out: embeddings (M, D) and (n, D), one array a probe.
            labels, held_out_labels: (M,) and (n,) integers, noisy perhaps. The network must not
                have been trained on held-out rows: it knows its own by heart.
        """
        given = _probes(support, "support")
        votes = self._votes(given, labels, held_out)
        counts = to_numpy(votes.counts)
        wanted = arguments.check_integers(held_out_labels, "held_out_labels", counts.shape[1])
        self.held_out_accuracy_ = accuracies(counts, to_numpy(votes.classes), wanted)
        self.probes_ = chosen(self.held_out_accuracy_, self.mode)
        self.classes_, self._support = votes.classes, (given, labels)
        return self

    def predict(self, queries: Any) -> Any:
        """(N,) the class with most votes, of equals the smallest; queries: one array a probe."""
        votes, counts = self._asked(queries)
        return convert_like(to_numpy(votes.classes)[counts.argmax(axis=1)], votes.classes)

    def predict_proba(self, queries: Any) -> Any:
        """(N, C) float64: each class's share of the votes."""
        votes, counts = self._asked(queries)
        return convert_like(counts / counts.sum(axis=1, keepdims=True), votes.classes)

    def score(self, queries: Any, labels: Any) -> float:
        """How often `predict` gives the labels (N,)."""
        found = to_numpy(self.predict(queries))
        return float((found == arguments.check_integers(labels, "labels", len(found))).mean())

    def _asked(self, queries: Any) -> tuple[Votes, NDArray[Any]]:
        if self._support is None:
            raise RuntimeError("predict is asked of a MiddleProbeClassifier that is not fitted.")
        support, labels = self._support
        given = _probes(queries, "queries")
        if len(given) != len(support):
            raise ValueError(f"queries has {len(given)} probes and support {len(support)}.")
        some = slice(self.probes_.start, self.probes_.stop)
        votes = self._votes(support[some], labels, given[some])
        return votes, to_numpy(votes.counts).sum(axis=0)

    def _votes(self, support: list[Any], labels: Any, queries: Any) -> Votes:
        if queries is None:
            raise TypeError("held_out is None; embeddings outside of the support are wanted.")
        return probe_votes(
            support,
            labels,
            _probes(queries, "held_out"),
            k=self.k,
            return_counts=True,
            **self.options,
        )


def accuracies(
    counts: NDArray[Any], classes: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(L, L) how often the added votes of probes i to j, of counts (L, n, C), give labels (n,)."""
    layers = len(counts)
    found = np.full((layers, layers), np.nan)
    for first in range(layers):
        added = np.zeros_like(counts[0])
        for last in range(first, layers):
            added += counts[last]
            found[first, last] = (classes[added.argmax(axis=1)] == labels).mean()
    return found


def chosen(accuracy: NDArray[np.float64], mode: str) -> range:
    """The probes of the greatest accuracy (L, L); of equals the fewest, then the first."""
    runs = [
        (-accuracy[first, last], last - first, first)
        for first, last in zip(*np.triu_indices(len(accuracy)), strict=True)
        if mode == "mix" or first == last
    ]
    _, more, first = min(runs)
    return range(int(first), int(first + more + 1))


@dataclass(frozen=True, eq=False)
class Suspicion:
    """How much speaks against the labels of M rows; arrays of the votes' kind.

    Attributes:
        against: (M,) float64, the share of all probes' neighbours with another label: Deep k-NN's
            nonconformity of the label, over L k. 1 is the most suspicious.
        depth: (M,) int64, from which probe on all votes give the label; L where the last does not.
            A network that learnt a wrong label gives it late.
        both: (M,) float64, the mean of `against` and depth / L.
    """

    against: Any
    depth: Any
    both: Any


def mislabelled(votes: Votes, labels: Any) -> Suspicion:
    """Of the support's own votes, each row left out of them, what speaks against its label.

    Args:
        votes: with counts, of several probes: `probe_votes(support, labels, return_counts=True)`.
        labels: (M,) those of the support.

    Raises:
        ValueError: no counts, those of one array alone or of weights, or a label that is no class.
    """
    if votes.counts is None or votes.counts.ndim != 3:
        raise ValueError("mislabelled needs counts of several probes: return_counts=True.")
    counts, classes = to_numpy(votes.counts), to_numpy(votes.classes)
    layers = len(counts)
    given, codes = arguments.encode_known_labels(labels, classes, counts.shape[1])
    if counts.dtype.kind == "f":
        raise ValueError("mislabelled counts neighbours; votes without weights are wanted.")
    strange = nonconformity(counts)[np.arange(len(given)), codes]
    neighbours = counts.sum(axis=(0, 2), dtype=np.int64)
    depth, _ = depth_from_votes(to_numpy(votes.votes), given)
    # One division of whole numbers: equal evidence gives equal scores.
    both = (strange * layers + depth * neighbours) / (2 * layers * neighbours)
    found = (strange / neighbours, depth, both)
    return Suspicion(*(convert_like(each, votes.counts) for each in found))


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Of the rows with a score of at least each threshold, how many are meant, and of those.

    Attributes:
        thresholds: (T,) the distinct scores, from the greatest.
        precision, recall: (T,) float64.
        average: the precisions, each weighted by the recall that it adds: scikit-learn's
            `average_precision_score`. What a score by chance has is the share of the meant rows.
    """

    thresholds: NDArray[Any]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average: float


def precision_recall(scores: Any, meant: Any) -> PrecisionRecall:
    """How well scores (N,), the greatest first, find the rows that are meant (N,) bool.

    Raises:
        ValueError: other lengths, NaN, or no row is meant.
    """
    values = np.asarray(to_numpy(scores))
    wanted = arguments.check_integers(meant, "meant", len(values)).astype(bool)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError("scores are to be one number a row, and none of them NaN.")
    if not wanted.any():
        raise ValueError("meant is true nowhere; at least one row is wanted.")
    distinct, place = np.unique(values, return_inverse=True)
    hits = np.bincount(place, wanted, len(distinct))[::-1].cumsum()
    taken = np.bincount(place, minlength=len(distinct))[::-1].cumsum()
    precision, recall = hits / taken, hits / hits[-1]
    average = float((np.diff(recall, prepend=0) * precision).sum())
    return PrecisionRecall(distinct[::-1], precision, recall, average)


def _probes(given: Any, what: str) -> list[Any]:
    """Embeddings as a list, one array a probe."""
    if isinstance(given, Iterator):
        raise TypeError(
            f"{what} is a {type(given).__name__}, which is read once; a sequence or mapping of "
            "arrays is wanted."
        )
    if hasattr(given, "shape"):
        raise TypeError(f"{what} is one array; one a probe is wanted, in a list.")
    return list(given.values() if isinstance(given, Mapping) else given)
