"""Rows that are not in memory: files, shards, columns, and whatever gives slices of rows."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arrow import PARQUET, ParquetColumn, arrow_rows
from pdepth.arrays.frames import frame_values, is_frame
from pdepth.arrays.mapped import watched
from pdepth.arrays.memory import free_bytes, human
from pdepth.arrays.remote import RemotePath, is_url
from pdepth.arrays.rows import (
    NORM_BYTES,
    TYPES,
    Rows,
    check_array,
    is_array,
    is_sparse,
    numpy_type,
    rows_of,
    type_name,
)
from pdepth.arrays.shards import NPY, SAFETENSORS, Shards, open_file
from pdepth.optional import require

SCATTERED_BYTES = 1 << 22  # of scattered rows that are read at a time
FRESH = ("zarr", "h5py")  # libraries whose arrays give new memory for each slice
BRIDGED_BYTES = 1 << 16  # that are read and dropped rather than begin another read

RowNumbers = Sequence[int] | NDArray[np.int64]


class Source(Protocol):
    """Rows that are read when they are needed: all that pdepth asks of them.

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

    It is read in a thread of its own, one slice after the other. What it gives is copied before the
    next slice is read, so that it may fill one buffer again and again; `fresh = True` says that it
    never does, and saves the copy. One that has a cheaper way to scattered rows than slices may
    offer `rows_at(numbers)`, ascending int64 numbers; sources that one reading serves together name
    it as `shared`, a `SharedReading`.
    """

    @property
    def shape(self) -> Sequence[int]:
        """(rows, ...); further dimensions are flattened."""

    @property
    def dtype(self) -> Any:
        """The type of the elements."""

    def __getitem__(self, rows: slice, /) -> Any:
        """The rows of a slice whose ends are numbers and whose step is one."""


class SharedReading(Protocol):
    """Reads several sources at once, as one forward pass gives the values of several probes.

    It runs in the thread that searches. `chunk_rows`: rows that are read at a time. `fingerprint`:
    (n,) int64, of what is read, by which a search that resumes knows it.
    """

    chunk_rows: int

    @property
    def fingerprint(self) -> NDArray[np.int64]:
        """Of what is read."""

    def read(self, sources: Sequence[Any], rows: slice) -> list[Any]:
        """The rows of each source."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored(Rows):
    """The rows of a source: indexing reads and checks some of them, and gives rows in memory.

    `array` is the source. `prepare` makes of rows as they were read, and their numbers, the rows
    that backends get: the same values, with norms if `normed`. `lent`: the source may fill the
    memory of a slice again.
    """

    prepare: Callable[[Rows, RowNumbers], Rows]
    what: str
    normed: bool
    lent: bool

    @classmethod
    def of(
        cls,
        source: Any,
        what: str,
        prepare: Callable[[Rows, RowNumbers], Rows],
        *,
        normed: bool = False,
    ) -> Stored:
        """A source, its shape and elements checked.

        Raises:
            TypeError: the elements are no numbers.
            ValueError: a shape without rows.
        """
        shape, kind = tuple(source.shape), type_name(source.dtype)
        if len(shape) < 2:
            raise ValueError(f"{what}: expected shape (rows, width), got {shape}.")
        if kind not in TYPES:
            raise TypeError(
                f"{what}: expected integers or floats of 16 to 64 bits, got elements of type "
                f"{kind}."
            )
        if 0 in shape:
            raise ValueError(f"{what}: expected at least one row and column, got shape {shape}.")
        lent = not (is_array(source) or getattr(source, "fresh", _library(source) in FRESH))
        return cls(source, kind, prepare=prepare, what=what, normed=normed, lent=lent)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, numbers: Any) -> Rows:
        """Rows in memory, by a slice or by their numbers, ascending and each once."""
        if isinstance(numbers, slice):
            begin, end, _ = numbers.indices(len(self))
            return self._kept(self._read(begin, end), range(begin, end))
        if hasattr(self.array, "rows_at"):
            rows = self._checked(self.array.rows_at(numbers), self.what, numbers)
            return self._kept(rows, numbers)
        out = np.empty((len(numbers), self.width), numpy_type(self.type))
        norms = np.empty((len(numbers), 2)) if self.normed else None
        done = 0
        for run in self._runs(numbers):
            begin = int(run[0])
            rows = self.prepare(self._read(begin, int(run[-1]) + 1)[run - begin], run)
            out[done : done + len(run)] = rows.array
            if norms is not None:
                norms[done : done + len(run)] = rows.norms
            done += len(run)
        return Rows(out, self.type, norms)

    def prepared(self, values: Any, begin: int) -> Rows:
        """Rows from number `begin` on that a shared reading has read, as indexing gives them."""
        numbers = range(begin, begin + len(values))
        return self.prepare(self._checked(values, self.what, numbers), numbers)

    def part(self, begin: int, end: int) -> Stored:
        """The rows from `begin` to before `end`, which another process may read."""
        return replace(
            self,
            array=_Part(self.array, begin, end),
            what=f"{self.what}, rows {begin} to {end - 1}",
            prepare=Renumbered(self.prepare, np.arange(begin, end)),
        )

    def on_host(self) -> Rows:
        """All of the rows."""
        return self[:]

    def widened(self) -> NDArray[np.float64]:
        return self[:].widened()

    @property
    def width(self) -> int:
        return prod(map(int, self.array.shape[1:]))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row once it is read, and of its norm."""
        return self.width * numpy_type(self.type).itemsize + self.normed * NORM_BYTES

    @property
    def shared(self) -> SharedReading | None:
        """The reading that serves this source and others together, if there is one."""
        reading: SharedReading | None = getattr(self.array, "shared", None)
        return reading

    def _runs(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The numbers in runs, each of which one read serves."""
        row_bytes = self.width * numpy_type(self.type).itemsize
        apart = np.diff(numbers) > 1 + BRIDGED_BYTES // row_bytes
        apart |= np.diff(numbers // max(1, SCATTERED_BYTES // row_bytes)) > 0
        return np.split(numbers, np.flatnonzero(apart) + 1)

    def _read(self, begin: int, end: int) -> Rows:
        what = f"{self.what}[{begin}:{end}]"
        return self._checked(self.array[begin:end], what, range(begin, end))

    def _kept(self, rows: Rows, numbers: RowNumbers) -> Rows:
        """Rows prepared, in memory that the source does not fill again."""
        with watched([(self.what, rows.array)]):
            prepared = self.prepare(rows, numbers)
            return replace(prepared, array=rows.array.copy()) if self.lent else prepared

    def _checked(self, values: Any, what: str, numbers: RowNumbers) -> Rows:
        """Rows that the source gave, if they have the shape and type that it promised."""
        if not is_array(values) and hasattr(values, "__array__"):
            values = np.asarray(values)
        with watched([(what, values)]):
            rows = rows_of(values, what).on_host()
        shape = (len(numbers), self.width)
        if rows.type != self.type or rows.array.shape != shape:
            raise ValueError(
                f"{what}: expected {self.type} of shape {shape}, as its source promises, "
                f"got {rows.type} of shape {rows.array.shape}."
            )
        return rows


def reading_of(rows: Rows) -> SharedReading | None:
    """The reading that serves rows and others together, if there is one."""
    return rows.shared if isinstance(rows, Stored) else None


class _Part:
    """Rows of a source that follow each other, as a `Source`."""

    def __init__(self, source: Any, begin: int, end: int) -> None:
        self._source, self._begin = source, begin
        self.shape, self.dtype = (end - begin, *source.shape[1:]), source.dtype

    def __getitem__(self, rows: slice) -> Any:
        return self._source[self._begin + rows.start : self._begin + rows.stop]


@dataclass(frozen=True, eq=False)
class Renumbered:
    """`Stored.prepare` of some rows of others, which have those `numbers` (n,) there."""

    prepare: Callable[[Rows, RowNumbers], Rows]
    numbers: NDArray[np.int64]

    def __call__(self, rows: Rows, numbers: RowNumbers) -> Rows:
        return self.prepare(rows, self.numbers[np.asarray(numbers, np.int64)])


def in_memory(rows: Rows, what: str) -> Rows:
    """All rows of a source, read. Raises MemoryError where they are more than is free."""
    needed, free = len(rows) * rows.row_bytes, free_bytes()
    if free is not None and needed > free:
        raise MemoryError(
            f"{what}: expected rows that fit into memory, got {human(needed)} where {human(free)} "
            "are free; pdepth.kneighbors and pdepth.probe_votes read them in chunks."
        )
    return rows[:]


def is_single(value: object) -> bool:
    """Whether `value` is one array or source, not a collection of them."""
    return is_array(value) or isinstance(value, str | os.PathLike) or _is_source(value)


def _is_source(value: object) -> bool:
    """Whether it looks like a `Source`: sequences have no element type, and a type has no rows."""
    if isinstance(value, type):
        return False
    return (
        _is_arrow(value)
        or is_frame(value)
        or is_sparse(value)
        or all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))
    )


def _is_arrow(value: object) -> bool:
    return _library(value) == "pyarrow" and hasattr(value, "null_count")


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def opened(value: Any, what: str) -> Any:
    """`value` as an array or a source: paths are opened, Arrow's arrays are borrowed, a DataFrame's
    values are copied.

    Raises TypeError for anything else, and what `open_source` raises, after the words `what`.
    """
    if is_array(value) or is_sparse(value) or not is_single(value):
        check_array(value, what)
        return value
    try:
        if isinstance(value, str | os.PathLike):
            return open_source(value)
        if _is_arrow(value):
            return arrow_rows(value)
        if is_frame(value):
            return frame_values(value)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise type(error)(f"{what}: {error}") from None
    return value


def open_source(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], name: str | None = None
) -> Any:
    """The rows in a file or directory, as a `Source`: nothing but its headers is read.

    Args:
        path: a `.npy`, `.safetensors` or `.parquet` file; a directory of `.npy` or `.safetensors`
            shards, whose rows follow each other in the natural order of the file names (`feat_2`
            before `feat_10`), or a list of such files, in its order; or a zarr array's directory.
            Shards also by a URL that fsspec opens, "s3://bucket/folder" (extra `remote`).
            A Parquet column is of fixed-size lists of numbers.
        name: the tensor in each `.safetensors` file, or the Parquet column; None where there is
            but one.

    Returns:
        Something with `shape` (rows, ...), `dtype` and row slices that give arrays; bfloat16 comes
        as torch tensors, and without torch as its bits, `pdepth.arrays.rows.BFloat16`. A warning
        says where the natural order of shards is not that of the text.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError, TypeError: a truncated file, shards that do not fit together, a column of
            another type, and the like, in one sentence.
        ImportError: Parquet (pyarrow) and zarr need the extra `sources`.
    """
    if not isinstance(path, str | os.PathLike):
        return Shards([open_file(_existing(file), name) for file in _listed(path)])
    found = _existing(path)
    if found.is_file():
        return (
            ParquetColumn(found, name)
            if found.suffix == PARQUET
            else Shards([open_file(found, name)])
        )
    if any((found / file).exists() for file in ZARR):
        return _open_zarr(found)
    files = [
        file
        for file in found.iterdir()
        if file.suffix in (NPY, SAFETENSORS) and file.is_file() and not file.name.startswith(".")
    ]
    kinds = {file.suffix for file in files}
    if len(kinds) != 1:
        content = "both .npy and .safetensors files" if files else "no such file"
        raise ValueError(f"{found}: expected shards, .npy or .safetensors, got {content}.")
    files = in_natural_order(found, files, "pass pdepth.open_source([path, ...])")
    return Shards([open_file(file, name) for file in files])


ZARR = ("zarr.json", ".zarray", ".zgroup")  # one of these is in an array's directory


def _existing(given: str | os.PathLike[str]) -> Any:
    """A path, or what reads a URL as one."""
    path = RemotePath(str(given)) if is_url(given) else Path(given)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or directory {path}.")
    return path


def _listed(paths: Any) -> list[str | os.PathLike[str]]:
    """The paths of shards, in the caller's order."""
    files = list(paths) if isinstance(paths, Sequence) else []
    if not files or not all(isinstance(file, str | os.PathLike) for file in files):
        raise TypeError(
            f"path: expected a path, or a list of the paths of shards, got {paths!r:.100}."
        )
    return files


def in_natural_order(folder: Path, files: Sequence[Path], advice: str) -> list[Path]:
    """Files sorted by the text and the numbers of their names; a warning if text alone differs.

    advice: how to come to another order, in the warning.
    """

    def key(file: Path) -> list[tuple[int, str]]:
        pieces = re.split("([0-9]+)", file.name)  # text and digits in turn
        return [(int(piece) if place % 2 else 0, piece) for place, piece in enumerate(pieces)]

    natural = sorted(files, key=key)
    for before, after in pairwise(natural):
        if after.name < before.name:
            warnings.warn(
                f"{folder}: shards are read in natural order, {before.name} before {after.name}, "
                f"where the order of the text is another; for another order {advice}.",
                stacklevel=2,
            )
            break
    return natural


def _open_zarr(path: Path) -> Any:
    zarr = require("zarr", f"Reading {path}", "sources")
    array = zarr.open(str(path), mode="r")
    if not _is_source(array):
        raise ValueError(f"{path}: expected a zarr array, got a group; name one of its arrays.")
    return array
