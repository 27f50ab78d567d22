"""Embeddings on disk: written as the network runs, and searched as memory maps of the files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.memory import human
from pdepth.embeddings.capture import capture
from pdepth.embeddings.collect import HeldEmbeddings, Job, Reading, SpanRows, span_rows
from pdepth.io.embedding_store import EmbeddingStore, Origin, Writer, open_store


class KeptEmbeddings:
    """See `collect.Embeddings`: in a store, which is written or, by an earlier run, finished.

    Rows of unknown number are held in memory until all have come.
    """

    def __init__(
        self, job: Job, target: Writer | EmbeddingStore, origin: Origin | None = None
    ) -> None:
        """origin: what the embeddings are of, for a store that is written."""
        self._job, self._origin = job, origin or Origin()
        self._writer = None if isinstance(target, EmbeddingStore) else target
        self._store = target if isinstance(target, EmbeddingStore) else None
        self._is_own = self._store is None  # written in this call
        self._held: HeldEmbeddings | None = None

    def __enter__(self) -> KeptEmbeddings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held = None

    def read(self) -> Reading:
        assert self._writer is not None  # a finished store comes with a reading
        for reader in self._job.readers:
            reader.remembers = True
        if self._job.rows is None:
            return self._read_and_add(self._writer)
        return self._write(self._writer)

    def resume(self, reading: Reading) -> None: ...

    def span(
        self,
        end: int,
        active: NDArray[np.int64],
        resumed_first: int | None = None,
    ) -> SpanRows:
        job = self._job
        if self._store is None:
            assert self._held is not None  # rows of unknown number
            return self._held.span(end, active)
        probes = range(end)
        if not self._is_own:  # one probe at a time: its values are checked when they are searched
            probes = range(end - 1, end)
            self._store.check(job.layout.names[end - 1])
        parts = self._store.parts
        values = [[part.embeddings[job.layout.names[p]] for p in probes] for part in parts]
        queries = np.arange(len(parts[-1].labels))
        return span_rows(job, probes, values, queries, job.search_memory(recomputed=False))

    def _write(self, writer: Writer) -> Reading:
        """Write values as they come; what is searched are maps of the files."""
        job, layout = self._job, self._job.layout
        types = [str(dtype).removeprefix("torch.") for dtype in layout.dtypes]
        shapes = dict(zip(layout.names, zip(types, layout.widths, strict=True), strict=True))
        labels: list[NDArray[np.int64]] = []
        written = 0
        for reader in job.readers:
            meter = job.meter(reader, reader.rows)
            part = writer.growing(reader.what, shapes, reader.rows or 0)
            captured = capture(layout, reader, receive=part.put, on_rows=meter)
            meter(len(captured.labels), finished=True)
            rows = reader.known_rows
            written += part.finish(
                rows.labels, captured.predictions, rows.checksums, rows.fingerprint
            )
            labels.append(captured.labels.numpy())
        self._finish(writer, written)
        self._store = open_store(writer.path)
        return Reading(labels, captured.predictions.numpy())

    def _read_and_add(self, writer: Writer) -> Reading:
        """Hold rows of unknown number, and write them when all have come."""
        job = self._job
        self._held = HeldEmbeddings(job)
        reading = self._held.read()
        written = 0
        for reader, captured in zip(job.readers, self._held.captured, strict=True):
            embeddings = dict(zip(job.layout.names, captured.embeddings, strict=True))
            rows = reader.known_rows
            written += writer.add(
                reader.what,
                embeddings,
                rows.labels,
                captured.predictions,
                rows.checksums,
                rows.fingerprint,
            )
        self._finish(writer, written)
        return reading

    def _finish(self, writer: Writer, written: int) -> None:
        writer.finish(self._job.layout.names, self._origin)
        self._job.note(f"{human(written)} kept in {writer.path}")
