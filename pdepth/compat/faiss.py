"""faiss' exact search, and k-NN classifiers that are built on it, with pdepth's search.

    from pdepth.compat import faiss

    index = faiss.IndexFlatL2(512)  # or IndexFlatIP
    index.add(support)
    distances, rows = index.search(queries, 30)

faiss itself is not needed. As there, rows are taken as float32, distances are squared and float32,
and where fewer than k rows are held the results end in row -1, at float32's largest number (least,
for inner products). `add`, `search`, `assign`, `reconstruct`, `reconstruct_n` and `reset` are here;
range search, ids and removal are not.

What differs. Distances and products are float64 sums, rounded to float32 once; neighbours come in
the order (distance in float64, row). faiss takes distances of wide rows from products in float32,
so that near ones swap and a row may be 1e-3, say, away from its own copy. NaN is an error, not a
row without neighbours.

Results are tensors on the queries' device where these are a tensor, without
`faiss.contrib.torch_utils`; so `knn` replaces `knn_gpu` too. Inner products are settled on the CPU,
see `pdepth.compat.shared.inner_products`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pdepth
from pdepth.arrays import arguments
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.rows import is_torch
from pdepth.compat.shared.inner_products import largest_inner_products
from pdepth.compat.shared.packing import packing_memory
from pdepth.native import default_arithmetic
from pdepth.optional import require
from pdepth.search.voting import count_votes

__all__ = [
    "METRIC_INNER_PRODUCT",
    "METRIC_L2",
    "FaissKNNClassifier",
    "FaissKNNMultilabelClassifier",
    "FaissKNeighbors",
    "IndexFlat",
    "IndexFlatIP",
    "IndexFlatL2",
    "knn",
]

METRIC_INNER_PRODUCT, METRIC_L2 = 0, 1  # as faiss numbers them
FURTHEST = float(np.finfo(np.float32).max)  # where there is no row


def knn(xq: Any, xb: Any, k: int, metric: int = METRIC_L2, metric_arg: float = 0.0) -> Any:
    """Find the k nearest rows of xb, as faiss.knn: squared distances (N, k), rows (N, k) int64.

    With METRIC_INNER_PRODUCT, the largest products. Other metrics are passed on to faiss.

    Args:
        xq: (N, D), xb: (M, D); taken as float32.

    Raises:
        AssertionError: as faiss does, widths differ or k is below 1.
        ValueError: NaN.
    """
    if metric not in (METRIC_L2, METRIC_INNER_PRODUCT):
        library = require("faiss", f"knn with metric {metric}", "faiss")
        return convert_like(library.knn(to_numpy(xq), to_numpy(xb), k, metric, metric_arg), xq)
    support = _as_rows(xb, "xb")
    index = IndexFlat(support.shape[1], metric)
    index._chunks = [support]  # no copy: it does not outlive the call
    return index.search(xq, k)


class IndexFlat:
    """faiss.IndexFlat: holds rows, and finds the k best of all of them for each query.

    Attributes:
        d: columns. ntotal: rows held. metric_type: METRIC_L2 or METRIC_INNER_PRODUCT.
    """

    is_trained = True

    def __init__(self, d: int, metric: int = METRIC_L2) -> None:
        if metric not in (METRIC_L2, METRIC_INNER_PRODUCT):
            raise ValueError(
                f"metric: expected METRIC_L2 ({METRIC_L2}) or METRIC_INNER_PRODUCT "
                f"({METRIC_INNER_PRODUCT}), got {metric}."
            )
        self.d, self.metric_type = int(d), metric
        self._chunks: list[Any] = []  # (n, d) each, as they were added, all of one kind

    @property
    def ntotal(self) -> int:
        return sum(map(len, self._chunks))

    @property
    def rows(self) -> Any:
        """(ntotal, d) float32, not to be written to; of the kind that was added first."""
        if len(self._chunks) > 1:
            concatenate: Any = np.concatenate
            if is_torch(self._chunks[0]):
                import torch

                concatenate = torch.cat
            self._chunks = [concatenate(self._chunks)]
        return self._chunks[0] if self._chunks else np.empty((0, self.d), dtype=np.float32)

    def train(self, x: Any) -> None:
        """Do nothing: there is nothing to learn."""

    def add(self, x: Any) -> None:
        """Hold a copy of the rows x (n, d) too, numbered on from `ntotal`."""
        x = _as_rows(x, "x", self.d)
        if self._chunks and is_torch(x) != is_torch(self._chunks[0]):
            x = convert_like(to_numpy(x), self._chunks[0])
        if len(x):
            self._chunks.append(_copy(x))

    def reset(self) -> None:
        """Remove all rows."""
        self._chunks = []

    @default_arithmetic()
    def search(self, x: Any, k: int) -> Any:
        """Find distances, or products, (n, k) float32 and rows (n, k) int64, best first.

        Raises:
            AssertionError: as faiss does, x has not d columns, or k is below 1.
            ValueError: NaN.
        """
        x = _as_rows(x, "x", self.d)
        if k < 1:
            raise AssertionError(f"k: expected an integer >= 1, got {k}.")
        products = self.metric_type == METRIC_INNER_PRODUCT
        distances = np.full((len(x), k), -FURTHEST if products else FURTHEST, dtype=np.float32)
        rows = np.full((len(x), k), -1, dtype=np.int64)
        held = min(k, self.ntotal)
        if held and len(x):
            nearest = partial(pdepth.kneighbors, memory=packing_memory(self.rows))
            search = largest_inner_products if products else nearest
            with np.errstate(over="ignore"):  # beyond float32: infinite, as faiss'
                distances[:, :held], rows[:, :held] = map(to_numpy, search(self.rows, x, k=held))
        return convert_like((distances, rows), x)

    def assign(self, x: Any, k: int = 1) -> Any:
        """Find the rows (n, k) of the k best."""
        return self.search(x, k)[1]

    def reconstruct(self, key: int) -> Any:
        """Copy a row (d,). Raises RuntimeError, as faiss does, where there is none."""
        return self.reconstruct_n(key, 1)[0]

    def reconstruct_n(self, n0: int = 0, ni: int = -1) -> Any:
        """Copy the rows (ni, d) from n0 on, all of them for -1."""
        ni = self.ntotal - n0 if ni < 0 else ni
        if not 0 <= n0 <= n0 + ni <= self.ntotal:
            raise RuntimeError(
                f"n0, ni: expected rows below ntotal, {self.ntotal}, got rows {n0} to "
                f"{n0 + ni - 1}."
            )
        return _copy(self.rows[n0 : n0 + ni])


class IndexFlatL2(IndexFlat):
    """faiss.IndexFlatL2: by squared distance."""

    def __init__(self, d: int) -> None:
        super().__init__(d, METRIC_L2)


class IndexFlatIP(IndexFlat):
    """faiss.IndexFlatIP: by inner product, which of rows of norm one is the cosine."""

    def __init__(self, d: int) -> None:
        super().__init__(d, METRIC_INNER_PRODUCT)


class FaissKNeighbors:
    """The classifier that has been copied into many projects: an IndexFlatL2 and a majority vote.

    Of tied classes the smallest label wins. Labels may be anything that sorts, strings too.
    """

    def __init__(self, k: int = 5) -> None:
        self.k = k
        self.index: IndexFlatL2 | None = None

    def fit(self, X: Any, y: Any) -> FaissKNeighbors:
        """Hold rows X (M, D), as float32, and labels y (M,)."""
        X = _as_rows(X, "X")
        _check_length(X, y)
        self.index = IndexFlatL2(X.shape[1])
        self.index.add(X)
        self.classes, self._codes = np.unique(to_numpy(y), return_inverse=True)
        return self

    def predict(self, X: Any) -> Any:
        """Predict the labels (N,) that win the votes of the k nearest rows."""
        index = _fitted(self.index)
        X = _as_rows(X, "X", index.d)
        votes = pdepth.probe_votes(
            index.rows, self._codes, X, k=self.k, memory=packing_memory(index.rows)
        ).votes
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
        classes: NDArray[np.int64] = self._counts(X).argmax(axis=1)
        return classes

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute each class's share of the votes (N, n_classes)."""
        return self._counts(X) / self.n_neighbors

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

            X = torch.as_tensor(X).to(self.device)
        X = _as_rows(X if is_torch(X) else np.atleast_2d(X), "X")
        if self.metric == "cosine":
            norms = (X * X).sum(1)[:, None] ** 0.5
            X = X / (norms + (norms == 0))
        return X

    def _neighbor_labels(self, X: Any) -> NDArray[np.int64]:
        """Find the labels (N, n_neighbors), or (N, n_neighbors, labels), of the neighbours."""
        index = _fitted(self.index)
        arguments.check_k(self.n_neighbors, index.ntotal, leave_one_out=False)
        rows = to_numpy(index.search(self._prepared(X), self.n_neighbors)[1])
        labels: NDArray[np.int64] = self.y[rows]
        return labels

    def _counts(self, X: Any) -> NDArray[np.int64]:
        """Count the votes (N, n_classes)."""
        return count_votes(self._neighbor_labels(X), self.n_classes or 0)


class FaissKNNMultilabelClassifier(FaissKNNClassifier):
    """faissknn's classifier of several labels, y (M, labels) of 0 and 1."""

    def fit(self, X: Any, y: Any) -> Any:
        """Hold rows X (M, D) and labels y (M, labels)."""
        self._hold(X, y)
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Predict each label (N, labels) that more than half of the neighbours have."""
        positive: NDArray[np.int64] = self._neighbor_labels(X).sum(axis=1)
        return (positive > self.n_neighbors - positive).astype(int)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute the share of neighbours (N, labels) that have each label."""
        shares: NDArray[np.float64] = self._neighbor_labels(X).sum(axis=1) / self.n_neighbors
        return shares


def _fitted(index: Any) -> Any:
    """Return the index. Raises AttributeError where `fit` has not made it."""
    if index is None:
        raise AttributeError("predict: expected a fitted classifier; call fit(X, y) first.")
    return index


def _check_length(X: Any, y: Any) -> None:
    """Raise IndexError, as an index without a label does in their `predict`."""
    if len(y) != len(X):
        raise IndexError(f"y: expected {len(X)} labels, one for each row of X, got {len(y)}.")


def _copy(rows: Any) -> Any:
    return rows.clone() if is_torch(rows) else rows.copy()


@default_arithmetic()
def _as_rows(x: Any, name: str, width: int | None = None) -> Any:
    """Convert x to (n, width) float32; a tensor stays one."""
    x = x.detach().float() if is_torch(x) else np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2:
        raise ValueError(f"{name}: expected shape (N, D), got {tuple(x.shape)}.")
    if width is not None and x.shape[1] != width:
        raise AssertionError(f"{name}: expected width {width}, got {x.shape[1]}.")
    return x
