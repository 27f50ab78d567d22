"""Sheets of example images, which several figures show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdepth.report.images import image_array, value_range
from pdepth.report.names import ClassNames, class_name
from pdepth.report.style import FAINT, WRONG
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


class Caption(NamedTuple):
    """The lines under an example, and whether its frame is highlighted."""

    lines: list[str]
    framed: bool


def draw_sheet(
    sheet: Figure | SubFigure,
    chosen: Mapping[str, NDArray[np.int64]],
    images: Any,
    caption: Callable[[int], Caption],
    rows: int,
    columns: int,
) -> None:
    """Draw, under each title, its first images, `rows` times `columns` at most.

    Args:
        chosen: rows of `images` by title.
        images: as in `pdepth.plot`, indexed only where shown.
        caption: of a row of `images`.
        rows, columns: of the grid under a title.
    """
    strips: Any = sheet.subfigures(len(chosen), 1, squeeze=False)
    shown = {title: numbers[: rows * columns] for title, numbers in chosen.items()}
    arrays = {row: image_array(images[int(row)]) for numbers in shown.values() for row in numbers}
    low, high = value_range(list(arrays.values()))
    for strip, (title, numbers) in zip(strips[:, 0], shown.items(), strict=True):
        strip.suptitle(title, x=0.012, ha="left", fontsize=10, fontweight="bold")
        axes = strip.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, row in zip(axes.flat, numbers, strict=False):
            image = np.clip((arrays[row].astype(np.float64) - low) / (high - low), 0, 1)
            _draw_example(ax, image, caption(int(row)))


def _draw_example(ax: Axes, image: NDArray[np.float64], caption: Caption) -> None:
    ax.set_axis_on()
    ax.grid(False)
    ax.set_anchor("N")
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("\n".join(caption.lines), fontsize=7.5, labelpad=3)
    color, width = (WRONG, 2.5) if caption.framed else (FAINT, 0.8)
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=width)


def caption_of(result: DepthResult, class_names: ClassNames, row: int) -> Caption:
    """Label, class and depth of one example; highlighted where the network is wrong."""
    predicted = int(result.predictions[row])
    depth = "undefined" if result.undefined[row] else f"depth {result.depth[row]}"
    lines = [f"seen as {class_name(predicted, class_names)}", depth]
    if result.labels is None:
        return Caption(lines, False)
    label = int(result.labels[row])
    return Caption([f"label {class_name(label, class_names)}", *lines], label != predicted)
