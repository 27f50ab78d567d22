"""The definition's own distance, in float64 and in its own order of summation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

UNROLLED = tl.constexpr(8)  # leaves of a tree that are added without a stack


@dataclass(frozen=True)
class Fold:
    """How `definition.total` sums rows of one width, for `distances`.

    The definition adds the last half of a row to the first until one term is left. After j
    halvings w_j = ceil(width / 2^j) terms are left; here J of them, with w_J <= lanes. Each of
    those is the sum of at most 2^J terms: leaf number t, in the order of a binary tree, is the
    term at `offset[t]` from the lane's, for lanes below `limit[t]`; beyond it the definition's
    middle term had waited, and nought is added.

    Attributes:
        leaves: (2, count) int32, offsets and limits; count is a multiple of UNROLLED.
        terms: w_J.
        pairs, lanes: rows at a time, and columns of a row.
        depth: of the stack on which sums wait for their equals; 0 where UNROLLED leaves are
            all, and nothing waits.
        warps: of a program.
    """

    leaves: torch.Tensor
    terms: int
    pairs: int
    lanes: int
    depth: int
    warps: int

    @property
    def count(self) -> int:
        return self.leaves.shape[1]


# Pairs, lanes, depth and warps, for widths up to 128, 1,024 and some seventy million.
SHAPES = ((64, 16, 0, 4), (8, 128, 0, 4), (1, 256, 16, 8))


@lru_cache(maxsize=256)
def fold(width: int, device: torch.device) -> Fold:
    """The fold of a width, with its leaves on the device."""
    pairs, lanes, depth, warps = next(
        shape for shape in SHAPES if width <= shape[1] * UNROLLED.value << max(0, shape[2] - 1)
    )
    halvings = max(0, (-(-width // lanes) - 1).bit_length())
    terms = [-(-width // 2**j) for j in range(halvings + 1)]
    offsets, limits = [], []
    for leaf in range(2**halvings):
        offset, limit = 0, terms[halvings]
        for j in range(halvings, 0, -1):
            if leaf >> (j - 1) & 1:
                limit = min(limit, terms[j - 1] - terms[j] - offset)
                offset += terms[j]
        offsets.append(offset)
        limits.append(limit)
    padding = [0] * (-len(offsets) % UNROLLED.value)
    leaves = torch.tensor([offsets + padding, limits + padding], dtype=torch.int32, device=device)
    return Fold(leaves, terms[halvings], pairs, lanes, depth, warps)


@triton.jit
def widened(values):
    """Exactly, as the definition does; integers beyond 2^53 are rounded to nearest, as there."""
    if values.dtype.is_floating() and values.dtype.primitive_bitwidth == 16:
        values = values.to(tl.float32)
    return values.to(tl.float64)


@triton.jit
def _terms(x, y, there, leaves, count, leaf, lane, INNER: tl.constexpr):
    """(P, lanes) terms of one leaf; x and y point to rows' beginnings, (1, 1) and (P, 1)."""
    at = tl.load(leaves + leaf) + lane
    own = lane < tl.load(leaves + count + leaf)
    a = widened(tl.load(x + at, mask=own, other=0))
    b = widened(tl.load(y + at, mask=own & there, other=0))
    if INNER:
        term = -(a * b)
    else:
        difference = tl.where(there, b - a, 0.0)
        term = difference * difference
    return term


@triton.jit
def distances(
    x, y, there, leaves, count, terms,
    PAIRS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """(PAIRS,) squared distances from the row at `x` to those at `y` (PAIRS,) that are `there`, or
    their inner products with the sign turned; the rest as `Fold`.

    Without contraction of products and sums only: launch with enable_fp_fusion=False.
    """
    lane = tl.arange(0, LANES)[None, :]
    y = y[:, None]
    there = there[:, None]
    if DEPTH > 0:
        level = tl.arange(0, DEPTH)[:, None, None]
        stack = tl.zeros([DEPTH, PAIRS, LANES], tl.float64)
    sums = tl.zeros([PAIRS, LANES], tl.float64)
    for leaf in range(0, count, 8):
        a = _terms(x, y, there, leaves, count, leaf, lane, INNER)
        a += _terms(x, y, there, leaves, count, leaf + 1, lane, INNER)
        b = _terms(x, y, there, leaves, count, leaf + 2, lane, INNER)
        b += _terms(x, y, there, leaves, count, leaf + 3, lane, INNER)
        a += b
        b = _terms(x, y, there, leaves, count, leaf + 4, lane, INNER)
        b += _terms(x, y, there, leaves, count, leaf + 5, lane, INNER)
        c = _terms(x, y, there, leaves, count, leaf + 6, lane, INNER)
        c += _terms(x, y, there, leaves, count, leaf + 7, lane, INNER)
        sums = a + (b + c)
        if DEPTH > 0:
            # As a binary counter carries: two sums of one size make one of the next.
            number = leaf // UNROLLED
            at = 0
            while (number >> at) & 1 == 1:
                sums = tl.sum(tl.where(level == at, stack, 0.0), axis=0) + sums
                at += 1
            stack = tl.where(level == at, sums[None, :, :], stack)
    while terms > 1:
        half = (terms + 1) // 2
        places = tl.broadcast_to(tl.minimum(lane + half, LANES - 1), [PAIRS, LANES])
        other = tl.gather(sums, places, 1)
        sums = tl.where(lane + half < terms, sums + other, sums)
        terms = half
    return tl.sum(tl.where(lane == 0, sums, 0.0), axis=1)
