"""One picture of a DepthResult."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.report.figures.by_k import by_k
from pdepth.report.figures.drawing import (
    MUTED,
    PROBE,
    RIGHT,
    WRONG,
    legend,
    name_axis,
    page,
    percent,
    room,
    write,
)
from pdepth.report.figures.examples import caption_of, draw_sheet
from pdepth.result import AGAINST, DepthResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FEW = 10  # an accuracy over fewer examples is drawn hollow
COLUMNS, ROWS = 5, 2  # examples shown of each kind


def plot(
    result: DepthResult | Mapping[int, DepthResult],
    path: str | os.PathLike[str],
    images: Any = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
) -> None:
    """Draw a result into one file, whole or not at all.

    Panels, over one axis of probes: how many examples settle at each, split by whether the network
    is right; the network's accuracy by depth, with Wilson's 95 % interval (hollow under 10
    examples); the k-NN accuracy of each probe. A probe with unknown votes (early exit) is left out
    of the last, because its known votes are a biased sample; with fewer than two probes to show,
    so is the panel. Without labels only the first panel is drawn.

    Results of several k are drawn against k: mean depth of the defined, share of the undefined,
    Spearman's rank correlation with the depths of the largest k.

    Args:
        result: what to draw, or a dict of results by k.
        path: .png, .svg or .pdf; its folder must exist.
        images: N pictures in the order of one result, for a sheet of the shallowest and the
            deepest examples: an array or tensor (N, H, W), (N, H, W, C) or (N, C, H, W), or any
            sequence of such pictures, indexed only where shown. uint8 is drawn as it is, and so
            are floats within 0..1; other values are stretched, jointly, from the smallest to
            the largest shown. Among equally deep examples a fixed shuffle chooses.
        class_names: a name by class, as a sequence or a mapping.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix, another number of images, or images of another shape.
    """
    if not isinstance(result, DepthResult):
        if images is not None:
            raise ValueError("images go with one result, and result holds several.")
        write(partial(_against_k, result), path, "pdepth.plot")
        return
    if len(result) == 0:
        raise ValueError("result holds no examples; there is nothing to draw.")
    if images is not None and len(images) != len(result):
        raise ValueError(f"images holds {len(images)} pictures for {len(result)} examples.")
    write(partial(_figure, result, images, class_names), path, "pdepth.plot")


def wilson(successes: Any, trials: Any, z: float = 1.96) -> tuple[NDArray[Any], NDArray[Any]]:
    """Wilson's score interval of a binomial share (95 % by default): lower and upper ends.

    `trials` must be positive. Unlike the textbook interval it stays honest for few trials and for
    shares of 0 and 1.
    """
    n = np.asarray(trials, float)
    share = np.asarray(successes, float) / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def _against_k(results: Mapping[int, DepthResult]) -> Figure:
    found = by_k(results)
    one = results[found[-1].k]
    head = f"Prediction depth of {len(one):,} {_kind(one)} examples against k"
    figure = page(head, 12, 3.4)
    panels = {
        f"Mean depth, of at most {len(one.probes) - 1}": [each.mean_depth for each in found],
        "Undefined, %": [100 * each.undefined for each in found],
        f"Rank correlation with k = {one.k}": [each.rank_correlation for each in found],
    }
    for ax, (title, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        ax.plot(range(len(found)), values, "-o", color=PROBE, markersize=5, linewidth=1.6)
        ax.set_xticks(range(len(found)), [f"{each.k}" for each in found])
        ax.set_xlim(-0.5, len(found) - 0.5)
        low, high = ax.get_ylim()
        low = low if min(values) < 0 else 0
        ax.set_ylim(low, high + 0.1 * (high - low))
        ax.set_title(title)
        ax.set_xlabel("k", color=MUTED)
    return figure


def _figure(
    result: DepthResult, images: Any, class_names: Sequence[str] | Mapping[int, str] | None
) -> Figure:
    panels = [_depths]
    if result.labels is not None:
        panels.append(_accuracy)
        if result.complete().sum() > 1:
            panels.append(_probes)
    height = 1.2 + 1.9 * len(panels)
    head = f"Prediction depth of {len(result):,} {_kind(result)} examples"
    figure = page(head, 12, height if images is None else max(height, 6.9))
    chart: Figure | SubFigure = figure
    if images is not None:
        parts: Any = figure.subfigures(1, 2, width_ratios=(6.3, 5.7), wspace=0.02)
        chart, sheet = parts
        _examples(sheet, result, images, class_names)
    axes = chart.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax, result)
    _probe_axis(axes[-1], result)
    return figure


def _kind(result: DepthResult) -> str:
    return "left-out support" if result.leave_one_out else "held-out"


def _positions(result: DepthResult) -> NDArray[np.float64]:
    """(L + 1,) where the bins of `settled()` stand: the undefined a little apart."""
    at = np.arange(len(result.probes) + 1, dtype=float)
    at[-1] += 0.4
    return at


def _right(result: DepthResult) -> NDArray[np.int64]:
    """(L + 1,) how many examples of each depth the network gets right."""
    right = result.depth[result.predictions == result.labels]
    return np.bincount(right, minlength=len(result.probes) + 1)


def _depths(ax: Axes, result: DepthResult) -> None:
    at, settled = _positions(result), result.settled()
    if result.labels is None:
        ax.bar(at, settled, 0.72, color=RIGHT)
    else:
        right = _right(result)
        ax.bar(at, right, 0.72, color=RIGHT, label="network right")
        ax.bar(at, settled - right, 0.72, right, color=WRONG, label="network wrong")
        legend(ax)
    crowded = 5.5 * len(f"{settled.max():,}") > room(ax, len(at))
    for x, count in zip(at, settled, strict=True):
        if count:
            ax.annotate(
                f"{count:,}", (x, count), (0, 2), textcoords="offset points", ha="center",
                fontsize=7 if crowded else 8, color=MUTED, rotation=90 if crowded else 0,
            )  # fmt: skip
    ax.margins(y=0.25 if crowded else 0.12)
    ax.locator_params(axis="y", integer=True)
    ax.set_title("Where examples settle")
    ax.set_ylabel("examples", color=MUTED)


def _accuracy(ax: Axes, result: DepthResult) -> None:
    settled, right = result.settled(), _right(result)
    seen = settled > 0
    at, n, share = _positions(result)[seen], settled[seen], right[seen] / settled[seen]
    low, high = wilson(right[seen], n)
    ax.vlines(at, low, high, color=RIGHT, linewidth=2, alpha=0.35, label="95 % interval")
    few = n < FEW
    ax.plot(at[~few], share[~few], "o", color=RIGHT, markersize=6)
    if few.any():
        ax.plot(
            at[few], share[few], "o", color=RIGHT, markerfacecolor="white", markersize=6,
            label=f"fewer than {FEW}",
        )  # fmt: skip
    _network(ax, result)
    legend(ax)
    percent(ax)
    ax.set_title("Accuracy by depth")


def _probes(ax: Axes, result: DepthResult) -> None:
    complete = result.complete()
    at = np.flatnonzero(complete)
    ax.plot(at, result.probe_accuracy()[complete], "-o", color=PROBE, markersize=5, linewidth=1.6)
    if not complete.all():
        ax.annotate(
            "Probes with unknown votes (early exit) are left out.", (0.01, 0.06),
            xycoords="axes fraction", fontsize=8, color=MUTED,
        )  # fmt: skip
    _network(ax, result)
    legend(ax)
    percent(ax)
    ax.set_title(f"Accuracy of each probe's vote, k = {result.k}")


def _network(ax: Axes, result: DepthResult) -> None:
    share = float(np.mean(result.predictions == result.labels))
    ax.axhline(share, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5,
               label=f"network {100 * share:.1f} %")  # fmt: skip


def _probe_axis(ax: Axes, result: DepthResult) -> None:
    at, names = _positions(result), [*result.probes, "undefined"]
    if not result.undefined.any():
        at, names = at[:-1], names[:-1]
    name_axis(ax, at, names)
    against = AGAINST[result.reference]
    ax.set_xlabel(f"depth: the probe from which on every vote agrees with {against}", color=MUTED)


def _examples(
    sheet: SubFigure,
    result: DepthResult,
    images: Any,
    class_names: Sequence[str] | Mapping[int, str] | None,
) -> None:
    rows = np.random.default_rng(0).permutation(len(result))
    rows = rows[np.argsort(result.depth[rows], kind="stable")]
    count = min(COLUMNS * ROWS, (len(rows) + 1) // 2)
    chosen = {"Shallowest": rows[:count], "Deepest": rows[len(rows) - count :][::-1]}
    draw_sheet(sheet, chosen, images, partial(caption_of, result, class_names), ROWS, COLUMNS)
