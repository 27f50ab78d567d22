"""What backends give back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, float, int], None]
"""Called with (layer, its fraction done, queries asked there), about ten times a second."""

UNKNOWN = -1  # as a code: this vote was not asked


@dataclass(frozen=True, eq=False)
class Coded:
    """Votes as codes: `votes` (L, N) int32, UNKNOWN where not asked.

    With all votes asked: `tied` (L, N) bool, and `counts` (L, N, C) int32 or None.
    """

    votes: NDArray[np.int32]
    tied: NDArray[np.bool_] | None = None
    counts: NDArray[np.int32] | None = None


def empty_votes(layers: int, queries: int) -> NDArray[Any]:
    """(layers, queries) int32, nothing known."""
    return np.full((layers, queries), UNKNOWN, dtype=np.int32)
