"""lightly's k-NN evaluation of features, with pdepth's search.

    from pdepth.compat.lightly import knn_predict

or, for lightly's own `BenchmarkModule` and `KNNClassifier`, `pdepth.compat.lightly.patch()`, and
`unpatch()`. lightly itself is needed for that alone.

As there, similarities are inner products of the features as they are passed: cosines where rows
have norm one.

What differs. Similarities and scores are float64 sums, from which the ranks follow exactly;
lightly's are float32, so that classes whose scores nearly tie may change places there, and rows
whose similarities nearly tie at the k-th place. Classes of equal scores, such as those without a
neighbour, come in the order of their numbers; lightly's `argsort` promises none. Large similarities
do not overflow. NaN and labels that are no class are errors.

A bank that is used again and again, batch by batch, is prepared once by a `KnnPredictor`; the
function prepares it at each call, since it cannot know whether a tensor has been written to.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.compat.shared.class_scores import FeatureBank, rank_classes
from pdepth.compat.shared.patching import Patch
from pdepth.optional import require_tested

__all__ = ["KnnPredictor", "knn_predict", "patch", "unpatch"]


def knn_predict(
    feature: Any,
    feature_bank: Any,
    feature_labels: Any,
    num_classes: int,
    knn_k: int = 200,
    knn_t: float = 0.1,
) -> Any:
    """Rank all classes (B, num_classes) int64, the likeliest first: lightly's `knn_predict`.

    Args:
        feature: (B, D). feature_bank: (D, N), of the same type.
        feature_labels: (N,) integers from 0 to num_classes - 1.
        knn_k: neighbours that vote, each with exp(similarity / knn_t).

    Raises:
        RuntimeError: as lightly does, for shapes, types, labels and k that do not fit.
        ValueError: NaN, or a temperature that is not positive.
    """
    return KnnPredictor(feature_bank, feature_labels, num_classes, knn_k, knn_t)(feature)


class KnnPredictor:
    """`knn_predict` for one bank, which is copied and prepared once: `KnnPredictor(...)(feature)`.

    Arguments and errors are those of `knn_predict`.
    """

    def __init__(
        self,
        feature_bank: Any,
        feature_labels: Any,
        num_classes: int,
        knn_k: int = 200,
        knn_t: float = 0.1,
    ) -> None:
        shape, labels = tuple(feature_bank.shape), np.shape(to_numpy(feature_labels))
        if len(shape) == 2 and labels == shape[:1] != shape[1:]:
            raise RuntimeError(
                f"feature_bank: expected shape (D, {shape[0]}), a column for each label, got "
                f"{shape}; pass its transpose, feature_bank.T."
            )
        rows = feature_bank.T if len(shape) == 2 else feature_bank
        self._bank = FeatureBank(rows, feature_labels, num_classes)
        self._k, self._temperature = knn_k, knn_t

    def __call__(self, feature: Any) -> Any:
        """Rank the classes (B, num_classes) int64 for the rows of `feature` (B, D)."""
        chunks = self._bank.scores(feature, (self._k,), self._temperature)
        ranks = [rank_classes(scores) for _, (scores,) in chunks]
        return convert_like(np.concatenate(ranks), feature)


_PATCH = Patch(lambda: [(_library().knn_predict, knn_predict)])
patch: Callable[[], ExitStack] = _PATCH.apply
unpatch: Callable[[], None] = _PATCH.undo


def _library() -> Any:
    return require_tested(
        "lightly.utils.benchmarking.knn", "pdepth.compat.lightly.patch", "lightly", "1.5", "1.7"
    )
