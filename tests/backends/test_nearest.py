"""The nearest rows beside certified votes: those of the definition, in its order, in one search."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from conftest import Engine

import pdepth
from pdepth import _native, definition, native
from pdepth.arrays import arguments
from pdepth.arrays.problem import problems
from pdepth.backends import cpu

from helpers.cases import (
    Case,
    activations,
    assert_nearest,
    case,
    cast,
    first_difference,
    neighbors_of,
    oracle_of,
)

LEVELS = [name for name, runs in native.simd_levels().items() if runs]
# those that have the stage of leading directions
OF_DIRECTIONS = [name for name in ("avx2", "portable", "avxvnni", "avx512vnni") if name in LEVELS]


def nearest_of(problem: Case, number: int) -> int:
    """One, some or all of the k."""
    k = problem.options["k"]
    return (1, min(8, k), k)[number % 3]


@pytest.mark.fuzz
@pytest.mark.parametrize("block", range(4))
def test_fuzz(block: int, of_tier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of rows in every type: a level each, in full all of them."""
    levels = itertools.cycle(LEVELS)
    for number in range(block, of_tier(60, 400), 4):
        problem = case(number)
        for level in [next(levels)] if of_tier(True, False) else LEVELS:
            monkeypatch.setenv(native.SIMD, level)
            for pairs in (None, True):
                monkeypatch.setattr(cpu, "PAIRS", pairs)
                assert_nearest(problem, nearest_of(problem, number), num_threads=1 + number % 3)


def test_each_filter_stage(of_tier: Any, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage's list proves, and where another stage has to answer."""
    for number in range(of_tier(15, 90)):
        problem = case(1000 + number)
        for stage in _native.filter_stages(level):
            monkeypatch.setattr(cpu, "FIRST_STAGE", stage["name"])
            assert_nearest(problem, nearest_of(problem, number))


@pytest.mark.parametrize("width", [130, 500])
@pytest.mark.parametrize("name", OF_DIRECTIONS)
def test_images_under_leading_directions(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDEPTH_SIMD", name)
    monkeypatch.setattr(cpu, "FIRST_STAGE", "directions")
    rng = np.random.default_rng(width)
    values = rng.standard_normal((2400, 12)) @ rng.standard_normal((12, width))
    values += 0.05 * rng.standard_normal(values.shape)
    labels = rng.integers(0, 3, 2300)
    problem = Case(f"{width}", cast(values[:2300], "float32"), labels, values[2300:], {"k": 9})
    assert_nearest(problem, 4)


@pytest.mark.slow_if(engine=["triton"], dtype=["bfloat16", "float64", "int64"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "uint8", "int64"])
def test_every_engine(dtype: str, engine: Engine) -> None:
    rng = np.random.default_rng(3)
    rows, asked = engine.of(500, 80), engine.of(60, 2)
    values = activations(rng, rows + asked, 40)
    values[: rows // 4] = values[rows // 4 : 2 * (rows // 4)]  # twice
    problem = Case(
        dtype, cast(values[:rows], dtype), rng.integers(0, 10, rows), cast(values[rows:], dtype),
        {"k": 12},
    )  # fmt: skip
    assert assert_nearest(problem, 5, **engine.options) == asked


def test_the_reference_backend() -> None:
    for number in range(6):
        problem = case(number, small=True)
        assert_nearest(problem, nearest_of(problem, number), backend="reference")


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_other_metrics(metric: str, engine: Engine) -> None:
    rng = np.random.default_rng(5)
    rows = engine.of(400, 70)
    support = rng.integers(1, 5, (rows, 20)).astype(np.float32)
    labels, queries = rng.integers(0, 3, rows), support[: engine.of(50, 2)] + 1
    found = pdepth.probe_votes(
        support, labels, queries, k=9, metric=metric, return_neighbors=6, **engine.options
    )
    expected = definition.kneighbors(support, queries, k=9, metric=metric)
    assert first_difference(found.rows, expected[1][:, :6]) is None
    assert first_difference(found.distances, expected[0][:, :6]) is None
    counts = definition.probe_votes(support, labels, queries, k=9, metric=metric).counts
    assert first_difference(found.counts, counts) is None


def test_beside_a_target_and_without_counts(level: str) -> None:
    """What the native call takes beyond what sessions ask of it."""
    for number in range(12):
        problem = case(number)
        k, oracle = problem.options["k"], oracle_of(problem)
        options = arguments.check_search(
            arguments.check_voting(k), "sqeuclidean",
            problem.options.get("exclude_self", True), 1, None,
        )  # fmt: skip
        (asked,) = problems(
            problem.support, problem.queries, problem.labels, options,
            query_rows=problem.options.get("query_rows"),
        )  # fmt: skip
        target = np.searchsorted(oracle.classes, np.roll(oracle.votes, 1)).astype(np.int32)
        with cpu.session(asked) as session:
            votes = session.votes([0], None, target, nearest=min(3, k))
        wanted = np.where(np.roll(oracle.votes, 1) == oracle.votes, target, -1)
        assert first_difference(votes.votes[0], wanted) is None
        assert votes.distances is not None
        distances, rows = neighbors_of(problem)
        assert first_difference(votes.rows[0], rows[:, :3]) is None
        assert first_difference(votes.distances[0], distances[:, :3]) is None


def test_beyond_k() -> None:
    """More neighbours than vote: lists of all of them, and votes of the first."""
    problem = case(7)
    support, labels, queries = problem.support, problem.labels, problem.queries
    options = {**problem.options, "k": 3}
    found = pdepth.probe_votes(support, labels, queries, **options, return_neighbors=5)
    expected = definition.kneighbors(support, queries, **{**options, "k": 5})
    assert first_difference(found.rows, expected[1]) is None
    assert first_difference(found.distances, expected[0]) is None
    votes = definition.probe_votes(support, labels, queries, **options)
    assert first_difference(found.votes, votes.votes) is None
    assert first_difference(found.counts, votes.counts) is None
