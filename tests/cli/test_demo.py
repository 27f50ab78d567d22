"""`pdepth demo`."""

from __future__ import annotations

import os

import pytest
import torch

from pdepth.result import DepthResult

from helpers.commands import invoke

for module in ("pyarrow", "matplotlib", "sklearn"):
    pytest.importorskip(module)


def test_demo(tmp_path):
    pytest.importorskip("sklearn")
    before = torch.get_rng_state()
    result = invoke("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert torch.equal(before, torch.get_rng_state())
    assert sorted(os.listdir(tmp_path)) == [
        "depth.parquet",
        "depth.png",
        "map.pdepth",
        "neighbors.pdepth",
        "support-map.pdepth",
        "support-neighbors.pdepth",
        "support.parquet",
    ]
    for table in (tmp_path, tmp_path / "support.parquet"):
        said = invoke("explain", table, 0, 3, "--out", tmp_path / "why", "--overwrite")
        assert said.exit_code == 0, said.output
        assert said.stderr == ""  # pictures are found
        assert said.stdout.startswith("row 0, label ")
    held_out = DepthResult.load(tmp_path / "depth.parquet")
    support = DepthResult.load(tmp_path / "support.parquet")
    assert (len(held_out), len(support)) == (500, 1297)
    assert not held_out.leave_one_out
    assert support.leave_one_out
    assert held_out.known.all()
    assert (held_out.predictions == held_out.labels).mean() > 0.9
    assert len(held_out.probes) >= 5
    deep = held_out.depth >= 3
    right = held_out.predictions == held_out.labels
    assert right[~deep].mean() > right[deep].mean()  # the paper's finding
