"""The .npy files of a store: written chunk by chunk with checksums, mapped, and checked again."""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.rows import Rows, as_bfloat16, numpy_type
from pdepth.arrays.shards import Shard, Shards
from pdepth.io.atomic import disk

NOTHING_KEPT = "nothing was kept"
CHUNK_BYTES = 1 << 24  # bytes that are written, or checked, at a time


@dataclass(frozen=True)
class Piece:
    """Bytes of a file that follow each other, by the checksums of what they have of each of its
    chunks.

    begin: the first byte. crcs, sizes: CRC-32 and bytes, chunk by chunk.
    """

    begin: int
    crcs: list[int]
    sizes: list[int]


class PieceWriter:
    """Writes bytes of a file from one on, and takes their checksums."""

    def __init__(self, file: BinaryIO, begin: int = 0) -> None:
        self.file = file
        self.piece: Piece = Piece(begin, [0], [0])
        self._end = begin
        file.seek(begin)

    def write(self, block: bytes | memoryview) -> None:
        self.file.write(block)
        crcs, sizes = self.piece.crcs, self.piece.sizes
        while block:
            room = CHUNK_BYTES - self._end % CHUNK_BYTES
            part, block = block[:room], block[room:]
            crcs[-1], sizes[-1] = zlib.crc32(part, crcs[-1]), sizes[-1] + len(part)
            self._end += len(part)
            if len(part) == room:
                crcs.append(0)
                sizes.append(0)

    def write_rows(self, rows: Rows) -> None:
        """Rows (n, ...); bfloat16 as its bits."""
        array: NDArray[Any] = np.ascontiguousarray(rows.on_host().array)
        content = array.reshape(-1).view(np.uint8).data
        for begin in range(0, len(content), CHUNK_BYTES):
            self.write(content[begin : begin + CHUNK_BYTES])

    def close(self) -> Piece:
        """Have all on the disk."""
        with self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        return self.piece


def header_of(kind: str, shape: tuple[int, ...]) -> bytes:
    """How a file's array begins."""
    header = io.BytesIO()
    about = {
        "descr": np.lib.format.dtype_to_descr(numpy_type(kind)),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def byte_of(kind: str, shape: tuple[int, ...], row: int) -> int:
    """Where a row begins in a file, or, of the row behind the last, where the file ends."""
    return len(header_of(kind, shape)) + row * math.prod(shape[1:]) * numpy_type(kind).itemsize


def entry_of(name: str, kind: str, shape: tuple[int, ...], crcs: list[int]) -> dict[str, Any]:
    """The manifest's entry of a file."""
    about = {"file": name, "dtype": kind, "shape": list(shape)}
    size = byte_of(kind, shape, shape[0])
    return about | {"bytes": size, "chunk_bytes": CHUNK_BYTES, "crc32": crcs}


def joined(header: bytes, pieces: Sequence[Piece]) -> list[int]:
    """The checksums of a whole file, chunk by chunk, by those of the pieces behind its header."""
    crcs: list[int] = []
    begin = PieceWriter(io.BytesIO())
    begin.write(header)
    for piece in [begin.piece, *sorted(pieces, key=lambda piece: piece.begin)]:
        first = piece.begin // CHUNK_BYTES
        for number, (crc, size) in enumerate(zip(piece.crcs, piece.sizes, strict=True), first):
            if number == len(crcs):
                crcs.append(crc)
            else:
                crcs[number] = crc_of_both(crcs[number], crc, size)
    return crcs


CRC_POLYNOMIAL = 0xEDB88320  # of CRC-32: bit 31 - i is the coefficient of x^i


def crc_of_both(first: int, second: int, size: int) -> int:
    """The CRC-32 of bytes, by that of the first of them and that of the `size` others."""
    factor, square, bits = 1 << 31, 1 << 30, 8 * size  # 1 and x, for x to the power of `bits`
    while bits:
        if bits & 1:
            factor = _product(factor, square)
        square, bits = _product(square, square), bits >> 1
    return _product(factor, first) ^ second


def _product(left: int, right: int) -> int:
    """Of polynomials over the field of two elements, modulo CRC-32's."""
    product = 0
    for place in range(31, -1, -1):
        if left >> place & 1:
            product ^= right
        right = right >> 1 ^ (CRC_POLYNOMIAL if right & 1 else 0)
    return product


class ArrayFile:
    """One array's file, written from its first row to its last; bfloat16 as its bits."""

    folder: Path
    name: str
    kind: str
    shape: tuple[int, ...]

    def __init__(self, folder: Path, name: str, kind: str, shape: tuple[int, ...]) -> None:
        self.folder, self.name, self.kind, self.shape = folder, name, kind, shape
        with disk(folder, NOTHING_KEPT):
            self._writer = PieceWriter((folder / name).open("wb"))
            self._writer.write(header_of(kind, shape))

    def write(self, rows: Rows) -> None:
        with disk(self.folder, NOTHING_KEPT):
            self._writer.write_rows(rows)

    def close(self) -> dict[str, Any]:
        """Write all to the disk; returns the manifest's entry."""
        with disk(self.folder, NOTHING_KEPT):
            piece = self._writer.close()
        return entry_of(self.name, self.kind, self.shape, piece.crcs)


def check_content(path: Path, about: Mapping[str, Any], rows: slice | None = None) -> None:
    """Read a file and compare its checksums (CRC-32) with the manifest's entry.

    rows: of which the chunks are read; None for all. Raises ValueError that says where it has
    changed.
    """
    size, crcs = about["bytes"], about["crc32"]
    if isinstance(crcs, int):  # version 1 has one for the whole
        crcs, step = [crcs], size
    else:
        step = about["chunk_bytes"]
    numbers = range(len(crcs))
    if rows is not None:
        begin, end = (byte_of(about["dtype"], tuple(about["shape"]), row)
                      for row in (rows.start, rows.stop))  # fmt: skip
        numbers = range(begin // step, -(-end // step))
    with path.open("rb") as file:
        file.seek(numbers.start * step)
        for number in numbers:
            begin, crc, left = number * step, 0, min(step, size - number * step)
            while block := file.read(min(CHUNK_BYTES, left)):
                crc, left = zlib.crc32(block, crc), left - len(block)
            if crc != crcs[number] or left:
                raise ValueError(
                    f"{path}: expected checksum {crcs[number]:08x} as it was written, got "
                    f"{crc:08x} in bytes {begin}-{min(begin + step, size) - 1}."
                )


def mapped(folder: Path, about: Mapping[str, Any]) -> Any:
    """A file's array as a memory map whose changes stay in memory; its header is checked."""
    path = folder / str(about["file"])
    shape, dtype = tuple(about["shape"]), numpy_type(about["dtype"])
    array = np.memmap(path, dtype, "c", _checked_offset(path, about), shape)
    return as_bfloat16(array) if about["dtype"] == "bfloat16" else array


def source(folder: Path, about: Mapping[str, Any], rows: slice | None = None) -> Shards:
    """As `mapped`, but read slice by slice: a map's pages would count as this process's memory.

    rows: which of them; None for all.
    """
    path, kind, shape = folder / str(about["file"]), str(about["dtype"]), tuple(about["shape"])
    offset = _checked_offset(path, about)
    if rows is not None:
        offset = byte_of(kind, shape, rows.start)
        shape = (rows.stop - rows.start, *shape[1:])
    return Shards([Shard(str(path), shape, kind, numpy_type(kind), path, offset)])


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
