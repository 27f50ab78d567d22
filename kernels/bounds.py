"""What a filter's score proves: `pdepth.certify` on the device, with the same constants.

A layer's bound is a vector of float64, as `of_products` and `of_differences` lay it out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth import certify

MARGIN = tl.constexpr(certify.MARGIN)
UNIT = tl.constexpr(certify.UNIT)
SETTLEMENT = tl.constexpr(certify.SETTLEMENT)
RELATIVE = tl.constexpr(0)  # of products: the largest residual of a support row over its norm
NEGLIGIBLE = tl.constexpr(1)
ROUNDINGS = tl.constexpr(2)  # of the sum, times float32's unit roundoff
LOST = tl.constexpr(3)
LARGEST = tl.constexpr(4)  # at least the norm of any support row
CENTRE = tl.constexpr(5)  # of inner products: at least the norm of the scaled centre; else below 0
SPAN = tl.constexpr(6)  # the largest absolute value of a support row, before it is packed
SCALE = tl.constexpr(7)  # a power of two, by which rows were multiplied
LENGTH = 8


def constants(
    stage: certify.FilterStage, width: int, negligible: float
) -> tuple[float, float, float]:
    """NEGLIGIBLE, ROUNDINGS and LOST of products."""
    roundings = certify.UNIT * stage.roundings(width)
    return negligible, roundings, 3 * certify.LOST * (stage.columns(width) + 8)


def of_products(bound: certify.Products) -> torch.Tensor:
    """(LENGTH,) float64, on the CPU; the packed rows give LARGEST, and RELATIVE if it grows."""
    own = constants(bound.stage, bound.width, bound.negligible)
    return _padded([bound.relative, *own, 0.0, -1.0])


def of_differences(bound: certify.Differences) -> torch.Tensor:
    """(LENGTH,) float64, on the CPU, of rows that were not rounded before they were subtracted."""
    relative, _, lost = bound._terms(0.0)
    values = [0.0, 0.0, relative, lost]
    return _padded(values)


def _padded(values: list[float]) -> torch.Tensor:
    values = values + [0.0] * (LENGTH - len(values))
    return torch.tensor(values, dtype=torch.float64, device="cpu")


@triton.jit
def _error(bound, query_norm, query_residual, norm):
    """`certify.Products.error`, or that of `certify.InnerProducts`."""
    centre = tl.load(bound + CENTRE)
    offset = UNIT * norm * norm
    settled = SETTLEMENT * (query_norm * query_norm + norm * norm)
    if centre >= 0:
        offset = 2 * UNIT * centre * norm
        settled = SETTLEMENT * (query_norm + centre) * (norm + centre)
    products = tl.load(bound + ROUNDINGS)
    image = query_norm + query_residual
    residual = tl.load(bound + RELATIVE) * norm + tl.load(bound + NEGLIGIBLE)
    error = MARGIN * (
        query_residual * norm
        + image * residual
        + products * image * (norm + residual)
        + offset
        + settled
    )
    return error + tl.load(bound + LOST)


@triton.jit
def lower_and_upper(scores, norms, bound, query_norm, query_residual, DIFFERENCES: tl.constexpr):
    """Bounds of the true scores, float64."""
    score = scores.to(tl.float64)
    if DIFFERENCES:
        relative, lost = tl.load(bound + ROUNDINGS), tl.load(bound + LOST)
        lower = tl.maximum((score - lost) * (1 - relative), 0.0) * (1 - SETTLEMENT)
        upper = (score + lost) * (1 + relative) * (1 + SETTLEMENT)
    else:
        error = _error(bound, query_norm, query_residual, norms.to(tl.float64))
        lower, upper = score - error, score + error
    return lower, upper


@triton.jit
def cut(proven, bound, query_norm, query_residual, DIFFERENCES: tl.constexpr):
    """No row whose true score is at most `proven` is computed at or above this float32."""
    if DIFFERENCES:
        relative, lost = tl.load(bound + ROUNDINGS), tl.load(bound + LOST)
        value = proven * (1 + relative) * (1 + SETTLEMENT) + lost
    else:
        largest = tl.load(bound + LARGEST)
        # Such a row is near the query, which bounds its norm, but for inner products.
        distance = tl.sqrt(tl.maximum(2 * proven + query_norm * query_norm, 0.0))
        near = tl.minimum(largest, (query_norm + distance) * MARGIN)
        norm = tl.where(tl.load(bound + CENTRE) < 0, near, largest)
        value = proven + _error(bound, query_norm, query_residual, norm)
    return above(value)


@triton.jit
def above(value):
    """The least float32 above a float64."""
    rounded = value.to(tl.float32)
    bits = rounded.to(tl.int32, bitcast=True)
    following = tl.where(rounded == 0, 1, tl.where(rounded > 0, bits + 1, bits - 1))
    above = tl.where(
        rounded.to(tl.float64) > value, rounded, following.to(tl.float32, bitcast=True)
    )
    return tl.where(rounded == float("inf"), rounded, above)
