"""Distances as the definition sums them, and all of them for queries that no filter serves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pdepth import definition
from pdepth.backends import triton as backend

from helpers.cases import cast, first_difference
from helpers.device import DEVICE, numbers, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.kernels import complete, exact

pytestmark = pytest.mark.usefixtures("poisoned")


def agree(width: int, dtype: str = "float32") -> None:
    """Check that the kernel's distances of rows so wide are its twin's and the definition's."""
    rng = np.random.default_rng(width)
    x, y = (on_device(cast(30 * rng.standard_normal((n, width)), dtype)) for n in (1, 3))
    result = complete.distances(
        x, numbers(1), y, torch.zeros(3, dtype=torch.bool, device=DEVICE),
        torch.full((1,), -1, device=DEVICE), 0, 3,
    )  # fmt: skip
    assert torch.equal(result, complete.distances_reference(x, y))
    expected = [
        definition.squared_distances(y.double().cpu().numpy(), query)
        for query in x.double().cpu().numpy()
    ]
    assert first_difference(result.cpu(), np.stack(expected)) is None, (width, dtype)


@pytest.mark.slow
def test_exact_ways_agree_with_one_another() -> None:
    for width in (1, 2, 127, 128, 129, 1000, 1025):
        for dtype in ("float32", "bfloat16", "float16", "float64", "uint8", "int64"):
            agree(width, dtype)
    agree(2049)
    agree(20_011)


@pytest.mark.slow
@pytest.mark.parametrize("shape", exact.SHAPES[2:], ids=str)
def test_the_folds_of_the_widest_rows(shape: exact.Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of narrower ones: what they have beyond the others is halvings that a row may lack."""
    monkeypatch.setattr(exact, "SHAPES", (shape,))
    for width in (1, 33, 129, 2049, 5001):
        agree(width)


@pytest.mark.parametrize("halvings", [7, 8])
def test_rows_of_any_number_of_halvings(halvings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold whose loops make two halvings each, and one of which one makes a single one."""
    shape = exact.Fold(2, 2, halvings)
    monkeypatch.setattr(exact, "SHAPES", (shape,))
    for made in range(1, halvings + 1):
        agree((shape.lanes << made) - 1)
        agree((shape.lanes << (made - 1)) + 1)


@pytest.mark.slow
def test_a_row_that_needs_such_a_fold() -> None:
    agree(140_001)


@pytest.mark.slow_if(width=[300])
@pytest.mark.parametrize("width", [1, 2, 5, 16, 129, 300])
def test_a_fold_takes_each_term_once(width: int) -> None:
    """Each row has its one in another column."""
    result = complete.distances(
        torch.zeros(1, width, device=DEVICE), numbers(1), torch.eye(width, device=DEVICE),
        torch.zeros(width, dtype=torch.bool, device=DEVICE),
        torch.full((1,), -1, device=DEVICE), 0, width,
    )  # fmt: skip
    assert (result == 1).all()


def test_every_width_has_a_fold() -> None:
    """Whose lanes have room for what is left after the halvings that it makes."""
    for width in (1, 128, 129, 65_536, 131_072, 131_073, 1 << 24, (1 << 24) + 1, 1 << 26):
        by, made = exact.fold(width), exact.halvings(width)
        assert -(-width // 2**made) <= by.lanes
        assert made <= by.halvings
