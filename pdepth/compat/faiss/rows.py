"""Rows as faiss takes them, and what a flat index searches."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pdepth
from pdepth.arrays.convert import as_single, convert_like, to_numpy
from pdepth.arrays.rows import is_torch
from pdepth.compat.shared.packing import packing_memory
from pdepth.native import default_arithmetic

METRIC_INNER_PRODUCT, METRIC_L2 = 0, 1  # as faiss numbers them
FURTHEST = float(np.finfo(np.float32).max)  # where there is no row
NARROW = ("float16", "bfloat16", "int8", "uint8", "int16")  # each number is one of float32's

Found = tuple[Any, Any]
"""Squared distances or products (N, k) float64, and rows (N, k) int64."""


def name_of(metric: int) -> str:
    """pdepth's word for it."""
    return "sqeuclidean" if metric == METRIC_L2 else "inner_product"


def held(rows: Any, metric: int) -> pdepth.Index:
    """Hold a copy of rows (M, D) float32, packed when they are first searched."""
    return pdepth.Index(rows, metric=name_of(metric))


def found_once(support: Any, queries: Any, k: int, metric: int, num_threads: int | None) -> Found:
    """Search rows that are not held; the support is packed a few at a time."""
    memory = packing_memory(support, num_threads)
    found: Found = pdepth.kneighbors(
        support, queries, k=k, metric=name_of(metric), memory=memory, num_threads=num_threads
    )
    return found


def copied(rows: Any) -> Any:
    return rows.clone() if is_torch(rows) else rows.copy()


def as_rows(x: Any, name: str, width: int | None = None, *, keep_narrow: bool = False) -> Any:
    """Convert x to (n, width) float32, or leave it as it is where its type is `NARROW`."""
    kind = str(getattr(x, "dtype", "")).removeprefix("torch.")
    if not (keep_narrow and kind in NARROW):
        x = as_single(x, name)
    if x.ndim != 2:
        raise ValueError(f"{name}: expected shape (N, D), got {tuple(x.shape)}.")
    if width is not None and x.shape[1] != width:
        raise AssertionError(f"{name}: expected width {width}, got {x.shape[1]}.")
    return x


def as_count(k: Any) -> int:
    """How many rows are asked for. Raises TypeError for what is no integer."""
    try:
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k: expected an integer, got {k!r}.") from None
    if count < 1:
        raise AssertionError(f"k: expected an integer >= 1, got {count}.")
    return count


def check_metric(metric: int) -> None:
    if metric not in (METRIC_L2, METRIC_INNER_PRODUCT):
        raise ValueError(
            f"metric: expected METRIC_L2 ({METRIC_L2}) or METRIC_INNER_PRODUCT "
            f"({METRIC_INNER_PRODUCT}), got {metric}."
        )


def answer(
    found: Found | None, shape: tuple[int, int], metric: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Round what was found to float32, and fill up with row -1."""
    distances = np.full(shape, -FURTHEST if metric == METRIC_INNER_PRODUCT else FURTHEST, "float32")
    rows = np.full(shape, -1, np.int64)
    if found is not None:
        values, near = map(to_numpy, found)
        with default_arithmetic(), np.errstate(over="ignore"):  # beyond float32: infinite
            distances[:, : values.shape[1]] = values
        rows[:, : near.shape[1]] = near
    return distances, rows


def into(out: Any, values: Any, name: str = "x") -> Any:
    """Return values, or `out` with the values written to it."""
    if out is None:
        return values
    if tuple(out.shape) != tuple(values.shape):
        raise AssertionError(f"{name}: expected shape {tuple(values.shape)}, got {out.shape}.")
    out[:] = convert_like(to_numpy(values), out)
    return out
