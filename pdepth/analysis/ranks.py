"""Spearman's rank correlation and its p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_numbers, check_shape, check_unique

MAX_TERMS = 10_000  # more than the continued fraction has ever taken
TINY = 1e-300  # replaces a zero that would be a divisor


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of n pairs; NaN for fewer than 3 pairs or where one side is constant.

    Attributes:
        statistic: the correlation, -1 to 1.
        p_value: two-sided, by Student's t with n - 2 degrees of freedom, as scipy's `spearmanr`; an
            approximation for few pairs, and 0 where it is below the smallest float64.
        n: number of pairs.
    """

    statistic: float
    p_value: float
    n: int


def spearman(x: Any, y: Any) -> Correlation:
    """Spearman's correlation of two sequences (n,) of numbers, which may be infinite.

    It is Pearson's correlation of the ranks; equal values share their mean rank.

    Raises:
        ValueError: different lengths, other dimensions, or NaN.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x, y: expected shape (n,) for both, got {x.shape} and {y.shape}.")
    n = len(x)
    a, b = (_ranks(values) - (n + 1) / 2 for values in (x, y))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    if n < 3 or not spread:
        return Correlation(float("nan"), float("nan"), n)
    r = min(1.0, max(-1.0, float(a @ b) / spread))
    return Correlation(r, incomplete_beta((n - 2) / 2, 0.5, (1 - r) * (1 + r)), n)


def correlate(depth: Any, score: Any, *, ids: Any = None, score_ids: Any = None) -> Correlation:
    """Spearman's correlation of depths (N,) and a score (M,), over the examples that have both.

    Args:
        depth: numbers, NaN where missing.
        score: numbers, NaN where missing; in the order of `depth` unless ids are given.
        ids, score_ids: distinct names of the examples of `depth` and of `score`. Both are joined by
            them; examples that only one of both has are left out.

    Raises:
        ValueError: different lengths, only one of the two ids, an id that occurs twice, no example
            with both values.
        TypeError: values that are not numbers.
    """
    depths, scores = (
        check_numbers(values, name).astype(np.float64)
        for values, name in ((depth, "depth"), (score, "score"))
    )
    if (ids is None) != (score_ids is None):
        raise ValueError("ids, score_ids: expected both or neither, got one.")
    if ids is not None:
        depth_ids = check_shape(ids, "ids", depths.shape)
        other_ids = check_shape(score_ids, "score_ids", scores.shape)
        check_unique(depth_ids, "ids")
        check_unique(other_ids, "score_ids")
        _, rows, score_rows = np.intersect1d(
            depth_ids, other_ids, assume_unique=True, return_indices=True
        )
        if not len(rows):
            raise ValueError("ids, score_ids: expected at least one id in common, got none.")
        depths, scores = depths[rows], scores[score_rows]
    if depths.ndim != 1 or depths.shape != scores.shape:
        raise ValueError(f"score: expected shape {depths.shape} as depth, got {scores.shape}.")
    complete = ~(np.isnan(depths) | np.isnan(scores))
    if not complete.any():
        raise ValueError(
            "depth, score: expected at least one example with both, got NaN in every row."
        )
    return spearman(depths[complete], scores[complete])


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks (n,) from 1; equal values share the mean of theirs."""
    if np.isnan(values).any():
        raise ValueError("x, y: expected numbers, got NaN, which has no rank.")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    The two-sided tail of Student's t with v degrees of freedom beyond |t| is I_x(v / 2, 1 / 2) with
    x = v / (v + t^2), which for a correlation r is 1 - r^2. Evaluated by the continued fraction of
    the NIST Handbook of Mathematical Functions, 8.17.22, with Lentz's method.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction of the mirrored function converges faster
        return 1 - incomplete_beta(b, a, 1 - x)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log + a * math.log(x) + b * math.log1p(-x)) / a
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, MAX_TERMS):
        m, odd = divmod(term, 2)
        if odd:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + step * d or TINY)
        c = 1 + step / c or TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front / value
