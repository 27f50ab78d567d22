"""The votes of a problem by the workers of a cluster: chunks of queries out, votes back.

A query chunk goes to all workers that have rows of the support. Each lists the rows that may be
among its k nearest, by bounds; the lists merge in a tree, and where the last two meet, votes are
proven as one process proves them: see `search.bounds`. For narrow rows, several k, weights and
counts each lists the k nearest rows themselves. These lists merge likewise, always those of
neighbouring shards, the earlier rows first: `topk.merge` is exact for lists of rows that come
later. Either way the votes are the same for every sharding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Voting
from pdepth.arrays.encoded import EncodedVotes
from pdepth.arrays.memory import FREE_SHARE
from pdepth.arrays.problem import ProbeRows, Problem
from pdepth.arrays.rows import Rows
from pdepth.arrays.sources import Stored
from pdepth.cluster.merging import met
from pdepth.cluster.options import Cluster
from pdepth.cluster.passing import Passes, chunks_of_workers
from pdepth.cluster.shards import RemoteRows, RemoteSpan, ShardRows
from pdepth.cluster.traffic import candidates_for
from pdepth.cluster.worker import Answer
from pdepth.cluster.workers import Ref, Workers, connected
from pdepth.progress import ChunkProgress
from pdepth.search.backward import OpenVoter, Voter
from pdepth.search.chunks import KeptLists
from pdepth.search.voting import only_target, query_chunks

CHUNK_BYTES = 1 << 26  # of a query chunk's rows and lists
MERGED_BYTES = 24  # of a neighbour in a chunk's lists, while they merge
# Distances that an open query asks for, one time after the other; at last for all that matter.
ASKED = 12, 24, 0


@contextmanager
def voters_of(cluster: str | Cluster, backend: str) -> Iterator[OpenVoter]:
    """The workers of a cluster, which answer the votes of a call. They start for the first probe: a
    wrong argument is an error before that."""
    options, found = Cluster.of(cluster), list[Workers]()
    with ExitStack() as stack:

        def open_voter(*asked: Any) -> AbstractContextManager[Voter]:
            if not found:
                found.append(stack.enter_context(connected(options)))
                found[0].start(backend)
            return open_there(found[0], *asked)

        yield open_voter


def open_there(
    workers: Workers,
    problem: Problem,
    voting: Voting,
    backend: str,
    progress: ChunkProgress | None,
    kept: KeptLists | None,
) -> AbstractContextManager[Voter]:
    """See `search.backward.OpenVoter`: by workers, which know their backend."""
    return nullcontext(ClusterVoter(workers, problem, voting))


@dataclass(frozen=True, eq=False)
class Probe:
    """A probe whose rows are at their workers.

    number: of the probe at the workers. shards: by worker, its `ShardRows` or `SpanShard`. bounds:
    where the rows of each worker begin in the support, and where the last end. asked_bounds: the
    same of the queries, where the workers have these, too; else None.
    """

    rows: ProbeRows
    number: int
    shards: list[Ref]
    bounds: list[int]
    asked_bounds: list[int] | None


@dataclass(frozen=True, eq=False)
class Chunk:
    """A query chunk on its way.

    queries: how many. holder: the worker that had them; None for those that were here. lists: of
    each worker with rows, until they merge. asked: by worker with rows, what its search was called
    with. width: of lists of bounds, at most; 0 where lists are of the nearest rows.
    """

    queries: int
    holder: int | None
    lists: list[tuple[int, Ref]]
    asked: dict[int, tuple[Any, ...]]
    width: int


class ClusterVoter:
    """See `search.backward.Voter`."""

    def __init__(self, workers: Workers, problem: Problem, voting: Voting) -> None:
        self._workers, self._problem, self._voting = workers, problem, voting
        self._asked = 0  # chunks so far
        self._probe: tuple[int, Probe] | None = None
        self._passes: Passes | None = None  # of a span that passes by
        cluster = workers.cluster
        memory = cluster.memory
        if memory is None and workers.free is not None:
            memory = int(FREE_SHARE * workers.free)
        sent = replace(
            problem,
            probes=(),
            query_rows=None,
            device=None,
            memory=memory,
            num_threads=cluster.cpus_per_worker,
        )
        self._sent = workers.put(sent, "labels")
        span = span_of(problem)
        if span is not None and span.at_a_time is not None:
            chunk = CHUNK_BYTES, MERGED_BYTES * problem.k
            self._passes = Passes(workers, self._sent, problem, voting, span, chunk)

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64],
        targets: NDArray[np.int32] | None,
        *,
        counts: bool,
        progress: ChunkProgress | None,
    ) -> list[EncodedVotes]:
        """One probe after the other."""
        numbers = queries
        if self._problem.own_rows and self._problem.query_rows is not None:
            numbers = self._problem.query_rows[queries]
        rows, back = np.unique(numbers, return_inverse=True)
        of_probes = []
        for probe in probes:
            if self._passes is not None:
                parts = [*self._passes.votes(probe, rows, counts, progress)]
            else:
                parts = []
                for done, votes in self._answers(probe, rows, counts):
                    parts.append(votes)
                    if progress is not None:
                        progress(probe, done / len(rows), len(queries))
            of_probes.append(
                [EncodedVotes.concatenated(of_k, 1) for of_k in zip(*parts, strict=True)]
            )
        answers = [
            EncodedVotes.concatenated(of_k).at(back) for of_k in zip(*of_probes, strict=True)
        ]
        if targets is None:
            return answers
        return [only_target(votes, target) for votes, target in zip(answers, targets, strict=True)]

    def _answers(
        self, probe: int, rows: NDArray[np.int64], counts: bool
    ) -> Iterator[tuple[int, list[EncodedVotes]]]:
        """The votes of the queries of these numbers, chunk by chunk, and how many are done.

        The next chunk's lists are asked for before those of one are merged, so that no worker
        waits for another's.
        """
        searched, asked, counted, done = self._of(probe), None, deque[tuple[Chunk, Ref]](), 0

        def answer() -> tuple[int, list[EncodedVotes]]:
            nonlocal done
            chunk, votes = counted.popleft()
            done += chunk.queries
            return done, self._received(chunk, votes)

        chunks = self._chunks(searched, rows)
        while True:
            if counted and len(counted) + 1 >= self._workers.cluster.chunks_in_flight:
                yield answer()  # before there is one more
            if (chunk := next(chunks, None)) is None:
                break
            queries, numbers, holder = chunk
            following = self._ask(searched, queries, numbers, holder, counts)
            if asked is not None:
                counted.append(self._count(asked, counts))
            asked = following
            del queries, chunk, following
        if asked is not None:
            counted.append(self._count(asked, counts))
        del asked
        while counted:
            yield answer()

    def _received(self, chunk: Chunk, answer: Ref) -> list[EncodedVotes]:
        """A chunk's votes; what came of them and for them is counted."""
        found: Answer = self._workers.get(answer)
        votes = found.votes
        self._workers.traffic.add(found.work, chunk.holder)
        self._workers.traffic.add_votes(votes)
        self._workers.rates.add(found.work)
        if not len(found.open):
            return votes
        return [votes[0].with_those_of(found.open, self._rest(chunk, found.open))]

    def _rest(self, chunk: Chunk, queries: NDArray[np.int64]) -> EncodedVotes:
        """The votes of those queries of a chunk that bounds leave open, by lists of the k nearest
        rows."""
        lists = [
            (worker, self._workers[worker].rest.remote(*search, queries))
            for worker, search in chunk.asked.items()
        ]
        (votes,) = self._received(*self._count(replace(chunk, lists=lists, width=0), counts=False))
        return votes

    def _of(self, probe: int) -> Probe:
        """A probe with its shards; those of one probe are held at a time."""
        if self._probe is None or self._probe[0] != probe:
            self._probe = None
            self._probe = probe, self._sharded(self._problem.probes[probe])
        return self._probe[1]

    def _sharded(self, probe: ProbeRows) -> Probe:
        """Put each worker's rows, or how it comes to them, into the object store."""
        rows, workers = probe.support, len(self._workers)
        if isinstance(rows, Stored) and isinstance(rows.array, RemoteRows):
            there = rows.array.span
            asked = there.bounds[-1]
            return Probe(probe, rows.array.number, there.shards, there.bounds[0], asked)
        self._workers.check_rows(len(rows))
        bounds = [len(rows) * worker // workers for worker in range(workers + 1)]
        shards = []
        for begin, end in pairwise(bounds):
            shard = ShardRows(probe.name, _part(rows, begin, end), begin)
            shards.append(self._workers.put(shard, f"support ({probe.name})"))
            if not isinstance(shard.rows, Stored):
                self._workers.traffic.support += shard.rows.nbytes
        own = bounds if probe.queries is None else None
        return Probe(probe, 0, shards, bounds, own)

    def _chunks(
        self, probe: Probe, rows: NDArray[np.int64]
    ) -> Iterator[tuple[Ref, NDArray[np.int64], int | None]]:
        """Query chunks in the object store, their numbers, and the worker that had them or None."""
        of_queries = probe.rows.queries
        any_rows = probe.rows.support if of_queries is None else of_queries
        each = any_rows.row_bytes + MERGED_BYTES * self._problem.k
        if probe.asked_bounds is None:
            assert of_queries is not None
            for chunk in query_chunks(len(rows), each, CHUNK_BYTES):
                numbers = rows[chunk]
                queries = of_queries[numbers].on_host()
                yield self._workers.put(queries, f"queries ({probe.rows.name})"), numbers, None
            return
        for numbers, worker in chunks_of_workers(rows, probe.asked_bounds, each, CHUNK_BYTES):
            there = self._workers[worker]
            yield there.queries.remote(probe.shards[worker], probe.number, numbers), numbers, worker

    def _ask(
        self,
        probe: Probe,
        queries: Ref,
        numbers: NDArray[np.int64],
        holder: int | None,
        counts: bool,
    ) -> Chunk:
        """Ask all workers that have rows for their lists."""
        left_out = None
        if self._problem.own_rows and self._problem.exclude_self:
            left_out = self._workers.put(numbers, "queries")
        asked = {
            worker: (self._sent, shard, probe.number, queries, left_out)
            for worker, shard in enumerate(probe.shards)
            if probe.bounds[worker] < probe.bounds[worker + 1]
        }
        width = 0
        if not counts:
            row_bytes = probe.rows.support.row_bytes
            width = candidates_for(row_bytes, self._voting, self._problem.metric)
        lists = [
            (
                worker,
                self._workers[worker].bounds.remote(*search, width)
                if width
                else self._workers[worker].lists.remote(*search),
            )
            for worker, search in asked.items()
        ]
        return Chunk(len(numbers), holder, lists, asked, width)

    def _count(self, asked: Chunk, counts: bool) -> tuple[Chunk, Ref]:
        """Have the lists merged, and the votes counted where the last two meet."""
        width, workers, sent = asked.width, self._workers, self._sent
        self._asked += 1

        def merge(worker: int, earlier: Ref, later: Ref) -> Ref:
            at = workers[worker]
            if width:
                return at.merged_bounds.remote(sent, earlier, later, width)
            return at.merged.remote(earlier, later)

        worker, last = met(asked.lists, self._asked, merge)
        if width:
            answer = self._proven(asked, worker, last)
        else:
            answer = workers[worker].votes.remote(sent, last, self._voting, counts)
        return replace(asked, lists=[]), answer

    def _proven(self, asked: Chunk, worker: int, lists: Ref) -> Ref:
        """The votes that bounds prove, with the distances that this takes."""
        at, workers = self._workers[worker], self._workers
        proven = at.proof.remote(self._sent, lists, ASKED[0])
        for following in (*ASKED[1:], 0):
            wanted = at.wanted.remote(proven)
            found = [
                workers[each].distances.remote(*search[:-1], wanted, worker)
                for each, search in asked.asked.items()
            ]
            proven = at.proof_by_distances.remote(self._sent, proven, following, *found)
        return at.proven_votes.remote(proven)


def span_of(problem: Problem) -> RemoteSpan | None:
    """The span of a problem whose rows workers have; None where they are here."""
    rows = problem.probes[0].support
    there = isinstance(rows, Stored) and isinstance(rows.array, RemoteRows)
    return rows.array.span if there else None


def _part(rows: Rows, begin: int, end: int) -> Rows:
    """Some rows of a support, in memory or how they are read."""
    return rows.part(begin, end) if isinstance(rows, Stored) else rows[begin:end].on_host()
