"""The kernels in turn, and the vote."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pdepth import definition
from pdepth.backends import triton as backend

from helpers.cases import activations, first_difference
from helpers.device import DEVICE, numbers, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.kernels import filter, search

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.slow
@pytest.mark.usefixtures("large_supports")
def test_queries_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one tile's, with room for the lists of one: of layers that settle apart."""
    small = [replace(tile, queries=16) for tile in filter.NARROW]
    monkeypatch.setattr(filter, "NARROW", small)
    monkeypatch.setattr(filter, "WIDE", replace(filter.WIDE, queries=16))
    rng = np.random.default_rng(22)
    labels = rng.integers(0, 4, 90)
    layers = [on_device(activations(rng, 90, width).astype("f4")) for width in (20, 200)]
    rows, device = numbers(90).repeat(2)[75:93], {"device": DEVICE}
    votes = torch.empty((2, 18), dtype=torch.int32, **device)
    tied = torch.empty((2, 18), dtype=torch.bool, **device)
    codes = torch.from_numpy(labels.astype("i4")).to(DEVICE)
    made = search.Search(layers, layers, rows, rows, codes, 5, scratch=0)
    made.answer([search.Answer(votes=v, tied=t) for v, t in zip(votes, tied, strict=True)])
    for layer, own, ties in zip(layers, votes.cpu(), tied.cpu(), strict=True):
        expected = definition.probe_votes(layer.cpu(), labels, query_rows=rows.cpu().numpy(), k=5)
        assert first_difference(own, expected.votes) is None
        assert first_difference(ties, expected.tied) is None


def test_majority_counts_as_the_definition() -> None:
    codes = np.random.default_rng(12).integers(0, 4, (200, 7))
    counts = np.stack([np.bincount(row, minlength=4) for row in codes])
    votes, tied = search.majority(torch.from_numpy(codes))
    expected = definition.majority(counts)
    assert first_difference(votes, expected[0]) is None
    assert first_difference(tied, expected[1]) is None
