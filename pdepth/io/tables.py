"""Columns as a pandas frame, and as one Parquet file with metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pdepth.io.atomic import replacing
from pdepth.optional import require

METADATA_KEY = b"pdepth"
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
    """One Parquet file, whole or not at all, with `about` as JSON in the schema's metadata."""
    pa = require("pyarrow", what, "tables")
    pq = require("pyarrow.parquet", what, "tables")

    def arrow(values: NDArray[Any], missing: NDArray[np.bool_] | None) -> Any:
        if values.ndim == 1:
            return pa.array(values, mask=missing)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    table = pa.table({name: arrow(*column) for name, column in columns.items()})
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read(path: str | os.PathLike[str], kind: str, newest: int) -> tuple[Any, dict[str, Any]]:
    """The Arrow table and the metadata of a file that `write` wrote for a `kind` of result.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a Parquet file, none of pdepth's, or of a format after `newest`.
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
        return pq.read_table(path, partitioning=None), about


def about_of(path: str | os.PathLike[str], expected: str = "result") -> tuple[str, dict[str, Any]]:
    """The kind of result in a file, and its metadata. Raises as `read`."""
    pq = require("pyarrow.parquet", f"{expected}.load", "tables")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected {_a(expected)} in a file, got none.")
    with _readable(path):
        schema = pq.read_schema(path)
    about = json.loads((schema.metadata or {}).get(METADATA_KEY, b"null"))
    if about is None:
        raise ValueError(
            f"{path}: expected a file that pdepth wrote, got one without its metadata."
        )
    return about.get("kind", "DepthResult"), about


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except require("pyarrow", "Reading results", "tables").ArrowInvalid:
        raise ValueError(f"{path}: expected a Parquet file, got one that cannot be read.") from None


def column(table: Any, name: str) -> NDArray[Any]:
    """A column (N,) or (N, n), a copy: Arrow's own memory is read-only."""
    values = table[name]
    if str(values.type).startswith("fixed_size_list"):
        flat = np.array(values.combine_chunks().flatten().to_numpy())
        return flat.reshape(-1, values.type.list_size)
    return np.array(values.to_numpy())


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"
