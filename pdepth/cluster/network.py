"""A network in a worker: it runs over whole batches of its own, and keeps what they give.

A value depends on the batch that its row is in, in the last bits: a worker's batches are those of
one process, and torch has as many threads as there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pdepth.arrays.memory import Budget
from pdepth.arrays.problem import checked_rows
from pdepth.arrays.rows import Rows, raw_bytes
from pdepth.arrays.sources import Stored, reading_of
from pdepth.cluster.keeping import KeptShard, Written
from pdepth.cluster.sending import Kept, Made, Sent
from pdepth.cluster.shards import ShardRows
from pdepth.cluster.spilling import WorkersSpill
from pdepth.embeddings.batch import Batch
from pdepth.embeddings.calling import at_rest, device_of
from pdepth.embeddings.collect import Embeddings, HeldEmbeddings, Job, Reading, SpanRows
from pdepth.embeddings.dataset import Batches, Changed, DataOptions
from pdepth.embeddings.dataset import Rows as DataRows
from pdepth.embeddings.layout import Layout
from pdepth.embeddings.loaders import Source, source_of
from pdepth.embeddings.readable import Readable
from pdepth.embeddings.recompute import RecomputedEmbeddings, RecomputedRows, checksums_of
from pdepth.embeddings.spans import SpanPlanner, product_rate
from pdepth.io.shared_store import SharedStore
from pdepth.progress import Event
from pdepth.search.chunks import check_memory

SUPPORT, QUERIES = "support", "queries"
Checksums = dict[tuple[int, str], int]
"""Of the values of a part, "support" or "queries", at a probe."""


@dataclass(frozen=True, eq=False)
class NetworkTask:
    """A network and how it is run, the same in all workers.

    layout: its caller has no network, which is `model`, or what makes it. threads: of torch.
    on_gpu: whether it runs on the worker's GPU. backend: of the search. num_threads: of that.
    spill: how what does not fit goes to disk; None where it is computed again.
    """

    layout: Layout
    model: nn.Module | Made
    metric: str
    k: int
    threads: int
    on_gpu: bool
    backend: str
    num_threads: int
    own_rows: bool
    spill: WorkersSpill | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of the support, or of the queries, that one worker reads.

    source: of all rows that are searched, where it is `made` there; else of these alone. first,
    end: which of those that are searched they are. chosen: (n,) their numbers in the data, where
    others are skipped there.
    """

    what: str
    source: Source
    options: DataOptions
    first: int
    end: int
    chosen: NDArray[np.int64] | None = None
    made: Made | None = None

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(n,) of the rows in the data, ascending."""
        return np.arange(self.first, self.end) if self.chosen is None else self.chosen

    @property
    def rows(self) -> Source:
        """How the rows are read."""
        if self.made is None:
            return self.source
        source = source_of(self.made.make(), self.what, self.source.batch_size or 1)
        if source.rows is None or (len(self.numbers) and source.rows <= self.numbers[-1]):
            raise ValueError(
                f"{self.what}: expected the same rows from {self.made.spec} everywhere, got "
                f"{source.rows} where row {self.numbers[-1]} was asked for."
            )
        return source.chosen(self.numbers)


@dataclass(frozen=True, eq=False)
class SpanShard:
    """The probes before number `end` at one worker, and what it has to give again if it died.

    sent: what it makes them of. active: (n,) its own active queries, by their numbers there.
    checks: of each of its parts, what the first reading gave; None before that. checksums: of the
    values that it had of its parts so far. first: rows, and the checksums of what this worker made
    of them when the call began. kept: the store that keeps embeddings; None without. asked: how
    many queries of all workers are active. begin: of a span that passes by, its first probe.
    """

    sent: Sent
    end: int
    active: NDArray[np.int64]
    asked: int
    budget: Budget
    checks: list[DataRows] | None = None
    checksums: Checksums = field(default_factory=dict)
    first: tuple[Kept, dict[int, int]] | None = None
    kept: SharedStore | None = None
    begin: int | None = None


@dataclass(frozen=True, eq=False)
class Embedded:
    """What a worker has of a span: its first probe, and checksums of the values.

    at_a_time: for how many queries its support passes by at a time; None where it is held, or on a
    disk.
    """

    first: int
    checksums: Checksums
    at_a_time: int | None = None


@dataclass(frozen=True, eq=False)
class ShardReading:
    """What a worker's first reading gave: of each of its parts labels and checksums of inputs, the
    predictions (n,) of its queries, and checksums of the values that it has since.

    notes: sentences on it. written: what it wrote of each of its parts into a store.
    """

    parts: list[DataRows]
    predictions: NDArray[np.int64]
    checksums: Checksums
    notes: list[str] = field(default_factory=list)
    written: dict[str, Written] = field(default_factory=dict)


class NetworkShard:
    """The embeddings of one worker."""

    def __init__(self, number: int, task: NetworkTask, parts: Sequence[Part]) -> None:
        """parts: of the support and of the queries, those of them that have rows."""
        torch.set_num_threads(task.threads)
        self._number, self._task = number, task
        self._parts = {part.what: part for part in parts}
        self._stack = ExitStack()
        device = torch.device("cuda") if task.on_gpu else None
        self._model = task.model.make() if isinstance(task.model, Made) else task.model
        self._stack.enter_context(at_rest(self._model, device))
        caller = replace(task.layout.caller, model=self._model)
        self._layout = replace(task.layout, caller=caller)
        self._readers = [_reader(part) for part in parts]
        self._embeddings: Embeddings | None = None
        self._planner: SpanPlanner | None = None  # of what does not fit
        self._has_read = False
        self._is_alike = False  # its values of the first rows were compared
        self._spans_last = True  # are what they were for a worker that died
        self._notes: list[str] = []
        self._span: SpanRows | None = None
        self._rows: dict[tuple[int, str], Rows] = {}  # of one probe
        self._loaded = 0  # bytes of them that were read from a file

    def close(self) -> None:
        """Leave torch as it was, in a process that goes on."""
        self._stack.close()

    def checksums(self, batch: Batch) -> dict[int, int]:
        """Of what a batch gives at every probe, and of its predictions: for whoever compares them
        with others'."""
        self._is_alike = True
        return checksums_of(self._layout, batch)

    def read_rows(self) -> list[DataRows]:
        """Labels and checksums of all rows; the network does not run."""
        return [reader.read_rows() for reader in self._readers]

    def read(self, shard: SpanShard) -> ShardReading:
        """Run the network over all rows."""
        torch.set_num_threads(self._task.threads)
        if not self._readers:
            return ShardReading([], np.empty(0, np.int64), {})
        self._compare_first_rows(shard)
        embeddings = self._opened(shard)
        reading = embeddings.read()
        self._has_read = True
        self._span, self._rows = None, {}
        asked = self._task.own_rows or QUERIES in self._parts
        predictions = reading.predictions if asked else np.empty(0, np.int64)
        parts = [reader.known_rows for reader in self._readers]
        if isinstance(embeddings, KeptShard):  # to be searched when all have written
            written = dict(zip(self._parts, embeddings.written, strict=True))
            return ShardReading(parts, predictions, {}, self._notes, written)
        span = self._span_of(shard, shard.end - 1)
        return ShardReading(parts, predictions, dict(self._checksums(span)), self._notes)

    def embed(self, shard: SpanShard) -> Embedded:
        """Have the last probes before `shard.end`."""
        if not self._readers:
            return Embedded(0, {})
        span, at_a_time = self._span_of(shard, shard.end - 1), None
        if SUPPORT in self._parts:
            rows = self._values(span, span.first, SUPPORT)
            shared = rows.shared if isinstance(rows, RecomputedRows) else None
            at_a_time = None if shared is None else shared.queries
        return Embedded(span.first, dict(self._checksums(span)), at_a_time)

    def support(self, shard: SpanShard, probe: int) -> ShardRows:
        """The rows of the support at a probe."""
        name, part = self._layout.names[probe], self._parts[SUPPORT]
        return ShardRows(name, self._checked(shard, probe, SUPPORT), part.first)

    def passing(self, shard: SpanShard, probes: Sequence[int]) -> Iterator[dict[int, ShardRows]]:
        """The rows of the support at some probes: together of those that share a forward pass."""
        left = list(probes)
        while left:
            probe = left.pop()
            rows = {probe: self.support(shard, probe)}
            if reading_of(rows[probe].rows) is not None:
                assert self._span is not None
                for other in [other for other in left if other >= self._span.first]:
                    left.remove(other)
                    rows[other] = self.support(shard, other)
            yield rows

    def queries(self, shard: SpanShard, probe: int, numbers: NDArray[np.int64]) -> Rows:
        """Some queries at a probe, by their numbers among all."""
        if self._task.own_rows:
            support = self.support(shard, probe)
            return support.rows[numbers - support.first].on_host()
        rows = self._checked(shard, probe, QUERIES)
        own = numbers - self._parts[QUERIES].first
        assert self._span is not None
        places = np.searchsorted(self._span.queries, own)
        return rows[places].on_host()

    def memory(self, shard: SpanShard, probe: int) -> int | None:
        """Bytes that the search at a probe may take; None for no limit."""
        memory = self._span_of(shard, probe).memory
        self.support(shard, probe)
        return memory if memory is None else memory - self._loaded

    def _checked(self, shard: SpanShard, probe: int, what: str) -> Rows:
        """The rows of a part at a probe, checked and, for cosine, normalised."""
        span = self._span_of(shard, probe)
        if (probe, what) not in self._rows:
            self._rows = {key: rows for key, rows in self._rows.items() if key[0] == probe}
            numbers = self._parts[what].numbers
            if what == QUERIES:
                numbers = numbers[span.queries]
            rows = checked_rows(
                self._values(span, probe, what),
                f"{what} ({self._layout.names[probe]})",
                self._task.metric,
                self._task.num_threads,
                numbers,
            )
            if what == SUPPORT:
                self._loaded = 0
                if self._may_be_loaded(rows, span.memory):
                    rows = rows[:]
                    self._loaded = rows.nbytes
            self._rows[probe, what] = rows
        return self._rows[probe, what]

    def _may_be_loaded(self, rows: Rows, memory: int | None) -> bool:
        """Whether a file's rows, which each query chunk would read again, leave room to search."""
        if not isinstance(rows, Stored) or isinstance(rows.array, RecomputedRows):
            return False
        if memory is None:
            return True
        left = memory - len(rows) * rows.row_bytes
        try:
            check_memory(left, rows.what, rows.width, rows.row_bytes, self._task.k)
        except MemoryError:
            return False
        return 2 * left >= memory

    def _values(self, span: SpanRows, probe: int, what: str) -> Any:
        """A part's values at a probe; of a worker with queries alone, they come as a support."""
        sides = span.probes[probe - span.first][1:]
        return sides[list(self._parts).index(what)]

    def _span_of(self, shard: SpanShard, probe: int) -> SpanRows:
        """The span of a probe: at hand, or embedded now."""
        torch.set_num_threads(self._task.threads)
        span = self._span
        if span is None or not span.first <= probe < span.first + len(span.probes):
            self._span, self._rows = None, {}
            embeddings = self._opened(shard)
            if not self._has_read:
                self._resume(embeddings, shard)
            end, begin = (shard.end, shard.begin) if self._spans_last else (probe + 1, None)
            span = embeddings.span(end, shard.active, begin)
            if probe < span.first:
                self._spans_last = False
                span = embeddings.span(probe + 1, shard.active)
            self._span = span
            self._compare(shard, span)
        return span

    def _opened(self, shard: SpanShard) -> Embeddings:
        """The embeddings of all parts: held where they fit, else computed again by spans."""
        if self._embeddings is None:
            task = self._task
            job = Job(
                self._model, self._layout, self._readers, task.metric, task.k, shard.budget,
                observer=self._noted,
            ).at_home(task.backend)  # fmt: skip
            for reader in self._readers:
                reader.remembers = True
            self._embeddings = self._entered(job, shard)
        if self._planner is not None:
            self._planner.asked = shard.asked
        if isinstance(self._embeddings, KeptShard) and shard.kept is not None:
            self._embeddings.store = shard.kept  # which is finished meanwhile
        return self._embeddings

    def _entered(self, job: Job, shard: SpanShard) -> Embeddings:
        """Where the embeddings of a job are."""
        if shard.kept is not None:
            stored = {what: slice(part.first, part.end) for what, part in self._parts.items()}
            return self._stack.enter_context(KeptShard(job, self._number, stored, shard.kept))
        if job.fits:
            return self._stack.enter_context(HeldEmbeddings(job))
        rows, task = [len(part.numbers) for part in self._parts.values()], self._task
        if not task.own_rows and [*self._parts] == [SUPPORT]:
            rows.append(0)  # of queries
        rate = product_rate(device_of(self._model) if task.on_gpu else None)
        self._planner = SpanPlanner(job, rows, search_rate=rate, asked=shard.asked)
        again, spill = RecomputedEmbeddings(self._planner), task.spill
        if spill is not None:
            try:
                return self._stack.enter_context(spill.embeddings(self._number, again))
            except BlockingIOError as error:  # by one that has lost its cluster, and is still there
                job.note(f"{error} They are computed again")
        return self._stack.enter_context(again)

    def _noted(self, event: Event) -> None:
        if event.stage == "note":
            self._notes.append(event.text)

    def _resume(self, embeddings: Embeddings, shard: SpanShard) -> None:
        """After a reading of a worker that died, or of a call that was interrupted."""
        assert shard.checks is not None
        for reader, rows in zip(self._readers, shard.checks, strict=True):
            reader.expect(rows)
        self._compare_first_rows(shard)
        embeddings.resume(Reading([], np.empty(0, np.int64)))
        self._has_read = True

    def _compare_first_rows(self, shard: SpanShard) -> None:
        """Raise Changed where they are not those of the worker that died, if one has."""
        if self._is_alike or shard.first is None:
            return
        first, then = shard.first
        now = self.checksums(first.value())
        for number, name in enumerate([*self._layout.names, "predictions"]):
            if now[number] != then[number]:
                raise self._changed("the first rows", name)

    def _checksums(self, span: SpanRows) -> Iterator[tuple[tuple[int, str], int]]:
        """Of the values of whole parts in memory; others are computed as they are searched, or
        come from files that have checksums of their own."""
        if isinstance(self._embeddings, KeptShard):
            return
        for number, (_, *sides) in enumerate(span.probes, span.first):
            for (what, part), values in zip(self._parts.items(), sides, strict=False):
                if isinstance(values, torch.Tensor) and len(values) == len(part.numbers):
                    yield (number, what), _checksum(values)

    def _compare(self, shard: SpanShard, span: SpanRows) -> None:
        """Raise Changed where values are not those of the worker that died."""
        if not shard.checksums:
            return
        for (number, what), checksum in self._checksums(span):
            if shard.checksums.get((number, what), checksum) != checksum:
                raise self._changed(f"the {what}", self._layout.names[number])

    def _changed(self, what: str, name: str) -> Changed:
        return Changed(
            f"worker {self._number}, which was started again: expected the same values of {what}, "
            f"got others at probe {name!r}; the network's code, its machine's processor or torch "
            "differ there."
        )


def _checksum(values: torch.Tensor) -> int:
    """Of the bits of many values, at the speed of memory: their sum, as words of eight bytes.

    Where rows change places it is the checksums of inputs that tell.
    """
    raw = raw_bytes(values)
    whole = len(raw) // 8
    words = np.frombuffer(raw, np.uint64, whole) if whole else np.empty(0, np.uint64)
    return int(words.sum(dtype=np.uint64)) ^ zlib.crc32(raw[8 * whole :])


def _reader(part: Part) -> Batches:
    rows = part.rows
    reader = Batches(rows, part.what, rows.batch_size or 1, part.options)
    reader.readable = Readable(part.numbers, {})
    return reader
