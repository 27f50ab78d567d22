"""Embeddings that do not all fit: the last in memory, the others on disk while the run lasts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.embeddings.collect import Job, Reading, SpanRows
from pdepth.embeddings.kept import KeptEmbeddings
from pdepth.embeddings.recompute import RecomputedEmbeddings
from pdepth.embeddings.spilling import Spill
from pdepth.io.atomic import remove_folder
from pdepth.io.embedding_store import Origin, is_store, open_store, tidy, writing
from pdepth.io.spill_folder import STORE


class SpilledEmbeddings:
    """See `collect.Embeddings`: from one forward pass, as many of the last probes as fit in memory,
    and those before them in a store on disk, which does not stay.

    A run that resumes searches what an earlier call has left, if it is whole and of the same
    network and data; what that call held in memory, or what is damaged, is computed again.
    """

    def __init__(self, job: Job, spill: Spill, origin: Origin, again: RecomputedEmbeddings) -> None:
        """origin: what the embeddings are of. again: computes them."""
        self._job, self._spill, self._origin, self._again = job, spill, origin, again
        self._stack = ExitStack()
        self._kept: KeptEmbeddings | None = None
        self._store = Path()

    def __enter__(self) -> SpilledEmbeddings:
        self._store = self._stack.enter_context(self._spill.folder.held()) / STORE
        self._stack.enter_context(self._again)
        return self

    def __exit__(self, *error: Any) -> None:
        self._kept = None
        self._stack.__exit__(*error)

    def read(self) -> Reading:
        remove_folder(self._store)  # of other data
        writer = self._stack.enter_context(writing(self._store))
        self._kept = KeptEmbeddings(self._job, writer, self._origin, self._spill.first)
        return self._stack.enter_context(self._kept).read()

    def resume(self, reading: Reading) -> None:
        self._again.resume(reading)
        self._kept = self._of_earlier_call()

    def span(
        self,
        end: int,
        active: NDArray[np.int64],
        resumed_first: int | None = None,
    ) -> SpanRows:
        kept = self._kept
        if kept is not None and (end <= kept.stored or kept.holds_others):
            try:
                return kept.span(end, active)
            except ValueError as error:
                self._job.note(f"{error} It is computed again")
                self._kept = None
        return self._again.span(end, active, resumed_first)

    def _of_earlier_call(self) -> KeptEmbeddings | None:
        """What an earlier call has left, if it is all there and of the same network and data."""
        if not is_store(self._store):
            return None
        try:
            tidy(self._store)
            store = open_store(self._store)
        except ValueError as error:
            self._job.note(f"{error} It is computed again")
            return None
        stored = len(store.probes)
        fingerprints = [reader.known_rows.fingerprint for reader in self._job.readers]
        found = store.origin, store.probes, [part.fingerprint for part in store.parts]
        if found != (self._origin, self._job.layout.names[:stored], fingerprints):
            self._job.note(f"{self._store} holds others: they are computed again")
            return None
        return KeptEmbeddings(self._job, store, stored=stored)
