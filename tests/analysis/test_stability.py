"""Agreement at s probes in a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pdepth
from pdepth import definition
from pdepth.analysis.stability import depth_by_stable
from pdepth.result import DepthResult


def result_of(agrees: np.ndarray) -> DepthResult:
    """Of votes that are the prediction, 1, where they agree, and 0 elsewhere."""
    votes = agrees.astype(np.int64)
    depth, undefined = definition.depth_from_votes(votes, np.ones(agrees.shape[1], np.int64))
    return DepthResult(
        depth=depth,
        undefined=undefined,
        votes=votes,
        known=np.ones(agrees.shape, bool),
        predictions=np.ones(agrees.shape[1], np.int64),
        labels=None,
        probes=tuple(f"probe {number}" for number in range(len(agrees))),
        k=3,
    )


def by_the_rule(agrees: np.ndarray, stable: int) -> list[int]:
    """As it is said, for each example."""
    probes = len(agrees)
    return [
        next((p for p in range(probes) if column[p : p + stable].all()), probes)
        for column in agrees.T
    ]


@pytest.mark.parametrize("probes", [1, 2, 5, 9])
def test_every_number_is_the_rule(probes: int) -> None:
    agrees = np.random.default_rng(probes).random((probes, 400)) < 0.6
    result = result_of(agrees)
    for stable in range(1, probes + 3):
        depth, undefined = result.stable_depth(stable)
        assert depth.dtype == np.int64
        assert depth.tolist() == by_the_rule(agrees, stable)
        assert (undefined == (depth == probes)).all()
        found = pdepth.depth_from_votes(result.votes, result.predictions, stable=stable)
        assert (found[0] == depth).all()
        assert (found[1] == undefined).all()


def test_all_probes_in_a_row_are_the_prediction_depth() -> None:
    result = result_of(np.random.default_rng(0).random((6, 200)) < 0.7)
    depth, undefined = result.stable_depth(6)
    assert (depth == result.depth).all()
    assert (undefined == result.undefined).all()


def test_shares_and_means() -> None:
    rows = [[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]]
    result = result_of(np.array(rows, bool).T)
    one, two, all_ = depth_by_stable(result, [1, 2, 6])
    assert (one.mean_depth, one.early, one.late, one.undefined) == (1.5, 0.75, 0.25, 0.0)
    assert (two.mean_depth, two.early, two.late, two.undefined) == (3.0, 0.25, 0.5, 0.25)
    assert (all_.early, all_.late, all_.undefined) == (0.25, 0.5, 0.25)
    assert all_.rank_correlation == pytest.approx(1)


def test_the_default_numbers() -> None:
    def numbers(probes: int) -> list[int]:
        return [each.stable for each in depth_by_stable(result_of(np.ones((probes, 3), bool)))]

    assert [numbers(probes) for probes in (1, 3, 7)] == [[1], [1, 2, 3], [1, 2, 3, 4, 7]]


def test_nothing_is_defined() -> None:
    (summary,) = depth_by_stable(result_of(np.zeros((2, 3), bool)), [1])
    assert np.isnan(summary.mean_depth)
    assert (summary.undefined, summary.early, summary.late) == (1, 0, 0)


def test_early_exit_knows_only_the_last_run() -> None:
    rng = np.random.default_rng(0)
    support, labels = [rng.standard_normal((60, 4)) for _ in range(3)], np.arange(60) % 3
    found = pdepth.depth_from_embeddings(support, labels, labels, k=5)
    with pytest.raises(ValueError, match="one with early exit, .* pass early_exit=False"):
        found.stable_depth(2)
    whole = pdepth.depth_from_embeddings(support, labels, labels, k=5, early_exit=False)
    assert (whole.stable_depth(3)[0] == whole.depth).all()


@pytest.mark.parametrize(("stable", "error"), [(0, ValueError), (1.5, TypeError)])
def test_wrong_numbers(stable: float, error: type[Exception]) -> None:
    result = result_of(np.ones((2, 3), bool))
    with pytest.raises(error, match="stable: expected an integer"):
        result.stable_depth(stable)  # type: ignore[arg-type]
    with pytest.raises(error, match="stable: expected an integer"):
        pdepth.depth_from_votes(result.votes, result.predictions, stable=stable)  # type: ignore[arg-type]


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from pdepth.report.figures.stability import plot_stability

    result = result_of(np.random.default_rng(0).random((7, 50)) < 0.7)
    plot_stability(result, tmp_path / "stable.png")
    assert (tmp_path / "stable.png").stat().st_size > 5_000
