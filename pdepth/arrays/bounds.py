"""Rows that may be among the k nearest of some queries, by bounds of their distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.encoded import Neighbors

LEFT_OUT = -2
"""In place of a row that is left out of a list."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lists of candidates of N queries, among them the k nearest rows of a part of a support.

    begins: (N + 1,) int64, where the list of each query begins and the last ends. lower, upper:
    float64, between which the squared distance of each candidate is, which is known where they are
    equal. rows: int64, the candidates' rows of the support; -1 after the last one of a list.
    """

    begins: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    rows: NDArray[np.int64]

    @classmethod
    def padded(cls, lower: NDArray[Any], upper: NDArray[Any], rows: NDArray[Any]) -> Bounds:
        """From lists (N, width)."""
        begins = rows.shape[1] * np.arange(len(rows) + 1)
        return cls(begins, lower.ravel(), upper.ravel(), rows.ravel())

    @classmethod
    def exact(cls, neighbors: Neighbors) -> Bounds:
        """From distances that are known."""
        distances, rows = neighbors
        return cls.padded(distances, distances, rows)

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        return self.begins, self.lower, self.upper, self.rows

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def __len__(self) -> int:
        return len(self.begins) - 1

    @property
    def queries(self) -> NDArray[np.int64]:
        """The number of the query that each candidate is of."""
        return np.repeat(np.arange(len(self)), np.diff(self.begins))
