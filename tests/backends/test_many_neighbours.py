"""Thousands of neighbours, and the float64 sums that decide them, have the definition's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import definition

from helpers import cases
from helpers.cases import first_difference

ROWS, QUERIES = 1500, 100
WIDTHS = (*range(1, 68), 96, 100, 127, 128, 129, 255, 256, 257)
WIDE = (510, 511, 512, 513, 514, 515, 516, 1023, 1024, 1025, 1027, 2051, 4096)
MANY = {
    "normal": cases.normal,
    "ties": cases.grid,
    "duplicates": cases.duplicates,
    "near duplicates": cases.near_duplicates,
    "constant": cases.constant,
    "an outlier": cases.outlier,
    "distances that overflow": cases.overflowing,
}


def assert_same(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    distances, rows = found
    assert first_difference(rows, expected[1]) is None
    assert first_difference(distances, expected[0]) is None


@pytest.mark.parametrize("metric", ["sqeuclidean", "inner_product"])
def test_sums_of_every_width(level: str, metric: str) -> None:
    """Widths that halve without a rest and others, before and after each change of the scheme."""
    dtypes = ("float32", "float64", "float16", "bfloat16", "uint8")
    for number, width in enumerate((*WIDTHS, *WIDE)):
        rng = np.random.default_rng(width)
        values = 9 * rng.standard_normal((14, width))
        values[values < -9] = -0.0  # a sum of zeros keeps its sign
        rows = cases.cast(np.abs(values) if number % 5 == 4 else values, dtypes[number % 5])
        expected = definition.kneighbors(rows[:12], rows[12:], k=12, metric=metric)
        assert_same(pdepth.kneighbors(rows[:12], rows[12:], k=12, metric=metric), expected)


def test_the_sign_of_a_zero_sum(level: str) -> None:
    for width in (1, 2, 3, 5, 7, 8, 33, 515):
        support, query = np.full((2, width), -0.0, np.float32), np.ones((1, width), np.float32)
        products, _ = pdepth.kneighbors(support, query, k=2, metric="inner_product")
        expected, _ = definition.kneighbors(support, query, k=2, metric="inner_product")
        assert np.signbit(products).tolist() == np.signbit(expected).tolist()


@pytest.mark.parametrize("k", [700, ROWS - 1])
@pytest.mark.parametrize("kind", MANY)
def test_lists_that_share_their_rows(level: str, kind: str, k: int) -> None:
    rng = np.random.default_rng(k)
    for width in (5, 30):
        support = MANY[kind](rng, ROWS, width)
        asked = np.sort(rng.choice(ROWS, QUERIES, replace=False))
        expected = definition.kneighbors(support, query_rows=asked, k=k)
        found = pdepth.kneighbors(support, query_rows=asked, k=k, num_threads=1)
        assert_same(found, expected)


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
def test_shared_lists_of_products(level: str, metric: str) -> None:
    rng = np.random.default_rng(1)
    support, queries = rng.standard_normal((ROWS, 40)), rng.standard_normal((QUERIES, 40))
    expected = definition.kneighbors(support, queries, k=600, metric=metric)
    assert_same(pdepth.kneighbors(support, queries, k=600, metric=metric), expected)
    index = pdepth.Index(support[:1000], metric=metric, num_threads=2)
    index.add(support[1000:])
    assert_same(index.kneighbors(queries, k=600), expected)


@pytest.mark.parametrize("memory", [1 << 17, 1 << 20])
def test_shared_lists_in_chunks_of_the_support(memory: int) -> None:
    rng = np.random.default_rng(2)
    support, queries = rng.standard_normal((ROWS, 33)), rng.standard_normal((QUERIES, 33))
    expected = definition.kneighbors(support, queries, k=500)
    assert_same(pdepth.kneighbors(support, queries, k=500, memory=memory), expected)


def test_votes_of_many_neighbours(level: str) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, ROWS)
    for kind in ("normal", "ties", "duplicates"):
        support = MANY[kind](rng, ROWS, 20)
        asked = np.arange(0, ROWS, 30)
        options: dict[str, Any] = {"query_rows": asked, "k": 900}
        expected = definition.probe_votes(support, labels, **options)
        found = pdepth.probe_votes(support, labels, **options, return_counts=True)
        assert first_difference(found.votes, expected.votes) is None
        assert first_difference(found.tied, expected.tied) is None
        assert first_difference(found.counts, expected.counts) is None
