"""What does not fit into workers' memory, on disks: each worker's in a folder of its own."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pdepth.embeddings.collect import Embeddings
from pdepth.embeddings.recompute import RecomputedEmbeddings
from pdepth.embeddings.spilled import SpilledEmbeddings
from pdepth.embeddings.spilling import AUTO, check_spill, choose_spill
from pdepth.io.embedding_store import Origin
from pdepth.io.spill_folder import SpillFolder


@dataclass(frozen=True)
class WorkersSpill:
    """How workers spill.

    spill: a folder, which each of their machines has, or "auto". run_dir: of the call, or None.
    name: of the folders, but for the worker's number. origin: what embeddings are of.
    """

    spill: str
    run_dir: str | None
    name: str
    origin: Origin

    @classmethod
    def of(
        cls,
        spill: str | os.PathLike[str] | None,
        run_dir: str | os.PathLike[str] | None,
        origin: Origin,
    ) -> WorkersSpill | None:
        """Of the arguments of a call. Raises TypeError for what is no folder."""
        if spill is None:
            return None
        if spill != AUTO:
            spill = os.path.abspath(spill)  # workers have working directories of their own
        run = None if run_dir is None else os.path.abspath(run_dir)
        disk = Path()
        folder = SpillFolder.of(disk, run) if run else SpillFolder.temporary(disk)
        return cls(os.fspath(spill), run, folder.name, origin)

    @property
    def folder(self) -> SpillFolder:
        """On this machine's disk, without a worker's number."""
        if self.spill != AUTO:
            return SpillFolder(Path(self.spill), self.name)
        shared = self.run_dir is not None and Path(self.run_dir).is_dir()
        return SpillFolder(Path(self.run_dir or "" if shared else tempfile.gettempdir()), self.name)

    def embeddings(self, worker: int, again: RecomputedEmbeddings) -> Embeddings:
        """Of a worker's rows, which do not fit: on disk what memory does not hold, or, of "auto",
        computed again where that is faster."""
        check_spill(self.spill, None)
        planner, folder = again.planner, self.folder.of_worker(worker)
        job = planner.job
        taken = choose_spill(job, self.spill, folder, planner.search_rate, planner.asked)
        return again if taken is None else SpilledEmbeddings(job, taken, self.origin, again)
