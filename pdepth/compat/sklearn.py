"""scikit-learn's k-NN estimators with pdepth's engine inside.

    from pdepth.compat.sklearn import KNeighborsClassifier, NearestNeighbors

or, for a whole program and the libraries that it uses, `pdepth.compat.sklearn.patch()`, and
`unpatch()`.

The engine answers where scikit-learn would compare dense rows with every row, by "euclidean" (also
as "minkowski" with p=2, or "l2"), "sqeuclidean" or "cosine". Everything else is scikit-learn's own
code: other metrics, `metric_params`, sparse matrices, trees, radius queries, cosine with a row of
zeros, and whatever it has an error for.

algorithm:
    "brute": the engine. "auto": the engine, but for up to `NARROW` columns, where a tree is faster;
    scikit-learn itself builds one for up to 15. "kd_tree" and "ball_tree": scikit-learn's trees.
n_jobs:
    Threads of the engine. None: as many as scikit-learn's brute force takes, the process's share
    of the cores, less where joblib or threadpoolctl set a limit.

What differs from scikit-learn's brute force. Neighbours come in the order (distance in float64,
row), so that of equally near rows the first count, and X=None leaves each row out by its number;
scikit-learn's order of ties follows from its blocks. Distances are those of `pdepth.kneighbors`,
the roots of float64 sums of squared differences; scikit-learn takes squares from products, which
swaps rows that are nearer to each other than its rounding, and gives a row a distance of 1e-8, say,
to its own copy. `weights` are computed from these distances by scikit-learn's code.

A tensor X, on any device, is answered with tensors on that device; X=None as `fit`'s X was given.
Sparse graphs, radius queries and labels that are no numbers come from NumPy.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

import pdepth
from pdepth.arrays.arguments import MOST_THREADS
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.problem import ZeroNormError
from pdepth.arrays.rows import TYPES, is_torch
from pdepth.compat.shared.packing import little
from pdepth.compat.shared.patching import Patch
from pdepth.native import default_threads
from pdepth.optional import require_tested

require_tested("sklearn", "pdepth.compat.sklearn", "sklearn", "1.6", "1.10")

from joblib import effective_n_jobs
from sklearn import neighbors
from sklearn.neighbors._base import KNeighborsMixin
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from sklearn.utils.validation import _num_features, check_is_fitted, validate_data

__all__ = ["KNeighborsClassifier", "NearestNeighbors", "patch", "unpatch"]

NARROW = 6
"""Columns up to which `algorithm="auto"` leaves the search to scikit-learn's trees."""

_METRICS = {
    "euclidean": "sqeuclidean",
    "l2": "sqeuclidean",
    "sqeuclidean": "sqeuclidean",
    "cosine": "cosine",
}


class _Engine(KNeighborsMixin):
    """What both estimators do before scikit-learn's own code is asked.

    Attributes:
        _rows: (M, D) what `fit` was given, as the engine takes it: a tensor where it was one.
        _kind: that tensor, as the kind of answers to X=None; else None.
    """

    algorithm: str

    def _fit(self, X: Any, y: Any = None) -> Any:
        algorithm = self.algorithm
        euclidean = self.metric == "minkowski" and self.p == 2
        ours = (euclidean or self.metric in _METRICS) and not self.metric_params
        if algorithm == "auto" and ours and _width(X) > NARROW:
            self.algorithm = "brute"  # so that no tree is built
        try:
            super()._fit(to_numpy(X), to_numpy(y))
        finally:
            self.algorithm = algorithm
        self._kind = X.detach() if is_torch(X) else None
        self._rows = self._fit_X if self._kind is None else self._kind
        return self

    def kneighbors(
        self, X: Any = None, n_neighbors: Any = None, return_distance: bool = True
    ) -> Any:
        """scikit-learn's `kneighbors`: distances (N, k), unless not wanted, and rows (N, k) int64.

        Distances are float64; of cosine between float32 rows they are float32, as scikit-learn's.
        """

        def found(support: Any, queries: Any, **options: Any) -> Any:
            squared, rows = map(to_numpy, pdepth.kneighbors(support, queries, **options))
            return (self._distances(squared, queries), rows) if return_distance else rows

        answer = self._ask(found, X, self.n_neighbors if n_neighbors is None else n_neighbors)
        if answer is None:
            answer = super().kneighbors(to_numpy(X), n_neighbors, return_distance)
        return convert_like(answer, self._kind if X is None else X)

    def kneighbors_graph(
        self, X: Any = None, n_neighbors: Any = None, mode: str = "connectivity"
    ) -> Any:
        """scikit-learn's `kneighbors_graph`: a sparse matrix (N, M), also of tensors."""
        return super(_Engine, self._in_numpy()).kneighbors_graph(to_numpy(X), n_neighbors, mode)

    def _distances(self, squared: Any, queries: Any) -> Any:
        if self.effective_metric_ == "sqeuclidean":
            return squared
        if self.effective_metric_ != "cosine":
            return np.sqrt(squared, out=squared)
        types = {str(each.dtype) for each in (self._rows, queries) if each is not None}
        single = types <= {"float32", "torch.float32"}
        # Of rows of norm one, |x - y|^2 = 2 - 2 cos.
        return (squared / 2).astype(np.float32 if single else np.float64)

    def _ask(self, function: Any, X: Any, k: Any, *labels: Any, **options: Any) -> Any:
        """What pdepth's `function` says of X; None where it is for scikit-learn to speak."""
        check_is_fitted(self)
        if (
            self._fit_method != "brute"
            or self.effective_metric_params_
            or not isinstance(self.effective_metric_, str)
            or self.effective_metric_ not in _METRICS
            or not _dense(self._fit_X)
            or not isinstance(k, int | np.integer)
            or not 0 < k <= self.n_samples_fit_ - (X is None)
        ):
            return None
        if X is not None:
            X = self._checked(X)
            if not is_torch(X) and not _dense(X):
                return None
        metric, threads = _METRICS[self.effective_metric_], _threads(self.n_jobs)
        # Of unit rows there are copies already, in float64.
        memory = None if metric == "cosine" else little(self._rows, threads)
        try:
            return function(
                self._rows,
                *labels,
                X,
                k=int(k),
                metric=metric,
                num_threads=threads,
                memory=memory,
                **options,
            )
        except ZeroNormError:
            return None

    def _checked(self, X: Any) -> Any:
        """Queries that scikit-learn has no error for, as an array, a tensor or a sparse matrix."""
        if is_torch(X) and X.ndim == 2 and len(X) and X.shape[1] == self._fit_X.shape[1]:
            return X.detach()  # stays where it is; the engine refuses NaN
        return validate_data(self, to_numpy(X), accept_sparse="csr", reset=False, order="C")

    def _in_numpy(self) -> Any:
        """Itself, for code of scikit-learn's that goes on with NumPy's answers to X=None."""
        plain = copy(self)
        plain._kind = None
        return plain


class KNeighborsClassifier(_Engine, neighbors.KNeighborsClassifier):
    """scikit-learn's KNeighborsClassifier, with its parameters, by pdepth's engine.

    Uniform votes of one output are counted where the neighbours are found, without writing these
    down; ties of classes go to the smallest label. See the module for what else is answered how.
    """

    def predict(self, X: Any) -> Any:
        """The class of each query (N,), or (N, outputs); X=None: of each row without itself."""
        found = self._vote(X)
        if found is None:
            answer = super(KNeighborsClassifier, self._in_numpy()).predict(to_numpy(X))
        else:
            answer = self.classes_.take(to_numpy(found.votes))
        return convert_like(answer, self._kind if X is None else X)

    def predict_proba(self, X: Any) -> Any:
        """The share of votes of each class (N, C) float64; of several outputs a list of such."""
        found = self._vote(X, return_counts=True)
        if found is None:
            answer = super(KNeighborsClassifier, self._in_numpy()).predict_proba(to_numpy(X))
        else:
            answer = to_numpy(found.counts) / self.n_neighbors
        return convert_like(answer, self._kind if X is None else X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """scikit-learn's `score`: the mean accuracy of `predict(X)`."""
        given = map(to_numpy, (X, y, sample_weight))
        mean: float = super(KNeighborsClassifier, self._in_numpy()).score(*given)
        return mean

    def _vote(self, X: Any, **options: Any) -> Any:
        """The engine's `Votes` on places in `classes_`, or None."""
        check_is_fitted(self)
        if self.weights not in ("uniform", None) or self.outputs_2d_:
            return None
        return self._ask(pdepth.probe_votes, X, self.n_neighbors, self._y, **options)


class NearestNeighbors(_Engine, neighbors.NearestNeighbors):
    """scikit-learn's NearestNeighbors, with its parameters, by pdepth's engine.

    Radius queries are scikit-learn's own. See the module for what is answered how.
    """

    def radius_neighbors(self, X: Any = None, *args: Any, **options: Any) -> Any:
        """scikit-learn's `radius_neighbors`: NumPy arrays of arrays, also of tensors."""
        return super().radius_neighbors(to_numpy(X), *args, **options)


_PATCH = Patch(
    lambda: [
        (getattr(neighbors, each.__name__), each)
        for each in (KNeighborsClassifier, NearestNeighbors)
    ]
)
patch, unpatch = _PATCH.begin, _PATCH.end


def _width(X: Any) -> int:
    """Columns of X, 0 where scikit-learn has to say what X is."""
    try:
        return int(X.shape[1]) if is_torch(X) else int(_num_features(X))
    except (TypeError, IndexError):
        return 0


def _dense(X: Any) -> bool:
    """Whether it is an array of numbers that the engine takes."""
    return isinstance(X, np.ndarray) and X.dtype.name in (*TYPES, "bool")


def _threads(n_jobs: int | None) -> int:
    if n_jobs is None:
        return min(default_threads(), int(_openmp_effective_n_threads()))
    return min(int(effective_n_jobs(n_jobs)), MOST_THREADS)
