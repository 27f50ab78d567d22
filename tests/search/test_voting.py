"""Votes counted from lists of neighbours, against a plain loop over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdepth import definition
from pdepth.arrays.arguments import check_search, check_voting
from pdepth.arrays.problem import problems
from pdepth.search import voting

from helpers.cases import first_difference


def loop(codes: Any, rows: Any, classes: int, k: int, weights: Any) -> Any:
    """Votes, ties and counts as `definition.probe_votes` counts them."""
    counts = np.zeros((len(rows), classes), np.int32 if weights is None else np.float64)
    with np.errstate(over="ignore"):
        for query, neighbors in enumerate(rows[:, :k]):
            for place, row in enumerate(neighbors):
                counts[query, codes[row]] += 1 if weights is None else weights[query, place]
    return *definition.majority(counts), counts


def weights_of(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> Any:
    distances = np.sort(rng.integers(0, 9, shape) * rng.lognormal(0, 1, (shape[0], 1)), axis=1)
    if kind == "uniform":
        return None
    if kind == "uneven":  # the smaller ones are lost or not
        return rng.lognormal(0, 30, shape)
    if kind == "extreme":
        return rng.choice([0.0, 1.0, 5e-324, 1e308, np.inf], shape, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    if kind == "nan":
        return np.where(rng.random(shape) < 0.03, np.nan, 1.0)
    if kind == "products":
        return definition.vote_weights(-2 * (distances - distances[:, -1:])[:, ::-1], "exp", 0.5)
    return definition.vote_weights(distances, kind)


KINDS = ["uniform", "distance", "exp", "uneven", "extreme", "nan", "products"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [1, 2, 5, 300])
def test_counts_and_votes_are_those_of_a_loop(kind: str, classes: int) -> None:
    """Sums of float64 depend on their order, and have to be those of a loop to the last bit."""
    rng = np.random.default_rng(classes)
    codes = rng.integers(0, classes, 90).astype(np.int32)
    rows = rng.integers(0, 90, (131, 30))
    weights = weights_of(kind, rows.shape, rng)
    ks = (30, 1, 7, 29)
    answers = [
        voting.count_votes(codes, rows, classes, ks, weights, num_threads=threads, counts=counts)
        for threads in (1, 3)
        for counts in (True, False)
    ]
    for at, k in enumerate(ks):
        votes, tied, counts = loop(codes, rows, classes, k, weights)
        for answer in answers:
            assert first_difference(answer.votes[at], votes) is None
            assert first_difference(answer.tied[at], tied) is None
            if answer.counts is not None:
                assert answer.counts[at].dtype == counts.dtype
                assert answer.counts[at].tobytes() == counts.tobytes()


def test_the_order_of_the_neighbours_is_the_order_of_the_sum() -> None:
    rng = np.random.default_rng(0)
    codes, rows = rng.integers(0, 4, 90), rng.integers(0, 90, (200, 30))
    weights = rng.lognormal(0, 3, rows.shape)
    forward, backward = (
        voting.count_votes(codes, rows[:, order], 4, (30,), weights[:, order], counts=True).counts
        for order in (slice(None), slice(None, None, -1))
    )
    assert forward.tobytes() != backward.tobytes()


@pytest.mark.parametrize("weighted", [False, True])
def test_threads_share_many_queries(weighted: bool) -> None:
    """More than one thread has work, and each counts by itself."""
    rng = np.random.default_rng(2)
    codes, rows = rng.integers(0, 400, 5000), rng.integers(0, 5000, (6000, 60))
    weights = rng.random(rows.shape) if weighted else None
    one, many = (
        voting.count_votes(codes, rows, 400, (60, 9), weights, num_threads=threads, counts=True)
        for threads in (1, 4)
    )
    for alone, together in zip(one, many, strict=True):
        assert alone.tobytes() == together.tobytes()
    sample = rng.integers(0, 6000, 100)
    some = None if weights is None else weights[sample]
    votes, tied, counts = loop(codes, rows[sample], 400, 60, some)
    assert first_difference(one.votes[0][sample], votes) is None
    assert first_difference(one.tied[0][sample], tied) is None
    assert one.counts[0][sample].tobytes() == counts.tobytes()


def test_classes_within_the_slack_are_tied() -> None:
    codes, rows = np.arange(3), np.array([[0, 1, 2]])
    for second, slack, tied in ((1.0, 0, True), (0.99, 0, False), (0.99, 0.01, True),
                                (0.99, 0.009, False)):  # fmt: skip
        weights = np.array([[second, 1.0, 0.5]])
        answer = voting.count_votes(codes, rows, 3, (3,), weights, slack=slack)
        assert answer.votes.tolist() == [[0 if second == 1 else 1]]
        assert answer.tied.tolist() == [[tied]]


@pytest.mark.parametrize(("row", "code"), [(3, 0), (-1, 0), (0, 2), (0, -1)])
def test_rows_and_codes_beyond_their_range_are_refused(row: int, code: int) -> None:
    with pytest.raises(ValueError, match="rows: expected|codes: expected"):
        voting.count_votes(np.full(3, code), np.array([[0, row]]), 2, (2,))


@pytest.mark.parametrize("weights", ["uniform", "distance", "exp"])
def test_votes_of_neighbors_are_the_definitions(weights: str) -> None:
    rng = np.random.default_rng(1)
    support = rng.integers(-1, 2, (60, 3)).astype(np.float32)
    labels = rng.integers(-3, 3, 60)
    options = check_search(check_voting((9, 2), weights), "sqeuclidean", True, 1, None)
    (problem,) = problems(support, None, labels, options)
    neighbors = definition.kneighbors(support, k=9)
    answers = voting.votes_of_neighbors(neighbors, problem, options.voting, counts=True)
    for k, votes in zip((9, 2), answers, strict=True):
        expected = definition.probe_votes(support, labels, k=k, weights=weights)
        assert first_difference(problem.classes[votes.votes[0]], expected.votes) is None
        assert votes.tied is not None
        assert votes.counts is not None
        assert first_difference(votes.tied[0], expected.tied) is None
        assert votes.counts[0].astype(expected.counts.dtype).tobytes() == expected.counts.tobytes()


def test_query_chunks_hold_every_query_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voting, "CHUNK_BYTES", 100)
    monkeypatch.setattr(voting, "CHUNK_QUERIES", 3)
    queries = np.arange(11)
    for bytes_each, largest in ((10, 10), (1000, 3), (1, 11)):
        chunks = [queries[chunk] for chunk in voting.query_chunks(11, bytes_each, 100)]
        assert np.concatenate(chunks).tolist() == queries.tolist()
        assert max(map(len, chunks)) == largest
