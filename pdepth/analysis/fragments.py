"""Clean examples of a noisy regression, by neighbours among fragments of the label's range.

ConFrag (Kim, Moon, Moon, Woo and Kim, "Sample Selection via Contrastive Fragmentation for Noisy
Label Regression", arXiv 2502.17771) parts the labels into F fragments, pairs each with the one half
the range away, and trains an expert on each pair. Of an example the k nearest of a pair's own
examples tell which of the two fragments it resembles. What follows is the rule by which neighbours
select there; the paper's text leaves cases open, which are as in the authors' published code:

    a_j = 1 where at least k - 1 of the k neighbours are of fragment j, in j's pair
    eta = softmax over j of R / (|y - m_j| + 0.1), R the labels' range, m_j the middle of fragment j
    p   = sum over j of eta_j a_j (a_(j-1) or a_(j+1))

An example is selected with probability p. It needs a fragment near its label to agree, and one
beside that: two experts that have been trained apart. The training is the caller's; embeddings of
any network do, one for all pairs or one for each.

    found = neighbourhood_agreement(embeddings, labels, fragments=4)
    found.selected(seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.network import of_examples
from pdepth.analysis.outputs import softmax
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.votes import probe_votes

__all__ = ["Fragments", "NeighbourhoodAgreement", "fragmented", "neighbourhood_agreement"]

NEAREST = 0.1  # added to the distance from a fragment's middle, in the labels' unit


@dataclass(frozen=True, eq=False)
class Fragments:
    """Labels (M,) in F fragments, which hold as many distinct labels each, or one less.

    Attributes:
        labels: (M,) float64.
        number: (M,) int64, 0 .. F - 1, ascending with the label.
        middle: (F,) float64, half-way between a fragment's least and greatest label.
    """

    labels: NDArray[np.float64]
    number: NDArray[np.int64]
    middle: NDArray[np.float64]

    def __len__(self) -> int:
        """F."""
        return len(self.middle)

    def probability(self, agree: Any) -> NDArray[np.float64]:
        """(M,) float64, p as the module's head has it, of a_j: `agree` (M, F) bool.

        What a pair's expert predicts selects by the same rule; an example is chosen by either.
        """
        own = np.asarray(agree, bool)
        if own.shape != (len(self.labels), len(self)):
            raise ValueError(
                f"agree has shape {own.shape}; ({len(self.labels)}, {len(self)}) is wanted."
            )
        beside = np.zeros_like(own)
        beside[:, 1:] |= own[:, :-1]
        beside[:, :-1] |= own[:, 1:]
        away = np.abs(self.labels[:, None] - self.middle)
        weights = softmax(np.ptp(self.labels) / (away + NEAREST))
        found: NDArray[np.float64] = np.where(own & beside, weights, 0).sum(axis=1)
        return found


def fragmented(labels: Any, fragments: int = 4) -> Fragments:
    """Labels (M,), any finite numbers, in an even number of fragments.

    Raises ValueError for another number, for labels that are not finite, and for fewer distinct
    ones than fragments.
    """
    count = arguments.check_int(fragments, "fragments")
    if count % 2:
        raise ValueError(f"fragments is {count}; an even number is wanted, for pairs.")
    given = of_examples(labels, "labels", np.size(to_numpy(labels))).astype(np.float64)
    if np.isinf(given).any():
        raise ValueError(f"labels has infinity in row {int(np.isinf(given).argmax())}.")
    distinct, place = np.unique(given, return_inverse=True)
    if len(distinct) < count:
        raise ValueError(
            f"labels has {len(distinct)} distinct values; at least {count}, one a fragment, are "
            "wanted."
        )
    parts = np.array_split(distinct, count)
    number = np.repeat(np.arange(count), [len(part) for part in parts])[place]
    return Fragments(given, number, np.array([(part[0] + part[-1]) / 2 for part in parts]))


@dataclass(frozen=True, eq=False)
class NeighbourhoodAgreement:
    """What neighbours say of M labels.

    Attributes:
        fragments: of the labels.
        counts: (M, F) int64, of the k nearest in fragment j's pair, those of j.
        agree: (M, F) bool, counts >= k - 1.
        probability: (M,) float64, of being selected.
    """

    fragments: Fragments
    counts: NDArray[np.int64]
    agree: NDArray[np.bool_]
    probability: NDArray[np.float64]

    def selected(self, seed: int = 0) -> NDArray[np.bool_]:
        """(M,) bool, each with its own probability."""
        drawn = np.random.default_rng(seed).random(len(self.probability))
        found: NDArray[np.bool_] = drawn < self.probability
        return found


def neighbourhood_agreement(
    embeddings: Any,
    labels: Any,
    *,
    fragments: int = 4,
    k: int = 3,
    metric: str = "cosine",
    **options: Any,
) -> NeighbourhoodAgreement:
    """Which labels of a regression their neighbours bear out.

    Args:
        embeddings: (M, D), or F / 2 such, (M, D_t) of the expert for fragments t and t + F / 2.
        labels: (M,) finite numbers, noisy perhaps.
        fragments: F, even.
        k: neighbours, at least 2; an example is not its own.
        metric, options: as in `pdepth.probe_votes`; ConFrag's is "cosine".

    Raises:
        ValueError: as `fragmented` and `pdepth.probe_votes`; another number of embeddings.
    """
    parts = fragmented(labels, fragments)
    if arguments.check_int(k, "k") < 2:
        raise ValueError(f"k is {k}; at least 2 is wanted, since k - 1 neighbours agree.")
    pairs, rows = len(parts) // 2, len(parts.labels)
    given = list(embeddings) if isinstance(embeddings, Sequence) else [embeddings] * pairs
    if len(given) != pairs:
        raise ValueError(f"embeddings holds {len(given)} arrays; {pairs}, one a pair, are wanted.")
    for number, each in enumerate(given):
        if len(each) != rows:
            raise ValueError(f"embeddings[{number}] has {len(each)} rows for {rows} labels.")
    counts = np.empty((rows, len(parts)), np.int64)
    for first, each in enumerate(given):
        pair = np.array([first, first + pairs])
        inside = np.isin(parts.number, pair)
        support, votes_of = each[np.flatnonzero(inside)], parts.number[inside]
        for which, queries in ((inside, None), (~inside, each[np.flatnonzero(~inside)])):
            if which.any():
                votes = probe_votes(
                    support, votes_of, queries, k=k, metric=metric, return_counts=True, **options
                )
                counts[np.ix_(which, pair)] = to_numpy(votes.counts)
    agree = counts >= k - 1
    return NeighbourhoodAgreement(parts, counts, agree, parts.probability(agree))
