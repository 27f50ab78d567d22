"""Pictures of training, a function a figure: see `pdepth.analysis.training`."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.analysis.training import OverTraining
from pdepth.report.figures.drawing import INK, MUTED, name_axis, page, percent, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_over_training(found: OverTraining, path: str | os.PathLike[str]) -> None:
    """Draw, by recorded step, each probe's k-NN accuracy and how many of its votes are those of the
    last step; mean depth and the share of the undefined. A ring marks where a probe's accuracy has
    converged. Steps lie side by side, whatever is between them. Raises as `pdepth.plot`."""
    write(partial(_over, found), path, "plot_over_training")


def _over(found: OverTraining) -> Figure:
    from matplotlib import colormaps

    figure = page("Probes over training", 12, 6.6)
    axes = figure.subplots(2, 2, sharex=True)
    (accuracy, kept), (depth, undefined) = axes
    at, last = np.arange(len(found.steps)), len(found.probes)
    places = {step: place for place, step in enumerate(found.steps.tolist())}
    converged = [places[step] for step in found.converged().tolist()]
    shades = colormaps["viridis"](np.linspace(0, 0.92, last))
    for probe, (name, shade) in enumerate(zip(found.probes, shades, strict=True)):
        line: dict[str, Any] = {"color": shade, "linewidth": 1.6, "markersize": 3.5}
        accuracy.plot(at, found.accuracy[:, probe], "-o", label=name, **line)
        kept.plot(at, found.kept[:, probe], "-o", **line)
        accuracy.plot(
            converged[probe], found.accuracy[converged[probe], probe], "o", markersize=9,
            markeredgecolor=shade, markerfacecolor="none", markeredgewidth=1.4,
        )  # fmt: skip
    accuracy.plot(at, found.network, "--", color=MUTED, linewidth=1.2, label="network")
    accuracy.set_title("Accuracy of each probe's vote (ring: converged)")
    kept.set_title("Votes that are those of the last step")
    depth.plot(at, found.mean_depth, "-o", color=INK, markersize=4, linewidth=1.6)
    depth.set_ylim(0, max(last - 1, 1))
    depth.set_title(f"Mean depth, of at most {last - 1}")
    undefined.plot(at, found.undefined, "-o", color=INK, markersize=4, linewidth=1.6)
    undefined.set_title("Undefined: the last probe disagrees with the network")
    for ax in (accuracy, kept, undefined):
        percent(ax)
    for ax in axes[1]:
        name_axis(ax, at, [f"{step:,}" for step in found.steps])
        ax.set_xlabel("step", color=MUTED)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
