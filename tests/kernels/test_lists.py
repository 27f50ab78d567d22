"""A query's list of candidates and its cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pdepth import certify
from pdepth.backends import triton as backend

from helpers.device import DEVICE

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.kernels import bounds, filter, lists, prepare

pytestmark = pytest.mark.usefixtures("poisoned")


def test_a_list_is_tightened_as_its_twin_says() -> None:
    rng = np.random.default_rng(11)
    norms = torch.from_numpy(rng.uniform(1, 9, (1, 400)).astype("f4")).to(DEVICE)
    scores = torch.from_numpy(rng.standard_normal((1, 3, 300)).astype("f4")).to(DEVICE)
    sums = filter.sums_of(filter.WIDE)
    bound = certify.Products(sums, 700, 3e-4, prepare.NEGLIGIBLE)
    largest = float(norms.max())
    vector = bounds_of(bound, largest)
    candidates = lists.Lists(1, 3, 512, DEVICE)
    candidates.keys[:, :, :300] = keys_of(scores)
    candidates.sizes[:] = torch.tensor([300, 20, 600], device=DEVICE)
    candidates.selves[0, 0] = scores[0, 0].argmin()
    queries = torch.tensor([[2.0, 3.0, 4.0]], device=DEVICE)
    residuals = torch.tensor([[2e-4, 0.0, 0.0]], device=DEVICE)
    candidates.tighten(30, queries, residuals, norms, vector, differences=False)
    kept = np.delete(np.arange(300), int(scores[0, 0].argmin()))
    cut = lists.tighten_reference(
        scores[0, 0, kept].cpu(), norms[0, kept].cpu(), bound, 2.0, float(residuals[0, 0]),
        largest, 30,
    )  # fmt: skip
    assert cut < float(candidates.cuts[0, 0]) <= np.nextafter(np.float32(cut), np.float32(9))
    stays = kept[(scores[0, 0, kept] < candidates.cuts[0, 0]).cpu().numpy()]
    assert 30 <= len(stays) < 60
    size = int(candidates.sizes[0, 0])
    assert sorted((candidates.keys[0, 0, :size] & (2**31 - 1)).tolist()) == stays.tolist()
    assert float(candidates.cuts[0, 1]) == math.inf  # fewer than k prove nothing
    assert int(candidates.sizes[0, 1]) == 20
    assert candidates.given_up()[0].tolist() == [False, False, True]


def test_cuts_of_inner_products() -> None:
    """Those of `certify.InnerProducts`, whose rows may be as long as the longest."""
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(rng.standard_normal(200).astype("f4"))
    norms = torch.from_numpy(rng.uniform(1, 9, (1, 200)).astype("f4"))
    products = certify.Products(filter.sums_of(filter.WIDE), 700, 3e-4, prepare.NEGLIGIBLE)
    bound, largest = certify.InnerProducts(products, 5.0), float(norms.max())
    candidates = lists.Lists(1, 1, 512, DEVICE)
    candidates.keys[0, 0, :200] = keys_of(scores).to(DEVICE)
    candidates.sizes[:] = 200
    query = torch.tensor([[2.0]], device=DEVICE)
    vector = bounds_of(products, largest)
    vector[:, bounds.CENTRE.value] = 5.0
    candidates.tighten(30, query, 0 * query, norms.to(DEVICE), vector, differences=False)
    cut = lists.tighten_reference(scores, norms[0], bound, 2.0, 0.0, largest, 30)
    found = float(candidates.cuts[0, 0])
    assert cut < found <= np.nextafter(np.float32(cut), np.float32(99))
    assert cut > lists.tighten_reference(scores, norms[0], products, 2.0, 0.0, largest, 30)


@pytest.mark.parametrize("k", [1, 30, 60])
@pytest.mark.parametrize("part", [1 / 4, 1 / 2, 1])
@pytest.mark.parametrize("beyond", [0, 1])
def test_lists_of_any_length(k: int, part: float, beyond: int) -> None:
    """Usual ones, and longer than those; equal scores among them."""
    rng = np.random.default_rng(k)
    capacity = lists.capacity_for(k)
    size = min(capacity, int(part * capacity) + beyond)
    values = rng.integers(-9, 9, size) if beyond else rng.standard_normal(size)
    scores = torch.from_numpy(values.astype("f4"))
    norms = torch.from_numpy(rng.uniform(1, 9, (1, capacity)).astype("f4"))
    bound = certify.Products(filter.sums_of(filter.WIDE), 700, 3e-4, prepare.NEGLIGIBLE)
    largest = float(norms.max())
    candidates = lists.Lists(1, 1, capacity, DEVICE)
    candidates.keys[0, 0, :size] = keys_of(scores).to(DEVICE)
    candidates.sizes[:] = size
    query = torch.tensor([[2.0]], device=DEVICE)
    candidates.tighten(
        k, query, query * 1e-4, norms.to(DEVICE), bounds_of(bound, largest), differences=False
    )
    residual = float(np.float32(2.0) * np.float32(1e-4))
    cut = lists.tighten_reference(scores, norms[0, :size], bound, 2.0, residual, largest, k)
    found = float(candidates.cuts[0, 0])
    assert cut < found <= np.nextafter(np.float32(cut), np.float32(99))
    left = candidates.keys[0, 0, : int(candidates.sizes[0, 0])] & (2**31 - 1)
    assert sorted(left.tolist()) == (scores < found).nonzero()[:, 0].tolist()


def bounds_of(bound: certify.Products, largest: float) -> torch.Tensor:
    vector = bounds.of_products(bound)
    vector[bounds.LARGEST.value] = largest
    return vector[None].to(DEVICE)


def keys_of(scores: torch.Tensor) -> torch.Tensor:
    bits = scores.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | torch.arange(scores.shape[-1], device=scores.device)
