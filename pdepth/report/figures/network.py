"""Pictures of one network's analysis, a function a figure: see `pdepth.analysis.network`."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.analysis.network import ACCURACY, AgainstDepth, Agreement, ConfusedPairs, settling
from pdepth.report.figures.drawing import (
    INK,
    MUTED,
    PROBE,
    RIGHT,
    WRONG,
    legend,
    name_axis,
    page,
    percent,
)
from pdepth.report.figures.drawing import write as write_figure
from pdepth.report.figures.examples import Names, caption_of, class_name, draw_sheet
from pdepth.report.figures.plots import FEW
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = str | os.PathLike[str]
PAIRS = 12  # of classes that are shown
EACH = 10  # examples shown of a probe


def plot_against_depth(found: AgainstDepth, path: Path) -> None:
    """Draw each measure's mean by depth, hollow under 10 examples, with its rank correlation.

    Depths without examples, and means that are infinite, are left out; of an odd number of
    measures, the examples of each depth fill the last place. Raises as `pdepth.plot`, and
    ValueError where there is no measure.
    """
    if not found.mean or not found.count.sum():
        raise ValueError("found holds no measure of any example; there is nothing to draw.")
    write_figure(partial(_against, found), path, "plot_against_depth")


def plot_agreement(found: Agreement, path: Path) -> None:
    """Draw, by probe, how many examples have settled, and how many votes are the network's class
    and the label. Votes that are unknown are left out. Raises as `pdepth.plot`."""
    write_figure(partial(_agreement, found), path, "plot_agreement")


def plot_confused_pairs(pairs: ConfusedPairs, path: Path, class_names: Names = None) -> None:
    """Draw, for the first 12 pairs, the share that each probe confuses; framed: `until`.

    Raises as `pdepth.plot`, and ValueError where there is no pair.
    """
    if not len(pairs):
        raise ValueError("pairs holds no pair; there is nothing to draw.")
    write_figure(partial(_pairs, pairs, class_names), path, "plot_confused_pairs")


def plot_settling(
    result: DepthResult, images: Any, path: Path, class_names: Names = None, by: Any = None
) -> None:
    """Draw up to 10 examples that settle at each probe; framed in orange: the network is wrong.

    images, class_names: as of `pdepth.plot`. by: (N,) numbers, the examples with the least are
    shown; None: a fixed shuffle chooses. Raises as `pdepth.plot`.
    """
    if len(result) == 0:
        raise ValueError("result holds no examples; there is nothing to draw.")
    if len(images) != len(result):
        raise ValueError(f"images holds {len(images)} pictures for {len(result)} examples.")
    order = np.random.default_rng(0).permutation(len(result)) if by is None else by
    chosen = {name: rows for name, rows in settling(result, order).items() if len(rows)}
    write_figure(partial(_settling, result, images, chosen, class_names), path, "plot_settling")


def _against(found: AgainstDepth) -> Figure:
    names = list(found.mean)
    rows = math.ceil(len(names) / 2)
    seen = found.count > 0
    head = f"What goes with depth, {int(found.count.sum()):,} examples"
    figure = page(head, 12, 1.6 + 1.9 * rows)
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        trend, mean = found.trend[name], found.mean[name]
        shown = seen & np.isfinite(mean)
        few = found.count < FEW
        at = np.flatnonzero(shown)
        ax.plot(at, mean[shown], "-", color=PROBE, linewidth=1.2, alpha=0.5)
        for which, face in ((shown & ~few, PROBE), (shown & few, "white")):
            at = np.flatnonzero(which)
            ax.plot(at, mean[which], "o", color=PROBE, markerfacecolor=face, markersize=6)
        ax.set_title(name.replace("_", " ").capitalize())
        line = f"rank correlation {trend.statistic:.2f}, {_p(trend.p_value)}"
        ax.set_title(line, loc="right", fontsize=8, color=MUTED, fontweight="normal")
        if name == ACCURACY:
            percent(ax)
        else:
            ax.margins(y=0.15)
    for ax in axes.flat[len(names) :]:
        ax.bar(np.arange(len(found.count)), found.count, 0.72, color=RIGHT)
        ax.set_title("Examples")
    last = len(found.probes) - (0 if found.count[-1] else 1)
    for ax in axes.flat:
        name_axis(ax, np.arange(last), found.probes[:last])
    for ax in axes[:-1].flat:
        ax.tick_params(axis="x", labelbottom=False)
    return figure


def _p(value: float) -> str:
    return f"p = {value:.1g}" if value >= 1e-99 else "p < 1e-99"


def _agreement(found: Agreement) -> Figure:
    figure = page("Agreement from probe to probe", 9, 3.8)
    ax = figure.subplots()
    lines = [
        ("settled", found.settled, INK, ":"),
        ("votes as the network", found.network, RIGHT, "-"),
    ]
    if found.label is not None:
        lines.append(("votes as the label (k-NN accuracy)", found.label, WRONG, "-"))
    for name, share, color, style in lines:
        at = np.flatnonzero(np.isfinite(share))
        ax.plot(at, share[at], style, marker="o", color=color, markersize=5, linewidth=1.6,
                label=name)  # fmt: skip
    percent(ax)
    legend(ax)
    ax.set_title("Share of examples")
    name_axis(ax, np.arange(len(found.probes)), found.probes)
    return figure


def _pairs(pairs: ConfusedPairs, class_names: Names) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    share = pairs.share[:PAIRS]
    figure = page("Which classes are confused until which probe", 10, 1.7 + 0.32 * len(share))
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
    named = [
        f"{class_name(int(a), class_names)} / {class_name(int(b), class_names)}"
        for a, b in zip(pairs.first[:PAIRS], pairs.second[:PAIRS], strict=True)
    ]
    ax.set_yticks(range(len(share)), named)
    ax.tick_params(axis="y", labelcolor=INK)
    ax.grid(False)
    ax.spines["bottom"].set_visible(False)
    more = f" (the first {PAIRS} of {len(pairs)} pairs)" if len(pairs) > PAIRS else ""
    ax.set_title(f"% of the two classes' examples that get the other's vote{more}")
    name_axis(ax, np.arange(len(pairs.probes)), pairs.probes)
    ax.set_xlim(-0.5, len(pairs.probes) - 0.5)
    ax.set_xlabel("framed: the last probe where the pair is confused", color=MUTED)
    return figure


def _settling(
    result: DepthResult, images: Any, chosen: dict[str, Any], class_names: Names
) -> Figure:
    figure = page("What settles where", 12, 0.5 + 1.75 * len(chosen))
    counts = dict(zip((*result.probes, "undefined"), result.settled(), strict=True))
    named = {f"{name}, {counts[name]:,} in all": rows for name, rows in chosen.items()}
    draw_sheet(figure, named, images, partial(caption_of, result, class_names), 1, EACH)
    return figure
