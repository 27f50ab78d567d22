"""Votes that bounds prove, of supports in parts, are those of the whole support."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pdepth import _native, definition
from pdepth.arrays.bounds import Bounds
from pdepth.arrays.problem import ProbeRows, Problem, probe_rows
from pdepth.backends import cpu
from pdepth.search.bounds import Proof, bounds_of, merged
from pdepth.search.topk import Part

from helpers import cases
from helpers.cases import first_difference

SHARDINGS = (1, 2, 3, 4, 7)
KINDS = {
    "normal": cases.normal,
    "ties": cases.grid,
    "duplicates": cases.duplicates,
    "near duplicates": cases.near_duplicates,
    "tight clusters": cases.tight_clusters,
    "constant": cases.constant,
    "far away": cases.far_away,
    "an outlier": cases.outlier,
    "activations": cases.activations,
    "saturated": cases.saturated,
    "subnormal": cases.subnormal,
    "huge and tiny": cases.huge_and_tiny,
    "distances that overflow": cases.overflowing,
}
ROWS, QUERIES = 400, 60


class Search:
    """Some queries and a support, of which a few rows are queries too, in parts."""

    def __init__(self, kind: str, width: int, k: int, dtype: str = "float32", **options: Any):
        rng = np.random.default_rng(width + k)
        values = cases.cast(KINDS[kind](rng, ROWS + QUERIES, width), dtype)
        self.metric, self.own = options.get("metric", "sqeuclidean"), options.get("own", False)
        self.support = values[:ROWS]
        self.queries = self.support[:QUERIES] if self.own else values[ROWS:]
        self.codes = rng.integers(0, 4, ROWS).astype(np.int32)
        self.k = k

    def parts(self, count: int) -> Iterator[Part]:
        bounds = [0, *sorted({ROWS * i * i // count**2 for i in range(1, count)}), ROWS]
        for begin, end in pairwise(bounds):  # the first are small
            rows = probe_rows("rows", self.support[begin:end], None, self.metric).support
            yield Part("rows", rows, begin)

    @property
    def asked(self) -> Any:
        return probe_rows("rows", self.queries, None, self.metric).support

    @property
    def problem(self) -> Problem:
        own = ProbeRows("rows", self.asked, None)
        return Problem((own,), self.codes, np.arange(4), self.k, self.own, None, QUERIES, 1)

    def lists(self, count: int, width: int = ROWS) -> tuple[list[Part], list[Bounds]]:
        left_out = np.arange(QUERIES) if self.own else None
        parts = list(self.parts(count))
        problem = self.problem
        return parts, [bounds_of(part, problem, cpu, self.asked, left_out, width) for part in parts]

    def distances(self) -> NDArray[np.float64]:
        """(N, M), by the definition; NaN of a row that is left out."""
        k = ROWS - self.own
        asked = None if self.own else self.queries
        numbers = {"query_rows": np.arange(QUERIES)} if self.own else {}
        with np.errstate(over="ignore"):
            exact = definition.kneighbors(self.support, asked, k=k, metric=self.metric, **numbers)
        distances = np.full((QUERIES, ROWS), np.nan)
        np.put_along_axis(distances, exact[1], exact[0], 1)
        return distances

    def check(self, proof: Proof) -> None:
        """What is proven is the definition's vote."""
        expected = definition.probe_votes(
            self.support, self.codes, None if self.own else self.queries, k=self.k,
            metric=self.metric, **({"query_rows": np.arange(QUERIES)} if self.own else {}),
        )  # fmt: skip
        classes = np.unique(self.codes)
        proven = np.setdiff1d(np.arange(QUERIES), proof.open)
        votes = classes[proof.votes.votes[0][proven]]
        assert first_difference(votes, expected.votes[proven]) is None
        assert proof.votes.tied is not None
        assert first_difference(proof.votes.tied[0][proven], expected.tied[proven]) is None


def tree(lists: list[Bounds], problem: Problem, width: int = ROWS) -> Bounds:
    while len(lists) > 1:
        lists = [merged(lists[i : i + 2], problem, width) for i in range(0, len(lists), 2)]
    return lists[0]


SEARCHES = [
    *(((kind, 120, 9), {}) for kind in KINDS),
    *(((kind, 33, 5), {"own": True}) for kind in KINDS),
    *(((kind, 300, 30), {"metric": "cosine"}) for kind in ("normal", "ties", "near duplicates")),
    *((("activations", 130, 12, dtype), {}) for dtype in ("float64", "float16", "uint8")),
    (("near duplicates", 5, 3), {}),
    (("duplicates", 700, 61), {"own": True}),
]


@pytest.mark.slow_if(level=["avxvnni", "avx512", "bf16"])
@pytest.mark.parametrize(("search", "options"), SEARCHES, ids=str)
def test_votes_of_parts(
    search: tuple[Any, ...],
    options: dict[str, Any],
    level: str,
    of_tier: Callable[[Any, Any], Any],
) -> None:
    asked_for = 0
    whole = Search(*search, **options)
    exact = whole.distances()
    for count in of_tier((3,), SHARDINGS):
        parts, lists = whole.lists(count)
        for part, found in zip(parts, lists, strict=True):
            check_bounds(found, exact, part, whole.k)
        proof = Proof.of(tree(lists, whole.problem), whole.problem, 2)
        for ask in (3, 0):
            whole.check(proof)
            asked_for += int(proof.asked.sum())
            settled = [proof.wanted.distances(part, whole.asked, 1) for part in parts]
            assert sum(len(each.places) for each in settled) == proof.asked.sum()
            proof = proof.with_distances(settled, whole.problem, ask)
        settled = [proof.wanted.distances(part, whole.asked, 1) for part in parts]
        proof = proof.with_distances(settled, whole.problem, 0)
        assert len(proof.open) == 0
        whole.check(proof)
    assert asked_for or search[:2] != ("near duplicates", 120)


def check_bounds(found: Bounds, exact: NDArray[np.float64], part: Part, k: int) -> None:
    """The k nearest rows of a part are there, and each distance within its bounds."""
    there = found.rows >= 0
    queries, rows = found.queries[there], found.rows[there]
    assert (rows >= part.begin).all()
    assert (rows < part.begin + len(part.rows)).all()
    distances = exact[queries, rows]
    assert not np.isnan(distances).any()  # none is left out
    assert (found.lower[there] <= distances).all()
    assert (distances <= found.upper[there]).all()
    listed = np.zeros(exact.shape, np.bool_)
    listed[queries, rows] = True
    of_part = exact[:, part.begin : part.begin + len(part.rows)]
    nearest = np.argsort(of_part, axis=1, kind="stable")[:, :k]
    known = ~np.isnan(np.take_along_axis(of_part, nearest, 1))
    assert np.take_along_axis(listed[:, part.begin :], nearest, 1)[known].all()


@pytest.mark.parametrize("kind", ["normal", "near duplicates", "saturated", "constant"])
def test_every_stage(kind: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Search(kind, 200, 8)
    exact = whole.distances()
    stages = [stage["name"] for stage in _native.filter_stages(level)]
    # The first width takes all distances that a list of eight needs.
    for stage, width in product(stages, (8, 20, ROWS)):
        monkeypatch.setattr(cpu, "FIRST_STAGE", stage)
        parts, lists = whole.lists(3, width)
        for part, found in zip(parts, lists, strict=True):
            check_bounds(found, exact, part, whole.k)
            assert np.diff(found.begins).max() <= width
        whole.check(Proof.of(tree(lists, whole.problem), whole.problem, 5))


def test_lists_that_are_too_long_prove_nothing() -> None:
    whole = Search("constant", 100, 6)  # all rows tie
    _, lists = whole.lists(4, 6)
    known = tree(lists, whole.problem, 6)
    assert (known.rows >= 0).all()
    assert np.diff(known.begins).max() == 6
    apart = [replace(found, lower=found.lower - 1, upper=found.upper + 1) for found in lists]
    proof = Proof.of(tree(apart, whole.problem, 10), whole.problem, 5)
    assert len(proof.open) == QUERIES
    assert not proof.asked.any()


def test_distances_that_another_proof_asked_for_are_left_aside() -> None:
    whole = Search("near duplicates", 120, 9)
    parts, lists = whole.lists(2)
    joined = tree(lists, whole.problem)
    apart = replace(joined, lower=joined.lower - 1, upper=joined.upper + 1)
    few, more = (Proof.of(apart, whole.problem, ask) for ask in (3, 0))
    assert 0 < few.asked.sum() < more.asked.sum()
    for asking, asked in ((few, more), (more, few)):
        settled = [asked.wanted.distances(part, whole.asked, 1) for part in parts]
        assert any(len(each.places) for each in settled)
        after = asking.with_distances(settled, whole.problem, 0)
        np.testing.assert_array_equal(after.lists.lower, asking.lists.lower)
        np.testing.assert_array_equal(after.open, asking.open)
