"""Columns as a pandas frame, and as one Parquet file with metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pdepth.io.atomic import replacing
from pdepth.optional import require

METADATA_KEY = b"pdepth"
CHECKSUM = "checksum"  # in files of older versions there is none
Columns: TypeAlias = "Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]"
"""Each column's values, (N,) or (N, n) in a file, and where they are missing; None: nowhere."""


def frame(columns: Columns, what: str) -> Any:
    """A pandas DataFrame; integers of which some are missing are of the nullable Int64."""
    pandas = require("pandas", what, "tables")
    return pandas.DataFrame(
        {
            name: values if missing is None else pandas.arrays.IntegerArray(values, missing)
            for name, (values, missing) in columns.items()
        }
    )


def write(
    columns: Columns, about: Mapping[str, Any], path: str | os.PathLike[str], what: str
) -> None:
    """One Parquet file, whole or not at all, with `about` as JSON in the schema's metadata.

    Its pages have checksums, and the metadata one of all columns and of itself.
    """
    pa = require("pyarrow", what, "tables")
    pq = require("pyarrow.parquet", what, "tables")

    def arrow(values: NDArray[Any], missing: NDArray[np.bool_] | None) -> Any:
        if values.ndim == 1:
            return pa.array(values, mask=missing)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    table = pa.table({name: arrow(*column) for name, column in columns.items()})
    about = {**about, CHECKSUM: _checksum(table, about)}
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    with replacing(path) as temporary, temporary.open("wb") as file:
        pq.write_table(table, file, write_page_checksum=True)


def read(path: str | os.PathLike[str], kind: str, newest: int) -> tuple[Any, dict[str, Any]]:
    """The Arrow table and the metadata of a file that `write` wrote for a `kind` of result.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a Parquet file, none of pdepth's, of a format after `newest`, or one that
            has changed since it was written.
    """
    actual, about = about_of(path, kind)
    if actual != kind:
        raise ValueError(f"{path}: expected {_a(kind)}, got {_a(actual)}.")
    if about["format"] > newest:
        raise ValueError(
            f"{path}: expected format {newest} or older, got {about['format']}, of a newer pdepth."
        )
    pq = require("pyarrow.parquet", f"{kind}.load", "tables")
    with _readable(path):
        table = pq.read_table(path, partitioning=None, page_checksum_verification=True)
        checksum = about.pop(CHECKSUM, None)
        whole = checksum in (None, _checksum(table, about))
    if not whole:
        raise ValueError(f"{path}: expected the content that pdepth wrote, got one that differs.")
    return table, about


def row_numbers(path: str | os.PathLike[str], name: str, what: str) -> list[Any]:
    """The column of this name of any Parquet file, as Python's numbers.

    Raises FileNotFoundError; ValueError for another file, or one without such a column;
    ImportError without pyarrow.
    """
    pq = require("pyarrow.parquet", what, "tables")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected a Parquet file, got none.")
    with _readable(path):
        names = pq.read_schema(path).names
        values = None if name not in names else pq.read_table(path, columns=[name])[name]
    if values is None:
        raise ValueError(f"{path}: expected a column {name}, got {', '.join(names)!r:.60}.")
    return list(values.to_pylist())


def about_of(path: str | os.PathLike[str], expected: str = "result") -> tuple[str, dict[str, Any]]:
    """The kind of result in a file, and its metadata. Raises as `read`."""
    pq = require("pyarrow.parquet", f"{expected}.load", "tables")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected {_a(expected)} in a file, got none.")
    with _readable(path):
        schema = pq.read_schema(path)
        about = json.loads((schema.metadata or {}).get(METADATA_KEY, b"null"))
    if not isinstance(about, dict) or "format" not in about:
        raise ValueError(
            f"{path}: expected a file that pdepth wrote, got one without its metadata."
        )
    return about.get("kind", "DepthResult"), about


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file, whatever a damaged one makes of its readers; errors of the disk stay."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: expected a Parquet file, got one that cannot be read.") from None


def _checksum(table: Any, about: Mapping[str, Any]) -> str:
    """Of an Arrow table's names, types and values, and of what is said about it."""
    digest = blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name in table.column_names:
        values = table[name].combine_chunks()
        size = 1
        if str(values.type).startswith("fixed_size_list"):
            size, values = values.type.list_size, values.flatten()
        digest.update(f"{name} {values.type} {size}".encode())
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        digest.update(valid.tobytes())
        if str(values.type).startswith(("int", "uint", "float", "double", "half", "bool")):
            present = values.drop_null().to_numpy(zero_copy_only=False)
            digest.update(present.tobytes())
        else:
            digest.update(json.dumps(values.to_pylist(), default=str).encode())
    return digest.hexdigest()


def column(table: Any, name: str) -> NDArray[Any]:
    """A column (N,) or (N, n), a copy: Arrow's own memory is read-only."""
    values = table[name]
    if str(values.type).startswith("fixed_size_list"):
        flat = np.array(values.combine_chunks().flatten().to_numpy())
        return flat.reshape(-1, values.type.list_size)
    return np.array(values.to_numpy())


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"
