"""Distances in float32, between a filter's scores and the last word in float64.

Differences of the user's rows as they are, whose squares are summed in sections of eight, and those
in float64: each term passes through few roundings, however wide a row is, and each is relative to a
term, as `certify.Differences` has it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth import certify
from pdepth.kernels.bounds import SETTLEMENT
from pdepth.kernels.exact import widened

SECTION = tl.constexpr(8)  # terms that are added in float32
PAIRS, LANES = tl.constexpr(4), tl.constexpr(32)  # rows that a warp has at a time, and columns
SUMS = certify.FilterStage(
    "float32 sections", multiple=1, step=1, section=2**62, chain=SECTION.value, norms_first=False
)
# Those of any width from SECTION on.
RELATIVE = tl.constexpr(certify.MARGIN * certify.UNIT * SUMS.roundings(SECTION.value))
LOST = tl.constexpr(3 * certify.LOST)
SPREAD = tl.constexpr(certify.ROUNDED_UP)  # of a measured norm
NEGLIGIBLE = tl.constexpr(certify.NEGLIGIBLE**2)


@triton.jit
def _narrow(values):
    """Whether float32 holds every value of a type."""
    return values.dtype.is_fp32() or values.dtype.primitive_bitwidth <= 16


@triton.jit
def _differences(a, b):
    """float32 differences, each rounded once, or a little more than once."""
    if _narrow(a) and _narrow(b):
        difference = b.to(tl.float32) - a.to(tl.float32)
    else:
        difference = (widened(b) - widened(a)).to(tl.float32)
    return difference


@triton.jit
def distances(x, y, there, width, PAIRS: tl.constexpr, LANES: tl.constexpr):
    """(PAIRS,) float64 squared distances from the row at `x` to those at `y` (PAIRS,) that are
    `there`; infinite where float32 has no room for a term.

    Without contraction of products and sums: launch with enable_fp_fusion=False.
    """
    lane = tl.arange(0, LANES)[None, :]
    x += lane
    y = y[:, None] + lane
    there = there[:, None]
    total = tl.zeros([PAIRS, LANES], tl.float64)
    for block in range(0, width, SECTION * LANES):
        section = tl.zeros([PAIRS, LANES], tl.float32)
        for part in tl.static_range(SECTION):
            first = block + part * LANES
            own = lane < width - first
            a = tl.load(x + first, mask=own, other=0)
            b = tl.load(y + first, mask=own & there, other=0)
            difference = _differences(a, b)
            section += difference * difference
        total += section.to(tl.float64)
    return tl.sum(total, axis=1)


@triton.jit
def lower_and_upper(distance, width, scale, query_norm):
    """Bounds of scores by products, less what a query's norm leaves open, of float64 distances.

    A true score is half the squared distance of scaled rows less half the query's squared norm,
    which is known to within SPREAD: the stored norm stands for it, so that all rows that have such
    bounds are off by the same. Those that have not are to be lowered by `spread`.
    """
    lost = (width + 8).to(tl.float64) * LOST
    least = tl.maximum(distance - lost, 0.0) * (1 - RELATIVE) * (1 - SETTLEMENT)
    most = (distance + lost) * (1 + RELATIVE) * (1 + SETTLEMENT)
    square = query_norm * query_norm
    return (least * scale * scale - square) * 0.5, (most * scale * scale - square) * 0.5


@triton.jit
def spread(query_norm):
    """At most by how much the stored norm lowers what `lower_and_upper` gives."""
    return query_norm * query_norm * SPREAD + NEGLIGIBLE


def reference(queries: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """(N, M) float64: `distances` in plain torch, but for the order of the sections' sum."""
    if any(rows.dtype in (torch.float64, torch.int32, torch.int64) for rows in (queries, support)):
        queries, support = queries.double(), support.double()
    else:
        queries, support = queries.float(), support.float()
    difference = (support[None] - queries[:, None]).float()
    terms = difference * difference
    lanes, section = LANES.value, SECTION.value
    pad = -terms.shape[2] % (lanes * section)
    terms = torch.nn.functional.pad(terms, (0, pad)).unflatten(2, (-1, section, lanes))
    sums = terms[:, :, :, 0]
    for part in range(1, section):
        sums = sums + terms[:, :, :, part]
    return sums.double().sum(dim=(2, 3))
