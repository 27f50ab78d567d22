"""What each layer gets before the filter: a centre, packed rows, equal rows left out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pdepth.backends import triton as backend

from helpers.cases import DTYPES, cast
from helpers.device import DEVICE, numbers, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.kernels import centre, duplicates, prepare
from pdepth.kernels.stack import Stack

pytestmark = pytest.mark.usefixtures("poisoned")


def test_prepare_is_its_twin() -> None:
    rng = np.random.default_rng(6)
    widths, columns = (70, 9), (128, 64)
    for dtype in DTYPES:
        layers = [on_device(cast(rng.standard_normal((40, width)) * 3, dtype)) for width in widths]
        order = torch.from_numpy(rng.permutation(40)[:33]).to(DEVICE)
        centres = [rows.double().mean(dim=0) for rows in layers]
        scales = torch.tensor([2.0**9, 2.0**8], dtype=torch.float64, device=DEVICE)
        packed, *known = _prepared(layers, order, torch.cat(centres), scales, columns, 64)
        for i, wide in enumerate(widths):
            expected, norm, residual = prepare.prepare_reference(
                layers[i], order, centres[i], scales[i]
            )
            half_norms, norms, residuals = (each[i] for each in known)
            assert torch.equal(packed[i][:33, :wide], expected)
            assert not packed[i][33:].any()
            assert not packed[i][:, wide:].any()
            for rounded, least in ((norms, norm), (residuals, residual)):
                assert (rounded[:33] >= least).all()
                assert (rounded[:33] <= least * (1 + 2.0**-18)).all()
            assert ((half_norms[:33] - norm**2 / 2).abs() <= 2.0**-23 * norm**2).all()
            assert (half_norms[33:] == math.inf).all()


def _prepared(
    layers: list[torch.Tensor],
    order: torch.Tensor,
    centres: torch.Tensor,
    scales: torch.Tensor,
    columns: tuple[int, ...],
    padded: int,
) -> list[Any]:
    """Packed rows of each layer; half norms, norms and residuals of all."""
    packed = torch.empty(padded * sum(columns), dtype=torch.float16, device=DEVICE)
    known = torch.empty((3, len(layers), padded), dtype=torch.float32, device=DEVICE)
    widths = [rows.shape[1] for rows in layers]
    places = [
        [columns[i] // prepare.BLOCK, padded * sum(columns[:i]), sum(widths[:i])]
        for i in range(len(layers))
    ]
    prepare.prepare(
        Stack(layers), order, torch.tensor(places, device=DEVICE), centres, scales, packed, *known
    )
    layers_packed = packed.split([padded * count for count in columns])
    return [[rows.view(padded, -1) for rows in layers_packed], *known]


def test_what_float16_cannot_hold_has_an_infinite_norm() -> None:
    rows = torch.tensor([[1.0, 2.0], [1e9, 1.0]], device=DEVICE)
    nothing = torch.zeros(2, dtype=torch.float64, device=DEVICE)
    one = torch.ones(1, dtype=torch.float64, device=DEVICE)
    norms = _prepared([rows], numbers(2), nothing, one, (64,), 16)[2]
    assert norms[0, 0] < 3
    assert norms[0, 1] == math.inf


@pytest.mark.slow
def test_centres_are_their_twin() -> None:
    """Of ordinary rows in the sample; nought where rows need no rounding as they are."""
    rng = np.random.default_rng(20)
    order = torch.from_numpy(rng.permutation(1100)).to(DEVICE)
    for dtype in DTYPES:
        layers = [cast(rng.uniform(1, 99, (1100, width)), dtype) for width in (70, 3, 129)]
        stack = Stack([on_device(each) for each in layers])
        for rows in stack.layers[:2]:
            rows[order[:9]] *= 0
            if dtype not in ("uint8", "int8"):
                rows[order[10]] = 30_000
        centres = centre.centres(stack, order, torch.tensor([0, 70, 73], device=DEVICE))
        for rows, own in zip(stack.layers, centres.split(stack.widths), strict=True):
            expected = centre.centre_reference(rows[order[: centre.SAMPLE]])
            if rows.dtype.itemsize == 1 or dtype in ("float16", "bfloat16"):
                assert not own.any()
            else:
                assert torch.allclose(own, expected, rtol=1e-12)


@pytest.mark.slow
def test_surplus_and_largest_are_their_twins() -> None:
    rng = np.random.default_rng(9)
    for dtype in DTYPES:
        layers = [
            on_device(cast(rng.integers(0, 2, (90, width)).astype(float), dtype))
            for width in (4, 3)
        ]
        layers[1][7] = -100 if layers[1].dtype.is_signed else 200
        for keep in (1, 3, 50):
            surplus, largest = duplicates.surplus(Stack(layers), keep)
            assert largest.tolist() == [each.double().abs().max() for each in layers]
            for own, each in zip(surplus, layers, strict=True):
                assert torch.equal(own, duplicates.surplus_reference(each, keep))
                assert own.any() == (keep < 50)
