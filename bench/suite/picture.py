"""The picture: every engine's time over that of the float32 matrix product, a line a shape."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdepth.bench.suite.engines import BFLOAT16, FLOAT32, MEMORY, PDEPTH, PEER
from pdepth.bench.suite.results import Row, rows_of, shown_ratio
from pdepth.io.atomic import replacing
from pdepth.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = {  # of shapes, from the top
    "goal": "",
    "layer": "layers of ResNet18, VGG16, MLP",
    "special": "layers that break engines",
}
# Markers and colours of the peers; Okabe and Ito's, the slower ones in greys.
PEERS = (
    *(("s", "#E69F00"), ("^", "#D55E00"), ("v", "#009E73"), ("<", "#CC79A7")),
    *(("D", "#8A939C"), ("P", "#8A939C"), ("X", "#8A939C"), ("p", "#56B4E9")),
)


def draw(stored: dict[str, Any], path: Path) -> None:
    """Draw stored results to a PNG file."""
    require("matplotlib", "The picture", "bench")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from pdepth.report.figures.drawing import STYLE

    path.parent.mkdir(parents=True, exist_ok=True)
    settings: Any = {**STYLE, "axes.grid.axis": "x"}
    with rc_context(settings):
        rows = [row for row in rows_of(stored) if row.seconds(FLOAT32.name)]
        rows.sort(key=lambda row: list(GROUPS).index(row.params["group"]))
        figure = Figure(figsize=(10, 2.1 + 0.3 * len(rows)), layout="constrained")
        _dots(figure.subplots(), rows)
        figure.suptitle(
            "Time of all votes over the float32 matrix product of the same shape (left is faster)",
            x=0.01, ha="left", fontsize=13, fontweight="bold",
        )  # fmt: skip
        figure.legend(loc="outside lower left", ncols=4, handletextpad=0.3, columnspacing=1.4)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)


def _dots(ax: Axes, rows: list[Row]) -> None:
    """One mark an engine and shape, with names and ratios at the sides."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from pdepth.report.style import FAINT, INK, MUTED

    heights = {row.name: 0.0 for row in rows}
    bottom = 0.0
    for before, row in zip([None, *rows], rows, strict=False):
        bottom += 1.0 if before is None or before.params["group"] == row.params["group"] else 1.9
        heights[row.name] = bottom
    marks = _marks(rows)
    points = {
        name: [
            (ratio, heights[row.name]) for row in rows if (ratio := row.ratio(name, FLOAT32.name))
        ]
        for name in marks
    }
    fastest = min(ratio for name in points if name != MEMORY.name for ratio, _ in points[name])
    for name, style in marks.items():
        # where distances cost most, the memory's mark would be far out of the picture
        if visible := [point for point in points[name] if point[0] > fastest / 2]:
            ax.scatter(*zip(*visible, strict=True), label=name, **style)
    across = ax.get_yaxis_transform()
    ax.hlines(list(heights.values()), 0, 1, transform=across, color=FAINT, linewidth=0.8, zorder=0)
    ax.axvline(1, color=INK, linewidth=1.3, zorder=1, label=FLOAT32.name)
    for row in rows:
        text = shown_ratio(row.ratio(row.best_peer, row.ours))
        ax.text(1.015, heights[row.name], text, transform=across, va="center", weight="bold")
    small: dict[str, Any] = {"transform": across, "fontsize": 8, "color": MUTED}
    ax.text(1.015, 0.25, "best exact peer\n/ pdepth", va="bottom", **small)
    ax.text(-0.01, 0.25, "support x queries x width", va="bottom", ha="right", **small)
    for group, title in GROUPS.items():
        first = next((heights[row.name] for row in rows if row.params["group"] == group), None)
        if first is not None and first > 1:
            ax.text(-0.01, first - 0.95, title, va="center", ha="right", **small)
    ax.set_yticks(list(heights.values()), list(heights), color=INK)
    ax.set_ylim(bottom + 0.7, 0.3)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _marks(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """How each engine is drawn, in the order of the legend; float32's product is the line at 1."""
    from pdepth.report.style import INK, MUTED, RIGHT

    kinds = {
        name: record["extra_info"]["kind"] for row in rows for name, record in row.engines.items()
    }
    ours, *levels = [name for name, kind in kinds.items() if kind == PDEPTH]
    marks: dict[str, dict[str, Any]] = {
        ours: {"s": 90, "color": RIGHT, "edgecolor": "white", "zorder": 5}
    }
    for name, marker in zip(levels, "odvs*", strict=False):
        marks[name] = {
            "s": 34, "marker": marker, "facecolor": "white", "edgecolor": RIGHT, "zorder": 4
        }  # fmt: skip
    peers = [name for name, kind in kinds.items() if kind == PEER]
    for name, (marker, color) in zip(peers, cycle(PEERS)):
        marks[name] = {"s": 34, "marker": marker, "color": color, "zorder": 3, "linewidth": 0}
    for name, color in ((BFLOAT16.name, INK), (MEMORY.name, MUTED)):
        if name in kinds:
            marks[name] = {"s": 110, "marker": "|", "color": color, "zorder": 2}
    return marks
