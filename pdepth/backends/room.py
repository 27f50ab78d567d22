"""What of a problem fits into a device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

from pdepth.arrays.memory import DEVICE_SHARE, free_on, human
from pdepth.arrays.problem import ProbeRows, Problem
from pdepth.backends.transfer import row_bytes_on_device, type_of
from pdepth.kernels.bundles import bytes_of
from pdepth.kernels.filter import TILES, WIDE
from pdepth.kernels.lists import capacity_for
from pdepth.kernels.search import SCRATCH

if TYPE_CHECKING:
    import torch

INTERPRETED_BYTES = 1 << 31  # where kernels are interpreted, in the host's memory
TILE: int = max(tile.queries for tile in TILES)  # queries of a tile of the filter stage


class Room:
    """The bytes that a call may take, halved each time the device turns out to have less."""

    def __init__(self, problem: Problem, device: torch.device) -> None:
        self._problem, self._device = problem, device
        self._bytes = problem.memory or _free(device)
        self._check()

    @property
    def scratch(self) -> int:
        """Bytes for lists and distances."""
        return min(int(SCRATCH), self._bytes // 4)

    @property
    def rows(self) -> int:
        """Bytes for rows, as they came and packed."""
        return self._bytes - self.scratch

    def halve(self) -> None:
        """Go on with half the memory. Raises MemoryError as the constructor."""
        self._bytes //= 2
        self._check()

    def holds(self, rows: ProbeRows, queries: int) -> bool:
        """Whether a probe fits."""
        return self.size(rows, queries) <= self.rows

    def size(self, rows: ProbeRows, queries: int) -> int:
        """Bytes of a probe on the device: packed, and its values unless they are there."""
        packed = packed_bytes(rows.support.width, len(rows.support), queries)
        sides = [rows.support] if rows.queries is None else [rows.support, rows.queries]
        return packed + sum(row_bytes_on_device(side) * len(side) for side in sides)

    def fitting(self, probes: Sequence[ProbeRows], queries: int) -> int:
        """How many of the first of some probes, of one type, fit together; one beyond the memory
        goes alone."""
        sizes = list(accumulate(self.size(rows, queries) for rows in probes))
        # Where not all fit, the next are copied beside those that are at work.
        limit = self.rows if sizes[-1] <= self.rows else self.rows // 2
        types = [(type_of(rows.support), rows.queries and type_of(rows.queries)) for rows in probes]
        alike = len(list(takewhile(lambda pair: pair == types[0], types)))
        tiles = self.scratch // (TILE * _list_bytes(self._problem.k))  # each has one at least
        most = min(alike, tiles, sum(size <= limit for size in sizes))
        return max(1, most)

    def chunks(self, rows: ProbeRows) -> tuple[int, int]:
        """How many rows of a support that does not fit, and queries, are in work at a time."""
        queries = rows.support if rows.queries is None else rows.queries
        packed = 2 * _columns(rows.support.width)
        query_chunk = max(1, self.rows // 4 // (packed + row_bytes_on_device(queries)))
        # One chunk is at work, and the rows of the next are on their way.
        chunk = self.rows // 2 // (packed + 2 * row_bytes_on_device(rows.support))
        return max(2 * (self._problem.k + 1), chunk), query_chunk

    def _check(self) -> None:
        """Raise MemoryError where not even a tile of every probe fits."""
        for rows in self._problem.probes:
            least = least_room(rows, self._problem.k)
            if self._bytes < least:
                raise MemoryError(
                    f"{self._device} has room for {human(self._bytes)}, and one tile of "
                    f"{rows.name} takes {human(least)}; backend='cpu' works in the host's memory."
                )


def least_room(rows: ProbeRows, k: int) -> int:
    """Bytes that a call takes at least: those of a tile."""
    tile = max(TILE, 2 * (k + 1))
    values = row_bytes_on_device(rows.support)
    values += row_bytes_on_device(rows.queries) if rows.queries else 0
    return 4 * tile * (_list_bytes(k) + 4 * _columns(rows.support.width) + values)


def working_set(width: int, support: int, queries: int) -> int:
    """Bytes that a probe whose rows are on the device takes beside them, at most."""
    return packed_bytes(width, support, queries) + int(SCRATCH)


def packed_bytes(width: int, support: int, queries: int) -> int:
    """Bytes of packed rows."""
    return 2 * _columns(width) * (support + min(queries, int(SCRATCH) // _list_bytes(1)))


def _list_bytes(k: int) -> int:
    """Bytes of a query's list, and of the bundles that join it."""
    return int(bytes_of(capacity_for(k), WIDE.bundle))


def _columns(width: int) -> int:
    """Columns of a packed row, at most."""
    return -(-width // 256) * 256


def _free(device: torch.device) -> int:
    return int(DEVICE_SHARE * free_on(device)) if device.type == "cuda" else INTERPRETED_BYTES
