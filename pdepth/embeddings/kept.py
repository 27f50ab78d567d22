"""Embeddings on disk: written as the network runs, and searched as memory maps of the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.memory import human
from pdepth.embeddings.capture import capture
from pdepth.embeddings.collect import HeldEmbeddings, Job, Reading, SpanRows, span_rows
from pdepth.io.embedding_store import EmbeddingStore, Fingerprint, Writer, open_store


class KeptEmbeddings:
    """See `collect.Embeddings`: in a store, which is written or, by an earlier run, finished.

    Rows of unknown number are held in memory until all have come.
    """

    def __init__(
        self,
        job: Job,
        target: Writer | EmbeddingStore,
        network: str = "",
        meta: Mapping[str, str] | None = None,
    ) -> None:
        """network: fingerprint of the network's weights. meta: free text, for the store.

        Raises ValueError for a finished store of another network, or of other probes.
        """
        self._job, self._network, self._meta = job, network, meta or {}
        self._writer = None if isinstance(target, EmbeddingStore) else target
        self._store = target if isinstance(target, EmbeddingStore) else None
        if self._store is not None:
            self._check_same(self._store)
        self._held: HeldEmbeddings | None = None

    def __enter__(self) -> KeptEmbeddings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held = None

    def read(self) -> Reading:
        assert self._writer is not None  # a finished store comes with a reading
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
        parts = [self._store.support]
        if not job.own_rows:
            assert self._store.queries is not None
            parts.append(self._store.queries)
        values = [list(part.embeddings.values()) for part in parts]
        queries = np.arange(len(parts[-1].labels))
        return span_rows(job, range(end), values, queries, job.search_memory(recomputed=False))

    def _write(self, writer: Writer) -> Reading:
        """Write values as they come; what is searched are maps of the files."""
        job, layout = self._job, self._job.layout
        types = [str(dtype).removeprefix("torch.") for dtype in layout.dtypes]
        shapes = dict(zip(layout.names, zip(types, layout.widths, strict=True), strict=True))
        labels: list[NDArray[np.int64]] = []
        written = 0
        for reader in job.readers:
            meter = job.meter(reader, reader.rows)
            fingerprint = Fingerprint()
            reader.on_batch = fingerprint
            part = writer.growing(reader.what, shapes, reader.rows or 0)
            captured = capture(layout, reader, receive=part.put, on_rows=meter)
            meter(len(captured.labels), finished=True)
            written += part.finish(captured.labels, captured.predictions, fingerprint.hexdigest())
            labels.append(captured.labels.numpy())
        self._finish(writer, written)
        self._store = open_store(writer.path)
        return Reading(labels, captured.predictions.numpy())

    def _read_and_add(self, writer: Writer) -> Reading:
        """Hold rows of unknown number, and write them when all have come."""
        job = self._job
        fingerprints = [Fingerprint() for _ in job.readers]
        for reader, fingerprint in zip(job.readers, fingerprints, strict=True):
            reader.on_batch = fingerprint
        self._held = HeldEmbeddings(job)
        reading = self._held.read()
        written = 0
        for reader, captured, fingerprint in zip(
            job.readers, self._held.captured, fingerprints, strict=True
        ):
            embeddings = dict(zip(job.layout.names, captured.embeddings, strict=True))
            written += writer.add(
                reader.what,
                embeddings,
                captured.labels,
                captured.predictions,
                fingerprint.hexdigest(),
            )
        self._finish(writer, written)
        return reading

    def _check_same(self, store: EmbeddingStore) -> None:
        """Raise ValueError where a store's embeddings are not those of this job."""
        layout = self._job.layout
        widths = [values.shape[1] for values in store.support.embeddings.values()]
        compared = {
            "the network": (store.fingerprint, self._network),
            "the version of placement": tuple(
                meta.get("placement version", "1") for meta in (store.meta, self._meta)
            ),
            "the list of probes": (store.probes, layout.names),
            "the pooling": (
                (widths, store.meta.get("probes")),
                (list(layout.widths), self._meta.get("probes")),
            ),
        }
        for name, (of_store, of_job) in compared.items():
            if of_store != of_job:
                short = all(
                    isinstance(value, str) and len(value) < 9 for value in (of_store, of_job)
                )
                change = f": {of_store} then, {of_job} now" if short else ""
                raise ValueError(
                    f"keep_embeddings: expected the store of this run, got {store.path}, of which "
                    f"{name} differs{change}; use another run_dir to begin anew."
                )

    def _finish(self, writer: Writer, written: int) -> None:
        writer.finish(self._job.layout.names, self._network, self._meta)
        self._job.note(f"{human(written)} kept in {writer.path}")
