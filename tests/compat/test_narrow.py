"""Few columns: by a tree and by a backend the same answers, those of the definition."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import neighbors

import pdepth
from pdepth import definition
from pdepth.compat import sklearn as compat
from pdepth.compat.shared import narrow
from pdepth.compat.shared.narrow import ExactTree, NarrowRows

from helpers.cases import KINDS, cast
from helpers.torch_or_skip import torch

RNG = np.random.default_rng(11)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A tree is asked whatever the size; the queries of each time."""
    asked: list[int] = []
    find = ExactTree.kneighbors

    def watched(self: Any, queries: Any, k: int, num_threads: int) -> Any:
        asked.append(len(queries))
        return find(self, queries, k, num_threads)

    monkeypatch.setattr(narrow, "FEWEST", 0)
    monkeypatch.setattr(NarrowRows, "_is_faster", lambda *_: True)
    monkeypatch.setattr(ExactTree, "kneighbors", watched)
    return asked


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_tree_answers_as_the_definition(
    kind: Callable[..., Any], dtype: str, always: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies, ties, rows far from zero, tiny and huge ones; by vectors and leaving out."""
    monkeypatch.setattr(narrow, "LEAST", 7)
    rng = np.random.default_rng(KINDS.index(kind))
    for width in (1, 3, 9):
        values = cast(kind(rng, 160, width), dtype)
        support, queries = values[:140], values[130:]  # ten of them are rows
        labels = rng.integers(-2, 3, 140)
        rows = NarrowRows(support, labels)
        for k in (1, 6, 139):
            for asked in (queries, None):
                with np.errstate(over="ignore"):
                    squared, near = definition.kneighbors(support, asked, k=k)
                    oracle = definition.probe_votes(support, labels, asked, k=k)
                found = rows.kneighbors(asked, k=k, num_threads=2)
                assert (found[1] == near).all()
                assert (found[0] == squared).all()
                votes = rows.votes(asked, k=k, num_threads=2, return_counts=True)
                assert (votes.votes == oracle.votes).all()
                assert (votes.tied == oracle.tied).all()
                assert (votes.counts == oracle.counts).all()
                assert (votes.classes == oracle.classes).all()
    assert len(always) == 36


def test_rows_that_differ_by_less_than_a_trees_rounding(always: list[int]) -> None:
    """Sums of squares in another order than the definition's: the tree's own order is wrong."""
    base = 1 + RNG.standard_normal((40, 7))
    support = np.concatenate([base[:, RNG.permutation(7)] for _ in range(60)])
    queries = np.ones((5, 7)) * [[1], [0], [0.5], [2], [-3]]
    model = compat.NearestNeighbors(n_neighbors=90).fit(support)
    squared, near = definition.kneighbors(support, queries, k=90)
    found = model.kneighbors(queries)
    assert always == [5]
    assert (found[1] == near).all()
    assert (found[0] == np.sqrt(squared)).all()
    assert (neighbors.KDTree(support).query(queries, 90)[1] != near).any()


def test_too_many_ties_are_a_backends(always: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "HELD", 100)
    support = np.repeat(RNG.standard_normal((3, 2)), 80, axis=0)
    found = compat.NearestNeighbors(n_neighbors=5).fit(support).kneighbors(support[::40])
    assert (found[1] == definition.kneighbors(support, support[::40], k=5)[1]).all()
    assert always


def test_an_answer_does_not_depend_on_its_batch() -> None:
    """One query goes to a tree and a thousand to a backend, of rows with many ties."""
    support = RNG.integers(0, 12, (30_000, 5)).astype(float)
    queries = RNG.integers(0, 12, (1000, 5)).astype(float)
    rows = NarrowRows(support)
    assert rows._is_faster(1, 5)
    assert not rows._is_faster(1000, 5)
    model = compat.NearestNeighbors(n_neighbors=5).fit(support)
    whole = model.kneighbors(queries)
    for query in range(0, 1000, 50):
        one = model.kneighbors(queries[query : query + 1])
        assert (one[1] == whole[1][query]).all()
        assert (one[0] == whole[0][query]).all()
    assert (whole[1][:50] == definition.kneighbors(support, queries[:50], k=5)[1]).all()


def test_what_decides() -> None:
    """Width, rows, queries, and how few dimensions rows of many columns have."""
    noise = RNG.standard_normal((40_000, 12))
    curve = np.sin(RNG.random((40_000, 1)) * np.arange(1, 13))
    assert not NarrowRows(noise)._is_faster(1000, 5)
    assert NarrowRows(curve)._is_faster(1000, 5)
    assert NarrowRows(noise[:, :2])._is_faster(1000, 5)
    assert NarrowRows(noise)._visited(5) > 20 * NarrowRows(curve)._visited(5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_changed_rows_have_a_tree_of_their_own(dtype: str, always: list[int]) -> None:
    support, queries = (RNG.standard_normal((n, 3)).astype(dtype) for n in (500, 9))
    model = compat.KNeighborsClassifier(4).fit(support, np.arange(500) % 3)
    for _ in range(2):
        for _ in range(2):
            near = definition.kneighbors(support, queries, k=4)[1]
            assert (model.kneighbors(queries)[1] == near).all()
            votes = definition.probe_votes(support, np.arange(500) % 3, queries, k=4).votes
            assert (model.predict(queries) == votes).all()
            nearest = model._support.tree().kd_tree.query(queries, 1)[1]
            assert (nearest == near[:, :1]).all()
        support *= -1
    assert len(always) == 8


@pytest.mark.parametrize("width", [2, 15, 16])
def test_a_tree_is_built_when_it_is_asked(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    opened = ExactTree.__init__

    def watched(self: Any, rows: Any, *given: Any) -> None:
        built.append(len(rows))
        opened(self, rows, *given)

    monkeypatch.setattr(ExactTree, "__init__", watched)
    support = RNG.standard_normal((5000, width))
    model = compat.NearestNeighbors(n_neighbors=3).fit(support)
    assert not built
    expected = neighbors.NearestNeighbors(n_neighbors=3).fit(support)
    for _ in range(2):
        for one, other in zip(
            model.radius_neighbors(support[:9], 0.5),
            expected.radius_neighbors(support[:9], 0.5),
            strict=True,
        ):
            assert all(
                np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(one, other, strict=True)
            )
    assert built.count(5000) == (width < 16)
    assert len(pickle.dumps(model)) < 1.1 * support.nbytes


@pytest.mark.usefixtures("always")
def test_kinds_of_rows_and_mistakes() -> None:
    support, queries = RNG.standard_normal((400, 3)), RNG.standard_normal((9, 3))
    for dtype in (torch.float32, torch.bfloat16):
        rows, asked = (torch.from_numpy(each).to(dtype) for each in (support, queries))
        model = compat.KNeighborsClassifier(4).fit(rows, np.arange(400) % 3)
        distances, near = model.kneighbors(asked)
        expected = definition.kneighbors(rows.double().numpy(), asked.double().numpy(), k=4)
        assert isinstance(near, torch.Tensor)
        assert (near.numpy() == expected[1]).all()
        assert (distances.numpy() == np.sqrt(expected[0])).all()
        assert isinstance(model.predict(asked), torch.Tensor)
        with pytest.raises(ValueError, match="NaN"):
            model.kneighbors(torch.full((2, 3), torch.nan))
    huge = np.array([[1e200, 0], [-1e200, 1], [3.0, 4.0]])
    found = compat.NearestNeighbors(n_neighbors=3).fit(huge).kneighbors(huge)
    with np.errstate(over="ignore"):
        expected = pdepth.kneighbors(huge, huge, k=3)
        assert (found[1] == expected[1]).all()
