"""lightly's k-NN evaluation of features, by pdepth's engine.

    from pdepth.compat.lightly import knn_predict

or, for lightly's own `BenchmarkModule` and `KNNClassifier`, `pdepth.compat.lightly.patch()`, and
`unpatch()`. lightly itself is needed for that alone.

As there, similarities are inner products of the features as they are given; whoever wants cosines
gives rows of norm one. What differs. Similarities and scores are float64 sums, of which the ranks
follow exactly; lightly's are float32, so that classes whose scores nearly tie may change places
there, and rows whose similarities nearly tie at the k-th place. Classes of equal scores, such as
those without a neighbour, come in the order of their numbers; lightly's `argsort` promises none.
Large similarities do not overflow. NaN and labels that are no class are errors.

A bank that is asked again and again, batch by batch, is prepared once by a `KnnPredictor`; the
function prepares it at each call, since nothing tells it that a tensor has not been written to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.arrays.convert import convert_like
from pdepth.compat.shared.patching import Patch
from pdepth.compat.shared.scores import Bank, rank_in_doubt, ranked
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
    """lightly's `knn_predict`: all classes (B, num_classes) int64, the likeliest first.

    Args:
        feature: (B, D). feature_bank: (D, N), of the same type.
        feature_labels: (N,) integers from 0 to num_classes - 1.
        knn_k: neighbours that vote, each with exp(similarity / knn_t).

    Raises RuntimeError, as lightly does, for shapes, types, labels and k that do not fit;
    ValueError for NaN and for a temperature that is not positive.
    """
    return KnnPredictor(feature_bank, feature_labels, num_classes, knn_k, knn_t)(feature)


class KnnPredictor:
    """`knn_predict` of one bank, which is copied and prepared once: `KnnPredictor(...)(feature)`.

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
        rows = feature_bank.T if feature_bank.ndim == 2 else feature_bank
        self._bank, self._k, self._t = Bank(rows, feature_labels, num_classes), knn_k, knn_t

    def __call__(self, feature: Any) -> Any:
        """The classes (B, num_classes) int64 of the rows of `feature` (B, D), likeliest first."""
        stretches = self._bank.scores(feature, (self._k,), self._t, rank_in_doubt)
        return convert_like(np.concatenate([ranked(scores[0]) for _, scores in stretches]), feature)


_PATCH = Patch(lambda: [(_library().knn_predict, knn_predict)])
patch, unpatch = _PATCH.begin, _PATCH.end


def _library() -> Any:
    return require_tested(
        "lightly.utils.benchmarking.knn", "pdepth.compat.lightly.patch", "lightly", "1.5", "1.7"
    )
