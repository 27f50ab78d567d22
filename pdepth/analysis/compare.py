"""Compare two ways of training by the depths of the same examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ensemble import KINDS, Ensemble
from pdepth.arrays import arguments

__all__ = ["Difference", "Interval", "compare"]

MAX_WEIGHTS = 1 << 22  # bootstrap weights of examples held in memory at a time


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Difference:
    """How the depths of two ensembles differ, over the examples that both have depths of.

    Attributes:
        examples: number of these examples.
        shares: (2, L + 1) distribution of depths of each ensemble; every example weighs the same.
        mean: mean depth of the second ensemble minus that of the first.
        distance: area between the two cumulative distributions, in probes (the earth mover's
            distance, Wasserstein's of order 1). It is never negative, so its interval lies above 0
            even where the ensembles do not differ.
    """

    examples: int
    shares: NDArray[np.float64]
    mean: Interval
    distance: Interval


def compare(
    first: Ensemble,
    second: Ensemble,
    *,
    kind: str = "held_out",
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare the depths of two ensembles of networks over the same examples.

    Intervals are percentiles of a bootstrap that draws examples, each with both of its depths. They
    tell how far the difference holds for other examples of the same kind, not for other networks.

    Args:
        kind: which depths to compare, "held_out" or "support".
        resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Raises:
        TypeError: an argument is not an Ensemble.
        ValueError: different examples, labels or numbers of probes; fewer than two networks; no
            example in common.
    """
    arguments.check_choice(kind, "kind", KINDS)
    resamples = arguments.check_int(resamples, "resamples")
    for name, ensemble in (("first", first), ("second", second)):
        if not isinstance(ensemble, Ensemble):
            raise TypeError(f"{name}: expected an Ensemble, got {type(ensemble).__name__}.")
        ensemble.check_networks()
    first.check_same_examples(second)
    axis = KINDS.index(kind)
    counts = np.stack([ensemble.counts[axis] for ensemble in (first, second)])
    common = (counts > 0).all(axis=0)
    n = int(common.sum())
    if not n:
        raise ValueError(
            f"first, second: expected an example with depths of kind {kind!r} in both, got none."
        )
    shares = [
        ensemble.depths[axis][common] / count[common, None]
        for ensemble, count in zip((first, second), counts, strict=True)
    ]
    change = shares[1] - shares[0]
    rng, step = np.random.default_rng(seed), max(1, MAX_WEIGHTS // n)
    samples = [
        _mean_and_distance(
            rng.multinomial(n, np.full(n, 1 / n), min(step, resamples - begin)) @ change
        )
        for begin in range(0, resamples, step)
    ]
    values = _mean_and_distance(change.sum(axis=0, keepdims=True))[:, 0] / n
    low, high = np.percentile(np.concatenate(samples, axis=1) / n, (2.5, 97.5), axis=1)
    intervals = [Interval(*map(float, ends)) for ends in zip(values, low, high, strict=True)]
    return Difference(n, np.stack([share.mean(axis=0) for share in shares]), *intervals)


def _mean_and_distance(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences of mean and distances (2, B) of differences of distributions (B, L + 1)."""
    cumulative = np.cumsum(change, axis=1)[:, :-1]
    return np.stack([-cumulative.sum(axis=1), np.abs(cumulative).sum(axis=1)])
