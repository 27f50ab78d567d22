"""Collation: rows, or a loader's own batch, become what a network is called with, and labels."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import get_worker_info

from pdepth.embeddings.batch import to_tensor
from pdepth.embeddings.processors import first_line, process, refuse_columns
from pdepth.embeddings.stacking import Column, Refused, as_columns, stack_rows

LABELS = ("label", "labels")


class Collated(NamedTuple):
    """inputs: a tensor, nested dicts or lists of them, or graphs. labels: as they were read."""

    inputs: Any
    labels: Any


@dataclass(frozen=True)
class Failure:
    """Why there is no batch.

    It is handed over, and raised where batches are read: a DataLoader would wrap what its worker
    raises into pages of text.
    """

    sentence: str
    cause: BaseException | None


class Collation:
    """A DataLoader's `collate_fn`: rows (or what the loader's own collation makes of them) to
    inputs and labels."""

    def __init__(
        self, collate: Callable[[Any], Any] | None, label_column: str | None, processor: Any
    ) -> None:
        """collate: of the user's loader; None for rows as they are. Others: `DataOptions`."""
        self._collate, self._label_column, self._processor = collate, label_column, processor

    def __call__(self, rows: Any) -> Collated | Failure:
        try:
            inputs, labels = self._parted(self._batch(rows))
            if self._processor is not None:
                inputs = process(self._processor, inputs, self._collate is None)
            else:
                refuse_columns(inputs)
            tensors = _tensors_of(inputs)
            if tensors is None:
                raise Refused(f"expected tensors as inputs, got {described(inputs)}.")
            return Collated(tensors, to_tensor(labels))
        except Refused as refused:
            cause = refused.__cause__
            if cause is not None and get_worker_info() is not None:  # it may not pickle
                cause = RuntimeError("".join(traceback.format_exception(cause)))
            return Failure(str(refused), cause)

    def _batch(self, rows: Any) -> Any:
        try:
            return stack_rows(rows) if self._collate is None else as_columns(self._collate(rows))
        except Refused:
            raise
        except Exception as error:
            if self._collate is None:
                text = (
                    "expected rows that can be stacked, got an error: {}; pass a DataLoader with a "
                    "collate_fn that makes a batch of them."
                )
            else:
                text = (
                    "expected a batch from the DataLoader's collate_fn, got an error: {}; try "
                    "loader.collate_fn([dataset[0], dataset[1]])."
                )
            raise Refused(text.format(first_line(error))) from error

    def _parted(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and labels of a batch; a dict without its labels."""
        column = self._label_column
        if hasattr(batch, "num_graphs"):
            return batch, _labels_of_graphs(batch, column or "y")
        if isinstance(batch, Mapping):
            names = [name for name in ([column] if column else LABELS) if name in batch]
            if len(names) != 1:
                raise _no_labels(batch, column, names)
            inputs = {name: value for name, value in batch.items() if name != names[0]}
            return inputs, batch[names[0]]
        if column is not None:
            raise Refused(
                f"expected rows that are dicts, for label_column={column!r}, got "
                f"{described(batch)}; leave label_column out."
            )
        if isinstance(batch, Column) or not isinstance(batch, tuple | list) or len(batch) < 2:
            raise Refused(
                f"expected (input, label) rows, got {described(batch)} without labels; pass rows "
                "that are pairs, or dicts with a key 'label'."
            )
        return batch[0], batch[1]


def described(value: Any) -> str:
    """A value's type, and of lists that of their first."""
    if isinstance(value, tuple | list) and value:
        kind = "tuple" if isinstance(value, Column) else type(value).__name__
        return f"{kind} of {type(value[0]).__name__}"
    return type(value).__name__


def _no_labels(batch: Mapping[Any, Any], column: str | None, names: list[str]) -> Refused:
    keys = ", ".join(map(repr, batch))
    if names:
        return Refused(
            f"expected labels under one key, got {' and '.join(map(repr, names))}; pass "
            f"label_column={names[0]!r}, and take the other out."
        )
    if column is not None:
        return Refused(f"expected labels under label_column={column!r}, got the keys {keys}.")
    integers = [name for name, value in batch.items() if _is_one_integer_a_row(value)]
    name = repr(integers[-1]) if integers else "the labels' key"
    return Refused(
        "expected (input, label) rows or dicts with a key 'label' or 'labels', got dict without "
        f"labels, with the keys {keys}; pass label_column={name}."
    )


def _is_one_integer_a_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 1 and not value.is_floating_point()


def _labels_of_graphs(batch: Any, name: str) -> Any:
    labels = getattr(batch, name, None)
    if labels is None:
        raise Refused(
            f"expected labels of graphs as their attribute {name}, got none; name it: "
            "label_column=...."
        )
    return labels


def _tensors_of(value: Any) -> Any:
    """The value without text and None, which no network computes with; None if nothing stays."""
    if isinstance(value, Mapping):
        entries = {name: _tensors_of(item) for name, item in value.items()}
        return {name: item for name, item in entries.items() if item is not None} or None
    if isinstance(value, Column):
        return None
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        items = [_tensors_of(item) for item in value if not isinstance(item, Column)]
        while items and items[-1] is None:  # one between others keeps their places
            items.pop()
        return items or None
    value = to_tensor(value)
    return value if isinstance(value, Tensor | tuple) or hasattr(value, "to") else None
