"""Scores and their bounds, and the rows that join a query's list."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdepth import certify
from pdepth.backends import triton as backend

from helpers.device import DEVICE, numbers, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.kernels import bundles, differences, filter, lists, prepare

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize(
    ("width", "tile"),
    [
        (20, filter.NARROW[0]),
        (20, filter.WIDE),
        (64, filter.NARROW[0]),
        (100, filter.NARROW[1]),
        (250, filter.NARROW[2]),
        (250, filter.WIDE),
        (300, filter.LARGE),
        (1100, filter.WIDE),
        (2500, filter.WIDE),
        (4000, filter.LARGE),
    ],
)
def test_scores_are_within_the_bound_of_their_twin(width: int, tile: filter.Tile) -> None:
    """With a cut that nothing misses, the lists hold every score."""
    rng = np.random.default_rng(width)
    sums = filter.sums_of(tile)
    queries, support = (
        _packed(rng.standard_normal((n, width)) * 50, sums.columns(width)) for n in (128, 512)
    )
    halves = (support.double() ** 2).sum(dim=1) / 2
    candidates = lists.Lists(1, 128, 512, DEVICE)
    table = torch.tensor([[sums.columns(width) // tile.columns, 0, 0]], device=DEVICE)
    filter.scan(
        queries.flatten(), support.flatten(), halves.float()[None], candidates,
        bundles.Bundles(candidates, tile.bundle), table, tile, first=256, rows=256,
    )  # fmt: skip
    assert (candidates.sizes == 256).all()
    keys = candidates.keys[0, :, :256].sort(dim=1).values
    assert torch.equal(
        keys.bitwise_and(2**31 - 1).sort(dim=1).values[0].cpu(), numbers(512)[256:].cpu()
    )
    expected = filter.scan_reference(queries, support[256:], halves[256:].float())
    bound = certify.Products(sums, width, 0.0, prepare.NEGLIGIBLE)
    for i in range(128):
        place = (keys[i] & (2**31 - 1)) - 256
        off = (lists.scores_of(keys[i]) - expected[i, place]).abs().cpu().numpy()
        norms = support[256:].double().norm(dim=1)[place].cpu().numpy()
        norm = np.float64(queries[i].double().norm().item())
        assert (off <= bound.error(norm, np.float64(0), norms)).all()


@pytest.mark.slow_if(size=[4, 8])
@pytest.mark.slow_if(width=[300])
@pytest.mark.parametrize("width", [20, 300])
@pytest.mark.parametrize("size", [4, 8, 16])
def test_by_bundles_the_same_rows_join_a_list_as_one_by_one(width: int, size: int) -> None:
    """From nothing to more than there is room for, of rows and of bundles; twice, so that lists
    carry over."""
    rng = np.random.default_rng(size)
    tile = dataclasses.replace(filter.tile_for(width, DEVICE), bundle=size)
    columns = filter.sums_of(tile).columns(width)
    queries, support = (_packed(rng.standard_normal((n, width)), columns) for n in (128, 1024))
    halves = (support.float() ** 2).sum(dim=1) / 2
    scores = filter.scan_reference(queries, support, halves).cpu()
    cuts = rng.permutation(np.quantile(scores, np.linspace(0, 1, 128) ** 4))
    halves[rng.integers(0, 1024, 30)] = math.inf  # as of equal rows, which never vote
    table = torch.tensor([[columns // tile.columns, 0, 0]], device=DEVICE)
    room = 32  # fewer than the bundles of the second chunk
    both = [lists.Lists(1, 128, room, DEVICE) for _ in range(2)]
    for own, by in zip(both, (bundles.Bundles(both[0], size), None), strict=True):
        own.cuts[0] = torch.from_numpy(cuts.astype("f4")).to(DEVICE)
        own.cuts[0, 5] = -math.inf
        shape = tile if by else dataclasses.replace(tile, bundle=1)
        for first, rows in ((0, 256), (256, 768)):
            filter.scan(
                queries.flatten(), support.flatten(), halves[None], own, by, table, shape,
                first=first, rows=rows,
            )  # fmt: skip
    by_bundles, singly = both
    sizes = singly.sizes[0].clamp(max=room + 1)
    assert torch.equal(by_bundles.sizes[0].clamp(max=room + 1), sizes)
    assert sizes[5] == 0
    assert (sizes > room).any()
    assert len(sizes.unique()) > 10
    for query in (sizes <= room).nonzero()[:, 0].tolist():
        keys = [own.keys[0, query, : sizes[query]].sort().values for own in both]
        assert torch.equal(*keys)


def test_a_list_that_lost_a_bundle_counts_as_overflowed() -> None:
    """Even where the bundles that have a place fill it to the last row, and no more."""
    room = 16
    candidates = lists.Lists(1, 2, room, DEVICE)
    candidates.cuts[:] = 0.0
    by = bundles.Bundles(candidates, 8)
    by.firsts[:] = 100 * numbers(room)
    by.members[:] = 1.0
    by.members[..., 3] = -1.0  # one row of each bundle passes
    by.counts[0] = torch.tensor([room, room + 1], device=DEVICE)
    by.unpack(candidates, 5)
    assert candidates.sizes[0].tolist() == [room, room + 1]
    assert (candidates.keys[0, 0] & (2**31 - 1)).tolist() == [100 * i + 15 for i in range(room)]
    assert not by.counts.any()


def test_differences_are_their_twin() -> None:
    rng = np.random.default_rng(10)
    queries, support = (on_device(rng.standard_normal((n, 23))) for n in (5, 100))
    order = torch.from_numpy(rng.permutation(100)).to(DEVICE)
    left_out = torch.zeros(100, dtype=torch.bool, device=DEVICE)
    left_out[17] = True
    scale = torch.tensor([4.0], dtype=torch.float64, device=DEVICE)
    candidates = lists.Lists(1, 32, 512, DEVICE)
    candidates.cuts[:, 5:] = -math.inf
    differences.scan(
        queries, numbers(5), support, order, left_out, scale, candidates, first=0, rows=100
    )
    assert candidates.sizes[0].tolist() == [99] * 5 + [0] * 27
    expected = differences.scan_reference(queries, support, 4.0).float()
    for i in range(5):
        key = candidates.keys[0, i, :99]
        rows = order[key & (2**31 - 1)]
        assert 17 not in rows.tolist()
        scores = (key >> 32).to(torch.int32).view(torch.float32)
        assert ((scores - expected[i, rows]).abs() <= 2.0**-23 * expected[i, rows]).all()


def _packed(values: NDArray[Any], columns: int) -> torch.Tensor:
    packed = torch.zeros((len(values), columns), dtype=torch.float16, device=DEVICE)
    packed[:, : values.shape[1]] = torch.from_numpy(values).half()
    return packed
