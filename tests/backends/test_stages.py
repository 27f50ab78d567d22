"""Filter stages that a layer may begin with: each gives the definition's votes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import _native, definition, native
from pdepth.backends import cpu

from helpers.cases import assert_exact, case, first_difference, oracle_of

BLOCKS = 24
LEVELS = [name for name, runs in native.simd_levels().items() if runs]
EVERY = {"avx2": 1, "bf16": 100}  # of how many problems a level takes one; others of ten


def rows(seed: int, count: int, width: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("width", [5, 40])
def test_a_layer_may_begin_with_any_stage(
    level: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    support, queries = rows(0, 300, width), rows(1, 40, width)
    labels = np.random.default_rng(2).integers(0, 4, 300)
    for metric in ("sqeuclidean", "inner_product"):
        expected = definition.kneighbors(support, queries, k=7, metric=metric)
        votes = definition.probe_votes(support, labels, queries, k=7, metric=metric).votes
        for stage in _native.filter_stages(level):
            monkeypatch.setattr(cpu, "FIRST_STAGE", stage["name"])
            found = pdepth.kneighbors(support, queries, k=7, metric=metric)
            assert first_difference(found[1], expected[1]) is None
            assert first_difference(found[0], expected[0]) is None
            voted = pdepth.probe_votes(support, labels, queries, k=7, metric=metric)
            assert first_difference(voted.votes, votes) is None


def test_a_stage_that_the_level_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "FIRST_STAGE", "float8")
    with pytest.raises(ValueError, match="stage: expected a filter stage"):
        pdepth.kneighbors(rows(0, 20, 13), k=3)


@pytest.mark.fuzz
@pytest.mark.parametrize("block", range(BLOCKS))
def test_fuzz_of_each_stage(
    block: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The definition's votes, whichever stage of whichever level comes first; counted a stage."""
    share = -(-request.config.getoption("--stage-votes") // BLOCKS)
    compared: Counter[tuple[str, str]] = Counter()
    turn = 0
    while not compared or max(compared.values()) < share:
        problem = case(block + turn * BLOCKS)
        oracle = oracle_of(problem)
        for level in LEVELS:
            if turn % EVERY.get(level, 10):
                continue
            monkeypatch.setenv(native.SIMD, level)
            for stage in _native.filter_stages(level):
                monkeypatch.setattr(cpu, "FIRST_STAGE", stage["name"])
                compared[level, stage["name"]] += assert_exact(
                    problem, oracle, num_threads=1 + turn % 3
                )
        turn += 1
    assert len(compared) == sum(len(_native.filter_stages(level)) for level in LEVELS)
