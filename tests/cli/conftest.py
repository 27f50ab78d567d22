"""A user's file of networks and datasets, as the commands open them."""

from __future__ import annotations

from pathlib import Path

import pytest

USER_FILE = """
import sys, time, torch
from torch.utils.data import Dataset, TensorDataset

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5), torch.nn.ReLU(),
        torch.nn.Linear(5, 3),
    )

def rows(n, seed):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, net()(x).argmax(1))

def support():
    return rows(60, 1)

def queries():
    return rows(20, 2)

class Slow(Dataset):
    def __len__(self):
        return 10_000

    def __getitem__(self, row):
        print("reading", flush=True)
        time.sleep(0.05)
        return torch.zeros(6), 0

def bug():
    raise KeyError("a bug of the user's")
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    file = tmp_path / "user_file.py"
    file.write_text(USER_FILE)
    return file
