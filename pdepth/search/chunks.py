"""Layers that are not in memory: chunks of support and blocks of queries through any backend.

A layer that fits is read and answered as arrays are. Of a larger one, each chunk's nearest rows are
merged by (float64 distance, row), which does not depend on where chunks begin: the same votes, bit
for bit. One thread reads a chunk while the kernels work on the one before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.arrays.arguments import Layer, Problem
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Engine, Progress
from pdepth.arrays.memory import MERGED, free_bytes, human
from pdepth.arrays.rows import Rows
from pdepth.arrays.sources import Stored, numpy_type

SHARE = 0.5  # of the free memory, where the caller names no other
UNKNOWN_MEMORY = 1 << 31  # where nobody knows what is free
WORK = 0.25  # of the memory is left to what a kernel takes whatever the sizes
PACKED = 4  # bytes an element of the support takes in a kernel, at most
COUNTED = 1 << 22  # vote counts held at a time

Lists = tuple[NDArray[np.float64], NDArray[np.int64]]

log = logging.getLogger("pdepth")


def wanted_for(problem: Problem) -> bool:
    """Whether some of the problem's rows are not in memory."""
    return any(
        isinstance(rows, Stored)
        for layer in problem.layers
        for rows in (layer.support, layer.queries)
    )


@dataclass(frozen=True)
class Streamed:
    """An engine for rows that are not in memory: through `engine`, for those that are."""

    engine: Engine

    def votes(
        self,
        problem: Problem,
        wanted: NDArray[np.int32] | None,
        return_counts: bool,
        progress: Progress | None,
    ) -> EncodedVotes:
        """What the engine says of arrays; with `wanted`, earlier layers are asked only for those
        queries whose later votes all were theirs."""
        with _Reader() as reader:

            def answer(number: int, who: NDArray[np.int64]) -> EncodedVotes:
                call = _Call(self.engine, problem, number, who, reader, progress)
                return call.votes(None if wanted is None else wanted[who], return_counts)

            return _each_layer(problem, wanted, answer)

    def neighbors(self, problem: Problem, progress: Progress | None = None) -> Lists:
        """What the engine says of an array."""
        who = np.arange(problem.count)
        with _Reader() as reader:
            return _Call(self.engine, problem, 0, who, reader, progress).neighbors()


def engine_for(problem: Problem, engine: Engine) -> Engine:
    """The engine, or one around it that reads the problem's rows."""
    return Streamed(engine) if wanted_for(problem) else engine


class Running:
    """The nearest rows so far, of some queries, as a support passes by in chunks."""

    def __init__(self, engine: Engine, problem: Problem, own: NDArray[np.int64] | None) -> None:
        """problem: k, and what belongs to the machine. own: (n,) the support's rows that the
        queries are, ascending, if these are left out."""
        self._engine, self._problem, self._own = engine, problem, own
        shape = problem.count, problem.k
        self.lists: Lists = np.full(shape, np.nan), np.full(shape, -1)

    def take(self, name: str, chunk: Rows, begin: int, queries: Rows) -> None:
        """Put in what is near in a chunk, whose first row has number `begin`.

        Only what may be nearer than the lists' last rows is settled; a later row is behind an
        earlier one of the same distance.
        """
        end, own = begin + len(chunk), self._own
        inside = own is not None and bool(((own >= begin) & (own < end)).any())
        k = min(self._problem.k + inside, len(chunk))
        part = replace(
            self._problem,
            layers=(Layer(name, chunk, queries),),
            codes=np.zeros(len(chunk), np.int32),
            k=k,
            query_rows=None,
            exclude_self=False,
            count=len(queries),
            within=np.ascontiguousarray(self.lists[0][:, -1]),
        )
        distances, found = self._engine.neighbors(part)
        found[found >= 0] += begin
        if inside and own is not None:
            distances[found == own[:, None]] = np.nan
        _merge(self.lists, (distances, found))


@dataclass(frozen=True)
class Found:
    """An engine for queries whose nearest rows are known; each is the number of its lists.

    lists: by the layer's name, what `Running` has found.
    """

    lists: dict[str, Lists]

    @classmethod
    def asked(cls, problem: Problem) -> Problem:
        """The problem, with the queries' numbers in place of their rows."""
        numbers = Rows(np.arange(problem.count)[:, None], "int64")
        layers = tuple(replace(layer, queries=numbers) for layer in problem.layers)
        return replace(problem, layers=layers, query_rows=None)

    def votes(
        self,
        problem: Problem,
        wanted: NDArray[np.int32] | None,
        return_counts: bool,
        progress: Progress | None,
    ) -> EncodedVotes:
        """As any engine; nothing is searched."""

        def answer(number: int, who: NDArray[np.int64]) -> EncodedVotes:
            rows = self._of(problem.layers[number], who)[1]
            counted = _Cast(len(who), problem, return_counts)
            counted.take(slice(0, len(who)), rows)
            return counted.coded(None if wanted is None else wanted[who])

        return _each_layer(problem, wanted, answer)

    def neighbors(self, problem: Problem, progress: Progress | None = None) -> Lists:
        """As any engine; nothing is searched."""
        return self._of(problem.layers[0], np.arange(problem.count))

    def _of(self, layer: Layer, who: NDArray[np.int64]) -> Lists:
        assert layer.queries is not None  # `asked` has put the numbers there
        numbers = layer.queries.array[who, 0]
        distances, rows = self.lists[layer.name]
        return distances[numbers], rows[numbers]


def _each_layer(
    problem: Problem,
    wanted: NDArray[np.int32] | None,
    answer: Callable[[int, NDArray[np.int64]], EncodedVotes],
) -> EncodedVotes:
    """What all layers answer; with `wanted`, the earlier only about queries whose later votes all
    were theirs. answer: takes a layer's number and queries (n,), and gives (1, n)."""
    layers, who = len(problem.layers), np.arange(problem.count)
    out: EncodedVotes | None = None
    for number in range(layers) if wanted is None else reversed(range(layers)):
        if not len(who):
            break
        found = answer(number, who)
        out = out or found.spread(layers, problem.count)
        out.put(number, who, found)
        if wanted is not None:
            who = who[found.votes[0] == wanted[who]]
    assert out is not None  # a problem has layers and queries
    return out


class _Cast:
    """The votes of n queries at one layer, counted from their neighbours a block at a time."""

    def __init__(self, queries: int, problem: Problem, return_counts: bool) -> None:
        self._problem, self._classes = problem, len(problem.classes)
        self._votes, self._tied = np.empty(queries, np.int32), np.empty(queries, np.bool_)
        self._counts: NDArray[np.int32] | None = None
        if return_counts:
            self._counts = np.empty((queries, self._classes), np.int32)

    def take(self, block: slice, rows: NDArray[np.int64]) -> None:
        """The neighbours (block, k) of a block of queries."""
        step = max(1, COUNTED // self._classes)
        for begin in range(0, len(rows), step):
            part = slice(block.start + begin, min(block.start + begin + step, block.stop))
            counted = _counted(self._problem.codes[rows[begin : begin + step]], self._classes)
            self._votes[part], self._tied[part] = definition.majority(counted)
            if self._counts is not None:
                self._counts[part] = counted

    def coded(
        self, wanted: NDArray[np.int32] | None, back: NDArray[np.intp] | slice = slice(None)
    ) -> EncodedVotes:
        """(1, n) of the queries `back`; with `wanted`, only votes that are."""
        votes = self._votes[back]
        if wanted is not None:
            return EncodedVotes(np.where(votes == wanted, votes, UNKNOWN)[None])
        counts = None if self._counts is None else self._counts[back][None]
        return EncodedVotes(votes[None], self._tied[back][None], counts)


class _Reader:
    """The thread that reads, and how long the others waited for it."""

    def __enter__(self) -> _Reader:
        self.pool = ThreadPoolExecutor(1, "pdepth-reader")
        self.began, self.bytes, self.reading, self.waiting = time.monotonic(), 0, 0.0, 0.0
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.pool.shutdown()
        elapsed = time.monotonic() - self.began
        if kind is None and self.waiting > elapsed / 2:
            log.info(
                "Reading was the limit: %s at %s/s; the kernels waited %.1f of %.1f s.",
                human(self.bytes),
                human(int(self.bytes / max(self.reading, 1e-9))),
                self.waiting,
                elapsed,
            )

    def get(self, rows: Rows, which: Any) -> Rows:
        """Some rows, in memory."""
        return self._wait(self._begin(rows, which))

    def chunks(self, rows: Rows, bounds: list[int]) -> Iterator[tuple[int, Rows]]:
        """The rows between bounds, and the number of the first, one chunk read ahead.

        Nothing here holds a chunk that has been given: two are in memory if the caller drops it.
        """
        spans = [slice(*span) for span in pairwise(bounds)]
        coming = self._begin(rows, spans[0])
        for begin, after in zip(bounds, [*spans[1:], None], strict=False):
            given = [self._wait(coming)]
            if after is not None:
                coming = self._begin(rows, after)
            else:
                del coming
            yield begin, given.pop()

    def _begin(self, rows: Rows, which: Any) -> Future[Rows]:
        return self.pool.submit(self._read, rows, which)

    def _read(self, rows: Rows, which: Any) -> Rows:
        begin = time.monotonic()
        read = rows[which]
        if isinstance(rows, Stored):
            self.bytes += len(read) * rows.width * numpy_type(rows.kept).itemsize
        self.reading += time.monotonic() - begin
        return read

    def _wait(self, coming: Future[Rows]) -> Rows:
        begin = time.monotonic()
        try:
            return coming.result()
        finally:
            self.waiting += time.monotonic() - begin


class _Call:
    """Some queries of a problem, by their numbers, at one of its layers."""

    def __init__(
        self,
        engine: Engine,
        problem: Problem,
        number: int,
        who: NDArray[np.int64],
        reader: _Reader,
        progress: Progress | None,
    ) -> None:
        self.engine, self.problem, self.reader = engine, problem, reader
        self.number, self.progress = number, progress
        self.layer, self.who = problem.layers[number], who
        self.own = self.layer.queries is None
        if self.own and problem.query_rows is not None:
            self.who = problem.query_rows[who]
        # A row that is asked twice is read once, and all in the order in which they are kept.
        self.rows, self.back = np.unique(self.who, return_inverse=True)
        self.chunk, self.block = _sizes(problem, self.layer, len(self.rows))

    def votes(self, wanted: NDArray[np.int32] | None, return_counts: bool) -> EncodedVotes:
        """(1, n) votes, as `votes` gives them."""
        if self._fits():
            return self.engine.votes(self._loaded(), wanted, return_counts, self._within)
        cast = _Cast(len(self.rows), self.problem, return_counts)
        for block, _, rows in self._lists():
            cast.take(block, rows)
        return cast.coded(wanted, self.back)

    def neighbors(self) -> Lists:
        if self._fits():
            return self.engine.neighbors(self._loaded(), self._within)
        shape = len(self.rows), self.problem.k
        distances, rows = np.empty(shape), np.empty(shape, np.int64)
        for block, *lists in self._lists():
            distances[block], rows[block] = lists
        return distances[self.back], rows[self.back]

    # ---- a layer that fits ----

    def _fits(self) -> bool:
        return self.chunk == len(self.layer.support) and self.block == len(self.rows)

    def _loaded(self) -> Problem:
        """The layer alone, in memory, asked about these queries."""
        support = self.reader.get(self.layer.support, slice(None))
        queries = None
        if self.layer.queries is not None:
            queries = self.reader.get(self.layer.queries, _which(self.rows))
        return replace(
            self.problem,
            layers=(Layer(self.layer.name, support, queries),),
            query_rows=self.who if self.own else None,
            count=len(self.who),
        )

    def _within(self, layer: int, fraction: float, asked: int) -> None:
        if self.progress is not None:
            self.progress(self.number, fraction, asked)

    # ---- a layer that does not ----

    def _lists(self) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.int64]]]:
        """The k nearest of a block of `self.rows` after the other."""
        support, total = self.layer.support, len(self.layer.support)
        bounds = _bounds(total, self.chunk)
        blocks = _bounds(len(self.rows), self.block)
        if len(bounds) == 2:
            support = self.reader.get(support, slice(None))
        for number, (first, last) in enumerate(pairwise(blocks)):
            rows = self.rows[first:last]
            queries = self._queries(support, rows, bounds)
            left_out = rows if self.own and self.problem.exclude_self else None
            part = replace(self.problem, count=len(rows))
            running = Running(self.engine, part, left_out)
            for begin, chunk in self.reader.chunks(support, bounds):
                self._within(0, (number + begin / total) / (len(blocks) - 1), len(self.who))
                running.take(self.layer.name, chunk, begin, queries)
                del chunk  # before the one after the next is read
            yield slice(first, last), *running.lists
        self._within(0, 1.0, len(self.who))

    def _queries(self, support: Rows, rows: NDArray[np.int64], bounds: list[int]) -> Rows:
        if self.layer.queries is not None:
            return self.reader.get(self.layer.queries, _which(rows))
        try:
            return self.reader.get(support, _which(rows))
        except ValueError:  # of what is wrong with the support, the first row is named
            for _ in self.reader.chunks(support, bounds):
                pass
            raise


def _sizes(problem: Problem, layer: Layer, asked: int) -> tuple[int, int]:
    """How many rows of the support, and how many queries, are in work at a time.

    Blocks are as large as half of the memory allows, since the support is read for each.
    """
    support = layer.support
    memory = problem.memory or int(SHARE * (free_bytes() or UNKNOWN_MEMORY))
    usable = int((1 - WORK) * memory)
    query = _row_bytes(layer.queries or support) + MERGED * (problem.k + 1)
    read = _row_bytes(support) if isinstance(support, Stored) else 0
    worked = read + PACKED * support.width if read else 0
    _check_least(memory, layer.name, support.width, max(query, worked + read))
    held = len(support) * worked
    if held + asked * query <= usable or held <= usable // 2:  # read once
        chunk, block = len(support), (usable - held) // query
    else:
        block = min(asked, usable // 2 // query)
        chunk = (usable - block * query) // (worked + read)
    return min(chunk, len(support)), min(block, asked)


def check_memory(memory: int, name: str, width: int, row: int, k: int) -> None:
    """Raises MemoryError where a probe's rows cannot be streamed; `row`: bytes of one, read."""
    _check_least(memory, name, width, max(row + MERGED * (k + 1), 2 * row + PACKED * width))


def readings(memory: int, asked: int, row: int, k: int) -> int:
    """How often a support that does not fit is read: once for each block of queries."""
    block = max(1, int((1 - WORK) * memory) // 2 // (row + MERGED * (k + 1)))
    return -(-asked // block)


def _check_least(memory: int, name: str, width: int, unit: int) -> None:
    """unit: bytes of a query, or of a row of the support in work and the next one."""
    least = 2 * int(unit / (1 - WORK)) + 2
    if memory < least:
        raise MemoryError(
            f"memory is {human(memory)}; {name}, of width {width}, wants at least {human(least)}."
        )


def _row_bytes(rows: Rows) -> int:
    """Bytes of a row while it is read."""
    types = {rows.type, rows.kept} if isinstance(rows, Stored) else {rows.type}
    return rows.width * sum(numpy_type(each).itemsize for each in types)


def _bounds(count: int, most: int) -> list[int]:
    """Where equal parts of at most `most` begin, and where the last ends."""
    parts = -(-count // most)
    return [count * part // parts for part in range(parts + 1)]


def _which(rows: NDArray[np.int64]) -> Any:
    """Ascending rows as a slice where they follow each other."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _counted(codes: NDArray[np.int32], classes: int) -> NDArray[np.int64]:
    """(n, C) how many of the codes (n, k) each class has."""
    places = np.arange(len(codes))[:, None] * classes + codes
    return np.bincount(places.ravel(), minlength=len(codes) * classes).reshape(-1, classes)


def _merge(kept: Lists, found: Lists) -> None:
    """Put into the running lists (n, k) what a later chunk has found (n, any).

    A later row is behind an earlier one of the same distance, and a stable sort leaves it there.
    What has no distance (NaN) is behind all that have one, be it infinite.
    """
    told = (found[1] >= 0).any(axis=1)
    closer = told & ~(found[0][:, 0] >= kept[0][:, -1])
    distances, rows = (
        np.hstack([old[closer], new[closer]]) for old, new in zip(kept, found, strict=True)
    )
    order = distances.argsort(axis=1, kind="stable")[:, : kept[0].shape[1]]
    for lists, both in zip(kept, (distances, rows), strict=True):
        lists[closer] = np.take_along_axis(both, order, axis=1)
