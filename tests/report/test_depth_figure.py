"""The picture of a result: what is drawn, looked up in the figure itself."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from pdepth.result import DepthResult

pytest.importorskip("matplotlib")

from pdepth.analysis.intervals import wilson_interval
from pdepth.report.figures import depth
from pdepth.report.names import class_name

from helpers.torch_or_skip import torch


def example(n: int = 40, labels: bool = True, early: bool = False) -> DepthResult:
    """Rows cycle through depths 0..3 of 3 probes; every fifth is wrong, depth 3 is undefined."""
    depth = np.arange(n) % 4
    predictions = np.arange(n) % 10
    given_labels = np.where(np.arange(n) % 5 == 0, (predictions + 1) % 10, predictions)
    agree = np.arange(3)[:, None] >= depth
    votes = np.where(agree, predictions, (predictions + 2) % 10)
    known = np.ones((3, n), bool)
    if early:
        known = np.arange(3)[:, None] >= depth - 1
        votes[~known] = -1
    return DepthResult(
        depth=depth,
        undefined=depth == 3,
        votes=votes,
        known=known,
        predictions=predictions,
        labels=given_labels if labels else None,
        probes=("input", "block", "softmax"),
        k=5,
    )


def figure(result: DepthResult, images=None, class_names=None):
    return depth._draw_result(result, images, class_names)


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_each_format_is_written(tmp_path, suffix, magic):
    path = tmp_path / f"depth.{suffix}"
    depth.plot(example(), path)
    assert path.read_bytes().startswith(magic)
    assert os.listdir(tmp_path) == [path.name]


def test_several_k_are_drawn_against_k(tmp_path):
    single = example()
    later = dataclasses.replace(single, k=50, depth=np.minimum(single.depth + 1, 3))
    results = {50: dataclasses.replace(later, undefined=later.depth == 3), 5: single}
    depth.plot(results, tmp_path / "k.png")
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    depths = [results[k].depth[~results[k].undefined].mean() for k in (5, 50)]
    shares = [100 * results[k].undefined.mean() for k in (5, 50)]
    drawn = depth._draw_by_k(results)
    assert "40 held-out examples against k" in drawn.get_suptitle()
    for ax, values in zip(drawn.axes, (depths, shares), strict=False):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), values)
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "50"]
    with pytest.raises(
        ValueError, match="images: expected None with results of several k, got images."
    ):
        depth.plot(results, tmp_path / "other.png", images=np.zeros((40, 4, 4)))
    with pytest.raises(ValueError, match="result: expected at least one k, got an empty mapping"):
        depth.plot({}, tmp_path / "other.png")
    for wrong in ({5: single, 7: example(8)}, {5: example(0)}):
        with pytest.raises(
            ValueError, match="expected as many examples at every k, and at least one, got"
        ):
            depth.plot(wrong, tmp_path / "other.png")


@pytest.mark.parametrize(
    ("reference", "words"),
    [("prediction", "the network"), ("label", "the label"), ("last_probe", "the last probe")],
)
def test_the_axis_says_what_votes_agree_with(reference, words):
    ax = figure(dataclasses.replace(example(), reference=reference)).axes[-1]
    assert ax.get_xlabel().endswith(f"every vote agrees with {words}")


def test_histogram_holds_every_example_by_depth_and_verdict():
    ax = figure(example()).axes[0]
    right, wrong = ax.containers
    result = example()
    is_right = result.predictions == result.labels
    for place in range(4):
        at = result.depth == place
        assert right[place].get_height() == (at & is_right).sum()
        assert wrong[place].get_height() == (at & ~is_right).sum()
        assert wrong[place].get_y() == right[place].get_height()
    assert [label.get_text() for label in figure(example()).axes[-1].get_xticklabels()] == [
        "input", "block", "softmax", "undefined",
    ]  # fmt: skip


def test_accuracy_by_depth_and_its_intervals():
    ax = figure(example()).axes[1]
    result = example()
    is_right = result.predictions == result.labels
    points = ax.lines[0].get_ydata()
    np.testing.assert_allclose(points, [is_right[result.depth == d].mean() for d in range(4)])
    low, high = wilson_interval([8, 8, 8, 8], [10, 10, 10, 10])
    ends = [segment[:, 1] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(ends, np.stack([low, high], 1))


def test_few_examples_are_hollow():
    ax = figure(example(36)).axes[1]  # nine of each depth
    assert "fewer than 10" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.lines[1].get_markerfacecolor() == "white"
    assert len(ax.lines[1].get_xdata()) == 4


def test_probe_accuracy_panel():
    ax = figure(example()).axes[2]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), example().probe_accuracy())


def test_probes_with_unknown_votes_are_left_out():
    result = example(early=True)
    assert result.complete().tolist() == [False, False, True]
    assert len(figure(result).axes) == 2  # one probe alone is no panel
    result.known[1] = True
    assert figure(result).axes[2].lines[0].get_xdata().tolist() == [1, 2]


def test_without_labels_only_the_histogram():
    drawn = figure(example(labels=False))
    assert len(drawn.axes) == 1
    assert [bar.get_height() for bar in drawn.axes[0].containers[0]] == [10, 10, 10, 10]


def test_sheet_shows_shallowest_and_deepest_with_label_prediction_depth():
    result = example()
    images = np.zeros((40, 8, 8), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None]
    shown = [ax for ax in figure(result, images).axes if ax.images]
    assert len(shown) == 20
    depths = []
    for ax in shown:
        row = round(float(ax.images[0].get_array()[0, 0]) * 255)  # an image's value is its row
        depths.append(result.depth[row])
        depth = "undefined" if result.undefined[row] else f"depth {result.depth[row]}"
        assert ax.get_xlabel() == (
            f"label {result.labels[row]}\nseen as {result.predictions[row]}\n{depth}"
        )
    assert depths == [0] * 10 + [3] * 10  # the undefined are deeper than any other


def test_sheet_begins_with_the_shallowest_and_with_the_deepest():
    shown = [ax for ax in figure(example(8), np.zeros((8, 4, 4))).axes if ax.images]
    depths = [ax.get_xlabel().splitlines()[2] for ax in shown]
    assert depths == [*(f"depth {depth}" for depth in (0, 0, 1, 1)), *["undefined"] * 2,
                      *["depth 2"] * 2]  # fmt: skip


def test_class_names_are_used_cut_and_never_parsed():
    names = {i: f"{i} $kind$ of a very long name" for i in range(10)}
    drawn = figure(example(), np.zeros((40, 4, 4)), names)
    captions = [ax.xaxis.label for ax in drawn.axes if ax.images]
    assert "seen as 4 $kind$ of …" in [c.get_text().split("\n")[1] for c in captions]


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_any_class_name_is_drawn(tmp_path, suffix):
    odd = [
        "$100-$200",
        "$_$",
        "a$\\frac$",
        "<b>",
        "\u540d",
        "caf\udce9",
        "\n\n",
        "\t",
        "",
        "x" * 500,
    ]
    path = tmp_path / f"a.{suffix}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        depth.plot(example(), path, images=np.zeros((40, 4, 4)), class_names=odd)
    assert path.stat().st_size > 10_000


def test_bytes_that_are_no_text_are_written_out():
    assert class_name(0, ["caf\udce9"]) == "caf\\udce9"


IMAGES = {
    "grey": lambda: np.zeros((40, 6, 5), np.uint8),
    "last": lambda: np.zeros((40, 6, 5, 3), np.float32),
    "first": lambda: np.random.default_rng(0).normal(size=(40, 3, 6, 5)),
    "tensor": lambda: torch.zeros(40, 1, 6, 5, dtype=torch.bfloat16),
    "list": lambda: [np.zeros((6, 5, 4), np.uint8)] * 40,
}


@pytest.mark.parametrize("layout", IMAGES)
def test_images_of_each_layout(layout):
    drawn = figure(example(), IMAGES[layout]())
    shown = [ax.images[0].get_array() for ax in drawn.axes if ax.images]
    assert {array.shape[:2] for array in shown} == {(6, 5)}
    assert all(array.min() >= 0 and array.max() <= 1 for array in shown)


def test_wrong_images_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="images: expected 40, one per example, got 3"):
        depth.plot(example(), path, np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match=r"1, 3 or 4 channels, got \(7, 4, 5\)"):
        depth.plot(example(), path, np.zeros((40, 7, 4, 5)))
    assert not os.listdir(tmp_path)


def test_one_example_of_one_depth(tmp_path):
    single = example(1)
    depth.plot(single, tmp_path / "a.png", np.zeros((1, 4, 4)))


def test_wrong_suffix(tmp_path):
    with pytest.raises(
        ValueError, match=r"path: expected a suffix of \.png, \.svg, \.pdf, got '.*a\.jpg'"
    ):
        depth.plot(example(), tmp_path / "a.jpg")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    def import_module(name: str):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ImportError, match=r"plot needs matplotlib: pip install 'pdepth\[plot\]'"):
        depth.plot(example(), tmp_path / "a.png")


def test_no_global_state_of_matplotlib_changes(tmp_path):
    code = f"""
import sys, matplotlib, numpy as np
from pdepth.report.figures.depth import plot
from pdepth.result import DepthResult

def settings():  # asking for the backend would choose one
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}

before, row = settings(), np.zeros(1, int)
votes, known = np.zeros((2, 1), int), np.ones((2, 1), bool)
result = DepthResult(row, row > 0, votes, known, row, row, ("input", "softmax"), 1)
plot(result, {str(tmp_path / "a.png")!r})
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
