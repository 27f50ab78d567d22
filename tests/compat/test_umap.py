"""Exact neighbours for UMAP: the definition's, in `fit`, `transform` and `update`."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.datasets import load_digits

from pdepth import definition

from helpers.torch_or_skip import torch

ROWS = load_digits().data.astype(np.float32)
SUPPORT, QUERIES = ROWS[:500], ROWS[500:540]
METRICS = {"euclidean": "sqeuclidean", "cosine": "cosine"}


def expected(support: Any, queries: Any, k: int, metric: str) -> tuple[Any, Any]:
    asked = support if queries is None else queries
    squared, rows = definition.kneighbors(support, asked, k=k, metric=METRICS[metric])
    distances = squared / 2 if metric == "cosine" else np.sqrt(squared)
    return rows, distances.astype(np.float32)


def test_without_umap() -> None:
    code = "import sys; sys.modules['umap'] = None; import pdepth.compat.umap"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: pdepth.compat.umap needs umap: pip install 'pdepth[umap]'." in run.stderr


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.filterwarnings("ignore:n_jobs value", "error:precomputed_knn")
def test_a_reducer_transforms(metric: str) -> None:
    umap = pytest.importorskip("umap")
    from pdepth.compat.umap import precomputed_knn

    rows, distances, index = precomputed_knn(SUPPORT, 12, metric)
    assert (rows == expected(SUPPORT, None, 12, metric)[0]).all()
    assert (distances == expected(SUPPORT, None, 12, metric)[1]).all()
    reducer = umap.UMAP(
        n_neighbors=12,
        metric=metric,
        precomputed_knn=(rows.copy(), distances.copy(), index),
        random_state=0,
        n_epochs=20,
    ).fit(SUPPORT)
    asked = []
    query = type(index).query

    def watched(self: Any, *given: Any, **options: Any) -> Any:
        found = query(self, *given, **options)
        asked.append(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(index), "query", watched)
        placed = reducer.transform(QUERIES)
        again = pickle.loads(pickle.dumps(reducer)).transform(QUERIES)
    assert placed.shape == (40, 2)
    assert np.isfinite(placed).all()
    assert (placed == again).all()
    for found in asked:
        assert (found[0] == expected(SUPPORT, QUERIES, 12, metric)[0]).all()
        assert (found[1] == expected(SUPPORT, QUERIES, 12, metric)[1]).all()
    assert len(asked) == 2
    reducer.update(QUERIES)
    assert reducer.embedding_.shape == (540, 2)
    both = np.concatenate([SUPPORT, QUERIES])
    assert (index.neighbor_graph[0] == expected(both, None, 12, metric)[0]).all()


@pytest.mark.parametrize("kind", ["float64", "int64", "uint8", "float16", "frame", "tensor"])
def test_kinds_of_rows(kind: str) -> None:
    """Rows that are added are not cut to integers, nor to 16 bits."""
    pytest.importorskip("umap")
    from pdepth.compat.umap import precomputed_knn

    made = {"frame": lambda: pandas.DataFrame(SUPPORT), "tensor": lambda: torch.from_numpy(SUPPORT)}
    given = made[kind]() if kind in made else SUPPORT.astype(kind)
    rows, distances, index = precomputed_knn(given, 9)
    assert (rows == expected(SUPPORT, None, 9, "euclidean")[0]).all()
    more = QUERIES + np.float32(0.3)
    index.update(more)
    both = np.concatenate([SUPPORT, more])
    rows, distances = index.query(more, 4)
    assert (rows == expected(both, more, 4, "euclidean")[0]).all()
    assert (distances == expected(both, more, 4, "euclidean")[1]).all()


def test_no_neighbour_is_missed_as_by_pynndescent() -> None:
    pytest.importorskip("umap")
    from pynndescent import NNDescent

    from pdepth.compat.umap import precomputed_knn

    rows, distances, _ = precomputed_knn(torch.from_numpy(ROWS), 15)
    approximate = NNDescent(ROWS, n_neighbors=15, random_state=0).neighbor_graph
    assert rows.dtype == approximate[0].dtype
    assert distances.dtype == approximate[1].dtype
    # As distances of equally far rows: none of theirs is nearer.
    assert (distances <= approximate[1] + 1e-4).all()


def test_what_is_wrong_is_said() -> None:
    pytest.importorskip("umap")
    from pdepth.compat.umap import precomputed_knn

    with pytest.raises(ValueError, match=r"metric: expected .*cosine.* got 'manhattan'"):
        precomputed_knn(SUPPORT, metric="manhattan")
    with pytest.raises(TypeError, match="X: expected a NumPy array or torch tensor, got a list"):
        precomputed_knn(SUPPORT.tolist())
    with pytest.raises(ValueError, match="^n_neighbors: expected at most 5, .* of X, got 6"):
        precomputed_knn(SUPPORT[:5], 6)
    assert precomputed_knn(SUPPORT[:5], 5)[0].shape == (5, 5)
    with pytest.raises(ValueError, match="NaN"):
        precomputed_knn(np.full((20, 3), np.nan))
    index = precomputed_knn(SUPPORT)[2]
    with pytest.raises(ValueError, match="xs_updated: expected None"):
        index.update(xs_updated=SUPPORT[:1], updated_indices=[0])
    with pytest.raises(ValueError, match="xs_fresh: expected numbers within float32, .* in row 2;"):
        index.update(np.array([[0.0], [1.0], [1e39]]).repeat(64, 1))
    assert len(index.index) == 500


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("copies", [2, 20])
def test_a_row_is_first_among_its_own_where_it_has_copies(metric: str, copies: int) -> None:
    """As in pynndescent's lists, of which UMAP does not count the first, and drops a row itself."""
    pytest.importorskip("umap")
    from pynndescent import NNDescent

    from pdepth.compat.umap import precomputed_knn

    repeated = SUPPORT[:40].repeat(copies, 0)
    rows, distances, index = precomputed_knn(repeated, 15, metric)
    own = np.arange(len(repeated))
    approximate = NNDescent(repeated, metric, n_neighbors=15, random_state=0).neighbor_graph
    assert (approximate[0][:, 0] == own).all()
    others = definition.kneighbors(repeated, k=14, metric=METRICS[metric])
    assert (rows == np.hstack([own[:, None], others[1]])).all()
    far = others[0] / 2 if metric == "cosine" else np.sqrt(others[0])
    assert (distances == np.hstack([np.zeros((len(own), 1)), far]).astype(np.float32)).all()
    index.update(repeated[:3])
    assert (index.neighbor_graph[0][:, 0] == np.arange(len(repeated) + 3)).all()
    alone = precomputed_knn(repeated, 1, metric)
    assert (alone[0] == own[:, None]).all()
    assert not alone[1].any()


@pytest.mark.filterwarnings("ignore:n_jobs value", "error:precomputed_knn")
def test_fits_of_the_same_neighbours_do_not_change_each_other() -> None:
    """A fit by another metric marks what it takes as too far, and `update` adds rows."""
    umap = pytest.importorskip("umap")
    from pdepth.compat.umap import precomputed_knn

    knn = precomputed_knn(SUPPORT, 12)
    rows, distances, index = knn
    kept = rows.copy(), distances.copy()

    def fitted(**options: Any) -> Any:
        options = {"n_neighbors": 12, "random_state": 0, "n_epochs": 5, **options}
        return umap.UMAP(precomputed_knn=knn, **options).fit(SUPPORT)

    first = fitted()
    placed = first.transform(QUERIES)
    with suppress(ValueError), pytest.warns(UserWarning, match="disconnected"):
        fitted(metric="cosine")  # to which all of these neighbours are too far
    assert (rows == kept[0]).all()
    assert (distances == kept[1]).all()
    first.update(QUERIES)
    assert first.embedding_.shape == (540, 2)
    assert len(index.index) == 500
    second = fitted()
    assert (second.transform(QUERIES) == placed).all()
    assert second._knn_search_index is not index
    from sklearn.base import clone

    assert (clone(second).fit(SUPPORT).transform(QUERIES) == placed).all()
