"""Plot a DepthResult, or results by k."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.by_k import depth_by_k
from pdepth.analysis.checks import check_examples, check_images
from pdepth.analysis.intervals import wilson_interval
from pdepth.report.figures.drawing import (
    bin_width,
    legend,
    name_axis,
    new_figure,
    percent_axis,
    write_figure,
)
from pdepth.report.figures.examples import caption_of, draw_sheet
from pdepth.report.names import ClassNames
from pdepth.report.style import FEW, MUTED, PROBE, RIGHT, WRONG
from pdepth.result import AGAINST, DepthResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLUMNS, ROWS = 5, 2  # examples shown of each kind


def plot(
    result: DepthResult | Mapping[int, DepthResult],
    path: str | os.PathLike[str],
    images: Any = None,
    class_names: ClassNames = None,
) -> None:
    """Draw a result into one file, whole or not at all.

    Panels, over one axis of probes: how many examples settle at each probe, split by whether the
    network is right; the network's accuracy by depth, with Wilson's 95 % interval (hollow under 10
    examples); the k-NN accuracy of each probe. A probe with unknown votes (after early exit) is not
    shown in the last panel, because its known votes are a biased sample; with fewer than two probes
    to show, the panel is omitted. Without labels only the first panel is drawn.

    Results of several k are drawn against k: mean of the defined depths, share of undefined depths,
    Spearman's rank correlation with the depths of the largest k.

    Args:
        result: one result, or a dict of results by k.
        path: .png, .svg or .pdf; its folder must exist.
        images: N images in the order of one result, for a sheet of the shallowest and the deepest
            examples: an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W), or any sequence
            of such images, indexed only where shown. uint8 values are drawn unchanged, and so are
            floats within 0..1; other values are scaled, jointly, from the smallest to the largest
            shown. Among equally deep examples a fixed shuffle chooses.
        class_names: names by class, as a sequence or a mapping.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix, another number of images, or images of another shape.
    """
    if not isinstance(result, DepthResult):
        if images is not None:
            raise ValueError("images: expected None with results of several k, got images.")
        write_figure(partial(_draw_by_k, result), path, "pdepth.plot")
        return
    check_examples(result)
    check_images(images, len(result))
    write_figure(partial(_draw_result, result, images, class_names), path, "pdepth.plot")


def _draw_by_k(results: Mapping[int, DepthResult]) -> Figure:
    summaries = depth_by_k(results)
    largest = results[summaries[-1].k]
    title = f"Prediction depth of {len(largest):,} {_kind(largest)} examples against k"
    figure = new_figure(title, 12, 3.4)
    panels = {
        f"Mean depth, of 0 to {len(largest.probes) - 1}": [s.mean_depth for s in summaries],
        "Undefined, %": [100 * s.undefined for s in summaries],
        f"Rank correlation with k = {largest.k}": [s.rank_correlation for s in summaries],
    }
    for ax, (title, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        ax.plot(range(len(summaries)), values, "-o", color=PROBE, markersize=5, linewidth=1.6)
        ax.set_xticks(range(len(summaries)), [f"{summary.k}" for summary in summaries])
        ax.set_xlim(-0.5, len(summaries) - 0.5)
        low, high = ax.get_ylim()
        low = low if min(values) < 0 else 0
        ax.set_ylim(low, high + 0.1 * (high - low))
        ax.set_title(title)
        ax.set_xlabel("k", color=MUTED)
    return figure


def _draw_result(result: DepthResult, images: Any, class_names: ClassNames) -> Figure:
    panels = [_draw_settled]
    if result.labels is not None:
        panels.append(_draw_accuracy)
        if result.complete().sum() > 1:
            panels.append(_draw_probes)
    height = 1.2 + 1.9 * len(panels)
    title = f"Prediction depth of {len(result):,} {_kind(result)} examples"
    figure = new_figure(title, 12, height if images is None else max(height, 6.9))
    chart: Figure | SubFigure = figure
    if images is not None:
        halves: Any = figure.subfigures(1, 2, width_ratios=(6.3, 5.7), wspace=0.02)
        chart, sheet = halves
        _draw_examples(sheet, result, images, class_names)
    axes = chart.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax, result)
    _name_probe_axis(axes[-1], result)
    return figure


def _kind(result: DepthResult) -> str:
    return "left-out support" if result.leave_one_out else "held-out"


def _positions(result: DepthResult) -> NDArray[np.float64]:
    """Places (L + 1,) of the bins of `settled()`; undefined depths are a little apart."""
    at = np.arange(len(result.probes) + 1, dtype=float)
    at[-1] += 0.4
    return at


def _count_right(result: DepthResult) -> NDArray[np.int64]:
    """How many examples of each depth (L + 1,) the network gets right."""
    right = result.depth[result.predictions == result.labels]
    return np.bincount(right, minlength=len(result.probes) + 1)


def _draw_settled(ax: Axes, result: DepthResult) -> None:
    at, settled = _positions(result), result.settled()
    if result.labels is None:
        ax.bar(at, settled, 0.72, color=RIGHT)
    else:
        right = _count_right(result)
        ax.bar(at, right, 0.72, color=RIGHT, label="network right")
        ax.bar(at, settled - right, 0.72, right, color=WRONG, label="network wrong")
        legend(ax)
    crowded = 5.5 * len(f"{settled.max():,}") > bin_width(ax, len(at))
    for x, count in zip(at, settled, strict=True):
        if count:
            ax.annotate(
                f"{count:,}", (x, count), (0, 2), textcoords="offset points", ha="center",
                fontsize=7 if crowded else 8, color=MUTED, rotation=90 if crowded else 0,
            )  # fmt: skip
    ax.margins(y=0.25 if crowded else 0.12)
    ax.locator_params(axis="y", integer=True)
    ax.set_title("Where examples settle")
    ax.set_ylabel("examples", color=MUTED)


def _draw_accuracy(ax: Axes, result: DepthResult) -> None:
    settled, right = result.settled(), _count_right(result)
    shown = settled > 0
    at, n, share = _positions(result)[shown], settled[shown], right[shown] / settled[shown]
    low, high = wilson_interval(right[shown], n)
    ax.vlines(at, low, high, color=RIGHT, linewidth=2, alpha=0.35, label="95 % interval")
    few = n < FEW
    ax.plot(at[~few], share[~few], "o", color=RIGHT, markersize=6)
    if few.any():
        ax.plot(
            at[few], share[few], "o", color=RIGHT, markerfacecolor="white", markersize=6,
            label=f"fewer than {FEW}",
        )  # fmt: skip
    _draw_network_line(ax, result)
    legend(ax)
    percent_axis(ax)
    ax.set_title("Accuracy by depth")


def _draw_probes(ax: Axes, result: DepthResult) -> None:
    complete = result.complete()
    at = np.flatnonzero(complete)
    ax.plot(at, result.probe_accuracy()[complete], "-o", color=PROBE, markersize=5, linewidth=1.6)
    if not complete.all():
        ax.annotate(
            "Probes with unknown votes (early exit) are left out.", (0.01, 0.06),
            xycoords="axes fraction", fontsize=8, color=MUTED,
        )  # fmt: skip
    _draw_network_line(ax, result)
    legend(ax)
    percent_axis(ax)
    ax.set_title(f"Accuracy of each probe's vote, k = {result.k}")


def _draw_network_line(ax: Axes, result: DepthResult) -> None:
    share = float(np.mean(result.predictions == result.labels))
    ax.axhline(share, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5,
               label=f"network {100 * share:.1f} %")  # fmt: skip


def _name_probe_axis(ax: Axes, result: DepthResult) -> None:
    at, names = _positions(result), [*result.probes, "undefined"]
    if not result.undefined.any():
        at, names = at[:-1], names[:-1]
    name_axis(ax, at, names)
    against = AGAINST[result.reference]
    ax.set_xlabel(f"depth: the probe from which on every vote agrees with {against}", color=MUTED)


def _draw_examples(
    sheet: SubFigure,
    result: DepthResult,
    images: Any,
    class_names: ClassNames,
) -> None:
    rows = np.random.default_rng(0).permutation(len(result))
    rows = rows[np.argsort(result.depth[rows], kind="stable")]
    count = min(COLUMNS * ROWS, (len(rows) + 1) // 2)
    chosen = {"Shallowest": rows[:count], "Deepest": rows[len(rows) - count :][::-1]}
    draw_sheet(sheet, chosen, images, partial(caption_of, result, class_names), ROWS, COLUMNS)
