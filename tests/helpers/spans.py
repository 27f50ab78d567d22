"""A small network and its data, whose depths are the same in any memory and after any cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from pdepth.depth import prediction_depth

from helpers.same import same_map, same_neighbors

K, BATCH = 5, 16
WIDTHS = (6, 40, 30, 20, 3)
ROW = 4 * sum(WIDTHS)  # bytes of a row at all probes
DRY_RUNS = 4  # of three rows: what runs, its values, its scores again, and the queries' values
DRY_ROWS = 3 * DRY_RUNS


def blobs(rows: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    x = torch.randn(rows, 6, generator=generator) + 1.2 * nn.functional.one_hot(labels, 6)
    return TensorDataset(x, labels)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 40), nn.ReLU(inplace=True), nn.Linear(40, 30), nn.ReLU(inplace=True),
        nn.Linear(30, 20), nn.ReLU(inplace=True), nn.Linear(20, 3),
    )  # fmt: skip


SUPPORT, QUERIES = blobs(150), blobs(70, seed=1)


def depth(support: Any = SUPPORT, queries: Any = None, model: Any = None, **options: Any) -> Any:
    settings = {"k": K, "progress": False, "batch_size": BATCH}
    return prediction_depth(model or network(), support, queries, **(settings | options))


def same(result: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert result.keys() == expected.keys()
        for k in expected:
            same(result[k], expected[k])
        return
    for name in ("depth", "undefined", "votes", "known", "predictions", "labels"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), name)
    for name in ("tied", "margins", "reference_values"):
        if getattr(expected, name) is not None:
            np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), name)
    same_neighbors(result.neighbors, expected.neighbors)
    same_map(result.map, expected.map)
    assert (result.probes, result.widths, result.k) == (
        expected.probes,
        expected.widths,
        expected.k,
    )
    assert result.leave_one_out == expected.leave_one_out


class CountingNetwork(nn.Module):
    """How many rows each forward pass had, and which of its layers ran."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rows = network(), []
        self.net[6].register_forward_hook(lambda *_: self.rows.append("whole"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        return self.net(x)


class Noisy(Dataset[Any]):
    """Other values at each reading, as a random transform gives them."""

    def __init__(self, data: TensorDataset) -> None:
        self.data, self.read = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Any:
        self.read += 1
        x, y = self.data[row]
        return x + 0.01 * self.read, y


def option_sets(most: int) -> tuple[dict[str, Any], ...]:
    """Of a call, one of each kind that votes are asked for by; most: neighbours."""
    return (
        {},
        {"early_exit": False},
        {"k": [3, 5, most], "return_counts": True},
        {"metric": "cosine", "weights": "exp"},
        {"metric": "inner_product", "reference": "label"},
        {"return_neighbors": 3},
    )
