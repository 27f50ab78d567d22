"""Rows that are exact copies of others, and their place among nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1 << 20  # numbers that are looked at at a time


def copies(rows: NDArray[Any]) -> NDArray[np.int64]:
    """(N,) the number of the set of equal rows to which each of `rows` (N, D) belongs.

    Equal rows have one number; -1 is a row of its own, though such a row may have a number too.
    Rows of equal hashes are compared in full, so a hash that is met by chance costs time alone.
    """
    found = np.full(len(rows), -1, dtype=np.int64)
    hashes = _hashes(rows)
    left, number = np.arange(len(rows)), 0
    while True:
        _, first, place, count = np.unique(hashes[left], True, True, True)
        shared = count[place] > 1
        if not shared.any():
            return found
        who, like = left[shared], left[first[place[shared]]]
        same = np.concatenate(
            [
                (rows[who[some]] == rows[like[some]]).all(axis=1)
                for some in _blocks(len(who), rows.shape[1])
            ]
        )
        found[who[same]] = number + place[shared][same]
        left, number = who[~same], number + len(first)


def copies_first(sets: NDArray[np.int64], distances: NDArray[Any], near: NDArray[np.int64]) -> None:
    """Put each row's copies, by row number, at distance 0 before its other neighbours; in place.

    Args:
        sets: (N,) of `copies`. distances, near: (N, k) of the rows' k nearest others, sorted. The
            others keep their order, and those beyond the k-th place are dropped.
    """
    who = np.flatnonzero(sets >= 0)
    if not len(who):
        return
    members = who[np.argsort(sets[who], kind="stable")]  # set by set, each ascending
    own, size = sets[members], np.bincount(sets[who])
    first, others = (size.cumsum() - size)[own, None], size[own, None] - 1
    rank = np.arange(len(members))[:, None] - first
    column = np.arange(near.shape[1])
    like = members[np.minimum(first + column + (column >= rank), len(members) - 1)]
    unlike = np.argsort(sets[near[members]] == own[:, None], axis=1, kind="stable")
    unlike = np.take_along_axis(unlike, np.maximum(column - others, 0), axis=1)
    for table, front in ((distances, 0), (near, like)):
        rest = np.take_along_axis(table[members], unlike, axis=1)
        table[members] = np.where(column < others, front, rest)


def _hashes(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """(N,) equal for equal rows, and hardly for others."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2**64, rows.shape[1], dtype=np.uint64)
    found = np.empty(len(rows), dtype=np.uint64)
    for some in _blocks(*rows.shape):
        values = rows[some].astype(np.float64) + 0.0  # -0.0 equals 0.0
        # Numbers of few digits have them in their high bits, which a product would carry away.
        found[some] = values.view(np.uint64).byteswap() @ factors
    return found


def _blocks(count: int, width: int) -> list[slice]:
    step = max(1, AT_ONCE // width)
    return [slice(begin, begin + step) for begin in range(0, count, step)]
