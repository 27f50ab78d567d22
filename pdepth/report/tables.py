"""Tables of text that the terminal and the page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pdepth.analysis.by_k import depth_by_k
from pdepth.result import DepthResult


@dataclass(frozen=True, eq=False)
class Table:
    """A table of text; the first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def table_by_k(results: Mapping[int, DepthResult]) -> Table:
    """One row per k: mean depth, share of undefined depths, rank correlation with the largest k."""
    rows = [
        [
            f"{summary.k}",
            format_number(summary.mean_depth, ".2f"),
            f"{100 * summary.undefined:.1f} %",
            format_number(summary.rank_correlation, ".3f"),
        ]
        for summary in depth_by_k(results)
    ]
    head = ("k", "Mean depth", "Undefined", f"Rank correlation with k = {max(results)}")
    return Table("Depth against the number of neighbours", head, rows)


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f} %"


def signed_percent(value: float) -> str:
    """A share as a percentage with its sign, which is no hyphen."""
    return f"{100 * value:+.1f} %".replace("-", "\u2212")


def percent_interval(low: float, high: float) -> str:
    """The ends of an interval of shares as percentages with their signs."""
    return f"{100 * low:+.1f} to {100 * high:+.1f} %".replace("-", "\u2212")


def format_number(value: float, format_spec: str) -> str:
    """A number as text; NaN is empty."""
    return "" if np.isnan(value) else f"{value:{format_spec}}"
