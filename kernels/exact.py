"""The definition's own distance, in float64 and in its own order of summation."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

UNROLLED = tl.constexpr(3)  # halvings, at most, whose terms are added without a loop


@dataclass(frozen=True)
class Fold:
    """How rows up to some width are summed as `definition.total` does, for `distances`.

    The definition adds the last half of a row to the first until one term is left. After j
    halvings w_j = ceil(width / 2^j) terms are left. `lanes` columns of some rows lie side by side
    in a warp's threads: of the J halvings after which w_J <= lanes each lane adds its own terms, a
    binary tree of 2^J leaves; then lanes add one another's sums.

    Attributes:
        pairs: rows that a warp has at a time.
        lanes: columns of each.
        halvings: J at most.
    """

    pairs: int
    lanes: int
    halvings: int


# For widths up to 128, 131,072, 16 million, as the filter takes them, and 67 million. A sum waits
# for its equal at each halving, so that the more there are the fewer rows have room in registers.
SHAPES = (Fold(8, 16, 3), Fold(2, 32, 12), Fold(1, 32, 19), Fold(1, 32, 21))


def fold(width: int) -> Fold:
    """The fold for a width."""
    return next(shape for shape in SHAPES if width <= shape.lanes << shape.halvings)


def halvings(width: int) -> int:
    """J of a width: as many as its fold's lanes ask for, and those that are made in any case."""
    by = fold(width)
    return max(min(UNROLLED.value, by.halvings), (-(-width // by.lanes) - 1).bit_length())


@triton.jit
def widened(values):
    """Exactly, as the definition does; integers beyond 2^53 are rounded to nearest, as there."""
    if values.dtype.is_floating() and values.dtype.primitive_bitwidth == 16:
        values = values.to(tl.float32)
    return values.to(tl.float64)


@triton.jit
def _left(width, halvings):
    """Terms that are left after so many halvings."""
    return (width + ((1 << halvings) - 1)) >> halvings


@triton.jit
def _terms(x, y, there, own, INNER: tl.constexpr):
    """(P, lanes) terms; x and y point to the columns of theirs, (1, lanes) and (P, lanes)."""
    a = widened(tl.load(x, mask=own, other=0))
    b = widened(tl.load(y, mask=own & there, other=0))
    if INNER:
        term = -(a * b)
    else:
        difference = tl.where(there, b - a, 0.0)
        term = difference * difference
    return term


@triton.jit
def _leaves(x, y, there, lane, width, first, limit, HALVINGS: tl.constexpr, INNER: tl.constexpr):
    """(P, lanes): what so many halvings add to the terms from `first` on, of lanes below `limit`.
    Beyond it the definition's middle term had waited, and nought is added."""
    if HALVINGS == 0:
        sums = _terms(x + first, y + first, there, lane < limit, INNER)
    else:
        half = _left(width, HALVINGS)
        second = tl.minimum(limit, _left(width, HALVINGS - 1) - half - first)
        sums = _leaves(x, y, there, lane, width, first, limit, HALVINGS - 1, INNER)
        sums += _leaves(x, y, there, lane, width, first + half, second, HALVINGS - 1, INNER)
    return sums


@triton.jit
def _sums(x, y, there, lane, width, halvings, number, HALVINGS: tl.constexpr, INNER: tl.constexpr):
    """(P, lanes): the same from the `number`-th of the tree's leaves on. Of a number each bit is a
    halving, the earliest the lowest."""
    if HALVINGS <= UNROLLED:
        first = 0
        limit = _left(width, halvings)
        for made in range(halvings, HALVINGS, -1):
            half = _left(width, made)
            second = tl.minimum(limit, _left(width, made - 1) - half - first)
            added = (number >> (made - 1)) & 1
            limit = tl.where(added > 0, second, limit)
            first += half * added
        sums = _leaves(x, y, there, lane, width, first, limit, HALVINGS, INNER)
    else:
        # Two halvings a loop: LLVM's time grows without bound with loops deep within each other.
        AT_ONCE: tl.constexpr = 1 if HALVINGS == UNROLLED + 1 else 2
        LEFT: tl.constexpr = HALVINGS - AT_ONCE
        end = tl.minimum(number + (1 << HALVINGS), 1 << halvings)
        sums = tl.zeros(y.shape, tl.float64)
        before = tl.zeros(y.shape, tl.float64)
        for part in range(number, end, 1 << LEFT):
            own = _sums(x, y, there, lane, width, halvings, part, LEFT, INNER)
            second = (part >> LEFT) & 1
            sums += tl.where(second > 0, before + own, 0.0)
            before = own
        sums = tl.where(end - number > 1 << LEFT, sums, before)  # of one part: it waits for none
    return sums


@triton.jit
def distances(
    x, y, there, width, halvings,
    LANES: tl.constexpr, HALVINGS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """(P,) squared distances from the row at `x` to those at `y` (P,) that are `there`, or their
    inner products with the sign turned; halvings: of the width, at most HALVINGS; see `Fold`.

    Without contraction of products and sums only: launch with enable_fp_fusion=False.
    """
    lane = tl.arange(0, LANES)[None, :]
    y = y[:, None] + lane
    sums = _sums(x + lane, y, there[:, None], lane, width, halvings, 0, HALVINGS, INNER)
    terms = _left(width, halvings)
    while terms > 1:
        half = (terms + 1) // 2
        places = tl.broadcast_to(tl.minimum(lane + half, LANES - 1), sums.shape)
        other = tl.gather(sums, places, 1)
        sums = tl.where(lane + half < terms, sums + other, sums)
        terms = half
    return tl.sum(tl.where(lane == 0, sums, 0.0), axis=1)
