"""The picture of an ensemble: its examples by both depths, and a sheet of each corner."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.groups import CORNERS, Groups
from pdepth.report.figures.drawing import INK, MUTED, PROBE, RIGHT, page, write
from pdepth.report.figures.examples import Caption, Names, class_name, draw_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 24  # of each depth
EACH = 5  # examples shown of a corner


def plot_groups(
    ensemble: Ensemble,
    groups: Groups,
    path: str | os.PathLike[str],
    images: Any = None,
    class_names: Names = None,
) -> None:
    """Draw an ensemble's examples by mean depth in the support and held out, with the corners.

    Args:
        ensemble, groups: of the same examples.
        path, images, class_names: as in `pdepth.plot`; a sheet shows each corner's outermost five,
            with the label, the consensus and its consistency; framed where these two differ.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix, or another number of images or examples.
    """
    n = len(ensemble.labels)
    if groups.depths.shape[1] != n:
        raise ValueError(f"groups holds {groups.depths.shape[1]} examples and the ensemble {n}.")
    if images is not None and len(images) != n:
        raise ValueError(f"images holds {len(images)} pictures for {n} examples.")
    write(partial(figure_of, ensemble, groups, images, class_names), path, "plot_groups")


def figure_of(ensemble: Ensemble, groups: Groups, images: Any, class_names: Names) -> Figure:
    """The figure of `plot_groups`."""
    columns = ensemble.examples()
    head = f"Depth of {len(ensemble.labels):,} examples under {len(ensemble)} networks"
    figure = page(head, *((6.3, 6.3) if images is None else (12, 8)))
    chart: Any = figure
    if images is not None:
        parts: Any = figure.subfigures(1, 2, wspace=0.02)
        chart, sheet = parts
        consensus, consistency = columns["consensus"][0], columns["consistency"][0]

        def caption(row: int) -> Caption:
            label, said = int(ensemble.labels[row]), int(consensus[row])
            return Caption(
                [
                    f"label {class_name(label, class_names)}",
                    f"seen as {class_name(said, class_names)}",
                    f"by {100 * consistency[row]:.0f} %",
                ],
                label != said,
            )

        corners = groups.corners.items()
        chosen = {f"{CORNERS[name]} ({len(rows):,})": rows for name, rows in corners}
        draw_sheet(sheet, chosen, images, caption, 1, EACH)
    _plane(chart.subplots(), groups)
    return figure


def _plane(ax: Axes, groups: Groups) -> None:
    support, held_out = groups.depths
    known = ~np.isnan(groups.depths).any(axis=0)
    (x, y), counts = _heaps(support[known], held_out[known])
    ax.scatter(x, y, 6 + 220 * counts / counts.max(), color=RIGHT, alpha=0.75, linewidth=0)
    for (low, high), line in zip(groups.limits, (ax.axvline, ax.axhline), strict=True):
        for each in (low, high):
            line(each, color=PROBE, linewidth=1, linestyle=(0, (4, 3)))
    for name, (across, up) in {
        "easy": (0, 0),
        "like_another": (1, 0),
        "needs_label": (0, 1),
        "ambiguous": (1, 1),
    }.items():
        ax.annotate(
            f"{CORNERS[name]}: {len(groups.corners[name]):,}", (across, up),
            (-4 if across else 4, -10 if up else 4), xycoords="axes fraction",
            textcoords="offset points", ha="right" if across else "left", fontsize=8, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    ax.margins(0.09)
    ax.set_xlabel("mean depth in the support, its label given", color=MUTED)
    ax.set_ylabel("mean depth held out", color=MUTED)


def _heaps(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Any, NDArray[np.int64]]:
    """Examples that are near each other as one: their mean depths (2, n), and how many (n,)."""
    low = np.array([x.min(), y.min()])
    step = np.maximum(np.array([np.ptp(x), np.ptp(y)]) / BINS, 1e-9)
    cells = np.floor((np.stack([x, y], axis=1) - low) / step)
    _, place, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    means = [np.bincount(place.ravel(), each) / counts for each in (x, y)]
    return means, counts
