"""cleanlab's k-NN graphs, outlier scores and label quality, by pdepth's engine.

    from pdepth.compat.cleanlab import knn_graph

    Datalab(data, label_name="y").find_issues(knn_graph=knn_graph(features))

or, for all that cleanlab searches by itself (Datalab, OutOfDistribution, data valuation),
`pdepth.compat.cleanlab.patch()`, and `unpatch()`. cleanlab itself is needed by that alone;
scikit-learn, on whose k-NN both stand, by everything.

Neighbours are those of `pdepth.compat.sklearn.NearestNeighbors`, where cleanlab asks
scikit-learn's: there is said which metrics the engine answers and how ties and near rows are
ordered. Metric, number of neighbours, types and the places of exact copies are cleanlab's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import euclidean

from pdepth import probe_votes
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.arrays.sources import is_single
from pdepth.compat.shared.copies import copies, copies_first
from pdepth.compat.shared.patching import Pairs, Patch
from pdepth.compat.sklearn import NearestNeighbors
from pdepth.optional import require, require_tested

__all__ = [
    "LabelQuality",
    "construct_knn",
    "create_knn_graph_and_index",
    "knn_graph",
    "label_quality",
    "outlier_scores",
    "patch",
    "unpatch",
]

NEIGHBOURS, LOW, FEW = 10, 3, 100  # cleanlab's: neighbours, columns and rows of its default metric
LEAST_SCALE = 1e-6  # by which it divides
EPS = float(np.finfo(np.float64).eps)


def construct_knn(n_neighbors: int, metric: Any, **knn_kwargs: Any) -> NearestNeighbors:
    """cleanlab.internal.neighbor.search.construct_knn: a search by the engine, not yet fitted.

    Such an object is what `OutOfDistribution(params={"knn": ...})` takes, too.

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
    """cleanlab's function of that name: `knn_graph`, and the fitted search it was made with.

    Without `correct_exact_duplicates`, neighbours are left as the search has them.
    """
    index = _fitted(features, n_neighbors, metric, sklearn_knn_kwargs)
    distances, near = map(to_numpy, index.kneighbors())
    if correct_exact_duplicates:
        copies_first(copies(index._fit_X), distances, near)
    count, k = near.shape
    ends = np.arange(0, count * k + 1, k)
    graph = sparse.csr_matrix((distances.ravel(), near.ravel(), ends), shape=(count, count))
    return graph, index


def knn_graph(features: Any, k: int | None = None, metric: Any = None, **knn_kwargs: Any) -> Any:
    """The distances of each row's k nearest others: what `Datalab.find_issues(knn_graph=)` takes.

    Args:
        features: (N, D) NumPy array, data frame or torch tensor.
        k: None for 10, or for all others of fewer rows.
        metric: scikit-learn's. None for "cosine" of more than three columns, and for others
            "euclidean", up to 100 rows of which SciPy's function `euclidean` is taken.
        knn_kwargs: other parameters of `NearestNeighbors`, such as n_jobs.

    Returns:
        scipy.sparse.csr_matrix (N, N) with k entries a row, by distance, zeros among them. Exact
        copies of a row come first, by row number. float64; float32 of cosine of float32 rows.

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
    """cleanlab's out-of-distribution scores, 0 (far from all others) to 1 (near them).

    exp(-t d / m) of the mean distance d to the k nearest rows, where m is the median of these means
    over `features`, each row left out; 1 where d is no more than rounding. Those of
    `OutOfDistribution({"k": k, "t": t}).fit_score(features=features)`.

    Args:
        features, k, metric, knn_kwargs: of `knn_graph`.
        queries: (n, D) rows to score against `features`. None for these themselves, each left out.

    Returns:
        (N,), or (n,) of queries, of the distances' type, NumPy's.
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
    """How many of each example's neighbours share its label, at every probe.

    Attributes:
        scores: (L, N) float64, the share of the k votes that are for the example's own label.
        counts: (L, N, C) int32, the votes of each class; k in all.
        labels: (N,) int64, the given labels as places in `classes`, which is how cleanlab counts.
        classes: (C,) the distinct labels, ascending.
    """

    scores: NDArray[np.float64]
    counts: NDArray[np.int32]
    labels: NDArray[np.int64]
    classes: NDArray[Any]

    def pred_probs(self, probe: int = -1) -> NDArray[np.float64]:
        """The shares of votes (N, C) at one probe, for cleanlab's functions beside `labels`."""
        shares: NDArray[np.float64] = self.counts[probe] / self.counts[probe, 0].sum()
        return shares

    def overall(self, weigh_by: str = "accuracy") -> NDArray[np.float64]:
        """The mean (N,) of the probes' scores; "uniform", or weighed by each probe's accuracy.

        The accuracy is that of its votes against the given labels; should none be right, all weigh
        the same. cleanlab.rank.get_label_quality_ensemble_scores of the probes' `pred_probs`.
        """
        arguments.check_choice(weigh_by, "weigh_by", ("accuracy", "uniform"))
        right = (self.counts.argmax(axis=2) == self.labels).mean(axis=1)
        if weigh_by == "uniform" or not right.any():
            return np.asarray(self.scores.T.mean(axis=1))
        return np.asarray((self.scores.T * (right / sum(right))).sum(axis=1))


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
    """The quality of given labels by the votes of the k nearest others, at every probe.

    cleanlab's self-confidence, with the shares of leave-one-out votes for predicted probabilities.

    Args:
        support_embeddings: one array (N, D), or a sequence, mapping or iterator of them, one a
            probe, as `pdepth.probe_votes` takes them, whose arguments the others are.
        labels: (N,) integers, or strings.

    Raises:
        ValueError, TypeError: as `pdepth.probe_votes`.
    """
    arguments.check_int(k, "k")
    given = np.asarray(to_numpy(labels))
    if given.dtype.kind not in "OUS":
        given = arguments.check_integers(given, "labels")
    try:
        classes, codes = np.unique(given, return_inverse=True)
    except TypeError:
        raise TypeError(
            "labels has values that cannot be compared, such as None; integers or strings are "
            "wanted."
        ) from None
    counts = to_numpy(
        probe_votes(
            support_embeddings,
            codes.reshape(given.shape),
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


def _pairs() -> Pairs:
    """cleanlab's functions, each with ours."""
    require_tested("cleanlab", "pdepth.compat.cleanlab.patch", "cleanlab", "2.7", "2.10")
    found = []
    for module, ours in (("search", construct_knn), ("knn_graph", create_knn_graph_and_index)):
        theirs = require(f"cleanlab.internal.neighbor.{module}", "patch", "cleanlab")
        found.append((getattr(theirs, ours.__name__), ours))
    return found


_PATCH = Patch(_pairs)
patch, unpatch = _PATCH.begin, _PATCH.end


def _fitted(features: Any, k: int | None, metric: Any, options: dict[str, Any]) -> NearestNeighbors:
    shape = tuple(np.shape(features))
    if len(shape) != 2 or sparse.issparse(features):
        found = "is sparse" if sparse.issparse(features) else f"has shape {shape}"
        raise ValueError(f"features {found}; a dense array (rows, width) is wanted.")
    arguments.check_k(k or 1, shape[0], leave_one_out=True)
    if metric is None:
        few = euclidean if shape[0] <= FEW else "euclidean"
        metric = "cosine" if shape[1] > LOW else few
    index = construct_knn(k or min(NEIGHBOURS, shape[0] - 1), metric, **options)
    index.fit(features)
    return index


def _rounding(index: NearestNeighbors) -> float:
    """The mean distance below which cleanlab takes rows for one, by the metric's name."""
    name = index.metric if isinstance(index.metric, str) else index.metric.__name__
    powers = {"euclidean": 1 / 2, "minkowski": 1 / index.p}
    if name == "cosine":
        return 100 * EPS / 2
    return float((100 * EPS) ** powers[name]) if name in powers else 0.0
