"""Rows as the filter takes them: centred, scaled, rounded to float16, and what is known of each.

One launch packs the support's rows, or some queries and their lists, or both, of all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pdepth.kernels import bounds
from pdepth.kernels.exact import widened
from pdepth.kernels.lists import NOWHERE, Lists
from pdepth.kernels.stack import PLACES, Stack, rows_of

ROWS, BLOCK = 16, 64  # of a program; columns at a time
LARGEST = tl.constexpr(15)  # exponent of a packed element: sums stay far from float32's end
IN_RANGE = tl.constexpr(2.0**400)  # beyond it, or below its inverse, a layer's values have no scale
NEGLIGIBLE = 2.0**-8  # residual of a row: float16's subnormal numbers lose at most 2^-25 each
ROUNDED_UP = tl.constexpr(1 + 2.0**-20)  # covers float64's own sum, and rounds float32 up
ELSEWHERE = tl.constexpr(NOWHERE)


@triton.jit
def scale_of(span):
    """The power of two that brings a layer's values, whose largest is `span`, into range, and what
    the residuals of its rows are below: infinite, or nought where there is no such power. A centre
    is among the values, so that none is farther from it than twice the largest."""
    usable = (span == 0) | ((span > 1 / IN_RANGE) & (span < IN_RANGE))
    exponent = (span.to(tl.int64, bitcast=True) >> 52) - 1021  # of twice the largest, below 1
    exponent = tl.where(usable & (span > 0), LARGEST - exponent, 0)
    scale = ((exponent + 1023) << 52).to(tl.float64, bitcast=True)
    return scale, tl.where(usable, float("inf"), 0.0)


@triton.jit
def _set(bound, number, bits):
    """To the float64 with these bits."""
    tl.store(bound + number, bits.to(tl.float64, bitcast=True))


@triton.jit
def _raise(bound, number, value):
    """To at least a value that is not negative: such numbers are ordered as their bits."""
    place = (bound + number).to(tl.pointer_type(tl.int64), bitcast=True)
    tl.atomic_max(place, value.to(tl.int64, bitcast=True), sem="relaxed")


@triton.jit(
    do_not_specialize=["first", "layers", "count", "padded", "num_queries", "padded_queries"],
    do_not_specialize_on_alignment=[
        *("source", "table", "places", "constants", "query_rows", "selves"),
    ],
)
def prepare_kernel(
    source, table, places, constants, first, layers, centres, bound, packed,
    order, count, padded, half_norms, norms,
    query_rows, selves, positions, num_queries, padded_queries, query_norms, query_residuals,
    cuts, sizes, proven, own, ROWS: tl.constexpr, BLOCK: tl.constexpr, BOUND: tl.constexpr,
    TINY: tl.constexpr, MOVED: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """INNER: half_norms become the rows' products with their scaled centre, the sign turned."""
    entry = first + tl.program_id(1).to(tl.int64)
    asked = entry >= layers  # a query, not a row of the support
    layer = entry % layers
    bound += layer * BOUND
    if asked:
        order = query_rows
        count = num_queries
        padded = padded_queries
    if tl.program_id(0) * ROWS < padded:
        rows, stride, width = rows_of(source, table, entry)
        blocks = tl.load(places + entry * PLACES).to(tl.int32)
        packed += tl.multiple_of(tl.load(places + entry * PLACES + 1), BLOCK)
        begin = tl.load(places + entry * PLACES + 2)
        at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        there = at < count
        row = tl.load(order + at, mask=there, other=0)
        factor, limit = scale_of(tl.load(bound + bounds.SPAN))
        squares = tl.zeros([ROWS, BLOCK], tl.float64)
        losses = tl.zeros([ROWS, BLOCK], tl.float64)
        if INNER:
            products = tl.zeros([ROWS, BLOCK], tl.float64)
            middles = tl.zeros([BLOCK], tl.float64)
        for block in range(blocks):
            column = block * BLOCK + tl.arange(0, BLOCK)
            inside = there[:, None] & (column < width)[None, :]
            value = tl.load(rows + row[:, None] * stride + column[None, :], mask=inside, other=0)
            value = widened(value)
            if MOVED:
                middle = tl.load(centres + begin + column, mask=column < width, other=0)
                value -= middle[None, :]
            value = tl.where(inside, value * factor, 0.0)
            short = value.to(tl.float32).to(tl.float16)
            place = (at[:, None] * blocks + block) * BLOCK + tl.arange(0, BLOCK)[None, :]
            tl.store(packed + place, short, mask=(at < padded)[:, None])
            loss = value - short.to(tl.float32).to(tl.float64)
            squares += value * value
            losses += loss * loss
            if INNER and MOVED:
                products += value * (middle * factor)[None, :]
                middles += (middle * factor) * (middle * factor)
        square = tl.sum(squares, axis=1)
        residual = tl.sqrt(tl.sum(losses, axis=1))
        # The padding, and rows that float16 cannot hold: infinite.
        held = there & (residual < limit)
        norm = tl.where(held, tl.sqrt(square) * ROUNDED_UP, float("inf")).to(tl.float32)
        residual = tl.where(held, residual * ROUNDED_UP, 0.0).to(tl.float32)
        to = layer * padded + at
        if asked:
            tl.store(query_norms + to, norm, mask=at < padded)
            tl.store(query_residuals + to, residual, mask=at < padded)
            lost = norm == float("inf")
            tl.store(cuts + to, tl.where(lost, float("-inf"), float("inf")), mask=at < padded)
            tl.store(sizes + to, tl.zeros([ROWS], tl.int32), mask=at < padded)
            nothing = tl.full([ROWS], float("inf"), tl.float64)
            tl.store(proven + to, nothing, mask=at < padded)
            mine = tl.load(selves + at, mask=there, other=-1)
            known = there & (mine >= 0)
            position = tl.load(positions + mine, mask=known, other=ELSEWHERE)
            tl.store(own + to, position.to(tl.int32), mask=at < padded)
            if tl.program_id(0) == 0:
                _set(bound, bounds.NEGLIGIBLE, tl.load(constants + layer * PLACES))
                _set(bound, bounds.ROUNDINGS, tl.load(constants + layer * PLACES + 1))
                _set(bound, bounds.LOST, tl.load(constants + layer * PLACES + 2))
        else:
            half = -tl.sum(products, axis=1) if INNER else 0.5 * square
            half = tl.where(held, half, float("inf")).to(tl.float32)
            tl.store(half_norms + to, half, mask=at < padded)
            tl.store(norms + to, norm, mask=at < padded)
            share = tl.where(residual > TINY, residual.to(tl.float64) / norm.to(tl.float64), 0.0)
            _raise(bound, bounds.RELATIVE, tl.max(share))
            _raise(bound, bounds.LARGEST, tl.max(tl.where(there, norm, 0.0)).to(tl.float64))
            if tl.program_id(0) == 0:
                centre = -1.0
                if INNER:
                    centre = tl.sqrt(tl.sum(middles)) * ROUNDED_UP
                tl.store(bound + bounds.CENTRE, centre)
                tl.store(bound + bounds.SCALE, factor)


@dataclass(frozen=True, eq=False)
class Packed:
    """The support of L layers, and what is known of it.

    Attributes:
        rows: flat float16: (S, columns) of each layer, S >= M; the rest is nought.
        half_norms: (L, S) float32, half the squared norm of a row before it was rounded, or of
            inner products its product with the scaled centre, the sign turned; infinite beyond M,
            so that no query takes the padding.
        norms: (L, S) float32, at least a row's norm; infinite beyond M, and for a row that float16
            cannot hold.
        bound: (L, bounds.LENGTH) float64: SPAN is measured before; RELATIVE, LARGEST, CENTRE and
            SCALE while rows are packed; and the rest is the filter's, see `Queries.constants`.
        centres: flat float64, subtracted from each row in float64, or None.
    """

    rows: torch.Tensor
    half_norms: torch.Tensor
    norms: torch.Tensor
    bound: torch.Tensor
    centres: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Queries:
    """Some queries, of each layer.

    Attributes:
        rows: (n,) int64 rows of the layers' queries.
        selves: (n,) int64, the support's row that a query does not take, or -1.
        positions: (M,) int64, where each of the support's rows is among the packed ones.
        packed: flat float16: (Q, columns) of each layer, Q >= n; the rest is nought.
        lists: of Q queries. What is known of a query goes there, and its list is empty; the
            padding, and queries that float16 cannot hold, are given up.
        constants: (L, 3) int64, the bits of float64: NEGLIGIBLE, ROUNDINGS and LOST of the bounds.
    """

    rows: torch.Tensor
    selves: torch.Tensor
    positions: torch.Tensor
    packed: torch.Tensor
    lists: Lists
    constants: torch.Tensor


def prepare(
    stack: Stack,
    places: torch.Tensor,
    order: torch.Tensor,
    support: Packed,
    queries: Queries,
    what: str = "both",
    *,
    inner_products: bool = False,
) -> None:
    """Pack the support's rows, the queries, or both, and fill in what is known of them.

    Args:
        stack: rows of one of them or of both; its table is of the L supports, and then of the L
            layers of queries.
        places: (2 L, PLACES) int64, of the same. For both in one launch, `support.rows` and
            `queries.packed` are one array.
        order: (M,) int64, the support's row at each position.
        what: "support", "queries" or "both".
    """
    layers, padded = support.norms.shape
    lists = queries.lists
    padded_queries = lists.norms.shape[1]
    height = {"support": padded, "queries": padded_queries}.get(what, max(padded, padded_queries))
    prepare_kernel[(triton.cdiv(height, ROWS), 2 * layers if what == "both" else layers)](
        stack.any, stack.table, places, queries.constants, layers if what == "queries" else 0,
        layers, support.centres, support.bound,
        queries.packed if what == "queries" else support.rows,
        order, len(order), padded, support.half_norms, support.norms,
        queries.rows, queries.selves, queries.positions, len(queries.rows), padded_queries,
        lists.norms, lists.residuals, lists.cuts, lists.sizes, lists.proven, lists.selves,
        ROWS=ROWS, BLOCK=BLOCK, BOUND=bounds.LENGTH, TINY=NEGLIGIBLE,
        MOVED=support.centres is not None, INNER=inner_products, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip


def scales(spans: torch.Tensor) -> torch.Tensor:
    """(L,) float64, powers of two for the largest values (L,) of layers; NaN where there is none:
    `scale_of` in plain torch."""
    exponents = (spans.view(torch.int64) >> 52) - 1021
    powers = ((LARGEST.value - exponents + 1023) << 52).view(torch.float64)
    usable = (spans > 1 / IN_RANGE.value) & (spans < IN_RANGE.value)
    return powers.where(usable, math.nan).where(spans != 0, 1.0)


def prepare_reference(
    source: torch.Tensor, order: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(n, D) float16 packed rows, (n,) float64 norms and residuals: `prepare` in plain torch."""
    values = (source[order].double() - centre) * scale
    packed = values.float().half()
    return packed, values.norm(dim=1), (values - packed.double()).norm(dim=1)
