"""Locks of files: one process at a time, and none is held by one that has ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"  # of a directory, within it


@contextmanager
def locked(
    path: Path, what: str, *, wait: float = 0.0, then: str = "wait, or use another directory"
) -> Iterator[None]:
    """Hold the lock file `path`; the system releases it however the process ends.

    Its holder removes the file in the end, where the system lets it. what: the sentence's first
    words, "run_dir: DIR". wait: seconds.

    Raises BlockingIOError where another process holds it all that time, and OSError on a file
    system that cannot lock.
    """
    from filelock import Timeout

    try:
        lock = _lock_of(path)
        _acquire(lock, wait)
        while not _is_current(lock, path):  # but a file that its last holder has removed
            lock.release()
            _acquire(lock, wait)
    except Timeout:
        raise BlockingIOError(f"{what} is in use by another process; {then}.") from None
    except (OSError, NotImplementedError) as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise _cannot_lock(what, error) from None
    try:
        yield
    finally:
        with suppress(FileNotFoundError, PermissionError):  # some keep files that are open
            path.unlink()
        lock.release()


def _is_current(lock: BaseFileLock, path: Path) -> bool:
    """Whether the file that is locked has the name by which others find it."""
    descriptor = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    if descriptor is None or os.name != "posix":
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock_of(path: Path) -> BaseFileLock:
    """A lock of the system's own, where there is one."""
    from filelock import FileLock

    try:
        return FileLock(path, thread_local=False, fallback_to_soft=False)
    except TypeError:  # of versions that do not ask; they may place a mark instead
        return FileLock(path, thread_local=False)


def _acquire(lock: BaseFileLock, seconds: float) -> None:
    """Acquire it; refuses a mark in its place, which would stay when a process is killed."""
    from filelock import SoftFileLock

    lock.acquire(timeout=seconds)
    if isinstance(lock, SoftFileLock):  # as filelock makes of it where there is no flock
        lock.release()
        raise NotImplementedError("this system has no locks")


def _cannot_lock(what: str, reason: Exception) -> OSError:
    return OSError(
        f"{what} is on a file system that cannot lock files ({reason}), where two processes could "
        "write over each other; use a directory on another disk."
    )
