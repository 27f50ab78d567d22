"""Rows that lie elsewhere than in memory: files, shards, columns, and whatever gives row slices."""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.rows import TYPES, Rows, is_array, rows_of, want_array
from pdepth.optional import require

NPY, SAFETENSORS, PARQUET = ".npy", ".safetensors", ".parquet"
AT_ONCE = 1 << 22  # bytes of scattered rows, or of a Parquet column, that are read at a time
BRIDGED = 1 << 16  # bytes that are read for nothing rather than begin another read
_SAFETENSORS = {"BF16": "bfloat16", "BOOL": "bool"}
_SAFETENSORS |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
_SAFETENSORS |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
_SAFETENSORS |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}


Numbers = Sequence[int] | NDArray[np.int64]


class Source(Protocol):
    """Rows that are read when they are wanted: all that pdepth asks of them.

    `shape` (rows, ...) and `dtype` (NumPy's or torch's) are known without reading; `source[a:b]`
    gives the rows a to b as a NumPy array or torch tensor. zarr arrays and HDF5 datasets are
    sources as they are, and so is a class of ten lines:

        class Blocks:
            \"\"\"Files of 1,000 rows each.\"\"\"

            dtype = np.dtype("float32")

            def __init__(self, files, width):
                self.files, self.shape = files, (1000 * len(files), width)

            def __getitem__(self, rows):
                first = rows.start // 1000
                blocks = [np.load(file) for file in self.files[first : -(-rows.stop // 1000)]]
                return np.concatenate(blocks)[rows.start - 1000 * first :][: rows.stop - rows.start]

    It is read in a thread of its own, one slice after the other. One that has a cheaper way to
    scattered rows than slices may offer `rows_at(numbers)`, ascending int64 numbers.
    """

    @property
    def shape(self) -> Sequence[int]:
        """(rows, ...); further dimensions are flattened."""

    @property
    def dtype(self) -> Any:
        """The type of the elements."""

    def __getitem__(self, rows: slice, /) -> Any:
        """The rows of a slice whose ends are numbers and whose step is one."""


@dataclass(frozen=True, eq=False)
class Stored(Rows):
    """The rows of a source: some of them, asked for, are read, checked and lie in memory.

    `array` is the source. `ready` makes of rows as they were read, and their numbers, the rows that
    the engine wants; `type` is theirs, and `kept` that of the source's own elements.
    """

    kept: str
    ready: Callable[[Rows, Numbers], Rows]
    what: str

    @classmethod
    def of(
        cls, source: Any, what: str, type: str | None, ready: Callable[[Rows, Numbers], Rows]
    ) -> Stored:
        """A source, its shape and elements checked; without `type`, rows are of its own.

        Raises TypeError for elements that are no numbers, ValueError for a shape without rows.
        """
        shape, kept = tuple(source.shape), kind_of(source.dtype)
        if len(shape) < 2:
            raise ValueError(f"{what} has shape {shape}; (rows, width) is wanted.")
        if kept not in TYPES:
            raise TypeError(
                f"{what} has elements of type {kept}; integers or floats of 16 to 64 bits are "
                "wanted."
            )
        if 0 in shape:
            raise ValueError(f"{what} is empty, with shape {shape}.")
        return cls(source, type or kept, kept, ready, what)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, which: Any) -> Rows:
        """Rows in memory, by a slice or by their numbers, ascending and each once."""
        if isinstance(which, slice):
            begin, end, _ = which.indices(len(self))
            return self.ready(self._read(begin, end), range(begin, end))
        if hasattr(self.array, "rows_at"):
            return self.ready(self._checked(self.array.rows_at(which), self.what, which), which)
        out = np.empty((len(which), self.width), numpy_type(self.type))
        done = 0
        for numbers in self._runs(which):
            begin = int(numbers[0])
            rows = self._read(begin, int(numbers[-1]) + 1)[numbers - begin]
            out[done : done + len(numbers)] = self.ready(rows, numbers).array
            done += len(numbers)
        return Rows(out, self.type)

    def given(self, part: Any, begin: int) -> Rows:
        """Rows from number `begin` on that were read elsewhere, as if they had been here."""
        numbers = range(begin, begin + len(part))
        return self.ready(self._checked(part, self.what, numbers), numbers)

    def on_host(self) -> Rows:
        """All of the rows."""
        return self[:]

    def widened(self) -> NDArray[np.float64]:
        return self[:].widened()

    @property
    def width(self) -> int:
        return prod(map(int, self.array.shape[1:]))

    def _runs(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The numbers in runs that one read serves."""
        row = self.width * numpy_type(self.kept).itemsize
        apart = np.diff(numbers) > 1 + BRIDGED // row
        apart |= np.diff(numbers // max(1, AT_ONCE // row)) > 0
        return np.split(numbers, np.flatnonzero(apart) + 1)

    def _read(self, begin: int, end: int) -> Rows:
        what = f"{self.what}[{begin}:{end}]"
        return self._checked(self.array[begin:end], what, range(begin, end))

    def _checked(self, part: Any, what: str, numbers: Numbers) -> Rows:
        """Rows that the source has given, if they are what it says of itself."""
        if not is_array(part) and hasattr(part, "__array__"):
            part = np.asarray(part)
        rows = rows_of(part, what).on_host()
        shape = (len(numbers), self.width)
        if rows.type != self.kept or rows.array.shape != shape:
            raise ValueError(
                f"{what} is {rows.type} of shape {rows.array.shape}; {self.kept} of shape {shape} "
                "is wanted, as its source says of itself."
            )
        return rows


def kind_of(dtype: Any) -> str:
    """The name of NumPy's or torch's type, whatever its byte order; truth values count as uint8."""
    if isinstance(dtype, np.dtype):
        dtype = dtype.newbyteorder("=").name
    kind = str(dtype).removeprefix("torch.")
    return "uint8" if kind == "bool" else kind


def numpy_type(kind: str) -> np.dtype[Any]:
    """What NumPy holds elements of a type in: bfloat16 as its bits."""
    return np.dtype("uint16" if kind == "bfloat16" else kind)


def is_single(value: object) -> bool:
    """Whether it is one array or source, not a collection of them."""
    return is_array(value) or isinstance(value, str | os.PathLike) or _is_source(value)


def opened(value: Any, what: str) -> Any:
    """`value` as an array or a source: paths are opened, Arrow's arrays are borrowed.

    Raises TypeError for anything else, and what `open_source` raises, after the words `what`.
    """
    if is_array(value) or not is_single(value):
        want_array(value, what)
        return value
    try:
        if isinstance(value, str | os.PathLike):
            return open_source(value)
        return _arrow_rows(value) if _is_arrow(value) else value
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise type(error)(f"{what}: {error}") from None


def open_source(path: str | os.PathLike[str], name: str | None = None) -> Any:
    """The rows in a file or directory, as a `Source`: nothing but its headers is read.

    Args:
        path: a `.npy`, `.safetensors` or `.parquet` file; a directory of `.npy` or `.safetensors`
            shards, whose rows follow each other in the order of the sorted file names; or a zarr
            array's directory. A Parquet column is of fixed-size lists of numbers.
        name: the tensor in each `.safetensors` file, or the Parquet column; None where there is
            but one.

    Returns:
        Something with `shape` (rows, ...), `dtype` and row slices that give arrays; bfloat16 comes
        as torch tensors.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError, TypeError: a truncated file, shards that do not fit together, a column of
            another type, and the like, in one sentence.
        ImportError: the extra `sources` is wanted for Parquet (pyarrow) and zarr.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or directory {path}.")
    if path.is_file():
        if path.suffix == PARQUET:
            return _Column(path, name)
        return _Shards([_file(path, name)])
    if any((path / about).exists() for about in ("zarr.json", ".zarray", ".zgroup")):
        return _zarr(path)
    files = [f for f in sorted(path.iterdir()) if f.suffix in (NPY, SAFETENSORS) and f.is_file()]
    kinds = {file.suffix for file in files}
    if len(kinds) != 1:
        found = "both .npy and .safetensors files" if files else "no .npy or .safetensors file"
        raise ValueError(f"{path} holds {found}; shards of one kind are wanted.")
    return _Shards([_file(file, name) for file in files])


# ---- shards ----


@dataclass(frozen=True)
class _Piece:
    """Rows that follow each other, in a file from `offset` on or in an array."""

    where: str
    shape: tuple[int, ...]
    kind: str
    dtype: np.dtype[Any]
    held: Path | NDArray[Any]
    offset: int = 0

    def fill(self, out: NDArray[Any], begin: int) -> None:
        """Copy rows from `begin` on into `out` (n, ...), contiguous."""
        if not isinstance(self.held, Path):
            out[...] = self.held[begin : begin + len(out)]
            return
        left = out.reshape(-1).view(np.uint8).data
        with self.held.open("rb", buffering=0) as file:  # a map's pages would count as memory
            file.seek(self.offset + begin * (out.nbytes // len(out)))
            while left:
                read = file.readinto(left)
                if not read:
                    raise ValueError(f"{self.where} has become shorter while it was read.")
                left = left[read:]


class _Shards:
    """Pieces of one width and type, one after the other."""

    def __init__(self, pieces: list[_Piece]) -> None:
        first = pieces[0]
        for piece in pieces:
            for what, found, wanted in (
                ("rows of shape", piece.shape[1:], first.shape[1:]),
                ("elements of type", piece.kind, first.kind),
            ):
                if found != wanted:
                    raise ValueError(
                        f"{piece.where} has {what} {found} and {first.where} {wanted}; "
                        "equal ones are wanted."
                    )
        self.pieces = pieces
        self.ends = list(accumulate(piece.shape[0] if piece.shape else 0 for piece in pieces))
        self.shape = (self.ends[-1], *first.shape[1:]) if first.shape else ()
        self.dtype: Any = first.dtype
        if first.kind == "bfloat16":
            import torch

            self.dtype = torch.bfloat16

    def __getitem__(self, rows: slice) -> Any:
        begin, end, _ = rows.indices(self.shape[0])
        out = np.empty((max(0, end - begin), *self.shape[1:]), self.pieces[0].dtype)
        number = bisect_right(self.ends, begin)
        while begin < end:
            piece, last = self.pieces[number], self.ends[number]
            part = out[len(out) - (end - begin) :][: last - begin]
            if len(part):
                piece.fill(part, begin - (last - piece.shape[0]))
            begin, number = begin + len(part), number + 1
        if self.pieces[0].kind != "bfloat16":
            return out
        import torch

        return torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)


def _file(path: Path, name: str | None) -> _Piece:
    if path.suffix == NPY:
        return _npy(path)
    if path.suffix == SAFETENSORS:
        return _safetensors(path, name)
    raise ValueError(
        f"{path} is no {NPY}, {SAFETENSORS} or {PARQUET} file; one of them, or a directory, is "
        "wanted."
    )


def _npy(path: Path) -> _Piece:
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with path.open("rb") as file:
        try:
            shape, by_column, dtype = headers[np.lib.format.read_magic(file)](file)
        except (ValueError, KeyError, EOFError):
            raise ValueError(f"{path} is not a readable .npy file.") from None
        offset = file.tell()
    if by_column and len(shape) > 1:
        raise ValueError(f"{path} is in Fortran's order; rows that lie side by side are wanted.")
    return _whole(_Piece(str(path), shape, kind_of(dtype), dtype, path, offset))


def _safetensors(path: Path, name: str | None) -> _Piece:
    """One tensor of a file: eight bytes of length, a JSON header, and the elements."""
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
            header.pop("__metadata__", None)
            found = {
                key: (
                    about["dtype"],
                    tuple(map(int, about["shape"])),
                    int(about["data_offsets"][0]),
                )
                for key, about in header.items()
            }
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"{path} is not a readable .safetensors file.") from None
    if name is None and len(found) != 1:
        raise ValueError(
            f"{path} holds {len(found)} tensors; one is wanted, or its name, as in "
            "pdepth.open_source(path, name)."
        )
    if name is not None and name not in found:
        raise ValueError(f"{path} holds no tensor {name!r}; one of {', '.join(found)} is wanted.")
    code, shape, offset = found[name or next(iter(found))]
    if code not in _SAFETENSORS:
        raise TypeError(f"{path} has elements of type {code}; {', '.join(_SAFETENSORS)} are read.")
    kind = _SAFETENSORS[code]
    dtype = np.dtype(bool) if kind == "bool" else numpy_type(kind).newbyteorder("<")
    return _whole(_Piece(str(path), shape, kind_of(kind), dtype, path, 8 + length + offset))


def _whole(piece: _Piece) -> _Piece:
    """The piece, if its file is long enough to hold it."""
    assert isinstance(piece.held, Path)
    wanted = piece.offset + prod(piece.shape) * piece.dtype.itemsize
    if (size := piece.held.stat().st_size) < wanted:
        raise ValueError(
            f"{piece.where} is truncated: it has {size} bytes, and its header tells of {wanted}."
        )
    return piece


def _zarr(path: Path) -> Any:
    zarr = require("zarr", f"Reading {path}", "sources")
    found = zarr.open(str(path), mode="r")
    if not _is_source(found):
        raise ValueError(f"{path} is a zarr group; one of its arrays is wanted.")
    return found


def _is_source(value: object) -> bool:
    """Whether it looks like a `Source`. Sequences have no element type, and a type no rows."""
    if isinstance(value, type):
        return False
    return _is_arrow(value) or all(
        hasattr(value, name) for name in ("shape", "dtype", "__getitem__")
    )


# ---- Arrow and Parquet ----


def _is_arrow(value: object) -> bool:
    arrow = sys.modules.get("pyarrow")
    return arrow is not None and isinstance(value, arrow.Array | arrow.ChunkedArray)


def _arrow_rows(value: Any) -> Any:
    """Arrow's fixed-size lists as the NumPy array that they are, or as shards of such."""
    chunks = value.chunks if hasattr(value, "chunks") else [value]
    _width_and_type(value.type, "it")
    pieces, first = [], 0
    for chunk in chunks:
        array = _arrow_values(chunk, "it", first)
        pieces.append(_Piece("a chunk", array.shape, kind_of(array.dtype), array.dtype, array))
        first += len(chunk)
    if not pieces:
        raise ValueError("it is empty; rows are wanted.")
    held = pieces[0].held
    return held if len(pieces) == 1 else _Shards(pieces)


def _width_and_type(kind: Any, where: str) -> tuple[int, np.dtype[Any]]:
    types = require("pyarrow", "Reading Arrow's arrays", "sources").types
    if not types.is_fixed_size_list(kind) or not (
        types.is_integer(kind.value_type) or types.is_floating(kind.value_type)
    ):
        raise TypeError(f"{where} is of type {kind}; a fixed-size list of numbers is wanted.")
    return kind.list_size, np.dtype(kind.value_type.to_pandas_dtype())


def _arrow_values(array: Any, where: str, first: int) -> NDArray[Any]:
    """(n, width) of a fixed-size list array whose first row has that number, borrowed."""
    width, _ = _width_and_type(array.type, where)
    if array.null_count:
        missing = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{where} has a null in row {first + missing}; numbers are wanted.")
    values = array.flatten()
    if values.null_count:
        missing = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width
        raise ValueError(f"{where} has a null in row {first + missing}; numbers are wanted.")
    rows: NDArray[Any] = values.to_numpy().reshape(len(array), width)
    return rows


class _Column:
    """A column of a Parquet file, decoded forward; going back begins at a row group."""

    def __init__(self, path: Path, name: str | None) -> None:
        parquet = require("pyarrow.parquet", f"Reading {path}", "sources")
        arrow = require("pyarrow", f"Reading {path}", "sources")
        self._errors = (arrow.ArrowException, OSError)
        try:
            self._file = parquet.ParquetFile(path, buffer_size=AT_ONCE, pre_buffer=False)
        except self._errors:
            raise ValueError(f"{path} is not a readable Parquet file.") from None
        schema = self._file.schema_arrow
        if name is None:
            lists = [f.name for f in schema if arrow.types.is_fixed_size_list(f.type)]
            if len(lists) > 1 or not schema.names:
                raise ValueError(
                    f"{path} has {len(lists)} columns of fixed-size lists; one is wanted, or its "
                    "name, as in pdepth.open_source(path, name)."
                )
            name = lists[0] if lists else schema.names[0]
        if name not in schema.names:
            raise ValueError(
                f"{path} has no column {name!r}; one of {', '.join(schema.names)} is wanted."
            )
        self._name, self._where = name, f"{path}, column {name},"
        width, self.dtype = _width_and_type(schema.field(name).type, self._where)
        about = self._file.metadata
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self.shape = (about.num_rows, width)
        self._batches: Iterator[Any] | None = None
        self._next = 0  # the row that the next batch begins with
        self._left = np.empty((0, width), self.dtype)  # what the last one has

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        begin, end, _ = rows.indices(self.shape[0])
        out = np.empty((max(0, end - begin), self.shape[1]), self.dtype)
        try:
            while begin < end:
                self._decode(begin)
                part = self._left[begin - (self._next - len(self._left)) :][: end - begin]
                out[len(out) - (end - begin) :][: len(part)] = part
                begin += len(part)
        except self._errors as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self._where} cannot be read at row {begin}: {reason}") from None
        return out

    def _decode(self, row: int) -> None:
        """Go on until the batch at hand holds that row."""
        group = bisect_right(self._ends, row)
        start = self._ends[group - 1] if group else 0
        if self._batches is None or row < self._next - len(self._left) or self._next < start:
            size = max(1, AT_ONCE // (self.shape[1] * self.dtype.itemsize))
            groups = range(group, len(self._ends))
            self._batches = self._file.iter_batches(size, groups, [self._name], use_threads=False)
            self._next, self._left = start, self._left[:0]
        batches, self._batches = self._batches, None  # to begin anew after an error
        while self._next <= row:
            batch = next(batches, None)
            if batch is None:
                raise ValueError(f"{self._where} ends at row {self._next}.")
            self._left = _arrow_values(batch.column(0), self._where, self._next)
            self._next += len(self._left)
        self._batches = batches
