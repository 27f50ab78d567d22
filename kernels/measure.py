"""What is measured of a layer's rows before they are packed, for all layers in one launch.

Some programs go over rows: the layer's largest absolute value, which gives its scale, and, where
they are asked for, the rows' hashes. The others go over columns: a point near the rows, the mean of
ordinary ones in a sample. Any centre gives the same votes; a near one gives small norms and so
tight bounds, which is why values far larger than the others have no say in it.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from pdepth.kernels.bounds import LENGTH, SPAN
from pdepth.kernels.exact import widened
from pdepth.kernels.stack import PLACES, Stack, rows_of

ROWS, BLOCK = 16, 64  # of a program that goes over rows; columns at a time, or of a program
SAMPLE, SLICE = 128, 8  # rows of a sample, and of how many columns they are read at once
GOLDEN = tl.constexpr(0x9E3779B9)  # of 2^32
REGISTERS = 128  # of a thread: left to itself, one assembler spills some
# Rows are ordinary in some columns up to about eight times the geometric mean of the lengths that
# the sample's rows have there: by exponents of their squares.
FAR_LONGER = tl.constexpr(6)


@triton.jit
def _measure_rows(
    rows, stride, width, layer, count, hashes, largest, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    most = tl.zeros([ROWS, BLOCK], tl.float64)
    if hashes is not None:
        total = tl.zeros([ROWS, BLOCK], tl.int64)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = (row < count)[:, None] & (column < width)[None, :]
        value = tl.load(rows + row[:, None] * stride + column[None, :], mask=inside, other=0)
        value = widened(value)
        most = tl.maximum(most, tl.abs(value))
        if hashes is not None:
            # Mixed with its place, so that rows of the same values in another order differ.
            word = value.to(tl.int64, bitcast=True)
            word += column.to(tl.int64)[None, :] * 0x1E3779B97F4A7C15
            word = (word ^ (word >> 30)) * 0x3F58476D1CE4E5B9
            word = (word ^ (word >> 27)) * 0x14D049BB133111EB
            total += tl.where(inside, word ^ (word >> 31), 0)
    if hashes is not None:
        tl.store(hashes + layer * count + row, tl.sum(total, axis=1), mask=row < count)
    # Numbers that are not negative are ordered as their bits.
    tl.atomic_max(largest, tl.max(most).to(tl.int64, bitcast=True), sem="relaxed")


@triton.jit
def _scattered(at, count):
    """Numbers below `count`, spread as multiples of the golden ratio are."""
    part = (at.to(tl.uint32) * GOLDEN).to(tl.int64)
    return part * count >> 32


@triton.jit
def _centre(
    rows, stride, width, first, count, sampled, centre, BLOCK: tl.constexpr,
    SAMPLE: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    """Of the columns from `first` on."""
    end = tl.minimum(first + BLOCK, width)
    at = tl.arange(0, SAMPLE)
    there = at < sampled
    rows += _scattered(at, count)[:, None] * stride
    squares = tl.zeros([SAMPLE, SLICE], tl.float64)
    for begin in range(first, end, SLICE):
        column = begin + tl.arange(0, SLICE)
        inside = there[:, None] & (column < width)[None, :]
        value = widened(tl.load(rows + column[None, :], mask=inside, other=0))
        squares += value * value
    power = (tl.sum(squares, axis=1).to(tl.int64, bitcast=True) >> 52).to(tl.int32)
    powers = tl.sum(tl.where(there, power, 0), axis=0)
    mean = powers // tl.maximum(tl.sum((there & (power > 0)).to(tl.int32), axis=0), 1)
    ordinary = there & (power <= mean + FAR_LONGER)
    count = tl.sum(ordinary.to(tl.int32), axis=0)
    for begin in range(first, end, SLICE):
        column = begin + tl.arange(0, SLICE)
        inside = ordinary[:, None] & (column < width)[None, :]
        value = widened(tl.load(rows + column[None, :], mask=inside, other=0))
        tl.store(centre + column, tl.sum(value, axis=0) / count, mask=column < width)


@triton.jit(
    do_not_specialize=["count", "sampled", "row_programs"],
    do_not_specialize_on_alignment=["source", "table", "places"],
)
def measure_kernel(
    source, table, places, count, sampled, row_programs, hashes, bound, centres,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SAMPLE: tl.constexpr, SLICE: tl.constexpr,
    BOUND: tl.constexpr,
):  # fmt: skip
    """hashes, centres: None where these are not asked for."""
    layer = tl.program_id(1).to(tl.int64)
    rows, stride, width = rows_of(source, table, layer)
    if tl.program_id(0) < row_programs:
        largest = (bound + layer * BOUND + SPAN).to(tl.pointer_type(tl.int64), bitcast=True)
        _measure_rows(rows, stride, width, layer, count, hashes, largest, ROWS, BLOCK)
    elif centres is not None:
        first = (tl.program_id(0) - row_programs) * BLOCK
        if first < width:
            centre = centres + tl.load(places + layer * PLACES + 2)
            _centre(rows, stride, width, first, count, sampled, centre, BLOCK, SAMPLE, SLICE)


def measure(
    stack: Stack,
    bound: torch.Tensor,
    hashes: torch.Tensor | None = None,
    places: torch.Tensor | None = None,
    centres: torch.Tensor | None = None,
) -> None:
    """Fill in what is measured of the rows (M, D) of each layer.

    Args:
        bound: (L, bounds.LENGTH) float64, nought: SPAN becomes a layer's largest absolute value.
        hashes: (L, M) int64 or None; rows that are equal bit by bit have equal ones.
        places: as `prepare.prepare` takes them: where each layer's centre begins.
        centres: flat float64, of all layers' columns, or None.
    """
    count = len(stack.any)
    row_programs = triton.cdiv(count, ROWS)
    columns = 0 if centres is None else triton.cdiv(max(stack.widths), BLOCK)
    measure_kernel[(row_programs + columns, len(stack))](
        stack.any, stack.table, stack.table if places is None else places, count,
        min(SAMPLE, count), row_programs, hashes, bound, centres, ROWS=ROWS,
        BLOCK=BLOCK, SAMPLE=SAMPLE, SLICE=SLICE, BOUND=LENGTH, num_warps=4,
        maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip


def moves(dtype: torch.dtype) -> bool:
    """Whether rows of this type are centred: those that float16 holds as they are stay so."""
    return dtype.itemsize > 1 and dtype not in (torch.float16, torch.bfloat16)


def step_of(rows: int) -> int:
    """Rows this far apart, wrapping around, are all of them: it shares no factor with `rows`."""
    step = int(0.6180339887498949 * rows) | 1
    while math.gcd(step, rows) != 1:
        step += 1
    return step


def centre_reference(rows: torch.Tensor) -> torch.Tensor:
    """(D,) float64, of the rows (M, D) of a layer: its centre in plain torch."""
    count = len(rows)
    sampled = min(SAMPLE, count)
    part = torch.arange(sampled, device=rows.device) * GOLDEN.value % 2**32
    sample = rows[part * count >> 32].double()
    centres = []
    for block in sample.split(BLOCK, dim=1):
        power = block.square().sum(dim=1).view(torch.int64) >> 52
        mean = power.sum() // (power > 0).sum().clamp(min=1)
        centres.append(block[power <= mean + FAR_LONGER.value].mean(dim=0))
    return torch.cat(centres)
