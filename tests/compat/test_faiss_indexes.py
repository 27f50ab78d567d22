"""Flat indexes, maps of ids, selectors and files of pdepth.compat.faiss, beside faiss itself."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import definition
from pdepth.compat import faiss as compat

from helpers.torch_or_skip import torch

faiss = pytest.importorskip("faiss")
RNG = np.random.default_rng(3)
# Whole numbers: float32 sums of faiss are exact, so that its answers and ours are the same bits.
ROWS = RNG.integers(-6, 7, (400, 24)).astype(np.float32)
QUERIES = RNG.integers(-6, 7, (30, 24)).astype(np.float32)
IDS = RNG.permutation(10_000)[:400]
KINDS = ["IndexFlatL2", "IndexFlatIP"]


def pair(name: str, rows: Any = ROWS) -> tuple[Any, Any]:
    made = tuple(getattr(module, name)(24) for module in (faiss, compat))
    for index in made:
        index.add(rows)
    return made  # type: ignore[return-value]


def mapped(name: str, kind: str) -> tuple[Any, Any]:
    made = []
    for module in (faiss, compat):
        index = getattr(module, name)(getattr(module, kind)(24))
        index.add_with_ids(ROWS, IDS)
        made.append(index)
    return made[0], made[1]


def selected(index: Any, selector: Any, k: int) -> tuple[Any, Any]:
    """faiss' search among selected rows; what faiss.contrib.torch_utils puts over it cannot."""
    D, rows = np.empty((len(QUERIES), k), np.float32), np.empty((len(QUERIES), k), np.int64)
    out = faiss.swig_ptr(D), faiss.swig_ptr(rows)
    params = faiss.SearchParameters(sel=selector)
    index.search_c(len(QUERIES), faiss.swig_ptr(QUERIES), k, *out, params)
    return D, rows


def assert_same_values(expected: Any, result: Any) -> None:
    """Equal distances; rows may differ among equal ones, whose order faiss leaves open."""
    assert result[0].dtype == expected[0].dtype
    assert result[1].dtype == expected[1].dtype
    assert (result[0] == expected[0]).all()


@pytest.mark.parametrize("name", KINDS)
def test_rows_that_are_added_later_are_found(name: str) -> None:
    metric = compat.METRIC_L2 if name == "IndexFlatL2" else compat.METRIC_INNER_PRODUCT
    index, done = getattr(compat, name)(24), 0
    for count in (1, 9, 90, 300):
        index.add(ROWS[done : done + count])
        done += count
        expected = compat.knn(QUERIES, ROWS[:done], 7, metric)
        result = index.search(QUERIES, 7)
        assert all((a == b).all() for a, b in zip(result, expected, strict=True))


def test_an_index_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, opened = [], pdepth.Index.__init__

    def watched(self: Any, *given: Any, **options: Any) -> None:
        made.append(given)
        opened(self, *given, **options)

    monkeypatch.setattr(pdepth.Index, "__init__", watched)
    index = compat.IndexFlatL2(24)
    for begin in (0, 200):
        index.add(ROWS[begin : begin + 200])
        for k in (1, 5):
            index.search(QUERIES, k)
    assert len(made) == 1


SELECTORS: dict[str, Callable[[Any], Any]] = {
    "range": lambda m: m.IDSelectorRange(30, 200),
    "empty range": lambda m: m.IDSelectorRange(30, 30),
    "array": lambda m: m.IDSelectorArray(np.arange(0, 400, 7)),
    "batch": lambda m: m.IDSelectorBatch(np.arange(3, 50_000, 11)),
    "bitmap": lambda m: m.IDSelectorBitmap(RANDOM_BYTES),
    "all": lambda m: m.IDSelectorAll(),
    "not": lambda m: m.IDSelectorNot(kept(m.IDSelectorRange(30, 200))),
    "and": lambda m: m.IDSelectorAnd(*parts(m)),
    "or": lambda m: m.IDSelectorOr(*parts(m)),
    "xor": lambda m: m.IDSelectorXOr(*parts(m)),
}
RANDOM_BYTES = RNG.integers(0, 256, 1000).astype(np.uint8)
KEPT: list[Any] = []


def kept(selector: Any) -> Any:
    KEPT.append(selector)  # faiss' selectors do not keep their parts alive
    return selector


def parts(module: Any) -> tuple[Any, Any]:
    return kept(module.IDSelectorRange(30, 200)), kept(module.IDSelectorBatch(np.arange(0, 400, 3)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", SELECTORS)
def test_selected_rows_alone_are_searched(what: str, kind: str) -> None:
    theirs, ours = pair(kind)
    selectors = [SELECTORS[what](module) for module in (faiss, compat)]
    members = np.array([selectors[0].is_member(row) for row in range(400)])
    assert [selectors[1].is_member(row) for row in range(400)] == members.tolist()
    expected = selected(theirs, selectors[0], 5)
    for selector in selectors:  # faiss' own, too
        result = ours.search(QUERIES, 5, params=compat.SearchParameters(sel=selector))
        assert_same_values(expected, result)
        rows = result[1][result[1] >= 0]
        assert members[rows].all()
        assert (result[1] >= 0).sum() == 30 * min(5, members.sum())
    if kind == "IndexFlatL2" and members.sum() >= 5:
        near = definition.kneighbors(ROWS[members], QUERIES, k=5)[1]
        assert (result[1] == np.flatnonzero(members)[near]).all()
    found = ours.range_search(QUERIES, 900.0, params=compat.SearchParameters(sel=selectors[1]))
    assert members[found[2]].all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantile", [0, 0.01, 0.3, 1])
def test_ranges(kind: str, quantile: float) -> None:
    theirs, ours = pair(kind)
    values = np.sort(theirs.search(QUERIES, 400)[0].ravel())
    for thresh in (float(values[int(quantile * (len(values) - 1))]), float(values[0]) - 1):
        expected, result = theirs.range_search(QUERIES, thresh), ours.range_search(QUERIES, thresh)
        assert [each.dtype for each in result] == [each.dtype for each in expected]
        assert (result[0] == expected[0]).all()
        for begin, end in zip(result[0][:-1].astype(int), result[0][1:].astype(int), strict=True):
            order = np.argsort(expected[2][begin:end])
            assert (result[2][begin:end] == expected[2][begin:end][order]).all()
            assert (result[1][begin:end] == expected[1][begin:end][order]).all()
    tensors = ours.range_search(torch.from_numpy(QUERIES), thresh)
    assert all((a.numpy() == b).all() for a, b in zip(tensors, result, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_is_what_a_search_returns_below_it(kind: str) -> None:
    """Rows whose values agree in float32 but for the last bit, with thresholds between them."""
    rng = np.random.default_rng(5)
    rows = (1 + 1e-4 * rng.standard_normal((200, 33))).astype(np.float32)
    index = getattr(compat, kind)(33)
    index.add(rows)
    values, near = index.search(rows[:4], 200)
    for thresh in [*np.unique(values)[::40], np.inf, -np.inf, np.nan, 0.0]:
        lims, found, which = index.range_search(rows[:4], thresh)
        for query in range(4):
            inside = values[query] > thresh if kind == "IndexFlatIP" else values[query] < thresh
            order = np.argsort(near[query][inside])
            some = slice(int(lims[query]), int(lims[query + 1]))
            assert (which[some] == near[query][inside][order]).all()
            assert (found[some] == values[query][inside][order]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_found_come_along(kind: str) -> None:
    theirs, ours = pair(kind, ROWS[:3])
    expected, result = (i.search_and_reconstruct(QUERIES, 5) for i in (theirs, ours))
    assert_same_values(expected, result)
    assert result[2].shape == (30, 5, 24)
    assert np.isnan(result[2][:, 3:]).all()
    assert (result[2][:, :3] == ROWS[result[1][:, :3]]).all()


def test_answers_are_written_where_they_are_wanted() -> None:
    _, ours = pair("IndexFlatL2")
    expected = ours.search_and_reconstruct(QUERIES, 5)
    library: Any
    for library in (np, torch):
        D = library.empty((30, 5), dtype=library.float32)
        rows = library.empty((30, 5), dtype=library.int64)
        R = library.empty((30, 5, 24), dtype=library.float32)
        result = ours.search_and_reconstruct(QUERIES, 5, D=D, I=rows, R=R)
        for out, given, same in zip(result, (D, rows, R), expected, strict=True):
            assert out is given
            assert (np.asarray(out) == same).all()
        out = library.empty(24, dtype=library.float32)
        assert ours.reconstruct(7, out) is out
        assert (np.asarray(out) == ROWS[7]).all()
    with pytest.raises(AssertionError, match=r"D: expected shape \(30, 5\), got \(30, 4\)"):
        ours.search(QUERIES, 5, D=np.empty((30, 4), np.float32))


def test_rows_are_removed_and_those_after_move_up() -> None:
    theirs, ours = pair("IndexFlatL2")
    ours.search(QUERIES, 3)
    for selector in (np.array([0, 5, 399]), "range"):
        given = (
            [
                module.IDSelectorRange(10, 90) if selector == "range" else selector
                for module in (faiss, compat)
            ]
            if isinstance(selector, str)
            else [selector, selector]
        )
        assert ours.remove_ids(given[1]) == theirs.remove_ids(given[0])
        assert ours.ntotal == theirs.ntotal
        assert (ours.reconstruct_n() == theirs.reconstruct_n(0, theirs.ntotal)).all()
        assert_same_values(theirs.search(QUERIES, 9), ours.search(QUERIES, 9))
    assert ours.remove_ids(compat.IDSelectorAll()) == 317
    assert ours.ntotal == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["IndexIDMap", "IndexIDMap2"])
def test_ids(name: str, kind: str) -> None:
    theirs, ours = mapped(name, kind)
    assert (ours.d, ours.ntotal, ours.metric_type) == (24, 400, theirs.metric_type)
    assert (ours.id_map == faiss.vector_to_array(theirs.id_map)).all()
    assert (compat.vector_to_array(ours.id_map) == IDS).all()
    assert_same_values(theirs.search(QUERIES, 7), ours.search(QUERIES, 7))
    plain = compat.knn(QUERIES, ROWS, 7, ours.metric_type)[1]
    assert (ours.search(QUERIES, 7)[1] == IDS[plain]).all()
    assert (ours.assign(QUERIES, 7) == IDS[plain]).all()
    selectors = [module.IDSelectorRange(0, 5000) for module in (faiss, compat)]
    expected = selected(theirs, selectors[0], 5)
    result = ours.search(QUERIES, 5, params=compat.SearchParameters(sel=selectors[1]))
    assert_same_values(expected, result)
    assert (result[1] < 5000).all()
    lims, values, ids = ours.range_search(QUERIES, 300.0)
    expected = theirs.range_search(QUERIES, 300.0)
    assert (lims == expected[0]).all()
    assert sorted(zip(ids, values, strict=True)) == sorted(
        zip(expected[2], expected[1], strict=True)
    )
    assert ours.remove_ids(IDS[:9]) == theirs.remove_ids(IDS[:9]) == 9
    assert (ours.id_map == IDS[9:]).all()
    assert_same_values(theirs.search(QUERIES, 7), ours.search(QUERIES, 7))
    if name == "IndexIDMap2":
        assert (ours.reconstruct(int(IDS[77])) == ROWS[77]).all()
        assert (ours.reconstruct_batch(IDS[[77, 30]]) == ROWS[[77, 30]]).all()
        for index in (theirs, ours):
            with pytest.raises(RuntimeError):
                index.reconstruct(int(IDS[0]))
    ours.reset()
    assert (ours.search(QUERIES, 2)[1] == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_adding_no_rows_changes_nothing(kind: str) -> None:
    theirs, ours = pair(kind)
    for index in (theirs, ours):
        index.search(QUERIES, 3)
        index.add(ROWS[:0])
    assert_same_values(theirs.search(QUERIES, 7), ours.search(QUERIES, 7))


def test_a_refused_addition_leaves_no_ids() -> None:
    _, ours = mapped("IndexIDMap", "IndexFlatL2")
    for rows, ids, error in (
        (np.full((2, 24), np.nan, np.float32), [1, 2], "NaN"),
        (ROWS[:2], ["a", "b"], "invalid literal"),
    ):
        with pytest.raises(ValueError, match=error):
            ours.add_with_ids(rows, ids)
        assert ours.ntotal == len(ours.id_map) == 400
    ours.add_with_ids(ROWS[:2], [7, 8])
    assert ours.id_map[400:].tolist() == [7, 8]


def test_merging() -> None:
    _, one = pair("IndexFlatL2", ROWS[:100])
    _, other = pair("IndexFlatL2", ROWS[100:])
    one.merge_from(other)
    assert other.ntotal == 0
    assert (one.reconstruct_n() == ROWS).all()
    with pytest.raises(RuntimeError, match="other: expected metric_type 1, got 0"):
        one.merge_from(compat.IndexFlatIP(24))
    theirs, ours = pair("IndexFlatL2", ROWS[:100])
    for index, empty in ((theirs, faiss.IndexFlatL2(24)), (ours, compat.IndexFlatL2(24))):
        with pytest.raises(RuntimeError, match="add_id"):
            index.merge_from(empty, 3)
    maps = [compat.IndexIDMap(compat.IndexFlatL2(24)) for _ in range(2)]
    for index, some in zip(maps, (slice(0, 50), slice(50, 400)), strict=True):
        index.add_with_ids(ROWS[some], IDS[some])
    maps[0].merge_from(maps[1], 5)
    assert (maps[0].id_map == np.concatenate([IDS[:50], IDS[50:] + 5])).all()


@pytest.mark.parametrize("description", ["Flat", "IDMap,Flat", "IDMap2,Flat", "Flat,IDMap2"])
@pytest.mark.parametrize("metric", [compat.METRIC_L2, compat.METRIC_INNER_PRODUCT])
def test_files_hold_an_index(description: str, metric: int, tmp_path: Path) -> None:
    for rows in (0, 50):
        ours = compat.index_factory(24, description, metric)
        theirs = faiss.index_factory(24, description, metric)
        for index in (ours, theirs):
            if rows and "IDMap" in description:
                index.add_with_ids(ROWS[:rows], IDS[:rows])
            elif rows:
                index.add(ROWS[:rows])
        compat.write_index(ours, tmp_path / "ours")
        faiss.write_index(theirs, str(tmp_path / "theirs"))
        bytes = compat.serialize_index(ours)
        again = [
            compat.read_index(tmp_path / "ours"),
            compat.read_index(str(tmp_path / "theirs"), compat.IO_FLAG_MMAP),
            compat.deserialize_index(bytes),
            compat.deserialize_index(faiss.serialize_index(theirs)),
            compat.clone_index(ours),
            pickle.loads(pickle.dumps(ours)),
            copy.deepcopy(ours),
        ]
        for index in again:
            assert index.ntotal == rows
            assert index.metric_type == metric
            expected, result = ours.search(QUERIES, 3), index.search(QUERIES, 3)
            assert all((a == b).all() for a, b in zip(result, expected, strict=True))
        assert type(again[0]) is type(ours)


def test_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    path, (theirs, ours) = tmp_path / "index", pair("IndexFlatL2")
    assert compat.IO_FLAG_MMAP == faiss.IO_FLAG_MMAP
    assert compat.IO_FLAG_READ_ONLY == faiss.IO_FLAG_READ_ONLY
    with pytest.raises(RuntimeError, match="expected a readable file; No such file"):
        compat.read_index(path)
    compat.write_index(ours, path)
    whole = path.read_bytes()
    for place in (100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:place])
        with pytest.raises(RuntimeError, match="expected a whole file of write_index"):
            compat.read_index(path)
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 4
    path.write_bytes(spoiled)
    with pytest.raises(RuntimeError, match="expected a whole file of write_index"):
        compat.read_index(path)
    np.savez(path.with_suffix(".npz"), rows=ROWS)
    with pytest.raises(RuntimeError, match="expected a whole file of write_index"):
        compat.read_index(path.with_suffix(".npz"))
    quantized = faiss.index_factory(24, "SQ8")
    faiss.write_index(quantized, str(path))
    with pytest.raises(ValueError, match="got an? IndexScalarQuantizer; use it with faiss itself"):
        compat.read_index(path)
    with pytest.raises(TypeError, match="index: expected one of IndexFlat, .* got a faiss"):
        compat.write_index(theirs, path)


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int16", "bfloat16"])
def test_narrow_rows_are_searched_as_they_are(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, kneighbors = [], pdepth.kneighbors

    def watched(support: Any, *given: Any, **options: Any) -> Any:
        seen.append(str(support.dtype).removeprefix("torch."))
        return kneighbors(support, *given, **options)

    monkeypatch.setattr(pdepth, "kneighbors", watched)
    rows, queries = abs(ROWS), abs(QUERIES)
    if dtype == "bfloat16":
        given = [torch.from_numpy(each).bfloat16() for each in (rows, queries)]
    else:
        given = [each.astype(dtype) for each in (rows, queries)]
    result = compat.knn(given[1], given[0], 6)
    expected = definition.kneighbors(rows, queries, k=6)
    assert (np.asarray(result[0]) == expected[0]).all()
    assert (np.asarray(result[1]) == expected[1]).all()
    assert seen == [dtype]
    products = compat.knn(given[1], given[0], 6, compat.METRIC_INNER_PRODUCT)
    assert (np.asarray(products[0]) == faiss.knn(queries, rows, 6, 0)[0]).all()


@pytest.mark.parametrize("kind", ["float32", "float64", "tensor"])
def test_normalised_rows(kind: str) -> None:
    rows = RNG.standard_normal((50, 9)).astype(np.float32)
    rows[4] = 0
    expected = rows.copy()
    faiss.normalize_L2(expected)
    given = torch.from_numpy(rows.copy()) if kind == "tensor" else rows.astype(kind)
    compat.normalize_L2(given)
    np.testing.assert_allclose(np.asarray(given), expected, rtol=3e-7)
    exact = rows.astype(np.float64)
    norms = np.sqrt((exact * exact).sum(1, keepdims=True))
    norms[4] = 1
    assert (np.asarray(given) == (exact / norms).astype(np.asarray(given).dtype)).all()
    with pytest.raises(TypeError, match=r"x: expected floats of shape \(N, D\), got int64"):
        compat.normalize_L2(np.ones((3, 3), np.int64))


def test_threads_are_those_that_were_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, kneighbors = [], pdepth.Index.kneighbors

    def watched(self: Any, *given: Any, num_threads: Any, **options: Any) -> Any:
        seen.append(num_threads)
        return kneighbors(self, *given, num_threads=num_threads, **options)

    monkeypatch.setattr(pdepth.Index, "kneighbors", watched)
    monkeypatch.setattr(compat.flat, "THREADS", threads := [None])
    monkeypatch.setattr(compat.functions, "THREADS", threads)
    _, ours = pair("IndexFlatL2")
    ours.search(QUERIES, 3)
    compat.omp_set_num_threads(3)
    ours.search(QUERIES, 3)
    assert seen == [None, 3]
    assert compat.omp_get_max_threads() == 3


def test_a_gpu_is_named_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair("IndexFlatL2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="device: expected one of 0 CUDA devices, got 0"):
        compat.index_cpu_to_gpu(compat.StandardGpuResources(), 0, ours)
    moved = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(compat.functions, "_moved", lambda *given: moved.append(given))
    with pytest.warns(UserWarning, match="of 2 GPUs one is used, cuda:0"):
        compat.index_cpu_to_all_gpus(ours)
    assert moved == [(ours, "cuda:0")]


def test_an_index_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU engine here")
    _, ours = mapped("IndexIDMap", "IndexFlatL2")
    there = compat.index_cpu_to_all_gpus(ours)
    assert there.index.rows.is_cuda
    for index in (there, compat.index_gpu_to_cpu(there)):
        assert (index.search(QUERIES, 5)[1] == ours.search(QUERIES, 5)[1]).all()


def test_back_from_a_device_it_is_numpys() -> None:
    index = compat.IndexFlatL2(24)
    index.add(torch.from_numpy(ROWS))
    back = compat.index_gpu_to_cpu(index)
    assert isinstance(back.rows, np.ndarray)
    assert (back.search(QUERIES, 5)[1] == index.search(QUERIES, 5)[1]).all()


def test_what_is_not_here_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'IndexIVFFlat'.*IndexFlatL2.*itself"):
        _ = compat.IndexIVFFlat
    assert not hasattr(compat, "IndexHNSWFlat")
    for index in (compat.IndexFlatL2(3), compat.IndexIDMap(compat.IndexFlatIP(3))):
        with pytest.raises(AttributeError, match="no attribute 'nprobe'.*range_search.*itself"):
            _ = index.nprobe
    with pytest.raises(RuntimeError, match="description: expected Flat.*got 'IVF10,Flat'"):
        compat.index_factory(3, "IVF10,Flat")
    with pytest.raises(RuntimeError, match="use IndexIDMap"):
        compat.IndexFlatL2(24).add_with_ids(ROWS, IDS)
    with pytest.raises(RuntimeError, match="use add_with_ids"):
        compat.IndexIDMap(compat.IndexFlatL2(24)).add(ROWS)
    with pytest.raises(RuntimeError, match="index: expected an empty one, got one of 400 rows"):
        compat.IndexIDMap(pair("IndexFlatL2")[1])


def test_searches_while_rows_are_added() -> None:
    """A search sees some first rows, and answers as the definition does for them."""
    index = compat.IndexFlatL2(24)
    index.add(ROWS[:100])
    wrong, end = [], threading.Event()
    answers = {n: definition.kneighbors(ROWS[:n], QUERIES, k=3) for n in range(100, 401, 50)}

    def search() -> None:
        while not end.is_set():
            found = index.search(QUERIES, 3)
            if not any((found[1] == rows).all() for _, rows in answers.values()):
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for begin in range(100, 400, 50):
        index.add(ROWS[begin : begin + 50])
    end.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert (index.search(QUERIES, 3)[1] == answers[400][1]).all()
