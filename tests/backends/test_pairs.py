"""Rows of a support that ask for themselves: what is computed of a pair serves both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import Index, _native, definition, native
from pdepth.arrays import arguments
from pdepth.arrays.problem import problems
from pdepth.backends import cpu

from helpers.cases import (
    Case,
    activations,
    assert_exact,
    case,
    first_difference,
    neighbors_of,
    oracle_of,
)

LEVELS = [name for name, runs in native.simd_levels().items() if runs and name != "bf16"]


@pytest.fixture(autouse=True)
def in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs, however few the rows."""
    monkeypatch.setattr(cpu, "PAIRS", True)


def own_cases(first: int = 0) -> Iterator[Case]:
    """Problems without queries: all rows, some of them, some of them twice, themselves or not."""
    number = first
    while True:
        problem = case(number)
        if problem.queries is None:
            yield problem
        number += 1


def both_ways(ask: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The answer in pairs, and each row's by itself."""
    found = ask()
    monkeypatch.setattr(cpu, "PAIRS", False)
    return found, ask()


@pytest.mark.parametrize("block", range(3))
def test_votes_and_neighbours(
    block: int, of_tier: Callable[[Any, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every kind of rows, in every type: at a level each, in full at all of them.

    Every second problem begins with one of the level's filter stages, each in turn.
    """
    for number, problem in enumerate(islice(own_cases(1000 * block), of_tier(13, 90))):
        threads = 1 + number % 3
        for level in of_tier([LEVELS[(number + block) % len(LEVELS)]], LEVELS):
            monkeypatch.setenv(native.SIMD, level)
            stages = _native.filter_stages(level)
            first = stages[number // 2 % len(stages)]["name"] if number % 2 else None
            monkeypatch.setattr(cpu, "FIRST_STAGE", first)
            assert_exact(problem, oracle_of(problem), num_threads=threads)
            found = pdepth.kneighbors(problem.support, **problem.options, num_threads=threads)
            distances, rows = neighbors_of(problem)
            assert first_difference(found[1], rows) is None, problem.name
            assert first_difference(found[0], distances) is None, problem.name


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_other_metrics(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for rows, width in ((31, 5), (300, 33), (433, 100)):
        support = (rng.standard_normal((rows, width)) + 0.5).astype(np.float32)
        options: dict[str, Any] = {"k": 30, "metric": metric}
        distances, wanted = definition.kneighbors(support, **options)
        for level in LEVELS:
            monkeypatch.setenv(native.SIMD, level)
            found = pdepth.kneighbors(support, **options, num_threads=2)
            assert first_difference(found[1], wanted) is None
            assert first_difference(found[0], distances) is None


@pytest.mark.parametrize("kept", [False, True])
def test_equal_rows_that_are_not_packed(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 equal rows a search for 5 neighbours packs 6, and the others ask all the same."""
    rng = np.random.default_rng(1)
    rows = rng.integers(-2, 3, (600, 24)).astype(np.float32)
    rows[rng.permutation(600)[:400]] = rows[0]
    for exclude_self in (True, False):
        distances, wanted = definition.kneighbors(rows, k=5, exclude_self=exclude_self)
        for level in LEVELS:
            monkeypatch.setenv(native.SIMD, level)
            if kept:
                found = Index(rows).kneighbors(k=5, exclude_self=exclude_self)
            else:
                found = pdepth.kneighbors(rows, k=5, exclude_self=exclude_self)
            assert first_difference(found[1], wanted) is None
            assert first_difference(found[0], distances) is None


@pytest.mark.parametrize("seed", range(6))
def test_an_index_that_grows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places that fill tiles lie between its rows."""
    rng = np.random.default_rng(seed)
    monkeypatch.setenv(native.SIMD, LEVELS[seed % len(LEVELS)])
    rows = rng.standard_normal((700, 40)).astype(np.float32)
    labels = rng.integers(0, 5, 700)
    ends = [401, int(rng.integers(402, 500)), int(rng.integers(502, 700))]
    options: dict[str, Any] = {"metric": ("sqeuclidean", "inner_product")[seed % 2]}
    index = Index(rows[: ends[0]], labels[: ends[0]], num_threads=1 + seed % 3, **options)
    for begin, end in zip([0, *ends], ends, strict=False):
        if begin:
            index.add(rows[begin:end], labels[begin:end])
        distances, wanted = definition.kneighbors(rows[:end], k=15, **options)
        found = index.kneighbors(k=15)
        assert first_difference(found[1], wanted) is None
        assert first_difference(found[0], distances) is None
        oracle = definition.probe_votes(rows[:end], labels[:end], k=15, **options)
        assert first_difference(index.votes(k=15).votes, oracle.votes) is None


def test_votes_that_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rows, labels = activations(rng, 400, 40), rng.integers(0, 5, 400)
    options: dict[str, Any] = {"k": 30, "weights": "exp", "temperature": 0.5}
    table = definition.probe_votes(rows, labels, **options)
    for level in LEVELS:
        monkeypatch.setenv(native.SIMD, level)
        found = pdepth.probe_votes(rows, labels, return_counts=True, **options)
        assert first_difference(found.votes, table.votes) is None
        assert first_difference(found.counts, table.counts) is None


def test_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Early exit asks fewer rows at each probe before."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 400)
    centres = rng.standard_normal((5, 4, 64))
    layers = [
        (0.3 * at * centres[at][labels] + rng.standard_normal((400, 64))).astype("f4")
        for at in range(5)
    ]
    predictions = np.where(rng.random(400) < 0.8, labels, 2)
    votes = np.stack([definition.probe_votes(layer, labels, k=30).votes for layer in layers])
    depth, undefined = definition.depth_from_votes(votes, predictions)
    for level in LEVELS:
        monkeypatch.setenv(native.SIMD, level)
        for early_exit in (True, False):
            found = pdepth.depth_from_embeddings(
                layers, labels, predictions, k=30, early_exit=early_exit
            )
            assert first_difference(found.depth, depth) is None
            assert first_difference(found.undefined, undefined) is None
            assert first_difference(found.votes[found.known], votes[found.known]) is None


def test_rows_beyond_a_distance_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((400, 50)).astype(np.float32)
    wanted = definition.kneighbors(rows, k=30)
    within = wanted[0][np.arange(400), rng.integers(0, 30, 400)]
    checked = arguments.check_search(
        arguments.check_voting(30), metric="sqeuclidean", exclude_self=True, num_threads=2,
        memory=None,
    )  # fmt: skip
    (search,) = problems(rows, None, None, checked)
    near = wanted[0] <= within[:, None]
    for level in LEVELS:
        monkeypatch.setenv(native.SIMD, level)
        with cpu.session(search) as session:
            distances, found = session.neighbors(0, None, within)
        assert first_difference(distances[near], wanted[0][near]) is None
        assert first_difference(found[near], wanted[1][near]) is None
        assert (found < 0).sum() > 0.2 * found.size


@pytest.mark.slow_if(level=["portable", "avx512"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [95, 96, 97, 1153, 2111])
def test_odd_numbers_of_rows_and_threads(
    rows: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.SIMD, level)
    values = np.random.default_rng(rows).standard_normal((rows, 24)).astype(np.float32)

    def ask() -> Any:
        return [pdepth.kneighbors(values, k=20, num_threads=threads) for threads in (1, 2, 5)]

    for found, wanted in zip(*both_ways(ask, monkeypatch), strict=True):
        assert first_difference(found[1], wanted[1]) is None
        assert first_difference(found[0], wanted[0]) is None


@pytest.mark.slow_if(level=["portable", "avx512"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("held", [40_000, 1 << 22])
def test_rows_in_chunks(held: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is packed is not held; or it is, and not all lists."""
    monkeypatch.setenv(native.SIMD, level)
    monkeypatch.setattr(cpu, "HELD_BYTES", held)
    rng = np.random.default_rng(5)
    values = activations(rng, 5000, 40).astype(np.float32)
    labels = rng.integers(0, 10, 5000)
    found, wanted = both_ways(lambda: pdepth.probe_votes(values, labels, k=30), monkeypatch)
    assert first_difference(found.votes, wanted.votes) is None
    assert first_difference(found.tied, wanted.tied) is None


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never goes back, comes near its end, and what it raises ends the call."""
    monkeypatch.setattr(cpu, "HELD_BYTES", 1 << 23)  # in chunks
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((8000, 100)).astype(np.float32)
    rows[:100] = rows[0]  # more than are packed
    labels = rng.integers(0, 3, 8000)
    seen: list[float] = []

    def watch(_probe: int, fraction: float, _queries: int) -> None:
        seen.append(fraction)

    pdepth.depth_from_embeddings([rows], labels, labels, num_threads=1, progress=watch)
    assert seen == sorted(seen)
    assert all(0 <= fraction <= 1 for fraction in seen)

    def refuse(_probe: int, _fraction: float, _queries: int) -> None:
        raise RuntimeError("enough")

    monkeypatch.setattr(cpu, "HELD_BYTES", 3 << 29)
    with pytest.raises(RuntimeError, match="enough"):
        pdepth.depth_from_embeddings([rows], labels, labels, num_threads=2, progress=refuse)
