"""How depth depends on k: results of the same examples with several numbers of neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pdepth.analysis.ranks import spearman
from pdepth.result import DepthResult


@dataclass(frozen=True)
class DepthAtK:
    """The depths of all examples with one k.

    Attributes:
        k: neighbours per vote.
        mean_depth: mean of the defined depths; NaN where none is defined.
        undefined: share of undefined depths.
        rank_correlation: Spearman's correlation with the depths of the largest k (undefined depths
            count as L); NaN where all depths are equal.
    """

    k: int
    mean_depth: float
    undefined: float
    rank_correlation: float


def depth_by_k(results: Mapping[int, DepthResult]) -> list[DepthAtK]:
    """Summarise results by k, in ascending order of k.

    Args:
        results: by k, as `pdepth.prediction_depth` returns them for several k.

    Raises:
        ValueError: no results, results without examples, or with different numbers of examples.
    """
    ordered = [results[k] for k in sorted(results)]
    if not ordered:
        raise ValueError("result: expected at least one k, got an empty mapping.")
    sizes = [len(result) for result in ordered]
    if len(set(sizes)) > 1 or sizes[0] == 0:
        raise ValueError(
            f"result: expected as many examples at every k, and at least one, got {sizes}."
        )
    largest = ordered[-1].depth
    summaries = []
    for result in ordered:
        defined = result.depth[~result.undefined]
        summaries.append(
            DepthAtK(
                k=result.k,
                mean_depth=float(defined.mean()) if len(defined) else float("nan"),
                undefined=float(result.undefined.mean()),
                rank_correlation=spearman(result.depth, largest).statistic,
            )
        )
    return summaries
