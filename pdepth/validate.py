"""Every check of the engine's arguments: wrong input ends here, in one sentence, before work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import _native, definition, native
from pdepth.rows import Rows, is_array, is_torch, rows_of

METRICS = ("sqeuclidean", "cosine")
MOST_ROWS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Layer:
    """One probe's rows: `support` (M, D), and `queries` (N, D) or None for the support's own."""

    name: str
    support: Rows
    queries: Rows | None


@dataclass(frozen=True, eq=False)
class Problem:
    """A call of the engine, checked: what every backend is given.

    codes: (M,) int32, each support row's class as its place in `classes` (C,) int64, ascending.
    query_rows: (N,) int64 support rows that are asked, or None; count: N.
    """

    layers: tuple[Layer, ...]
    codes: NDArray[np.int32]
    classes: NDArray[np.int64]
    k: int
    exclude_self: bool
    query_rows: NDArray[np.int64] | None
    count: int
    threads: int


def whole(value: Any, what: str, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what} is {value!r}; an integer is wanted.")
    if value < least:
        raise ValueError(f"{what} is {value}; at least {least} is wanted.")
    return int(value)


def enough_rows(k: int, rows: int, *, leave_one_out: bool) -> None:
    """A query has k neighbours among `rows` rows."""
    most = rows - leave_one_out
    if k > most:
        left = ", less the row left out" if leave_one_out else ""
        raise ValueError(f"k is {k} and support has {rows} rows{left}; at most {most} is wanted.")


def integers(value: Any, what: str, length: int | None = None) -> NDArray[np.int64]:
    """`value` as (length,) int64."""
    if is_torch(value):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{what} has shape {array.shape}; one dimension is wanted.")
    if array.size and array.dtype.kind not in "iub":
        raise TypeError(f"{what} has elements of type {array.dtype}; integers are wanted.")
    if length is not None and len(array) != length:
        raise ValueError(f"{what} has {len(array)} entries; {length} are wanted.")
    return array.astype(np.int64)


def coded(labels: Any, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The distinct labels (C,), ascending, and each row's place among them (M,)."""
    classes, codes = np.unique(integers(labels, "labels", rows), return_inverse=True)
    return classes, codes.astype(np.int32)


def pairs(support: Any, queries: Any) -> list[tuple[str, Any, Any]]:
    """(name, support array, query array or None) of each probe, from what users may pass."""
    if is_array(support):
        if queries is not None and not is_array(queries):
            raise TypeError(
                f"queries is a {type(queries).__name__} and support one array; "
                "one array is wanted for both, or one array a probe."
            )
        return [("probe 0", support, queries)]
    if isinstance(support, Mapping):
        names = [str(name) for name in support]
        if isinstance(queries, Mapping):
            if list(queries) != list(support):
                raise ValueError(
                    f"queries has the probes {list(queries)}, support {list(support)}; "
                    "the same names in the same order are wanted."
                )
            queries = list(queries.values())
        support = list(support.values())
    elif isinstance(support, Sequence) and not isinstance(support, str | bytes):
        names = [f"probe {i}" for i in range(len(support))]
    else:
        raise TypeError(
            f"support is a {type(support).__name__}; an array, or a sequence, mapping or iterator "
            "of arrays is wanted."
        )
    if not support:
        raise ValueError("support holds no probe.")
    if queries is None:
        return [(name, array, None) for name, array in zip(names, support, strict=True)]
    if is_array(queries) or not isinstance(queries, Sequence):
        raise TypeError(
            f"queries is a {type(queries).__name__}; one array a probe is wanted, as in support."
        )
    if len(queries) != len(support):
        raise ValueError(
            f"queries has {len(queries)} probes and support {len(support)}; as many are wanted."
        )
    return list(zip(names, support, queries, strict=True))


def layer(name: str, support: Any, queries: Any, metric: str, threads: int) -> Layer:
    """One probe's arrays, checked: kinds, shapes, finite values, and rows that have a direction."""
    own = _embedding(support, f"support ({name})", metric, threads)
    if queries is None:
        return Layer(name, own, None)
    asked = _embedding(queries, f"queries ({name})", metric, threads)
    if asked.width != own.width:
        raise ValueError(
            f"queries ({name}) has width {asked.width} and support {own.width}; "
            "equal widths are wanted."
        )
    return Layer(name, own, asked)


def _embedding(array: Any, what: str, metric: str, threads: int) -> Rows:
    rows = rows_of(array, what)
    if len(rows) > MOST_ROWS:
        raise ValueError(f"{what} has {len(rows)} rows; at most {MOST_ROWS} are wanted.")
    if rows.type.startswith(("float", "bfloat")):
        bad = _native.first_not_finite(rows.array, rows.type, native.simd_level(), threads)
        if bad >= 0:
            raise ValueError(f"{what} has NaN or infinity in row {bad}; finite values are wanted.")
    return _normalised(rows, what) if metric == "cosine" else rows


def _normalised(rows: Rows, what: str) -> Rows:
    """Rows divided by their norms, in float64, as the definition does it; a stretch at a time."""
    out = np.empty(rows.array.shape)
    for begin in range(0, len(rows), 1024):
        part = Rows(rows.array[begin : begin + 1024], rows.type).widened()
        empty = np.flatnonzero(~part.any(axis=1))
        if len(empty):
            raise ValueError(
                f"{what} is zero in row {begin + empty[0]}; metric='cosine' wants rows with a "
                "direction."
            )
        out[begin : begin + 1024] = definition.as_rows(part, "cosine")
    return Rows(out, "float64")


def problem(
    pairs: list[tuple[str, Any, Any]],
    labels: Any,
    *,
    query_rows: Any,
    k: Any,
    metric: str,
    exclude_self: bool,
    num_threads: int | None,
) -> Problem:
    """The whole call, checked; `labels=None` stands for one class."""
    threads = native.default_threads() if num_threads is None else whole(num_threads, "num_threads")
    k = whole(k, "k")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; one of {', '.join(METRICS)} is wanted.")
    own_rows = pairs[0][2] is None
    if query_rows is not None and not own_rows:
        raise ValueError("query_rows picks rows of the support and cannot go with queries.")
    layers = tuple(layer(*pair, metric, threads) for pair in pairs)
    rows = _common([(len(one.support), one.name) for one in layers], "support")
    if own_rows:
        count = rows
        if query_rows is not None:
            query_rows = integers(query_rows, "query_rows")
            if len(query_rows) == 0:
                raise ValueError("query_rows is empty.")
            if query_rows.min() < 0 or query_rows.max() >= rows:
                bad = query_rows[(query_rows < 0) | (query_rows >= rows)][0]
                raise ValueError(f"query_rows holds {bad}; rows from 0 to {rows - 1} are wanted.")
            count = len(query_rows)
    else:
        count = _common([(len(one.queries or ()), one.name) for one in layers], "queries")
    enough_rows(k, rows, leave_one_out=own_rows and exclude_self)
    if labels is None:
        labels = np.zeros(rows, dtype=np.int64)
    classes, codes = coded(labels, rows)
    return Problem(layers, codes, classes, k, bool(exclude_self), query_rows, count, threads)


def _common(counts: list[tuple[int, str]], what: str) -> int:
    first, first_name = counts[0]
    for rows, name in counts:
        if rows != first:
            raise ValueError(
                f"{what} has {first} rows at {first_name} and {rows} at {name}; "
                "equally many at every probe are wanted."
            )
    return first
