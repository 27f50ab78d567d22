"""Filter stages that a layer may begin with: each gives the definition's votes."""

from __future__ import annotations

import math
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


def assert_every_stage(
    level: str, monkeypatch: pytest.MonkeyPatch, support: Any, queries: Any, k: int, metric: str
) -> None:
    """The definition's neighbours, distances and votes, whichever stage comes first."""
    labels = np.random.default_rng(2).integers(0, 4, len(support))
    expected = definition.kneighbors(support, queries, k=k, metric=metric)
    votes = definition.probe_votes(support, labels, queries, k=k, metric=metric).votes
    for stage in _native.filter_stages(level):
        monkeypatch.setattr(cpu, "FIRST_STAGE", stage["name"])
        found = pdepth.kneighbors(support, queries, k=k, metric=metric)
        assert first_difference(found[1], expected[1]) is None
        assert first_difference(found[0], expected[0]) is None
        voted = pdepth.probe_votes(support, labels, queries, k=k, metric=metric)
        assert first_difference(voted.votes, votes) is None


@pytest.mark.parametrize("width", [5, 40])
def test_a_layer_may_begin_with_any_stage(
    level: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    support, queries = rows(0, 300, width), rows(1, 40, width)
    for metric in ("sqeuclidean", "inner_product"):
        assert_every_stage(level, monkeypatch, support, queries, k=7, metric=metric)


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


def packed_stages(support: Any, queries: Any, k: int, expected: Any, level: str) -> list[str]:
    """Filter stages that a support which lasts has packed for a search, which is exact."""
    held = _native.Support((support, "float32"), metric="sqeuclidean", kept_bytes=1 << 30)
    count = len(queries)
    distances, found = np.full((count, k), np.nan), np.full((count, k), -1)
    _native.run(
        layers=[(held, (queries, "float32"), None)],
        codes=np.zeros(len(support), np.int32), classes=1,
        k=k, exclude_self=False, query_rows=None, queries=count, target=None, votes=None,
        tied=None, counts=None, distances=distances, rows=found, upper=None, within=None,
        level=level, first_stage=None, pairs=None, threads=2, held_bytes=1 << 30, progress=None,
    )  # fmt: skip
    assert first_difference(found, expected[1]) is None
    assert first_difference(distances, expected[0]) is None
    packing = held.packing()
    assert packing is not None
    return [stage["stage"] for stage in packing["stages"]]


BYTES = {  # level -> the stage after bytes; those in plain C++ are slower by bytes, or slow
    name: stages[1]
    for name in LEVELS
    if name not in ("portable", "bf16")
    and (stages := [stage["name"] for stage in _native.filter_stages(name)])[0] == "int8"
}


@pytest.mark.skipif(not BYTES, reason="this machine lacks a level with bytes")
def test_rows_that_lie_in_groups_begin_with_bytes() -> None:
    """Few rows are near enough; of random ones in many dimensions too many are."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((400, 1024))
    grouped = centres[np.arange(8010) % 400] + 0.3 * rng.standard_normal((8010, 1024))
    alike = rng.standard_normal((2010, 1024))
    for values, begins in ((grouped, True), (alike, False)):
        array = values.astype(np.float32)
        expected = definition.kneighbors(array[10:], array[:10], k=5)
        for level, after in BYTES.items():
            stages = packed_stages(array[10:], array[:10], 5, expected, level)
            assert stages[0] == ("int8" if begins else after), level


def test_a_distance_that_bounds_a_search_spares_the_row_at_it(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries far out, of which a norm that is rounded up says more than their rows' distances."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        support = (0.16 * rng.standard_normal((200, 32))).astype(np.float32)
        queries = rng.standard_normal((5, 32)).astype(np.float32)
        expected = definition.kneighbors(support, queries, k=10)
        for stage in _native.filter_stages(level):
            distances, found = np.full((5, 10), np.nan), np.full((5, 10), -1)
            held = _native.Support((support, "float32"), metric="sqeuclidean", kept_bytes=0)
            _native.run(
                layers=[(held, (queries, "float32"), None)],
                codes=np.zeros(200, np.int32), classes=1,
                k=10, exclude_self=False, query_rows=None, queries=5, target=None, votes=None,
                tied=None, counts=None, distances=distances, rows=found,
                upper=None, within=expected[0][:, -1].copy(), level=level,
                first_stage=stage["name"], pairs=None, threads=1, held_bytes=1 << 30, progress=None,
            )  # fmt: skip
            assert first_difference(found, expected[1]) is None


def early(near: int, count: int) -> Any:
    """Numbers of the rows that a scan sees first; see `scattered` in csrc/support.cpp."""
    step = int(0.6180339887498949 * count) | 1
    while math.gcd(step, count) != 1:
        step += 1
    return np.arange(near) * step % count


@pytest.mark.parametrize("metric", ["sqeuclidean", "inner_product"])
@pytest.mark.parametrize("near", [3, 29, 30, 64, 500])
def test_thresholds_that_were_guessed_wrongly(
    level: str, near: int, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All near rows come first, and none of those expected later: queries are searched again."""
    count, width = 3000, 40
    support, queries = rows(0, count, width), rows(1, 30, width) + 20
    support[early(near, count)] += 20
    assert_every_stage(level, monkeypatch, support, queries, k=30, metric=metric)


def test_wrong_guesses_in_pairs(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 1200
    support = rows(0, count, 50)
    support[early(64, count)] *= 0.1  # nearest to every row
    monkeypatch.setattr(cpu, "PAIRS", True)
    assert_every_stage(level, monkeypatch, support, None, k=30, metric="sqeuclidean")
