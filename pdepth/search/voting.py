"""Votes counted from neighbours, where a backend does not count them itself.

Backends count one vote a neighbour of one k. Weights, and several k from one search, are counted
from the neighbours' exact distances by the definition's own weights, so that all backends agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.arrays.arguments import Voting
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Neighbors
from pdepth.arrays.problem import Problem
from pdepth.backends.base import Session
from pdepth.native import default_arithmetic
from pdepth.progress import ChunkProgress

CHUNK_BYTES = 1 << 28  # of queries in work: their rows and neighbours
COUNT_BYTES = 1 << 25  # of votes that are counted at a time
CHUNK_QUERIES = 256  # at least, since each chunk has the support packed anew


def count_votes(
    codes: NDArray[Any], classes: int, weights: NDArray[Any] | None = None
) -> NDArray[Any]:
    """(n, C) votes of each class among the codes (n, k) of neighbours, nearest first.

    int64, or float64 with weights: each class adds up its own in the neighbours' order.
    """
    cells = np.arange(len(codes))[:, None] * classes + codes
    flat = None if weights is None else weights.ravel()
    counts = np.bincount(cells.ravel(), flat, minlength=len(codes) * classes)
    return counts.reshape(-1, classes)


@default_arithmetic()
def votes_of_neighbors(
    neighbors: Neighbors, problem: Problem, voting: Voting, *, counts: bool = False
) -> list[EncodedVotes]:
    """The votes (1, n) of each k from the lists (n, k) of one probe; with all counts if asked."""
    distances, rows = neighbors
    if problem.metric == "inner_product":
        distances = 2 * distances  # as `definition.vote_weights` takes products
    weights = None
    if voting.weights != "uniform":
        weights = definition.vote_weights(distances, voting.weights, voting.temperature)
    classes, codes = len(problem.classes), problem.codes[rows]
    answers = []
    for k in voting.ks:
        votes, tied = np.empty(len(rows), np.int32), np.empty(len(rows), np.bool_)
        kind = np.int32 if weights is None else np.float64
        kept = np.empty((len(rows), classes), kind) if counts else None
        for chunk in query_chunks(len(rows), 24 * (classes + k), COUNT_BYTES):
            count = count_votes(
                codes[chunk, :k], classes, None if weights is None else weights[chunk, :k]
            )
            votes[chunk], tied[chunk] = definition.majority(count)
            if kept is not None:
                kept[chunk] = count
        answers.append(EncodedVotes(votes[None], tied[None], None if kept is None else kept[None]))
    return answers


def search_votes(
    session: Session,
    problem: Problem,
    voting: Voting,
    probe: int,
    queries: NDArray[np.int64],
    targets: NDArray[np.int32] | None,
    *,
    counts: bool,
    progress: ChunkProgress | None = None,
) -> list[EncodedVotes]:
    """The votes (1, n) of each k at one probe; with targets (K, n), only those that equal them."""
    parts, before = [], 0 if progress is None else progress.done
    query_bytes = 24 * voting.k + 8 * problem.probes[probe].support.width
    for chunk in query_chunks(len(queries), query_bytes, CHUNK_BYTES):
        if progress is not None:
            progress.done = before + chunk.start
        neighbors = session.neighbors(probe, queries[chunk])
        parts.append(votes_of_neighbors(neighbors, problem, voting, counts=counts))
    answers = [EncodedVotes.concatenated(chunks, axis=1) for chunks in zip(*parts, strict=True)]
    if targets is None:
        return answers
    return [only_target(votes, target) for votes, target in zip(answers, targets, strict=True)]


def only_target(votes: EncodedVotes, target: NDArray[np.int32]) -> EncodedVotes:
    """Votes (L, n) that equal the target (n,), and UNKNOWN for the others."""
    return EncodedVotes(np.where(votes.votes == target, votes.votes, UNKNOWN).astype(np.int32))


def query_chunks(queries: int, bytes_each: int, chunk_bytes: int) -> Iterator[slice]:
    """Queries in chunks of `chunk_bytes` or so."""
    step = max(CHUNK_QUERIES, chunk_bytes // bytes_each)
    for begin in range(0, queries, step):
        yield slice(begin, begin + step)
