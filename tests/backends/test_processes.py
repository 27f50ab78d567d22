"""Searches in worker processes, after the parent itself has searched on several threads."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

import pdepth

ROWS = np.random.default_rng(0).standard_normal((400, 30)).astype(np.float32)
LABELS = np.arange(400) % 4


class Searches(Dataset[Any]):
    """The votes of two threads, at each row."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> Any:
        return pdepth.probe_votes(ROWS, LABELS, k=5, num_threads=2).votes


def expected() -> Any:
    votes = Searches()[0]
    assert len(np.unique(votes)) == 4
    return votes


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_loader(context: str) -> None:
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{os.name} has no {context}")
    votes = expected()
    loader = DataLoader(Searches(), batch_size=2, num_workers=2, multiprocessing_context=context)
    found = [of_row for batch in loader for of_row in batch.numpy()]
    assert len(found) == 6
    for of_row in found:
        np.testing.assert_array_equal(of_row, votes)


@pytest.mark.slow
def test_workers_of_joblib() -> None:
    joblib = pytest.importorskip("joblib")
    votes = expected()
    for of_row in joblib.Parallel(2)(joblib.delayed(Searches().__getitem__)(i) for i in range(4)):
        np.testing.assert_array_equal(of_row, votes)
