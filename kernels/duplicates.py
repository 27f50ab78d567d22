"""Equal rows of the support: all but the first k + 1 can be left out, since none of them votes.

A layer whose rows are all equal, or a softmax that is the same for many examples, would
otherwise fill every query's list with ties. Hashes find them; the kernel that reads all values for
that notes the largest, too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth.kernels.exact import widened
from pdepth.kernels.stack import Stack, rows_of

ROWS, BLOCK = 16, 64  # of a program; columns at a time


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["source"])
def hash_kernel(source, table, count, hashes, largest, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    layer = tl.program_id(1).to(tl.int64)
    rows, stride, width = rows_of(source, table, layer)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, BLOCK], tl.int64)
    most = tl.zeros([ROWS, BLOCK], tl.float64)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = (row < count)[:, None] & (column < width)[None, :]
        value = tl.load(rows + row[:, None] * stride + column[None, :], mask=inside, other=0)
        value = widened(value)
        most = tl.maximum(most, tl.abs(value))
        # Mixed with its place, so that rows of the same values in another order differ.
        word = value.to(tl.int64, bitcast=True)
        word += column.to(tl.int64)[None, :] * 0x1E3779B97F4A7C15
        word = (word ^ (word >> 30)) * 0x3F58476D1CE4E5B9
        word = (word ^ (word >> 27)) * 0x14D049BB133111EB
        total += tl.where(inside, word ^ (word >> 31), 0)
    tl.store(hashes + layer * count + row, tl.sum(total, axis=1), mask=row < count)
    # Numbers that are not negative are ordered as their bits.
    tl.atomic_max(largest + layer, tl.max(most).to(tl.int64, bitcast=True), sem="relaxed")


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["source"])
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


def surplus(stack: Stack, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of each layer (M, D) that equal at least `keep` earlier ones, bit by bit.

    Rows whose hashes collide may be spared; none is marked that should not be.

    Returns:
        (L, M) bool, and the largest absolute value of each layer, (L,) float64.
    """
    layers, count, device = len(stack), len(stack.any), stack.any.device
    hashes = torch.empty((layers, count), dtype=torch.int64, device=device)
    same = torch.empty((layers, count), dtype=torch.bool, device=device)
    largest = torch.zeros(layers, dtype=torch.int64, device=device)
    grid = (triton.cdiv(count, ROWS), layers)
    options = {"ROWS": ROWS, "BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": False}
    hash_kernel[grid](stack.any, stack.table, count, hashes, largest, **options)
    order = torch.sort(hashes, dim=1, stable=True).indices
    same_kernel[grid](stack.any, stack.table, count, order, hashes, same, **options)
    place = torch.arange(count, device=device).expand(layers, count)
    first = torch.where(same, 0, place).cummax(1).values  # of each run of equal rows
    result = torch.empty_like(same).scatter_(1, order, place - first >= keep)
    return result, largest.view(torch.float64)


def surplus_reference(source: torch.Tensor, keep: int) -> torch.Tensor:
    """`surplus` in plain torch: every row against every earlier one."""
    rows = source.double()
    equal = (rows[:, None].view(torch.int64) == rows[None].view(torch.int64)).all(dim=2)
    return equal.tril(-1).sum(dim=1) >= keep
