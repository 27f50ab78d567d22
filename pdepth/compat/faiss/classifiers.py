"""k-NN classifiers that are built on faiss' flat indexes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.rows import is_torch
from pdepth.compat.faiss.flat import THREADS, IndexFlat, IndexFlatL2
from pdepth.compat.faiss.rows import METRIC_INNER_PRODUCT, METRIC_L2, as_rows
from pdepth.compat.shared.fitted import FittedRows
from pdepth.search.voting import Counted, count_votes


class FaissKNeighbors:
    """The classifier that has been copied into many projects: an IndexFlatL2 and a majority vote.

    Of tied classes the smallest label wins. Labels may be anything that sorts, strings too.
    """

    classes: NDArray[Any]

    def __init__(self, k: int = 5) -> None:
        self.k = k
        self.index: IndexFlatL2 | None = None

    def fit(self, X: Any, y: Any) -> FaissKNeighbors:
        """Hold rows X (M, D), as float32, and labels y (M,)."""
        X = as_rows(X, "X")
        _check_length(X, y)
        self.index = IndexFlatL2(X.shape[1])
        self.index.add(X)
        self.classes, codes = np.unique(to_numpy(y), return_inverse=True)
        self._voters = FittedRows(self.index.rows, codes)  # which shares the index' rows
        return self

    def predict(self, X: Any) -> Any:
        """Predict the labels (N,) that win the votes of the k nearest rows."""
        index = _fitted(self.index)
        X = as_rows(X, "X", index.d)
        votes = self._voters.votes(X, k=self.k, num_threads=THREADS[0]).votes
        return convert_like(self.classes[to_numpy(votes)], X)

    def score(self, X: Any, y: Any) -> float:
        """Compute the accuracy: the share of X whose prediction is y (N,)."""
        return float(np.mean(to_numpy(self.predict(X)) == to_numpy(y)))


class FaissKNNClassifier:
    """faissknn's classifier: `fit`, `predict`, `predict_proba`, with NumPy arrays as results.

    Unlike faissknn's, labels that are no class are refused by `fit`, and more neighbours than rows
    by `predict`, rather than counted for another class.

    Args:
        n_neighbors: how many vote.
        n_classes: labels are 0 to n_classes - 1; None for as many as y has.
        device: "cpu", or where the rows are moved to, such as "cuda:1".
        metric: "l2", "ip" (inner product), or "cosine": rows are divided by their norms in float32,
            as faissknn does, and a row of zeros stays one.
        use_fp16: accepted; votes are exact with and without.
    """

    n_neighbors: int
    device: str
    metric: str
    use_fp16: bool

    def __init__(
        self,
        n_neighbors: int,
        n_classes: int | None = None,
        device: str = "cpu",
        metric: str = "l2",
        use_fp16: bool = False,
    ) -> None:
        arguments.check_choice(metric, "metric", ("l2", "ip", "cosine"))
        self.n_neighbors, self.n_classes, self.device = n_neighbors, n_classes, device
        self.metric, self.use_fp16 = metric, use_fp16
        self.index: IndexFlat | None = None

    def fit(self, X: Any, y: Any) -> Any:
        """Hold rows X (M, D) and labels y (M,). Raises IndexError for a label that is no class."""
        self._hold(X, y)
        if self.n_classes is None:
            self.n_classes = len(np.unique(self.y))
        outside = self.y[(self.y < 0) | (self.y >= self.n_classes)]
        if len(outside):
            raise IndexError(
                f"y: expected labels from 0 to {self.n_classes - 1}, got {outside.flat[0]}."
            )
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Predict the class (N,) with most votes; of tied ones the smallest."""
        classes: NDArray[np.int64] = self._count(X).votes[0].astype(np.int64)
        return classes

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute each class's share of the votes (N, n_classes)."""
        shares: NDArray[np.float64] = self._count(X, counts=True).counts[0] / self.n_neighbors
        return shares

    def _hold(self, X: Any, y: Any) -> None:
        X = self._prepared(X)
        _check_length(X, y)
        self.index = IndexFlat(
            X.shape[1], METRIC_L2 if self.metric == "l2" else METRIC_INNER_PRODUCT
        )
        self.index.add(X)
        self.y: NDArray[np.int64] = np.asarray(to_numpy(y)).astype(int)

    def _prepared(self, X: Any) -> Any:
        """Convert rows to float32, on the device, divided by their norms for "cosine"."""
        if self.device != "cpu":
            import torch

            X = torch.as_tensor(X, device=self.device)
        X = as_rows(X if is_torch(X) else np.atleast_2d(X), "X")
        if self.metric == "cosine":
            norms = (X * X).sum(1)[:, None] ** 0.5
            X = X / (norms + (norms == 0))
        return X

    def _neighbors(self, X: Any) -> NDArray[np.int64]:
        """Find the rows (N, n_neighbors) of the neighbours."""
        index = _fitted(self.index)
        arguments.check_k(self.n_neighbors, index.ntotal, leave_one_out=False)
        rows: NDArray[np.int64] = to_numpy(index.search(self._prepared(X), self.n_neighbors)[1])
        return rows

    def _count(self, X: Any, *, counts: bool = False) -> Counted:
        """Count the votes, one row of answers."""
        near, classes = self._neighbors(X), self.n_classes or 0
        return count_votes(
            self.y, near, classes, near.shape[1:], num_threads=THREADS[0], counts=counts
        )


class FaissKNNMultilabelClassifier(FaissKNNClassifier):
    """faissknn's classifier of several labels, y (M, labels) of 0 and 1."""

    def fit(self, X: Any, y: Any) -> Any:
        """Hold rows X (M, D) and labels y (M, labels)."""
        self._hold(X, y)
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Predict each label (N, labels) that more than half of the neighbours have."""
        positive = self._positive(X)
        return (positive > self.n_neighbors - positive).astype(int)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute the share of neighbours (N, labels) that have each label."""
        return self._positive(X) / self.n_neighbors

    def _positive(self, X: Any) -> NDArray[np.int64]:
        """Count the neighbours (N, labels) that have each label."""
        near = self._neighbors(X)
        counts: NDArray[np.int64] = self.y[near].sum(axis=1)
        return counts


def _fitted(index: Any) -> Any:
    """Return the index. Raises AttributeError where `fit` has not made it."""
    if index is None:
        raise AttributeError("predict: expected a fitted classifier; call fit(X, y) first.")
    return index


def _check_length(X: Any, y: Any) -> None:
    """Raise IndexError, as an index without a label does in their `predict`."""
    if len(y) != len(X):
        raise IndexError(f"y: expected {len(X)} labels, one for each row of X, got {len(y)}.")
