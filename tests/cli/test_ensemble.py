"""`pdepth ensemble`: what it trains, reads, adds up, resumes and refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pdepth import demo
from pdepth.analysis.ensemble import Ensemble

from helpers.commands import invoke

for module in ("pyarrow", "matplotlib", "PIL"):
    pytest.importorskip(module)

USER_FILE = """
import torch
from torch.utils.data import TensorDataset

def data():
    x = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0, :2].sum((1, 2)) > x[:, 0, 2:].sum((1, 2))).long())

def train(support, seed):
    print(f"train {seed} {len(support)}", flush=True)
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    )

def networks():
    for number in range(3):
        yield train(range(45), number), range(15 * number, 15 * number + 15)

def pairless():
    yield train(range(45), 0)

def bug(support, seed):
    raise KeyError("a bug of the user's")
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    file = tmp_path / "user_file.py"
    file.write_text(USER_FILE)
    return file


def call(*arguments: object) -> Any:
    return invoke("ensemble", *arguments)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pictures that would be drawn, which takes a second each."""
    calls: list[Any] = []
    monkeypatch.setattr(
        "pdepth.report.figures.groups.plot_groups", lambda *call: calls.append(call)
    )
    return calls


def own(user_file: Path, out: Path, *more: object) -> Any:
    return call("--data", f"{user_file}:data", "-k", 3, "--threads", 1, "--out", out, *more)


def counts(path: Path) -> list[Any]:
    ensemble = Ensemble.load(path / "ensemble.parquet")
    return [ensemble.depths.tolist(), ensemble.predicted.tolist(), sorted(ensemble.names)]


def test_it_trains_goes_on_and_adds_up(tmp_path: Path, user_file: Path, drawn: Any) -> None:
    train = ("--train", f"{user_file}:train", "--held-out", 0.25)
    whole = own(user_file, tmp_path / "whole", *train, "--networks", 3)
    assert whole.exit_code == 0, whole.output
    assert "60 examples under 3 networks" in whole.stdout
    assert "consensus" in whole.stdout
    assert "Network 2: right on" in whole.stderr
    assert whole.stdout.count("train ") == 3
    stored = Ensemble.load(tmp_path / "whole" / "ensemble.parquet")
    assert (stored.counts[1].sum(), stored.counts.sum()) == (3 * 15, 3 * 60)
    assert stored.meta["held_out"] == "0.25"
    ((_, corners, path, images, _),) = drawn
    assert path == tmp_path / "whole" / "groups.png"
    assert (corners.depths.shape, len(images)) == ((2, 60), 60)
    # The same command has nothing to do; two networks, and then the third, are the same three.
    again = own(user_file, tmp_path / "whole", *train, "--networks", 3)
    assert (again.exit_code, again.stdout.count("train ")) == (0, 0)
    part = own(user_file, tmp_path / "part", *train, "--networks", 2, "-q")
    assert (part.exit_code, part.stderr) == (0, "")
    more = own(user_file, tmp_path / "part", *train, "--networks", 3)
    assert more.stdout.count("train ") == 1
    assert counts(tmp_path / "part") == counts(tmp_path / "whole")
    # Two machines.
    for name, first, count in (("a", 0, 2), ("b", 2, 1)):
        own(user_file, tmp_path / name, *train, "--networks", count, "--first", first)
    files = [tmp_path / name / "ensemble.parquet" for name in "ba"]
    both = call("--merge", files[0], "--merge", files[1], "--out", tmp_path / "both")
    assert both.exit_code == 0, both.output
    assert counts(tmp_path / "both") == counts(tmp_path / "whole")
    twice = call("--merge", files[0], "--merge", files[0], "--out", tmp_path / "twice")
    assert "name: expected a network that is not in the ensemble, got 2." in twice.stderr
    assert not (tmp_path / "twice").exists()
    # Another setting is another ensemble.
    other = own(user_file, tmp_path / "whole", *train, "--seed", 1)
    assert other.exit_code == 2
    assert "expected networks with seed 1, got 0; pass --overwrite" in other.stderr
    assert counts(tmp_path / "whole") == counts(tmp_path / "both")
    new = own(user_file, tmp_path / "whole", *train, "--seed", 1, "--networks", 2, "--overwrite")
    assert new.exit_code == 0
    assert counts(tmp_path / "whole") != counts(tmp_path / "both")


def test_it_reads_networks_with_splits_of_their_own(
    tmp_path: Path, user_file: Path, drawn: Any
) -> None:
    read = ("--read", f"{user_file}:networks")
    done = own(user_file, tmp_path / "out", *read, "--networks", 3)
    assert done.exit_code == 0, done.output
    stored = Ensemble.load(tmp_path / "out" / "ensemble.parquet")
    assert stored.counts[1].tolist() == [1] * 45 + [0] * 15
    assert "15 examples were never held out." in done.stdout
    short = own(user_file, tmp_path / "short", *read, "--networks", 5)
    assert short.exit_code == 2
    assert "expected 5 networks, got 3 (no network 3)" in short.stderr
    assert "pass --networks 3 for these alone." in short.stderr
    kept = counts(tmp_path / "short")[2]  # what was counted stays
    assert kept == [0, 1, 2]


def test_options_of_probes(tmp_path: Path, user_file: Path, drawn: Any) -> None:
    train = ("--train", f"{user_file}:train", "--networks", 2)
    probes = ("--layers", "1", "--no-input", "--max-width", 4, "--pool", "1=mean", "--output", "0:")
    refused = own(user_file, tmp_path / "out", *train, *probes)
    assert refused.exit_code == 2
    assert "output: expected a key or an index of what the network returns, got '0:'" in (
        refused.stderr
    )
    done = own(user_file, tmp_path / "out", *train, *probes[:-2])
    assert done.exit_code == 0, done.output
    stored = Ensemble.load(tmp_path / "out" / "ensemble.parquet")
    assert stored.layers == 2  # the module and the softmax
    assert {"pool", "input", "max_width", "placement version"} <= set(stored.meta)
    other = own(user_file, tmp_path / "out", *train, *probes[:-4])
    assert other.exit_code == 2
    assert "expected networks with pool unset, got {'1': 'mean'}; pass --overwrite" in other.stderr


def test_an_ensemble_that_spills_is_the_same(tmp_path: Path, user_file: Path, drawn: Any) -> None:
    read = ("--read", f"{user_file}:networks", "--networks", 2)
    disk = tmp_path / "disk"
    disk.mkdir()
    for name, more in (("whole", ()), ("spilled", ("--memory", "4kB", "--spill", disk))):
        result = own(user_file, tmp_path / name, *read, *more)
        assert result.exit_code == 0, result.output
    assert counts(tmp_path / "spilled") == counts(tmp_path / "whole")
    assert list(disk.iterdir()) == []


def test_results_of_another_kind_are_not_mixed(tmp_path: Path, user_file: Path, drawn: Any) -> None:
    """The report would show those of the run, however old."""
    read = ("--read", f"{user_file}:networks", "--networks", 2)
    network = user_file.with_name("one.py")
    network.write_text(USER_FILE + "\n\ndef one():\n    return train(range(45), 0)\n")
    data = ("--support", f"{network}:data", "-k", 3, "--quiet")
    run = invoke("run", f"{network}:one", *data, "--out", tmp_path / "run")
    assert run.exit_code == 0, run.output
    for more in ((), ("--overwrite",)):
        refused = own(user_file, tmp_path / "run", *read, *more)
        assert refused.exit_code == 2
        assert "results of another kind, got" in refused.stderr
        assert "run with depth.parquet; pass another --out." in refused.stderr
    assert not (tmp_path / "run" / "ensemble.parquet").exists()
    assert own(user_file, tmp_path / "many", *read).exit_code == 0
    for more in ((), ("--overwrite",)):
        refused = invoke("run", f"{network}:one", *data, "--out", tmp_path / "many", *more)
        assert refused.exit_code == 2
        assert "many with ensemble.parquet; pass another --out." in refused.stderr
    both = tmp_path / "many" / "depth-k3.parquet"  # as older versions let them be
    (tmp_path / "run" / "depth.parquet").rename(both)
    refused = invoke("report", tmp_path / "many")
    assert refused.exit_code == 2
    assert "got depth-k3.parquet and ensemble.parquet; name one of the files." in refused.stderr
    assert invoke("report", both).exit_code == 0


def test_digits_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    few = demo.moved_digits()
    few.tensors = tuple(tensor[:120] for tensor in few.tensors)
    monkeypatch.setattr(demo, "moved_digits", lambda: few)
    done = call("--networks", 2, "--out", tmp_path, "-k", 5, "--threads", 1)
    assert done.exit_code == 0, done.output
    stored = Ensemble.load(tmp_path / "ensemble.parquet")
    assert stored.layers == len(demo.LAYERS) + 2
    assert stored.counts[1].sum() == 24


def test_mistakes_are_one_sentence(tmp_path: Path, user_file: Path) -> None:
    data, train = ("--data", f"{user_file}:data"), ("--train", f"{user_file}:train")
    for arguments, sentence in (
        (("--networks", 1), "--networks: expected an integer >= 2, got 1."),
        (data, "--data: expected together with --train or --read"),
        (train, "--data: expected together with --train or --read"),
        (
            (*data, *train, "--read", "x.py:y"),
            "--train and --read: expected one of them, got both.",
        ),
        (("--merge", "a"), "--merge: expected two files or more, got a alone."),
        (("--merge", "a", *data), "--merge: expected no --data, --train or --read beside it"),
        (("--merge", "a", "--merge", "b"), "a: expected an Ensemble in a file, got none."),
        (
            (*data, *train, "--held-out", 1),
            "some of 60 rows and not all, got 1.0, which holds out 60.",
        ),
        (
            (*data, "--train", f"{user_file}:none"),
            "--train: expected a function of user_file.py, got 'none'.",
        ),
        (
            (*data, "--read", f"{user_file}:pairless"),
            "(network, rows that it was held out from), got Sequential.",
        ),
        (
            (*data, "--train", "train.py"),
            "--train: expected path/to/file.py:function, got 'train.py'.",
        ),
    ):
        result = call(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2, (arguments, result.output)
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
    broken = own(user_file, tmp_path / "out", "--train", f"{user_file}:bug")
    assert isinstance(broken.exception, KeyError)


def test_without_matplotlib_there_is_no_picture(
    tmp_path: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "matplotlib" else find_spec(name),
    )
    done = own(user_file, tmp_path / "out", "--train", f"{user_file}:train", "--networks", 2)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / "groups.png").exists()
