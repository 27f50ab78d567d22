"""Rows that are not in memory, through any backend: chunks of the support, chunks of queries.

A probe that fits is read and searched as arrays are. Of a larger one, each chunk's nearest rows are
merged by (float64 distance, row), which does not depend on where chunks begin: the same votes, bit
for bit. One thread reads a chunk while the kernels work on the one before; sources that share a
reading, such as the probes of one forward pass, come chunk by chunk together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Voting
from pdepth.arrays.bounds import Bounds
from pdepth.arrays.encoded import EncodedVotes, Neighbors
from pdepth.arrays.memory import MERGE_BYTES, PACKED_BYTES, WORK_SHARE, human, search_bytes
from pdepth.arrays.problem import ProbeRows, Problem
from pdepth.arrays.rows import Rows, numpy_type
from pdepth.arrays.sources import SharedReading, Stored, reading_of
from pdepth.backends.base import Backend, Session
from pdepth.io.journal import Journal
from pdepth.progress import ProbeProgress
from pdepth.search.reader import Reader
from pdepth.search.topk import Part, RunningTopK
from pdepth.search.voting import only_target, votes_of_neighbors


class ChunkedSession:
    """See `backends.base.Session`: for a problem of which some rows are not in memory."""

    def __init__(
        self,
        problem: Problem,
        backend: Backend,
        reader: Reader,
        progress: ProbeProgress | None,
        kept: KeptLists | None,
    ) -> None:
        self._problem, self._backend, self._reader = problem, backend, reader
        self._progress, self._kept = progress, kept
        # Of a shared reading: the rows of the queries that it was for, and their lists by probe.
        self._shared: tuple[NDArray[np.int64], dict[int, Neighbors]] | None = None

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64] | None = None,
        target: NDArray[np.int32] | None = None,
        *,
        counts: bool = False,
        nearest: int = 0,
    ) -> EncodedVotes:
        """One probe after the other."""
        queries = np.arange(self._problem.num_queries) if queries is None else queries
        voting, parts = Voting.plain(self._problem.k, nearest), []
        for probe in probes:
            work = ProbeQueries(self._problem, probe, queries)
            if work.fit:
                with self._loaded(work) as session:
                    parts.append(session.votes([0], None, target, counts=counts, nearest=nearest))
                continue
            votes = EncodedVotes.concatenated(
                [
                    votes_of_neighbors(lists, self._problem, voting, counts=counts)[0]
                    for lists in self._lists(work)
                ],
                axis=1,
            ).at(work.back)
            parts.append(votes if target is None else only_target(votes, target))
        return EncodedVotes.concatenated(parts)

    def neighbors(
        self,
        probe: int,
        queries: NDArray[np.int64] | None = None,
        within: NDArray[np.float64] | None = None,
    ) -> Neighbors:
        """All k, however far."""
        queries = np.arange(self._problem.num_queries) if queries is None else queries
        work = ProbeQueries(self._problem, probe, queries)
        if work.fit:
            with self._loaded(work) as session:
                return session.neighbors(0)
        distances, rows = map(np.concatenate, zip(*self._lists(work), strict=True))
        return distances[work.back], rows[work.back]

    def bounds(self, probe: int, width: int) -> Bounds:
        """The k nearest rows themselves: nobody will have read the others when distances are
        asked for."""
        return Bounds.exact(self.neighbors(probe))

    @contextmanager
    def _loaded(self, work: ProbeQueries) -> Iterator[Session]:
        """A probe that fits, read, with its queries."""
        pair, queries = work.pair, None
        support = self._reader.get(pair.support, slice(None))
        if pair.queries is not None:
            queries = self._reader.get(pair.queries, _slice_if_whole(work.rows))
        problem = replace(
            self._problem,
            probes=(ProbeRows(pair.name, support, queries),),
            query_rows=work.numbers if queries is None else work.back,
            num_queries=len(work.numbers),
        )
        report = partial(self._report, work.probe)
        with self._backend.session(problem, lambda _, *rest: report(*rest)) as session:
            yield session

    def _lists(self, work: ProbeQueries) -> Iterator[Neighbors]:
        """The k nearest rows of the queries of a probe that does not fit, a query chunk a time."""
        if work.shared is not None:
            yield self._shared_lists(work)
            return
        support, total = work.pair.support, len(work.pair.support)
        bounds = _bounds(total, work.chunk)
        query_bounds = list(pairwise(_bounds(len(work.rows), work.query_chunk)))
        if len(bounds) == 2:
            support = self._reader.get(support, slice(None))
        for number, (first, last) in enumerate(query_bounds):
            rows = work.rows[first:last]
            queries = self._queries(work, support, rows, bounds)
            running = RunningTopK(self._problem, self._backend, len(rows), work.left_out(rows))
            for begin, chunk in self._reader.chunks(support, bounds):
                done = (number + begin / total) / len(query_bounds)
                self._report(work.probe, done, len(work.numbers))
                running.take(Part(work.pair.name, chunk, begin), queries)
                del chunk  # before the one after the next is read
            yield running.lists
        self._report(work.probe, 1.0, len(work.numbers))

    def _queries(
        self, work: ProbeQueries, support: Rows, rows: NDArray[np.int64], bounds: list[int]
    ) -> Rows:
        if work.pair.queries is not None:
            return self._reader.get(work.pair.queries, _slice_if_whole(rows))
        try:
            return self._reader.get(support, _slice_if_whole(rows))
        except ValueError:  # of what is wrong with the support, the first row is named
            for _ in self._reader.chunks(support, bounds):
                pass
            raise

    def _shared_lists(self, work: ProbeQueries) -> Neighbors:
        """The lists of a probe's queries. The first time, those of all of the problem's queries at
        all probes of the reading, which is made once whatever the order of the answers."""
        if self._shared is None or work.probe not in self._shared[1]:
            every = ProbeQueries(self._problem, work.probe, np.arange(self._problem.num_queries))
            self._shared = every.rows, self._read_together(every)
        rows, lists = self._shared
        places = np.searchsorted(rows, work.rows)
        distances, neighbors = lists[work.probe]
        return distances[places], neighbors[places]

    def _read_together(self, work: ProbeQueries) -> dict[int, Neighbors]:
        reading = work.shared
        assert reading is not None
        pairs = {
            probe: pair
            for probe, pair in enumerate(self._problem.probes)
            if reading_of(pair.support) is reading
        }
        stored = [pair.support for pair in pairs.values() if isinstance(pair.support, Stored)]
        which = _slice_if_whole(work.rows)
        queries = [
            self._reader.get(pair.support if pair.queries is None else pair.queries, which)
            for pair in pairs.values()
        ]
        running = [
            RunningTopK(self._problem, self._backend, len(work.rows), work.left_out(work.rows))
            for _ in pairs
        ]
        lists = [top_k.lists for top_k in running]
        total = len(work.pair.support)
        start = 0 if self._kept is None else self._kept.resume(reading, lists)
        for rows, chunks in together(reading, stored, start):
            for number, (chunk, probe) in enumerate(zip(chunks, pairs, strict=True)):
                part = Part(pairs[probe].name, chunk, rows.start)
                running[number].take(part, queries[number])
                del chunk, part
                self._report(probe, rows.stop / total, len(work.numbers))
            if self._kept is not None and rows.stop < total:
                self._kept.keep(reading, lists, rows.stop)
        return dict(zip(pairs, lists, strict=True))

    def _report(self, probe: int, fraction: float, queries: int) -> None:
        if self._progress is not None:
            self._progress(probe, fraction, queries)


def together(
    reading: SharedReading, stored: Sequence[Stored], start: int = 0
) -> Iterator[tuple[slice, Iterator[Rows]]]:
    """The rows from `start` on of sources that a reading serves together, chunk by chunk: which
    they are, and those of each source in turn.

    All of a chunk are to be taken before the next is read: nothing here holds them then.
    """
    total = len(stored[0])
    for begin in range(start, total, reading.chunk_rows):
        rows = slice(begin, min(begin + reading.chunk_rows, total))
        values = reading.read([each.array for each in stored], rows)
        yield rows, (each.prepared(values.pop(0), rows.start) for each in stored)


class ProbeQueries:
    """Some queries of a problem at one probe, and how much of it is in work at a time.

    Attributes:
        numbers: (n,) the queries' rows, as they were given.
        rows, back: these, ascending and each once, and where each of `numbers` is among them.
        chunk, query_chunk: rows of the support, and queries, in work at a time.
    """

    probe: int
    pair: ProbeRows
    rows: NDArray[np.int64]
    back: NDArray[np.intp]
    chunk: int
    query_chunk: int
    shared: SharedReading | None

    def __init__(self, problem: Problem, probe: int, queries: NDArray[np.int64]) -> None:
        self.probe, self.pair = probe, problem.probes[probe]
        numbers = problem.row_numbers(queries)
        self.numbers: NDArray[np.int64] = queries if numbers is None else numbers
        self.rows, self.back = np.unique(self.numbers, return_inverse=True)
        self._exclude_self = problem.exclude_self
        self.shared = reading_of(self.pair.support)
        if self.shared is not None:
            self.chunk, self.query_chunk = self.shared.chunk_rows, len(self.rows)
        else:
            self.chunk, self.query_chunk = chunk_sizes(problem, self.pair, len(self.rows))

    @property
    def fit(self) -> bool:
        """Whether all are in work at once."""
        whole = self.chunk == len(self.pair.support) and self.query_chunk == len(self.rows)
        return whole and self.shared is None

    def left_out(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The support rows that queries are, if they are left out of their own lists."""
        return rows if self.pair.queries is None and self._exclude_self else None


class KeptLists:
    """The running lists of a shared reading in a run's journal, for a search that resumes."""

    NAME = "lists"
    pause: float = 5.0  # seconds between two writings, at least
    share = 20  # and times as many as the last one took

    def __init__(self, journal: Journal, first: int, end: int, queries: NDArray[np.int64]) -> None:
        """first, end: the probes that are read together. queries: (n,) their active queries."""
        self._journal = journal
        self._key = {"first": np.int64(first), "end": np.int64(end), "queries": queries}
        self._written, self._pause = time.monotonic(), self.pause

    @classmethod
    def first_probe(cls, journal: Journal, end: int, queries: NDArray[np.int64]) -> int | None:
        """Where the probes of an interrupted reading begin, if they and its queries are those that
        come before probe `end` now."""
        key = journal.read(cls.NAME, ("first", "end", "queries"))
        if key is None or int(key["end"]) != end or not np.array_equal(key["queries"], queries):
            return None
        return int(key["first"])

    def resume(self, reading: SharedReading, lists: list[Neighbors]) -> int:
        """Fill the lists from the journal; returns how many rows of the support they hold."""
        key = self._key | {"fingerprint": reading.fingerprint}
        known = self._journal.read(self.NAME, (*key, "rows"))
        if known is None or any(not np.array_equal(known[name], key[name]) for name in key):
            return 0
        for number, pair in enumerate(lists):
            for array, name in zip(pair, ("distances", "rows"), strict=True):
                entry = f"{name} {number}"  # one at a time: all are as large as the lists
                array[:] = (self._journal.read(self.NAME, (entry,)) or {})[entry]
        return int(known["rows"])

    def keep(self, reading: SharedReading, lists: list[Neighbors], rows: int) -> None:
        """Write the lists of the first `rows` rows, unless they were written a moment ago."""
        start = time.monotonic()
        if start - self._written <= self._pause:
            return
        arrays: dict[str, Any] = {"fingerprint": reading.fingerprint, "rows": np.int64(rows)}
        for number, pair in enumerate(lists):
            arrays[f"distances {number}"], arrays[f"rows {number}"] = pair
        self._journal.write(self.NAME, self._key | arrays)
        self._written = time.monotonic()
        self._pause = max(self.pause, self.share * (self._written - start))


def chunk_sizes(problem: Problem, pair: ProbeRows, queries: int) -> tuple[int, int]:
    """How many rows of the support, and how many queries, are in work at a time.

    Query chunks are as large as half of the memory allows, since the support is read for each.
    """
    support = pair.support
    memory = search_bytes(problem.memory)
    usable = int((1 - WORK_SHARE) * memory)
    query = _row_bytes(pair.queries or support) + MERGE_BYTES * (problem.k + 1)
    read = _row_bytes(support) if isinstance(support, Stored) else 0
    worked = read + PACKED_BYTES * support.width if read else 0
    _check_least(memory, pair.name, support.width, max(query, worked + read))
    held = len(support) * worked
    if held + queries * query <= usable or held <= usable // 2:  # read once
        chunk, query_chunk = len(support), (usable - held) // query
    else:
        query_chunk = min(queries, usable // 2 // query)
        chunk = (usable - query_chunk * query) // (worked + read)
    return min(chunk, len(support)), min(query_chunk, queries)


def check_memory(memory: int, name: str, width: int, row_bytes: int, k: int) -> None:
    """Raise MemoryError where a probe cannot be searched in chunks; row_bytes: of one, read."""
    query = row_bytes + MERGE_BYTES * (k + 1)
    _check_least(memory, name, width, max(query, 2 * row_bytes + PACKED_BYTES * width))


def _check_least(memory: int, name: str, width: int, unit: int) -> None:
    """unit: bytes of a query, or of a row of the support in work and the next one."""
    least = 2 * int(unit / (1 - WORK_SHARE)) + 2
    if memory < least:
        raise MemoryError(
            f"memory: expected at least {human(least)} for {name}, of width {width}, got "
            f"{human(memory)}."
        )


def _row_bytes(rows: Rows) -> int:
    """Bytes of a row while it is read: as it was stored, too, where that is another memory."""
    lent = isinstance(rows, Stored) and rows.lent
    return rows.row_bytes + lent * rows.width * numpy_type(rows.type).itemsize


def _bounds(count: int, most: int) -> list[int]:
    """Where equal chunks of at most `most` begin, and where the last ends."""
    chunks = -(-count // most)
    return [count * chunk // chunks for chunk in range(chunks + 1)]


def _slice_if_whole(rows: NDArray[np.int64]) -> Any:
    """Ascending rows as a slice where they follow each other."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows
