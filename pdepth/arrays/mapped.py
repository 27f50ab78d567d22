"""Arrays that are mapped files: one that is cut short while it is read is an error, not a crash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pdepth import _native
from pdepth.arrays.rows import Rows, is_torch

Named = tuple[str, Any]
"""What an error calls an array, and the array."""


@contextmanager
def watched(arrays: Sequence[Named]) -> Iterator[None]:
    """Read arrays, whoever does it and in whatever thread.

    A file that becomes shorter than its map is noticed as its missing pages are read, which would
    end the process by SIGBUS, and the block's result, made of zeros, is an error. One that is cut
    and grows again, or is written to in place, is not noticed, nor is a map where the system has no
    such signal.

    Raises ValueError that names the file.
    """
    mapped = [(what, array) for what, array in arrays if may_be_mapped(array)]
    if not mapped:
        yield
        return
    watch = _native.Watch([_extent(array) for _, array in mapped])
    try:
        if watch.cut < 0:
            yield
    finally:
        watch.close()
        if watch.cut >= 0:
            raise _cut_short(*mapped[watch.cut]) from None


def may_be_mapped(array: Any) -> bool:
    """Whether an array's memory is that of another object than NumPy's own."""
    if is_torch(array):
        return bool(array.device.type == "cpu" and array.layout == _strided())
    return isinstance(array, np.ndarray) and _owner(array).base is not None


def unmapped(rows: Rows) -> Rows:
    """Rows that no file's map holds: in NumPy's own memory where they may be. Call it `watched`."""
    array, norms = rows.array, rows.norms
    if not is_torch(array) and may_be_mapped(array):
        array = np.array(array)
    if norms is not None and may_be_mapped(norms):
        norms = np.array(norms)
    return Rows(array, rows.type, norms)


def _owner(array: Any) -> Any:
    """The array that an array is a view of, in the end."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _strided() -> Any:
    import torch

    return torch.strided


def _extent(array: Any) -> tuple[int, int]:
    """The addresses of an array's first byte and of that after its last."""
    if is_torch(array):
        size = array.element_size()
        begin, strides = array.data_ptr(), [step * size for step in array.stride()]
    else:
        begin, strides, size = array.__array_interface__["data"][0], array.strides, array.itemsize
    if 0 in array.shape:
        return begin, begin
    steps = [(length - 1) * step for length, step in zip(array.shape, strides, strict=True)]
    first = begin + sum(step for step in steps if step < 0)
    return first, begin + sum(step for step in steps if step > 0) + size


def _cut_short(what: str, array: Any) -> ValueError:
    file = _file_of(array)
    return ValueError(f"{what}: {file or 'the file of its map'} became shorter while it was read.")


def _file_of(array: Any) -> str | None:
    """The name of an array's file: its own word, or that of Linux of the pages that are left."""
    first, last = _extent(array)
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and array.filename is not None:
            return str(array.filename)
        array = array.base
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(maxsplit=5)
        begin, end = (int(address, 16) for address in fields[0].split("-"))
        if begin < last and first < end and len(fields) == 6 and fields[5].startswith("/"):
            return fields[5]
    return None
