"""Maps of a search: principal components as NumPy's SVD has them, the same in any chunks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import DepthResult, definition
from pdepth.arrays.rows import Rows
from pdepth.io.map_file import METHODS
from pdepth.search import mapping

from helpers.same import same_map
from helpers.torch_or_skip import torch

RNG = np.random.default_rng(0)
WIDTHS = {"wide": 150, "narrow": 9, "one": 1}
LABELS = RNG.integers(0, 3, 90)
SUPPORT = {
    name: (RNG.standard_normal((90, width)) * np.arange(1, width + 1)).astype(np.float32)
    for name, width in WIDTHS.items()
}
QUERIES = {name: rows[:40] + np.float32(0.25) for name, rows in SUPPORT.items()}
PREDICTIONS = LABELS[:40]


def depth(**options: Any) -> DepthResult:
    result = pdepth.depth_from_embeddings(
        SUPPORT, LABELS, PREDICTIONS, QUERIES, k=5, **{"return_map": "pca", **options}
    )
    assert isinstance(result, DepthResult)
    return result


def components(rows: Any) -> tuple[Any, Any, Any]:
    """Mean, two axes and their shares of the variance, by NumPy's SVD."""
    mean = rows.mean(axis=0)
    _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
    shares, axes = sizes**2 / (sizes**2).sum(), axes[:2]
    return (
        mean,
        axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None],
        shares,
    )


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "inner_product"])
def test_axes_are_those_of_a_svd(metric: str) -> None:
    """Widths above and below the number of rows; places differ by float32's rounding alone."""
    found = depth(metric=metric, early_exit=False).map
    assert found is not None
    assert found.support is not None
    assert found.queries.shape == (40, 3, 2)
    assert found.support.shape == (90, 3, 2)
    assert found.queries.dtype == found.support.dtype == np.float32
    np.testing.assert_array_equal(found.support_labels, LABELS)
    for number, name in enumerate(WIDTHS):
        support, queries = SUPPORT[name], QUERIES[name]
        if metric == "cosine":
            support, queries = (definition.as_rows(each, metric) for each in (support, queries))
        mean, axes, shares = components(support.astype(np.float64))
        for rows, places in ((support, found.support), (queries, found.queries)):
            expected = (rows.astype(np.float64) - mean) @ axes.T
            scale = np.abs(expected).max()
            difference = places[:, number, : len(axes)] - expected
            assert np.abs(difference).max() <= 1e-6 * scale
        np.testing.assert_allclose(found.explained[number, : len(axes)], shares[:2], atol=1e-12)
    assert not found.support[:, 2, 1].any()  # of width 1: no second axis
    assert found.explained[2, 1] == 0


def test_a_map_by_hand() -> None:
    """Points on two lines: the axes are the coordinates, the larger first, whatever their order."""
    rows = np.array([[0.0, 4, 0], [0, -4, 0], [1, 0, 0], [-1, 0, 0]])
    result = pdepth.depth_from_embeddings(
        [rows], [0, 0, 1, 1], [0], [np.array([[3.0, 2, 5]])], k=1, return_map="pca"
    )
    found = result.map
    assert found is not None
    assert found.support is not None
    assert found.support[:, 0].tolist() == [[4, 0], [-4, 0], [0, 1], [0, -1]]
    assert found.queries.tolist() == [[[2, 3]]]
    np.testing.assert_allclose(found.explained, [[32 / 34, 2 / 34]], rtol=1e-14)


@pytest.mark.parametrize("power", [1005, 900, 70, -70, -600, -1005])
def test_rows_that_float32_has_no_room_for_have_the_same_map(power: int) -> None:
    """Their squares, or only their places, would overflow or vanish."""
    rows = np.random.default_rng(4).standard_normal((50, 6))
    labels = np.arange(50) % 3
    axes, others = (mapping.fit(Rows(rows * 2.0**p, "float64")) for p in (0, power))
    assert axes.unit == 1
    np.testing.assert_allclose(others.components, axes.components, rtol=0, atol=1e-12)
    np.testing.assert_allclose(others.explained, axes.explained, rtol=1e-12)
    np.testing.assert_array_equal(others.mean * (others.unit / 2.0**power), axes.mean)
    expected, found = (
        pdepth.depth_from_embeddings([rows * 2.0**p], labels, labels, k=3, return_map="pca").map
        for p in (0, power)
    )
    assert expected is not None
    assert found is not None
    assert (expected.units.tolist(), found.units.tolist()) == ([1], [others.unit])
    places = found.queries * (others.unit / 2.0**power)
    size = np.abs(expected.queries).max()
    np.testing.assert_allclose(places, expected.queries, rtol=0, atol=1e-6 * size)


def test_a_row_far_from_a_support_is_infinitely_far() -> None:
    rows = np.random.default_rng(4).standard_normal((50, 6))
    found = pdepth.depth_from_embeddings(
        [rows], [0] * 50, [0], [np.full((1, 6), 1e60)], k=3, return_map="pca"
    ).map
    assert found is not None
    assert np.isinf(found.queries).all()


def test_equal_rows_lie_on_one_point() -> None:
    rows = np.ones((6, 3))
    found = pdepth.depth_from_embeddings([rows], [0] * 6, [0] * 6, k=2, return_map="pca").map
    assert found is not None
    assert found.support is None
    assert not found.queries.any()
    assert not found.explained.any()


def test_early_exit_leaves_out_who_is_not_searched() -> None:
    whole, some = depth(early_exit=False), depth()
    searched = np.vstack([some.known[1:], np.ones((1, 40), bool)])
    assert some.map is not None
    assert whole.map is not None
    np.testing.assert_array_equal(some.map.searched, searched)
    assert 0 < searched.sum() < searched.size
    np.testing.assert_array_equal(some.map.queries[searched.T], whole.map.queries[searched.T])
    if searched.any(axis=1).all():
        np.testing.assert_array_equal(some.map.support, whole.map.support)


def test_where_nobody_is_searched_there_is_no_map() -> None:
    result = depth(reference=np.full(40, 7))  # no vote is the reference: the last probe suffices
    assert result.map is not None
    assert result.map.support is not None
    assert np.isnan(result.map.queries[:, :2]).all()
    assert np.isnan(result.map.support[:, :2]).all()
    assert np.isnan(result.map.explained[:2]).all()
    assert not np.isnan(result.map.queries[:, 2]).any()


def test_own_rows_have_one_map() -> None:
    own = pdepth.depth_from_embeddings(SUPPORT, LABELS, LABELS, k=5, return_map="pca").map
    assert own is not None
    assert own.support is None
    some = pdepth.depth_from_embeddings(
        SUPPORT, LABELS, LABELS[[7, 3]], query_rows=[7, 3], k=5, return_map="pca", early_exit=False
    ).map
    assert some is not None
    assert some.support is not None  # the others vote, too
    np.testing.assert_array_equal(some.queries, some.support[[7, 3]])
    np.testing.assert_array_equal(some.support[:, 2], own.queries[:, 2])


class Slices:
    """A `Source` of an array."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows: slice) -> Any:
        return self.array[rows].copy()


@pytest.mark.parametrize("memory", ["100kB", "40kB", None])
def test_chunks_make_no_difference(memory: Any, tmp_path: Path) -> None:
    expected = depth(metric="cosine")
    support, queries = ({n: Slices(v) for n, v in of.items()} for of in (SUPPORT, QUERIES))
    result = pdepth.depth_from_embeddings(
        support, LABELS, PREDICTIONS, queries, k=5, metric="cosine", return_map="pca", memory=memory
    )
    same_map(result.map, expected.map)
    forward = pdepth.depth_from_embeddings(
        iter(SUPPORT.values()), LABELS, PREDICTIONS, iter(QUERIES.values()), k=5, metric="cosine",
        return_map="pca", probes=list(WIDTHS),
    )  # fmt: skip
    same_map(forward.map, depth(metric="cosine", early_exit=False).map)
    assert result.map is not None
    result.map.save(tmp_path / "map.pdepth")
    same_map(pdepth.open_map(tmp_path / "map.pdepth"), expected.map)


def test_copies_of_active_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the support's own rows that are still asked are copied some at a time."""
    predictions = np.where(np.arange(90) % 2, LABELS, (LABELS + 1) % 3)
    call = {"k": 5, "return_map": "pca"}
    whole = pdepth.depth_from_embeddings(SUPPORT, LABELS, predictions, **call).map
    monkeypatch.setattr(mapping, "COPIED_BYTES", 1000)
    same_map(pdepth.depth_from_embeddings(SUPPORT, LABELS, predictions, **call).map, whole)


@pytest.mark.parametrize("width", [1, 5, 64, 1000, 70_000])
def test_a_rows_place_does_not_depend_on_the_others(width: int) -> None:
    rows = mapping.Rows(RNG.standard_normal((23, width)).astype(np.float32), "float32")
    axes = mapping.fit(rows)
    whole = mapping.project(rows, axes)
    for step in (1, 2, 7):
        parts = [mapping.project(rows[begin : begin + step], axes) for begin in range(0, 23, step)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    chosen = np.array([3, 4, 20])
    np.testing.assert_array_equal(mapping.project(rows[chosen], axes), whole[chosen])


def test_all_types_and_torch() -> None:
    values = RNG.integers(0, 9, (50, 6))
    expected = mapping.fit(mapping.Rows(values.astype(np.float64), "float64"))
    for kind in ("uint8", "int64", "float16", "float32"):
        found = mapping.fit(mapping.Rows(values.astype(kind), kind))
        np.testing.assert_array_equal(found.components, expected.components)
    tensors = [torch.from_numpy(values).to(torch.bfloat16)]
    labels = values[:, 0] % 3
    of_torch = pdepth.depth_from_embeddings(tensors, labels, labels, k=3, return_map="pca").map
    of_numpy = pdepth.depth_from_embeddings([values], labels, labels, k=3, return_map="pca").map
    same_map(of_torch, of_numpy)


def test_a_large_support_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mapping.sample(1024, 10) is None
    chosen = mapping.sample(1025, 10)
    assert chosen is not None
    assert len(chosen) == 1024
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, mapping.sample(1025, 7))
    wide = mapping.sample(5000, 1 << 20)
    assert wide is not None
    assert len(wide) == 64
    monkeypatch.setattr(mapping, "SAMPLE_ROWS", 30)
    found, few = depth(early_exit=False).map, mapping.sample(90, 9)
    assert found is not None
    assert found.support is not None
    mean, axes, shares = components(SUPPORT["narrow"][few].astype(np.float64))
    expected = (SUPPORT["narrow"] - mean) @ axes.T
    np.testing.assert_allclose(found.support[:, 1], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.explained[1], shares[:2])
    support = {name: Slices(rows) for name, rows in SUPPORT.items()}
    same_map(
        pdepth.depth_from_embeddings(
            support, LABELS, PREDICTIONS, QUERIES, k=5, early_exit=False, return_map="pca"
        ).map,
        found,
    )


def test_several_k_have_one_map() -> None:
    results = pdepth.depth_from_embeddings(SUPPORT, LABELS, LABELS, k=[3, 5], return_map="pca")
    assert results[3].map is results[5].map
    whole, first = results[3], slice(2)
    some = {"votes": whole.votes[first], "known": whole.known[first], "widths": None}
    with pytest.raises(
        ValueError, match="map: expected that of 90 examples and 2 probes, got Kept"
    ):
        replace(whole, probes=whole.probes[first], **some)


def test_what_cannot_be_mapped() -> None:
    with pytest.raises(ValueError, match="return_map: expected one of pca, umap, got 'tsne'"):
        depth(return_map="tsne")
    with pytest.raises(ValueError, match="return_map: expected None beside cluster, got 'pca'"):
        depth(cluster="auto")


def test_umap_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"return_map='umap' needs umap: pip install 'pdepth\[um"):
        depth(return_map="umap")


@pytest.mark.slow  # compiling takes a minute
def test_umap_lays_out_support_and_queries_from_exact_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    umap = pytest.importorskip("umap")
    seen: list[Any] = []

    class Watched(umap.UMAP):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            seen.append(options["precomputed_knn"])
            super().__init__(**options)

    monkeypatch.setattr(umap, "UMAP", Watched)
    found, again = (depth(return_map="umap", early_exit=False).map for _ in range(2))
    same_map(found, again)
    assert found is not None
    assert found.method == METHODS[1]
    assert np.isnan(found.explained).all()
    assert found.support is not None
    assert np.isfinite(found.support).all()
    assert np.isfinite(found.queries).all()
    rows, distances = seen[0]
    squared, own = definition.kneighbors(SUPPORT["wide"], SUPPORT["wide"], k=15)
    other, asked = definition.kneighbors(SUPPORT["wide"], QUERIES["wide"], k=14)
    np.testing.assert_array_equal(rows[:90], own)
    np.testing.assert_array_equal(rows[90:, 1:], asked)
    np.testing.assert_array_equal(distances[90:, 1:], np.sqrt(other).astype(np.float32))
    np.testing.assert_array_equal(distances[:90], np.sqrt(squared).astype(np.float32))
    with pytest.raises(ValueError, match="expected 'pca' with metric='inner_product'"):
        depth(return_map="umap", metric="inner_product")
    with pytest.raises(
        ValueError, match="expected a support of at least 15 rows for 'umap', got 4"
    ):
        pdepth.depth_from_embeddings([np.eye(4)], [0, 1] * 2, [0] * 4, k=1, return_map="umap")
