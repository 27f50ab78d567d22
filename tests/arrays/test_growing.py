"""Rows that grow: what was returned before stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdepth.arrays.growing import GrowingRows
from pdepth.arrays.rows import Rows, rows_of

from helpers.torch_or_skip import torch

VALUES = np.arange(60.0, dtype=np.float32).reshape(20, 3)


@pytest.mark.parametrize("copy", [True, False])
def test_rows_follow_each_other(copy: bool) -> None:
    given = VALUES[:4].copy()
    growing = GrowingRows(rows_of(given, "rows"), copy=copy)
    assert np.shares_memory(growing.first(4).array, given) != copy
    returned = [growing.first(4)]
    for begin in range(4, 20, 2):
        returned.append(growing.append(begin, rows_of(VALUES[begin : begin + 2], "rows")))
    for count, rows in zip(range(4, 21, 2), returned, strict=True):
        assert (rows.array == VALUES[:count]).all()
        assert rows.type == "float32"
    assert (given == VALUES[:4]).all()
    assert len({rows.array.ctypes.data for rows in returned}) < 7  # of nine: there was room


def test_rows_of_an_addition_that_came_to_nothing_are_written_over() -> None:
    growing = GrowingRows(rows_of(VALUES[:8], "rows"), copy=True)
    growing.append(8, rows_of(VALUES[:4], "rows"))
    assert (growing.append(8, rows_of(VALUES[8:10], "rows")).array == VALUES[:10]).all()


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_tensors_and_arrays_follow_each_other(kind: str) -> None:
    """As on a device: bfloat16 is bits in NumPy's memory, and numbers in torch's."""
    tensor = torch.from_numpy(VALUES).to(getattr(torch, kind))
    there, here = Rows(tensor, kind), rows_of(tensor, "rows")
    assert isinstance(here.array, np.ndarray)
    first: Any
    for first, rest in ((there, here), (here, there), (there, there), (here, here)):
        grown = GrowingRows(first[:5], copy=True).append(5, rest[5:])
        assert grown.on_device == first.on_device
        assert (grown.widened() == VALUES).all()
