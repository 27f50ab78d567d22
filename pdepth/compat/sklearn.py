"""scikit-learn's k-NN estimators, with pdepth's search inside.

    from pdepth.compat.sklearn import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

and KNeighborsTransformer, LocalOutlierFactor and the function kneighbors_graph, or, for a whole
program and the libraries that it uses, `pdepth.compat.sklearn.patch()`, and
`unpatch()`.

pdepth answers where scikit-learn would compare dense rows with every row, by "euclidean" (also as
"minkowski" with p=2, or "l2"), "sqeuclidean" or "cosine". Everything else is scikit-learn's own
code: other metrics, `metric_params`, sparse matrices, trees, radius queries, cosine with a row of
zeros, and whatever it raises an error for.

algorithm:
    "brute", "auto": pdepth. Of up to 15 columns it asks scikit-learn's tree, where that is faster,
    for candidates, which it orders itself: answers are the same. "kd_tree" and "ball_tree":
    scikit-learn's trees.
n_jobs:
    Threads of the backend. None: as many as scikit-learn's brute force takes, the process's share
    of the cores, fewer where joblib or threadpoolctl set a limit.

memory:
    `fit` keeps X as scikit-learn does, without a copy. The first query packs it into a
    `pdepth.Index` that later ones search: about 2 bytes a number and 30 to 50 a row; a tree has a
    copy of its rows in float64. Neither is pickled. X must not change after `fit`.

What differs from scikit-learn's brute force. Neighbours come in the order (distance in float64,
row), so that of equally near rows the first count, and X=None leaves each row out by its number;
scikit-learn's order of ties follows from its blocks. Distances are those of `pdepth.kneighbors`,
the roots of float64 sums of squared differences; scikit-learn takes squares from products, which
swaps rows that are nearer to each other than its rounding, and gives a row a distance of 1e-8, say,
to its own copy. `weights` are computed from these distances by scikit-learn's code.

Results are tensors on X's device where X is a tensor; for X=None, where `fit`'s X was. Sparse
graphs, radius queries and labels that are not numbers are NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import copy
from typing import Any

import numpy as np

from pdepth.arrays.arguments import MOST_THREADS
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.problem import ZeroNormError
from pdepth.arrays.rows import TYPES, is_torch
from pdepth.compat.shared.fitted import FittedRows
from pdepth.compat.shared.narrow import NarrowRows, fitted_rows
from pdepth.compat.shared.patching import Patch
from pdepth.native import default_arithmetic, default_threads
from pdepth.optional import require_tested
from pdepth.search.voting import count_votes

require_tested("sklearn", "pdepth.compat.sklearn", "sklearn", "1.6", "1.10")

from joblib import effective_n_jobs
from sklearn import neighbors
from sklearn.base import is_classifier
from sklearn.neighbors._base import KNeighborsMixin, _get_weights
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from sklearn.utils.extmath import weighted_mode
from sklearn.utils.validation import _num_features, check_is_fitted, validate_data

__all__ = [
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "KNeighborsTransformer",
    "LocalOutlierFactor",
    "NearestNeighbors",
    "kneighbors_graph",
    "patch",
    "unpatch",
]

EPSILON = float(np.finfo(np.float64).eps)
_METRICS = {
    "euclidean": "sqeuclidean",
    "l2": "sqeuclidean",
    "sqeuclidean": "sqeuclidean",
    "cosine": "cosine",
}


class _ExactSearch(KNeighborsMixin):
    """The search of all estimators, by pdepth where it can, and else by scikit-learn's own code.

    Attributes:
        _support: the X of `fit`, as pdepth searches it: a tensor where it was one.
        _template: that tensor, whose kind results have for X=None; else None.
    """

    algorithm: str
    _support: Any

    def _fit(self, X: Any, y: Any = None) -> Any:
        algorithm = self.algorithm
        euclidean = self.metric == "minkowski" and self.p == 2
        supported = (euclidean or self.metric in _METRICS) and not self.metric_params
        if algorithm == "auto" and supported and _width(X):
            self.algorithm = "brute"  # so that no tree is built before one is needed
        try:
            super()._fit(to_numpy(X), to_numpy(y))
        finally:
            self.algorithm = algorithm
        self._template = X.detach() if is_torch(X) else None
        self._support = self._fitted_rows()
        return self

    def _fitted_rows(self) -> FittedRows | None:
        """The rows as pdepth searches them; None where scikit-learn's own code has to answer."""
        if (
            self._fit_method != "brute"
            or self.effective_metric_params_
            or not isinstance(self.effective_metric_, str)
            or self.effective_metric_ not in _METRICS
            or not _is_dense(self._fit_X)
        ):
            return None
        rows = self._fit_X if self._template is None else self._template
        labels = getattr(self, "_y", None) if is_classifier(self) else None
        if labels is not None and labels.ndim > 1:
            labels = None
        return fitted_rows(rows, labels, _METRICS[self.effective_metric_])

    def kneighbors(
        self, X: Any = None, n_neighbors: Any = None, return_distance: bool = True
    ) -> Any:
        """Find distances (N, k), unless `return_distance` is false, and rows (N, k) int64.

        Distances are float64; for cosine between float32 rows float32, as scikit-learn's.
        """

        def search(support: FittedRows, queries: Any, **options: Any) -> Any:
            squared, rows = map(to_numpy, support.kneighbors(queries, **options))
            return (self._distances(squared, queries), rows) if return_distance else rows

        result = self._asked(search, X, self.n_neighbors if n_neighbors is None else n_neighbors)
        if result is None:
            result = super().kneighbors(to_numpy(X), n_neighbors, return_distance)
        return self._as_given(result, X)

    def kneighbors_graph(
        self, X: Any = None, n_neighbors: Any = None, mode: str = "connectivity"
    ) -> Any:
        """Make scikit-learn's graph of neighbours: a sparse matrix (N, M), also for tensors."""
        return super(_ExactSearch, self._in_numpy()).kneighbors_graph(
            to_numpy(X), n_neighbors, mode
        )

    @default_arithmetic()
    def _distances(self, squared: Any, queries: Any) -> Any:
        """Compute the metric's distances from squared ones."""
        if self.effective_metric_ == "sqeuclidean":
            return squared
        if self.effective_metric_ != "cosine":
            return np.sqrt(squared, out=squared)
        both = (self._support.rows, queries)
        types = {str(rows.dtype) for rows in both if rows is not None}
        single = types <= {"float32", "torch.float32"}
        # For rows of norm one, |x - y|^2 = 2 - 2 cos.
        return (squared / 2).astype(np.float32 if single else np.float64)

    def _asked(self, ask: Callable[..., Any], X: Any, k: Any, **options: Any) -> Any:
        """Ask the fitted rows for X; None where scikit-learn's own code has to answer."""
        check_is_fitted(self)
        if (
            self._support is None
            or not isinstance(k, int | np.integer)
            or not 0 < k <= self.n_samples_fit_ - (X is None)
        ):
            return None
        if X is not None:
            X = self._checked(X)
            if not is_torch(X) and not _is_dense(X):
                return None
        num_threads = _num_threads(self.n_jobs)
        try:
            return ask(self._support, X, k=int(k), num_threads=num_threads, **options)
        except ZeroNormError:
            return None

    def _checked(self, X: Any) -> Any:
        """Check queries as scikit-learn does: an array, a tensor or a sparse matrix."""
        if is_torch(X) and X.ndim == 2 and len(X) and X.shape[1] == self._fit_X.shape[1]:
            return X.detach()  # stays where it is; pdepth refuses NaN
        return validate_data(self, to_numpy(X), accept_sparse="csr", reset=False, order="C")

    def _as_given(self, result: Any, X: Any) -> Any:
        """Return a result as X's kind, or as that of `fit`'s X where X is None."""
        return convert_like(result, self._template if X is None else X)

    def _in_numpy(self) -> Any:
        """Return itself for scikit-learn's own code, which needs NumPy's results for X=None."""
        plain = copy(self)
        plain._template = None
        return plain


class KNeighborsClassifier(_ExactSearch, neighbors.KNeighborsClassifier):
    """scikit-learn's KNeighborsClassifier, with its parameters and pdepth's search.

    Uniform votes of one output are counted where the neighbours are found, without storing these;
    ties of classes go to the smallest label. See the module for which calls pdepth answers.
    """

    def predict(self, X: Any) -> Any:
        """Predict the class of each query (N,), or (N, outputs); of each row itself for X=None."""
        result = self._vote(X)
        codes = self._weighted(X) if result is None else to_numpy(result.votes)
        if codes is None:
            classes = super(KNeighborsClassifier, self._in_numpy()).predict(to_numpy(X))
        else:
            classes = self.classes_.take(codes)
        return self._as_given(classes, X)

    def predict_proba(self, X: Any) -> Any:
        """Compute each class's share of votes (N, C) float64; a list of them for many outputs."""
        result = self._vote(X, return_counts=True)
        if result is None:
            shares = super(KNeighborsClassifier, self._in_numpy()).predict_proba(to_numpy(X))
        else:
            shares = to_numpy(result.counts) / self.n_neighbors
        return self._as_given(shares, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute the mean accuracy of `predict(X)`, as scikit-learn's `score`."""
        arrays = map(to_numpy, (X, y, sample_weight))
        accuracy: float = super(KNeighborsClassifier, self._in_numpy()).score(*arrays)
        return accuracy

    def _vote(self, X: Any, **options: Any) -> Any:
        """Return pdepth's `Votes`, as places in `classes_`, or None."""

        def vote(support: FittedRows, queries: Any, **given: Any) -> Any:
            return support.votes(queries, **given)

        check_is_fitted(self)
        if self.weights not in ("uniform", None) or self.outputs_2d_:
            return None
        return self._asked(vote, X, self.n_neighbors, **options)

    @default_arithmetic()
    def _weighted(self, X: Any) -> Any:
        """Return the classes of `weights="distance"`, as places in `classes_`, or None.

        scikit-learn adds up every class that any query has among its neighbours, in an order of its
        own. That order can decide where two sums differ by their rounding, and there alone are
        classes scikit-learn's.
        """
        if self.weights != "distance" or self.outputs_2d_ or self._support is None:
            return None
        distances, near = self._in_numpy().kneighbors(to_numpy(X))
        weights = _get_weights(distances, self.weights)
        if not weights.any(axis=1).all():
            return None  # an error of scikit-learn's
        width = near.shape[1:]
        counted = count_votes(
            self._y, near, len(self.classes_), width, weights,
            num_threads=_num_threads(self.n_jobs), slack=4 * width[0] * EPSILON,
        )  # fmt: skip
        codes, tied = counted.votes[0], counted.tied[0]
        if tied.any():
            modes, _ = weighted_mode(self._y[near[tied]], weights[tied], axis=1)
            codes[tied] = modes.ravel()
        return codes


class KNeighborsRegressor(_ExactSearch, neighbors.KNeighborsRegressor):
    """scikit-learn's KNeighborsRegressor, with its parameters and pdepth's search.

    Means are scikit-learn's own code. See the module for which calls pdepth answers.
    """

    def predict(self, X: Any) -> Any:
        """Predict the mean target of each query's neighbours (N,), or (N, outputs)."""
        means = super(KNeighborsRegressor, self._in_numpy()).predict(to_numpy(X))
        return self._as_given(means, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Compute R^2 of `predict(X)`, as scikit-learn's `score`."""
        arrays = map(to_numpy, (X, y, sample_weight))
        r2: float = super(KNeighborsRegressor, self._in_numpy()).score(*arrays)
        return r2


class NearestNeighbors(_ExactSearch, neighbors.NearestNeighbors):
    """scikit-learn's NearestNeighbors, with its parameters and pdepth's search.

    Radius queries are scikit-learn's own. See the module for which calls pdepth answers.
    """

    def radius_neighbors(self, X: Any = None, *args: Any, **options: Any) -> Any:
        """Find neighbours by scikit-learn's code: NumPy arrays of arrays, also for tensors."""
        check_is_fitted(self)
        return super(NearestNeighbors, self._with_tree()).radius_neighbors(
            to_numpy(X), *args, **options
        )

    def _with_tree(self) -> Any:
        """Return itself with the tree that scikit-learn's "auto" builds for few columns."""
        if (
            self.algorithm != "auto"
            or self.effective_metric_ != "euclidean"
            or not isinstance(self._support, NarrowRows)
        ):
            return self
        model = copy(self)
        model._tree, model._fit_method = self._support.tree().kd_tree, "kd_tree"
        return model


class KNeighborsTransformer(_ExactSearch, neighbors.KNeighborsTransformer):
    """scikit-learn's KNeighborsTransformer, with its parameters and pdepth's search.

    Its graphs are sparse matrices, also for tensors. See the module for which calls pdepth answers.
    """


class LocalOutlierFactor(_ExactSearch, neighbors.LocalOutlierFactor):
    """scikit-learn's LocalOutlierFactor, with its parameters and pdepth's search.

    Tensors are taken as arrays, and scores are NumPy's.
    """

    def _fit(self, X: Any, y: Any = None) -> Any:
        return super()._fit(to_numpy(X), to_numpy(y))

    def kneighbors(self, X: Any = None, *args: Any, **options: Any) -> Any:
        """Find distances and rows, in NumPy's arrays."""
        return super().kneighbors(to_numpy(X), *args, **options)


def kneighbors_graph(
    X: Any,
    n_neighbors: int,
    *,
    mode: str = "connectivity",
    metric: Any = "minkowski",
    p: float = 2,
    metric_params: Any = None,
    include_self: Any = False,
    n_jobs: int | None = None,
) -> Any:
    """Make the graph of each row's nearest others: sklearn.neighbors.kneighbors_graph.

    Args: as there; X also a tensor. Returns a sparse matrix (N, N).
    """
    options = {"metric": metric, "p": p, "metric_params": metric_params}
    if not isinstance(X, KNeighborsMixin):
        X = NearestNeighbors(n_neighbors=n_neighbors, n_jobs=n_jobs, **options).fit(X)
    graph = _PATCH.original(kneighbors_graph) or neighbors.kneighbors_graph
    return graph(X, n_neighbors, mode=mode, include_self=include_self, **options)


_ESTIMATORS = (
    KNeighborsClassifier,
    KNeighborsRegressor,
    KNeighborsTransformer,
    LocalOutlierFactor,
    NearestNeighbors,
)
_PATCH = Patch(
    lambda: [
        (getattr(neighbors, replacement.__name__), replacement)
        for replacement in (*_ESTIMATORS, kneighbors_graph)
    ]
)
patch: Callable[[], ExitStack] = _PATCH.apply
unpatch: Callable[[], None] = _PATCH.undo


def _width(X: Any) -> int:
    """Return the columns of X, 0 where scikit-learn has to refuse it."""
    try:
        return int(X.shape[1]) if is_torch(X) else int(_num_features(X))
    except (TypeError, IndexError):
        return 0


def _is_dense(X: Any) -> bool:
    """Tell whether it is an array of numbers that pdepth takes."""
    return isinstance(X, np.ndarray) and X.dtype.name in (*TYPES, "bool")


def _num_threads(n_jobs: int | None) -> int:
    if n_jobs is None:
        return min(default_threads(), int(_openmp_effective_n_threads()))
    return min(int(effective_n_jobs(n_jobs)), MOST_THREADS)
