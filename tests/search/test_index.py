"""A support that is packed once: the definition's answers, whatever is added, and by any thread."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas
import pytest
from conftest import Engine
from scipy.sparse import csr_matrix

import pdepth
from pdepth import Index, _native, definition, native
from pdepth.arrays.growing import GrowingRows
from pdepth.search import index_state
from pdepth.search.index import ChangedRowsError

from helpers.cases import Case, case, first_difference, oracle_of
from helpers.torch_or_skip import torch

LEVELS = [name for name, runs in native.simd_levels().items() if runs]
RNG = np.random.default_rng(7)
ROWS = RNG.integers(-3, 4, (300, 20)).astype(np.float32)
QUERIES = RNG.integers(-3, 4, (9, 20)).astype(np.float32)
LABELS = RNG.integers(0, 4, 300)


def assert_neighbors(
    found: tuple[Any, Any], support: Any, queries: Any = None, **options: Any
) -> None:
    distances, rows = definition.kneighbors(support, queries, **options)
    assert first_difference(found[1], rows) is None
    assert first_difference(found[0], distances) is None


def grown(problem: Case, rng: np.random.Generator, **options: Any) -> Index:
    """An index that is made of some rows, searched, and given the rest in pieces."""
    rows = len(problem.support)
    cuts = np.sort(rng.integers(0, rows + 1, 3))
    index = Index(problem.support[: cuts[0]], problem.labels[: cuts[0]], **options)
    for begin, end in zip(cuts, [*cuts[1:], rows], strict=True):
        if len(index):
            few = int(rng.integers(1, len(index) + 1))
            found = index.kneighbors(problem.support[:2], few)
            with np.errstate(over="ignore"):
                assert_neighbors(found, problem.support[:begin], problem.support[:2], k=few)
        if end > begin:
            index.add(problem.support[begin:end], problem.labels[begin:end])
    return index


@pytest.mark.parametrize("seed", range(26))
def test_votes_of_a_grown_index_are_those_of_the_definition(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, rng = case(seed), np.random.default_rng(seed)
    monkeypatch.setenv(native.SIMD, LEVELS[seed % len(LEVELS)])
    index = grown(problem, rng, num_threads=1 + seed % 2)
    oracle = oracle_of(problem)
    for level in (None, *LEVELS):  # another level packs the rows for itself
        if level:
            monkeypatch.setenv(native.SIMD, level)
        found = index.votes(problem.queries, return_counts=True, **problem.options)
        for name in ("votes", "tied", "counts", "classes"):
            assert first_difference(getattr(found, name), getattr(oracle, name)) is None


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_every_engine(engine: Engine, metric: str) -> None:
    rows = engine.of(300, 60)
    index = Index(ROWS[:rows], LABELS[:rows], metric=metric, **engine.options)
    for queries, options in ((QUERIES, {}), (None, {"query_rows": [3, 3, 0]})):
        found = index.kneighbors(queries, 5, **options)
        assert_neighbors(found, ROWS[:rows], queries, k=5, metric=metric, **options)
        for k in (5, (1, 7)):
            votes = index.votes(queries, k=k, weights="distance", **options)
            expected = pdepth.probe_votes(
                ROWS[:rows], LABELS[:rows], queries, k=k, weights="distance", metric=metric,
                backend="reference", **options,
            )  # fmt: skip
            for some, same in zip(
                *(v.values() if isinstance(v, dict) else [v] for v in (votes, expected)),
                strict=True,
            ):
                assert first_difference(some.votes, same.votes) is None


def test_layers_are_searched_together() -> None:
    layers = {"a": ROWS, "b": ROWS[:, :3].astype(np.float64)}
    queries = {"a": QUERIES, "b": QUERIES[:, :3].astype(np.float64)}
    index = Index.of_layers(layers, LABELS)
    assert index.widths == (20, 3)
    expected = pdepth.probe_votes(layers, LABELS, queries, k=5)
    assert first_difference(index.votes(queries, k=5).votes, expected.votes) is None
    distances, rows = index.kneighbors(queries, 4)
    assert distances.shape == rows.shape == (2, 9, 4)
    assert_neighbors((distances[1], rows[1]), layers["b"], queries["b"], k=4)
    index.add({name: layer[:5] for name, layer in layers.items()}, LABELS[:5])
    assert len(index) == 305


def test_tensors_come_back_as_tensors() -> None:
    index = Index(torch.from_numpy(ROWS).bfloat16(), torch.from_numpy(LABELS))
    index.add(torch.from_numpy(ROWS[:7]).bfloat16(), LABELS[:7])
    distances, rows = index.kneighbors(QUERIES, 3)
    assert isinstance(rows, torch.Tensor)
    assert_neighbors(
        (distances.numpy(), rows.numpy()), np.concatenate([ROWS, ROWS[:7]]), QUERIES, k=3
    )
    assert isinstance(index.votes(QUERIES).votes, torch.Tensor)


def test_equal_rows_beyond_what_a_packing_keeps() -> None:
    """An index drops equal rows that no search so far could return; a larger k finds them."""
    rows = np.repeat(ROWS[:2], 600, axis=0)
    index = Index(rows)
    for k in (3, 700, 3, 1200):
        assert_neighbors(index.kneighbors(QUERIES[:2], k), rows, QUERIES[:2], k=k)


def test_a_support_beyond_memory_is_packed_by_each_search() -> None:
    index = Index(ROWS, memory=4000)
    for _ in range(2):
        assert_neighbors(index.kneighbors(QUERIES, 5), ROWS, QUERIES, k=5)
    assert index.nbytes < ROWS.nbytes + 8000  # a reading, and no packed rows


def test_what_is_packed_is_used_again() -> None:
    index = Index(ROWS)
    unpacked = index.nbytes
    index.kneighbors(QUERIES, 3)
    packed = index.nbytes
    assert packed > unpacked
    index.kneighbors(None, 3)
    assert index.nbytes == packed
    index.add(ROWS[:4])
    index.kneighbors(QUERIES, 3)
    assert index.nbytes > packed


def test_threads_search_while_rows_are_added() -> None:
    index = Index(ROWS[:50])
    expected = {n: definition.kneighbors(ROWS[:n], QUERIES, k=5)[1] for n in range(50, 301, 25)}
    wrong: list[Any] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            found = index.kneighbors(QUERIES, 5)[1]
            if not any(np.array_equal(found, rows) for rows in expected.values()):
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for begin in range(50, 300, 25):
        index.add(ROWS[begin : begin + 25])
        index.kneighbors(QUERIES, 5)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert first_difference(index.kneighbors(QUERIES, 5)[1], expected[300]) is None


def test_pickles_and_copies_answer_alike() -> None:
    index = Index(ROWS, LABELS, metric="cosine")
    index.kneighbors(QUERIES, 3)
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert_neighbors(other.kneighbors(QUERIES, 3), ROWS, QUERIES, k=3, metric="cosine")
        other.add(ROWS[:2], [0, 0])
        assert len(other) == 302
    assert len(index) == 300


def test_rows_of_the_caller() -> None:
    rows = ROWS.copy()
    index = Index(rows, copy=False)
    assert np.shares_memory(index._now().probes[0].support.array, rows)
    index.kneighbors(QUERIES, 3)
    rows[0] += 1
    with pytest.raises(ValueError, match="row 0 was changed since the index was made"):
        index.kneighbors(QUERIES, 3)
    kept = Index(rows)
    rows[0] -= 1
    assert_neighbors(
        kept.kneighbors(QUERIES, 1), np.concatenate([ROWS[:1] + 1, ROWS[1:]]), QUERIES, k=1
    )


def test_a_copy_shares_the_rows_of_the_caller() -> None:
    rows = ROWS.copy()
    other = copy.copy(Index(rows, copy=False))
    kept = pickle.loads(pickle.dumps(other))
    rows[299] += 1
    with pytest.raises(ChangedRowsError, match="row 299 was changed"):
        other.kneighbors(QUERIES, 3)
    assert_neighbors(kept.kneighbors(QUERIES, 3), ROWS, QUERIES, k=3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_process_that_forks() -> None:
    """It searches what its parent has packed."""
    index = Index(ROWS)
    index.kneighbors(QUERIES, 3)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def search() -> None:
        answers.put((index.nbytes, index.kneighbors(QUERIES, 3)))

    child = context.Process(target=search)
    child.start()
    nbytes, found = answers.get()
    child.join()
    assert nbytes == index.nbytes
    assert_neighbors(found, ROWS, QUERIES, k=3)


def answer_of_a_fork(ask: Any) -> Any:
    """What a child that is forked now answers."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(ask()))
    child.start()
    try:
        return answers.get(timeout=60)
    finally:
        child.kill()
        child.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
@pytest.mark.parametrize("packed", [0, 1, 18000])
def test_a_fork_while_a_thread_packs(packed: int) -> None:
    """The child packs anew what another thread of its parent was about to."""
    rows = np.random.default_rng(0).standard_normal((20000, 100)).astype(np.float32)
    expected = definition.kneighbors(rows, rows[:5], k=3)
    for attempt in range(5):
        index = Index(rows[: packed or 20000])
        if packed:
            index.kneighbors(rows[:1], 1)
        if len(index) < len(rows):
            index.add(rows[packed:])
        thread = threading.Thread(target=index.kneighbors, args=(rows[:5], 3))
        thread.start()
        time.sleep(0.003 * attempt)
        distances, found = answer_of_a_fork(partial(index.kneighbors, rows[:5], 3))
        thread.join()
        assert first_difference(found, expected[1]) is None
        assert first_difference(distances, expected[0]) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_fork_while_a_thread_adds_or_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the child no lock is held, whoever held it."""
    entered, ended, parent = threading.Event(), threading.Event(), os.getpid()

    def waiting(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if os.getpid() == parent:
                entered.set()
                ended.wait()
            return function(*arguments)

        return call

    expected = definition.probe_votes(ROWS, LABELS, QUERIES, k=3).votes

    def add_and_vote(index: Index) -> Any:
        votes = index.votes(QUERIES, k=3).votes
        index.add(ROWS, LABELS)
        return votes, len(index)

    for owner, name in ((GrowingRows, "append"), (index_state.arguments, "encode_labels")):
        entered.clear(), ended.clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, waiting(getattr(owner, name)))
            index = Index(ROWS, LABELS)
            thread = threading.Thread(target=add_and_vote, args=(index,))
            thread.start()
            assert entered.wait(60)
            try:
                votes, count = answer_of_a_fork(partial(add_and_vote, index))
            finally:
                ended.set()
                thread.join()
        assert first_difference(votes, expected) is None
        assert count == 600


def test_modules_that_another_thread_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in sys.modules before they have what they are looked up for."""
    for name in ("torch", "numpy.ma"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert_neighbors(Index(ROWS).kneighbors(QUERIES, 3), ROWS, QUERIES, k=3)


def test_layers_whose_names_are_no_strings() -> None:
    layers, queries = {1: ROWS, 2: ROWS[:, :5]}, {1: QUERIES, 2: QUERIES[:, :5]}
    index = Index.of_layers(layers, LABELS)
    index.add(layers, LABELS)
    found = index.kneighbors(queries, 3)
    for place, name in enumerate(layers):
        both = np.concatenate([layers[name]] * 2)
        assert_neighbors((found[0][place], found[1][place]), both, queries[name], k=3)


def test_an_index_that_began_empty() -> None:
    index = Index(np.empty((0, 20), np.float32), np.empty(0, np.int64))
    assert len(index) == 0
    with pytest.raises(ValueError, match="expected rows to search, got none"):
        index.kneighbors(QUERIES, 1)
    index.add(ROWS, LABELS)
    assert_neighbors(index.kneighbors(QUERIES, 3), ROWS, QUERIES, k=3)


def test_closed() -> None:
    with Index(ROWS) as index:
        index.kneighbors(QUERIES, 3)
    with pytest.raises(ValueError, match="expected an open index, got one that was closed"):
        index.kneighbors(QUERIES, 3)
    assert repr(index) == "<pdepth.Index, closed>"


def test_what_it_holds() -> None:
    index = Index(torch.from_numpy(ROWS), LABELS, metric="cosine")
    index.add(torch.from_numpy(ROWS[:5]), LABELS[:5])
    assert repr(index) == "<pdepth.Index of 305 rows, widths 20, cosine, labels>"
    assert (len(index), index.widths, index.metric) == (305, (20,), "cosine")
    assert first_difference(index.labels, np.concatenate([LABELS, LABELS[:5]])) is None
    units = definition.as_rows(np.concatenate([ROWS, ROWS[:5]]), "cosine")
    assert isinstance(index.rows, torch.Tensor)
    assert first_difference(index.rows.numpy(), units) is None
    layers = Index.of_layers({"a": ROWS, "b": ROWS[:, :3]})
    assert [rows.shape for rows in layers.rows] == [(300, 20), (300, 3)]
    assert layers.labels is None


def test_tables_are_arrays() -> None:
    index = Index(pandas.DataFrame(ROWS), LABELS)
    index.add(pandas.DataFrame(ROWS[:5]), LABELS[:5])
    found = index.kneighbors(pandas.DataFrame(QUERIES), 3)
    assert_neighbors(found, np.concatenate([ROWS, ROWS[:5]]), QUERIES, k=3)


NAN = np.full((1, 20), np.nan, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Index([ROWS]), TypeError, "use pdepth.Index.of_layers"),
        (
            lambda: Index("rows.npy"),
            FileNotFoundError,
            "0.: There is no file or dir",
        ),
        (lambda: Index(csr_matrix(ROWS)), TypeError, r"pass its .toarray\(\)"),
        (lambda: Index.of_layers(ROWS), TypeError, r"got a ndarray; .* use pdepth.Index"),
        (lambda: Index.of_layers({}), TypeError, "at least one, got a dict"),
        (
            lambda: Index.of_layers([ROWS], metrics="cosine"),
            TypeError,
            "unexpected keyword argument 'metrics'",
        ),
        (lambda: Index.of_layers([ROWS, ROWS[:3]]), ValueError, "expected 300 rows as at"),
        (lambda: Index(ROWS, LABELS[:3]), ValueError, "labels: expected 300 entries, got 3"),
        (lambda: Index(NAN), ValueError, "NaN or infinity in row 0"),
        (lambda: Index(ROWS, metric="l1"), ValueError, "metric: expected one of"),
        (lambda: Index(ROWS).votes(QUERIES), ValueError, "expected an index with labels"),
        (lambda: Index(ROWS).kneighbors(QUERIES, 301), ValueError, "k: expected at most 300"),
        (lambda: Index(ROWS).kneighbors(None, 300), ValueError, "less the row that is left out"),
        (lambda: Index(ROWS).kneighbors(QUERIES[:, :3], 3), ValueError, "expected width 20"),
        (lambda: Index(ROWS).kneighbors(QUERIES[:0], 3), ValueError, "at least one row, got none"),
        (lambda: Index(ROWS).kneighbors(NAN, 3), ValueError, "NaN or infinity in row 0"),
        (lambda: Index(ROWS).kneighbors(QUERIES, 3, query_rows=[1]), ValueError, "beside queries"),
        (lambda: Index(ROWS).add(ROWS[:, :3]), ValueError, "got 300 of width 3"),
        (lambda: Index(ROWS).add(ROWS.astype(np.float64)), ValueError, "and type float64"),
        (lambda: Index(ROWS).add(NAN), ValueError, "NaN or infinity in row 0"),
        (lambda: Index(ROWS).add(ROWS, LABELS), ValueError, "labels: expected none"),
        (lambda: Index(ROWS, LABELS).add(ROWS), ValueError, "labels: expected integers, got None"),
        (lambda: Index(ROWS, metric="cosine").add(0 * ROWS), ValueError, "whose norm is zero"),
        (
            lambda: Index(ROWS, LABELS, metric="inner_product").votes(weights="distance"),
            ValueError,
            "weights: expected 'uniform' or 'exp' with metric='inner_product', got 'distance'",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_refused_addition_changes_nothing() -> None:
    index = Index(ROWS, LABELS)
    with pytest.raises(ValueError, match="NaN"):
        index.add(NAN, [0])
    with pytest.raises(ValueError, match="labels"):
        index.add(ROWS[:2], [1])
    assert len(index) == 300
    assert_neighbors(index.kneighbors(QUERIES, 3), ROWS, QUERIES, k=3)


def test_adding_no_rows_changes_nothing() -> None:
    rows = ROWS.copy()
    for index in (Index(ROWS, LABELS), Index(rows, LABELS, copy=False)):
        index.kneighbors(QUERIES, 3)
        with pytest.raises(ValueError, match="labels: expected integers, got None"):
            index.add(ROWS[:0])
        index.add(ROWS[:0], LABELS[:0])
        assert_neighbors(index.kneighbors(QUERIES, 3), ROWS, QUERIES, k=3)
    rows[0] += 1
    with pytest.raises(ValueError, match="row 0 was changed"):
        index.kneighbors(QUERIES, 3)


def test_memory_that_runs_out_while_rows_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer has its rows, the second has no room for them."""
    layers = [ROWS, ROWS[:, :3]]
    index, append = Index.of_layers(layers, LABELS), GrowingRows.append

    def full(self: GrowingRows, count: int, more: Any) -> Any:
        if more.width == 3:
            raise MemoryError
        return append(self, count, more)

    monkeypatch.setattr(GrowingRows, "append", full)
    with pytest.raises(MemoryError):
        index.add([layer[100:107] for layer in layers], LABELS[:7])
    monkeypatch.undo()
    assert len(index) == 300
    index.add([layer[:2] for layer in layers], LABELS[:2])
    distances, found = index.kneighbors([QUERIES, QUERIES[:, :3]], 3)
    for at, layer in enumerate(layers):
        both = np.concatenate([layer, layer[:2]])
        queries = QUERIES[:, : layer.shape[1]]
        assert_neighbors((distances[at], found[at]), both, queries, k=3)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("copy", [True, False])
def test_mapped_arrays(metric: str, copy: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    np.save(tmp_path / "queries.npy", QUERIES)
    mapped, queries = (
        np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("rows", "queries")
    )
    index = Index(mapped, metric=metric, copy=copy)
    index.add(mapped[:9])
    rows = np.concatenate([ROWS, ROWS[:9]])
    assert_neighbors(index.kneighbors(queries, 4), rows, QUERIES, k=4, metric=metric)


def test_threads_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each call, or else those of the index."""
    seen = []
    run = _native.run

    def watched(**call: Any) -> None:
        seen.append(call["threads"])
        run(**call)

    monkeypatch.setattr(_native, "run", watched)
    index = Index(ROWS, LABELS, num_threads=3)
    for options in ({}, {"num_threads": 2}):
        index.kneighbors(QUERIES, 3, **options)
        index.votes(QUERIES, k=3, **options)
    assert seen == [3, 3, 2, 2]
    with pytest.raises(ValueError, match="num_threads: expected an integer >= 1, got 0"):
        index.kneighbors(QUERIES, 3, num_threads=0)
