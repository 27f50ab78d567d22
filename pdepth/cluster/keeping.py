"""A store that keeps the embeddings of all workers: each writes its rows into the same files."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.memory import human
from pdepth.embeddings.capture import capture
from pdepth.embeddings.collect import Job, Reading, SpanRows, span_rows
from pdepth.embeddings.dataset import Rows as DataRows
from pdepth.io.array_files import Piece
from pdepth.io.embedding_store import EmbeddingStore, Origin, Writer
from pdepth.io.shared_store import SharedPart, SharedStore, StoredRows


@dataclass(frozen=True, eq=False)
class Written:
    """What a worker wrote of a part: of each probe's file its piece; and predictions (n,)."""

    pieces: list[Piece]
    predictions: NDArray[np.int64]


class KeptShard:
    """See `collect.Embeddings`: a worker's rows of a store, which is written or was finished.

    store: as it is now; it is finished once all workers have written.
    """

    store: SharedStore

    def __init__(self, job: Job, worker: int, rows: dict[str, slice], store: SharedStore) -> None:
        """rows: of each part that has some, by its name."""
        self._job, self._worker, self._rows, self.store = job, worker, rows, store
        self._is_own = False  # written by this process
        self._opened: list[dict[str, StoredRows]] = []
        self.written: list[Written] = []

    def __enter__(self) -> KeptShard:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def read(self) -> Reading:
        job = self._job
        self._check_is_here()
        self.written = []
        labels: list[NDArray[np.int64]] = []
        for reader, (part, rows) in zip(job.readers, self._rows.items(), strict=True):
            writer = self.store.writer_of(part, rows.start)
            captured = capture(job.layout, reader, probes=[], receive=writer.put)
            predictions: NDArray[np.int64] = captured.predictions.numpy()
            self.written.append(Written(writer.close(), predictions))
            labels.append(captured.labels.numpy())
        self._is_own = True
        return Reading(labels, predictions)

    def resume(self, reading: Reading) -> None: ...

    def span(
        self,
        end: int,
        active: NDArray[np.int64],
        resumed_first: int | None = None,
    ) -> SpanRows:
        job, names = self._job, self._job.layout.names
        if not self._opened:
            self._check_is_here()
            self._opened = [self.store.opened(part) for part in self._rows]
        sides = list(zip(self._opened, self._rows.values(), strict=True))
        probes = range(end)
        if not self._is_own:  # one probe at a time: its values are checked when they are searched
            probes = range(end - 1, end)
            for part, rows in sides:
                part[names[end - 1]].check(rows)
        queries = np.arange(sides[-1][1].stop - sides[-1][1].start)
        if job.fits:
            maps = [[part[names[probe]].mapped(rows) for probe in probes] for part, rows in sides]
            return span_rows(job, probes, maps, queries, job.search_memory(recomputed=False))
        sources = [[part[names[probe]].source(rows) for probe in probes] for part, rows in sides]
        return span_rows(job, probes, sources, queries, job.budget.size)

    def _check_is_here(self) -> None:
        if not self.store.is_here:
            raise ValueError(
                f"keep_embeddings: expected a directory that all machines share, got "
                f"{self.store.path}, which is another, or none, at worker {self._worker} on "
                f"{platform.node()}; use one on a shared file system, or leave keep_embeddings out."
            )


class SharedKeeping:
    """A store of all workers, from where the call is made."""

    store: SharedStore

    def __init__(self, job: Job, target: Writer | EmbeddingStore, origin: Origin | None) -> None:
        """origin: what embeddings are of; for a store that is written."""
        self._job, self._origin = job, origin or Origin()
        self._writer = None if isinstance(target, EmbeddingStore) else target
        if isinstance(target, EmbeddingStore):
            self.store = SharedStore.of(target.path)

    def begin(self) -> None:
        """Make the files, as all workers will find them."""
        job, layout = self._job, self._job.layout
        assert self._writer is not None
        types = [str(dtype).removeprefix("torch.") for dtype in layout.dtypes]
        probes = dict(zip(layout.names, zip(types, layout.widths, strict=True), strict=True))
        parts = [SharedPart(r.what, r.rows or 0, probes) for r in job.readers]
        self.store = SharedStore.begun(self._writer, parts)

    def end(self, rows: Sequence[DataRows], written: Sequence[dict[str, Written]]) -> None:
        """Finish the store. rows: of support and queries. written: by each worker, by part."""
        job, writer = self._job, self._writer
        assert writer is not None
        size = 0
        for reader, of_part in zip(job.readers, rows, strict=True):
            pieces = [parts[reader.what] for parts in written if reader.what in parts]
            predictions = np.concatenate([piece.predictions for piece in pieces])
            size += writer.finish_part(
                reader.what,
                job.layout.names,
                self.store.entries(reader.what, [piece.pieces for piece in pieces]),
                (of_part.labels, predictions, of_part.checksums),
                of_part.fingerprint,
            )
        writer.finish(job.layout.names, self._origin)
        self.store = replace(SharedStore.of(writer.path), parts=self.store.parts)
        job.note(f"{human(size)} kept in {writer.path}")
