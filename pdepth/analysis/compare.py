"""Two ways of training by the depths of the same examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ensemble import KINDS, Ensemble
from pdepth.arrays import arguments

__all__ = ["Difference", "Interval", "compare"]

AT_ONCE = 1 << 22  # weights of examples that are held at a time


class Interval(NamedTuple):
    """A number, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Difference:
    """How two ensembles' depths differ, over the examples that both were asked about.

    Attributes:
        examples: how many those are.
        shares: (2, L + 1) the distribution of depths of each, every example counting alike.
        mean: of depth, the other's less the one's.
        distance: between the distributions, the area between their cumulative sums, in probes: by
            how much depths have to move at least (the earth mover's, Wasserstein's of order 1). It
            is never negative, so its interval lies above 0 also where nothing differs.
    """

    examples: int
    shares: NDArray[np.float64]
    mean: Interval
    distance: Interval


def compare(
    one: Ensemble, other: Ensemble, *, kind: str = "held_out", resamples: int = 2000, seed: int = 0
) -> Difference:
    """The difference of depth between two ensembles of networks over the same examples.

    Intervals are percentiles of a bootstrap that draws examples, each with both its depths. They
    say how far the difference holds for other examples of the kind; the networks stay these.

    Args:
        kind: depths of examples "held_out", or in the "support".
        resamples: how often examples are drawn.

    Raises:
        TypeError: what is no Ensemble.
        ValueError: other examples, labels or probes; fewer than two networks; no example in common.
    """
    arguments.check_choice(kind, "kind", KINDS)
    resamples = arguments.check_int(resamples, "resamples")
    for name, each in (("one", one), ("other", other)):
        if not isinstance(each, Ensemble):
            raise TypeError(f"{name} is a {type(each).__name__}; an Ensemble is wanted.")
        each.enough()
    one.same_examples(other)
    which = KINDS.index(kind)
    counts = np.stack([each.counts[which] for each in (one, other)])
    asked = (counts > 0).all(axis=0)
    n = int(asked.sum())
    if not n:
        raise ValueError(f"no example was {kind} in both ensembles; at least one is wanted.")
    each_share = np.concatenate(
        [
            every.depths[which][asked] / count[asked, None]
            for every, count in zip((one, other), counts, strict=True)
        ],
        axis=1,
    )
    rng, step = np.random.default_rng(seed), max(1, AT_ONCE // n)
    drawn = [
        _differences(rng.multinomial(n, np.full(n, 1 / n), min(step, resamples - at)) @ each_share)
        for at in range(0, resamples, step)
    ]
    found = _differences(each_share.sum(axis=0, keepdims=True))[:, 0] / n
    low, high = np.percentile(np.concatenate(drawn, axis=1) / n, (2.5, 97.5), axis=1)
    intervals = [Interval(*map(float, each)) for each in zip(found, low, high, strict=True)]
    return Difference(n, each_share.mean(axis=0).reshape(2, -1), *intervals)


def _differences(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, B): mean and distance of sums (B, 2 (L + 1)) of the two distributions."""
    one, other = np.split(sums, 2, axis=1)
    apart = np.cumsum(other - one, axis=1)[:, :-1]
    return np.stack([-apart.sum(axis=1), np.abs(apart).sum(axis=1)])
