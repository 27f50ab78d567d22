"""Rows in files: .npy and .safetensors shards, one after the other; only headers are read."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.remote import RemotePath
from pdepth.arrays.rows import BFloat16, as_bfloat16, numpy_type, type_name

NPY, SAFETENSORS = ".npy", ".safetensors"
_SAFETENSORS_TYPES = {"BF16": "bfloat16", "BOOL": "bool"}
_SAFETENSORS_TYPES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
_SAFETENSORS_TYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_SAFETENSORS_TYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class Shard:
    """Rows that follow each other, in a file from `offset` on or in an array."""

    where: str
    shape: tuple[int, ...]
    type: str
    dtype: np.dtype[Any]
    storage: Path | RemotePath | NDArray[Any]
    offset: int = 0

    def fill(self, out: NDArray[Any], begin: int) -> None:
        """Copy rows from `begin` on into `out` (n, ...), contiguous."""
        if isinstance(self.storage, np.ndarray):
            out[...] = self.storage[begin : begin + len(out)]
            return
        left = out.reshape(-1).view(np.uint8).data
        with self.storage.open("rb", buffering=0) as file:  # a map's pages would count as memory
            file.seek(self.offset + begin * (out.nbytes // len(out)))
            while left:
                read = file.readinto(left)
                if not read:
                    raise ValueError(f"{self.where} became shorter while it was read.")
                left = left[read:]


class Shards:
    """Shards of one width and type, one after the other, as a `Source`."""

    fresh = True

    def __init__(self, shards: list[Shard]) -> None:
        first = shards[0]
        for shard in shards:
            for what, value, expected in (
                ("rows of shape", shard.shape[1:], first.shape[1:]),
                ("elements of type", shard.type, first.type),
            ):
                if value != expected:
                    raise ValueError(
                        f"{shard.where}: expected {what} {expected} as in {first.where}, got "
                        f"{value}."
                    )
        self.shards = shards
        self.ends: list[int] = list(
            accumulate(shard.shape[0] if shard.shape else 0 for shard in shards)
        )
        self.shape: tuple[int, ...] = (self.ends[-1], *first.shape[1:]) if first.shape else ()
        self.dtype: Any = first.dtype
        if first.type == "bfloat16":
            some = as_bfloat16(np.empty(0, first.dtype))
            self.dtype = first.type if isinstance(some, BFloat16) else some.dtype

    def __getitem__(self, rows: slice) -> Any:
        begin, end, _ = rows.indices(self.shape[0])
        out = np.empty((max(0, end - begin), *self.shape[1:]), self.shards[0].dtype)
        number = bisect_right(self.ends, begin)
        while begin < end:
            shard, last = self.shards[number], self.ends[number]
            part = out[len(out) - (end - begin) :][: last - begin]
            if len(part):
                shard.fill(part, begin - (last - shard.shape[0]))
            begin, number = begin + len(part), number + 1
        return as_bfloat16(out) if self.shards[0].type == "bfloat16" else out


def open_file(path: Path, name: str | None) -> Shard:
    """The rows of a file, whose header is read and compared with its size."""
    if path.suffix == NPY:
        return _npy(path)
    if path.suffix == SAFETENSORS:
        return _safetensors(path, name)
    raise ValueError(
        f"{path}: expected a {NPY}, {SAFETENSORS} or .parquet file, or a directory of shards."
    )


def _npy(path: Path) -> Shard:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        # But for the encoding of names of fields, which no rows of numbers have, the same.
        (3, 0): np.lib.format.read_array_header_2_0,
    }
    with path.open("rb") as file:
        try:
            shape, by_column, dtype = readers[np.lib.format.read_magic(file)](file)
        except OSError:
            raise
        except Exception:  # whatever the parser of Python raises: a header is an expression
            raise ValueError(
                f"{path}: expected a .npy file, got one that cannot be read."
            ) from None
        offset = file.tell()
    if by_column and len(shape) > 1:
        raise ValueError(f"{path}: expected rows in C order, got Fortran order.")
    return _complete(Shard(str(path), shape, type_name(dtype), dtype, path, offset))


@dataclass(frozen=True)
class _Tensor:
    """What a .safetensors file says of a tensor: its bytes begin and end after the header."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @classmethod
    def of(cls, about: Any) -> _Tensor:
        """Of an entry of the header. Raises LookupError, TypeError or ValueError for another."""
        shape, (begin, end) = tuple(about["shape"]), about["data_offsets"]
        numbers = (*shape, begin, end)
        if not isinstance(about["dtype"], str) or any(
            type(number) is not int for number in numbers
        ):
            raise TypeError
        if min(numbers) < 0:
            raise ValueError
        return cls(about["dtype"], shape, begin, end)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements as they are stored."""
        kind = _SAFETENSORS_TYPES[self.code]
        return np.dtype(bool) if kind == "bool" else numpy_type(kind).newbyteorder("<")


def _safetensors(path: Path, name: str | None) -> Shard:
    """One tensor of a file: eight bytes of length, a JSON header, and the elements."""
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(
                file.read(min(length, path.stat().st_size)), object_pairs_hook=_distinct
            )
            header.pop("__metadata__", None)
            tensors = {key: _Tensor.of(about) for key, about in header.items()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ValueError(
                f"{path}: expected a .safetensors file, got one that cannot be read."
            ) from None
    _check_places(path, tensors)
    if name is None and len(tensors) != 1:
        raise ValueError(
            f"{path}: expected one tensor, got {len(tensors)}; name it: "
            "pdepth.open_source(path, name)."
        )
    if name is not None and name not in tensors:
        raise ValueError(f"{path}: expected one of the tensors {', '.join(tensors)}, got {name!r}.")
    tensor = tensors[next(iter(tensors)) if name is None else name]
    if tensor.code not in _SAFETENSORS_TYPES:
        raise TypeError(
            f"{path}: expected elements of type {', '.join(_SAFETENSORS_TYPES)}, got {tensor.code}."
        )
    kind, offset = _SAFETENSORS_TYPES[tensor.code], 8 + length + tensor.begin
    return _complete(Shard(str(path), tensor.shape, type_name(kind), tensor.dtype, path, offset))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a name comes twice, of which one would be lost."""
    if len(entries := dict(pairs)) < len(pairs):
        raise ValueError
    return entries


def _check_places(path: Path, tensors: dict[str, _Tensor]) -> None:
    """Raise ValueError unless each tensor has the bytes that its shape takes, after those of the
    one before it: no file of the format has gaps or overlaps."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        size = tensor.end - tensor.begin
        if tensor.code in _SAFETENSORS_TYPES:
            size = prod(tensor.shape) * tensor.dtype.itemsize
        if (tensor.begin, tensor.end) != (end, end + max(0, size)):
            raise ValueError(
                f"{path}: expected tensor {name!r} at bytes {end} to {end + max(0, size)} by its "
                f"shape and those before it, got {tensor.begin} to {tensor.end}; write the file "
                "again."
            )
        end = tensor.end


def _complete(shard: Shard) -> Shard:
    """The shard, if its file is long enough to hold it."""
    assert not isinstance(shard.storage, np.ndarray)
    if any(length < 0 for length in shard.shape):
        raise ValueError(
            f"{shard.where}: expected a shape without negative lengths, got {shard.shape}."
        )
    expected = shard.offset + prod(shard.shape) * shard.dtype.itemsize
    if (size := shard.storage.stat().st_size) < expected:
        raise ValueError(
            f"{shard.where}: expected {expected} bytes by its header, got {size}: it is truncated."
        )
    return shard
