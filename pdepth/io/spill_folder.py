"""Folders on a disk for what does not fit into memory while a run lasts.

DISK/.pdepth-spill-RUN/         what a run with a journal spills, which it finds again
DISK/.pdepth-spill-tmp-RANDOM/  what another spills; the next one removes what was left
DISK/.pdepth-spill-...-NUMBER/  of either, what one worker of a cluster spills
DISK/.pdepth-spill.lock         while such folders come and go
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from pdepth.io.embedding_store import is_store
from pdepth.io.locks import LOCK, locked

PREFIX, TEMPORARY = ".pdepth-spill", ".pdepth-spill-tmp-"
STORE = "embeddings"  # within a folder
MEASURED_BYTES = 1 << 26  # that are written and read to know a disk's speed
LONGEST_WAIT = 60.0  # seconds that another process may take to remove what was left


@dataclass(frozen=True)
class SpillFolder:
    """A folder to be, and the folder `disk` that it will be in, a run's own or an existing one.

    name: of the folder; the same for every call of a run with a journal, "" for any other.
    """

    disk: Path
    name: str = ""

    @classmethod
    def of(cls, disk: Path, run_dir: str | os.PathLike[str] | None) -> SpillFolder:
        """On a disk, for a run whose journal is in `run_dir`, or for one that has none."""
        if run_dir is None:
            return cls(disk)
        run = blake2b(os.fsencode(Path(run_dir).resolve()), digest_size=8).hexdigest()
        return cls(disk, f"{PREFIX}-{run}")

    @classmethod
    def temporary(cls, disk: Path) -> SpillFolder:
        """One that has a name of its own, by which several processes know it."""
        return cls(disk, f"{TEMPORARY}{secrets.token_hex(4)}")

    def of_worker(self, number: int) -> SpillFolder:
        """That of one of several processes, which it finds again when it is started again."""
        return replace(self, name=f"{self.name}-{number}")

    @property
    def lasts(self) -> bool:
        """Whether a later call may find it, of the run whose name it has."""
        return bool(self.name) and not self.name.startswith(TEMPORARY)

    def discard_all(self) -> None:
        """Remove those of its workers that are here and that no process holds."""
        for path in self.disk.glob(f"{self.name}-*"):
            with suppress(OSError), locked(path / LOCK, str(path)):
                shutil.rmtree(path, ignore_errors=True)

    @property
    def free(self) -> int:
        """Bytes that it may take: those that are free, and those that an earlier call has left."""
        taken = 0
        if self.name:
            files = (self.disk / self.name).glob("**/*")
            taken = sum(file.stat().st_size for file in files if file.is_file())
        return shutil.disk_usage(existing(self.disk)).free + taken

    @property
    def holds_store(self) -> bool:
        """Whether an earlier call has left all that it had to spill."""
        return bool(self.name) and is_store(self.disk / self.name / STORE)

    @contextmanager
    def held(self) -> Iterator[Path]:
        """The folder, made here, which no other process uses meanwhile.

        It is removed in the end; after an error one that has a name and a finished store stays.
        Raises BlockingIOError where another process holds it, and OSError on a file system that
        cannot lock.
        """
        path = self.disk / (self.name or f"{TEMPORARY}{secrets.token_hex(4)}")
        with ExitStack() as stack:
            with locked(self.disk / f"{PREFIX}.lock", f"spill: {self.disk}", wait=LONGEST_WAIT):
                _remove_abandoned(self.disk)
                path.mkdir(exist_ok=True)
                stack.callback(_remove_if_empty, path)
                stack.enter_context(locked(path / LOCK, f"spill: {path}"))
            try:
                yield path
            except BaseException:
                if not self.holds_store:
                    shutil.rmtree(path / STORE, ignore_errors=True)
                raise
            shutil.rmtree(path / STORE, ignore_errors=True)


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


def _remove_abandoned(disk: Path) -> None:
    """Remove what processes have left that were killed, and that no later call will find."""
    for path in disk.glob(f"{TEMPORARY}*"):
        with suppress(OSError), locked(path / LOCK, str(path)):
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes a second of a disk."""

    write: float
    read: float


_SPEEDS: dict[int, DiskSpeed] = {}  # by device


def disk_speed(folder: Path) -> DiskSpeed:
    """How fast a folder's disk is, measured once in a process, with a file that does not stay.

    Raises OSError where the disk has no room for it.
    """
    device = folder.stat().st_dev
    if device not in _SPEEDS:
        _SPEEDS[device] = _measured(folder)
    return _SPEEDS[device]


def _measured(folder: Path) -> DiskSpeed:
    block = np.random.default_rng(0).bytes(1 << 22)  # such as no file system makes smaller
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        begin = time.perf_counter()
        for _ in range(MEASURED_BYTES // len(block)):
            file.write(block)
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):  # so that it is the disk that is read, and not memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        read_from, buffer = time.perf_counter(), bytearray(len(block))
        while file.readinto(buffer):
            pass
        seconds = written - begin, time.perf_counter() - read_from
    return DiskSpeed(*(MEASURED_BYTES / max(each, 1e-9) for each in seconds))


def existing(folder: Path) -> Path:
    """A folder, or the first above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def is_memory(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a folder's files are in memory, as in a tmpfs. `mounts` is an argument for tests."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    found, kind = -1, ""
    for line in lines:
        _, point, of_point, *_ = line.split()
        place = Path(point.replace("\\040", " "))
        if folder.resolve().is_relative_to(place) and len(place.parts) >= found:
            found, kind = len(place.parts), of_point
    return kind in ("tmpfs", "ramfs")
