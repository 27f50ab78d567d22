"""The k-NN evaluations of DINO and DINOv2, by pdepth's engine.

    from pdepth.compat.dino import knn_classifier  # DINO's eval_knn.py
    from pdepth.compat.dino import KnnModule  # dinov2/eval/knn.py

Neither repository is needed. As there, similarities are inner products of the features as they are
given, which both evaluations have normalised before.

What differs. Similarities and scores are float64 sums, of which ranks follow exactly; theirs are
float32, in which near ties may change places. Classes of equal scores, such as those without a
neighbour, come in the order of their numbers; torch's `sort` promises none. `knn_classifier` takes
any number of images, where DINO's wants 100 at least, and several k, answered from one search. NaN,
and labels that are no class, are errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.compat.shared.scores import Bank, rank_in_doubt

__all__ = ["KnnModule", "knn_classifier"]


def knn_classifier(
    train_features: Any,
    train_labels: Any,
    test_features: Any,
    test_labels: Any,
    k: int | Sequence[int],
    T: float,
    num_classes: int = 1000,
) -> Any:
    """DINO's `knn_classifier`: top-1 and top-5 accuracy in percent; of several k, a dict by k.

    A class weighs as much as the exp(similarity / T) of those of the k nearest training rows that
    are of it. "Top 5" are the first min(5, k) classes.

    Args:
        train_features: (M, D). train_labels: (M,) integers from 0 to num_classes - 1.
        test_features: (N, D). test_labels: (N,) integers.

    Raises RuntimeError, as torch does there, for shapes, types, labels and k that do not fit, and
    for fewer than min(5, k) classes; ValueError for NaN and for T that is not positive.
    """
    ks = (k,) if isinstance(k, int | np.integer) else tuple(k)
    if not ks:
        raise RuntimeError("k is empty; at least one number is wanted.")
    bank = Bank(train_features, train_labels, num_classes)
    targets: NDArray[np.int64] = to_numpy(test_labels)
    if targets.shape != (len(test_features),):
        raise RuntimeError(
            f"test_labels has shape {targets.shape}; one for each of {len(test_features)} rows of "
            "test_features is wanted."
        )
    if num_classes < min(5, max(ks)):
        raise RuntimeError(f"num_classes is {num_classes}; the top {min(5, max(ks))} are counted.")
    correct = np.zeros((len(ks), 2), dtype=np.int64)
    for part, scores in bank.scores(test_features, ks, T, rank_in_doubt):
        for place, score in enumerate(scores):
            ahead = _ahead(score, targets[part])
            correct[place] += (ahead < 1).sum(), (ahead < min(5, ks[place])).sum()
    found = {
        each: (100 * int(top1) / len(targets), 100 * int(top5) / len(targets))
        for each, (top1, top5) in zip(ks, correct, strict=True)
    }
    return found[k] if isinstance(k, int | np.integer) else found


def _ahead(score: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes (n,) come before the target's; all of them before what is no class."""
    classes = np.arange(score.shape[1])
    known = (targets >= 0) & (targets < len(classes))
    own = score[np.arange(len(score)), np.where(known, targets, 0)][:, None]
    before = (score > own) | ((score == own) & (classes < targets[:, None]))
    ahead: NDArray[np.int64] = np.where(known, before.sum(axis=1), len(classes))
    return ahead


class KnnModule(torch.nn.Module):
    """DINOv2's `KnnModule`: the classes' probabilities, for several k from one search.

    Weights are softmax(similarity / T) over the neighbours of the largest k; for each k, a class
    has the sum of its own among the k first. All training rows are held, as a copy, and each
    process answers its own features: nothing is shared between ranks.

    Args:
        train_features: (M, D). train_labels: (M,) integers from 0 to num_classes - 1.
        nb_knn: several k. T: the temperature. device: where the rows are held.

    Raises RuntimeError as `knn_classifier`.
    """

    def __init__(
        self,
        train_features: Any,
        train_labels: Any,
        nb_knn: Sequence[int],
        T: float,
        device: Any,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.device, self.nb_knn, self.max_k, self.T = device, nb_knn, max(nb_knn), T
        self.num_classes = int(num_classes)
        self._bank = Bank(train_features.to(device), train_labels, self.num_classes)

    def forward(self, features_rank: Any) -> dict[int, Any]:
        """By k, probabilities (N, num_classes) in the type of `features_rank` (N, D)."""
        ks = [*self.nb_knn, self.max_k]
        kind = "float64" if features_rank.dtype == torch.float64 else "float32"

        def shares(scores: list[NDArray[np.float64]], factor: Any = 1.0) -> list[NDArray[Any]]:
            whole = scores[-1].sum(axis=1, keepdims=True)
            return [(score / whole * factor).astype(kind) for score in scores[:-1]]

        def doubtful(
            scores: list[NDArray[np.float64]], slack: NDArray[np.float64]
        ) -> NDArray[np.bool_]:
            if kind == "float64":
                return np.ones(len(slack), dtype=np.bool_)  # each bit is asked
            # The scores, their sum over the classes, and the quotient.
            off = 4 * slack[:, None] + (self.num_classes + 4) * np.finfo(np.float64).eps
            least, most = shares(scores, 1 - off), shares(scores, 1 + off)
            unlike = [(a != b).any(axis=1) for a, b in zip(least, most, strict=True)]
            found: NDArray[np.bool_] = np.any(unlike, axis=0)
            return found

        parts = [
            shares(scores) for _, scores in self._bank.scores(features_rank, ks, self.T, doubtful)
        ]
        return {
            k: convert_like(np.concatenate([part[place] for part in parts]), features_rank).to(
                features_rank.dtype
            )
            for place, k in enumerate(self.nb_knn)
        }
