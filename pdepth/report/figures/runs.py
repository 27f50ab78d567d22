"""Draw a comparison of runs."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.analysis.checks import check_images
from pdepth.analysis.runs import RunComparison
from pdepth.report.figures.drawing import legend, new_figure, percent_axis, write_figure
from pdepth.report.figures.examples import Caption, draw_sheet
from pdepth.report.names import ClassNames, class_name
from pdepth.report.style import MUTED, PROBE, RIGHT, WRONG
from pdepth.report.tables import signed_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_changes", "plot_comparison"]

COLUMNS, ROWS = 8, 2  # examples shown of each kind
MAX_CLASSES = 30  # with the largest changes
SIDE_COLORS = RIGHT, WRONG
STATES = "defined", "undefined"


def plot_comparison(
    comparison: RunComparison, path: str | os.PathLike[str], class_names: ClassNames = None
) -> None:
    """Draw a comparison into one file, whole or not at all.

    Panels: how many examples have which depth on both sides; the distribution of the change; the
    k-NN accuracy of the probes on an axis from the first to the last; which depths are undefined;
    and the change of each class with its 95 % interval. Without labels the third and the last are
    left out, and so is the third without every vote (early exit).

    Args:
        comparison: of `pdepth.analysis.runs.compare`.
        path: .png, .svg or .pdf; its folder must exist.
        class_names: names by class, as a sequence or a mapping.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix.
    """
    write_figure(partial(_draw, comparison, class_names), path, "plot_comparison")


def plot_changes(
    comparison: RunComparison,
    images: Any,
    path: str | os.PathLike[str],
    class_names: ClassNames = None,
) -> None:
    """Draw the examples whose depth changed most, deeper ones above, into one file.

    Args:
        comparison, path, class_names: as in `plot_comparison`.
        images: (N,) as in `pdepth.plot`.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix, or number of images; no depth has changed.
    """
    check_images(images, len(comparison))
    deeper, shallower = comparison.largest(COLUMNS * ROWS)
    second = comparison.names[1]
    named = {f"Deeper in {second}": deeper, f"Shallower in {second}": shallower}
    chosen = {title: rows for title, rows in named.items() if len(rows)}
    if not chosen:
        raise ValueError("comparison: expected depths that differ, got none.")

    def draw() -> Figure:
        figure = new_figure(
            "Largest changes of depth (framed: undefined on a side)", 12, 0.6 + 3.7 * len(chosen)
        )
        caption = partial(_caption, comparison, class_names)
        draw_sheet(figure, chosen, images, caption, ROWS, COLUMNS)
        return figure

    write_figure(draw, path, "plot_changes")


def _caption(comparison: RunComparison, class_names: ClassNames, row: int) -> Caption:
    lines = (
        [] if comparison.labels is None else [class_name(int(comparison.labels[row]), class_names)]
    )
    depths = " to ".join(f"{100 * depth:.0f} %" for depth in comparison.depths[:, row])
    return Caption([*lines, depths], bool(comparison.undefined[:, row].any()))


def _draw(comparison: RunComparison, class_names: ClassNames) -> Figure:
    panels = [_draw_joint, _draw_change]
    if any(comparison.known_accuracies(side) is not None for side in (0, 1)):
        panels.append(_draw_accuracy)
    shown = _classes(comparison)
    height = max(3.4, 1.2 + 0.24 * len(shown))
    first, second = comparison.names
    figure = new_figure(
        f"Depth of {len(comparison):,} examples: {first} and {second}", 12, 4 + height
    )
    halves: Any = figure.subfigures(2, 1, height_ratios=(4, height))
    upper, lower = halves
    for ax, draw in zip(upper.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(ax, comparison)
    below = lower.subplots(1, 2, width_ratios=(1, 2)) if shown else [lower.subplots(1, 1)]
    _draw_transitions(below[0], comparison)
    if shown:
        _draw_classes(below[1], comparison, shown, class_names)
    return figure


def _draw_joint(ax: Axes, comparison: RunComparison) -> None:
    bins = [len(side[0].probes) + 1 for side in comparison.sides]
    places = [
        np.rint(depths * (count - 1)).astype(int)
        for depths, count in zip(comparison.depths, bins, strict=True)
    ]
    counts = np.zeros(bins)
    np.add.at(counts, tuple(places), 1)
    shares = [np.linspace(0, 1, count) for count in bins]
    drawn = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan)
    ax.pcolormesh(*shares, drawn.T, cmap="Blues", vmin=-0.6, shading="nearest")
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    value, low, high = comparison.rank_correlation
    ends = "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    ax.set_title(
        "Depth, of all probes" + ("" if np.isnan(value) else f": rank corr. {value:.2f}{ends}")
    )
    ax.set_xlabel(comparison.names[0], color=MUTED)
    ax.set_ylabel(comparison.names[1], color=MUTED)
    ax.grid(False)


def _draw_change(ax: Axes, comparison: RunComparison) -> None:
    steps = 2 * max(len(side[0].probes) for side in comparison.sides) + 1
    edges = np.linspace(-1, 1, steps + 1)
    ax.hist(comparison.change, edges.tolist(), color=PROBE)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_minor_formatter("")
    mean, low, high = map(signed_percent, comparison.difference)
    ax.axvline(comparison.difference.value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    ax.set_title(f"Change, mean {mean} [{low}, {high}]")
    ax.set_xticks([-1, 0, 1], ["\u2212100 %", "0", "+100 %"])
    ax.set_xlabel(f"depth in {comparison.names[1]} less {comparison.names[0]}", color=MUTED)
    ax.set_ylabel("examples", color=MUTED)


def _draw_accuracy(ax: Axes, comparison: RunComparison) -> None:
    for side, (name, color) in enumerate(zip(comparison.names, SIDE_COLORS, strict=True)):
        known = comparison.known_accuracies(side)
        if known is not None:
            at, shares = known
            ax.plot(at, shares, "-o" if side == 0 else "--s", color=color, markersize=4, label=name)
    percent_axis(ax)
    legend(ax)
    ax.set_xticks([0, 1], ["first probe", "last"])
    ax.set_title("Probes' accuracy")


def _draw_transitions(ax: Axes, comparison: RunComparison) -> None:
    counts = comparison.transitions
    ax.imshow(
        counts.T / counts.sum(), cmap="Blues", vmin=0, vmax=1.6, origin="lower", aspect="auto"
    )
    for (one, other), count in np.ndenumerate(counts):
        ax.text(one, other, f"{count:,}", ha="center", va="center")
    ax.set_xticks([0, 1], STATES)
    ax.set_yticks([0, 1], STATES, rotation=90, va="center")
    ax.set_xlabel(comparison.names[0], color=MUTED)
    ax.set_ylabel(comparison.names[1], color=MUTED)
    ax.set_title("Which depths are undefined")
    ax.grid(False)


def _classes(comparison: RunComparison) -> list[int]:
    """Places of the classes with the largest changes, the one that became deepest last."""
    changes = np.array([change.difference.value for change in comparison.by_class])
    largest = np.argsort(-np.abs(changes), kind="stable")[:MAX_CLASSES]
    return [int(place) for place in largest[np.argsort(changes[largest], kind="stable")]]


def _draw_classes(
    ax: Axes, comparison: RunComparison, shown: list[int], class_names: ClassNames
) -> None:
    changes = [comparison.by_class[place] for place in shown]
    at = np.arange(len(changes))
    for y, change in zip(at, changes, strict=True):
        ax.hlines(
            y, change.difference.low, change.difference.high, color=RIGHT, linewidth=2, alpha=0.35
        )
    ax.plot([change.difference.value for change in changes], at, "o", color=RIGHT, markersize=5)
    ax.axvline(0, color=MUTED, linewidth=0.8)
    names = [f"{class_name(change.label, class_names)} ({change.examples:,})" for change in changes]
    ax.set_yticks(at, names)
    ax.xaxis.set_major_formatter(lambda value, _: signed_percent(value))
    ax.grid(visible=True, axis="x")
    ax.grid(visible=False, axis="y")
    everything = "" if len(shown) == len(comparison.by_class) else f", the {len(shown)} largest"
    ax.set_title(f"Mean change of each class{everything}")
