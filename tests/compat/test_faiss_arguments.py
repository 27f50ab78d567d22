"""What pdepth.compat.faiss takes and refuses, as faiss does, and numbers beyond float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pdepth import definition
from pdepth.compat import faiss as compat
from pdepth.compat.faiss.flat import _largest_below

from helpers.cases import largest_by_definition
from helpers.torch_or_skip import tensor_of, torch

faiss = pytest.importorskip("faiss")
RNG = np.random.default_rng(3)
ROWS, QUERIES = (RNG.standard_normal((rows, 24)).astype(np.float32) for rows in (200, 20))


def filled(module: Any, mapped: bool = False) -> Any:
    index = module.IndexFlatL2(24)
    if not mapped:
        index.add(ROWS)
        return index
    index = module.IndexIDMap(index)
    index.add_with_ids(ROWS, np.arange(200))
    return index


NO_PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "selector": lambda module: module.IDSelectorRange(10, 20),
    "selector with a sel": lambda module: module.IDSelectorNot(module.IDSelectorRange(10, 20)),
    "dict": lambda module: {"sel": module.IDSelectorRange(10, 20)},
    "int": lambda module: 5,
    "array": lambda module: np.arange(10),
}
SEARCHES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "search": lambda index, x, params: index.search(x, 3, params=params),
    "range_search": lambda index, x, params: index.range_search(x, 30.0, params=params),
    "reconstruct": lambda index, x, params: index.search_and_reconstruct(x, 3, params=params),
}


@pytest.mark.parametrize("mapped", [False, True], ids=["flat", "map"])
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("what", NO_PARAMETERS)
def test_what_are_no_parameters_is_refused_as_by_faiss(
    what: str, search: str, mapped: bool
) -> None:
    """A selector alone was ignored, and one with a `sel` of its own taken for that."""
    ours = filled(compat, mapped)
    sentence = r"^params: expected SearchParameters, got a .*; pass SearchParameters\(sel=...\).$"
    with pytest.raises(TypeError):
        SEARCHES[search](filled(faiss, mapped), QUERIES, NO_PARAMETERS[what](faiss))
    with pytest.raises(TypeError, match=sentence):
        SEARCHES[search](ours, QUERIES, NO_PARAMETERS[what](compat))
    with pytest.raises(TypeError, match=sentence):  # faiss' own, too
        SEARCHES[search](ours, QUERIES, NO_PARAMETERS[what](faiss))


@pytest.mark.parametrize("mapped", [False, True], ids=["flat", "map"])
@pytest.mark.parametrize("module", [faiss, compat], ids=["faiss", "ours"])
def test_parameters_of_either_are_taken(module: Any, mapped: bool) -> None:
    index = filled(compat, mapped)
    assert (index.search(QUERIES, 3, params=module.SearchParameters())[1] == near(ROWS, 3)).all()
    selector = module.IDSelectorRange(10, 20)
    found = index.search(QUERIES, 3, params=module.SearchParameters(sel=selector))
    assert (found[1] == 10 + near(ROWS[10:20], 3)).all()


def test_parameters_of_faiss_other_indexes_are_taken_as_there() -> None:
    params = faiss.SearchParametersIVF(sel=faiss.IDSelectorRange(10, 20))
    assert (filled(compat).search(QUERIES, 3, params=params)[1] == 10 + near(ROWS[10:20], 3)).all()


def near(rows: Any, k: int) -> Any:
    return definition.kneighbors(rows, QUERIES, k=k)[1]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.asarray])
def test_an_index_is_made_of_bytes(kind: Any) -> None:
    index = compat.deserialize_index(kind(compat.serialize_index(filled(compat))))
    assert (index.rows == ROWS).all()
    theirs = compat.deserialize_index(kind(faiss.serialize_index(filled(faiss))))
    assert (theirs.search(QUERIES, 3)[1] == near(ROWS, 3)).all()


@pytest.mark.parametrize(
    ("data", "got"),
    [
        ("text", "a str"),
        (None, "a NoneType"),
        (np.arange(3), r"int64 of shape \(3,\)"),
        (np.zeros((2, 2), np.uint8), r"uint8 of shape \(2, 2\)"),
    ],
)
def test_what_are_no_bytes_is_said(data: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"^data: expected the bytes of serialize_.*, got {got}"):
        compat.deserialize_index(data)


@pytest.mark.parametrize("kind", [np.asarray, tensor_of], ids=["array", "tensor"])
def test_numbers_beyond_float32_are_named(kind: Any) -> None:
    rows, queries = ROWS.astype(np.float64), QUERIES.astype(np.float64)
    rows[7, 3] = queries[4, 2] = -1e39
    index = filled(compat)
    sentence = "expected numbers within float32, up to 3.4e38, got -1e\\+39 in row"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=f"^xb: {sentence} 7; divide all rows and queries by"):
            compat.knn(kind(QUERIES), kind(rows), 3)
        with pytest.raises(ValueError, match=f"^xq: {sentence} 4; "):
            compat.knn(kind(queries), kind(ROWS), 3)
        with pytest.raises(ValueError, match=f"^x: {sentence} 7; "):
            index.add(kind(rows))
        for search in SEARCHES.values():
            with pytest.raises(ValueError, match=f"^x: {sentence} 7; "):
                search(index, kind(rows), None)
        rows[7, 3], queries[4, 2] = np.inf, 3.4028234e38
        with pytest.raises(ValueError, match="NaN or infinity in row 7"):
            index.add(kind(rows))
        assert index.ntotal == 200
        assert len(index.search(kind(queries), 3)[1]) == 20
        assert len(index.range_search(QUERIES, 1e39)[2]) == 20 * 200


def test_the_largest_number_that_rounds_below() -> None:
    for bound in np.float32([1, -1, 0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 0.1, np.inf]):
        limit = _largest_below(float(bound))
        with np.errstate(over="ignore"):
            assert np.float32(limit) < bound
            assert not np.float32(np.nextafter(limit, np.inf)) < bound
    assert np.isnan(_largest_below(-np.inf))
    assert np.isnan(_largest_below(np.nan))


@pytest.mark.parametrize("metric", [compat.METRIC_L2, compat.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("pairs", [300, 1 << 20])
def test_all_distances(metric: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """float64 sums rounded once, a chunk of queries at a time or all together."""
    monkeypatch.setattr("pdepth.compat.faiss.functions.PAIRS", pairs)
    found = compat.pairwise_distances(QUERIES, ROWS, metric)
    assert found.dtype == np.float32
    if metric == compat.METRIC_L2:
        sums, rows = definition.kneighbors(ROWS, QUERIES, k=200)
    else:
        sums, rows = largest_by_definition(ROWS, QUERIES, 200)
    assert (np.take_along_axis(found, rows, 1) == sums.astype(np.float32)).all()
    theirs = faiss.pairwise_distances(QUERIES, ROWS, metric)
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-4)
    tensor = compat.pairwise_distances(torch.from_numpy(QUERIES), torch.from_numpy(ROWS), metric)
    assert (tensor.numpy() == found).all()
    assert compat.pairwise_distances(QUERIES[:0], ROWS, metric).shape == (0, 200)
    assert compat.pairwise_distances(QUERIES, ROWS[:0], metric).shape == (20, 0)


def test_other_distances_are_faiss_own() -> None:
    tensors = torch.from_numpy(QUERIES), torch.from_numpy(ROWS)
    found = compat.pairwise_distances(*tensors, faiss.METRIC_L1)
    assert (found.numpy() == faiss.pairwise_distances(QUERIES, ROWS, faiss.METRIC_L1)).all()
    with pytest.raises(AssertionError):
        compat.pairwise_distances(QUERIES[:, :5], ROWS)


def test_the_version_is_that_of_the_calls() -> None:
    assert compat.__version__.split(".")[0] == faiss.__version__.split(".")[0]


@pytest.mark.parametrize("k", [2.7, "3", None])
def test_what_is_no_number_of_rows_is_refused_as_by_faiss(k: Any) -> None:
    for module, words in ((faiss, None), (compat, "k: expected an integer, got ")):
        with pytest.raises(TypeError, match=words):
            filled(module).search(QUERIES, k)
        with pytest.raises(TypeError, match=words):
            module.knn(QUERIES, ROWS, k)
