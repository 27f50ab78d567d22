"""Flat indexes in files: pdepth's own, an .npz with checksums, and faiss' where it is there."""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.convert import to_numpy
from pdepth.compat.faiss.flat import IndexFlat, IndexFlatIP, IndexFlatL2
from pdepth.compat.faiss.id_maps import IndexIDMap, IndexIDMap2
from pdepth.compat.faiss.rows import METRIC_INNER_PRODUCT, METRIC_L2
from pdepth.io.atomic import replacing
from pdepth.optional import require

FORMAT, VERSION = "pdepth flat index", 1
IO_FLAG_READ_ONLY, IO_FLAG_MMAP = 2, 0x646F0000 | 8  # as faiss numbers them
OURS = b"PK"  # a zip file begins so
_KINDS = {"IndexFlat": IndexFlat, "IndexFlatL2": IndexFlatL2, "IndexFlatIP": IndexFlatIP}
_MAPS = {"IndexIDMap": IndexIDMap, "IndexIDMap2": IndexIDMap2}


def write_index(index: Any, fname: str | os.PathLike[str]) -> None:
    """Write an index to a file in pdepth's own format, whole or not at all."""
    with replacing(fname) as temporary:
        temporary.write_bytes(serialize_index(index).data)


def read_index(fname: str | os.PathLike[str], io_flags: int = 0) -> Any:
    """Read an index that `write_index` wrote; where faiss is installed, a flat one of faiss too.

    Args:
        io_flags: accepted; the rows are read into memory.

    Raises:
        RuntimeError: as faiss does, the file cannot be read, or is cut short or damaged.
        ValueError: it holds another index of faiss than a flat one.
    """
    try:
        with open(fname, "rb") as file:
            ours = file.read(len(OURS)) == OURS
            if ours:
                file.seek(0)
                return _read(file, str(fname))
    except OSError as error:
        raise RuntimeError(f"{fname}: expected a readable file; {error.strerror}.") from error
    library = require("faiss", f"read_index of {fname}, which pdepth did not write,", "faiss")
    return from_faiss(library.read_index(os.fspath(fname)))


def serialize_index(index: Any) -> NDArray[np.uint8]:
    """The bytes (n,) uint8 of `write_index`."""
    name = type(index).__name__
    flat = index.index if isinstance(index, IndexIDMap) else index
    if not isinstance(flat, IndexFlat):
        raise TypeError(
            f"index: expected one of {', '.join([*_KINDS, *_MAPS])} of pdepth.compat.faiss, got a "
            f"{type(index).__module__}.{name}."
        )
    arrays = {"rows": to_numpy(flat.rows)}
    if flat is not index:
        arrays["ids"] = index.id_map
    buffer = io.BytesIO()
    np.savez(
        buffer,
        format=np.array(FORMAT),
        version=np.array(VERSION),
        kinds=np.array([name, type(flat).__name__]),
        metric=np.array(flat.metric_type),
        width=np.array(flat.d),
        **arrays,
    )
    return np.frombuffer(buffer.getvalue(), np.uint8)


def deserialize_index(data: Any, io_flags: int = 0) -> Any:
    """Make an index of the bytes of `serialize_index`, (n,) uint8 or Python's."""
    if isinstance(data, bytes | bytearray | memoryview):
        content = bytes(data)
    elif isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 1:
        content = data.tobytes()
    else:
        kind = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else None
        raise TypeError(
            "data: expected the bytes of serialize_index, or an array (n,) of uint8, got "
            f"{kind or f'a {type(data).__name__}'}."
        )
    if not content.startswith(OURS):
        library = require("faiss", "deserialize_index of faiss' bytes", "faiss")
        return from_faiss(library.deserialize_index(np.frombuffer(content, np.uint8)))
    return _read(io.BytesIO(content), "data")


def from_faiss(index: Any) -> Any:
    """Copy a flat index of faiss, or a map of ids over one. Raises ValueError for others."""
    library = require("faiss", "from_faiss", "faiss")
    stored = library.downcast_index(index)  # which lives as long as `index`
    name = type(stored).__name__
    if name in _MAPS:
        flat = from_faiss(stored.index)
        mapped = _MAPS[name](type(flat)(*_arguments(type(flat), flat.d, flat.metric_type)))
        if flat.ntotal:
            mapped.add_with_ids(flat.rows, library.vector_to_array(stored.id_map))
        return mapped
    if name not in _KINDS or stored.metric_type not in (METRIC_L2, METRIC_INNER_PRODUCT):
        raise ValueError(
            f"index: expected one of {', '.join([*_KINDS, *_MAPS])} by L2 or inner product, got an "
            f"{name}; use it with faiss itself."
        )
    kind = _KINDS[name]
    flat = kind(*_arguments(kind, stored.d, stored.metric_type))
    if stored.ntotal:
        flat.add(stored.reconstruct_n(0, stored.ntotal))
    return flat


def _arguments(kind: type, d: int, metric: int) -> tuple[int, ...]:
    return (d, metric) if kind is IndexFlat else (d,)


def _read(file: Any, name: str) -> Any:
    """Raises RuntimeError, as faiss does, with what is wrong with the file."""
    try:
        with np.load(file, allow_pickle=False) as stored:  # compares checksums
            content = {key: stored[key] for key in stored.files}
        if str(content["format"]) != FORMAT:
            raise KeyError("format")
        version, kinds = int(content["version"]), [str(kind) for kind in content["kinds"]]
    except (KeyError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise RuntimeError(
            f"{name}: expected a whole file of write_index, got one that is cut short, damaged or "
            f"of another kind ({error}); write it anew."
        ) from error
    if version != VERSION:
        raise RuntimeError(
            f"{name}: expected version {VERSION} of a {FORMAT}, got {version}; write it anew."
        )
    kind = _KINDS[kinds[1]]
    width, rows = int(content["width"]), content["rows"]
    flat = kind(*_arguments(kind, width, int(content["metric"])))
    if kinds[0] not in _MAPS:
        flat.add(rows)
        return flat
    mapped = _MAPS[kinds[0]](flat)
    mapped.add_with_ids(rows, content["ids"])
    return mapped
