"""Rows as one batch: what can be stacked becomes tensors, and the rest stays a column of values."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from pdepth.embeddings.batch import NUMBERS, tensor_of

NUMBER = (bool, int, float, np.number, np.bool_)


class Column(tuple[Any, ...]):
    """One value a row where no tensor holds them: text, images, arrays of unequal shapes."""


class Refused(ValueError):
    """Why rows make no batch; a sentence without the argument's name."""


def stack_rows(rows: Sequence[Any]) -> Any:
    """A batch of rows: (inputs, labels) of tuples, without further entries; a dict of dicts.

    Tensors, NumPy arrays, numbers and lists of numbers are stacked as `default_collate` does, the
    lists as arrays; nested tuples and dicts keep their form, graphs of PyTorch Geometric become one
    of its batches, and all else a `Column`.
    """
    first = rows[0]
    if isinstance(first, tuple | list):
        return [stack([row[place] for row in rows]) for place in range(min(len(first), 2))]
    return stack(rows)


def stack(values: Sequence[Any]) -> Any:
    """One entry of all rows, see `stack_rows`."""
    first = next((value for value in values if not _is_empty(value)), values[0])
    if isinstance(first, Tensor | np.ndarray) or _is_numbers(first):
        return _stack_arrays(values)
    if isinstance(first, NUMBER):
        return default_collate(list(values))
    if first is None and all(value is None for value in values):
        return None
    if isinstance(first, str | bytes) or is_image(first) or is_audio(first):
        return Column(values)
    if isinstance(first, Mapping):
        return {name: stack([value[name] for value in values]) for name in first}
    if isinstance(first, tuple | list) and first:
        return _stack_entries(values)
    if type(first).__module__.startswith("torch_geometric.data"):
        return importlib.import_module("torch_geometric.data").Batch.from_data_list(list(values))
    try:
        return default_collate(list(values))  # of types that users registered with it
    except TypeError:
        return Column(values)


def as_columns(batch: Any) -> Any:
    """What a loader's own collation gave, with lists of text, images and numbers stacked."""
    if isinstance(batch, tuple | list) and not hasattr(batch, "_fields"):
        return [_as_column(value) for value in batch]
    return _as_column(batch)


def _as_column(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_column(item) for name, item in value.items()}
    if not isinstance(value, tuple | list) or hasattr(value, "_fields") or not value:
        return value
    first = value[0]
    numbers = _is_numbers(list(value))
    if numbers or isinstance(first, str | bytes) or is_image(first) or is_audio(first):
        return stack(value)
    return [_as_column(item) for item in value]


def is_image(value: Any) -> bool:
    """Whether it is a PIL image, or an encoded one as files of images hold it."""
    return (hasattr(value, "getbands") and hasattr(value, "convert")) or is_encoded_image(value)


def is_encoded_image(value: Any) -> bool:
    """Whether it is the bytes of an image's file, or the struct of them that Parquet files hold."""
    return isinstance(value, bytes) or (
        isinstance(value, Mapping) and "bytes" in value and set(value) <= {"bytes", "path"}
    )


def is_audio(value: Any) -> bool:
    """Whether it is a decoded sound: samples with their rate."""
    if isinstance(value, Mapping):
        return {"array", "sampling_rate"} <= set(value)
    return hasattr(value, "get_all_samples")


def _stack_arrays(values: Sequence[Any]) -> Any:
    """A tensor, or a Column of tensors where shapes differ; of arrays without numbers, of these."""
    tensors = []
    for value in values:
        if not isinstance(value, Tensor):
            array = np.asarray(value)
            if array.dtype.kind not in NUMBERS:
                return Column(values)
            value = tensor_of(array)
        tensors.append(value)
    if len({tensor.shape for tensor in tensors}) > 1:
        return Column(tensors)
    return default_collate(tensors)


def _stack_entries(values: Sequence[Any]) -> Any:
    first = values[0]
    lengths = sorted({len(value) for value in values})
    if len(lengths) > 1:
        raise Refused(
            f"expected as many entries in each row, got {lengths[0]} and {lengths[-1]}; pass a "
            "DataLoader with a collate_fn that makes a batch of them."
        )
    entries = [stack([value[place] for value in values]) for place in range(len(first))]
    return type(first)(*entries) if hasattr(first, "_fields") else entries


def _is_numbers(value: Any) -> bool:
    """Whether it is a list of numbers, or of such lists: an array without its type.

    A tuple is none: it is several inputs.
    """
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(item, NUMBER) or _is_numbers(item) for item in value)
    )


def _is_empty(value: Any) -> bool:
    return isinstance(value, list | tuple) and not value
