"""What is read off vote counts (..., N, C): neighbours of a class, and of all others.

The counts themselves come with `Votes`; nothing here looks at neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.convert import to_numpy
from pdepth.result import Votes


def check_counts(votes: Votes) -> Any:
    """Return the counts of votes; raise ValueError where there are none."""
    if not isinstance(votes, Votes):
        raise TypeError(f"votes: expected Votes, got {type(votes).__name__}; see probe_votes.")
    if votes.counts is None:
        raise ValueError("votes: expected Votes with counts, got none; pass return_counts=True.")
    return votes.counts


def counts_of_labels(counts: NDArray[Any], codes: NDArray[np.intp]) -> NDArray[Any]:
    """Entries (..., N) of counts (..., N, C) for each query's own class, by its code (N,)."""
    return counts[..., np.arange(len(codes)), codes]


def count_other_classes(counts: Any) -> NDArray[np.int64]:
    """Neighbours (N, C) of other classes than each, over all probes, of (L, N, C) or (N, C).

    Raises:
        ValueError, TypeError: another shape, or counts that are not integers.
    """
    array = np.asarray(to_numpy(counts))
    if array.ndim not in (2, 3):
        raise ValueError(f"counts: expected shape (L, N, C) or (N, C), got {array.shape}.")
    if array.dtype.kind not in "iu":
        raise TypeError(f"counts: expected integers, got elements of type {array.dtype}.")
    own = array.sum(axis=0, dtype=np.int64) if array.ndim == 3 else array.astype(np.int64)
    others: NDArray[np.int64] = own.sum(axis=1, keepdims=True) - own
    return others
