"""Plot the analyses of training in `pdepth.analysis.training`."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.analysis.training import OverTraining
from pdepth.report.figures.drawing import name_axis, new_figure, percent_axis, write_figure
from pdepth.report.style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_over_training(over: OverTraining, path: str | os.PathLike[str]) -> None:
    """Draw probes and depths over the recorded steps.

    Panels: each probe's k-NN accuracy, with a ring where it has converged; the share of its votes
    that equal those of the last step; mean depth; the share of undefined depths. Steps are equally
    spaced, whatever their numbers.

    Raises as `pdepth.plot`.
    """
    write_figure(partial(_draw_over_training, over), path, "plot_over_training")


def _draw_over_training(over: OverTraining) -> Figure:
    from matplotlib import colormaps

    figure = new_figure("Probes over training", 12, 6.6)
    axes = figure.subplots(2, 2, sharex=True)
    (accuracy, kept), (depth, undefined) = axes
    at, probes = np.arange(len(over.steps)), len(over.probes)
    places = {step: place for place, step in enumerate(over.steps.tolist())}
    converged = [places[step] for step in over.converged().tolist()]
    shades = colormaps["viridis"](np.linspace(0, 0.92, probes))
    for probe, (name, shade) in enumerate(zip(over.probes, shades, strict=True)):
        line: dict[str, Any] = {"color": shade, "linewidth": 1.6, "markersize": 3.5}
        accuracy.plot(at, over.accuracy[:, probe], "-o", label=name, **line)
        kept.plot(at, over.kept[:, probe], "-o", **line)
        accuracy.plot(
            converged[probe], over.accuracy[converged[probe], probe], "o", markersize=9,
            markeredgecolor=shade, markerfacecolor="none", markeredgewidth=1.4,
        )  # fmt: skip
    accuracy.plot(at, over.network, "--", color=MUTED, linewidth=1.2, label="network")
    accuracy.set_title("Accuracy of each probe's vote (ring: converged)")
    kept.set_title("Votes that are those of the last step")
    depth.plot(at, over.mean_depth, "-o", color=INK, markersize=4, linewidth=1.6)
    depth.set_ylim(0, max(probes - 1, 1))
    depth.set_title(f"Mean depth, of 0 to {probes - 1}")
    undefined.plot(at, over.undefined, "-o", color=INK, markersize=4, linewidth=1.6)
    undefined.set_title("Undefined: the last probe disagrees with the network")
    for ax in (accuracy, kept, undefined):
        percent_axis(ax)
    for ax in axes[1]:
        name_axis(ax, at, [f"{step:,}" for step in over.steps])
        ax.set_xlabel("step", color=MUTED)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
