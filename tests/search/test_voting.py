"""Votes counted from lists of neighbours, against a plain loop over them."""

from __future__ import annotations

import numpy as np
import pytest

from pdepth import definition
from pdepth.arrays.arguments import check_search, check_voting
from pdepth.arrays.problem import problems
from pdepth.search import voting

from helpers.cases import first_difference


@pytest.mark.parametrize("kind", ["uniform", "distance", "exp", "uneven"])
def test_weights_are_added_in_the_neighbours_order(kind: str) -> None:
    """Sums of float64 depend on their order, and have to be those of a loop to the last bit."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (200, 30)).astype(np.int32)
    distances = np.sort(rng.lognormal(0, 3, codes.shape), axis=1)
    if kind == "uneven":
        weights = rng.lognormal(0, 30, codes.shape)  # the smaller ones are lost or not
    else:
        weights = definition.vote_weights(distances, kind)
    counts = voting.count_votes(codes, 5, None if kind == "uniform" else weights)
    expected = np.zeros((200, 5), weights.dtype)
    for query in range(200):
        for place in range(30):
            expected[query, codes[query, place]] += weights[query, place]
    assert counts.dtype == expected.dtype
    assert counts.tobytes() == expected.tobytes()
    if kind != "uniform":
        backward = voting.count_votes(codes[:, ::-1], 5, weights[:, ::-1])
        assert backward.tobytes() != expected.tobytes()


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
