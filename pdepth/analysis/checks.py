"""Checks of arrays with one entry per example, and of results that an analysis needs in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.convert import to_numpy
from pdepth.result import DepthResult


def check_numbers(values: Any, name: str) -> NDArray[Any]:
    """Return `values` as an array of numbers; raise TypeError for any other type of elements."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got elements of type {array.dtype}.")
    return array


def check_values(values: Any, name: str, count: int) -> NDArray[Any]:
    """Return `values` as (count,) numbers without NaN."""
    array = check_shape(to_numpy(values), name, (count,))
    missing = np.isnan(check_numbers(array, name))
    if missing.any():
        raise ValueError(f"{name}: expected numbers, got NaN in row {int(missing.argmax())}.")
    return array


def check_shape(values: Any, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return `values` as an array of exactly this shape."""
    array = np.asarray(values)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}.")
    return array


def check_unique(values: NDArray[Any], name: str) -> None:
    """Raise ValueError, naming the value, where one occurs twice."""
    distinct, times = np.unique(values, return_counts=True)
    if len(distinct) < len(values):
        raise ValueError(f"{name}: expected distinct values, got {distinct[times > 1][0]!s} twice.")


def check_images(images: Any, count: int, name: str = "images", each: str = "example") -> None:
    """Raise ValueError unless `images` is None or holds `count` images, one per `each`."""
    if images is not None and len(images) != count:
        raise ValueError(f"{name}: expected {count}, one per {each}, got {len(images)}.")


def check_examples(result: DepthResult) -> None:
    """Raise ValueError for a result without examples."""
    if len(result) == 0:
        raise ValueError("result: expected at least one example, got none.")


def check_not_iterator(embeddings: Any, name: str) -> None:
    """Raise TypeError for an iterator, because it can be read only once."""
    if isinstance(embeddings, Iterator):
        raise TypeError(
            f"{name}: expected a sequence or mapping of arrays, got a "
            f"{type(embeddings).__name__}, which can be read only once."
        )


def check_probe_arrays(embeddings: Any, name: str) -> list[Any]:
    """Return embeddings as a list with one array per probe; raise TypeError for a single array."""
    if embeddings is None:
        raise TypeError(f"{name}: expected embeddings, one array per probe, got None.")
    if hasattr(embeddings, "shape"):
        raise TypeError(f"{name}: expected a list with one array per probe, got one array.")
    check_not_iterator(embeddings, name)
    return list(embeddings.values() if isinstance(embeddings, Mapping) else embeddings)


def labels_and_votes(
    result: DepthResult, function: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return labels (N,) and votes (L, N) of a result that has all of them.

    Args:
        function: what needs them, for the error's sentence.

    Raises:
        ValueError: the result has no labels, or early exit left votes unknown.
    """
    if result.labels is None:
        raise ValueError(f"{function}: expected a result with labels, got one without.")
    if not result.known.all():
        raise ValueError(
            f"{function}: expected a result with every vote, got unknown votes after early exit; "
            "pass early_exit=False to prediction_depth."
        )
    return result.labels, result.votes
