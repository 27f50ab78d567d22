"""Draw an explanation: a line of pictures for each probe, and how its neighbours voted."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.report.explanation import Explanation
from pdepth.report.figures.drawing import write_figure
from pdepth.report.images import UNREADABLE, image_array, value_range
from pdepth.report.names import ClassNames, class_name
from pdepth.report.style import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of Okabe and Ito, after the two of a theme.
OTHERS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#0072B2")
REST = "#B4BAC2"  # classes beyond those
# Inches: around all, of the example, a picture, and from one to the next, a line, a name, counts.
MARGIN, QUERY, CELL, STEP, LINE, NAME, BAR = 0.2, 1.35, 0.86, 0.98, 1.24, 1.1, 2.5
LETTERS = 11  # of a class under a picture
TEXT = 15, 6  # letters and lines of a text in a cell


def plot_explanation(
    explanation: Explanation,
    path: str | os.PathLike[str],
    example: int = 0,
    *,
    query_input: Any = None,
    support_inputs: Mapping[int, Any] | None = None,
    class_names: ClassNames = None,
    dark: bool = False,
) -> None:
    """Draw one example of an explanation into one file, whole or not at all.

    At the left the example; then a line for each probe that was searched, the input's first: its
    nearest support rows, framed by their class and named below, and all k votes as a bar. Classes
    are told apart by their names as well as by their colours: blue is what votes are compared with.

    Args:
        path: .png, .svg or .pdf; its folder must exist.
        example: its place among `explanation.rows`.
        query_input: an image (H, W), (H, W, C) or (C, H, W), a text, or None for its row number.
        support_inputs: such inputs by row number of the support; those that lack are numbers.
        class_names: names by class, as a sequence or a mapping.
        dark: light on a dark ground, for slides.

    Raises:
        ImportError: matplotlib is missing (extra `plot`).
        ValueError: another suffix, or an image of another shape.
    """
    inputs, theme = (query_input, support_inputs or {}), DARK if dark else LIGHT
    draw = partial(_draw, explanation, example, inputs, class_names, theme)
    write_figure(draw, path, "plot_explanation")


def _draw(
    explanation: Explanation,
    example: int,
    inputs: tuple[Any, Mapping[int, Any]],
    class_names: ClassNames,
    theme: Theme,
) -> Figure:
    query_input, support_inputs = inputs
    kept, rows = explanation.neighbors, explanation.neighbor_rows[:, example]
    searched = np.flatnonzero(kept.searched[:, example])
    nearest = rows.shape[1]
    colors = _colors(explanation, example, theme)
    width = 2 * MARGIN + QUERY + NAME + STEP * nearest + BAR
    title, notes = _title(explanation, example, class_names, width), _notes(explanation, example)
    top = 0.62 + 0.24 * title.count("\n")
    height = top + LINE * max(1, len(searched)) + 0.2 * len(notes) + 0.05
    height = max(height, top + QUERY + 0.4)
    canvas = _Canvas((width, height), title, (query_input, *support_inputs.values()), theme)

    own = None if explanation.result.labels is None else int(explanation.result.labels[example])
    number = f"row {explanation.rows[example]}"
    under = [number] if own is None else [class_name(own, class_names, 18), number]
    color = theme.ink if own is None else colors.get(own, REST)
    canvas.cell((MARGIN, top), QUERY - 0.12, query_input, number, color, under)
    for line, probe in enumerate(searched):
        y = top + LINE * line
        _name(canvas, (MARGIN + QUERY + NAME - 0.12, y), explanation, int(probe), example)
        for rank, row in enumerate(rows[probe].tolist()):
            label = int(kept.labels_of(kept.rows[probe, example, rank]))
            canvas.cell(
                (MARGIN + QUERY + NAME + STEP * rank, y), CELL, support_inputs.get(row), f"#{row}",
                colors.get(label, REST), [class_name(label, class_names, LETTERS), f"#{row}"],
            )  # fmt: skip
        x = MARGIN + QUERY + NAME + STEP * nearest + 0.1
        if not line:
            unit = "votes" if kept.counts.dtype.kind != "f" else "weighted votes"
            canvas.write((x, y - 0.08), f"all {kept.k} {unit}", 9, va="bottom", weight="bold")
        _counts(canvas, (x, y), explanation, int(probe), example, colors, class_names)
    for place, note in enumerate(notes):
        canvas.write((MARGIN, height - 0.2 * (len(notes) - place)), note, 8, color=theme.muted)
    return canvas.figure


def _title(explanation: Explanation, example: int, names: ClassNames, width: float) -> str:
    result = explanation.result
    seen = class_name(int(result.predictions[example]), names, 24)
    settles = "undefined, since the last probe disagrees"
    if not result.undefined[example]:
        depth = int(result.depth[example])
        settles = (
            f"settles at {result.probes[depth]}, depth {depth} of 0 to {len(result.probes) - 1}"
        )
    own = ""
    if result.labels is not None:
        own = f" ({class_name(int(result.labels[example]), names, 24)})"
    title = f"Row {explanation.rows[example]}{own}, seen as {seen}: {settles}"
    return "\n".join(textwrap.wrap(title, max(24, int(9 * width))))


def _notes(explanation: Explanation, example: int) -> list[str]:
    """What is said under the picture."""
    row, kept = int(explanation.rows[example]), explanation.neighbors
    notes = [text for text in explanation.remarks() if text.startswith(f"Row {row}:")]
    left = [name for name, there in zip(kept.probes, kept.searched[:, example], strict=True)
            if not there]  # fmt: skip
    if left:
        which = left[0] if len(left) == 1 else f"{left[0]} to {left[-1]}"
        notes.append(f"Not searched, since a later vote differs: {which}.")
    return notes


def _colors(explanation: Explanation, example: int, theme: Theme) -> dict[int, str]:
    """A colour for each class: the reference's, the label's, then those with most votes."""
    kept, result = explanation.neighbors, explanation.result
    colors = {int(explanation.reference[example]): theme.right}
    if result.labels is not None:
        colors.setdefault(int(result.labels[example]), theme.wrong)
    totals = kept.class_counts([example])[:, 0].sum(axis=0)
    by_votes = kept.classes[np.argsort(-totals, kind="stable")]
    free = [color for color in OTHERS if color != theme.right]
    for label, total in zip(by_votes, np.sort(totals)[::-1], strict=True):
        if total and free and int(label) not in colors:
            colors[int(label)] = free.pop(0)
    return colors


def _name(
    canvas: _Canvas, at: tuple[float, float], explanation: Explanation, probe: int, example: int
) -> None:
    """A probe's name, and what its vote says; at: the right upper corner."""
    result = explanation.result
    agrees = explanation.votes()[probe, example] == explanation.reference[example]
    settled = not result.undefined[example] and probe == result.depth[example]
    lines = textwrap.wrap(explanation.neighbors.probes[probe], 15, break_on_hyphens=False)
    said = "settles here" if settled else ("agrees" if agrees else "disagrees")
    x, middle = at[0], at[1] + CELL / 2
    canvas.write((x, middle - 0.03), "\n".join(lines), 9, ha="right", va="bottom")
    color = canvas.theme.right if agrees else canvas.theme.wrong
    canvas.write(
        (x, middle + 0.03), said, 8, ha="right", color=color,
        weight="bold" if settled else "normal",
    )  # fmt: skip


def _counts(
    canvas: _Canvas,
    at: tuple[float, float],
    explanation: Explanation,
    probe: int,
    example: int,
    colors: Mapping[int, str],
    names: ClassNames,
) -> None:
    """All k votes as one bar, the class with most first; at: the left upper corner."""
    kept = explanation.neighbors
    counts = kept.counts[probe, example].astype(np.float64)
    labels = kept.classes[kept.ranked[probe, example]][counts > 0]
    counts = counts[counts > 0]
    (x, y), whole, begin, said = at, counts.sum(), 0.0, []
    for label, count in zip(labels, counts, strict=True):
        size = (BAR - 0.2) * count / whole
        canvas.bar((x + begin, y + 0.1), size, colors.get(int(label), REST))
        begin += size
        said.append(f"{class_name(int(label), names, LETTERS)}: {count:.4g}")
    text = ", ".join(said[:3]) + (f", {len(said) - 3} more" if said[3:] else "")
    canvas.write((x, y + 0.48), "\n".join(textwrap.wrap(text, 40)), 7.5)


class _Canvas:
    """One pair of axes whose units are inches from the left upper corner: to lay out dozens of axes
    takes some times as long as to draw them."""

    def __init__(
        self, size: tuple[float, float], title: str, inputs: Iterable[Any], theme: Theme
    ) -> None:
        from matplotlib.figure import Figure

        (width, height), self.theme = size, theme
        self.figure = Figure(figsize=size, facecolor=theme.paper)
        self.ax = self.figure.add_axes((0, 0, 1, 1), frameon=False)
        self.ax.set_axis_off()
        self.write((MARGIN, 0.14), title, 13, weight="bold")
        images = [each for each in inputs if each is not None and not isinstance(each, str)]
        self._low, self._high = value_range([image_array(each) for each in images])
        self._limits = (0, width), (height, 0)
        self._fix()

    def _fix(self) -> None:
        self.ax.set_xlim(*self._limits[0])
        self.ax.set_ylim(*self._limits[1])
        self.ax.set_aspect("auto")

    def write(
        self, at: tuple[float, float], text: str, size: float, *, color: str | None = None,
        ha: str = "left", va: str = "top", weight: str = "normal",
    ) -> None:  # fmt: skip
        shade = color or self.theme.ink
        self.ax.text(*at, text, fontsize=size, color=shade, ha=ha, va=va, fontweight=weight)

    def bar(self, at: tuple[float, float], width: float, color: str) -> None:
        from matplotlib.patches import Rectangle

        self.ax.add_patch(Rectangle(at, width, 0.3, facecolor=color, edgecolor=self.theme.paper))

    def cell(
        self,
        at: tuple[float, float],
        size: float,
        content: Any,
        name: str,
        color: str,
        under: Sequence[str],
    ) -> None:
        """A framed picture, a text, or the name of what has neither; lines below it."""
        from matplotlib.patches import Rectangle

        x, y = at
        self.write((x + size / 2, y + size + 0.04), "\n".join(under), 7.5, ha="center")
        written = content is None or isinstance(content, str)
        box, face = (x, y, size, size), self.theme.faint
        if not written:
            values: NDArray[np.float64] = image_array(content).astype(np.float64)
            shown = np.clip((values - self._low) / (self._high - self._low), 0, 1)
            longest = max(shown.shape[:2])
            high, wide = (size * side / longest for side in shown.shape[:2])
            box, face = (x + (size - wide) / 2, y + (size - high) / 2, wide, high), "none"
            extent = (box[0], box[0] + wide, box[1] + high, box[1])
            self.ax.imshow(
                shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent
            )
            self._fix()
        self.ax.add_patch(
            Rectangle(box[:2], *box[2:], facecolor=face, edgecolor=color, linewidth=2.5)
        )
        if written:
            text = _fitted(name if content is None else content)
            middle = (x + size / 2, y + size / 2)
            self.write(middle, text, 6.5, ha="center", va="center")


def _fitted(text: str) -> str:
    """As much of a text as a cell has room for."""
    letters, most = TEXT
    lines = textwrap.wrap(" ".join(text.split()), letters)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][: letters - 1] + "…"]
    return "\n".join(lines)


def inputs_of(data: Any, rows: Sequence[int] | NDArray[np.int64]) -> dict[int, Any]:
    """Inputs by row number, of a sequence of images or texts; those that cannot be read lack."""
    found = {}
    for row in sorted({int(row) for row in rows if row >= 0}):
        try:
            found[row] = data[row]
        except UNREADABLE:
            continue
    return found
