"""One file of named arrays that is mapped when it is read, with a checksum of each."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.io.atomic import disk, replacing

MAGIC = b"pdepth arrays\n"
ALIGNMENT = 64
CHUNK_BYTES = 1 << 24  # that are written, or checked, at a time


def write_bundle(
    path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write arrays, and `about`, which JSON takes, to a file that appears when it is whole."""
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
    full = disk(Path(path), "nothing was written")
    with full, replacing(path) as temporary, temporary.open("wb") as file:
        file.write(MAGIC + len(header).to_bytes(8, "little"))
        file.write(zlib.crc32(header).to_bytes(4, "little") + header)
        for array in arrays.values():
            for chunk in _chunks(array):
                file.write(chunk)
            file.write(bytes(-array.nbytes % ALIGNMENT))
        file.flush()
        os.fsync(file.fileno())


def read_bundle(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `write_bundle` wrote: `about`, and the arrays, mapped and compared with their checksums.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or it was cut short or damaged.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 12)
        if start[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{path}: expected a file that pdepth wrote, got another.")
        size = int.from_bytes(start[len(MAGIC) : len(MAGIC) + 8], "little")
        header = file.read(size) if size <= path.stat().st_size else b""
    if len(header) != size or zlib.crc32(header).to_bytes(4, "little") != start[-4:]:
        raise ValueError(f"{path}: its header was damaged or cut short; write the file anew.")
    kept = json.loads(header)
    begin = len(MAGIC) + 12 + size
    end = begin
    for entry in kept["arrays"].values():
        nbytes = int(np.prod(entry["shape"], dtype=np.int64)) * np.dtype(entry["dtype"]).itemsize
        end = max(end, begin + entry["place"] + -(-nbytes // ALIGNMENT) * ALIGNMENT)
    if path.stat().st_size != end:
        raise ValueError(
            f"{path}: expected {end} bytes, got {path.stat().st_size}; it was cut short or "
            "lengthened: write the file anew."
        )
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in kept["arrays"].items():
        shape = tuple(entry["shape"])
        if 0 in shape:  # of which there is no map
            arrays[name] = np.empty(shape, entry["dtype"])
            continue
        array = np.memmap(path, entry["dtype"], "r", begin + entry["place"], shape)
        if checksum(array) != entry["crc32"]:
            raise ValueError(f"{path}: {name} was changed; write the file anew.")
        arrays[name] = array
    return kept["about"], arrays


def checksum(array: NDArray[Any]) -> int:
    """The CRC-32 of an array's bytes."""
    crc = 0
    for chunk in _chunks(array):
        crc = zlib.crc32(chunk, crc)
    return crc


def _chunks(array: NDArray[Any]) -> Any:
    """The bytes of an array, some at a time."""
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for begin in range(0, len(array), step):
        yield array[begin : begin + step].tobytes()
