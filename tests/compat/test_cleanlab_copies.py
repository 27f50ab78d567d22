"""Exact copies among cleanlab's neighbours, corrected by cleanlab's own code and by pdepth's."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pdepth.compat import cleanlab as compat

RNG = np.random.default_rng(0)
ROWS = RNG.random((200, 2))
ROWS[10:20] = ROWS[10]
ROWS[[3, 90, 199]] = ROWS[3]


@pytest.fixture(scope="module")
def theirs() -> Any:
    """cleanlab's own graphs."""
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    return importlib.import_module("cleanlab.internal.neighbor.knn_graph")


def far_from_copies(x: NDArray[Any], y: NDArray[Any]) -> float:
    """A metric whose search does not find copies."""
    return float(np.linalg.norm(x - y) + 2 * (x == y).all())


def test_both_ways_of_cleanlab_correct_alike(theirs: Any) -> None:
    """cleanlab's test_construct_knn_then_correct_knn_graph_does_the_same_work."""
    with compat.patch():
        index = theirs.features_to_knn(ROWS, n_neighbors=50, metric=far_from_copies)
        plain = theirs.construct_knn_graph_from_index(index)
        corrected = theirs.construct_knn_graph_from_index(index, correction_features=ROWS)
        graph, _ = theirs.create_knn_graph_and_index(
            features=ROWS, n_neighbors=50, metric=far_from_copies
        )
    assert (corrected.toarray() == graph.toarray()).all()
    assert (plain.toarray() != graph.toarray()).any()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 12, 40])
def test_the_nearest_others_stay(k: int, known: bool, theirs: Any) -> None:
    distances, rows = compat.construct_knn(k, far_from_copies).fit(ROWS).kneighbors()
    before = distances.copy(), rows.copy()
    sets = [np.arange(10, 20), np.array([3, 90, 199])] if known else None
    result = compat.correct_knn_distances_and_indices(ROWS, distances, rows, sets)
    assert (distances == before[0]).all()
    assert (rows == before[1]).all()
    if k <= 16:  # cleanlab's sort is stable up to there
        expected = theirs.correct_knn_distances_and_indices(ROWS, *before, sets)
        for mine, their in zip(result, expected, strict=True):
            assert (mine == their).all()
    for row, own in ((15, np.arange(10, 20)), (90, np.array([3, 90, 199])), (0, np.array([0]))):
        copies = own[own != row][:k]
        others = [other for other in before[1][row] if other not in own][: k - len(copies)]
        assert result[1][row].tolist() == [*copies, *others]
        assert (result[0][row][: len(copies)] == 0).all()
        assert (np.diff(result[0][row][len(copies) :]) >= 0).all()


def test_patch_replaces_the_correction_everywhere(theirs: Any) -> None:
    outlier = importlib.import_module("cleanlab.outlier")
    plain = theirs.correct_knn_distances_and_indices
    with compat.patch():
        for module in (theirs, outlier):
            assert module.correct_knn_distances_and_indices is (
                compat.correct_knn_distances_and_indices
            )
    assert outlier.correct_knn_distances_and_indices is plain
