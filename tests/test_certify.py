"""The one error bound: C++ computes what pdepth.certify says, and no row breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pdepth import _native, certify, definition, native

from helpers.adversaries import (
    attacks,
    climb,
    random,
    scaled,
    score_pair,
    share_of_bound,
    true_scores,
)
from helpers.cases import first_difference

STAGES = [
    pytest.param(level, stage["name"], id=f"{level}, {stage['name']}")
    for level, runs in native.simd_levels().items()
    if runs
    for stage in _native.filter_stages(level)
]


def stage_of(level: str, name: str) -> certify.FilterStage:
    stages = [certify.FilterStage(**stage) for stage in _native.filter_stages(level)]
    return next(stage for stage in stages if stage.name == name)


def bounds_of(stage: certify.FilterStage, width: int, scored: dict[str, Any]) -> tuple[Any, Any]:
    """Lower and upper bounds by pdepth.certify, from what was measured while packing."""
    wide = {name: values.astype(float) for name, values in scored.items() if name != "true"}
    norms, residuals = wide["support_norms"], wide["support_residuals"]
    if "differences" in stage.name:
        bound = certify.Differences(stage, width, norms.max())
        return bound.bounds(wide["scores"], wide["query_residuals"][:, None])
    return certify.Products.of(stage, width, norms, residuals).bounds(
        wide["scores"],
        wide["query_norms"][:, None],
        wide["query_residuals"][:, None],
        norms,
        residuals,
    )


def float_above(value: float) -> np.float32:
    above = np.float32(value)
    return above if float(above) > value else np.nextafter(above, np.float32(np.inf))


def test_cpp_has_the_same_constants() -> None:
    names = (
        *("UNIT", "LOST", "MARGIN", "SETTLEMENT", "NEGLIGIBLE"),
        *("ROUNDED_UP", "DOUBLE", "TURNING", "SUMMED", "ROW_ROUNDINGS"),
    )
    assert _native.constants() == {name: getattr(certify, name) for name in names}


@pytest.mark.parametrize(("level", "name"), STAGES)
def test_cpp_computes_the_same_bound(level: str, name: str) -> None:
    for _, pair in attacks(seed=1):
        scored = score_pair(level, name, pair)
        lower, upper = bounds_of(stage_of(level, name), pair[0].shape[1], scored)
        assert first_difference(scored["lower"], lower) is None
        assert first_difference(scored["upper"], upper) is None


@pytest.mark.parametrize(("level", "name"), STAGES)
def test_a_distance_has_the_score_that_certify_says(level: str, name: str) -> None:
    """To the last bit; and no less than the true one, as fractions tell."""
    stage, compared = stage_of(level, name), 0
    for _, pair in attacks(seed=2):
        scored = score_pair(level, name, pair)
        wide = [scored[side].astype(float) for side in ("query_norms", "support_norms")]
        for i, norm in enumerate(wide[0][:5]):
            for j, other in enumerate(wide[1][:5]):
                if "differences" in name:
                    differences = certify.Differences(stage, 1, 0.0)
                    score = differences.score_at(other * other)
                    said = differences.score_of_distance(1.0).at(other * other)
                    true = Fraction(other * other)
                else:
                    products = certify.Products(stage, 1, 0.0)
                    score = products.score_at(norm, other * other)
                    said = products.score_of_distance(norm, 1.0).at(other * other)
                    least = Fraction(norm) * (1 - Fraction(1, 2**19))  # norms are rounded up
                    true = (Fraction(other * other) - least * least) / 2
                assert scored["at_norm"][i, j] == score
                assert Fraction(score) >= true
                assert (scored["from_lower"][i, j], scored["from_upper"][i, j]) == said
                assert Fraction(said[0]) <= true <= Fraction(said[1])
                compared += 1
    assert compared > 100


@pytest.mark.parametrize(("level", "name"), STAGES)
def test_distances_are_within_what_bounds_of_scores_say(level: str, name: str) -> None:
    """To the last bit what certify says, for any norms and scores; and the definition's distance
    within."""
    stage, compared = stage_of(level, name), 0
    for _, pair in attacks(seed=3):
        scored = score_pair(level, name, pair)
        exact = definition.kneighbors(*pair, k=len(pair[0]))
        distances = np.empty(exact[0].shape)
        np.put_along_axis(distances, exact[1], exact[0], 1)
        assert (scored["nearest"] <= distances).all()
        assert (distances <= scored["farthest"]).all()
        assert (scored["nearest"] < scored["farthest"]).all()
        for i, norm in enumerate(scored["query_norms"][:5].astype(float)):
            if "differences" in name:
                told = certify.Differences(stage, 1, 0.0).score_of_distance(1.0)
            else:
                told = certify.Products(stage, 1, 0.0).score_of_distance(norm, 1.0)
            for j in range(5):
                said = told.distances(scored["lower"][i, j], scored["upper"][i, j])
                assert (scored["nearest"][i, j], scored["farthest"][i, j]) == said
                compared += 1
    assert compared > 100


@pytest.mark.parametrize(("level", "name"), STAGES)
def test_no_row_breaks_the_bound(level: str, name: str, of_tier: Callable[[Any, Any], Any]) -> None:
    worst = 0.0
    for seed in range(of_tier(1, 3)):
        for adversary, pair in attacks(seed):
            scored = score_pair(level, name, pair)
            assert (scored["lower"] <= scored["true"]).all(), adversary
            assert (scored["true"] <= scored["upper"]).all(), adversary
            worst = max(worst, float(share_of_bound(scored).max()))
    assert climb(level, name, width=13, steps=200, seed=0) <= 1
    assert worst > 0.7, "the adversaries have lost their teeth: a wrong bound would pass"


@pytest.mark.parametrize(("level", "name"), STAGES)
@pytest.mark.parametrize("width", [7, 387, 644, 1300, 1928, 2048])
def test_rows_are_packed_less_their_centre(level: str, name: str, width: int) -> None:
    """Far from nought and near their centre: a column too many, or one without it, would show."""
    rng = np.random.default_rng(width)
    rows = (1000 + rng.standard_normal((60, width))).astype(np.float32)
    centre = np.zeros(-(-width // 8) * 8)
    centre[:width] = rows.mean(axis=0, dtype=float)
    scored = _native.filter_scores(
        (rows[10:], "float32"), (rows[:10], "float32"), level, name, centre=centre, scale=2.0**40
    )
    moved = (rows - centre[:width]) * 2.0**40
    norms = np.linalg.norm(moved, axis=1)
    for side, exact in (("query", norms[:10]), ("support", norms[10:])):
        assert (scored[f"{side}_norms"] >= exact).all()
        assert (scored[f"{side}_norms"] <= exact * (1 + 2.0**-18)).all()
        assert (scored[f"{side}_residuals"] <= exact * 2.0 ** (-5 if name == "int8" else -8)).all()
    true = true_scores(moved[10:], moved[:10], differences="differences" in name)
    assert (scored["lower"] <= true).all()
    assert (true <= scored["upper"]).all()


@pytest.mark.parametrize(("level", "name"), STAGES)
def test_what_is_certain_is_so(level: str, name: str) -> None:
    """Every certain neighbour is one, and every neighbour is certain or possible."""
    k, count = 10, 0
    for seed in range(5):
        support, queries = scaled(random(np.random.default_rng(seed), 64))
        scored = score_pair(level, name, (support, queries))
        for i, query in enumerate(queries):
            certain, possible = certify.neighbors(scored["lower"][i], scored["upper"][i], k)
            near = definition.nearest(definition.squared_distances(support, query), k)
            assert set(np.flatnonzero(certain)) <= set(near.tolist())
            assert set(near.tolist()) <= set(np.flatnonzero(certain | possible))
            count += int(certain.sum())
    assert count > 5 * k * len(queries) / 2


def test_neighbours_of_exact_scores() -> None:
    scores = np.array([4.0, 1, 3, 3, 9])
    certain, possible = certify.neighbors(scores, scores, 2)
    assert certain.tolist() == [False, True, False, False, False]
    assert possible.tolist() == [False, False, True, True, False]  # a tie at the border
    assert certify.neighbors(scores, scores, 5)[0].all()


@pytest.mark.parametrize(("level", "name"), STAGES)
def test_no_score_within_reach_is_cut(level: str, name: str) -> None:
    """C++'s cut is that of pdepth.certify, and spares every row as near as is proven."""
    for _, (support, queries) in attacks(seed=3):
        scored = score_pair(level, name, (support, queries))
        norms, residuals, own_norms, own_residuals = (
            scored[f"{side}_{what}"].astype(float)
            for side in ("support", "query")
            for what in ("norms", "residuals")
        )
        stage, width = stage_of(level, name), support.shape[1]
        for i in range(len(queries)):
            within = scored["true"][i] <= scored["lower"][i][:, None]  # [proven, row]
            spared = scored["scores"][i] < scored["cuts"][i][:, None]
            assert (spared | ~within).all()
            for proven, cut in zip(scored["lower"][i][::9], scored["cuts"][i][::9], strict=True):
                if "differences" in name:
                    bound = certify.Differences(stage, width, norms.max())
                    value = bound.cut(own_residuals[i], float(proven))
                else:
                    products = certify.Products.of(stage, width, norms, residuals)
                    value = products.cut(own_norms[i], own_residuals[i], float(proven), norms.max())
                assert cut == float_above(value)


BY_ROW = [stage for stage in STAGES if stage.values[1] == "int8"]


@pytest.mark.parametrize(("level", "name"), BY_ROW)
@pytest.mark.parametrize("products", [False, True])
def test_no_row_within_reach_is_left_out(level: str, name: str, *, products: bool) -> None:
    """Errors are taken off row by row: no row as near as is proven is lost, and fewer are listed.

    The cut is that of pdepth.certify, to the last bit.
    """
    spared = listed = 0
    for _, (support, queries) in attacks(seed=4):
        width = support.shape[1]
        if products:
            centre = np.zeros(-(-width // 8) * 8)
            scored = _native.filter_scores(
                (support, "float64"), (queries, "float64"), level, name, centre=centre,
                inner_products=True,
            )  # fmt: skip
            true = -(queries.astype(np.longdouble) @ support.astype(np.longdouble).T)
        else:
            scored = score_pair(level, name, (support, queries))
            true = scored["true"]
        norms, residuals, own_norms, own_residuals = (
            scored[f"{side}_{what}"].astype(float)
            for side in ("support", "query")
            for what in ("norms", "residuals")
        )
        bound: Any = certify.Products.of(stage_of(level, name), width, norms, residuals)
        bound = certify.InnerProducts(bound, 0.0) if products else bound
        for i in range(len(queries)):
            proven = scored["lower"][i]
            within = true[i] <= proven[:, None]
            assert (scored["listed"][i].astype(bool) | ~within).all()
            for j in range(0, len(support), 9):
                value = bound.row_cut(own_norms[i], own_residuals[i], float(proven[j]), norms.max())
                assert scored["row_cuts"][i, j] == float_above(value)
            spared += int((scored["scores"][i] < scored["cuts"][i][:, None]).sum())
            listed += int(scored["listed"][i].sum())
    assert 0 < listed < spared


PRODUCTS = [stage for stage in STAGES if "differences" not in str(stage.values[1])]


@pytest.mark.parametrize(("level", "name"), PRODUCTS)
@pytest.mark.parametrize("shift", [0.0, 0.3, 30.0])
def test_bounds_of_inner_products(level: str, name: str, shift: float) -> None:
    """They hold for adversarial rows around a centre near or far, and are those of certify."""
    stage = stage_of(level, name)
    worst = 0.0
    for adversary, (support, queries) in attacks(seed=1):
        width = support.shape[1]
        centre = np.zeros(-(-width // 8) * 8)
        direction = np.random.default_rng(width).standard_normal(width)
        length = np.linalg.norm(support, axis=1).max() / np.linalg.norm(direction)
        centre[:width] = shift / 64 * length * direction
        if shift:  # of a query at the centre, the offset's own rounding is all there is
            queries[::2] = centre[:width] + queries[::2] * 2.0**-30
        scored = _native.filter_scores(
            (support, "float64"), (queries, "float64"), level, name, centre=centre,
            inner_products=True,
        )  # fmt: skip
        y = support.astype(np.longdouble) - centre[:width]
        true = -(queries.astype(np.longdouble) @ y.T)  # -(m + x - m).(y - m)
        assert (scored["lower"] <= true).all(), adversary
        assert (true <= scored["upper"]).all(), adversary
        worst = max(worst, float(share_of_bound({**scored, "true": true}).max()))
        norms, residuals, own_norms, own_residuals = (
            scored[f"{side}_{what}"].astype(float)
            for side in ("support", "query")
            for what in ("norms", "residuals")
        )
        products = certify.Products.of(stage, width, norms, residuals)
        square = 0.0
        for value in centre[:width]:
            square += value * value
        bound = certify.InnerProducts(products, math.sqrt(square))
        lower, upper = bound.bounds(
            scored["scores"].astype(float),
            own_norms[:, None],
            own_residuals[:, None],
            norms,
            residuals,
        )
        assert (scored["lower"] == lower).all()
        assert (scored["upper"] == upper).all()
        for i in range(len(queries)):
            spared = scored["scores"][i] < scored["cuts"][i][:, None]
            assert (spared | ~(true[i] <= scored["lower"][i][:, None])).all()
            value = bound.cut(
                own_norms[i], own_residuals[i], float(scored["lower"][i][0]), norms.max()
            )
            assert scored["cuts"][i][0] == float_above(value)
    expected = 0.02 if stage.norms_first else 0.3
    assert worst > expected, "the adversaries have lost their teeth: a wrong bound would pass"
