"""The one error bound: C++ computes what pdepth.certify says, and no row breaks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdepth import _native, certify, definition, native

from adversaries import attacks, climb, laid_open, random, scaled, share_of_bound
from cases import first_difference

PASSES = [
    pytest.param(level, each["name"], id=f"{level}, {each['name']}")
    for level, runs in native.simd_levels().items()
    if runs
    for each in _native.passes(level)
]


def pass_of(level: str, name: str) -> certify.Pass:
    return next(certify.Pass(**p) for p in _native.passes(level) if p["name"] == name)


def bounds_of(by: certify.Pass, width: int, found: dict[str, Any]) -> tuple[Any, Any]:
    """Lower and upper bounds by pdepth.certify, from what was measured while packing."""
    wide = {name: values.astype(float) for name, values in found.items() if name != "true"}
    norms, residuals = wide["support_norms"], wide["support_residuals"]
    if "differences" in by.name:
        bound = certify.Differences(by, width, norms.max())
        return bound.bounds(wide["scores"], wide["query_residuals"][:, None])
    return certify.Products.of(by, width, norms, residuals).bounds(
        wide["scores"], wide["query_norms"][:, None], wide["query_residuals"][:, None], norms
    )


def test_cpp_has_the_same_constants() -> None:
    names = ("UNIT", "LOST", "MARGIN", "SETTLEMENT", "NEGLIGIBLE")
    assert _native.constants() == {name: getattr(certify, name) for name in names}


@pytest.mark.parametrize(("level", "name"), PASSES)
def test_cpp_computes_the_same_bound(level: str, name: str) -> None:
    for _, pair in attacks(seed=1):
        found = laid_open(level, name, pair)
        lower, upper = bounds_of(pass_of(level, name), pair[0].shape[1], found)
        assert first_difference(found["lower"], lower) is None
        assert first_difference(found["upper"], upper) is None


@pytest.mark.parametrize(("level", "name"), PASSES)
def test_no_row_breaks_the_bound(level: str, name: str) -> None:
    worst = 0.0
    for seed in range(3):
        for adversary, pair in attacks(seed):
            found = laid_open(level, name, pair)
            assert (found["lower"] <= found["true"]).all(), adversary
            assert (found["true"] <= found["upper"]).all(), adversary
            worst = max(worst, float(share_of_bound(found).max()))
    assert climb(level, name, width=13, steps=200, seed=0) <= 1
    assert worst > 0.7, "the adversaries have lost their teeth: a wrong bound would pass"


@pytest.mark.parametrize(("level", "name"), PASSES)
def test_measured_norms_and_residuals_are_no_less_than_the_true_ones(level: str, name: str) -> None:
    for _, (support, queries) in attacks(seed=2):
        found = laid_open(level, name, (support, queries))
        for rows, side in ((support, "support"), (queries, "query")):
            true = np.sqrt((rows.astype(np.longdouble) ** 2).sum(axis=1))
            assert (found[f"{side}_norms"] >= true).all()


@pytest.mark.parametrize(("level", "name"), PASSES)
def test_what_is_certain_is_so(level: str, name: str) -> None:
    """Every certain neighbour is one, and every neighbour is certain or possible."""
    k, told = 10, 0
    for seed in range(5):
        support, queries = scaled(random(np.random.default_rng(seed), 64))
        found = laid_open(level, name, (support, queries))
        for i, query in enumerate(queries):
            certain, possible = certify.neighbours(found["lower"][i], found["upper"][i], k)
            near = definition.nearest(definition.squared_distances(support, query), k)
            assert set(np.flatnonzero(certain)) <= set(near.tolist())
            assert set(near.tolist()) <= set(np.flatnonzero(certain | possible))
            told += int(certain.sum())
    assert told > 5 * k * len(queries) / 2


def test_neighbours_of_exact_scores() -> None:
    scores = np.array([4.0, 1, 3, 3, 9])
    certain, possible = certify.neighbours(scores, scores, 2)
    assert certain.tolist() == [False, True, False, False, False]
    assert possible.tolist() == [False, False, True, True, False]  # a tie at the border
    assert certify.neighbours(scores, scores, 5)[0].all()


@pytest.mark.parametrize(("level", "name"), PASSES)
def test_no_score_within_reach_is_cut(level: str, name: str) -> None:
    """Whatever is proven, rows that are truly no farther are computed below the cut."""
    if "differences" in name:
        pytest.skip("the cut of products")
    for _, (support, queries) in attacks(seed=3):
        found = laid_open(level, name, (support, queries))
        norms = found["support_norms"].astype(float)
        residuals = found["support_residuals"].astype(float)
        bound = certify.Products.of(pass_of(level, name), support.shape[1], norms, residuals)
        for i in range(len(queries)):
            own = float(found["query_norms"][i]), float(found["query_residuals"][i])
            for proven in found["true"][i, ::5]:
                cut = bound.cut(*own, float(proven), norms.max())
                assert (found["scores"][i][found["true"][i] <= float(proven)] <= cut).all()
