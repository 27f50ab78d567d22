"""Plot an ensemble: its examples by both depths, and a sheet of images of each group."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_images
from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.groups import CORNERS, DEEP, Groups
from pdepth.report.figures.drawing import new_figure, write_figure
from pdepth.report.figures.examples import Caption, draw_sheet
from pdepth.report.names import ClassNames, class_name
from pdepth.report.style import INK, MUTED, PROBE, RIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 24  # of each depth
PER_GROUP = 5  # examples shown


def plot_groups(
    ensemble: Ensemble,
    groups: Groups,
    path: str | os.PathLike[str],
    images: Any = None,
    class_names: ClassNames = None,
) -> None:
    """Draw an ensemble's examples by mean depth in the support and held out, with the groups.

    Args:
        ensemble, groups: of the same examples.
        path, images, class_names: as in `pdepth.plot`; a sheet shows the five outermost examples of
            each group, with the label, the consensus and its consistency; highlighted where label
            and consensus differ.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix, or another number of images or examples.
    """
    n = len(ensemble.labels)
    if groups.depths.shape[1] != n:
        raise ValueError(
            f"groups: expected the {n} examples of the ensemble, got {groups.depths.shape[1]}."
        )
    check_images(images, n)
    write_figure(partial(figure_of, ensemble, groups, images, class_names), path, "plot_groups")


def figure_of(ensemble: Ensemble, groups: Groups, images: Any, class_names: ClassNames) -> Figure:
    """The figure of `plot_groups`."""
    columns = ensemble.examples()
    title = f"Depth of {len(ensemble.labels):,} examples under {len(ensemble)} networks"
    figure = new_figure(title, *((6.3, 6.3) if images is None else (12, 8)))
    chart: Any = figure
    if images is not None:
        halves: Any = figure.subfigures(1, 2, wspace=0.02)
        chart, sheet = halves
        consensus, consistency = columns["consensus"][0], columns["consistency"][0]

        def caption(row: int) -> Caption:
            label, predicted = int(ensemble.labels[row]), int(consensus[row])
            return Caption(
                [
                    f"label {class_name(label, class_names)}",
                    f"seen as {class_name(predicted, class_names)}",
                    f"by {100 * consistency[row]:.0f} %",
                ],
                label != predicted,
            )

        corners = groups.corners.items()
        chosen = {f"{CORNERS[name]} ({len(rows):,})": rows for name, rows in corners}
        draw_sheet(sheet, chosen, images, caption, 1, PER_GROUP)
    _draw_plane(chart.subplots(), groups)
    return figure


def _draw_plane(ax: Axes, groups: Groups) -> None:
    support, held_out = groups.depths
    known = ~np.isnan(groups.depths).any(axis=0)
    (x, y), counts = _merge_near(support[known], held_out[known])
    ax.scatter(x, y, 6 + 220 * counts / counts.max(), color=RIGHT, alpha=0.75, linewidth=0)
    for (low, high), line in zip(groups.limits, (ax.axvline, ax.axhline), strict=True):
        for limit in (low, high):
            line(limit, color=PROBE, linewidth=1, linestyle=(0, (4, 3)))
    for name, (right, top) in DEEP.items():
        ax.annotate(
            f"{CORNERS[name]}: {len(groups.corners[name]):,}", (int(right), int(top)),
            (-4 if right else 4, -10 if top else 4), xycoords="axes fraction",
            textcoords="offset points", ha="right" if right else "left", fontsize=8, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    ax.margins(0.09)
    ax.set_xlabel("mean depth in the support, its label given", color=MUTED)
    ax.set_ylabel("mean depth held out", color=MUTED)


def _merge_near(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Any, NDArray[np.int64]]:
    """Merge examples that are near each other: their mean depths (2, n), and counts (n,)."""
    low = np.array([x.min(), y.min()])
    step = np.maximum(np.array([np.ptp(x), np.ptp(y)]) / BINS, 1e-9)
    cells = np.floor((np.stack([x, y], axis=1) - low) / step)
    _, place, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    means = [np.bincount(place.ravel(), depth) / counts for depth in (x, y)]
    return means, counts
