"""What backends give back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pdepth.arrays.arguments import Problem

Progress = Callable[[int, float, int], None]
"""Called with (layer, its fraction done, queries asked there), about ten times a second."""


class Engine(Protocol):
    """What answers checked problems: a backend's module, or one that reads rows for it."""

    def votes(
        self,
        problem: Problem,
        wanted: NDArray[np.int32] | None,
        return_counts: bool,
        progress: Progress | None,
    ) -> EncodedVotes:
        """All; or with `wanted` (N,) only those that equal it from there to the last probe."""

    def neighbors(
        self, problem: Problem, progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Squared distances (N, k) and rows (N, k) of a problem of one layer, nearest first."""


UNKNOWN = -1  # as a code: this vote was not asked


@dataclass(frozen=True, eq=False)
class EncodedVotes:
    """Votes as codes: `votes` (L, N) int32, UNKNOWN where not asked or, for depth only, another's.

    With all votes asked: `tied` (L, N) bool, and `counts` (L, N, C) or None: int32, or float64
    where votes have weights; or in their place `margins` (L, N).
    """

    votes: NDArray[np.int32]
    tied: NDArray[np.bool_] | None = None
    counts: NDArray[Any] | None = None
    margins: NDArray[Any] | None = None

    def spread(self, layers: int, queries: int) -> EncodedVotes:
        """Of the same kind, for so many layers and queries: nothing known."""
        whole = {}
        for name, array in self.given():
            shape = (layers, queries, *array.shape[2:])
            whole[name] = np.full(shape, UNKNOWN if name == "votes" else 0, array.dtype)
        return EncodedVotes(**whole)

    def put(self, first: int, who: NDArray[np.int64], part: EncodedVotes) -> None:
        """Write down what a part found at the layers from `first` on, of the queries `who`."""
        layers = np.arange(first, first + len(part.votes))
        for name, array in part.given():
            getattr(self, name)[layers[:, None], who] = array

    @classmethod
    def joined(cls, parts: Sequence[EncodedVotes]) -> EncodedVotes:
        """The answers of several calls, one below the other."""
        names = [name for name, _ in parts[0].given()]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})

    def given(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The arrays that are there, by name."""
        for each in fields(self):
            if (array := getattr(self, each.name)) is not None:
                yield each.name, array


def empty_votes(layers: int, queries: int) -> NDArray[Any]:
    """(layers, queries) int32, nothing known."""
    return np.full((layers, queries), UNKNOWN, dtype=np.int32)
