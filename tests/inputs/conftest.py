"""A user's file with a network, data and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

USER_FILE = """
import torch
from helper import WIDTH
from torch.utils.data import TensorDataset

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))

def data():
    return TensorDataset(torch.zeros(5, WIDTH), torch.arange(5))

def broken():
    raise ValueError("inside")

def number():
    return 7

text = "no function"
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    (tmp_path / "helper.py").write_text("WIDTH = 4\n")
    file = tmp_path / "mine.py"
    file.write_text(USER_FILE)
    return file
