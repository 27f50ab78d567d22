"""`pdepth run`: what it measures, prints, writes, resumes and refuses."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pdepth.cli.options import parse_output, parse_pools
from pdepth.cluster import Cluster
from pdepth.io.map_file import open_map
from pdepth.result import DepthResult

from helpers.commands import invoke, refusal

for module in ("pyarrow", "matplotlib", "PIL"):
    pytest.importorskip(module)


def net_and_support(user_file: Path) -> tuple[str, ...]:
    return "run", f"{user_file}:net", "--support", f"{user_file}:support"


def test_run_measures_shows_and_writes(tmp_path, user_file):
    out = tmp_path / "a" / "b"
    result = invoke(
        *net_and_support(user_file), "--queries", f"{user_file}:queries",
        "--k", 3, "--all-votes", "--out", out
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    saved = DepthResult.load(out / "depth.parquet")
    assert sorted(os.listdir(out)) == ["depth.parquet", "depth.png"]
    assert (len(saved), saved.k, saved.leave_one_out) == (20, 3, False)
    assert saved.known.all()
    np.testing.assert_array_equal(saved.predictions, saved.labels)
    assert saved.meta["support"] == f"{user_file}:support"
    accuracy, settled = saved.probe_accuracy(), saved.settled()
    for probe, width, share, count in zip(
        saved.probes, saved.widths, accuracy, settled, strict=False
    ):
        row = rf"{re.escape(probe)} +{width} +{100 * share:.1f} % +{count}\b"
        assert re.search(row, result.stdout), (row, result.stdout)
    assert "the network is right on 100.0 %" in result.stdout
    assert "20 held-out examples" in result.stdout
    assert "queries" in result.stderr  # progress stays off standard output
    assert "queries" not in result.stdout.replace(str(tmp_path), "")


def test_run_of_the_support_itself_with_early_exit(tmp_path, user_file):
    result = invoke(*net_and_support(user_file), "-k", 3, "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    saved = DepthResult.load(tmp_path / "o" / "depth.parquet")
    assert (len(saved), saved.leave_one_out) == (60, True)
    assert not saved.known.all()
    assert "--all-votes asks them all" in result.stdout


def test_several_k_write_a_table_each_and_one_picture(tmp_path, user_file):
    out = tmp_path / "o"
    arguments = (
        *net_and_support(user_file), "--queries", f"{user_file}:queries",
        "-k", 9, "-k", 3, "--metric", "cosine", "--vote-weights", "exp",
        "--reference", "last_probe", "--out", out
    )  # fmt: skip
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(out)) == ["depth-by-k.png", "depth-k3.parquet", "depth-k9.parquet"]
    results = {k: DepthResult.load(out / f"depth-k{k}.parquet") for k in (3, 9)}
    for k, of_k in results.items():
        assert (of_k.k, of_k.reference, len(of_k)) == (k, "last_probe", 20)
        assert {"metric", "weights", "temperature", "queries"} <= set(of_k.meta)
        row = rf"^ *{k} +{of_k.depth.mean():.2f} +0\.0 %"
        assert re.search(row, result.stdout, re.MULTILINE), (row, result.stdout)
    assert "Rank correlation with k = 9" in result.stdout
    assert "k = 3, against the last probe" in result.stdout
    assert "with depth-k3.parquet, depth-k9.parquet, depth-by-k.png; pass --overwrite" in refusal(
        *arguments
    )


def test_weights_and_layers(tmp_path, user_file):
    spec = importlib.util.spec_from_file_location("user_file", user_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = module.net().state_dict()
    state["4.bias"] += torch.tensor([0.0, 1e6, 0.0])  # whatever is put in, class 1 comes out
    torch.save(state, tmp_path / "w.pt")
    result = invoke(
        "run", f"{user_file}:net", "--weights", tmp_path / "w.pt",
        "--support", f"{user_file}:support",
        "--layers", "0,2", "-k", 3, "--out", tmp_path / "o", "--quiet"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.output == ""
    saved = DepthResult.load(tmp_path / "o" / "depth.parquet")
    assert (saved.predictions == 1).all()
    assert {"0", "2"} <= set(saved.probes)


def test_every_option_reaches_prediction_depth(tmp_path, user_file, monkeypatch):
    passed = {}

    def record(model, support, queries, **options):
        passed.update(options, rows=len(support), queries=queries)
        raise ImportError("far enough")

    monkeypatch.setattr("pdepth.depth.prediction_depth", record)
    sentence = refusal(
        *net_and_support(user_file), "--out", tmp_path / "o",
        "-k", 7, "--layers", "0, 2", "--batch-size", 11, "--device", "cpu", "--threads", 3,
        "--backend", "cpu", "--memory", "2GiB", "--all-votes", "--quiet", "--metric", "cosine",
        "--vote-weights", "exp", "--temperature", "0.1", "--reference", "label",
        "--keep-embeddings", tmp_path / "kept", "--pool", "0=mean", "--pool", "2.*=max",
        "--no-input", "--max-width", 64, "--output", "-1", "--skip-unreadable",
        "--spill", "auto", "--cluster", "host:6379", "--workers", 2, "--keep-neighbors", 4,
    )  # fmt: skip
    assert sentence == "Error: far enough\n"
    assert passed == {
        "rows": 60,
        "queries": None,
        "return_neighbors": 4,
        "return_map": None,
        "keep_embeddings": tmp_path / "kept",
        "k": 7,
        "layers": "0, 2",
        "batch_size": 11,
        "device": "cpu",
        "num_threads": 3,
        "backend": "cpu",
        "memory": "2GiB",
        "metric": "cosine",
        "weights": "exp",
        "temperature": 0.1,
        "reference": "label",
        "early_exit": False,
        "progress": False,
        "run_dir": tmp_path / "o" / ".unfinished",
        "label_column": None,
        "processor": None,
        "pool": {"0": "mean", "2.*": "max"},
        "input": False,
        "max_width": 64,
        "output": -1,
        "skip_unreadable": True,
        "spill": "auto",
        "cluster": Cluster("host:6379", workers=2),
    }


def test_poolings_and_outputs_as_text():
    assert parse_pools(None) == "auto"
    assert parse_pools(["mean"]) == "mean"
    assert parse_pools(["a.b=token", "c=last"]) == {"a.b": "token", "c": "last"}
    for texts in (["mean", "max"], ["mean", "a=max"], ["a=mean", "a=max"]):
        with pytest.raises(ValueError, match="--pool: expected one way for all probes, or PROBE=H"):
            parse_pools(texts)
    assert [parse_output(text) for text in (None, "1", "-1", "logits")] == [None, 1, -1, "logits"]


def test_show_probes(user_file):
    result = invoke("run", f"{user_file}:net", "--show-probes", "--support", f"{user_file}:support")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[-1][1:3] == ["probes,", "placed"]
    assert any(line[:1] == ["softmax"] and line[-1] == "3" for line in lines)
    assert any(line[:1] == ["input"] and line[-1] == "6" for line in lines)


def test_without_matplotlib_the_table_is_written_and_a_line_says_why(
    tmp_path, user_file, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    (tmp_path / "depth.png").write_text("of an older run")
    result = invoke(
        *net_and_support(user_file), "-k", 3, "--out", tmp_path,
        "--overwrite"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "pip install 'pdepth[plot]'" in result.stdout
    assert (tmp_path / "depth.parquet").exists()
    assert not (tmp_path / "depth.png").exists()


def test_existing_results_are_kept_without_overwrite(tmp_path, user_file):
    (tmp_path / "depth.parquet").write_text("precious")
    arguments = (*net_and_support(user_file), "-k", 3, "--out", tmp_path)
    assert "with depth.parquet; pass --overwrite to replace them." in refusal(*arguments)
    assert "with depth.parquet; pass --overwrite" in refusal("demo", "--out", tmp_path)
    assert (tmp_path / "depth.parquet").read_text() == "precious"
    assert invoke(*arguments, "--overwrite").exit_code == 0
    assert len(DepthResult.load(tmp_path / "depth.parquet")) == 60


def test_an_impossible_out_is_refused_before_any_work(tmp_path, user_file, monkeypatch):
    arguments = ("run", "file_that_is_gone.py:net", "--support", f"{user_file}:support", "--out")
    (tmp_path / "file").write_text("")
    assert "expected a folder, got" in refusal(*arguments, tmp_path / "file" / "deeper")

    def refuse(**_: object) -> str:
        raise PermissionError("no")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert "is not writable" in refusal(*arguments, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_mistakes_are_one_sentence(tmp_path, user_file):
    net, data, out = f"{user_file}:net", f"{user_file}:support", tmp_path / "o"
    base = ("run", net, "--support", data, "--out", out)
    assert "--support and --out: expected DATA and DIR, got none" in refusal("run", net)
    assert "got none; pass --weights FILE" in refusal(
        "run", "torchvision:resnet18", "--support", data, "--out", out
    )
    assert "--mean: expected numbers with commas (0.5,0.5,0.5), got 'a,b'" in refusal(
        *base, "--mean", "a,b"
    )
    assert "k: expected at most 59" in refusal(*base, "-k", 60)
    assert "k: expected distinct integers, got 3 twice" in refusal(*base, "-k", 3, "-k", 3)
    assert "--metric: expected one of sqeuclidean, cosine, inner_product, got 'l1'" in refusal(
        *base, "--metric", "l1"
    )
    assert "--vote-weights: expected one of" in refusal(*base, "--vote-weights", "w.pt")
    assert "--reference: expected one of" in refusal(*base, "--reference", "truth")
    assert "temperature: expected None unless weights='exp'" in refusal(*base, "--temperature", 1)
    assert "'fastest'" in refusal(*base, "-k", 3, "--backend", "fastest")
    assert "'abacus'" in refusal(*base, "-k", 3, "--device", "abacus")
    assert "expected an existing file, got gone.npz" in refusal(*base, "--queries", "npz:gone.npz")
    assert not out.exists()


def test_a_bug_keeps_its_traceback(tmp_path, user_file):
    result = invoke(
        "run", f"{user_file}:net", "--support", f"{user_file}:bug", "--out", tmp_path / "o"
    )
    assert isinstance(result.exception, RuntimeError)
    assert isinstance(result.exception.__cause__, KeyError)


def test_a_model_that_fails_is_one_sentence(tmp_path, user_file):
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) + 'a'\n"
        "def net():\n"
        "    return Net(torch.nn.Flatten(), torch.nn.LazyLinear(3), torch.nn.Linear(3, 3))\n"
    )
    options = ("--support", f"{user_file}:support", "--out", tmp_path / "o", "-k", 3)
    sentence = refusal("run", f"{broken}:net", *options)
    assert sentence.startswith(
        "Error: model: expected a network that runs on the data, which gives it 0 (3, 6) float32; "
        "got TypeError: "
    )
    assert not (tmp_path / "o").exists()


def test_how_probes_are_taken_is_shown_and_kept(tmp_path, user_file):
    options = ("--support", f"{user_file}:support", "-k", 3, "--pool", "0=mean", "--no-input")
    result = invoke("run", f"{user_file}:net", *options, "--out", tmp_path / "o", "--max-width", 7)
    assert result.exit_code == 0, result.output
    saved = DepthResult.load(tmp_path / "o" / "depth.parquet")
    assert saved.probes == ("0", "2", "softmax")
    assert saved.meta["probes"] == "0: mean"
    assert saved.meta["placement version"] == "2"
    assert "Probes: 0: mean.\n" in result.stdout
    shown = invoke("run", f"{user_file}:net", *options, "--show-probes")
    assert ["0", "0", "output", "mean", "8"] in [line.split() for line in shown.stdout.splitlines()]
    sentence = refusal("run", f"{user_file}:net", *options, "--pool", "9=max", "--show-probes")
    assert sentence == (
        "Error: pool: expected names of probes or patterns, got '9'; nearest: 'input', '0', '2'.\n"
    )


def test_a_warning_is_one_line_once(tmp_path, user_file):
    doubtful = tmp_path / "doubtful.py"
    doubtful.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.blocks = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6))\n"
        "        self.mix = torch.nn.Linear(2, 2)\n"
        "        self.head = torch.nn.Linear(6, 3)\n"
        "    def forward(self, x):\n"
        "        whole = self.mix(self.blocks(x).reshape(-1, 2)).relu()\n"
        "        return self.head(whole.reshape(-1, 6))\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return Net()\n"
    )
    options = ("--support", f"{user_file}:support", "-k", 3)
    result = invoke("run", f"{doubtful}:net", *options, "--out", tmp_path / "o", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == (
        "Warning: model: not probed: 'mix' gives values of shape (9, 2), not one for each row.\n"
    )


def test_a_map_is_kept_or_refused_before_anything_is_opened(tmp_path, user_file):
    asked = (*net_and_support(user_file), "--out", tmp_path / "o", "--quiet", "--keep-map")
    assert refusal(*asked, "tsne") == "Error: --keep-map: expected one of pca, umap, got 'tsne'.\n"
    sentence = refusal(*asked, "pca", "--cluster", "auto")
    assert sentence.startswith("Error: --keep-map: expected None beside cluster, got 'pca'; a map")
    result = invoke(*asked, "pca")
    assert result.exit_code == 0, result.output
    kept = open_map(tmp_path / "o" / "map.pdepth")
    assert kept.queries.shape[0] == 60
    assert kept.support is None
