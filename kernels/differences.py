"""Scores in difference form, |x - y|^2, where products would cancel: float64, rounded at the end.

For narrow layers, and for queries that 16 bits leave with more candidates than a list holds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth import certify
from pdepth.kernels import MOST_PROGRAMS
from pdepth.kernels.exact import widened
from pdepth.kernels.lists import Lists, append

UP_TO = 16  # columns; wider layers go through 16-bit products first
TILE = (32, 64)  # queries and support rows
MOST_ROWS = MOST_PROGRAMS * TILE[1]  # of the support in one launch
# One rounding to float32, and float64's own, which are fewer than one of float32's up to 2^29.
SUMS = certify.FilterStage("float64", multiple=1, step=1, section=2**62, chain=1, norms_first=False)


@triton.jit(
    do_not_specialize=["query_stride", "support_stride", "width", "first", "rows", "count"],
    do_not_specialize_on_alignment=["query_rows", "scale", "left_out"],
)
def differences_kernel(
    queries, query_stride, query_rows, support, support_stride, order, width, scale, left_out, cuts,
    keys, sizes, first, rows, count,
    CAPACITY: tl.constexpr, TILE_Q: tl.constexpr, TILE_S: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * TILE_Q + tl.arange(0, TILE_Q)
    position = first + tl.program_id(1) * TILE_S + tl.arange(0, TILE_S)
    inside = position < first + rows
    row = tl.load(order + position, mask=inside, other=0)
    taken = inside & (tl.load(left_out + row, mask=inside, other=1) == 0)
    cut = tl.load(cuts + place)
    there = place < count
    x = queries + tl.load(query_rows + place, mask=there, other=0) * query_stride
    y = support + row * support_stride
    factor = tl.load(scale)
    sums = tl.zeros([TILE_Q, TILE_S], tl.float64)
    for column in range(width):
        a = widened(tl.load(x + column, mask=there, other=0))
        b = widened(tl.load(y + column, mask=taken, other=0))
        difference = (a[:, None] - b[None, :]) * factor
        sums += difference * difference
    scores = tl.where(taken[None, :], sums.to(tl.float32), float("inf"))
    append(scores, cut, place, first + tl.program_id(1) * TILE_S, keys, sizes, CAPACITY)


def scan(
    queries: torch.Tensor,
    query_rows: torch.Tensor,
    support: torch.Tensor,
    order: torch.Tensor,
    left_out: torch.Tensor,
    scale: torch.Tensor,
    lists: Lists,
    *,
    first: int,
    rows: int,
) -> None:
    """Score the positions `first` to `first + rows` of one layer's support against its queries.

    Args:
        queries, query_rows: (N, D), and (n,) int64 rows of it, those of the lists.
        support, order: (M, D), and (M,) int64, the row at each position.
        left_out: (M,) bool, rows that no query takes.
        scale: (1,) float64, a power of two: scores are of the scaled rows.
        lists: of one layer; its queries are a multiple of TILE[0].
    """
    _, padded, capacity = lists.keys.shape
    tile_q, tile_s = TILE
    for begin in range(first, first + rows, MOST_ROWS):
        count = min(MOST_ROWS, first + rows - begin)
        differences_kernel[(padded // tile_q, triton.cdiv(count, tile_s))](
            queries, queries.stride(0), query_rows, support, support.stride(0), order,
            support.shape[1], scale, left_out, lists.cuts, lists.keys, lists.sizes, begin, count,
            len(query_rows), CAPACITY=capacity, TILE_Q=tile_q, TILE_S=tile_s, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip


def scan_reference(queries: torch.Tensor, support: torch.Tensor, scale: float) -> torch.Tensor:
    """The scores (Q, S) in float64."""
    difference = (queries.double()[:, None] - support.double()[None]) * scale
    return (difference * difference).sum(dim=2)
