"""What a search of an index sees, whatever is added meanwhile."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.problem import ProbeRows

SAMPLE = 64  # rows whose checksums tell that a caller's array was changed


@dataclass(frozen=True)
class Sample:
    """Checksums of some rows of an array that a caller may change."""

    numbers: NDArray[np.int64]
    checksums: list[int]

    @classmethod
    def of(cls, probe: ProbeRows) -> Sample:
        rows = len(probe.support)
        numbers = np.unique(np.linspace(0, max(rows - 1, 0), min(rows, SAMPLE)).astype(np.int64))
        return cls(numbers, [_checksum(probe, int(row)) for row in numbers])

    def changed(self, probe: ProbeRows) -> int:
        """The first row of the sample that differs, or -1."""
        for row, checksum in zip(self.numbers.tolist(), self.checksums, strict=True):
            if _checksum(probe, row) != checksum:
                return int(row)
        return -1


def _checksum(probe: ProbeRows, row: int) -> int:
    return zlib.crc32(probe.support[row : row + 1].on_host().array.tobytes())


@dataclass(frozen=True, eq=False)
class IndexState:
    """What a search sees. samples: of the layers, where they are the caller's arrays."""

    probes: tuple[ProbeRows, ...]
    labels: NDArray[np.int64] | None
    samples: list[Sample] | None

    @cached_property
    def encoded(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The distinct labels (C,), and each row's position among them (M,)."""
        rows = len(self.probes[0].support)
        if self.labels is None:
            return np.zeros(1, np.int64), np.zeros(rows, np.int32)
        return arguments.encode_labels(self.labels, rows)
