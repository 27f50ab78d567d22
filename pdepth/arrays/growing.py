"""Rows that are followed by more, in memory that grows by halves."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.arrays.rows import Rows, as_given, is_torch


class GrowingRows:
    """Memory of rows (n, D) that grow at their end; what was returned before stays as it was."""

    type: str

    def __init__(self, rows: Rows, *, copy: bool) -> None:
        """copy: False keeps the array until rows are added."""
        self._memory, self._norms = rows.array, rows.norms
        if copy:
            self._memory = _room(rows.array, len(rows))
            self._memory[:] = rows.array
        self.type, self._shared = rows.type, not copy

    @property
    def normed(self) -> bool:
        """Whether rows have norms."""
        return self._norms is not None

    def first(self, count: int) -> Rows:
        """The `count` first rows."""
        norms = None if self._norms is None else self._norms[:count]
        return Rows(self._memory[:count], self.type, norms)

    def append(self, count: int, more: Rows) -> Rows:
        """The `count` first rows and then more, of the same width and type, with norms or without.

        Rows beyond `count`, of an addition that came to nothing, are written over.
        """
        total = count + len(more)
        room = max(total, count + count // 2)
        if self._shared or total > len(self._memory):
            self._memory, self._shared = _moved(self._memory, count, room), False
        if is_torch(self._memory):
            self._memory[count:total] = as_given(more, self._memory.device)
        else:
            self._memory[count:total] = more.on_host().array
        if self._norms is not None:
            if total > len(self._norms):
                self._norms = _moved(self._norms, count, room)
            self._norms[count:total] = more.norms
        return self.first(total)


def _room(like: Any, rows: int) -> Any:
    """Memory for rows, of the kind of an array."""
    shape = (rows, like.shape[1])
    return like.new_empty(shape) if is_torch(like) else np.empty(shape, like.dtype)


def _moved(memory: Any, count: int, rows: int) -> Any:
    """The `count` first rows, in memory for more."""
    room = _room(memory, rows)
    room[:count] = memory[:count]
    return room
