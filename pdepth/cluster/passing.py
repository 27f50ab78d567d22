"""Supports that do not fit pass by: each worker computes its part once for many queries and probes.

A pass is some query chunks at all probes of a span. All of them go to each worker, whose rows of
the support come by chunk by chunk; the k nearest of each query come back as lists, which meet as
others do. The first time that one of the probes is asked for, the passes are made for all queries
that are active, and the lists stay in the object store until their votes are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Voting
from pdepth.arrays.encoded import EncodedVotes
from pdepth.arrays.problem import Problem
from pdepth.cluster.merging import met
from pdepth.cluster.shards import RemoteSpan
from pdepth.cluster.worker import Answer
from pdepth.cluster.workers import Ref, Workers
from pdepth.progress import ChunkProgress
from pdepth.search.voting import query_chunks


@dataclass(frozen=True, eq=False)
class Passed:
    """A query chunk whose lists are of the whole support.

    numbers: (n,) of the queries, ascending. worker: where the lists met.
    """

    numbers: NDArray[np.int64]
    worker: int
    lists: Ref


class Passes:
    """Those of one span."""

    def __init__(
        self,
        workers: Workers,
        sent: Ref,
        problem: Problem,
        voting: Voting,
        span: RemoteSpan,
        chunk: tuple[int, int],
    ) -> None:
        """sent: the problem, as workers have it. chunk: bytes of a query chunk, and those of a
        query beside its row."""
        self._workers, self._sent, self._problem, self._voting = workers, sent, problem, voting
        self._span, self._chunk = span, chunk
        self._found: list[list[Passed]] = []  # of each probe

    def votes(
        self,
        probe: int,
        rows: NDArray[np.int64],
        counts: bool,
        progress: ChunkProgress | None,
    ) -> Iterator[list[EncodedVotes]]:
        """The votes at a probe of the queries of these numbers, ascending, chunk by chunk."""
        if not self._found:
            self._make(progress)
        workers, coming = self._workers, deque[Ref]()
        for chunk in self._found[probe]:
            begin, end = np.searchsorted(rows, [chunk.numbers[0], chunk.numbers[-1] + 1])
            if begin == end:
                continue
            if len(coming) == workers.cluster.chunks_in_flight:
                yield self._received(coming.popleft())
            places = None
            if end - begin < len(chunk.numbers):
                places = np.searchsorted(chunk.numbers, rows[begin:end])
            at = workers[chunk.worker]
            coming.append(at.votes.remote(self._sent, chunk.lists, self._voting, counts, places))
        while coming:
            yield self._received(coming.popleft())

    def _received(self, answer: Ref) -> list[EncodedVotes]:
        found: Answer = self._workers.get(answer)
        self._workers.traffic.add_votes(found.votes)
        return found.votes

    def _make(self, progress: ChunkProgress | None) -> None:
        """All passes, one after the other: the object store holds the queries of one."""
        active, step, probes = self._span.active, self._span.at_a_time, self._problem.probes
        assert step is not None
        found: list[list[Passed]] = [[] for _ in probes]
        for begin in range(0, len(active), step):
            asked = active[begin : begin + step]

            def report(share: float, begin: int = begin, asked: int = len(asked)) -> None:
                if progress is not None:
                    for probe in range(len(probes)):
                        done = (begin + share * asked) / len(active)
                        progress(probe, done, len(active))

            for of_probe, passed in zip(found, self._pass(asked, report), strict=True):
                of_probe += passed
        self._found = found

    def _pass(
        self, asked: NDArray[np.int64], report: Callable[[float], None]
    ) -> list[list[Passed]]:
        """One, for some queries: at each probe their chunks."""
        workers, span, probes = self._workers, self._span, self._problem.probes
        chunk_bytes, beside = self._chunk
        each = max(probe.support.row_bytes for probe in probes) + beside
        chunks = list(chunks_of_workers(asked, span.bounds[-1], each, chunk_bytes))
        lists = self._lists(chunks)
        arriving = workers.arrivals([of_worker[0] for _, of_worker in lists])
        for done, _ in enumerate(arriving, 1):
            report(done / len(lists))

        def merge(worker: int, earlier: Ref, later: Ref) -> Ref:
            return workers[worker].merged.remote(earlier, later)

        passed = []
        for place in range(len(probes) * len(chunks)):
            of_all = [(worker, of_worker[place]) for worker, of_worker in lists]
            numbers, _ = chunks[place % len(chunks)]
            passed.append(Passed(numbers, *met(of_all, place, merge)))
        del lists, of_all
        done_for = [workers[each.worker].work.remote(each.lists) for each in passed]
        for place, work in enumerate(workers.get(done_for)):
            workers.traffic.add(work, holder=chunks[place % len(chunks)][1])
            workers.rates.add(work)
        count = len(chunks)
        return [passed[begin : begin + count] for begin in range(0, len(passed), count)]

    def _lists(self, chunks: list[tuple[NDArray[np.int64], int]]) -> list[tuple[int, list[Ref]]]:
        """Of each worker that has rows its lists, at each probe those of each chunk."""
        workers, span = self._workers, self._span
        probes = [span.first + probe for probe in range(len(self._problem.probes))]
        queries = [
            workers[holder].queries.remote(span.shards[holder], probe, numbers)
            for probe in probes
            for numbers, holder in chunks
        ]
        left_out = None
        if self._problem.own_rows and self._problem.exclude_self:
            left_out = workers.put([numbers for numbers, _ in chunks], "queries")
        lists = []
        for worker, (begin, end) in enumerate(pairwise(span.bounds[0])):
            if begin < end:
                call = workers[worker].passed.options(num_returns=len(queries))
                found = call.remote(self._sent, span.shards[worker], probes, left_out, *queries)
                lists.append((worker, found if len(queries) > 1 else [found]))
        return lists


def chunks_of_workers(
    rows: NDArray[np.int64], bounds: list[int], each: int, chunk_bytes: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Queries in chunks that one worker has each: their numbers, and the worker.

    rows: (n,) numbers of queries, ascending. bounds: where those of each worker begin, and the last
    end. each: bytes of a query.
    """
    for worker, (begin, end) in enumerate(pairwise(np.searchsorted(rows, bounds))):
        for chunk in query_chunks(end - begin, each, chunk_bytes):
            yield rows[begin:end][chunk], worker
