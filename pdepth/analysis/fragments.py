"""Clean examples of a noisy regression, by neighbours among fragments of the label's range.

ConFrag (Kim, Moon, Moon, Woo and Kim, "Sample Selection via Contrastive Fragmentation for Noisy
Label Regression", arXiv 2502.17771) divides the labels into F fragments, pairs each with the one
half the range away, and trains an expert on each pair. The k nearest neighbours of an example among
a pair's own examples tell which of the two fragments it resembles. This module implements the rule
that selects examples by neighbours; cases that the paper's text leaves open follow the authors'
published code:

    a_j = 1 where at least k - 1 of the k neighbours are of fragment j, in j's pair
    eta = softmax over j of R / (|y - m_j| + 0.1), R the labels' range, m_j the middle of fragment j
    p   = sum over j of eta_j a_j (a_(j-1) or a_(j+1))

An example is selected with probability p: a fragment near its label has to agree, and so has an
adjacent one, whose expert was trained separately. Training the experts is up to the caller; the
embeddings may come from one network for all pairs, or from one network per pair.

    agreement = neighbourhood_agreement(embeddings, labels, fragments=4)
    agreement.selected(seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_shape, check_values
from pdepth.analysis.outputs import softmax
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.votes import probe_votes

__all__ = ["Fragments", "NeighbourhoodAgreement", "fragment_labels", "neighbourhood_agreement"]

OFFSET = 0.1  # added to the distance from a fragment's middle, in units of the label


@dataclass(frozen=True, eq=False)
class Fragments:
    """Labels (M,) divided into F fragments of equally many distinct labels, up to one.

    Attributes:
        labels: (M,) float64.
        number: (M,) int64, fragment of each label, 0 .. F - 1, ascending with the label.
        middle: (F,) float64, mean of a fragment's least and greatest label.
    """

    labels: NDArray[np.float64]
    number: NDArray[np.int64]
    middle: NDArray[np.float64]

    def __len__(self) -> int:
        """Number of fragments."""
        return len(self.middle)

    def probability(self, agree: Any) -> NDArray[np.float64]:
        """Probability p (M,) float64 of selecting each example; the module's docstring defines it.

        The same rule selects by the predictions of a pair's expert; ConFrag keeps examples that
        either selects.

        Args:
            agree: (M, F) bool, a_j.
        """
        agreeing = check_shape(agree, "agree", (len(self.labels), len(self))).astype(bool)
        adjacent = np.zeros_like(agreeing)
        adjacent[:, 1:] |= agreeing[:, :-1]
        adjacent[:, :-1] |= agreeing[:, 1:]
        distance = np.abs(self.labels[:, None] - self.middle)
        weights = softmax(np.ptp(self.labels) / (distance + OFFSET))
        probability: NDArray[np.float64] = np.where(agreeing & adjacent, weights, 0).sum(axis=1)
        return np.minimum(probability, 1)  # a sum of weights may round to more


def fragment_labels(labels: Any, fragments: int = 4) -> Fragments:
    """Divide labels (M,), any finite numbers, into an even number of fragments.

    Raises:
        ValueError: an odd number, labels that are not finite, or fewer distinct labels than
            fragments.
    """
    count = arguments.check_int(fragments, "fragments")
    if count % 2:
        raise ValueError(f"fragments: expected an even number, got {count}.")
    values = check_values(labels, "labels", np.size(to_numpy(labels))).astype(np.float64)
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise ValueError(f"labels: expected finite numbers, got infinity in row {row}.")
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) < count:
        raise ValueError(
            f"labels: expected at least {count} distinct values, one per fragment, got "
            f"{len(distinct)}."
        )
    chunks = np.array_split(distinct, count)
    number = np.repeat(np.arange(count), [len(chunk) for chunk in chunks])[place]
    middle = np.array([(chunk[0] + chunk[-1]) / 2 for chunk in chunks])
    return Fragments(values, number, middle)


@dataclass(frozen=True, eq=False)
class NeighbourhoodAgreement:
    """Agreement of neighbours with M labels.

    Attributes:
        fragments: of the labels.
        counts: (M, F) int64, how many of the k nearest in fragment j's pair are of fragment j.
        agree: (M, F) bool, counts >= k - 1.
        probability: (M,) float64, of being selected.
    """

    fragments: Fragments
    counts: NDArray[np.int64]
    agree: NDArray[np.bool_]
    probability: NDArray[np.float64]

    def selected(self, seed: int = 0) -> NDArray[np.bool_]:
        """Draw a selection (M,) bool, each example with its own probability."""
        uniform = np.random.default_rng(seed).random(len(self.probability))
        selection: NDArray[np.bool_] = uniform < self.probability
        return selection


def neighbourhood_agreement(
    embeddings: Any,
    labels: Any,
    *,
    fragments: int = 4,
    k: int = 3,
    metric: str = "cosine",
    **options: Any,
) -> NeighbourhoodAgreement:
    """Which labels of a regression agree with those of their neighbours.

    Args:
        embeddings: (M, D), or a list of F / 2 arrays, the t-th (M, D_t) of the expert for fragments
            t and t + F / 2.
        labels: (M,) finite numbers, possibly noisy.
        fragments: F, even.
        k: neighbours, at least 2; an example is not its own neighbour.
        metric, options: as in `pdepth.probe_votes`; ConFrag uses "cosine".

    Raises:
        ValueError: as `fragment_labels` and `pdepth.probe_votes`; another number of embeddings.
    """
    divided = fragment_labels(labels, fragments)
    if arguments.check_int(k, "k") < 2:
        raise ValueError(f"k: expected an integer >= 2, since k - 1 neighbours agree, got {k}.")
    pairs, rows = len(divided) // 2, len(divided.labels)
    arrays = list(embeddings) if isinstance(embeddings, Sequence) else [embeddings] * pairs
    if len(arrays) != pairs:
        raise ValueError(f"embeddings: expected {pairs} arrays, one per pair, got {len(arrays)}.")
    for number, array in enumerate(arrays):
        if len(array) != rows:
            raise ValueError(
                f"embeddings[{number}]: expected {rows} rows, one per label, got {len(array)}."
            )
    counts = np.empty((rows, len(divided)), np.int64)
    for first, array in enumerate(arrays):
        pair = np.array([first, first + pairs])
        inside = np.isin(divided.number, pair)
        support, support_labels = array[np.flatnonzero(inside)], divided.number[inside]
        for subset, queries in ((inside, None), (~inside, array[np.flatnonzero(~inside)])):
            if subset.any():
                votes = probe_votes(
                    support, support_labels, queries, k=k, metric=metric, return_counts=True,
                    **options,
                )  # fmt: skip
                counts[np.ix_(subset, pair)] = to_numpy(votes.counts)
    agree = counts >= k - 1
    return NeighbourhoodAgreement(divided, counts, agree, divided.probability(agree))
