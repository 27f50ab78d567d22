"""Embeddings that do not fit: computed again for each span of probes, over the same batches."""

from __future__ import annotations

import shutil
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdepth.arrays.memory import human
from pdepth.arrays.rows import raw_bytes
from pdepth.embeddings.batch import Batch
from pdepth.embeddings.calling import device_of
from pdepth.embeddings.capture import capture_again, footprint, labels_of
from pdepth.embeddings.collect import (
    Job,
    Reading,
    SpanRows,
    capture_all,
    reading_of,
    span_rows,
)
from pdepth.embeddings.dataset import Batches, Changed
from pdepth.embeddings.forward import forward
from pdepth.embeddings.kept import KeptEmbeddings
from pdepth.embeddings.layout import Layout
from pdepth.embeddings.spans import SpanPlanner
from pdepth.io.embedding_store import writing
from pdepth.progress import RowMeter

SAMPLE = 32  # rows of the first batch that run twice; on a device all of them
SCRATCH_PREFIX = ".embeddings-"  # of the folder of embeddings that are not the same again


class RecomputedEmbeddings:
    """See `collect.Embeddings`: a span of probes at a time.

    A span that fits is captured when its turn comes, of the queries only the active ones. If more
    probes fit so, the support is not held but computed in chunks that all of them share; and a
    probe of which not even the queries fit is a source that runs the network as it is read. What a
    network does not give twice with the same bits is written to disk instead.
    """

    planner: SpanPlanner

    def __init__(self, planner: SpanPlanner, scratch: Path | None = None) -> None:
        """planner: of the job. scratch: a folder for what must go to disk."""
        self.planner, self._job, self._scratch = planner, planner.job, scratch
        self._stack = ExitStack()
        self._on_disk: KeptEmbeddings | None = None
        self._checksums: dict[int, int] = {}  # of the first rows, by the probe's number
        self._resumed = False  # and the network has not run yet
        self._first: SpanRows | None = None  # whose values the first reading captured

    def __enter__(self) -> RecomputedEmbeddings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._first = None
        self._stack.__exit__(*error)

    def read(self) -> Reading:
        job = self._job
        if not self._repeats():
            return self._to_disk().read()
        job.note(self._outlook())
        end = len(job.layout.probes)
        span = self.planner.before(end)
        probes, every_query = range(span.first, end), np.arange(self.planner.rows[-1])
        if span.way == "held":
            captured = capture_all(job, probes, job.readers)
            values = [side.embeddings for side in captured]
            self._first = span_rows(job, probes, values, every_query, self._search_memory)
            return reading_of(captured)
        if job.own_rows and len(every_query):
            return reading_of(capture_all(job, [], job.readers))
        # Of the support only labels, since its values come by once the queries' are there.
        labels = self._labels(job.readers[0])
        if job.own_rows:  # of a worker without queries
            return Reading([labels], every_query)
        shared = span.way == "shared"
        captured = capture_all(job, probes if shared else [], job.readers[1:])
        if shared:
            self._first = self._shared(probes, captured[0].embeddings, every_query)
        reading = reading_of(captured)
        return Reading([labels, *reading.labels], reading.predictions)

    def resume(self, reading: Reading) -> None:
        self._resumed = True
        if self._scratch is not None:  # what a run left that was killed
            for folder in self._scratch.glob(f"{SCRATCH_PREFIX}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def span(
        self,
        end: int,
        active: NDArray[np.int64],
        resumed_first: int | None = None,
    ) -> SpanRows:
        if self._on_disk is not None:
            return self._on_disk.span(end, active)
        if self._resumed and not self._repeats():
            raise Changed(
                "the network does not give the same values when it runs again, and the votes "
                "before the interruption are of others; use another run_dir to begin anew."
            )
        self._resumed = False
        first, self._first = self._first, None
        if first is not None:
            return first
        span = self.planner.before(end, active, resumed_first)
        probes, readers = range(span.first, end), self._job.readers
        if span.way == "streamed":
            return self._streamed(span.first, active)
        if span.way == "shared":
            values = self._capture_again(readers[-1], probes, active)
            return self._shared(probes, values, active)
        which = [np.arange(self.planner.rows[0]), active][: len(readers)]
        sides = [self._capture_again(r, probes, w) for r, w in zip(readers, which, strict=True)]
        queries = which[-1]
        return span_rows(self._job, probes, sides, queries, self._search_memory)

    def _repeats(self) -> bool:
        """Whether the network gives the same again; and how fast it runs."""
        begin, rows = time.perf_counter(), len(first_rows(self._job).labels)
        self._checksums, again = first_rows_checksums(self._job)
        self.planner.forward_rate = 2 * rows / (time.perf_counter() - begin)
        return self._checksums == again

    def _to_disk(self) -> KeptEmbeddings:
        """Write all embeddings to a folder of this run."""
        job = self._job
        needed = footprint(job.layout, sum(self.planner.rows), job.metric)
        temporary = tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=self._scratch)
        folder = Path(self._stack.enter_context(temporary))
        if (free := shutil.disk_usage(folder).free) < needed:
            raise OSError(
                f"The embeddings take {human(needed)}, more than memory holds; they are not the "
                f"same when they are computed again, and {folder.parent} has {human(free)} free."
            )
        job.note(f"not the same when computed again: {human(needed)} go to {folder}")
        writer = self._stack.enter_context(writing(folder / "embeddings"))
        self._on_disk = KeptEmbeddings(job, writer)
        return self._on_disk

    def _outlook(self) -> str:
        """What will be computed, in words."""
        job, rows = self._job, sum(self.planner.rows)
        needed, spans = footprint(job.layout, rows, job.metric), len(self.planner.all())
        return (
            f"{human(needed)} for {rows:,} rows x {len(job.layout.probes)} probes, more than the "
            f"{job.budget}: computed in {'one pass' if spans == 1 else f'{spans} passes'}"
        )

    def _labels(self, reader: Batches) -> NDArray[np.int64]:
        """A reader's labels; the network does not run."""
        meter = RowMeter(self._job.observer, "labels", reader.rows)
        labels = labels_of(self._job.layout, reader, on_rows=meter)
        meter(len(labels), finished=True)
        array: NDArray[np.int64] = labels.numpy()
        return array

    def _shared(self, probes: range, values: Sequence[Any], queries: NDArray[np.int64]) -> SpanRows:
        """Probes whose support is computed chunk by chunk, in one forward pass."""
        job, every = self._job, np.arange(self.planner.rows[0])
        names = job.layout.names[probes.start : probes.stop]
        at_a_time = len(queries) if self.planner.asked is None else self.planner.asked
        chunk_rows = self.planner.chunk_rows(probes, len(queries))
        shared = SharedForward(job, chunk_rows, at_a_time, self._fingerprint(probes))
        rows: list[tuple[str, Any, Any]] = []
        for number, name, side in zip(probes, names, values, strict=True):
            known = (queries, side) if job.own_rows else None
            support = RecomputedRows(job, job.readers[0], number, every, shared, known)
            rows.append((name, support, None if job.own_rows else side))
        return SpanRows(probes[0], rows, queries, self._search_memory)

    def _streamed(self, number: int, active: NDArray[np.int64]) -> SpanRows:
        """A probe that does not fit: read, and so computed, as it is searched; at a worker, for
        as many queries of all as memory allows."""
        job, every, shared = self._job, np.arange(self.planner.rows[0]), None
        if self.planner.asked is not None and self.planner.passes_by:
            at_a_time, chunk_rows = self.planner.streamed(number)
            shared = SharedForward(job, chunk_rows, at_a_time, self._fingerprint([number]))
        support = RecomputedRows(job, job.readers[0], number, every, shared)
        queries = None
        if not job.own_rows:
            queries = RecomputedRows(job, job.readers[1], number, active)
        row = (job.layout.names[number], support, queries)
        return SpanRows(number, [row], every if job.own_rows else active, job.budget.size)

    def _capture_again(
        self, reader: Batches, probes: Sequence[int], rows: NDArray[np.int64]
    ) -> list[torch.Tensor]:
        job = self._job
        meter = job.meter(reader, len(rows))
        values = capture_again(job.layout, reader, probes, rows, on_rows=meter)
        meter(len(rows), finished=True)
        return values

    def _fingerprint(self, probes: Sequence[int]) -> NDArray[np.int64]:
        """Of the support's values at some probes."""
        return np.array([self._checksums[number] for number in probes])

    @property
    def _search_memory(self) -> int | None:
        return self._job.search_memory(recomputed=True)


class RecomputedRows:
    """Some rows of a probe, as a `Source`: reading them runs the network.

    Read it inside `at_rest`.
    """

    number: int
    shared: SharedForward | None

    fresh = True

    def __init__(
        self,
        job: Job,
        reader: Batches,
        number: int,
        rows: NDArray[np.int64],
        shared: SharedForward | None = None,
        known: tuple[NDArray[np.int64], torch.Tensor] | None = None,
    ) -> None:
        """number: the probe's. rows: (n,) ascending. shared: the forward pass that gives the values
        of other probes too. known: rows (m,), ascending, whose values (m, D) are in memory."""
        self._job, self._reader, self._rows = job, reader, rows
        self.number, self.shared, self._known = number, shared, known
        self.shape: tuple[int, int] = len(rows), job.layout.widths[number]
        self.dtype: torch.dtype = job.layout.dtypes[number]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self.rows_at(np.arange(*rows.indices(len(self._rows))))

    def rows_at(self, places: NDArray[np.int64]) -> torch.Tensor:
        """The rows at some places, ascending: each batch that holds one runs once."""
        rows = self._rows[places]
        if self._known is not None:
            known, values = self._known
            if np.array_equal(rows, known):
                return values
            if np.isin(rows, known, assume_unique=True).all():
                return values[np.searchsorted(known, rows)]
        job = self._job
        (values,) = capture_again(job.layout, self._reader, [self.number], rows)
        return values


class SharedForward:
    """A `SharedReading`: the support's values at several probes, from one forward pass.

    queries: for how many it leaves room.
    """

    chunk_rows: int
    queries: int
    fingerprint: NDArray[np.int64]

    def __init__(
        self, job: Job, chunk_rows: int, queries: int, fingerprint: NDArray[np.int64]
    ) -> None:
        self._job, self.chunk_rows, self.fingerprint = job, chunk_rows, fingerprint
        self.queries = queries
        self._meter = job.meter(job.readers[0], job.readers[0].rows)

    def read(self, sources: Sequence[RecomputedRows], rows: slice) -> list[torch.Tensor]:
        job, support = self._job, self._job.readers[0]
        numbers = [source.number for source in sources]
        with job.clock.paused():
            values = capture_again(job.layout, support, numbers, np.arange(rows.start, rows.stop))
        self._meter(rows.stop, finished=rows.stop == support.rows)
        return values


def first_rows(job: Job) -> Batch:
    """The rows that tell whether a network repeats: of the first batch, on a device all of it."""
    inputs, labels = job.readers[0].first
    if device_of(job.model).type == "cpu":
        inputs = inputs.first(SAMPLE)
        labels = labels[: inputs.rows]
    return Batch(inputs, labels)


def first_rows_checksums(job: Job) -> tuple[dict[int, int], dict[int, int]]:
    """Checksums of `first_rows` at every probe, by its number; and of the same, run once more.

    Call it inside `at_rest`; it cannot see what changes less often.
    """
    batch = first_rows(job)
    return checksums_of(job.layout, batch), checksums_of(job.layout, batch)


def checksums_of(layout: Layout, batch: Batch) -> dict[int, int]:
    """Checksums of what a batch of the support gives at every probe, by its number; after them,
    that of its predictions."""
    by_probe: dict[int, int] = {}
    probes = range(len(layout.probes))

    def put(number: int, begin: int, values: torch.Tensor) -> None:
        by_probe[number] = zlib.crc32(raw_bytes(values))

    for _, predictions in forward(layout, "support", [(0, batch)], probes, put):
        by_probe[len(probes)] = zlib.crc32(raw_bytes(predictions))
    return by_probe
