"""Weighted votes of pdepth.compat.sklearn: the classes of scikit-learn's own sums."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import neighbors
from sklearn.neighbors._base import _get_weights

from pdepth.compat import sklearn as compat
from pdepth.search.voting import count_votes


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weighted_classes_are_those_of_scikit_learns_sums(metric: str, dtype: str) -> None:
    """Of the same neighbours, also where sums of weights differ by nothing but their order."""
    rng = np.random.default_rng(4)
    support, queries = (0.7 * rng.integers(1, 3, (n, 4)).astype(dtype) for n in (400, 800))
    queries[::2] += 0.3 * rng.random((400, 1))
    labels = rng.integers(0, 2, 400)
    ours = compat.KNeighborsClassifier(24, weights="distance", metric=metric, algorithm="brute")
    ours.fit(support, labels)
    distances, near = ours.kneighbors(queries)
    expected = neighbors.KNeighborsClassifier.predict(ours, queries)
    assert (ours.predict(queries) == expected).all()
    own = neighbors.KNeighborsClassifier.predict(ours, None)
    assert (ours.predict(None) == own).all()
    weights = _get_weights(distances, "distance")
    counted = count_votes(labels, near, 2, (24,), weights)
    # Their order of a sum does decide, but where float64 adds up float32 without rounding.
    assert (counted.votes[0] != expected).any() == (distances.dtype == np.float64)


def test_distances_without_weight_are_scikit_learns_error() -> None:
    rows = np.array([[1e200], [-1e200], [3e200]])
    ours = compat.KNeighborsClassifier(2, weights="distance", algorithm="brute").fit(
        rows, [0, 1, 1]
    )
    for X in (-9 * rows, [[1e200], [9e200]]):
        with pytest.raises(ValueError, match="zero weights"):
            ours.predict(X)
