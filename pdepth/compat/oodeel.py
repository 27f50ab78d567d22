"""oodeel's DKNN, the distance to the k-th nearest neighbour as a score, with pdepth's search.

    from pdepth.compat.oodeel import DKNN

A subclass with oodeel's parameters, features, aggregation and results (Sun et al., arXiv
2204.06507; `pdepth.analysis.deep_knn` has that score for embeddings, and Papernot and McDaniel's
Deep k-NN). oodeel searches once for every batch of a DataLoader; here one search serves all, and so
the features of all are held. Where inputs are perturbed (`eps`) it is one a batch here too.
`use_gpu=True` is oodeel's own search, by faiss on the GPU.

What differs. Distances are float64 sums of the same float32 features, rounded to float32 once;
faiss, in oodeel, adds up products in float32. NaN is an error. faiss itself is needed: oodeel
imports it.
"""

from __future__ import annotations

import sys
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pdepth.compat.faiss import IndexFlatL2
from pdepth.optional import require_tested

require_tested("oodeel.methods", "pdepth.compat.oodeel", "oodeel", "0.4", "0.5")

from oodeel import methods
from oodeel.types import DatasetType

__all__ = ["DKNN"]


class DKNN(methods.DKNN):
    """oodeel's DKNN, with its parameters: nearest, use_gpu, aggregator and the base class's."""

    def score(
        self, dataset: Any, verbose: bool = False
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Compute oodeel's `score`: scores (N,), larger for outliers, and the labels and logits."""
        is_loader = isinstance(dataset, get_args(DatasetType) or (DatasetType,))
        if self.feature_extractor is None or self.eps > 0 or not is_loader:
            result: tuple[NDArray[np.float64], dict[str, Any]] = super().score(dataset, verbose)
            return result
        features, info = self.feature_extractor.predict(
            dataset, postproc_fns=self.postproc_fns, verbose=verbose, numpy_concat=True
        )
        layers = [self._score_layer(number, rows, info) for number, rows in enumerate(features)]
        # For several layers, `fit` has made an aggregator where none was passed.
        scores = layers[0] if len(layers) == 1 else self.aggregator.aggregate(layers)
        return scores.astype(np.float64), info

    def _fit_to_dataset(self, fit_dataset: Any, verbose: bool = False, **kwargs: Any) -> None:
        # The rows' own scores, for an aggregator: in one search, not one a batch.
        super()._fit_to_dataset(fit_dataset, verbose, **kwargs | {"batch_size": sys.maxsize})

    def _create_index(self, dim: int) -> Any:
        return super()._create_index(dim) if self.use_gpu else IndexFlatL2(dim)
