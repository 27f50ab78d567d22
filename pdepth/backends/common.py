"""What backends give back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pdepth.validate import Problem

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
    ) -> Coded:
        """All; or with `wanted` (N,) only those that equal it from there to the last probe."""

    def neighbours(
        self, problem: Problem, progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Squared distances (N, k) and rows (N, k) of a problem of one layer, nearest first."""


UNKNOWN = -1  # as a code: this vote was not asked


@dataclass(frozen=True, eq=False)
class Coded:
    """Votes as codes: `votes` (L, N) int32, UNKNOWN where not asked or, for depth only, another's.

    With all votes asked: `tied` (L, N) bool, and `counts` (L, N, C) or None: int32, or float64
    where votes have weights; or in their place `margins` (L, N).
    """

    votes: NDArray[np.int32]
    tied: NDArray[np.bool_] | None = None
    counts: NDArray[Any] | None = None
    margins: NDArray[Any] | None = None

    @classmethod
    def joined(cls, parts: Sequence[Coded]) -> Coded:
        """The answers of several calls, one below the other."""

        def together(arrays: list[Any]) -> Any:
            return None if arrays[0] is None else np.concatenate(arrays)

        return cls(
            votes=np.concatenate([part.votes for part in parts]),
            tied=together([part.tied for part in parts]),
            counts=together([part.counts for part in parts]),
            margins=together([part.margins for part in parts]),
        )


def empty_votes(layers: int, queries: int) -> NDArray[Any]:
    """(layers, queries) int32, nothing known."""
    return np.full((layers, queries), UNKNOWN, dtype=np.int32)
