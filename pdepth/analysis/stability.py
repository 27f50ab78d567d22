"""The same votes read by another rule: agreement at s probes in a row, not up to the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pdepth.analysis.checks import check_examples
from pdepth.analysis.ranks import spearman
from pdepth.result import DepthResult

__all__ = ["StableDepth", "depth_by_stable"]

EARLY, LATE = 1 / 3, 0.7
"""Of the probes: who decides within the first share decides early, beyond the second late."""


@dataclass(frozen=True)
class StableDepth:
    """The depths of all examples by agreement at so many probes in a row.

    Attributes:
        stable: probes in a row; as many as there are give the prediction depth.
        mean_depth: mean of the defined depths; NaN where none is defined.
        undefined: share without such a run.
        early: share that is decided in the first third of the probes.
        late: share that is decided after 70 % of them; undefined depths are not among these.
        rank_correlation: Spearman's correlation with the prediction depth (undefined depths count
            as L); NaN where all depths are equal.
    """

    stable: int
    mean_depth: float
    undefined: float
    early: float
    late: float
    rank_correlation: float


def depth_by_stable(
    result: DepthResult, stable: Sequence[int] | None = None
) -> tuple[StableDepth, ...]:
    """Summarise depths by how many probes in a row have to agree with the reference.

    "When Do Models Actually Decide?" (CVPR 2026) asks for 1 to 4 of linear probes; these are the
    votes of k-NN probes.

    Args:
        result: with every vote known.
        stable: numbers of probes; None for 1 to 4 and all, as far as there are so many.

    Raises:
        ValueError: a result with early exit, or without examples; a number below 1.
    """
    check_examples(result)
    probes = len(result.probes)
    numbers = sorted({*range(1, min(4, probes) + 1), probes}) if stable is None else stable
    summaries = []
    for number in numbers:
        depth, undefined = result.stable_depth(number)
        decided = (depth + 1) / probes  # as the share of the probes that it takes
        summaries.append(
            StableDepth(
                stable=number,
                mean_depth=float(depth[~undefined].mean()) if not undefined.all() else np.nan,
                undefined=float(undefined.mean()),
                early=float((decided <= EARLY).mean()),
                late=float(((decided > LATE) & ~undefined).mean()),
                rank_correlation=spearman(depth, result.depth).statistic,
            )
        )
    return tuple(summaries)
