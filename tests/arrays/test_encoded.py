"""Encoded votes: parts of probes and queries put together."""

from __future__ import annotations

import numpy as np

from pdepth.arrays.encoded import UNKNOWN, EncodedVotes

RNG = np.random.default_rng(0)


def some_votes(probes: int = 3, queries: int = 5) -> EncodedVotes:
    shape = probes, queries
    return EncodedVotes(
        votes=RNG.integers(0, 4, shape).astype(np.int32),
        tied=RNG.random(shape) < 0.5,
        counts=RNG.integers(0, 9, (*shape, 4)).astype(np.int32),
    )


def assert_equal(votes: EncodedVotes, expected: EncodedVotes) -> None:
    ours, others = dict(votes.arrays()), dict(expected.arrays())
    assert ours.keys() == others.keys()
    for name, array in ours.items():
        assert array.dtype == others[name].dtype, name
        np.testing.assert_array_equal(array, others[name], name)


def test_arrays_are_those_that_are_there() -> None:
    votes = some_votes()
    assert [name for name, _ in votes.arrays()] == ["votes", "tied", "counts"]
    assert [name for name, _ in EncodedVotes(votes.votes).arrays()] == ["votes"]


def test_nothing_is_known_at_first() -> None:
    empty = some_votes().unknown_like(2, 7)
    assert (empty.votes == UNKNOWN).all()
    assert empty.votes.shape == (2, 7)
    assert empty.tied is not None
    assert empty.counts is not None
    assert not empty.tied.any()
    assert empty.counts.shape == (2, 7, 4)
    assert empty.counts.dtype == np.int32
    assert empty.margins is None


def test_votes_are_put_where_their_probes_and_queries_are() -> None:
    whole, queries = some_votes().unknown_like(4, 6), np.array([5, 0, 2])
    part = some_votes(2, 3)
    whole.put(1, queries, part)
    assert (whole.votes[1:3][:, queries] == part.votes).all()
    assert whole.counts is not None
    assert (whole.counts[1:3][:, queries] == part.counts).all()
    assert (whole.votes != UNKNOWN).sum() == 6


def test_answers_are_joined_by_probe_and_by_query() -> None:
    votes = some_votes(4, 6)
    queries = [np.arange(2), np.arange(2, 6)]
    assert_equal(EncodedVotes.concatenated([votes.at(part) for part in queries], axis=1), votes)
    probes = [
        EncodedVotes(**{name: array[rows] for name, array in votes.arrays()})
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert_equal(EncodedVotes.concatenated(probes), votes)


def test_some_queries_in_any_order() -> None:
    votes = some_votes()
    assert_equal(votes.at(np.arange(5)), votes)
    twice = votes.at(np.array([4, 1, 1]))
    assert (twice.votes == votes.votes[:, [4, 1, 1]]).all()
    assert twice.counts is not None
    assert twice.counts.shape == (3, 3, 4)
