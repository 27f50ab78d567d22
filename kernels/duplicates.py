"""Equal rows of the support: all but the first k + 1 can be left out, since none of them votes.

A layer whose rows are all equal, or a softmax that says the same of many examples, would
otherwise fill every query's list with ties.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pdepth.kernels.exact import widened

ROWS, BLOCK = 16, 64  # of a program; columns at a time


@triton.jit(
    do_not_specialize=["stride", "rows", "width"], do_not_specialize_on_alignment=["hashes"]
)
def hash_kernel(source, stride, rows, width, hashes, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, BLOCK], tl.int64)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        value = tl.load(source + row[:, None] * stride + column[None, :], mask=inside, other=0)
        # Mixed with its place, so that rows of the same values in another order differ.
        word = widened(value).to(tl.int64, bitcast=True)
        word += column.to(tl.int64)[None, :] * 0x1E3779B97F4A7C15
        word = (word ^ (word >> 30)) * 0x3F58476D1CE4E5B9
        word = (word ^ (word >> 27)) * 0x14D049BB133111EB
        total += tl.where(inside, word ^ (word >> 31), 0)
    tl.store(hashes + row, tl.sum(total, axis=1), mask=row < rows)


@triton.jit(
    do_not_specialize=["stride", "rows", "width"],
    do_not_specialize_on_alignment=["order", "hashes", "same"],
)
def same_kernel(
    source, stride, rows, width, order, hashes, same, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Whether a row equals the one before it in the order of the hashes."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = (at > 0) & (at < rows)
    row = tl.load(order + at, mask=there, other=0)
    before = tl.load(order + at - 1, mask=there, other=0)
    alike = there & (tl.load(hashes + row) == tl.load(hashes + before))
    begin = 0
    while (begin < width) & (tl.max(alike.to(tl.int32), axis=0) > 0):
        column = begin + tl.arange(0, BLOCK)
        inside = alike[:, None] & (column < width)[None, :]
        a = tl.load(source + row[:, None] * stride + column[None, :], mask=inside, other=0)
        b = tl.load(source + before[:, None] * stride + column[None, :], mask=inside, other=0)
        unequal = widened(a).to(tl.int64, bitcast=True) != widened(b).to(tl.int64, bitcast=True)
        alike = alike & (tl.max((inside & unequal).to(tl.int32), axis=1) == 0)
        begin += BLOCK
    tl.store(same + at, alike, mask=at < rows)


def surplus(sources: Sequence[torch.Tensor], keep: int) -> torch.Tensor:
    """(L, M) bool: rows of each source (M, D) that equal at least `keep` earlier ones, bit by bit.

    Rows whose hashes collide may be spared; none is marked that should not be.
    """
    layers, rows, device = len(sources), len(sources[0]), sources[0].device
    hashes = torch.empty((layers, rows), dtype=torch.int64, device=device)
    same = torch.empty((layers, rows), dtype=torch.bool, device=device)
    grid = (triton.cdiv(rows, ROWS),)
    options = {"ROWS": ROWS, "BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": False}
    for source, own in zip(sources, hashes, strict=True):
        hash_kernel[grid](source, source.stride(0), rows, source.shape[1], own, **options)
    order = torch.sort(hashes, dim=1, stable=True).indices
    for source, own, by, alike in zip(sources, hashes, order, same, strict=True):
        same_kernel[grid](
            source, source.stride(0), rows, source.shape[1], by, own, alike, **options
        )
    place = torch.arange(rows, device=device).expand(layers, rows)
    first = torch.where(same, 0, place).cummax(1).values  # of each run of equal rows
    return torch.empty_like(same).scatter_(1, order, place - first >= keep)


def surplus_reference(source: torch.Tensor, keep: int) -> torch.Tensor:
    """`surplus` in plain torch: every row against every earlier one."""
    rows = source.double()
    equal = (rows[:, None].view(torch.int64) == rows[None].view(torch.int64)).all(dim=2)
    return equal.tril(-1).sum(dim=1) >= keep
