"""One file of named arrays that is mapped when it is read, with a checksum of each."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.mapped import watched
from pdepth.io.atomic import check_path, disk, replacing

MAGIC = b"pdepth arrays\n"
ALIGNMENT = 64
CHUNK_BYTES = 1 << 24  # that are written, or checked, at a time


def write_bundle(
    path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write arrays, and `about`, which JSON takes, to a file that appears when it is whole.

    Raises:
        OSError: it cannot be written; a file that was there before is as it was.
        ValueError: an array is a map of a file that became shorter.
    """
    full = disk(check_path(path), "nothing was written")
    mapped = watched([(f"{path} ({name})", array) for name, array in arrays.items()])
    with full, replacing(path) as temporary, mapped, temporary.open("wb") as file:
        file.write(_header(about, arrays))
        for array in arrays.values():
            for chunk in _chunks(array):
                file.write(chunk)
            file.write(bytes(-array.nbytes % ALIGNMENT))


def _header(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What stands before the arrays: MAGIC, the length and the checksum of JSON, and this."""
    entries, place = {}, 0
    for name, array in arrays.items():
        entries[name] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "place": place,
            "crc32": checksum(array),
        }
        place += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    header = json.dumps({"about": dict(about), "arrays": entries}).encode()
    header += b" " * (-(len(MAGIC) + 12 + len(header)) % ALIGNMENT)
    return (
        MAGIC
        + len(header).to_bytes(8, "little")
        + zlib.crc32(header).to_bytes(4, "little")
        + header
    )


def read_bundle(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `write_bundle` wrote: `about`, and the arrays, mapped and compared with their checksums.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        ValueError: it is no such file, or it was cut short or damaged.
    """
    if check_path(path).is_dir():
        raise IsADirectoryError(f"{path}: expected the path of a file, got a folder.")
    with open(path, "rb") as file:  # which may be replaced meanwhile
        kept, begin = _read_header(file, path)
        arrays = {
            name: _mapped(file, entry, begin, f"{path} ({name})")
            for name, entry in kept["arrays"].items()
        }
    return kept["about"], arrays


def read_kind(
    path: str | os.PathLike[str], kind: str, newest: int, what: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `read_bundle` reads of a file of one kind, of a format up to `newest`; `what`: in words.

    Raises ValueError for another file or a newer format, too.
    """
    about, arrays = read_bundle(path)
    if about.get("kind") != kind:
        raise ValueError(f"{path}: expected {what} that pdepth kept, got another file of it.")
    if about["format"] > newest:
        raise ValueError(
            f"{path}: expected format {newest} or older, got {about['format']}; a newer pdepth "
            "reads it."
        )
    return about, arrays


def _read_header(file: BinaryIO, path: str | os.PathLike[str]) -> tuple[dict[str, Any], int]:
    """What a header says, and where the arrays begin."""
    whole = os.fstat(file.fileno()).st_size
    start = file.read(len(MAGIC) + 12)
    if start[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path}: expected a file that pdepth wrote, got another.")
    size = int.from_bytes(start[len(MAGIC) : len(MAGIC) + 8], "little")
    header = file.read(size) if size <= whole else b""
    if len(header) != size or zlib.crc32(header).to_bytes(4, "little") != start[-4:]:
        raise ValueError(f"{path}: its header was damaged or cut short; write the file anew.")
    kept: dict[str, Any] = json.loads(header)
    begin = end = len(MAGIC) + 12 + size
    for entry in kept["arrays"].values():
        nbytes = int(np.prod(entry["shape"], dtype=np.int64)) * np.dtype(entry["dtype"]).itemsize
        end = max(end, begin + entry["place"] + -(-nbytes // ALIGNMENT) * ALIGNMENT)
    if whole != end:
        raise ValueError(
            f"{path}: expected {end} bytes, got {whole}; it was cut short or lengthened: write the "
            "file anew."
        )
    return kept, begin


def _mapped(file: BinaryIO, entry: Mapping[str, Any], begin: int, what: str) -> NDArray[Any]:
    """One array; begin: where the first one is."""
    shape = tuple(entry["shape"])
    if 0 in shape:  # of which there is no map
        return np.empty(shape, entry["dtype"])
    array: NDArray[Any] = np.memmap(file, entry["dtype"], "r", begin + entry["place"], shape)
    with watched([(what, array)]):
        crc = checksum(array)
    if crc != entry["crc32"]:
        raise ValueError(f"{what}: was changed; write the file anew.")
    return array


def checksum(array: NDArray[Any]) -> int:
    """The CRC-32 of an array's bytes."""
    crc = 0
    for chunk in _chunks(array):
        crc = zlib.crc32(chunk, crc)
    return crc


def _chunks(array: NDArray[Any]) -> Iterator[bytes]:
    """The bytes of an array, some at a time."""
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for begin in range(0, len(array), step):
        yield array[begin : begin + step].tobytes()
