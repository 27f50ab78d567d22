"""What a search of an index sees, whatever is added meanwhile."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.mapped import watched
from pdepth.arrays.problem import ProbeRows
from pdepth.arrays.rows import Rows
from pdepth.arrays.sources import is_single

Encoded = tuple[NDArray[np.int64], NDArray[np.int32]]
SAMPLE = 64  # rows whose checksums tell that a caller's array was changed


class ChangedRowsError(ValueError):
    """Rows of the caller's array, kept with copy=False, that are not what they were."""


@dataclass(frozen=True)
class Sample:
    """Checksums of some rows of an array that a caller may change: of each, and of all."""

    numbers: NDArray[np.int64]
    checksums: list[int]
    whole: int

    @classmethod
    def of(cls, rows: Rows) -> Sample:
        count = len(rows)
        numbers = np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLE)).astype(np.int64))
        values = _some(rows, numbers)
        return cls(numbers, [zlib.crc32(row.data) for row in values], zlib.crc32(values.data))

    def changed(self, rows: Rows) -> int:
        """The first row of the sample that differs, or -1."""
        values = _some(rows, self.numbers)
        if zlib.crc32(values.data) == self.whole:
            return -1
        present = [zlib.crc32(row.data) for row in values]
        return int(self.numbers[np.flatnonzero(np.not_equal(present, self.checksums))[0]])


def _some(rows: Rows, numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of these numbers, copied."""
    return np.ascontiguousarray(rows[numbers].on_host().array)


@dataclass(frozen=True, eq=False)
class IndexState:
    """What a search sees.

    samples: of the layers, where they are the caller's arrays. single: whether it is one layer,
    whose arrays come alone. kept: `encoded`, once it was asked for.
    """

    probes: tuple[ProbeRows, ...]
    labels: NDArray[np.int64] | None
    samples: list[Sample] | None
    single: bool
    kept: list[Encoded] = field(default_factory=list)

    @property
    def encoded(self) -> Encoded:
        """The distinct labels (C,), and each row's position among them (M,)."""
        # functools.cached_property has a lock until Python 3.12, which a fork may find held.
        if not self.kept:
            rows = len(self.probes[0].support)
            if self.labels is None:
                self.kept.append((np.zeros(1, np.int64), np.zeros(rows, np.int32)))
            else:
                self.kept.append(arguments.encode_labels(self.labels, rows))
        return self.kept[0]

    def by_layer(self, arrays: Any, what: str) -> list[Any]:
        """One array for each layer."""
        if self.single:
            return [arrays]
        names = [probe.name for probe in self.probes]
        if isinstance(arrays, Mapping):
            if (given := [str(name) for name in arrays]) != names:
                raise ValueError(f"{what}: expected the layers {names}, got {given}.")
            return list(arrays.values())
        if is_single(arrays) or not isinstance(arrays, Sequence) or len(arrays) != len(names):
            raise ValueError(
                f"{what}: expected {len(names)} arrays, one a layer, got a {type(arrays).__name__}."
            )
        return list(arrays)

    def watched(self) -> AbstractContextManager[None]:
        """Read rows and packed rows; see `mapped.watched`."""
        return watched([each for probe in self.probes for each in probe.arrays()])

    def check_unchanged(self) -> None:
        """Raise ChangedRowsError where the caller's rows are not what they were."""
        if self.samples is None:
            return
        with self.watched():
            changed = [
                sample.changed(probe.support)
                for sample, probe in zip(self.samples, self.probes, strict=True)
            ]
        for row, probe in zip(changed, self.probes, strict=True):
            if row >= 0:
                raise ChangedRowsError(
                    f"support ({probe.name}): row {row} was changed since the index was made; make "
                    "the index anew, or with copy=True."
                )


def layers_of(support: Any) -> list[Any]:
    """The arrays or sources that a collection holds; of anything else none."""
    if isinstance(support, Mapping):
        support = list(support.values())
    if is_single(support) or not isinstance(support, Sequence):
        return []
    return [layer for layer in support if is_single(layer)]
