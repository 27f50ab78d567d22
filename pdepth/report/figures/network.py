"""Plot the analyses of one network in `pdepth.analysis.network`, one function per figure."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.analysis.checks import check_examples, check_images
from pdepth.analysis.network import ACCURACY, AgainstDepth, Agreement, ConfusedPairs, settling
from pdepth.report.figures.drawing import (
    legend,
    name_axis,
    new_figure,
    percent_axis,
    write_figure,
)
from pdepth.report.figures.examples import caption_of, draw_sheet
from pdepth.report.names import ClassNames, class_name
from pdepth.report.style import FEW, INK, MUTED, PROBE, RIGHT, WRONG
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]
MAX_PAIRS = 12  # pairs of classes shown
PER_PROBE = 10  # examples shown


def plot_against_depth(against: AgainstDepth, path: Path) -> None:
    """Draw each measure's mean by depth, hollow under 10 examples, with its rank correlation.

    Depths without examples, and infinite means, are omitted; with an odd number of measures, the
    number of examples of each depth fills the last panel.

    Raises:
        ValueError: no measure; and as `pdepth.plot`.
    """
    if not against.mean or not against.count.sum():
        raise ValueError("against: expected at least one measure of one example, got none.")
    write_figure(partial(_draw_against_depth, against), path, "plot_against_depth")


def plot_agreement(agreement: Agreement, path: Path) -> None:
    """Draw, by probe, the shares of settled examples and of votes as the network and as the label.

    Unknown votes are omitted. Raises as `pdepth.plot`.
    """
    write_figure(partial(_draw_agreement, agreement), path, "plot_agreement")


def plot_confused_pairs(pairs: ConfusedPairs, path: Path, class_names: ClassNames = None) -> None:
    """Draw, for the first 12 pairs, the share that each probe confuses; framed: `until`.

    Raises:
        ValueError: no pair; and as `pdepth.plot`.
    """
    if not len(pairs):
        raise ValueError("pairs: expected at least one pair of classes, got none.")
    write_figure(partial(_draw_pairs, pairs, class_names), path, "plot_confused_pairs")


def plot_settling(
    result: DepthResult, images: Any, path: Path, class_names: ClassNames = None, by: Any = None
) -> None:
    """Draw up to 10 examples that settle at each probe; framed in orange: the network is wrong.

    Args:
        images, class_names: as in `pdepth.plot`.
        by: (N,) numbers; the examples with the least are shown. None for a fixed shuffle.

    Raises as `pdepth.plot`.
    """
    check_examples(result)
    check_images(images, len(result))
    order = np.random.default_rng(0).permutation(len(result)) if by is None else by
    chosen = {name: rows for name, rows in settling(result, order).items() if len(rows)}
    write_figure(
        partial(_draw_settling, result, images, chosen, class_names), path, "plot_settling"
    )


def _draw_against_depth(against: AgainstDepth) -> Figure:
    names = list(against.mean)
    rows = math.ceil(len(names) / 2)
    title = f"What goes with depth, {int(against.count.sum()):,} examples"
    figure = new_figure(title, 12, 1.6 + 1.9 * rows)
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        trend, mean = against.trend[name], against.mean[name]
        shown = (against.count > 0) & np.isfinite(mean)
        few = against.count < FEW
        at = np.flatnonzero(shown)
        ax.plot(at, mean[shown], "-", color=PROBE, linewidth=1.2, alpha=0.5)
        for subset, face in ((shown & ~few, PROBE), (shown & few, "white")):
            at = np.flatnonzero(subset)
            ax.plot(at, mean[subset], "o", color=PROBE, markerfacecolor=face, markersize=6)
        ax.set_title(name.replace("_", " ").capitalize())
        correlation = f"rank correlation {trend.statistic:.2f}, {_format_p(trend.p_value)}"
        ax.set_title(correlation, loc="right", fontsize=8, color=MUTED, fontweight="normal")
        if name == ACCURACY:
            percent_axis(ax)
        else:
            ax.margins(y=0.15)
    for ax in axes.flat[len(names) :]:
        ax.bar(np.arange(len(against.count)), against.count, 0.72, color=RIGHT)
        ax.set_title("Examples")
    shown_probes = against.probes if against.count[-1] else against.probes[:-1]
    for ax in axes.flat:
        name_axis(ax, np.arange(len(shown_probes)), shown_probes)
    for ax in axes[:-1].flat:
        ax.tick_params(axis="x", labelbottom=False)
    return figure


def _format_p(value: float) -> str:
    return f"p = {value:.1g}" if value >= 1e-99 else "p < 1e-99"


def _draw_agreement(agreement: Agreement) -> Figure:
    figure = new_figure("Agreement from probe to probe", 9, 3.8)
    ax = figure.subplots()
    lines = [
        ("settled", agreement.settled, INK, ":"),
        ("votes as the network", agreement.network, RIGHT, "-"),
    ]
    if agreement.label is not None:
        lines.append(("votes as the label (k-NN accuracy)", agreement.label, WRONG, "-"))
    for name, share, color, style in lines:
        at = np.flatnonzero(np.isfinite(share))
        ax.plot(at, share[at], style, marker="o", color=color, markersize=5, linewidth=1.6,
                label=name)  # fmt: skip
    percent_axis(ax)
    legend(ax)
    ax.set_title("Share of examples")
    name_axis(ax, np.arange(len(agreement.probes)), agreement.probes)
    return figure


def _draw_pairs(pairs: ConfusedPairs, class_names: ClassNames) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    share = pairs.share[:MAX_PAIRS]
    figure = new_figure("Which classes are confused until which probe", 10, 1.7 + 0.32 * len(share))
    ax = figure.subplots()
    colors = LinearSegmentedColormap.from_list("share", ["white", WRONG])
    top = max(float(share.max()), 0.01)
    ax.imshow(share, cmap=colors, vmin=0, vmax=top, aspect="auto")
    for (row, probe), value in np.ndenumerate(share):
        ax.annotate(
            f"{100 * value:.0f}", (probe, row), ha="center", va="center", fontsize=8,
            color=INK if value else MUTED,
        )  # fmt: skip
    for row, probe in enumerate(pairs.until[: len(share)]):
        ax.add_patch(
            Rectangle((probe - 0.48, row - 0.46), 0.96, 0.92, fill=False, color=INK, linewidth=1.2)
        )
    names = [
        f"{class_name(int(a), class_names)} / {class_name(int(b), class_names)}"
        for a, b in zip(pairs.first[:MAX_PAIRS], pairs.second[:MAX_PAIRS], strict=True)
    ]
    ax.set_yticks(range(len(share)), names)
    ax.tick_params(axis="y", labelcolor=INK)
    ax.grid(False)
    ax.spines["bottom"].set_visible(False)
    more = f" (the first {MAX_PAIRS} of {len(pairs)} pairs)" if len(pairs) > MAX_PAIRS else ""
    ax.set_title(f"% of the two classes' examples that get the other's vote{more}")
    name_axis(ax, np.arange(len(pairs.probes)), pairs.probes)
    ax.set_xlim(-0.5, len(pairs.probes) - 0.5)
    ax.set_xlabel("framed: the last probe where the pair is confused", color=MUTED)
    return figure


def _draw_settling(
    result: DepthResult, images: Any, chosen: dict[str, Any], class_names: ClassNames
) -> Figure:
    figure = new_figure("What settles where", 12, 0.5 + 1.75 * len(chosen))
    counts = dict(zip((*result.probes, "undefined"), result.settled(), strict=True))
    titled = {f"{name}, {counts[name]:,} in all": rows for name, rows in chosen.items()}
    draw_sheet(figure, titled, images, partial(caption_of, result, class_names), 1, PER_PROBE)
    return figure
