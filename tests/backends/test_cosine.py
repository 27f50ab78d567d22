"""Cosine of rows as they are stored: divided where they are read, and never copied in float64."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import Index, _native, definition, native
from pdepth.arrays.rows import NORM_BYTES
from pdepth.backends import cpu

from helpers.cases import (
    DTYPES,
    KINDS,
    Case,
    assert_exact,
    case,
    cast,
    first_difference,
    neighbors_of,
    oracle_of,
)
from helpers.sources import Slices
from helpers.torch_or_skip import torch

LEVELS = [name for name, runs in native.simd_levels().items() if runs]
BLOCKS = 6
RNG = np.random.default_rng(11)
ROWS = RNG.standard_normal((300, 20)).astype(np.float32)
QUERIES = RNG.standard_normal((9, 20)).astype(np.float32)
LABELS = RNG.integers(0, 4, 300)
WIDE = 9 * ROWS.astype(np.float64)


def with_norms(rows: Any) -> Any:
    """The rows, ones in place of those of zeros."""
    rows = rows.clone() if isinstance(rows, torch.Tensor) else rows.copy()
    rows[(rows == 0).all(1)] = 1
    return rows


def cosine(problem: Case) -> Case:
    queries = None if problem.queries is None else with_norms(problem.queries)
    options = problem.options | {"metric": "cosine"}
    return replace(problem, support=with_norms(problem.support), queries=queries, options=options)


def assert_neighbors(found: Any, support: Any, queries: Any = None, **options: Any) -> None:
    distances, rows = definition.kneighbors(support, queries, metric="cosine", **options)
    assert first_difference(np.asarray(found[1]), rows) is None
    assert first_difference(np.asarray(found[0]), distances) is None


@pytest.mark.slow_if(block=[1, 2, 4, 5])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_fuzz(
    block: int, monkeypatch: pytest.MonkeyPatch, of_tier: Callable[[Any, Any], Any]
) -> None:
    """Every kind and type of rows at every level, each filter stage first in its turn."""
    for number in range(block, of_tier(40, 200), BLOCKS):
        problem = cosine(case(number, small=True))
        expected = neighbors_of(problem)
        for turn, level in enumerate(LEVELS):
            monkeypatch.setenv(native.SIMD, level)
            stages = [None, *(stage["name"] for stage in _native.filter_stages(level))]
            monkeypatch.setattr(cpu, "FIRST_STAGE", stages[(number + turn) % len(stages)])
            assert_exact(problem, oracle_of(problem), num_threads=1 + number % 3)
            found = pdepth.kneighbors(problem.support, problem.queries, **problem.options)
            assert first_difference(found[1], expected[1]) is None, problem.name
            assert first_difference(found[0], expected[0]) is None, problem.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_quotient_has_the_bits_of_a_division(level: str, dtype: str) -> None:
    """Of rows of any size, in columns that fill registers and in those that do not."""
    rng = np.random.default_rng(3)
    for width in (1, 2, 3, 8, 17, 300):
        values = rng.standard_normal((700, width)) * 2.0 ** rng.integers(-20, 20, (700, 1))
        if dtype in ("float32", "bfloat16"):
            values *= 2.0 ** rng.integers(-100, 100, (700, 1))
        if dtype == "float64":
            values *= 2.0 ** rng.integers(-1000, 950, (700, 1))
        rows = with_norms(cast(values, dtype))
        found = pdepth.kneighbors(rows, rows[:3], k=700, metric="cosine")
        assert_neighbors(found, rows, rows[:3], k=700)


def test_hard_norms(level: str) -> None:
    """Norms whose bits are nearly all ones, or nearly all zeros, and quotients near halves."""
    rng = np.random.default_rng(4)
    first = 2.0 ** rng.integers(-3, 3, 4000)
    others = first * (2.0 ** -rng.integers(1, 24, 4000) + 2.0 ** -rng.integers(1, 24, 4000))
    rows = np.stack([first, others, 3 * others], axis=1).astype(np.float32)
    found = pdepth.kneighbors(rows, rows[:4], k=4000, metric="cosine")
    assert_neighbors(found, rows, rows[:4], k=4000)


@pytest.mark.parametrize("weights", ["uniform", "distance", "exp"])
def test_types_of_support_and_queries_may_differ(weights: str) -> None:
    for dtype, other in zip(DTYPES, DTYPES[1:] + DTYPES[:1], strict=True):
        support, queries = with_norms(cast(WIDE, dtype)), with_norms(cast(-WIDE[:9], other))
        options: dict[str, Any] = {"k": 7, "metric": "cosine", "weights": weights}
        expected = definition.probe_votes(support, LABELS, queries, **options)
        for memory in (None, 20_000):
            found = pdepth.probe_votes(
                support, LABELS, queries, return_counts=True, memory=memory, **options
            )
            assert first_difference(np.asarray(found.counts), expected.counts) is None
            assert first_difference(np.asarray(found.votes), expected.votes) is None


@pytest.mark.parametrize("kind", KINDS[:6])
def test_almost_all_rows_are_neighbours(level: str, kind: Callable[..., Any]) -> None:
    rows = with_norms(kind(np.random.default_rng(5), 130, 9).astype(np.float32))
    for k in (128, 129):
        assert_neighbors(pdepth.kneighbors(rows, k=k, metric="cosine"), rows, k=k)


def test_rows_of_one_direction_are_equal(level: str) -> None:
    """Two directions, each with thousands of lengths: of equal rows a search keeps some."""
    rng = np.random.default_rng(6)
    lengths = 2.0 ** rng.integers(-9, 9, (6000, 1))
    rows = (lengths * ROWS[rng.integers(0, 2, 6000)]).astype(np.float32)
    index = Index(rows, metric="cosine")
    assert_neighbors(index.kneighbors(QUERIES, 30), rows, QUERIES, k=30)
    assert len(index._now().probes[0].packed.packing()["order"]) == 2 * 257


@pytest.mark.parametrize("rows", [3000, 20_000])
def test_leaves(level: str, rows: int) -> None:
    """Narrow rows in clusters, which are searched in leaves."""
    rng = np.random.default_rng(7)
    support = rng.standard_normal((40, 6))[rng.integers(0, 40, rows)]
    support = (support + 0.01 * rng.standard_normal(support.shape)).astype(np.float32)
    support *= rng.uniform(0.1, 10, (rows, 1)).astype(np.float32)
    asked = rng.integers(0, rows, 150)
    found = pdepth.kneighbors(support, query_rows=asked, k=10, metric="cosine")
    assert_neighbors(found, support, query_rows=asked, k=10)


def test_depths_of_several_probes() -> None:
    layers = [ROWS.astype(np.float16), ROWS[:, :3], ROWS.astype(np.float64) * 1e200]
    votes = [definition.probe_votes(layer, LABELS, k=5, metric="cosine").votes for layer in layers]
    expected = definition.depth_from_votes(votes, LABELS)
    for early_exit in (True, False):
        found = pdepth.depth_from_embeddings(
            layers, LABELS, LABELS, k=5, metric="cosine", early_exit=early_exit
        )
        assert first_difference(found.depth, expected[0]) is None
        assert first_difference(found.undefined, expected[1]) is None


# ---- an index ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_index_keeps_the_rows_as_they_came(dtype: str, tmp_path: Path) -> None:
    rows = with_norms(cast(WIDE, dtype))
    index = Index(rows[:200], LABELS[:200], metric="cosine")
    itemsize = rows.dtype.itemsize
    assert index.nbytes == 200 * (20 * itemsize + NORM_BYTES)
    index.kneighbors(QUERIES, 5)
    for begin, end in ((200, 201), (201, 300)):
        index.add(rows[begin:end], LABELS[begin:end])
        assert_neighbors(index.kneighbors(QUERIES, 5), rows[:end], QUERIES, k=5)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", support=rows, labels=LABELS)
    for other in (loaded, pickle.loads(pickle.dumps(index))):
        assert_neighbors(other.kneighbors(QUERIES, 5), rows, QUERIES, k=5)
        other.add(rows[:50], LABELS[:50])
        more = np.concatenate([definition.as_rows(rows), definition.as_rows(rows[:50])])
        assert_neighbors(other.kneighbors(None, 5), more, k=5)
        assert first_difference(np.asarray(other.rows), definition.as_rows(more, "cosine")) is None


def test_an_index_of_the_callers_rows() -> None:
    rows = ROWS.copy()
    index = Index(rows, metric="cosine", copy=False)
    assert np.shares_memory(index._now().probes[0].support.array, rows)
    index.kneighbors(QUERIES, 3)
    rows[0] *= 2
    with pytest.raises(ValueError, match="row 0 was changed since the index was made"):
        index.kneighbors(QUERIES, 3)


def test_rows_that_are_added_are_of_the_same_type() -> None:
    index = Index(ROWS, metric="cosine")
    with pytest.raises(ValueError, match="of width 20 and type float64"):
        index.add(ROWS.astype(np.float64))
    index.add(torch.from_numpy(ROWS[:9]))
    both = np.concatenate([ROWS, ROWS[:9]])
    assert_neighbors(index.kneighbors(QUERIES, 5), both, QUERIES, k=5)


def test_many_additions() -> None:
    """What searches under way see stays as it was, norms too."""
    index, kept = Index(ROWS[:1], metric="cosine"), []
    for row in range(1, 300):
        kept.append((row, index._now()))
        index.add(ROWS[row : row + 1])
    for count, state in kept:
        support = state.probes[0].support
        assert len(support) == count
        assert (
            first_difference(support.widened(), definition.as_rows(ROWS[:count], "cosine")) is None
        )


def test_a_backend_that_keeps_rows_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU does of rows of the host, which an index adds to, saves and compares."""
    monkeypatch.setattr(cpu, "hold", lambda rows, *_, **__: (rows.divided(), None))
    index = Index(ROWS[:200], metric="cosine")
    index.add(ROWS[200:])
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", support=ROWS)
    for some in (index, loaded, pickle.loads(pickle.dumps(index))):
        assert_neighbors(some.kneighbors(QUERIES, 5), ROWS, QUERIES, k=5)
    loaded.add(ROWS[:9])
    both = np.concatenate([ROWS, ROWS[:9]])
    assert_neighbors(loaded.kneighbors(QUERIES, 5), both, QUERIES, k=5)


# ---- memory ----


def searches(rows: Any, path: Path) -> dict[str, Callable[[], Any]]:
    options: dict[str, Any] = {"metric": "cosine", "k": 5}
    labels, queries = np.zeros(len(rows), int), rows[:200]
    np.save(path, rows)
    mapped = np.load(path, mmap_mode="r")
    return {
        "array": lambda: pdepth.probe_votes(rows, labels, queries, **options),
        "own rows": lambda: pdepth.kneighbors(rows, query_rows=[1, 2], **options),
        "map": lambda: pdepth.probe_votes(mapped, labels, queries, **options),
        "slices": lambda: pdepth.probe_votes(Slices(mapped), labels, queries, **options),
        "depth": lambda: pdepth.depth_from_embeddings(
            [rows, rows], labels, np.zeros(200, int), [queries, queries], **options
        ),
        "index": lambda: Index(rows, metric="cosine", copy=False).kneighbors(queries, 5),
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["array", "own rows", "map", "slices", "depth", "index"])
def test_no_copy_is_made(name: str, dtype: str, tmp_path: Path) -> None:
    """NumPy takes the queries, norms and answers; of a source one copy, as its slices are read."""
    rows = np.random.default_rng(8).standard_normal((20_000, 128)).astype(dtype)
    search = searches(rows, tmp_path / "rows.npy")[name]
    tracemalloc.start()
    search()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    copies = rows.nbytes if name == "slices" else 0
    assert peak - copies < rows.nbytes / 3
