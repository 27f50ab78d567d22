"""cleanlab's k-NN graphs, outlier scores and label quality, with pdepth's search.

    from pdepth.compat.cleanlab import knn_graph

    Datalab(data, label_name="y").find_issues(knn_graph=knn_graph(features))

or, for all that cleanlab searches by itself (Datalab, OutOfDistribution, data valuation),
`pdepth.compat.cleanlab.patch()`, and `unpatch()`. cleanlab itself is needed by `patch` alone;
scikit-learn, on whose k-NN both are built, by everything.

Neighbours are those of `pdepth.compat.sklearn.NearestNeighbors`, where cleanlab uses
scikit-learn's: see there which metrics pdepth answers and how ties and near rows are ordered.
Metric, number of neighbours, types and the places of exact duplicates are cleanlab's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import euclidean

from pdepth import probe_votes
from pdepth.analysis.label_errors import LabelIssues, find_issues
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.arrays.sources import is_single
from pdepth.compat.shared.duplicates import duplicate_sets, move_duplicates_first
from pdepth.compat.shared.patching import Patch, Replacements
from pdepth.compat.sklearn import NearestNeighbors
from pdepth.optional import require, require_tested

__all__ = [
    "LabelQuality",
    "construct_knn",
    "correct_knn_distances_and_indices",
    "create_knn_graph_and_index",
    "knn_graph",
    "label_quality",
    "outlier_scores",
    "patch",
    "unpatch",
]

# cleanlab's defaults: neighbours; columns and rows up to which it takes other metrics.
DEFAULT_K, LOW_WIDTH, FEW_ROWS = 10, 3, 100
LEAST_SCALE = 1e-6  # by which it divides
EPS = float(np.finfo(np.float64).eps)


def construct_knn(n_neighbors: int, metric: Any, **knn_kwargs: Any) -> NearestNeighbors:
    """Make a search, not yet fitted: cleanlab.internal.neighbor.search.construct_knn.

    `OutOfDistribution(params={"knn": ...})` takes such an object, too.

    Args:
        metric: scikit-learn's. knn_kwargs: other parameters of its NearestNeighbors.
    """
    return NearestNeighbors(n_neighbors=n_neighbors, metric=metric, **knn_kwargs)


def create_knn_graph_and_index(
    features: Any,
    *,
    n_neighbors: int | None = None,
    metric: Any = None,
    correct_exact_duplicates: bool = True,
    **sklearn_knn_kwargs: Any,
) -> tuple[Any, NearestNeighbors]:
    """Make `knn_graph` and the fitted search behind it: cleanlab's function of that name.

    Without `correct_exact_duplicates`, neighbours are left as the search returns them.
    """
    index = _fitted(features, n_neighbors, metric, sklearn_knn_kwargs)
    distances, neighbors = map(to_numpy, index.kneighbors())
    if correct_exact_duplicates:
        move_duplicates_first(duplicate_sets(index._fit_X), distances, neighbors)
    rows, k = neighbors.shape
    ends = np.arange(0, rows * k + 1, k)
    graph = sparse.csr_matrix((distances.ravel(), neighbors.ravel(), ends), shape=(rows, rows))
    return graph, index


def correct_knn_distances_and_indices(
    features: Any,
    distances: NDArray[Any],
    indices: NDArray[Any],
    exact_duplicate_sets: Sequence[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Put exact duplicates first, at distance 0: cleanlab's function of that name.

    The other neighbours keep their order, and the farthest of them are dropped; cleanlab's own sort
    is not stable, so that from k = 17 on it may drop nearer ones.

    Args:
        features: (N, D). distances, indices: (N, k) of each row's nearest others; not changed.
        exact_duplicate_sets: the row numbers of each set of equal rows, ascending, where they are
            known.
    """
    distances, indices = np.copy(distances), np.copy(indices)
    if exact_duplicate_sets is None:
        sets = duplicate_sets(np.asarray(to_numpy(features)))
    else:
        sets = np.full(len(distances), -1, dtype=np.int64)
        for number, rows in enumerate(exact_duplicate_sets):
            sets[rows] = number
    move_duplicates_first(sets, distances, indices)
    return distances, indices


def knn_graph(features: Any, k: int | None = None, metric: Any = None, **knn_kwargs: Any) -> Any:
    """Make the graph of each row's k nearest others, for `Datalab.find_issues(knn_graph=)`.

    Args:
        features: (N, D) NumPy array, data frame or torch tensor.
        k: None for 10, or for all others of fewer rows.
        metric: scikit-learn's. None for "cosine" for more than three columns, and else "euclidean",
            for up to 100 rows SciPy's function `euclidean`.
        knn_kwargs: other parameters of `NearestNeighbors`, such as n_jobs.

    Returns:
        scipy.sparse.csr_matrix (N, N) of distances with k entries a row, sorted, zeros among them.
        Exact duplicates of a row come first, by row number. float64; float32 for cosine of float32
        rows.

    Raises:
        ValueError: k is not less than N; NaN; what else scikit-learn refuses.
    """
    graph, _ = create_knn_graph_and_index(features, n_neighbors=k, metric=metric, **knn_kwargs)
    return graph


def outlier_scores(
    features: Any,
    k: int | None = None,
    t: float = 1,
    metric: Any = None,
    queries: Any = None,
    **knn_kwargs: Any,
) -> NDArray[Any]:
    """Compute cleanlab's out-of-distribution scores, 0 (far from all others) to 1 (near them).

    exp(-t d / m) of the mean distance d to the k nearest rows, where m is the median of these means
    over `features`, each row left out; 1 where d is no more than rounding. Those of
    `OutOfDistribution({"k": k, "t": t}).fit_score(features=features)`.

    Args:
        features, k, metric, knn_kwargs: as in `knn_graph`.
        queries: (n, D) rows to score against `features`. None for these themselves, each left out.

    Returns:
        A NumPy array (N,), or (n,) for queries, of the distances' type.
    """
    graph, index = create_knn_graph_and_index(features, n_neighbors=k, metric=metric, **knn_kwargs)
    mean = graph.data.reshape(graph.shape[0], -1).mean(axis=1)
    scale = max(float(np.median(mean)), 100 * EPS)
    if queries is not None:
        mean = to_numpy(index.kneighbors(queries)[0]).mean(axis=1)
    scores: NDArray[Any] = np.exp(-t * mean / max(scale, LEAST_SCALE))
    scores[mean < _rounding(index)] = 1
    return scores


@dataclass(frozen=True, eq=False)
class LabelQuality:
    """The shares of each example's neighbours that have its label, at every probe.

    Attributes:
        scores: (L, N) float64, the share of the k votes that are for the example's own label.
        counts: (L, N, C) int32, the votes of each class; k in all.
        labels: (N,) int64, the examples' labels as places in `classes`, as cleanlab counts them.
        classes: (C,) the distinct labels, ascending.
    """

    scores: NDArray[np.float64]
    counts: NDArray[np.int32]
    labels: NDArray[np.int64]
    classes: NDArray[Any]

    def pred_probs(self, probe: int = -1) -> NDArray[np.float64]:
        """Compute the shares of votes (N, C) at one probe, for cleanlab's functions of `labels`."""
        shares: NDArray[np.float64] = self.counts[probe] / self.counts[probe, 0].sum()
        return shares

    def overall(self, weigh_by: str = "accuracy") -> NDArray[np.float64]:
        """Compute the mean (N,) of the probes' scores, "uniform" or weighed by their "accuracy".

        The accuracy is that of a probe's votes against the labels; should none be right, all weigh
        the same. cleanlab.rank.get_label_quality_ensemble_scores of the probes' `pred_probs`.
        """
        arguments.check_choice(weigh_by, "weigh_by", ("accuracy", "uniform"))
        accuracy = (self.counts.argmax(axis=2) == self.labels).mean(axis=1)
        if weigh_by == "uniform" or not accuracy.any():
            return np.asarray(self.scores.T.mean(axis=1))
        return np.asarray((self.scores.T * (accuracy / sum(accuracy))).sum(axis=1))

    def issues(self, threshold: float | None = None) -> LabelIssues:
        """Rank the labels as `pdepth.label_issues` does, which finds more of the wrong ones.

        `to_cleanlab()` of what is returned has cleanlab's columns. Labels are places in `classes`.
        """
        return find_issues(self.counts, np.arange(len(self.classes)), self.labels, threshold)


def label_quality(
    support_embeddings: Any,
    labels: Any,
    k: int = 30,
    *,
    metric: str = "sqeuclidean",
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
) -> LabelQuality:
    """Score labels by the votes of the k nearest others, at every probe.

    cleanlab's self-confidence, with the shares of leave-one-out votes as predicted probabilities.

    Args:
        support_embeddings: one array (N, D), or a sequence, mapping or iterator of them, one a
            probe, as in `pdepth.probe_votes`.
        labels: (N,) integers, or strings.
        k, metric, backend, num_threads, memory: as in `pdepth.probe_votes`.

    Raises:
        ValueError, TypeError: as `pdepth.probe_votes`.
    """
    arguments.check_int(k, "k")
    labels = np.asarray(to_numpy(labels))
    if labels.dtype.kind not in "OUS":
        labels = arguments.check_integers(labels, "labels")
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        raise TypeError(
            "labels: expected integers or strings, got values that cannot be compared, such as "
            "None."
        ) from None
    counts = to_numpy(
        probe_votes(
            support_embeddings,
            codes.reshape(labels.shape),
            k=k,
            metric=metric,
            backend=backend,
            num_threads=num_threads,
            memory=memory,
            return_counts=True,
        ).counts
    )
    if is_single(support_embeddings):
        counts = counts[None]
    own = np.take_along_axis(counts, codes[None, :, None], axis=2)[..., 0]
    return LabelQuality(own / k, counts, codes, classes)


def _replacements() -> Replacements:
    """Pair cleanlab's functions with those of this module."""
    require_tested("cleanlab", "pdepth.compat.cleanlab.patch", "cleanlab", "2.7", "2.10")
    search, graph = (
        require(f"cleanlab.internal.neighbor.{name}", "patch", "cleanlab")
        for name in ("search", "knn_graph")
    )
    return [
        (search.construct_knn, construct_knn),
        (graph.create_knn_graph_and_index, create_knn_graph_and_index),
        (graph.correct_knn_distances_and_indices, correct_knn_distances_and_indices),
    ]


_PATCH = Patch(_replacements)
patch: Callable[[], ExitStack] = _PATCH.apply
unpatch: Callable[[], None] = _PATCH.undo


def _fitted(features: Any, k: int | None, metric: Any, options: dict[str, Any]) -> NearestNeighbors:
    shape = tuple(np.shape(features))
    if len(shape) != 2 or sparse.issparse(features):
        got = "a sparse matrix" if sparse.issparse(features) else f"shape {shape}"
        raise ValueError(f"features: expected a dense array of shape (N, D), got {got}.")
    arguments.check_k(k or 1, shape[0], leave_one_out=True)
    if metric is None:
        narrow_metric = euclidean if shape[0] <= FEW_ROWS else "euclidean"
        metric = "cosine" if shape[1] > LOW_WIDTH else narrow_metric
    index = construct_knn(k or min(DEFAULT_K, shape[0] - 1), metric, **options)
    index.fit(features)
    return index


def _rounding(index: NearestNeighbors) -> float:
    """Return the mean distance below which cleanlab takes rows for equal, by the metric's name."""
    name = index.metric if isinstance(index.metric, str) else index.metric.__name__
    powers = {"euclidean": 1 / 2, "minkowski": 1 / index.p}
    if name == "cosine":
        return 100 * EPS / 2
    return float((100 * EPS) ** powers[name]) if name in powers else 0.0
