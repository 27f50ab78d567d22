"""How every picture looks, and how it gets into its file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.io.atomic import replacing
from pdepth.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")

# From Okabe and Ito's palette, told apart by every common kind of colour vision.
RIGHT, WRONG, PROBE = "#0072B2", "#E69F00", "#009E73"
INK, MUTED, FAINT = "#22272E", "#6B7480", "#E3E6EA"

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the picture is the same everywhere
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


def write(draw: Callable[[], Figure], path: str | os.PathLike[str], what: str) -> None:
    """Draw a figure into one .png, .svg or .pdf file, whole or not at all.

    `what` draws, for the sentence of the ImportError where matplotlib is missing (extra `plot`).
    Raises ValueError for another suffix, and what `draw` raises.
    """
    matplotlib = require("matplotlib", what, "plot")
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ValueError(f"path {os.fspath(path)!r} ends in none of .png, .svg, .pdf.")
    with matplotlib.rc_context(STYLE):
        figure = draw()
        with replacing(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=200)


def page(head: str, width: float, height: float) -> Figure:
    """An empty figure of so many inches, with its title."""
    # Figure by itself, not pyplot: no window, no backend, nothing that outlives this call.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.07)
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(head, x=0.144 / width, ha="left", fontsize=13, fontweight="bold")
    return figure


def room(ax: Axes, bins: int) -> float:
    """Points of width that each of `bins` has, about: the layout is computed only when saved."""
    figure, place = ax.get_figure(), ax.get_subplotspec()
    assert figure is not None
    columns = 1 if place is None else place.get_gridspec().ncols
    return 0.88 * figure.bbox.width / columns / figure.dpi * 72 / bins


def percent(ax: Axes) -> None:
    ax.set_ylim(-0.04, 1.04)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "", "50 %", "", "100 %"])


def legend(ax: Axes) -> None:
    """Above the panel, on the title's line, where it hides nothing."""
    ax.legend(
        loc="lower right", bbox_to_anchor=(1.005, 0.985), ncols=4, fontsize=8, labelcolor=MUTED,
        handlelength=1.3, handletextpad=0.5, columnspacing=1.2, borderaxespad=0.1,
    )  # fmt: skip


def name_axis(ax: Axes, at: Sequence[float] | Any, names: Sequence[str]) -> None:
    """Names at places of the x axis; crowded ones are slanted, and some left out."""
    ax.set_xlim(at[0] - 0.6, at[-1] + 0.6)
    width = room(ax, len(at))
    step = math.ceil(11 / width)  # a slanted name is 11 points wide
    crowded = 6 * max(map(len, names)) > width
    shown = [i for i in range(len(at)) if i % step == 0 and i + step < len(at)] + [len(at) - 1]
    ax.set_xticks(
        np.asarray(at)[shown], [names[i] for i in shown], rotation=40 if crowded else 0,
        ha="right" if crowded else "center", rotation_mode="anchor" if crowded else None,
        fontsize=9 if len(at) <= 20 else 7,
    )  # fmt: skip
