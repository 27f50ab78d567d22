"""Embeddings on disk: written as the network runs; searched as maps of the files where all fit into
memory, else read within it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pdepth.arrays.memory import human
from pdepth.embeddings.capture import capture
from pdepth.embeddings.collect import HeldEmbeddings, Job, Reading, SpanRows, span_rows
from pdepth.io.embedding_store import EmbeddingStore, Origin, Writer, open_store


class KeptEmbeddings:
    """See `collect.Embeddings`: in a store, which is written or, by an earlier run, finished.

    The last probes may be held in memory instead. Rows of unknown number are held until all have
    come.
    """

    def __init__(
        self,
        job: Job,
        target: Writer | EmbeddingStore,
        origin: Origin | None = None,
        stored: int | None = None,
    ) -> None:
        """origin: what the embeddings are of, for a store that is written. stored: how many of the
        probes, from the first on, are in the store; None for all."""
        self._job, self._origin = job, origin or Origin()
        self.stored: int = len(job.layout.probes) if stored is None else stored
        self._is_lasting = stored is None  # what was spilled is removed after the call
        self._in_memory: list[list[torch.Tensor]] = []  # the others' values, of each reader
        self._writer = None if isinstance(target, EmbeddingStore) else target
        self._store = target if isinstance(target, EmbeddingStore) else None
        self._is_own = self._store is None  # written in this call
        self._held: HeldEmbeddings | None = None

    def __enter__(self) -> KeptEmbeddings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held, self._in_memory = None, []

    @property
    def holds_others(self) -> bool:
        """Whether the probes that are not in the store are held in memory."""
        return bool(self._in_memory)

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
        parts, names = self._store.parts, job.layout.names
        queries = np.arange(len(parts[-1].labels))
        if end > self.stored:
            probes = range(self.stored, end)
            return span_rows(job, probes, self._in_memory, queries, job.search_memory(True))
        self._in_memory = []
        probes = range(end)
        if not self._is_own:  # one probe at a time: its values are checked when they are searched
            probes = range(end - 1, end)
            self._store.check(names[end - 1])
        if job.fits:
            maps = [[part.embeddings[names[probe]] for probe in probes] for part in parts]
            return span_rows(job, probes, maps, queries, job.search_memory(recomputed=False))
        sides = zip(*(self._store.sources(names[probe]) for probe in probes), strict=True)
        return span_rows(job, probes, list(sides), queries, job.budget.size)

    def _write(self, writer: Writer) -> Reading:
        """Write values as they come; what is searched are maps of the files."""
        job, layout = self._job, self._job.layout
        types = [str(dtype).removeprefix("torch.") for dtype in layout.dtypes]
        kinds = zip(types, layout.widths, strict=True)
        shapes = dict(list(zip(layout.names, kinds, strict=True))[: self.stored])
        others = range(self.stored, len(layout.names))
        labels: list[NDArray[np.int64]] = []
        written = 0
        for reader in job.readers:
            meter = job.meter(reader, reader.rows)
            part = writer.growing(reader.what, shapes, reader.rows or 0)
            captured = capture(layout, reader, probes=others, receive=part.put, on_rows=meter)
            meter(len(captured.labels), finished=True)
            rows = reader.known_rows
            written += part.finish(
                rows.labels, captured.predictions, rows.checksums, rows.fingerprint
            )
            labels.append(captured.labels.numpy())
            self._in_memory.append(captured.embeddings)
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
        writer.finish(self._job.layout.names[: self.stored], self._origin)
        verb = "kept in" if self._is_lasting else "spilled to"
        self._job.note(f"{human(written)} {verb} {writer.path}")
