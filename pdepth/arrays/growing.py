"""Rows that are followed by more, in memory that grows by halves."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.arrays.rows import Rows, is_torch


class GrowingRows:
    """Rows (n, D) that grow at their end; what was returned before stays as it was."""

    def __init__(self, rows: Rows, *, copy: bool) -> None:
        """copy: False keeps the array until rows are added."""
        self._type, self._used = rows.type, len(rows)
        self._memory = _room(rows.array, len(rows)) if copy else rows.array
        if copy:
            self._memory[:] = rows.array
        self._shared = not copy

    @property
    def rows(self) -> Rows:
        """All rows by now."""
        return Rows(self._memory[: self._used], self._type)

    def append(self, more: Rows) -> Rows:
        """Add rows of the same width and type; returns all."""
        count = self._used + len(more)
        if self._shared or count > len(self._memory):
            room = _room(self._memory, max(count, self._used + self._used // 2))
            room[: self._used] = self._memory[: self._used]
            self._memory, self._shared = room, False
        values = more.array
        if is_torch(self._memory) and not is_torch(values):
            values = self._memory.new_tensor(values)
        elif is_torch(values) and not is_torch(self._memory):
            values = more.on_host().array
        self._memory[self._used : count] = values
        self._used = count
        return self.rows


def _room(like: Any, rows: int) -> Any:
    """Memory for rows, of the kind of an array."""
    shape = (rows, like.shape[1])
    return like.new_empty(shape) if is_torch(like) else np.empty(shape, like.dtype)
