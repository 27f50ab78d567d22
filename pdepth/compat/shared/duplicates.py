"""Exact duplicates among rows, and their place among nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20  # numbers that are hashed or compared at a time


def duplicate_sets(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Number the sets of equal rows.

    Rows of equal hashes are compared in full, so a collision costs time alone.

    Args:
        rows: (N, D).

    Returns:
        (N,) the number of each row's set; equal rows have the same one. -1 is a row without a
        duplicate, though such a row may have a number of its own, too.
    """
    sets = np.full(len(rows), -1, dtype=np.int64)
    hashes = _hashes(rows)
    remaining, count = np.arange(len(rows)), 0
    while True:
        _, first, inverse, sizes = np.unique(hashes[remaining], True, True, True)
        shared = sizes[inverse] > 1
        if not shared.any():
            return sets
        candidates, leaders = remaining[shared], remaining[first[inverse[shared]]]
        equal = np.concatenate(
            [
                (rows[candidates[chunk]] == rows[leaders[chunk]]).all(axis=1)
                for chunk in _chunks(len(candidates), rows.shape[1])
            ]
        )
        sets[candidates[equal]] = count + inverse[shared][equal]
        remaining, count = candidates[~equal], count + len(first)


def move_duplicates_first(
    sets: NDArray[np.int64], distances: NDArray[Any], neighbors: NDArray[np.int64]
) -> None:
    """Put each row's duplicates, by row number, at distance 0 before its other neighbours.

    Both tables are changed in place. Other neighbours keep their order, and those beyond the k-th
    place are dropped.

    Args:
        sets: (N,) from `duplicate_sets`.
        distances, neighbors: (N, k) of the rows' k nearest others, sorted by distance.
    """
    members = np.flatnonzero(sets >= 0)
    if not len(members):
        return
    sizes = np.bincount(sets[members])
    members = members[np.argsort(sets[members], kind="stable")]  # set by set, each ascending
    own = sets[members]
    first, others = (sizes.cumsum() - sizes)[own, None], sizes[own, None] - 1
    rank = np.arange(len(members))[:, None] - first
    column = np.arange(neighbors.shape[1])
    duplicates = members[np.minimum(first + column + (column >= rank), len(members) - 1)]
    order = np.argsort(sets[neighbors[members]] == own[:, None], axis=1, kind="stable")
    order = np.take_along_axis(order, np.maximum(column - others, 0), axis=1)
    for table, front in ((distances, 0), (neighbors, duplicates)):
        rest = np.take_along_axis(table[members], order, axis=1)
        table[members] = np.where(column < others, front, rest)


def _hashes(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash each row (N,): equal for equal rows, and hardly ever for others."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2**64, rows.shape[1], dtype=np.uint64)
    hashes = np.empty(len(rows), dtype=np.uint64)
    for chunk in _chunks(*rows.shape):
        values = rows[chunk].astype(np.float64) + 0.0  # -0.0 equals 0.0
        # Numbers of few digits have them in their high bits, which a product would carry away.
        hashes[chunk] = values.view(np.uint64).byteswap() @ factors
    return hashes


def _chunks(rows: int, width: int) -> list[slice]:
    step = max(1, CHUNK // width)
    return [slice(begin, begin + step) for begin in range(0, rows, step)]
