"""Rows in Arrow's arrays and Parquet files: columns of fixed-size lists of numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.remote import RemotePath
from pdepth.arrays.rows import type_name
from pdepth.arrays.shards import Shard, Shards
from pdepth.optional import require

PARQUET = ".parquet"
READ_BYTES = 1 << 22  # of a Parquet column that are decoded at a time


def arrow_rows(value: Any) -> Any:
    """Arrow's fixed-size lists as the NumPy array that they are, or as shards of such."""
    chunks = value.chunks if hasattr(value, "chunks") else [value]
    _width_and_type(value.type, "the array")
    shards, first = [], 0
    for chunk in chunks:
        array = _arrow_values(chunk, "the array", first)
        shards.append(Shard("a chunk", array.shape, type_name(array.dtype), array.dtype, array))
        first += len(chunk)
    if not shards:
        raise ValueError("expected at least one row, got none.")
    storage = shards[0].storage
    return storage if len(shards) == 1 else Shards(shards)


def _width_and_type(kind: Any, where: str) -> tuple[int, np.dtype[Any]]:
    types = require("pyarrow", "Reading Arrow's arrays", "sources").types
    if not types.is_fixed_size_list(kind) or not (
        types.is_integer(kind.value_type) or types.is_floating(kind.value_type)
    ):
        raise TypeError(f"{where}: expected fixed-size lists of numbers, got {kind}.")
    return kind.list_size, np.dtype(kind.value_type.to_pandas_dtype())


def _arrow_values(array: Any, where: str, first: int) -> NDArray[Any]:
    """(n, width) of a fixed-size list array whose first row has that number, borrowed."""
    width, _ = _width_and_type(array.type, where)
    if array.null_count:
        missing = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{where}: expected numbers, got a null in row {first + missing}.")
    values = array.flatten()
    if values.null_count:
        missing = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // width
        raise ValueError(f"{where}: expected numbers, got a null in row {first + missing}.")
    rows: NDArray[Any] = values.to_numpy().reshape(len(array), width)
    return rows


class ParquetColumn:
    """A column of a Parquet file, decoded forward; going back begins at a row group."""

    dtype: np.dtype[Any]

    fresh = True

    def __reduce__(self) -> Any:
        return ParquetColumn, (self._path, self._name)  # another process opens it anew

    def __init__(self, path: Path | RemotePath, name: str | None) -> None:
        self._path = path
        parquet = require("pyarrow.parquet", f"Reading {path}", "sources")
        arrow = require("pyarrow", f"Reading {path}", "sources")
        self._errors = (arrow.ArrowException, OSError)
        try:
            source = path.open() if isinstance(path, RemotePath) else path
            self._file = parquet.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False)
        except self._errors:
            raise ValueError(
                f"{path}: expected a Parquet file, got one that cannot be read."
            ) from None
        schema = self._file.schema_arrow
        if name is None:
            lists = [f.name for f in schema if arrow.types.is_fixed_size_list(f.type)]
            if len(lists) > 1 or not schema.names:
                raise ValueError(
                    f"{path}: expected one column of fixed-size lists, got {len(lists)}; name "
                    "it: pdepth.open_source(path, name)."
                )
            name = lists[0] if lists else schema.names[0]
        if name not in schema.names:
            raise ValueError(
                f"{path}: expected one of the columns {', '.join(schema.names)}, got {name!r}."
            )
        self._name, self._where = name, f"{path}, column {name}"
        width, self.dtype = _width_and_type(schema.field(name).type, self._where)
        about = self._file.metadata
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self.shape: tuple[int, int] = (about.num_rows, width)
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
            size = max(1, READ_BYTES // (self.shape[1] * self.dtype.itemsize))
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
