"""Parquet files as one table: columns at once, or images a few at a time as they are read."""

from __future__ import annotations

import glob
import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from pdepth.arrays.sources import in_natural_order
from pdepth.native import ForkLock
from pdepth.optional import require

BATCH_ROWS = 16  # images in memory at a time; Arrow holds no 2 GiB of them in one piece
BUFFER = 1 << 20  # bytes of a column that are read from the disk at a time
FORMS = {"parquet": "Parquet", "csv": "CSV", "jsonl": "JSON lines"}
METADATA_KEY = b"huggingface"  # of a schema
# Splits of one dataset that are kept in one folder, as the beginning of a file's name.
SPLIT = re.compile(r"(train|test|valid|val|dev|eval)[a-z]*(?![a-z])", re.IGNORECASE)


def find_files(path: Path) -> list[Path]:
    """The files of DATA parquet: one, those of a folder, or those that a pattern names.

    Shards are in the order of the numbers in their names.

    Raises:
        FileNotFoundError: no such file. ValueError: a folder of several splits.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in path.glob("*.parquet") if file.name[0] not in "._"]
        splits = {m[1].lower(): file.name for file in files if (m := SPLIT.match(file.name))}
        if len(splits) > 1:
            names = sorted(splits.values())
            first = names[0].partition("-")[0].partition(".")[0]
            raise ValueError(
                f"DATA parquet: expected the shards of one dataset in {path}, got {names[0]} and "
                f"{names[1]}; pass 'parquet:{path / first}*.parquet'."
            )
        if not files:
            raise FileNotFoundError(f"DATA parquet: expected files .parquet in {path}, got none.")
    else:
        files = [Path(name) for name in glob.glob(str(path)) if os.path.isfile(name)]
        if not files:
            raise FileNotFoundError(
                f"DATA parquet: expected an existing file, got {path}; pass a file, a folder of "
                "them or a pattern."
            )
    return in_natural_order(path, files, "rename them")


class ParquetTable:
    """Shards of the same columns, one after the other.

    types: Arrow's, by column. features: what `datasets` noted of columns, by column; may be empty.
    """

    def __init__(self, path: Path) -> None:
        """path: as in `find_files`. Raises what it raises; ValueError for no Parquet file."""
        self._parquet = require("pyarrow.parquet", "DATA parquet:", "tables")
        self._files = find_files(path)
        with readable(self._files[0]):
            schema = self._parquet.read_schema(self._files[0])
            self.types: dict[str, Any] = dict(zip(schema.names, schema.types, strict=True))
        self.features: dict[str, Any] = _features(schema.metadata or {})

    def read(self, columns: Sequence[str]) -> Any:
        """An Arrow table of these columns."""
        pa, tables = require("pyarrow", "DATA parquet:", "tables"), []
        for file in self._files:
            with readable(file):
                parquet = self._open(file)
                for name in columns:
                    if name not in parquet.schema_arrow.names:
                        raise ValueError(
                            f"{file}: expected a column {name!r} as in {self._files[0]}, got "
                            f"{', '.join(parquet.schema_arrow.names)}."
                        )
                tables.append(parquet.read(list(columns)).replace_schema_metadata(None))
        with readable(self._files[0]):
            return pa.concat_tables(tables, promote_options="permissive")

    def images(self, column: str) -> Images:
        """The entries of a column of encoded images, read as they are indexed.

        Raises ValueError for a column that is neither bytes nor a struct with a field `bytes`.
        """
        groups = []
        for file in self._files:
            with readable(file):
                parquet = self._open(file)
                metadata, schema = parquet.metadata, parquet.schema_arrow
                rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
                kind = schema.field(column).type
            field_of_bytes = _encoded(kind, f"{file}, column {column!r}")
            part = f"{column}.{field_of_bytes}" if field_of_bytes else column
            groups += [Group(file, number, part, count) for number, count in enumerate(rows)]
        return Images(self._parquet, groups)

    def _open(self, file: Path) -> Any:
        return open_parquet(self._parquet, file)


@dataclass(frozen=True)
class Group:
    """A row group of a file: its number there, the part of the column that is read, its rows."""

    file: Path
    number: int
    part: str
    rows: int


@dataclass
class Place:
    """Where a process reads: a row group, and the batch of it that begins at row `begin`."""

    process: int
    group: int
    batches: Iterator[Any]
    begin: int
    values: Any = field(default_factory=tuple)


class Images:
    """Encoded images of row groups: in order, each group is read once, some rows at a time."""

    def __init__(self, parquet: Any, groups: Sequence[Group]) -> None:
        self._parquet, self._groups = parquet, groups
        self._starts = [0, *accumulate(group.rows for group in groups)]
        self._place: Place | None = None
        self._lock = ForkLock()

    def __len__(self) -> int:
        return self._starts[-1]

    def where(self, row: int) -> str:
        """The file of a row, and its number there."""
        number = bisect_right(self._starts, row) - 1
        file = self._groups[number].file
        first = next(n for n, group in enumerate(self._groups) if group.file == file)
        return f"row {row - self._starts[first]} of {file}"

    @cached_property
    def is_sharded(self) -> bool:
        """Whether rows are of several files."""
        return len({group.file for group in self._groups}) > 1

    def __getitem__(self, row: int) -> bytes:
        """Raises ValueError for an empty entry; and what Arrow raises."""
        with self._lock:
            content = self._read(row).as_py()
        if isinstance(content, Mapping):
            (content,) = content.values()
        if content is None:
            raise ValueError("expected the bytes of an image's file, got none")
        return bytes(content)

    def _read(self, row: int) -> Any:
        """The entry of a row, from the batch that holds it."""
        number = bisect_right(self._starts, row) - 1
        place = self._place
        # Arrow's files and their positions are a process's own: a worker of a loader opens anew.
        if (
            place is None
            or (place.process, place.group) != (os.getpid(), number)
            or row < place.begin
        ):
            place = Place(os.getpid(), number, self._batches(number), self._starts[number])
        self._place = None  # if Arrow fails, the next row begins anew
        while row >= place.begin + len(place.values):
            place.begin += len(place.values)
            batch = next(place.batches, None)
            if batch is None:
                raise ValueError(f"expected {self._groups[number].rows} rows in its row group")
            place.values = batch.column(0)
        self._place = place
        return place.values[row - place.begin]

    def _batches(self, number: int) -> Iterator[Any]:
        group = self._groups[number]
        file = open_parquet(self._parquet, group.file)
        batches: Iterator[Any] = file.iter_batches(
            BATCH_ROWS, row_groups=[group.number], columns=[group.part], use_threads=False
        )
        return batches


def open_parquet(parquet: Any, file: Path) -> Any:
    """A file whose pages are read as they are needed, and checked where it has checksums."""
    return parquet.ParquetFile(
        file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True
    )


@contextmanager
def readable(file: Path, kind: str = "parquet") -> Iterator[None]:
    """Turn what Arrow raises on a broken file, of many kinds, into a sentence."""
    pa = require("pyarrow", f"DATA {kind}:", "tables")
    try:
        yield
    except MemoryError:
        raise MemoryError(f"{file}: expected columns that fit into memory, got more.") from None
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(
            f"DATA {kind}: expected a readable {FORMS[kind]} file, got {file}."
        ) from error


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The features of a dataset of `datasets`, by column; empty where there are none."""
    try:
        features = json.loads(metadata[METADATA_KEY])["info"]["features"]
        return {name: f for name, f in features.items() if isinstance(f, dict)}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _encoded(kind: Any, source: str) -> str:
    """The field of a struct that holds encoded images, or "" where entries are bytes themselves."""
    types = require("pyarrow", "DATA parquet:", "tables").types
    name, value = "", kind
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        name, value = "bytes", kind.field("bytes").type
    if types.is_dictionary(value):
        value = value.value_type
    if not (
        types.is_binary(value) or types.is_large_binary(value) or types.is_fixed_size_binary(value)
    ):
        raise ValueError(
            f"{source}: expected the bytes of image files, or a struct with a field 'bytes', got "
            f"{kind}."
        )
    return name
