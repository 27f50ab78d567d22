"""A dataset after decisions: dropped rows are left out, and some labels are others."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.rows import is_torch
from pdepth.inputs.texts import LABEL_COLUMNS


class DecidedRows:
    """A view of a dataset: nothing is read or copied before a row is asked for.

    Args:
        dataset: whose rows have numbers: rows (input, label, ...), mappings with their label under
            `label_column`, or graphs with `y`.
        rows: (n,) int64, the numbers of those that are left, ascending.
        labels: the new labels, by the rows' numbers; also of rows that later decisions left out,
            whose labels decisions in between may know.
        reasons: why the other rows are left out, by their numbers.
        label_column: the key of labels; None for `label` or `labels`.
    """

    def __init__(
        self,
        dataset: Any,
        rows: NDArray[np.int64],
        labels: Mapping[int, int],
        reasons: Mapping[int, str],
        label_column: str | None = None,
    ) -> None:
        self.dataset, self.rows, self.labels = dataset, rows, dict(labels)
        self.reasons, self.label_column = dict(reasons), label_column

    @property
    def relabelled(self) -> dict[int, int]:
        """The new labels of the rows that are left, by their numbers."""
        left = set(self.rows[np.isin(self.rows, [*self.labels])].tolist())
        return {row: label for row, label in self.labels.items() if row in left}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        row = int(self.rows[place])
        value = self.dataset[row]
        if row not in self.labels:
            return value
        return with_label(value, self.labels[row], self.label_column)

    def __repr__(self) -> str:
        return (
            f"DecidedRows({len(self)} of {len(self.dataset)} rows, {len(self.relabelled)} "
            "relabelled)"
        )


def label_of(row: Any, label_column: str | None = None) -> int:
    """The label of a dataset's row. Raises TypeError for a row that has none."""
    if isinstance(row, Mapping):
        return int(row[_label_key(row, label_column)])
    if isinstance(row, tuple | list) and len(row) > 1:
        return int(row[1])
    if getattr(row, "y", None) is not None:
        return int(row.y)
    raise _no_label(row)


def with_label(row: Any, label: int, label_column: str | None = None) -> Any:
    """The row with another label; the one that was given stays as it is."""
    if isinstance(row, Mapping):
        key = _label_key(row, label_column)
        return {**row, key: _of_kind(row[key], label)}
    if isinstance(row, tuple | list) and len(row) > 1:
        entries = [row[0], _of_kind(row[1], label), *row[2:]]
        return type(row)(*entries) if hasattr(row, "_fields") else type(row)(entries)
    if getattr(row, "y", None) is not None:
        changed = copy(row)
        changed.y = _of_kind(row.y, label)
        return changed
    raise _no_label(row)


def _of_kind(given: Any, label: int) -> Any:
    """A label of the type and shape of the one that was given, so that rows are stacked alike."""
    if is_torch(given):
        return given.new_full(given.shape, label)
    if isinstance(given, np.ndarray | np.generic):
        return np.full_like(given, label)[()]
    return label


def _label_key(row: Mapping[str, Any], label_column: str | None) -> str:
    """The key of a row's label."""
    keys = (label_column,) if label_column is not None else LABEL_COLUMNS
    for key in keys:
        if key in row:
            return key
    raise ValueError(
        f"label_column: expected the label of rows under {' or '.join(map(repr, keys))}, got rows "
        f"with {', '.join(map(repr, row))}; name it."
    )


def _no_label(row: Any) -> TypeError:
    return TypeError(
        "dataset: expected rows (input, label), mappings or graphs with y, got a "
        f"{type(row).__name__}."
    )
