"""The .npy files of a store: written chunk by chunk with checksums, mapped, and checked again."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.rows import Rows, numpy_type
from pdepth.arrays.shards import Shard, Shards
from pdepth.io.atomic import disk

NOTHING_KEPT = "nothing was kept"
CHUNK_BYTES = 1 << 24  # bytes that are written, or checked, at a time


class ArrayFile:
    """One array's file, written from its first row to its last; bfloat16 as its bits."""

    def __init__(self, folder: Path, name: str, kind: str, shape: tuple[int, ...]) -> None:
        self.folder, self.name, self.kind, self.shape = folder, name, kind, shape
        self.size, self.crcs = 0, [0]
        header = io.BytesIO()
        about = {
            "descr": np.lib.format.dtype_to_descr(numpy_type(kind)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(header, about)
        with disk(folder, NOTHING_KEPT):
            self.file = (folder / name).open("wb")
            self._put(header.getvalue())

    def write(self, rows: Rows) -> None:
        array: NDArray[Any] = np.ascontiguousarray(rows.on_host().array)
        content = array.reshape(-1).view(np.uint8).data
        with disk(self.folder, NOTHING_KEPT):
            for begin in range(0, len(content), CHUNK_BYTES):
                self._put(content[begin : begin + CHUNK_BYTES])

    def close(self) -> dict[str, Any]:
        """Write all to the disk; returns the manifest's entry."""
        with disk(self.folder, NOTHING_KEPT), self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        about = {"file": self.name, "dtype": self.kind, "shape": list(self.shape)}
        return about | {"bytes": self.size, "chunk_bytes": CHUNK_BYTES, "crc32": self.crcs}

    def _put(self, block: bytes | memoryview) -> None:
        self.file.write(block)
        while block:
            room = len(self.crcs) * CHUNK_BYTES - self.size
            part, block = block[:room], block[room:]
            self.crcs[-1] = zlib.crc32(part, self.crcs[-1])
            self.size += len(part)
            if len(part) == room:
                self.crcs.append(0)


def check_content(path: Path, about: Mapping[str, Any]) -> None:
    """Read a file and compare its checksums (CRC-32) with the manifest's entry.

    Raises ValueError that says where it has changed.
    """
    size, crcs = about["bytes"], about["crc32"]
    if isinstance(crcs, int):  # version 1 has one for the whole
        crcs, step = [crcs], size
    else:
        step = about["chunk_bytes"]
    with path.open("rb") as file:
        for number, expected in enumerate(crcs):
            begin, crc, left = number * step, 0, min(step, size - number * step)
            while block := file.read(min(CHUNK_BYTES, left)):
                crc, left = zlib.crc32(block, crc), left - len(block)
            if crc != expected or left:
                raise ValueError(
                    f"{path}: expected checksum {expected:08x} as it was written, got {crc:08x} in "
                    f"bytes {begin}-{min(begin + step, size) - 1}."
                )


def mapped(folder: Path, about: Mapping[str, Any]) -> Any:
    """A file's array as a memory map whose changes stay in memory; its header is checked."""
    path = folder / str(about["file"])
    shape, dtype = tuple(about["shape"]), numpy_type(about["dtype"])
    array = np.memmap(path, dtype, "c", _checked_offset(path, about), shape)
    if about["dtype"] != "bfloat16":
        return array
    import torch

    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def source(folder: Path, about: Mapping[str, Any]) -> Shards:
    """As `mapped`, but read slice by slice: a map's pages would count as this process's memory."""
    path, kind = folder / str(about["file"]), str(about["dtype"])
    offset = _checked_offset(path, about)
    return Shards([Shard(str(path), tuple(about["shape"]), kind, numpy_type(kind), path, offset)])


def loaded(folder: Path, about: Mapping[str, Any]) -> NDArray[Any]:
    """As `mapped`, of a small file whose content is checked at once."""
    array: NDArray[Any] = mapped(folder, about)
    check_content(folder / str(about["file"]), about)
    return array


def _checked_offset(path: Path, about: Mapping[str, Any]) -> int:
    """Where a file's array begins, if its size and header are those of the manifest's entry."""
    _check_size(path, about["bytes"])
    shape, dtype = tuple(about["shape"]), numpy_type(about["dtype"])
    with path.open("rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError
            header = np.lib.format.read_array_header_1_0(file)
        except Exception:  # whatever a damaged header makes of the parser
            raise ValueError(
                f"{path}: expected a .npy file, got one that cannot be read."
            ) from None
        offset = file.tell()
    expected = shape, False, dtype
    if header != expected:
        differs = next(place for place in range(3) if header[place] != expected[place])
        name = ("shape", "Fortran order", "type")[differs]
        raise ValueError(f"{path}: expected {name} {expected[differs]}, got {header[differs]}.")
    if offset + int(np.prod(shape)) * dtype.itemsize != about["bytes"]:
        raise ValueError(f"{path}: expected {about['bytes']} bytes, got a header of {offset}.")
    return offset


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of {size} bytes, got none.")
    if (actual := path.stat().st_size) != size:
        raise ValueError(f"{path}: expected {size} bytes, got {actual}.")
