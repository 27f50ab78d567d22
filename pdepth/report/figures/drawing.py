"""The style that all figures share, and how a figure is written into its file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.io.atomic import check_suffix, replacing
from pdepth.optional import require
from pdepth.report.style import FAINT, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are the same everywhere
    "font.size": 9,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "hatch.linewidth": 0.6,
}


def write_figure(draw: Callable[[], Figure], path: str | os.PathLike[str], function: str) -> None:
    """Draw a figure into one .png, .svg or .pdf file, whole or not at all.

    Args:
        draw: returns the figure.
        path: of the file; its folder must exist.
        function: the public function that draws, for the sentence of the ImportError.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix; and whatever `draw` raises.
    """
    matplotlib = require("matplotlib", function, "plot")
    suffix = check_suffix(path, FORMATS).removeprefix(".")
    with matplotlib.rc_context(STYLE):
        figure = draw()
        with replacing(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=200)


def new_figure(title: str, width: float, height: float) -> Figure:
    """An empty figure with a title; width and height in inches."""
    # Figure by itself, not pyplot: no window, no backend, no global state.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.07)
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title, x=0.144 / width, ha="left", fontsize=13, fontweight="bold")
    return figure


def bin_width(ax: Axes, bins: int) -> float:
    """Approximate width of each of `bins` in points; the layout is computed only when saved."""
    figure, place = ax.get_figure(), ax.get_subplotspec()
    assert figure is not None
    columns = 1 if place is None else place.get_gridspec().ncols
    return 0.88 * figure.bbox.width / columns / figure.dpi * 72 / bins


def percent_axis(ax: Axes) -> None:
    """Label the y axis in percent of 0..1."""
    ax.set_ylim(-0.04, 1.04)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "", "50 %", "", "100 %"])


def legend(ax: Axes) -> None:
    """Place the legend above the panel, on the title's line, where it hides nothing."""
    ax.legend(
        loc="lower right", bbox_to_anchor=(1.005, 0.985), ncols=4, fontsize=8, labelcolor=MUTED,
        handlelength=1.3, handletextpad=0.5, columnspacing=1.2, borderaxespad=0.1,
    )  # fmt: skip


def name_axis(ax: Axes, at: Sequence[float] | Any, names: Sequence[str]) -> None:
    """Label places of the x axis with names; crowded ones are slanted, and some omitted."""
    ax.set_xlim(at[0] - 0.6, at[-1] + 0.6)
    width = bin_width(ax, len(at))
    step = math.ceil(11 / width)  # a slanted name is 11 points wide
    crowded = 6 * max(map(len, names)) > width
    shown = [i for i in range(len(at)) if i % step == 0 and i + step < len(at)] + [len(at) - 1]
    ax.set_xticks(
        np.asarray(at)[shown], [names[i] for i in shown], rotation=40 if crowded else 0,
        ha="right" if crowded else "center", rotation_mode="anchor" if crowded else None,
        fontsize=9 if len(at) <= 20 else 7,
    )  # fmt: skip
