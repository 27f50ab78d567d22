"""What a backend answers: votes as codes of classes, and lists of neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""The code of a vote that was not searched or, with a target, of a vote for another class."""

Neighbors = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Squared distances (N, k) and support rows (N, k), in the order (distance, row)."""


@dataclass(frozen=True, eq=False)
class EncodedVotes:
    """Votes at L probes of N queries, as positions among a problem's classes.

    votes: (L, N) int32 or `UNKNOWN`. With all votes searched also `tied` (L, N) bool, and `counts`
    (L, N, C), int32 or, where votes have weights, float64; or in their place `margins` (L, N).
    distances, rows: (L, N, K) of the nearest rows, as `Neighbors`, where they were asked for.
    """

    votes: NDArray[np.int32]
    tied: NDArray[np.bool_] | None = None
    counts: NDArray[Any] | None = None
    margins: NDArray[Any] | None = None
    distances: NDArray[np.float64] | None = None
    rows: NDArray[np.int64] | None = None

    def with_nearest(self, neighbors: Neighbors, nearest: int) -> EncodedVotes:
        """With the first of the neighbours (n, k) at one probe."""
        distances, rows = neighbors[0][None, :, :nearest], neighbors[1][None, :, :nearest]
        return replace(self, distances=distances.copy(), rows=rows.copy())

    def of_products(self) -> EncodedVotes:
        """With inner products for distances, which are these with their signs turned."""
        assert self.distances is not None
        return replace(self, distances=-self.distances)

    def unknown_like(self, probes: int, queries: int) -> EncodedVotes:
        """The same arrays for so many probes and queries, with nothing known."""
        return EncodedVotes(
            **{
                name: np.full(
                    (probes, queries, *array.shape[2:]),
                    UNKNOWN if name == "votes" else 0,
                    array.dtype,
                )
                for name, array in self.arrays()
            }
        )

    def put(self, first: int, queries: NDArray[np.int64], part: EncodedVotes) -> None:
        """Write the votes of some queries at the probes from `first` on."""
        probes = np.arange(first, first + len(part.votes))
        for name, array in part.arrays():
            getattr(self, name)[probes[:, None], queries] = array

    def with_those_of(self, queries: NDArray[np.int64], part: EncodedVotes) -> EncodedVotes:
        """A copy, with the votes of some queries from another answer."""
        whole = EncodedVotes(**{name: array.copy() for name, array in self.arrays()})
        whole.put(0, queries, part)
        return whole

    @classmethod
    def concatenated(cls, parts: Sequence[EncodedVotes], axis: int = 0) -> EncodedVotes:
        """Several answers as one: of more probes (axis=0) or of more queries (axis=1)."""
        if len(parts) == 1:
            return parts[0]
        names = [name for name, _ in parts[0].arrays()]
        return cls(**{n: np.concatenate([getattr(p, n) for p in parts], axis) for n in names})

    def at(self, queries: NDArray[np.intp]) -> EncodedVotes:
        """The votes of some queries, by their places here."""
        return EncodedVotes(**{name: array[:, queries] for name, array in self.arrays()})

    def arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The arrays that are there, by name."""
        for field in fields(self):
            if (array := getattr(self, field.name)) is not None:
                yield field.name, array
