"""What a session of every backend answers: votes with and without a target, and neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pdepth import definition, native
from pdepth.arrays.arguments import check_search, check_voting
from pdepth.arrays.encoded import UNKNOWN
from pdepth.arrays.problem import Problem, problems
from pdepth.arrays.sources import Source
from pdepth.backends import Backend, cpu, reference, triton
from pdepth.search.backward import NO_CLASS, open_session

from helpers.cases import first_difference

K = 7
RNG = np.random.default_rng(0)
LABELS = RNG.integers(-2, 2, 80)
SUPPORT = [RNG.integers(-2, 3, (80, width)).astype(np.float32) for width in (5, 33)]
QUERIES = [layer[:12] + RNG.integers(0, 2, (12, 1)).astype(np.float32) for layer in SUPPORT]
ROWS = np.array([11, 0, 4, 4, 7])  # of the queries, or of the support


@pytest.fixture(params=[*native.simd_levels(), "triton", "reference"])
def backend(request: pytest.FixtureRequest, level_named: Callable[[str], str]) -> Backend:
    """Each backend in turn, the cpu backend at each level."""
    if request.param == "reference":
        return reference
    if request.param == "triton":
        if reason := triton.unavailable():
            pytest.skip(f"no triton backend here: {reason}")
        return triton
    level_named(request.param)
    return cpu


class Slices:
    """An array that is read in slices."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows: slice) -> Any:
        return self.array[rows]


def problem_of(own: bool, support: list[Any] | list[Source] | None = None) -> Problem:
    """The queries in `ROWS`: rows of the support, or of separate queries."""
    options = check_search(check_voting(K), "sqeuclidean", True, 2, None)
    queries = None if own else QUERIES
    (problem,) = problems(support or SUPPORT, queries, LABELS, options)
    return replace(problem, query_rows=ROWS, num_queries=len(ROWS))


def expected_table(own: bool, probe: int, rows: Any) -> definition.VoteTable:
    codes = np.unique(LABELS, return_inverse=True)[1]
    if own:
        return definition.probe_votes(SUPPORT[probe], codes, query_rows=rows, k=K)
    return definition.probe_votes(SUPPORT[probe], codes, QUERIES[probe][rows], k=K)


def expected_neighbors(own: bool, probe: int, rows: Any) -> Any:
    if own:
        return definition.kneighbors(SUPPORT[probe], query_rows=rows, k=K)
    return definition.kneighbors(SUPPORT[probe], QUERIES[probe][rows], k=K)


@pytest.mark.parametrize("places", [None, [1, 3]], ids=["all", "some"])
@pytest.mark.parametrize("own", [True, False], ids=["own rows", "separate queries"])
def test_queries_are_found_by_their_rows(
    backend: Backend, own: bool, places: list[int] | None
) -> None:
    problem = problem_of(own)
    queries = None if places is None else np.array(places)
    rows = ROWS if queries is None else ROWS[queries]
    with backend.session(problem) as session:
        votes = session.votes([1, 0], queries)
        counted = session.votes([0], queries, counts=True)
        distances, neighbors = session.neighbors(1, queries)
    for place, probe in enumerate([1, 0]):
        expected = expected_table(own, probe, rows)
        assert votes.tied is not None
        assert first_difference(votes.votes[place], expected.votes) is None
        assert first_difference(votes.tied[place], expected.tied) is None
    assert counted.counts is not None
    assert first_difference(counted.counts[0], expected.counts) is None
    assert first_difference(counted.votes[0], expected.votes) is None
    expected_distances, expected_rows = expected_neighbors(own, 1, rows)
    assert first_difference(distances, expected_distances) is None
    assert first_difference(neighbors, expected_rows) is None


@pytest.mark.parametrize("own", [True, False], ids=["own rows", "separate queries"])
def test_with_a_target_a_vote_is_the_target_or_unknown(
    backend: Backend, own: bool, of_tier: Callable[[Any, Any], Any]
) -> None:
    """At every probe of the call: no query is dropped here."""
    problem = problem_of(own)
    expected = np.stack([expected_table(own, probe, ROWS).votes for probe in (0, 1)])
    places = np.arange(len(ROWS))
    other = (expected[0] + 1) % 4
    targets = [expected[0], expected[1], other, np.full(len(ROWS), NO_CLASS)]
    targets.append(np.where(places % 2, expected[1], UNKNOWN))
    if backend is triton and triton.interpreted():  # one of each kind together
        mixed = np.choose(places, [expected[0], expected[1], other, NO_CLASS, UNKNOWN])
        targets = of_tier([mixed], [*targets, mixed])
    with backend.session(problem) as session:
        for target in targets:
            votes = session.votes([0, 1], None, target.astype(np.int32))
            matching = np.where(expected == target, expected, UNKNOWN)
            assert first_difference(votes.votes, matching) is None
            assert votes.tied is None
            assert votes.counts is None


@pytest.mark.parametrize("memory", [None, 8_000])
@pytest.mark.parametrize("own", [True, False], ids=["own rows", "separate queries"])
def test_a_session_that_reads_answers_alike(own: bool, memory: int | None) -> None:
    problem = replace(problem_of(own, [Slices(layer) for layer in SUPPORT]), memory=memory)
    places = np.array([1, 2, 4])
    target = np.array([0, 1, 2], np.int32)
    with (
        open_session(problem, cpu) as session,
        cpu.session(problem_of(own)) as expected,
    ):
        for queries in (None, places):
            ours, others = (s.votes([1, 0], queries, counts=True) for s in (session, expected))
            for (name, array), (_, other) in zip(ours.arrays(), others.arrays(), strict=True):
                assert first_difference(array, other) is None, name
            for array, other in zip(
                session.neighbors(0, queries), expected.neighbors(0, queries), strict=True
            ):
                assert first_difference(array, other) is None
        ours, others = (s.votes([0, 1], places, target) for s in (session, expected))
        assert first_difference(ours.votes, others.votes) is None


def test_the_rows_of_queries() -> None:
    problem = problem_of(own=True)
    some = np.array([0, 3])
    assert problem.row_numbers(None) is ROWS
    assert problem.row_numbers(some).tolist() == [11, 4]  # type: ignore[union-attr]
    whole = replace(problem, query_rows=None, num_queries=80)
    assert whole.row_numbers(None) is None
    assert whole.row_numbers(some) is some
