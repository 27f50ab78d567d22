"""Pictures of explanations: what is drawn, for images, texts and numbers, and wide and narrow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex

from pdepth.report.figures import explanation as figures
from pdepth.report.style import DARK, LIGHT, RIGHT, WRONG, Theme

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 40)
LAYERS = {
    "input": RNG.standard_normal((40, 4)),
    "layer1": RNG.standard_normal((40, 3)) + np.eye(4)[LABELS][:, :3],
    "softmax": np.eye(4)[LABELS] + 0.1 * RNG.standard_normal((40, 4)),
}
PREDICTIONS = np.where(np.arange(40) % 7, LABELS, (LABELS + 1) % 4)
NAMES = ["cat", "dog", "a very long name of a class", "$ship$"]


def explained(row: int, k: int = 5, **options: Any) -> Any:
    result = pdepth.depth_from_embeddings(
        LAYERS, LABELS, PREDICTIONS, k=7, return_neighbors=5, **options
    )
    return pdepth.explain(result, row, k=k)


def drawn(explanation: Any, query: Any = None, support: Any = None, theme: Theme = LIGHT) -> Any:
    return figures._draw(explanation, 0, (query, support or {}), NAMES, theme)


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def frames(figure: Any) -> list[str]:
    """Colours of the frames of pictures, as they were drawn."""
    boxes = [box for box in figure.axes[0].patches if box.get_linewidth() == 2.5]
    return [to_hex(box.get_edgecolor()).upper() for box in boxes]


def bars(figure: Any) -> list[list[float]]:
    """The widths of the parts of each bar, as shares of it."""
    lines: dict[float, list[float]] = {}
    for box in figure.axes[0].patches:
        if box.get_height() == 0.3:
            lines.setdefault(box.get_y(), []).append(box.get_width())
    return [[width / sum(widths) for width in widths] for widths in lines.values()]


def test_every_neighbour_has_its_picture_its_frame_and_its_name() -> None:
    explanation = explained(5, early_exit=False)
    images = {row: RNG.random((8, 8)) for row in range(40)}
    figure = drawn(explanation, images[5], images)
    shown, colors, said = figure.axes[0].images, frames(figure), texts(figure)
    near = [5, *explanation.neighbors.rows[:, 0].ravel().tolist()]
    assert len(shown) == len(colors) == len(near) == 1 + 3 * 5
    for image, color, row in zip(shown, colors, near, strict=True):
        np.testing.assert_allclose(np.asarray(image.get_array()), images[row])
        assert (color == RIGHT) == (LABELS[row] == PREDICTIONS[5])
    for row in near[1:]:
        name = "a very lon…" if LABELS[row] == 2 else NAMES[LABELS[row]]
        assert f"{name}\n#{row}" in said
    assert any(text.startswith("Row 5 (") for text in said)


def test_a_wrong_label_has_its_own_colour() -> None:
    figure = drawn(explained(7, early_exit=False), np.ones((4, 4)))
    assert PREDICTIONS[7] != LABELS[7]
    assert frames(figure)[0] == WRONG


def test_the_bar_has_all_votes() -> None:
    explanation = explained(3, k=2, early_exit=False)
    counts = explanation.neighbors.counts[:, 0]
    found = bars(drawn(explanation))
    assert len(found) == 3
    for widths, of_probe in zip(found, counts, strict=True):
        np.testing.assert_allclose(widths, of_probe[of_probe > 0] / 7)


def test_probes_that_were_not_searched_are_named() -> None:
    for row in range(40):
        explanation = explained(row)
        if (~explanation.neighbors.searched).any():
            break
    figure = drawn(explanation)
    note = "Not searched, since a later vote differs: input"
    assert any(text.startswith(note) for text in texts(figure))
    assert len(bars(figure)) == int(explanation.neighbors.searched.sum())


def test_a_dark_picture_has_light_words_and_the_same_frames() -> None:
    from matplotlib.text import Text

    explanation = explained(3, early_exit=False)
    figure, light = drawn(explanation, theme=DARK), drawn(explanation)
    assert to_hex(figure.get_facecolor()).upper() == DARK.paper
    words = [text for text in figure.findobj(Text) if text.get_text()]
    assert {to_hex(text.get_color()).upper() for text in words} <= {
        shade.upper() for shade in (DARK.ink, DARK.muted, DARK.right, DARK.wrong)
    }
    pairs = set(zip(frames(figure), frames(light), strict=True))
    assert (DARK.right, LIGHT.right) in pairs
    assert len(pairs) == len(set(frames(figure))) == len(set(frames(light))), "classes stay apart"


def test_texts_and_numbers_in_place_of_pictures() -> None:
    explanation = explained(3, early_exit=False)
    near = int(explanation.neighbors.rows[0, 0, 0])
    said = texts(drawn(explanation, "a long text of many words, which is cut", {near: "short"}))
    assert "short" in said
    assert any(text.startswith("a long text of") for text in said)
    assert f"#{explanation.neighbors.rows[0, 0, 1]}" in said
    assert "row 3" in texts(drawn(explanation))


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
@pytest.mark.parametrize("k", [1, 5])
def test_files(k: int, suffix: str, tmp_path: Path) -> None:
    explanation = explained(3, k=k)
    path = tmp_path / f"picture{suffix}"
    figures.plot_explanation(explanation, path, class_names=NAMES)
    assert path.stat().st_size > 5000
    many = replace(explanation.result, probes=tuple(f"encoder.block.{n}.output" for n in range(3)))
    figures.plot_explanation(replace(explanation, result=many), path, dark=True)
    with pytest.raises(ValueError, match="path: expected a suffix"):
        figures.plot_explanation(explanation, tmp_path / "picture.gif")
