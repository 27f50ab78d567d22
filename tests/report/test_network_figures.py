"""The figures of an analysis: what is drawn, looked up in the figures themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from pdepth.analysis import network as analysis
from pdepth.analysis.training import OverTraining
from pdepth.report.figures import network, training
from pdepth.result import DepthResult


def result(n: int = 60, labels: bool = True) -> DepthResult:
    """Rows cycle through depths 0..3 of 3 probes; every fifth is wrong."""
    depth = np.arange(n) % 4
    predictions = np.arange(n) % 5
    shifted = np.where(np.arange(n) % 5 == 0, (predictions + 1) % 5, predictions)
    votes = np.where(np.arange(3)[:, None] >= depth, predictions, (predictions + 2) % 5)
    return DepthResult(
        depth, depth == 3, votes, np.ones((3, n), bool), predictions, shifted if labels else None,
        ("input", "block", "softmax"), 5,
    )  # fmt: skip


def over() -> OverTraining:
    accuracy = np.array([[0.3, 0.1, 0.1], [0.3, 0.6, 0.2], [0.3, 0.6, 0.8]])
    return OverTraining(
        np.array([0, 10, 500]), ("input", "block", "softmax"), accuracy, accuracy / 2,
        np.array([0.1, 0.3, 0.8]), np.array([2, np.nan, 0.5]), np.array([0.9, 1, 0.1]),
    )  # fmt: skip


def test_each_figure_is_written(tmp_path: Path) -> None:
    outcome = result()
    calls: dict[str, Any] = {
        "against.png": lambda path: network.plot_against_depth(
            analysis.against_depth(outcome), path
        ),
        "agree.svg": lambda path: network.plot_agreement(analysis.agreement(outcome), path),
        "pairs.pdf": lambda path: network.plot_confused_pairs(
            analysis.confused_pairs(outcome), path
        ),
        "settle.png": lambda path: network.plot_settling(outcome, np.zeros((60, 4, 4)), path),
        "over.png": lambda path: training.plot_over_training(over(), path),
    }
    for name, call in calls.items():
        call(tmp_path / name)
        with pytest.raises(ValueError, match="path: expected a suffix of"):
            call(tmp_path / "a.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(calls)


def test_against_depth_draws_means_and_their_correlation() -> None:
    outcome = result()
    margin = np.where(outcome.depth == 1, np.inf, 1.0 * outcome.depth)
    actual = analysis.against_depth(outcome, {"margin": margin, "depth_again": outcome.depth})
    axes = network._draw_against_depth(actual).axes
    assert [ax.get_title() for ax in axes] == ["Accuracy", "Margin", "Depth again", "Examples"]
    for ax, name in zip(axes, ("accuracy", "margin", "depth_again"), strict=False):
        shown = np.isfinite(actual.mean[name])
        assert ax.lines[0].get_xdata().tolist() == np.flatnonzero(shown).tolist()
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), actual.mean[name][shown])
    assert axes[2].get_title(loc="right").startswith("rank correlation 1.00, p")
    assert [bar.get_height() for bar in axes[3].patches] == [15] * 4
    names = [label.get_text() for label in axes[3].get_xticklabels()]
    assert names == ["input", "block", "softmax", "undefined"]


def test_against_depth_draws_few_examples_hollow() -> None:
    ax = network._draw_against_depth(analysis.against_depth(result(38))).axes[0]
    assert ax.lines[1].get_xdata().tolist() == [0, 1]  # ten each
    assert ax.lines[2].get_xdata().tolist() == [2, 3]
    assert ax.lines[2].get_markerfacecolor() == "white"


def test_agreement_leaves_out_what_is_unknown() -> None:
    outcome = result()
    outcome.known[0, 3] = False
    actual = analysis.agreement(outcome)
    settled, as_network, as_label = network._draw_agreement(actual).axes[0].lines
    np.testing.assert_array_equal(settled.get_ydata(), actual.settled)
    assert as_network.get_xdata().tolist() == as_label.get_xdata().tolist() == [1, 2]
    unlabelled = analysis.agreement(dataclasses.replace(outcome, labels=None))
    assert len(network._draw_agreement(unlabelled).axes[0].lines) == 2


def test_pairs_are_named_and_framed_where_they_end() -> None:
    pairs = analysis.confused_pairs(result())
    ax = network._draw_pairs(pairs, {0: "nought"}).axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), pairs.share[: network.MAX_PAIRS])
    frames = [round(frame.get_x() + 0.48) for frame in ax.patches]
    assert frames == pairs.until.tolist()[: network.MAX_PAIRS]
    first = f"{pairs.first[0] or 'nought'} / {pairs.second[0]}"
    assert ax.get_yticklabels()[0].get_text() == first


def test_settling_shows_the_examples_of_each_probe() -> None:
    outcome = result(n=50)
    images = np.zeros((50, 4, 4), np.uint8) + np.arange(50, dtype=np.uint8)[:, None, None]
    drawn: list[Any] = []

    def keep(draw: Any, path: Any, function: str) -> None:
        drawn.append(draw())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "write_figure", keep)
        network.plot_settling(outcome, images, "a.png", by=-np.arange(50))
    shown = [
        round(float(ax.images[0].get_array()[0, 0]) * 255) for ax in drawn[0].axes if ax.images
    ]
    expected = [row for depth in range(4) for row in range(49, -1, -1) if row % 4 == depth]
    kept = [row for depth in range(4) for row in [r for r in expected if r % 4 == depth][:10]]
    assert shown == kept


def test_over_training_draws_every_probe_and_rings_what_converged() -> None:
    actual = over()
    accuracy, kept, depth, undefined = training._draw_over_training(actual).axes
    lines = accuracy.lines
    for probe in range(3):
        np.testing.assert_array_equal(lines[2 * probe].get_ydata(), actual.accuracy[:, probe])
        np.testing.assert_array_equal(kept.lines[probe].get_ydata(), actual.kept[:, probe])
    assert [ring.get_xdata()[0] for ring in lines[1:6:2]] == [0, 1, 2]
    np.testing.assert_array_equal(depth.lines[0].get_ydata(), actual.mean_depth)
    np.testing.assert_array_equal(undefined.lines[0].get_ydata(), actual.undefined)
    assert [label.get_text() for label in depth.get_xticklabels()] == ["0", "10", "500"]


def test_mistakes(tmp_path: Path) -> None:
    outcome = result()
    nothing = analysis.against_depth(result(labels=False))
    with pytest.raises(ValueError, match="against: expected at least one measure"):
        network.plot_against_depth(nothing, tmp_path / "a.png")
    sure = dataclasses.replace(outcome, votes=np.tile(outcome.labels, (3, 1)))
    with pytest.raises(ValueError, match="pairs: expected at least one pair"):
        network.plot_confused_pairs(analysis.confused_pairs(sure), tmp_path / "a.png")
    with pytest.raises(ValueError, match="images: expected 60, one per example, got 3"):
        network.plot_settling(outcome, np.zeros((3, 4, 4)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
