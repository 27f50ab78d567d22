"""Instruction sets and threads of the cpu backend: what this machine has."""

from __future__ import annotations

import logging
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from struct import unpack_from


def _check_whole() -> None:
    """Raise ImportError where the compiled part is cut short: to load it would end the process.

    An ELF file of 64 bits says in its header where its table of sections ends, which is its end.
    """
    spec = find_spec("pdepth._native")
    if spec is None or spec.origin is None:
        return
    with open(spec.origin, "rb") as file:
        header = file.read(64)
        if len(header) == 64 and header.startswith(b"\x7fELF\x02"):
            (begin,), (size, count) = unpack_from("<Q", header, 40), unpack_from("<HH", header, 58)
            if begin + size * count > file.seek(0, os.SEEK_END):
                raise ImportError("it is cut short")


try:
    _check_whole()
    from pdepth import _native
except ImportError as _error:  # for another Python, damaged, or not there
    _folder = Path(__file__).parent
    _found = [file.name for file in _folder.glob("_native.*") if file.suffix != ".pyi"] or ["none"]
    _reason = f", which cannot be loaded ({_error})" if _error.name != "pdepth" else ""
    raise ImportError(
        f"pdepth: expected its compiled part for {sys.implementation.cache_tag} in {_folder}, got "
        f"{', '.join(_found)}{_reason}; install it anew: {sys.executable} -m pip install "
        "--force-reinstall --no-deps pdepth.",
        name="pdepth._native",
    ) from None

SIMD = "PDEPTH_SIMD"
HEADROOM = 1 << 20  # bytes that are free, at least, where compiled code or a thread begins
USUAL_STACK = 1 << 23

log: logging.Logger = logging.getLogger("pdepth")


def simd_levels() -> dict[str, bool]:
    """The compiled levels, from the plainest to the fastest, and whether this machine runs each."""
    return dict(_native.levels())


def simd_level() -> str:
    """The level in use: the fastest one, or that which the environment variable PDEPTH_SIMD names.

    Raises ValueError for a level that does not exist or that this machine lacks.
    """
    levels = simd_levels()
    usable = [name for name, runs in levels.items() if runs]
    name = os.environ.get(SIMD)
    if not name:
        if usable[-1] == "portable":
            _say_portable()
        return usable[-1]
    if name not in levels:
        raise ValueError(f"{SIMD}: expected one of {', '.join(levels)}, got {name}.")
    if name not in usable:
        raise ValueError(
            f"{SIMD}: expected one of {', '.join(usable)} on this machine, got {name}."
        )
    return name


@cache
def _say_portable() -> None:
    """Say once that a processor of a kind that has faster levels has none of them."""
    from platform import machine

    if machine().lower() in ("x86_64", "amd64"):
        log.info(
            "The cpu backend runs at level portable: this build or processor has none of the "
            "faster levels, which need AVX2 and FMA. Votes are the same, and take longer."
        )


@contextmanager
def default_arithmetic() -> Iterator[None]:
    """Round to nearest and keep subnormal numbers, whatever this thread had set before.

    torch.set_flush_denormal(True), for one, changes weights, comparisons and sums of NumPy's.
    """
    before = _native.arithmetic()
    try:
        yield
    finally:
        _native.arithmetic(before)


class ForkLock:
    """A lock that is free in a forked process, whichever of its parent's threads held it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Be free."""
        self._lock = threading.Lock()


_LOCKS: weakref.WeakSet[ForkLock] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a process that was forked, which has one thread: it holds none."""
    for lock in _LOCKS:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def check_headroom(threads: int = 0) -> None:
    """Raise MemoryError where there is no room for so many more threads, and what one call keeps.

    Where memory is limited, as by RLIMIT_AS, compiled code that finds none when it throws its first
    exception ends the process, and a thread of Python's that finds none never says that it began.
    """
    try:
        mmap.mmap(-1, HEADROOM + threads * (HEADROOM + _stack_bytes())).close()
    except (OSError, ValueError, OverflowError):
        raise MemoryError(
            "The limit of this process's memory leaves too little for another thread."
        ) from None


def _stack_bytes() -> int:
    """What a new thread takes for its stack."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
        unlimited = limit == resource.RLIM_INFINITY
    except ImportError:  # not on every system
        unlimited = True
    return USUAL_STACK if unlimited else limit


def default_threads() -> int:
    """This process's share of the cores: its affinity, and its control group's quota if any."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores
