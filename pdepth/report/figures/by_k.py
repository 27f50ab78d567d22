"""What depends on k: the same examples' depths by several numbers of neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ranks import spearman
from pdepth.result import DepthResult


@dataclass(frozen=True)
class OfK:
    """The depths of one k.

    mean_depth: of the defined; nan where none is. undefined: their share. rank_correlation:
    Spearman's, with the depths of the largest k (undefined: L); nan where all depths are equal.
    """

    k: int
    mean_depth: float
    undefined: float
    rank_correlation: float


def by_k(results: Mapping[int, DepthResult]) -> list[OfK]:
    """One entry a k, ascending, of the results that `prediction_depth` gives for several.

    Raises:
        ValueError: no results, or results of different numbers of examples or none.
    """
    found = [results[k] for k in sorted(results)]
    if not found:
        raise ValueError("result holds no k; at least one is wanted.")
    if len({len(result) for result in found}) > 1 or len(found[0]) == 0:
        sizes = [len(result) for result in found]
        raise ValueError(f"results hold {sizes} examples; as many at every k are wanted.")
    most = found[-1].depth
    return [
        OfK(
            result.k,
            _mean(result.depth[~result.undefined]),
            float(result.undefined.mean()),
            spearman(result.depth, most).statistic,
        )
        for result in found
    ]


def _mean(values: NDArray[np.int64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
