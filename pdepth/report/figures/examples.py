"""Pictures of single examples, as the sheets of several figures show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdepth.report.figures.drawing import FAINT, WRONG
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

LONGEST_NAME = 13  # of a class under its example
Names = Sequence[str] | Mapping[int, str] | None


class Caption(NamedTuple):
    """What stands under an example, and whether its frame is to strike the eye."""

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
    """Draw under each title `rows` times `columns` pictures at most, of the first that it names.

    images: as of `pdepth.plot`, indexed only where shown. caption: of a row of `images`.
    """
    parts: Any = sheet.subfigures(len(chosen), 1, squeeze=False)
    shown = {title: each[: rows * columns] for title, each in chosen.items()}
    pictures = {row: picture_of(images[int(row)]) for each in shown.values() for row in each}
    low, high = value_range(list(pictures.values()))
    for part, (title, each) in zip(parts[:, 0], shown.items(), strict=True):
        part.suptitle(title, x=0.012, ha="left", fontsize=10, fontweight="bold")
        axes = part.subplots(rows, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, row in zip(axes.flat, each, strict=False):
            picture = np.clip((pictures[row] - low) / (high - low), 0, 1)
            _example(ax, picture, caption(int(row)))


def _example(ax: Axes, picture: NDArray[np.float64], caption: Caption) -> None:
    ax.set_axis_on()
    ax.grid(False)
    ax.set_anchor("N")
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("\n".join(caption.lines), fontsize=7.5, labelpad=3)
    color, width = (WRONG, 2.5) if caption.framed else (FAINT, 0.8)
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=width)


def caption_of(result: DepthResult, class_names: Names, row: int) -> Caption:
    """Label, class and depth of one example; framed where the network is wrong."""
    predicted = int(result.predictions[row])
    depth = "undefined" if result.undefined[row] else f"depth {result.depth[row]}"
    lines = [f"seen as {class_name(predicted, class_names)}", depth]
    if result.labels is None:
        return Caption(lines, False)
    label = int(result.labels[row])
    return Caption([f"label {class_name(label, class_names)}", *lines], label != predicted)


def class_name(label: int, class_names: Names, longest: int = LONGEST_NAME) -> str:
    if isinstance(class_names, Mapping):
        name = class_names.get(label, str(label))
    elif class_names is not None and 0 <= label < len(class_names):
        name = class_names[label]
    else:
        name = str(label)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def picture_of(image: Any) -> NDArray[Any]:
    """One picture as (H, W) or (H, W, 3 or 4), in its own values."""
    if hasattr(image, "detach"):  # a tensor: of any device, and NumPy knows no bfloat16
        image = image.detach().cpu()
        image = image.double().numpy() if image.is_floating_point() else image.numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ValueError(
            f"images holds a picture of shape {array.shape}; (H, W), (H, W, C) or (C, H, W) with "
            "1, 3 or 4 channels was wanted."
        )
    return array[..., 0] if array.shape[-1] == 1 and array.ndim == 3 else array


def value_range(pictures: list[NDArray[Any]]) -> tuple[float, float]:
    """The values drawn as black and as white, for pictures of one kind."""
    if all(picture.dtype == np.uint8 for picture in pictures):
        return 0.0, 255.0
    low = min((float(picture.min()) for picture in pictures), default=0.0)
    high = max((float(picture.max()) for picture in pictures), default=1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1
