"""Votes counted from neighbours, where a backend does not count them itself.

Backends count one vote a neighbour of one k. Weights, and several k from one search, are counted
here from the neighbours' exact distances: by the definition's own weights, whose exp and sqrt are
NumPy's, and in compiled code that all backends share, so that they agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdepth import _native, definition
from pdepth.arrays.arguments import Voting
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Neighbors
from pdepth.arrays.problem import Problem
from pdepth.backends.base import Session
from pdepth.native import check_headroom, default_arithmetic, default_threads
from pdepth.progress import ChunkProgress

CHUNK_BYTES = 1 << 28  # of queries in work: their rows and neighbours
CHUNK_QUERIES = 256  # at least, since each chunk has the support packed anew


class Counted(NamedTuple):
    """Votes of N queries for each of K numbers of neighbours.

    votes: (K, N) int32, codes of classes. tied: (K, N) bool. counts: (K, N, C) int32, float64 with
    weights; None where not asked.
    """

    votes: NDArray[np.int32]
    tied: NDArray[np.bool_]
    counts: Any = None


def count_votes(
    codes: NDArray[Any],
    rows: NDArray[np.int64],
    classes: int,
    ks: Sequence[int],
    weights: NDArray[Any] | None = None,
    *,
    num_threads: int | None = None,
    counts: bool = False,
    slack: float = 0.0,
) -> Counted:
    """Count the votes of lists (N, width) of neighbours, nearest first, for each k.

    Each class adds up its votes in the neighbours' order, whole ones or those of `weights` (N,
    width), none of them negative; the class with most wins, as in `definition.majority`. Classes
    that lack at most the share `slack` of the winner's votes are tied with it.

    Args:
        codes: (M,) integers, the class of each support row, from 0 to classes - 1.

    Raises:
        ValueError: rows or codes beyond their range.
    """
    shape = len(ks), len(rows)
    kind = np.int32 if weights is None else np.float64
    answer = Counted(
        np.empty(shape, np.int32),
        np.empty(shape, np.bool_),
        np.zeros((*shape, classes), kind) if counts else None,
    )
    check_headroom()
    _native.count_votes(
        codes=np.ascontiguousarray(codes, np.int32), classes=classes, rows=rows, weights=weights,
        ks=ks, **answer._asdict(), slack=slack, threads=num_threads or default_threads(),
    )  # fmt: skip
    return answer


@default_arithmetic()
def votes_of_neighbors(
    neighbors: Neighbors, problem: Problem, voting: Voting, *, counts: bool = False
) -> list[EncodedVotes]:
    """The votes (1, n) of each k from the lists (n, k) of one probe; with all counts if asked, and
    those of the first k with the nearest rows."""
    distances, rows = neighbors
    if problem.metric == "inner_product":
        distances = 2 * distances  # as `definition.vote_weights` takes products
    weights = None
    if voting.weights != "uniform":
        weights = definition.vote_weights(distances, voting.weights, voting.temperature)
    answer = count_votes(
        problem.codes, rows, len(problem.classes), voting.ks, weights,
        num_threads=problem.num_threads, counts=counts,
    )  # fmt: skip
    each = [slice(i, i + 1) for i in range(len(voting.ks))]
    votes = [
        EncodedVotes(answer.votes[k], answer.tied[k], answer.counts[k] if counts else None)
        for k in each
    ]
    if voting.nearest:
        votes[0] = votes[0].with_nearest(neighbors, voting.nearest)
    return votes


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
