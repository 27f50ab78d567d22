"""Graphs of neighbours and what is built on them: beside scikit-learn itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import cluster, manifold, neighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import pdepth
from pdepth import definition
from pdepth.compat import sklearn as compat

from helpers.torch_or_skip import torch

RNG = np.random.default_rng(2)
SUPPORT, QUERIES = RNG.standard_normal((300, 20)), RNG.standard_normal((70, 20))


def same(result: Any, expected: Any) -> None:
    assert type(result) is type(expected)
    assert (result.indptr == expected.indptr).all()
    assert (result.indices == expected.indices).all()
    np.testing.assert_allclose(result.data, expected.data, rtol=1e-9, atol=1e-6)


@pytest.mark.filterwarnings("ignore:n_neighbors")
@parametrize_with_checks([compat.KNeighborsTransformer(), compat.LocalOutlierFactor(novelty=True)])
def test_scikit_learns_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.parametrize("mode", ["connectivity", "distance"])
@pytest.mark.parametrize("include_self", [True, False, "auto"])
@pytest.mark.parametrize("metric", ["minkowski", "cosine", "manhattan"])
def test_the_function(mode: str, include_self: Any, metric: str) -> None:
    given = {"mode": mode, "include_self": include_self, "metric": metric}
    expected = neighbors.kneighbors_graph(SUPPORT, 6, **given)
    for rows in (SUPPORT, torch.from_numpy(SUPPORT)):
        same(compat.kneighbors_graph(rows, 6, **given), expected)
    fitted = compat.NearestNeighbors(n_neighbors=4, metric=metric).fit(SUPPORT)
    same(compat.kneighbors_graph(fitted, 6, **given), expected)
    with pytest.raises(ValueError, match="estimator has"):
        compat.kneighbors_graph(fitted, 6, metric="chebyshev")


@pytest.mark.parametrize("mode", ["connectivity", "distance"])
def test_a_transformer(mode: str) -> None:
    theirs, ours = (m.KNeighborsTransformer(mode=mode, n_neighbors=7) for m in (neighbors, compat))
    same(ours.fit_transform(SUPPORT), theirs.fit_transform(SUPPORT))
    same(ours.transform(QUERIES), theirs.transform(QUERIES))
    tensors = compat.KNeighborsTransformer(mode=mode, n_neighbors=7)
    same(tensors.fit_transform(torch.from_numpy(SUPPORT)), ours.fit_transform(SUPPORT))
    graph = ours.transform(QUERIES)
    near = definition.kneighbors(SUPPORT, QUERIES, k=7 + (mode == "distance"))[1]
    assert (graph.indices.reshape(70, -1) == near).all()
    assert (ours.get_feature_names_out() == theirs.get_feature_names_out()).all() == (
        ours.get_feature_names_out()[0] == "kneighborstransformer0"
    )


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "manhattan"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outliers(metric: str, dtype: type) -> None:
    rows, queries = SUPPORT.astype(dtype), QUERIES.astype(dtype)
    for novelty in (False, True):
        theirs, ours, tensors = (
            module.LocalOutlierFactor(9, metric=metric, novelty=novelty, contamination=0.1).fit(
                given
            )
            for module, given in (
                (neighbors, rows),
                (compat, rows),
                (compat, torch.from_numpy(rows)),
            )
        )
        for one in (ours, tensors):
            np.testing.assert_allclose(
                one.negative_outlier_factor_, theirs.negative_outlier_factor_, rtol=1e-5
            )
            if novelty:
                np.testing.assert_allclose(
                    one.score_samples(queries), theirs.score_samples(queries), rtol=1e-5
                )
                assert (one.predict(queries) == theirs.predict(queries)).all()
    assert (
        compat.LocalOutlierFactor(9).fit_predict(rows)
        == neighbors.LocalOutlierFactor(9).fit_predict(rows)
    ).all()


BUILT: dict[str, Callable[[], Any]] = {
    "Isomap": lambda: manifold.Isomap(n_neighbors=9),
    "SpectralEmbedding": lambda: manifold.SpectralEmbedding(random_state=0),
    "LocallyLinearEmbedding": lambda: manifold.LocallyLinearEmbedding(
        n_neighbors=9, random_state=0
    ),
    "SpectralClustering": lambda: cluster.SpectralClustering(
        4, affinity="nearest_neighbors", random_state=0
    ),
    "DBSCAN": lambda: cluster.DBSCAN(eps=5.0),
    "pipeline": lambda: make_pipeline(
        neighbors.KNeighborsTransformer(mode="distance", n_neighbors=9),
        manifold.Isomap(n_neighbors=9, metric="precomputed"),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_on_graphs_is_patched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    kneighbors = pdepth.Index.kneighbors

    def watched(self: Any, *given: Any, **options: Any) -> Any:
        seen.append(len(self))
        return kneighbors(self, *given, **options)

    monkeypatch.setattr(pdepth.Index, "kneighbors", watched)

    def result() -> NDArray[Any]:
        model = BUILT[name]()
        fitted: NDArray[Any] = (
            model.fit_predict(SUPPORT)
            if hasattr(model, "fit_predict")
            else model.fit_transform(SUPPORT)
        )
        return fitted

    expected = result()
    assert not seen
    with compat.patch():
        found = result()
    assert bool(seen) == (name != "DBSCAN")  # radius queries are scikit-learn's own
    if expected.ndim == 1:
        assert (found == expected).all()
    else:
        np.testing.assert_allclose(abs(found), abs(expected), rtol=1e-4, atol=1e-6)
    with compat.patch():
        assert neighbors.kneighbors_graph is compat.kneighbors_graph
        same(neighbors.kneighbors_graph(SUPPORT, 5), compat.kneighbors_graph(SUPPORT, 5))
    assert neighbors.kneighbors_graph is not compat.kneighbors_graph
