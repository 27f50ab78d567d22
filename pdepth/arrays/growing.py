"""Rows that are followed by more, in memory that grows by halves."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.arrays.rows import Rows, as_given, is_torch


class GrowingRows:
    """Memory of rows (n, D) that grow at their end; what was returned before stays as it was."""

    def __init__(self, rows: Rows, *, copy: bool) -> None:
        """copy: False keeps the array until rows are added."""
        self._memory = rows.array
        if copy:
            self._memory = _room(rows.array, len(rows))
            self._memory[:] = rows.array
        self._type, self._shared = rows.type, not copy

    def first(self, count: int) -> Rows:
        """The `count` first rows."""
        return Rows(self._memory[:count], self._type)

    def append(self, count: int, more: Rows) -> Rows:
        """The `count` first rows and then more, of the same width and type.

        Rows beyond `count`, of an addition that came to nothing, are written over.
        """
        total = count + len(more)
        if self._shared or total > len(self._memory):
            room = _room(self._memory, max(total, count + count // 2))
            room[:count] = self._memory[:count]
            self._memory, self._shared = room, False
        if is_torch(self._memory):
            self._memory[count:total] = as_given(more, self._memory.device)
        else:
            self._memory[count:total] = more.on_host().array
        return self.first(total)


def _room(like: Any, rows: int) -> Any:
    """Memory for rows, of the kind of an array."""
    shape = (rows, like.shape[1])
    return like.new_empty(shape) if is_torch(like) else np.empty(shape, like.dtype)
