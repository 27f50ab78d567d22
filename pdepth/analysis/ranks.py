"""Spearman's rank correlation, and how likely chance is to give as much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TERMS = 10_000  # more than the fraction has ever taken
SMALL = 1e-300  # stands for a nought that would be divided by


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of n pairs; nan for fewer than 3, and where one side is constant.

    p_value: two-sided, by Student's t with n - 2 degrees of freedom, as scipy's `spearmanr`; an
    approximation for few pairs, and 0 where it is below the smallest float64.
    """

    statistic: float
    p_value: float
    n: int


def spearman(one: Any, other: Any) -> Correlation:
    """Spearman's correlation of two sequences (n,) of numbers, infinities among them.

    Pearson's of the ranks, equal values sharing their mean rank. Raises ValueError where the
    lengths differ, for other dimensions, and for nan.
    """
    x, y = (np.asarray(values) for values in (one, other))
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"shapes {x.shape} and {y.shape} are no pairs; (n,) twice is wanted.")
    n = len(x)
    a, b = (_ranks(values) - (n + 1) / 2 for values in (x, y))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    if n < 3 or not spread:
        return Correlation(float("nan"), float("nan"), n)
    r = min(1.0, max(-1.0, float(a @ b) / spread))
    return Correlation(r, beta_share((n - 2) / 2, 0.5, (1 - r) * (1 + r)), n)


def correlate(depth: Any, score: Any, *, ids: Any = None, score_ids: Any = None) -> Correlation:
    """`spearman` of depths (N,) and a score (M,), of the examples that have both.

    Args:
        depth: numbers, nan where there is none.
        score: likewise; in the order of `depth` unless it has ids.
        ids, score_ids: distinct names of the examples of each; they are joined, and examples that
            only one of both has are left out.

    Raises:
        ValueError: other lengths, one of the ids alone, an id that comes twice, no example that
            has both.
        TypeError: no numbers.
    """
    one, other = (
        numbers(each, name).astype(np.float64)
        for each, name in ((depth, "depth"), (score, "score"))
    )
    if (ids is None) != (score_ids is None):
        raise ValueError("ids and score_ids go together; both or none are wanted.")
    if ids is not None:
        pair: list[NDArray[Any]] = [np.asarray(each) for each in (ids, score_ids)]
        for name, own, values in zip(("ids", "score_ids"), pair, (one, other), strict=True):
            if own.shape != values.shape:
                raise ValueError(f"{name} has shape {own.shape}; {values.shape} is wanted.")
            names, times = np.unique(own, return_counts=True)
            if len(names) < len(own):
                raise ValueError(f"{name} holds {names[times > 1][0]!s} twice.")
        _, here, there = np.intersect1d(pair[0], pair[1], assume_unique=True, return_indices=True)
        if not len(here):
            raise ValueError("ids and score_ids have none in common; at least one is wanted.")
        one, other = one[here], other[there]
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"score has shape {other.shape}; {one.shape} is wanted, as depth has.")
    both = ~(np.isnan(one) | np.isnan(other))
    if not both.any():
        raise ValueError("depth or score is nan in every row; one example with both is wanted.")
    return spearman(one[both], other[both])


def numbers(values: Any, name: str) -> NDArray[Any]:
    """An array of numbers; TypeError, with the argument's name, for one of anything else."""
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name} has elements of type {found.dtype}; numbers are wanted.")
    return found


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) from 1; equal values share the mean of theirs."""
    if np.isnan(values).any():
        raise ValueError("nan has no rank; numbers are wanted.")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def beta_share(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    Student's t beyond |t| with v degrees of freedom, both sides: I_x(v / 2, 1 / 2) with
    x = v / (v + t^2), which for a correlation r is 1 - r^2. By the continued fraction of the NIST
    Handbook of Mathematical Functions, 8.17.22, with Lentz's method.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the other side's fraction is the faster one
        return 1 - beta_share(b, a, 1 - x)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log + a * math.log(x) + b * math.log1p(-x)) / a
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, TERMS):
        m, odd = divmod(term, 2)
        if odd:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + step * d or SMALL)
        c = 1 + step / c or SMALL
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front / value
