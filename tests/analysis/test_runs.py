"""Comparisons of the same examples under two networks, or several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdepth import definition
from pdepth.analysis.ranks import spearman
from pdepth.analysis.runs import compare
from pdepth.result import DepthResult


def result_of(seed: int, n: int = 300, probes: int = 5, **changes: Any) -> DepthResult:
    """Of random votes of three classes, that are the prediction more often at later probes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    predictions = np.where(rng.random(n) < 0.9, labels, rng.integers(0, 3, n))
    share = np.linspace(0.5, 0.97, probes)[:, None]
    votes = np.where(rng.random((probes, n)) < share, predictions, rng.integers(0, 3, (probes, n)))
    depth, undefined = definition.depth_from_votes(votes, predictions)
    fields: dict[str, Any] = {
        "depth": depth,
        "undefined": undefined,
        "votes": votes,
        "known": np.ones(votes.shape, bool),
        "predictions": predictions,
        "labels": labels,
        "probes": tuple(f"probe {number}" for number in range(probes)),
        "k": 30,
        "checksums": np.arange(n, dtype=np.uint64),
    }
    return DepthResult(**fields | changes)


def test_networks_of_different_sizes() -> None:
    first, second = result_of(0), result_of(1, probes=9)
    found = compare(first, second, names=("a", "b"))
    assert (found.depths[0] == first.depth / 5).all()
    assert (found.depths[1] == second.depth / 9).all()
    assert found.difference.value == pytest.approx(np.mean(second.depth / 9 - first.depth / 5))
    assert found.difference.low < found.difference.value < found.difference.high
    assert found.rank_correlation.value == spearman(first.depth, second.depth).statistic
    assert found.rank_correlation.low < found.rank_correlation.value < found.rank_correlation.high
    for (one, other), count in np.ndenumerate(found.transitions):
        assert count == ((first.undefined == one) & (second.undefined == other)).sum()
    assert found.transitions.sum() == 300
    at, shares = found.accuracies(1) or (None, None)
    assert at is not None
    assert shares is not None
    assert (at[0], at[-1], len(at)) == (0, 1, 9)
    assert (shares == second.probe_accuracy()).all()


def test_the_interval_of_the_mean_is_that_of_the_normal_approximation() -> None:
    found = compare(result_of(0, n=4000), result_of(1, n=4000))
    half = 1.96 * found.change.std() / np.sqrt(4000)
    assert found.difference.high - found.difference.value == pytest.approx(half, rel=0.15)
    assert found.difference.value - found.difference.low == pytest.approx(half, rel=0.15)


def test_classes() -> None:
    first, second = result_of(0), result_of(1)
    found = compare(first, second)
    assert [change.label for change in found.by_class] == [0, 1, 2]
    for change in found.by_class:
        members = first.labels == change.label
        assert change.examples == members.sum()
        assert change.difference.value == pytest.approx(found.change[members].mean())
        assert change.deeper == (second.depth > first.depth)[members].mean()
        assert change.shallower == (second.depth < first.depth)[members].mean()


def test_seeds_are_averaged() -> None:
    sides = [[result_of(0), result_of(1), result_of(2)], [result_of(3)]]
    found = compare(*sides)
    assert np.allclose(found.depths[0], np.mean([r.depth for r in sides[0]], axis=0) / 5)
    majority = np.sum([r.undefined for r in sides[0]], axis=0) >= 2
    assert (found.undefined[0] == majority).all()


def test_the_largest_changes() -> None:
    found = compare(result_of(0), result_of(1))
    deeper, shallower = found.largest(10)
    assert (found.change[deeper] == np.sort(found.change)[::-1][:10]).all()
    assert (found.change[shallower] == np.sort(found.change)[:10]).all()
    same = compare(result_of(0), result_of(0))
    assert [len(rows) for rows in same.largest(10)] == [0, 0]
    assert same.difference == (0, 0, 0)
    assert same.rank_correlation.value == pytest.approx(1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": np.arange(1, 301)}, "another row number first at row 0"),
        ({"labels": np.arange(300) % 2}, "another label first at row 2"),
        ({"checksums": np.arange(300, dtype=np.uint64) // 5 * 5}, "another input first at row 1; "),
        ({"labels": None}, "labels in all runs or none"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_data_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(result_of(0), replace(result_of(1), **changed))


def test_inputs_that_are_prepared_otherwise() -> None:
    other = replace(result_of(1), checksums=np.zeros(300, np.uint64))
    with pytest.raises(ValueError, match="first at row 1.*pass other_inputs=True"):
        compare(result_of(0), other)
    assert compare(result_of(0), other, other_inputs=True).notes == ()


def test_what_differs_beside_the_networks_is_said() -> None:
    other = replace(result_of(1, probes=6), k=5, checksums=None, leave_one_out=True)
    assert compare(result_of(0), other).notes == (
        "Inputs were not compared: not every run has their checksums.",
        "The runs differ in whether examples are left out of their own support: False, True.",
        "The runs differ in k: 30, 5.",
        "The runs differ in the number of probes: 5, 6.",
    )


def test_whose_probes_have_no_accuracy_is_said() -> None:
    whole, other = result_of(0), result_of(1)
    agree = other.votes == other.predictions
    known = np.logical_and.accumulate(agree[::-1])[::-1]
    early = replace(other, known=known, votes=np.where(known, other.votes, -1))
    unknown = "early exit left votes unknown; pdepth run --all-votes computes them."
    assert compare(whole, early, names=("a", "b")).notes == (
        f"No accuracy of probes of b: {unknown}",
    )
    assert compare(early, early).notes == tuple(
        f"No accuracy of probes of {name}: {unknown}" for name in ("first", "second")
    )
    known = np.repeat([[False], [True]], [2, 3], axis=0) | np.zeros((1, 300), bool)
    partly = replace(other, known=known, votes=np.where(known, other.votes, -1))
    assert compare(partly, whole).notes == (
        f"Accuracy of a part of the probes of first: {unknown}",
    )
    assert "No accuracy of probes of first, whose runs have different numbers of probes." in (
        compare([whole, result_of(1, probes=6)], whole).notes
    )
    without = [replace(result, labels=None) for result in (whole, early)]
    assert compare(*without).notes == ()


def test_other_numbers_and_kinds() -> None:
    with pytest.raises(ValueError, match="the same examples, got 300 and 200"):
        compare(result_of(0), result_of(1, n=200))
    with pytest.raises(ValueError, match="second: expected at least one result"):
        compare(result_of(0), [])
    with pytest.raises(TypeError, match="first: expected a DepthResult or a sequence"):
        compare([1], result_of(0))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at least one example"):
        compare(result_of(0, n=0), result_of(1, n=0))


def test_without_labels_there_are_no_classes() -> None:
    first, second = (replace(result_of(seed), labels=None) for seed in (0, 1))
    found = compare(first, second)
    assert found.by_class == ()
    assert found.accuracies(0) is None


def test_the_frame() -> None:
    pytest.importorskip("pandas")
    found = compare(result_of(0), result_of(1))
    frame = found.to_pandas()
    assert [*frame] == [
        *("row", "label", "prediction_first", "depth_first", "undefined_first"),
        *("prediction_second", "depth_second", "undefined_second", "difference"),
    ]
    assert (frame["difference"] == found.change).all()


def test_checksums_are_kept_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    checksums = np.arange(300, dtype=np.uint64) + np.uint64(2**63)
    replace(result_of(0), checksums=checksums).save(tmp_path / "depth.parquet")
    loaded = DepthResult.load(tmp_path / "depth.parquet").checksums
    assert loaded is not None
    assert loaded.dtype == np.uint64
    assert (loaded == checksums).all()
