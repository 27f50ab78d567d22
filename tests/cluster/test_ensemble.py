"""Ensembles whose networks are tasks of a cluster: the same file as from one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.ensemble_file import EnsembleSettings, add_networks, resume_ensemble
from pdepth.analysis.networks import train_all
from pdepth.cluster import Cluster

from helpers import inline_ray
from helpers.spans import BATCH, SUPPORT, K, network

META = EnsembleSettings("blobs").meta()


def trained(data: Any, seed: int) -> torch.nn.Module:
    """As good as trained: other weights for each seed."""
    model = network()
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return model


def grown(path: Path, numbers: range, **options: Any) -> Ensemble:
    networks = partial(train_all, trained, SUPPORT, held_out=0.2, seed=0)
    before = resume_ensemble(path, META)
    return add_networks(
        before, networks, SUPPORT, numbers, path, META, k=K, batch_size=BATCH, progress=False,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
def test_networks_are_tasks(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inline_ray.install(monkeypatch)
    expected = grown(tmp_path / "one.parquet", range(5))
    cluster = Cluster(workers=workers)
    grown(tmp_path / "many.parquet", range(2), cluster=cluster)
    got = grown(tmp_path / "many.parquet", range(5), cluster=cluster)
    assert got.names == expected.names
    for name in ("depths", "predicted", "classes", "labels"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
