"""Confidence intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def wilson_interval(
    successes: Any, trials: Any, z: float = 1.96
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of Wilson's score interval of a binomial proportion (95 % by default).

    Unlike the normal approximation it holds for few trials and for proportions of 0 and 1.

    Args:
        successes, trials: arrays of one shape; trials are positive.
        z: quantile of the standard normal distribution.
    """
    n = np.asarray(trials, float)
    share = np.asarray(successes, float) / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)
