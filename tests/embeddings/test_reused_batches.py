"""Loaders whose batches lie in one buffer, filled again for each: the depths of batches apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pdepth

from helpers.cases import first_difference

ROWS, SIZE = 120, 10
DATA = TensorDataset(
    torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0)), torch.arange(ROWS) % 3
)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        values, labels = torch.empty(SIZE, 6), torch.empty(SIZE, dtype=torch.long)
        for begin in range(0, ROWS, SIZE):
            values.copy_(DATA.tensors[0][begin : begin + SIZE])
            labels.copy_(DATA.tensors[1][begin : begin + SIZE])
            yield values, labels


class Map(Dataset[Any]):
    def __init__(self) -> None:
        self.values, self.labels = torch.empty(SIZE, 6), torch.empty(SIZE, dtype=torch.long)

    def __len__(self) -> int:
        return ROWS // SIZE

    def __getitem__(self, number: int) -> Any:
        rows = slice(number * SIZE, (number + 1) * SIZE)
        self.values.copy_(DATA.tensors[0][rows])
        self.labels.copy_(DATA.tensors[1][rows])
        return self.values, self.labels


@pytest.mark.parametrize("kind", [Stream, Map])
@pytest.mark.parametrize("options", [{}, {"memory": "60kB"}])
def test_depths_of_batches_in_one_buffer(kind: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    settings = {"k": 5, "progress": False, "early_exit": False, **options}
    expected = pdepth.prediction_depth(network, DATA, batch_size=SIZE, **settings)
    result = pdepth.prediction_depth(network, DataLoader(kind(), batch_size=None), **settings)
    for name in ("labels", "predictions", "votes", "depth"):
        difference = first_difference(getattr(result, name), getattr(expected, name))
        assert difference is None, name
