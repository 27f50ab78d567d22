"""A point near the rows of a layer, for all layers at once: the mean of ordinary ones in a sample.

Any centre gives the same votes. A near one gives small norms and so tight bounds, which is why rows
far larger than the others have no say in it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth.kernels.exact import widened
from pdepth.kernels.stack import Stack, rows_of

SAMPLE = 1024  # rows
ROWS, BLOCK = 16, 64  # at a time; columns of a program that takes means
ORDINARY = 8  # times the median norm


@triton.jit(do_not_specialize=["sampled"], do_not_specialize_on_alignment=["source"])
def lengths_kernel(source, table, order, sampled, lengths, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    layer = tl.program_id(1).to(tl.int64)
    rows, stride, width = rows_of(source, table, layer)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.load(order + at, mask=at < sampled, other=0)
    squares = tl.zeros([ROWS, BLOCK], tl.float64)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = (at < sampled)[:, None] & (column < width)[None, :]
        value = tl.load(rows + row[:, None] * stride + column[None, :], mask=inside, other=0)
        value = widened(value)
        squares += value * value
    length = tl.sqrt(tl.sum(squares, axis=1))
    tl.store(lengths + layer * sampled + at, length, mask=at < sampled)


@triton.jit(do_not_specialize=["sampled"], do_not_specialize_on_alignment=["source"])
def means_kernel(
    source, table, order, sampled, shares, begins, centres, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    layer = tl.program_id(1).to(tl.int64)
    rows, stride, width = rows_of(source, table, layer)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK < width:
        sums = tl.zeros([ROWS, BLOCK], tl.float64)
        for begin in range(0, sampled, ROWS):
            at = begin + tl.arange(0, ROWS)
            row = tl.load(order + at, mask=at < sampled, other=0)
            share = tl.load(shares + layer * sampled + at, mask=at < sampled, other=0)
            inside = (share > 0)[:, None] & (column < width)[None, :]
            value = tl.load(rows + row[:, None] * stride + column[None, :], mask=inside, other=0)
            sums += widened(value) * share[:, None]
        centre = centres + tl.load(begins + layer) + column
        tl.store(centre, tl.sum(sums, axis=0), mask=column < width)


def moves(dtype: torch.dtype) -> bool:
    """Whether rows of this type are centred: those that float16 holds as they are stay so."""
    return dtype.itemsize > 1 and dtype not in (torch.float16, torch.bfloat16)


def centres(stack: Stack, order: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """The layers' centres, one after the other, (sum of D,) float64.

    Nought for types that are not moved.

    Args:
        order: (n,) int64, rows of which the first are the sample.
        begins: (L,) int64, where each layer's centre begins.
    """
    device, total = order.device, sum(stack.widths)
    if not moves(stack.any.dtype):
        return torch.zeros(total, dtype=torch.float64, device=device)
    sampled = min(SAMPLE, len(order))
    lengths = torch.empty((len(stack), sampled), dtype=torch.float64, device=device)
    constants = {"ROWS": ROWS, "BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": False}
    lengths_kernel[(triton.cdiv(sampled, ROWS), len(stack))](
        stack.any, stack.table, order, sampled, lengths, **constants
    )
    # A program may want operations of a fixed order only; then CUDA's `median` is refused.
    median = lengths.sort(dim=1).values[:, (sampled - 1) // 2, None]
    ordinary = (lengths <= ORDINARY * median).double()
    shares = ordinary / ordinary.sum(dim=1, keepdim=True)
    result = torch.empty(total, dtype=torch.float64, device=device)
    means_kernel[(triton.cdiv(max(stack.widths), BLOCK), len(stack))](
        stack.any, stack.table, order, sampled, shares, begins, result, **constants
    )
    return result


def centre_reference(rows: torch.Tensor) -> torch.Tensor:
    """(D,) float64, of a sample of rows (n, D): `centres` in plain torch."""
    values = rows.double()
    norms = values.norm(dim=1)
    return values[norms <= ORDINARY * norms.median()].mean(dim=0)
