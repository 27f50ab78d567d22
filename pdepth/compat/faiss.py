"""faiss' exact search, and k-NN classifiers that people have put around it, by pdepth's engine.

    from pdepth.compat import faiss

    index = faiss.IndexFlatL2(512)  # or IndexFlatIP
    index.add(support)
    distances, rows = index.search(queries, 30)

faiss itself is not needed. As there, rows are taken as float32, distances are squared and float32,
and where fewer than k rows are held the answers end in row -1, at float32's largest number (least,
for inner products). `add`, `search`, `assign`, `reconstruct`, `reconstruct_n` and `reset` are here;
range search, ids and removal are not.

What differs. Distances and products are float64 sums, rounded to float32 once; neighbours come in
the order (distance in float64, row). faiss takes distances of wide rows from products in float32,
so that near ones swap and a row may be 1e-3, say, away from its own copy. NaN is an error, not a
row without neighbours.

A tensor, on any device, is answered with tensors on that device, without
`faiss.contrib.torch_utils`; so `knn` stands for `knn_gpu` too. Inner products are settled on the
CPU, see `pdepth.compat.shared.products`.
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
from pdepth.compat.shared.packing import little
from pdepth.compat.shared.products import largest_products
from pdepth.optional import require

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
UNFITTED = "predict is asked of a classifier that has not been fitted."


def knn(xq: Any, xb: Any, k: int, metric: int = METRIC_L2, metric_arg: float = 0.0) -> Any:
    """faiss.knn: squared distances (N, k) float32 and rows (N, k) int64 of the k nearest of xb.

    With METRIC_INNER_PRODUCT, the largest products. Other metrics are handed to faiss.

    Args:
        xq: (N, D), xb: (M, D); taken as float32.

    Raises AssertionError, as faiss does, where widths differ or k is below 1; ValueError for NaN.
    """
    if metric not in (METRIC_L2, METRIC_INNER_PRODUCT):
        library = require("faiss", f"knn with metric {metric}", "faiss")
        return convert_like(library.knn(to_numpy(xq), to_numpy(xb), k, metric, metric_arg), xq)
    support = _rows(xb, "xb")
    index = IndexFlat(support.shape[1], metric)
    index._parts = [support]  # no copy: it does not outlive the call
    return index.search(xq, k)


class IndexFlat:
    """faiss.IndexFlat: holds rows, and finds for each query the k best of all of them.

    Attributes:
        d: columns. ntotal: rows held. metric_type: METRIC_L2 or METRIC_INNER_PRODUCT.
    """

    is_trained = True

    def __init__(self, d: int, metric: int = METRIC_L2) -> None:
        if metric not in (METRIC_L2, METRIC_INNER_PRODUCT):
            raise ValueError(
                f"metric is {metric}; METRIC_L2 ({METRIC_L2}) or METRIC_INNER_PRODUCT "
                f"({METRIC_INNER_PRODUCT}) is wanted."
            )
        self.d, self.metric_type = int(d), metric
        self._parts: list[Any] = []  # (n, d) each, one behind the other, all of one kind

    @property
    def ntotal(self) -> int:
        return sum(map(len, self._parts))

    @property
    def rows(self) -> Any:
        """(ntotal, d) float32, not to be written to; of the kind that was added first."""
        if len(self._parts) > 1:
            joined: Any = np.concatenate
            if is_torch(self._parts[0]):
                import torch

                joined = torch.cat
            self._parts = [joined(self._parts)]
        return self._parts[0] if self._parts else np.empty((0, self.d), dtype=np.float32)

    def train(self, x: Any) -> None:
        """Nothing: there is nothing to learn."""

    def add(self, x: Any) -> None:
        """Hold a copy of the rows x (n, d) too, numbered on from `ntotal`."""
        x = _rows(x, "x", self.d)
        if self._parts and is_torch(x) != is_torch(self._parts[0]):
            x = convert_like(to_numpy(x), self._parts[0])
        if len(x):
            self._parts.append(x.clone() if is_torch(x) else x.copy())

    def reset(self) -> None:
        """Hold no rows."""
        self._parts = []

    def search(self, x: Any, k: int) -> Any:
        """Distances, or products, (n, k) float32 and rows (n, k) int64 of the k best, best first.

        Raises AssertionError, as faiss does, where x has not d columns or k is below 1; ValueError
        for NaN.
        """
        x = _rows(x, "x", self.d)
        if k < 1:
            raise AssertionError(f"k is {k}; at least 1 is wanted.")
        best = self.metric_type == METRIC_INNER_PRODUCT
        distances = np.full((len(x), k), -FURTHEST if best else FURTHEST, dtype=np.float32)
        rows = np.full((len(x), k), -1, dtype=np.int64)
        held = min(k, self.ntotal)
        if held and len(x):
            nearest = partial(pdepth.kneighbors, memory=little(self.rows))
            search = largest_products if best else nearest
            with np.errstate(over="ignore"):  # beyond float32: infinite, as faiss'
                distances[:, :held], rows[:, :held] = map(to_numpy, search(self.rows, x, k=held))
        return convert_like((distances, rows), x)

    def assign(self, x: Any, k: int = 1) -> Any:
        """Rows (n, k) of the k best."""
        return self.search(x, k)[1]

    def reconstruct(self, key: int) -> Any:
        """A copy of a row (d,). Raises RuntimeError, as faiss does, where there is none."""
        return self.reconstruct_n(key, 1)[0]

    def reconstruct_n(self, n0: int = 0, ni: int = -1) -> Any:
        """A copy of the rows (ni, d) from n0 on, of all of them for -1."""
        ni = self.ntotal - n0 if ni < 0 else ni
        if not 0 <= n0 <= n0 + ni <= self.ntotal:
            raise RuntimeError(
                f"rows {n0} to {n0 + ni - 1} are asked; the index holds {self.ntotal}."
            )
        found = self.rows[n0 : n0 + ni]
        return found.clone() if is_torch(found) else found.copy()


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
        X = _rows(X, "X")
        _as_many(X, y)
        self.index = IndexFlatL2(X.shape[1])
        self.index.add(X)
        self.classes, self._codes = np.unique(to_numpy(y), return_inverse=True)
        return self

    def predict(self, X: Any) -> Any:
        """The labels (N,) that win the votes of the k nearest rows."""
        if self.index is None:
            raise AttributeError(UNFITTED)
        X = _rows(X, "X", self.index.d)
        rows = self.index.rows
        votes = pdepth.probe_votes(rows, self._codes, X, k=self.k, memory=little(rows)).votes
        return convert_like(self.classes[to_numpy(votes)], X)

    def score(self, X: Any, y: Any) -> float:
        """The share of X whose prediction is y (N,)."""
        return float(np.mean(to_numpy(self.predict(X)) == to_numpy(y)))


class FaissKNNClassifier:
    """faissknn's classifier: `fit`, `predict`, `predict_proba`, NumPy's arrays out.

    Args:
        n_neighbors: how many vote.
        n_classes: labels are 0 to n_classes - 1; None for as many as y has.
        device: "cpu", or where the rows are moved to, such as "cuda:1".
        metric: "l2", "ip" (inner product), or "cosine": rows are divided by their norms in float32,
            as faissknn does, and a row of zeros stays one.
        use_fp16: accepted; votes are exact with and without.

    Unlike faissknn's, labels that are no class are refused by `fit`, and more neighbours than rows
    by `predict`, rather than counted for another class.
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
        wrong = self.y[(self.y < 0) | (self.y >= self.n_classes)]
        if len(wrong):
            raise IndexError(
                f"y holds {wrong.flat[0]}; labels from 0 to {self.n_classes - 1} are wanted."
            )
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """The class (N,) with most votes; of tied ones the smallest."""
        votes: NDArray[np.int64] = self._counts(X).argmax(axis=1)
        return votes

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Each class's share of the votes (N, n_classes)."""
        return self._counts(X) / self.n_neighbors

    def _hold(self, X: Any, y: Any) -> None:
        X = self._taken(X)
        _as_many(X, y)
        self.index = IndexFlat(
            X.shape[1], METRIC_L2 if self.metric == "l2" else METRIC_INNER_PRODUCT
        )
        self.index.add(X)
        self.y: NDArray[np.int64] = np.asarray(to_numpy(y)).astype(int)

    def _taken(self, X: Any) -> Any:
        if self.device != "cpu":
            import torch

            X = torch.as_tensor(X).to(self.device)
        X = _rows(X if is_torch(X) else np.atleast_2d(X), "X")
        if self.metric == "cosine":
            norms = (X * X).sum(1)[:, None] ** 0.5
            X = X / (norms + (norms == 0))
        return X

    def _near(self, X: Any) -> NDArray[np.int64]:
        """The labels (N, n_neighbors), or (N, n_neighbors, labels), of the neighbours."""
        if self.index is None:
            raise AttributeError(UNFITTED)
        arguments.check_k(self.n_neighbors, self.index.ntotal, leave_one_out=False)
        rows = to_numpy(self.index.search(self._taken(X), self.n_neighbors)[1])
        labels: NDArray[np.int64] = self.y[rows]
        return labels

    def _counts(self, X: Any) -> NDArray[np.int64]:
        """Votes (N, n_classes)."""
        near = self._near(X)
        counts = np.zeros((len(near), self.n_classes or 0), dtype=np.int64)
        np.add.at(counts, (np.arange(len(near))[:, None], near), 1)
        return counts


class FaissKNNMultilabelClassifier(FaissKNNClassifier):
    """faissknn's classifier of several labels, y (M, labels) of 0 and 1."""

    def fit(self, X: Any, y: Any) -> Any:
        """Hold rows X (M, D) and labels y (M, labels)."""
        self._hold(X, y)
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Each label (N, labels) that more than half of the neighbours have."""
        ones: NDArray[np.int64] = self._near(X).sum(axis=1)
        return (ones > self.n_neighbors - ones).astype(int)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The share of neighbours (N, labels) that have each label."""
        shares: NDArray[np.float64] = self._near(X).sum(axis=1) / self.n_neighbors
        return shares


def _as_many(X: Any, y: Any) -> None:
    """IndexError, as an index without a label is in their `predict`."""
    if len(y) != len(X):
        raise IndexError(f"y has {len(y)} labels and X {len(X)} rows; as many are wanted.")


def _rows(x: Any, what: str, width: int | None = None) -> Any:
    """x as (n, width) float32, a tensor as one."""
    x = x.detach().float() if is_torch(x) else np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2:
        raise ValueError(f"{what} has shape {tuple(x.shape)}; (rows, width) is wanted.")
    if width is not None and x.shape[1] != width:
        raise AssertionError(f"{what} has width {x.shape[1]}; {width} is wanted.")
    return x
