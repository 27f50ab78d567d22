"""Draw depth against how many probes in a row have to agree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pdepth.analysis.stability import StableDepth, depth_by_stable
from pdepth.report.figures.drawing import legend, new_figure, percent_axis, write_figure
from pdepth.report.style import MUTED, PROBE, RIGHT, WRONG
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_stability"]


def plot_stability(
    result: DepthResult, path: str | os.PathLike[str], stable: Sequence[int] | None = None
) -> None:
    """Draw depth by how many probes in a row have to agree, into one file, whole or not at all.

    Panels: mean of the defined depths; shares that are decided early, late and never.

    Args:
        result: with every vote known.
        path: .png, .svg or .pdf; its folder must exist.
        stable: see `pdepth.analysis.stability.depth_by_stable`.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: a result with early exit, or without examples; another suffix.
    """
    summaries = depth_by_stable(result, stable)
    write_figure(partial(_draw, result, summaries), path, "plot_stability")


def _draw(result: DepthResult, summaries: Sequence[StableDepth]) -> Figure:
    probes = len(result.probes)
    title = f"Depth of {len(result):,} examples by agreement at s of {probes} probes in a row"
    figure = new_figure(title, 12, 3.6)
    left, right = figure.subplots(1, 2)
    at = range(len(summaries))
    names = [f"{s.stable}" if s.stable < probes else f"{s.stable}\n(prediction depth)"
             for s in summaries]  # fmt: skip
    left.plot(at, [s.mean_depth for s in summaries], "-o", color=PROBE, markersize=5)
    left.set_ylim(0, probes - 1 + 0.3)
    left.set_title(f"Mean depth, of 0 to {probes - 1}")
    shares = (("in the first third", "early", RIGHT),
              ("after 70 %", "late", WRONG),
              ("never", "undefined", MUTED))  # fmt: skip
    for label, name, color in shares:
        values = [getattr(summary, name) for summary in summaries]
        right.plot(at, values, "-o", color=color, markersize=5, label=label)
    percent_axis(right)
    legend(right)
    right.set_title("Examples that are decided")
    for ax in (left, right):
        ax.set_xticks(at, names)
        ax.set_xlim(-0.5, len(summaries) - 0.5)
        ax.set_xlabel("s", color=MUTED)
    return figure
