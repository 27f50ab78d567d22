"""Equal rows of the support: all but the first k + 1 can be left out, since none of them votes.

A layer whose rows are all equal, or a softmax that is the same for many examples, would
otherwise fill every query's list with ties. Hashes find them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth.kernels.exact import widened
from pdepth.kernels.stack import Stack, rows_of

ROWS, BLOCK = 16, 64  # of a program; columns at a time


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["source", "table"])
def same_kernel(source, table, count, order, hashes, same, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Whether a row equals the one before it in the order of the hashes."""
    layer = tl.program_id(1).to(tl.int64)
    rows, stride, width = rows_of(source, table, layer)
    first = layer * count
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = (at > 0) & (at < count)
    row = tl.load(order + first + at, mask=there, other=0)
    before = tl.load(order + first + at - 1, mask=there, other=0)
    alike = there & (tl.load(hashes + first + row) == tl.load(hashes + first + before))
    begin = 0
    while (begin < width) & (tl.max(alike.to(tl.int32), axis=0) > 0):
        column = begin + tl.arange(0, BLOCK)
        inside = alike[:, None] & (column < width)[None, :]
        a = tl.load(rows + row[:, None] * stride + column[None, :], mask=inside, other=0)
        b = tl.load(rows + before[:, None] * stride + column[None, :], mask=inside, other=0)
        unequal = widened(a).to(tl.int64, bitcast=True) != widened(b).to(tl.int64, bitcast=True)
        alike = alike & (tl.max((inside & unequal).to(tl.int32), axis=1) == 0)
        begin += BLOCK
    tl.store(same + first + at, alike, mask=at < count)


def earlier(stack: Stack, hashes: torch.Tensor) -> torch.Tensor:
    """(L, M) int64: how many earlier rows of its layer each row equals, bit by bit.

    Rows whose hashes collide may have fewer; none has more.

    Args:
        hashes: (L, M) int64, as `measure.measure` gives them.
    """
    layers, count = hashes.shape
    same = torch.empty((layers, count), dtype=torch.bool, device=hashes.device)
    order = torch.sort(hashes, dim=1, stable=True).indices
    same_kernel[(triton.cdiv(count, ROWS), layers)](
        stack.any, stack.table, count, order, hashes, same, ROWS=ROWS, BLOCK=BLOCK, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip
    place = torch.arange(count, device=hashes.device).expand(layers, count)
    first = torch.where(same, 0, place).cummax(1).values  # of each run of equal rows
    return torch.empty_like(order).scatter_(1, order, place - first)


def earlier_reference(source: torch.Tensor) -> torch.Tensor:
    """(M,) int64, of one layer: `earlier` in plain torch, every row against every earlier one."""
    rows = source.double()
    equal = (rows[:, None].view(torch.int64) == rows[None].view(torch.int64)).all(dim=2)
    return equal.tril(-1).sum(dim=1)
