"""Distances in float32: what their sums lose, and what of a score they prove."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pdepth import certify
from pdepth.backends import triton as backend

from helpers import adversaries
from helpers.device import DEVICE, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

import triton
import triton.language as tl

from pdepth.kernels import rescore

pytestmark = pytest.mark.usefixtures("poisoned")


@triton.jit
def distances_kernel(x, y, to, rows, width, PAIRS: tl.constexpr, LANES: tl.constexpr):
    number = tl.arange(0, PAIRS)
    there = number < rows
    distance = rescore.distances(x, y + number * width, there, width, PAIRS, LANES)
    tl.store(to + number, distance, mask=there)


@triton.jit
def bounds_kernel(distances, norms, scale, width, to, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    norm = tl.load(norms + place).to(tl.float64)
    distance = tl.load(distances + place)
    lower, upper = rescore.lower_and_upper(distance, width, tl.load(scale), norm)
    tl.store(to + place, lower)
    tl.store(to + SIZE + place, upper)
    tl.store(to + 2 * SIZE + place, rescore.spread(norm))


def distances(query: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """(M,) of the kernel's own function."""
    to = torch.empty(len(support), dtype=torch.float64, device=DEVICE)
    distances_kernel[(1,)](
        query, support, to, *support.shape, PAIRS=64, LANES=rescore.LANES.value, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip
    return to


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.uint8, torch.int64])
@pytest.mark.parametrize("width", [129, 256, 300, 1100])
def test_distances_are_those_of_their_twin(width: int, kind: torch.dtype) -> None:
    """Sections lose the same, and in float64 nothing is lost; of rows of two types too."""
    rng = np.random.default_rng(width)
    x, y = (on_device(rng.uniform(1, 90, (n, width))).to(kind) for n in (1, 9))
    assert torch.equal(distances(x[0], y), rescore.reference(x, y)[0])
    x = x.double() + 1e-9
    assert torch.equal(distances(x[0], y), rescore.reference(x, y)[0])


def proven(distances: torch.Tensor, norm: float, scale: float, width: int) -> Any:
    """(3, n): lower and upper bounds of scores, and how far they may be apart from others'."""
    size = 1024
    given = torch.zeros(size, dtype=torch.float64, device=DEVICE)
    given[: distances.numel()] = distances.flatten()
    to = torch.empty((3, size), dtype=torch.float64, device=DEVICE)
    bounds_kernel[(1,)](
        given, torch.full((size,), norm, device=DEVICE),
        torch.tensor([scale], dtype=torch.float64, device=DEVICE), width, to, SIZE=size,
    )  # fmt: skip
    return to[:, : distances.numel()].unflatten(1, distances.shape).cpu().numpy()


def shares(pair: tuple[Any, Any]) -> Any:
    """Error / bound of each distance: above 1 the bound is broken."""
    support, queries = (np.asarray(rows, np.float32).astype(np.float64) for rows in pair)
    found = rescore.reference(*(torch.from_numpy(rows).float() for rows in (queries, support)))
    true = adversaries.true_scores(support, queries, differences=True)
    lower, upper, _ = 2 * proven(found, 0.0, 1.0, support.shape[1])
    scores = found.numpy()
    held = np.isfinite(scores)  # the others prove nothing
    bound = certify.Differences(rescore.SUMS, support.shape[1], 0.0)
    for mine, other in zip(
        (lower, upper), bound.bounds(scores[held], 0 * scores[held]), strict=True
    ):
        np.testing.assert_allclose(mine[held], other, rtol=1e-13, atol=1e-300)
    scored = {"true": true, "scores": scores, "lower": lower, "upper": upper}
    return adversaries.share_of_bound({name: each[held] for name, each in scored.items()})


def test_rows_made_for_it_come_near_the_bound_and_none_breaks_it() -> None:
    """A bound four times smaller would be broken."""
    sizes = rescore.LANES.value, rescore.SECTION.value
    made = [adversaries.lost_sections(width, *sizes) for width in (256, 300, 1300)]
    worst = max(shares(pair).max() for pair in made)
    assert 0.5 < worst <= 1
    for seed in range(2):
        for name, pair in adversaries.attacks(seed):
            assert shares(pair).max() <= 1, name


def test_what_a_distance_proves_of_a_score() -> None:
    """Whatever the query's norm is within what its measurement leaves open."""
    rng = np.random.default_rng(2)
    width, scale, size = 700, 2.0**7, 60
    query = rng.standard_normal(width).astype("f4")
    support = (
        query + rng.standard_normal((size, width)) * 2.0 ** rng.uniform(-9, 3, (size, 1))
    ).astype("f4")
    found = rescore.reference(torch.from_numpy(query[None]), torch.from_numpy(support))
    wide = [rows.astype(np.longdouble) * scale for rows in (query, support)]
    squares = (wide[0] ** 2).sum()
    true = (((wide[1] - wide[0]) ** 2).sum(axis=1) - squares) / 2
    for share in (0.0, 0.5, 1.0):
        norm = np.float32(float(np.sqrt(squares)) / (1 - share * certify.ROUNDED_UP))
        norm = np.nextafter(norm, np.float32(0)) if share else np.nextafter(norm, np.float32(1e9))
        lower, upper, spread = proven(found[0], float(norm), scale, width)
        apart = (np.longdouble(norm) ** 2 - squares) / 2  # the same of all rows
        assert (lower <= true - apart).all()
        assert (true - apart <= upper).all()
        assert (apart >= 0).all()
        assert (apart <= spread).all()
        assert ((upper - lower) < 1e-5 * (true + squares / 2 + 1)).all()
