"""Runs into a folder, their cost and their probes, from Python."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pdepth import open_map, open_neighbors, plan
from pdepth.cluster import Cluster
from pdepth.depth import prediction_depth
from pdepth.embeddings.placement import ProbeOptions
from pdepth.report import folder
from pdepth.report.explain import read_shown
from pdepth.report.probes import describe_probes
from pdepth.report.run import RunOptions, plan_run, run_to_folder
from pdepth.result import DepthResult

from helpers.same import same_map, same_neighbors

pytest.importorskip("pyarrow")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def rows(n: int, seed: int) -> TensorDataset:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, torch.arange(n) % 3)


def test_a_run_writes_what_prediction_depth_returns(tmp_path: Path, model: nn.Module) -> None:
    support, queries, out = rows(40, 0), rows(10, 1), tmp_path / "a" / "b"
    options = RunOptions(k=(3, 5), early_exit=False, reference="label")
    run = run_to_folder(
        model, support, queries, out, options, meta={"model": "mine"}, progress=False
    )
    expected = prediction_depth(
        model, support, queries, k=[3, 5], early_exit=False, reference="label", progress=False
    )
    names = ["depth-k3.parquet", "depth-k5.parquet"]
    assert [path.name for path in run.written[:2]] == names
    assert set(names) <= set(os.listdir(out)) <= {*names, "depth-by-k.png"}
    for k, name in zip((3, 5), names, strict=True):
        stored = DepthResult.load(out / name)
        np.testing.assert_array_equal(stored.votes, expected[k].votes)
        np.testing.assert_array_equal(run.results[k].depth, expected[k].depth)
        assert stored.meta["model"] == "mine"
    assert sorted(folder.read_results(out)) == [3, 5]
    with pytest.raises(FileExistsError, match="with depth-k3.parquet, depth-k5.parquet"):
        run_to_folder(model, support, queries, out, options, progress=False)
    again = run_to_folder(model, support, queries, out, options, overwrite=True, progress=False)
    assert again.written == run.written


@pytest.mark.parametrize("ks", [(5,), (3, 5)])
def test_neighbours_have_a_file_of_their_own(
    ks: tuple[int, ...], tmp_path: Path, model: nn.Module
) -> None:
    """A later run without them takes it away, if it may replace results."""
    data, out = (rows(40, 0), rows(10, 1)), tmp_path / "out"
    options = RunOptions(k=ks, return_neighbors=4)
    run = run_to_folder(model, *data, out, options, progress=False)
    assert out / folder.NEIGHBORS in run.written
    for k in ks:
        expected = prediction_depth(model, *data, k=list(ks), return_neighbors=4, progress=False)[k]
        same_neighbors(open_neighbors(out / folder.NEIGHBORS, k), expected.neighbors)
        same_neighbors(run.results[k].neighbors, expected.neighbors)
    for path in run.written:
        if path.name != folder.NEIGHBORS:
            path.unlink()
    with pytest.raises(FileExistsError, match=r"got .*out with neighbors.pdepth; pass --overwrite"):
        run_to_folder(model, *data, out, RunOptions(k=ks), progress=False)
    run_to_folder(model, *data, out, RunOptions(k=ks), overwrite=True, progress=False)
    assert not (out / folder.NEIGHBORS).exists()


def test_a_plan_has_the_bytes_of_neighbours(tmp_path: Path, model: nn.Module) -> None:
    """In a run's folder on the disk, else in memory."""
    data, options = (rows(40, 0), rows(10, 1)), RunOptions(k=(5,), return_neighbors=4)
    run_to_folder(model, *data, tmp_path / "out", options, progress=False)
    plans = [
        plan_run(model, *data, options, out)
        for options, out in ((options, tmp_path / "o"), (options, None), (RunOptions(k=(5,)), None))
    ]
    size = 10 * 3 * (4 * 12 + 3 * 2)
    assert [plan.neighbors for plan in plans] == [size, size, 0]
    assert [plan.memory - plans[0].memory for plan in plans] == [0, size, 0]
    assert size < (tmp_path / "out" / folder.NEIGHBORS).stat().st_size < size + 4096
    assert "neighbours  1.6 kB of nearest rows and counts" in str(plans[0]).splitlines()


def test_a_map_has_a_file_of_its_own(tmp_path: Path, model: nn.Module) -> None:
    """As neighbours have; its bytes are in the plan."""
    data, out = (rows(40, 0), rows(10, 1)), tmp_path / "out"
    options = RunOptions(k=(3, 5), return_map="pca")
    bill = plan_run(model, *data, options, out)
    run = run_to_folder(model, *data, out, options, progress=False)
    assert out / folder.MAP in run.written
    expected = prediction_depth(model, *data, k=5, return_map="pca", progress=False).map
    same_map(open_map(out / folder.MAP), run.results[3].map)
    assert expected is not None
    assert bill.map == (40 + 10) * 3 * 8
    assert bill.map < (out / folder.MAP).stat().st_size < bill.map + 4096
    assert "map         1.2 kB of places in two dimensions" in str(bill).splitlines()
    assert plan_run(model, *data, RunOptions(k=(3, 5)), out).map == 0
    run_to_folder(model, *data, out, RunOptions(k=(3, 5)), overwrite=True, progress=False)
    assert not (out / folder.MAP).exists()


def test_a_plan_counts_what_a_map_reads_again(model: nn.Module) -> None:
    """Two forward passes more at each probe, where embeddings are computed again."""
    data = rows(4000, 0), rows(10, 1)
    plain, mapped = (
        plan(model, *data, k=5, memory="150kB", batch_size=64, return_map=method, measure=False)
        for method in (None, "pca")
    )
    assert plain.spill is not None  # not all fits
    assert mapped.forwarded == plain.forwarded + 3 * (2 * 4000 + 10)
    assert mapped.flop == plain.flop
    assert mapped.memory > plain.memory + mapped.map


def test_nothing_of_an_older_run_is_read_in_place_of_new_results(
    tmp_path: Path, model: nn.Module
) -> None:
    """One k and several have tables of other names: a folder holds those of the last run alone."""
    data, out = rows(40, 0), tmp_path / "out"
    several = RunOptions(k=(3, 5))
    for options, older in (
        (several, RunOptions(k=(7,), return_map="pca", return_neighbors=3)),
        (RunOptions(k=(7,)), several),
        (RunOptions(k=(3, 10)), several),
    ):
        run_to_folder(model, data, None, out, older, overwrite=True, progress=False)
        with pytest.raises(FileExistsError, match="expected a folder without results, got"):
            run_to_folder(model, data, None, out, options, progress=False)
        run = run_to_folder(model, data, None, out, options, overwrite=True, progress=False)
        assert {*os.listdir(out)} == {path.name for path in run.written}
        found = folder.read_results(out)
        assert {*(found if isinstance(found, dict) else {found.k: found})} == {*run.results}


def test_a_map_of_another_run_is_refused(tmp_path: Path, model: nn.Module) -> None:
    """One that lacks places where this run was searched."""
    data, early = rows(40, 0), RunOptions(k=(5,), return_map="pca")
    for name, options in (("early", early), ("all", replace(early, early_exit=False))):
        run_to_folder(model, data, None, tmp_path / name, options, progress=False)
    assert not open_map(tmp_path / "early" / folder.MAP).searched.all()
    shutil.copy(tmp_path / "early" / folder.MAP, tmp_path / "all" / folder.MAP)
    with pytest.raises(ValueError, match="expected the map of the results beside it, got that of"):
        read_shown(tmp_path / "all")


def test_a_wrong_argument_leaves_no_folder(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="k: expected at most 39"):
        run_to_folder(model, rows(40, 0), None, tmp_path / "o", RunOptions(k=(50,)), progress=False)
    assert not list(tmp_path.iterdir())


def test_every_option_reaches_prediction_depth_and_plan(model: nn.Module) -> None:
    changed = RunOptions(
        ("0",), (3,), "cosine", "exp", 0.1, "label", False, "cpu", "cpu", 1, 2, 3,
        label_column="y", pool={"0": "max"}, input=False, max_width=8, output=1,
        skip_unreadable=True, spill="auto", cluster=Cluster("host:6379"), return_neighbors=3,
        return_map="pca",
    )  # fmt: skip
    depth, plan = changed.of_depth(), changed.of_plan()
    assert depth == {
        "layers": ("0",), "k": 3, "metric": "cosine", "weights": "exp", "temperature": 0.1,
        "reference": "label", "early_exit": False, "backend": "cpu", "device": "cpu", "memory": 1,
        "batch_size": 2, "num_threads": 3, "keep_embeddings": None, "label_column": "y",
        "processor": None, "pool": {"0": "max"}, "input": False, "max_width": 8, "output": 1,
        "skip_unreadable": True, "spill": "auto", "cluster": Cluster("host:6379"),
        "return_neighbors": 3, "return_map": "pca",
    }  # fmt: skip
    assert changed.of_probes() == ProbeOptions(("0",), {"0": "max"}, False, 8, 1)
    apart = {"weights", "temperature", "reference", "early_exit", "cluster"}
    assert plan == {name: value for name, value in depth.items() if name not in apart}
    cost = plan_run(model, rows(40, 0), rows(10, 1), RunOptions(k=(3, 5)))
    assert (cost.support, cost.queries) == (40, 10)


def test_probes_are_described_with_and_without_data(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="data: expected a dataset for a network whose input size"):
        describe_probes(model)
    table = describe_probes(model, data=rows(4, 0))
    assert [row.name for row in table.rows] == ["input", "0", "softmax"]
    assert [row.shape for row in table.rows] == [(6,), (8,), (3,)]
    assert (table.rule, table.notes) == ("mlp", ())
    named = describe_probes(model, ProbeOptions(["2"], input=False), rows(4, 0))
    assert [(row.module, row.point, row.pool) for row in named.rows] == [
        ("2", "output", "flatten"),
        ("", "output", "softmax"),
    ]


def test_probes_of_a_network_that_says_its_size() -> None:
    models = pytest.importorskip("torchvision.models")
    options = ProbeOptions(pool={"layer1.*": "mean"}, max_width=4096)
    table = describe_probes(models.resnet18(), options)
    rows_by_name = {row.name: (row.pool, row.shape) for row in table.rows}
    assert rows_by_name["input"] == ("averaged to 36 x 36", (3, 36, 36))
    assert rows_by_name["layer1.0"] == ("mean", (64,))
    assert rows_by_name["layer4.1"] == ("averaged to 2 x 2", (512, 2, 2))
    assert table.notes == (
        "max_width 4096: averaged to fewer positions at input to bn1, layer2.0 to layer4.1",
    )
