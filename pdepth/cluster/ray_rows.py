"""A `ray.data.Dataset` as a dataset whose rows have numbers, and parts that workers read."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

WINDOW = 1024  # rows of a whole dataset that are fetched at a time


class RayRows(Dataset[Any]):
    """Rows of a `ray.data.Dataset`, dicts, in its order; its blocks stay where Ray has them."""

    def __init__(self, data: Any, window: int = WINDOW) -> None:
        """window: rows that are fetched at a time."""
        self._data = data.materialize()
        self._rows, self._window = int(self._data.count()), window
        self._held: tuple[int, list[Any]] = -1, []

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < self._rows:
            raise IndexError(row)
        begin = row - row % self._window
        if self._held[0] != begin:
            self._held = begin, self._between(begin, begin + self._window).take_all()
        return self._held[1][row - begin]

    def part(self, begin: int, end: int) -> RayRows:
        """The rows from `begin` to before `end`: their blocks alone are fetched there, at once.

        To cut them there would take tasks of Ray's own, where workers may have all processors.
        """
        return RayRows(self._between(begin, end), window=end - begin)

    def _between(self, begin: int, end: int) -> Any:
        if begin == 0 and end >= self._rows:
            return self._data
        cuts = [cut for cut in (begin, min(end, self._rows)) if 0 < cut < self._rows]
        return self._data.split_at_indices(cuts)[1 if begin else 0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": (-1, [])}
