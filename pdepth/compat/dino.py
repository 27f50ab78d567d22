"""The k-NN evaluations of DINO and DINOv2, with pdepth's search.

    from pdepth.compat.dino import knn_classifier  # DINO's eval_knn.py
    from pdepth.compat.dino import KnnModule  # dinov2/eval/knn.py

Neither repository is needed. As there, similarities are inner products of the features as they are
passed, which both evaluations have normalised before.

What differs. Similarities and scores are float64 sums, from which ranks follow exactly; theirs are
float32, in which near ties may change places. Classes of equal scores, such as those without a
neighbour, come in the order of their numbers; torch's `sort` promises none. `knn_classifier` takes
any number of images, where DINO's needs at least 100, and several k, answered from one search. NaN,
and labels that are no class, are errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.compat.shared.class_scores import FeatureBank
from pdepth.optional import require

require("torch", "pdepth.compat.dino", "torch")

import torch

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
    """Compute top-1 and top-5 accuracy in percent, for several k a dict by k: DINO's function.

    A class weighs as much as the exp(similarity / T) of those of the k nearest training rows that
    are of it. "Top 5" are the first min(5, k) classes.

    Args:
        train_features: (M, D). train_labels: (M,) integers from 0 to num_classes - 1.
        test_features: (N, D). test_labels: (N,) integers.

    Raises:
        RuntimeError: as torch does there, for shapes, types, labels and k that do not fit, and for
            fewer than min(5, k) classes.
        ValueError: NaN, or T that is not positive.
    """
    ks = (k,) if isinstance(k, int | np.integer) else tuple(k)
    if not ks:
        raise RuntimeError("k: expected at least one integer, got an empty sequence.")
    bank = FeatureBank(train_features, train_labels, num_classes)
    labels: NDArray[np.int64] = to_numpy(test_labels)
    if labels.shape != (len(test_features),):
        raise RuntimeError(
            f"test_labels: expected shape ({len(test_features)},), one for each row of "
            f"test_features, got {labels.shape}."
        )
    if num_classes < min(5, max(ks)):
        raise RuntimeError(
            f"num_classes: expected at least {min(5, max(ks))}, so many are ranked, got "
            f"{num_classes}."
        )
    correct = np.zeros((len(ks), 2), dtype=np.int64)
    for chunk, scores in bank.scores(test_features, ks, T):
        for place, score in enumerate(scores):
            rank = _rank_of(labels[chunk], score)
            correct[place] += (rank < 1).sum(), (rank < min(5, ks[place])).sum()
    accuracies = {
        number: (100 * int(top1) / len(labels), 100 * int(top5) / len(labels))
        for number, (top1, top5) in zip(ks, correct, strict=True)
    }
    return accuracies[k] if isinstance(k, int | np.integer) else accuracies


def _rank_of(labels: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the classes (n,) that rank before the label's; all of them where it is no class."""
    classes = np.arange(score.shape[1])
    valid = (labels >= 0) & (labels < len(classes))
    own = score[np.arange(len(score)), np.where(valid, labels, 0)][:, None]
    before = (score > own) | ((score == own) & (classes < labels[:, None]))
    rank: NDArray[np.int64] = np.where(valid, before.sum(axis=1), len(classes))
    return rank


class KnnModule(torch.nn.Module):
    """DINOv2's `KnnModule`: probabilities of the classes, for several k from one search.

    Weights are softmax(similarity / T) over the neighbours of the largest k; for each k, a class
    has the sum of its own among the k first. All training rows are held, as a copy, and each
    process answers for its own features: nothing is shared between ranks.

    Args:
        train_features: (M, D). train_labels: (M,) integers from 0 to num_classes - 1.
        nb_knn: several k. T: the temperature. device: where the rows are held.

    Raises:
        RuntimeError: as `knn_classifier`.
    """

    device: Any
    nb_knn: Sequence[int]
    max_k: int

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
        self.num_classes: int = int(num_classes)
        self._bank = FeatureBank(train_features.to(device), train_labels, self.num_classes)

    def forward(self, features_rank: Any) -> dict[int, Any]:
        """Compute, by k, probabilities (N, num_classes) in the type of `features_rank` (N, D)."""
        ks = [*self.nb_knn, self.max_k]
        dtype = "float64" if features_rank.dtype == torch.float64 else "float32"

        def shares(scores: list[NDArray[np.float64]]) -> list[NDArray[Any]]:
            total = scores[-1].sum(axis=1, keepdims=True)
            return [(score / total).astype(dtype) for score in scores[:-1]]

        chunks = self._bank.scores(features_rank, ks, self.T)
        by_k = zip(*(shares(scores) for _, scores in chunks), strict=True)
        return {
            k: convert_like(np.concatenate(parts), features_rank).to(features_rank.dtype)
            for k, parts in zip(self.nb_knn, by_k, strict=True)
        }
