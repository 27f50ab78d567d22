"""Rows as the filter takes them: centred, scaled, rounded to float16, and what is known of each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth.kernels.exact import widened
from pdepth.kernels.stack import Stack, rows_of

LARGEST = 2.0**15  # element of a packed row, so that sums stay far from float32's end
NEGLIGIBLE = 2.0**-8  # residual of a row: float16's subnormal numbers lose at most 2^-25 each
ROWS, BLOCK = 16, 64  # of a program; columns at a time
FIELDS = tl.constexpr(3)  # of a layer: blocks of columns, where its packed rows and centre begin
ROUNDED_UP = tl.constexpr(1 + 2.0**-20)  # covers float64's own sum, and rounds float32 up


@triton.jit(
    do_not_specialize=["count", "padded"],
    do_not_specialize_on_alignment=["source", "order", "places"],
)
def prepare_kernel(
    source, table, places, order, count, padded, centres, scales, packed, half_norms, norms,
    residuals, ROWS: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """INNER: half_norms become the rows' products with their scaled centre, the sign turned."""
    layer = tl.program_id(1).to(tl.int64)
    rows, stride, width = rows_of(source, table, layer)
    blocks = tl.load(places + layer * FIELDS).to(tl.int32)
    packed += tl.multiple_of(tl.load(places + layer * FIELDS + 1), BLOCK)
    centre = centres + tl.load(places + layer * FIELDS + 2)
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = at < count
    row = tl.load(order + at, mask=there, other=0)
    factor = tl.load(scales + layer)
    squares = tl.zeros([ROWS, BLOCK], tl.float64)
    losses = tl.zeros([ROWS, BLOCK], tl.float64)
    products = tl.zeros([ROWS, BLOCK], tl.float64)
    for block in range(blocks):
        column = block * BLOCK + tl.arange(0, BLOCK)
        inside = there[:, None] & (column < width)[None, :]
        value = tl.load(rows + row[:, None] * stride + column[None, :], mask=inside, other=0)
        middle = tl.load(centre + column, mask=column < width, other=0)
        value = tl.where(inside, (widened(value) - middle[None, :]) * factor, 0.0)
        short = value.to(tl.float32).to(tl.float16)
        place = (at[:, None] * blocks + block) * BLOCK + tl.arange(0, BLOCK)[None, :]
        tl.store(packed + place, short, mask=(at < padded)[:, None])
        loss = value - short.to(tl.float32).to(tl.float64)
        squares += value * value
        losses += loss * loss
        if INNER:
            products += value * (middle * factor)[None, :]
    square = tl.sum(squares, axis=1)
    residual = tl.sqrt(tl.sum(losses, axis=1))
    half = -tl.sum(products, axis=1) if INNER else 0.5 * square
    half = tl.where(there, half, float("inf")).to(tl.float32)
    # The padding, and rows that float16 cannot hold: infinite.
    held = there & (residual < float("inf"))
    norm = tl.where(held, tl.sqrt(square) * ROUNDED_UP, float("inf")).to(tl.float32)
    residual = tl.where(held, residual * ROUNDED_UP, 0.0).to(tl.float32)
    first = layer * padded
    tl.store(half_norms + first + at, half, mask=at < padded)
    tl.store(norms + first + at, norm, mask=at < padded)
    tl.store(residuals + first + at, residual, mask=at < padded)


def prepare(
    stack: Stack,
    order: torch.Tensor,
    places: torch.Tensor,
    centres: torch.Tensor,
    scales: torch.Tensor,
    packed: torch.Tensor,
    half_norms: torch.Tensor,
    norms: torch.Tensor,
    residuals: torch.Tensor,
    *,
    inner_products: bool = False,
) -> None:
    """Pack the rows `order` (n,) int64 of each layer.

    Args:
        places: (L, FIELDS) int64: a layer's packed columns in blocks of BLOCK, and where its packed
            rows and its centre begin.
        centres: flat float64, subtracted from each row in float64.
        scales: (L,) float64, powers of two.
        packed: flat float16: (P, columns) of each layer, P >= n; the rest is nought.
        half_norms: (L, P) float32, half the squared norm of the row before it was rounded, or of
            inner products its product with the scaled centre, the sign turned; infinite beyond n,
            so that no query takes the padding.
        norms: (L, P) float32, at least its norm; infinite beyond n, and for a row that float16
            cannot hold.
        residuals: (L, P) float32, at least the norm of what rounding took away.
    """
    padded = norms.shape[1]
    prepare_kernel[(triton.cdiv(padded, ROWS), len(stack))](
        stack.any, stack.table, places, order, len(order), padded, centres, scales, packed,
        half_norms, norms, residuals, ROWS=ROWS, BLOCK=BLOCK, INNER=inner_products, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip


def prepare_reference(
    source: torch.Tensor, order: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(n, D) float16 packed rows, (n,) float64 norms and residuals: `prepare` in plain torch."""
    values = (source[order].double() - centre) * scale
    packed = values.float().half()
    return packed, values.norm(dim=1), (values - packed.double()).norm(dim=1)
