"""Rows in leaves: a leaf that is skipped has no row that would have counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import Index, _native, definition, native
from pdepth.backends import cpu

from helpers.adversaries import attacks
from helpers.cases import assert_exact, case, first_difference, oracle_of

LEVELS = [name for name, runs in native.simd_levels().items() if runs]
LEAVES = "float32 differences in leaves"


def softmax(rng: np.random.Generator, rows: int, width: int) -> Any:
    """Of a network that is sure: near-duplicates at every corner, and one-hot rows among them."""
    logits = rng.standard_normal((rows, width))
    logits[np.arange(rows), rng.integers(0, width, rows)] += 12
    values = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
    values /= values.sum(axis=1, keepdims=True)
    hot = rng.random(rows) < 0.2
    values[hot] = np.eye(width, dtype=np.float32)[values[hot].argmax(axis=1)]
    return values


def clusters(rng: np.random.Generator, rows: int, width: int) -> Any:
    places = 4 * rng.standard_normal((20, width))
    return places[rng.integers(0, 20, rows)] + rng.standard_normal((rows, width))


def steps(rng: np.random.Generator, rows: int, width: int) -> Any:
    """Columns of few values, most of them constant: rows that no column parts."""
    values = rng.integers(0, 3, (rows, width)).astype(np.float32)
    values[:, 1:] *= rng.random(width - 1) < 0.3
    return values


def noise(rng: np.random.Generator, rows: int, width: int) -> Any:
    return rng.standard_normal((rows, width))


# ---- boxes ----


@pytest.mark.parametrize("level", LEVELS)
def test_no_row_scores_below_its_box(level: str) -> None:
    compared = 0
    for seed in range(2):
        for _, (support, queries) in attacks(seed):
            if support.shape[1] > 150:
                continue
            found = _native.leaf_scores((support, "float64"), (queries, "float64"), level)
            present = found["rows"] >= 0
            assert np.array_equal(np.sort(found["rows"][present]), np.arange(len(support)))
            scores, boxes = found["scores"][:, present], found["boxes"][:, :, None]
            assert np.isfinite(scores).all()
            boxes = np.broadcast_to(boxes, found["scores"].shape)[:, present]
            assert (boxes <= scores).all()
            compared += scores.size
    assert compared > 10_000


@pytest.mark.parametrize("level", LEVELS)
def test_a_box_of_one_row_has_that_rows_score(level: str) -> None:
    """To the bit: so a box whose score is larger by one rounding would be found."""
    rng = np.random.default_rng(3)
    for width in (1, 2, 7, 33, 150):
        support = np.repeat(rng.standard_normal((1, width)), 300, axis=0)
        queries = rng.standard_normal((40, width)) * 10.0 ** rng.uniform(-5, 1, (40, 1))
        found = _native.leaf_scores((support, "float64"), (queries, "float64"), level)
        present = found["rows"] >= 0
        boxes = np.broadcast_to(found["boxes"][:, :, None], found["scores"].shape)
        assert np.array_equal(boxes[:, present], found["scores"][:, present])


# ---- votes ----


@pytest.mark.parametrize("seed", range(30))
def test_votes_of_leaves_are_those_of_the_definition(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.SIMD, LEVELS[seed % len(LEVELS)])
    monkeypatch.setattr(cpu, "FIRST_STAGE", LEAVES)
    problem = case(seed)
    assert assert_exact(problem, oracle_of(problem), num_threads=1 + seed % 3)


@pytest.mark.parametrize("kind", [softmax, clusters, steps, noise])
def test_several_groups_of_leaves(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "FIRST_STAGE", LEAVES)
    for number, level in enumerate(LEVELS):
        monkeypatch.setenv(native.SIMD, level)
        rng = np.random.default_rng(number)
        width = (2, 10, 23)[number % 3]
        rows = kind(rng, 1_700, width).astype((np.float32, np.float64)[number % 2])
        labels, asked = rng.integers(0, 5, len(rows)), rng.integers(0, len(rows), 40)
        for k in (1, 30, 700):
            options = {"k": k, "query_rows": asked}
            expected = definition.kneighbors(rows, **options)
            found = pdepth.kneighbors(rows, num_threads=1 + number % 2, **options)
            assert first_difference(found[1], expected[1]) is None
            assert first_difference(found[0], expected[0]) is None
            table = definition.probe_votes(rows, labels, **options)
            votes = pdepth.probe_votes(rows, labels, return_counts=True, **options)
            for name in ("votes", "tied", "counts"):
                assert first_difference(getattr(votes, name), getattr(table, name)) is None


def test_queries_far_from_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "FIRST_STAGE", LEAVES)
    rng = np.random.default_rng(5)
    rows = softmax(rng, 1_500, 10).astype(np.float64)
    queries = rng.standard_normal((50, 10)) * 10.0 ** rng.uniform(-30, 30, (50, 1))
    expected = definition.kneighbors(rows, queries, k=9)
    found = pdepth.kneighbors(rows, queries, k=9)
    assert first_difference(found[1], expected[1]) is None


# ---- the rule ----


def has_leaves(index: Index) -> bool:
    (probe,) = index._state.probes
    return bool(probe.packed.has_leaves)


@pytest.mark.parametrize(("kind", "pays"), [(softmax, True), (noise, False)])
def test_leaves_are_kept_where_they_pay(kind: Any, pays: bool) -> None:
    """Once as many queries have come as making them costs; an index that grows begins anew."""
    rng = np.random.default_rng(9)
    rows = kind(rng, 9_000, 10).astype(np.float32)
    labels = rows.argmax(axis=1)
    index = Index(rows[:8_000], labels[:8_000])
    few, many = rows[8_000:8_040], rows[rng.integers(0, 8_000, 2_500)]
    for added in (False, True):
        if added:
            index.add(rows[8_000:], labels[8_000:])
        for queries, enough in ((few, False), (many, True), (few, True), (few[:1], True)):
            found = index.kneighbors(queries, 7)
            assert has_leaves(index) == (pays and enough)
            at = slice(0, 30)
            expected = definition.kneighbors(rows[: len(index)], queries[at], k=7)
            assert first_difference(found[1][at], expected[1]) is None
            assert first_difference(found[0][at], expected[0]) is None


def test_no_leaves_within_little_memory() -> None:
    rng = np.random.default_rng(11)
    rows = softmax(rng, 8_000, 10)
    votes = pdepth.probe_votes(rows, rows.argmax(axis=1), rows[:1500], k=7, memory=1 << 20)
    whole = pdepth.probe_votes(rows, rows.argmax(axis=1), rows[:1500], k=7)
    assert first_difference(votes.votes, whole.votes) is None
