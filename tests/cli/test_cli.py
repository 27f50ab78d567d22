"""The command line: what it prints, writes, refuses, and how it ends."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pdepth import cli
from pdepth.result import DepthResult

for module in ("pyarrow", "matplotlib", "PIL"):
    pytest.importorskip(module)

MINE = """
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
def mine(tmp_path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def call(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one sentence with which a call is refused."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_run_measures_shows_and_writes(tmp_path, mine):
    out = tmp_path / "a" / "b"
    result = call(
        "run", f"{mine}:net", "--support", f"{mine}:support", "--queries", f"{mine}:queries",
        "--k", 3, "--all-votes", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    saved = DepthResult.load(out / "depth.parquet")
    assert sorted(os.listdir(out)) == ["depth.parquet", "depth.png"]
    assert (len(saved), saved.k, saved.leave_one_out) == (20, 3, False)
    assert saved.known.all()
    np.testing.assert_array_equal(saved.predictions, saved.labels)
    assert saved.meta["support"] == f"{mine}:support"
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


def test_run_of_the_support_itself_with_early_exit(tmp_path, mine):
    result = call(
        "run", f"{mine}:net", "--support", f"{mine}:support", "-k", 3, "--out", tmp_path / "o"
    )
    assert result.exit_code == 0, result.output
    saved = DepthResult.load(tmp_path / "o" / "depth.parquet")
    assert (len(saved), saved.leave_one_out) == (60, True)
    assert not saved.known.all()
    assert "--all-votes asks them all" in result.stdout


def test_several_k_write_a_table_each_and_one_picture(tmp_path, mine):
    out = tmp_path / "o"
    arguments = (
        "run", f"{mine}:net", "--support", f"{mine}:support", "--queries", f"{mine}:queries",
        "-k", 9, "-k", 3, "--metric", "cosine", "--vote-weights", "exp",
        "--reference", "last_probe", "--out", out,
    )  # fmt: skip
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(out)) == ["depth-by-k.png", "depth-k3.parquet", "depth-k9.parquet"]
    results = {k: DepthResult.load(out / f"depth-k{k}.parquet") for k in (3, 9)}
    for k, each in results.items():
        assert (each.k, each.reference, len(each)) == (k, "last_probe", 20)
        assert {"metric", "weights", "temperature", "queries"} <= set(each.meta)
        row = rf"^ *{k} +{each.depth.mean():.2f} +0\.0 %"
        assert re.search(row, result.stdout, re.MULTILINE), (row, result.stdout)
    assert "rank correlation with k = 9" in result.stdout
    assert "k = 3, against the last probe" in result.stdout
    assert "already holds depth-k9.parquet, depth-k3.parquet, depth-by-k.png" in refused(*arguments)


def test_weights_and_layers(tmp_path, mine):
    spec = importlib.util.spec_from_file_location("mine", mine)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = module.net().state_dict()
    state["4.bias"] += torch.tensor([0.0, 1e6, 0.0])  # whatever is put in, class 1 comes out
    torch.save(state, tmp_path / "w.pt")
    result = call(
        "run", f"{mine}:net", "--weights", tmp_path / "w.pt", "--support", f"{mine}:support",
        "--layers", "0,2", "-k", 3, "--out", tmp_path / "o", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.output == ""
    saved = DepthResult.load(tmp_path / "o" / "depth.parquet")
    assert (saved.predictions == 1).all()
    assert {"0", "2"} <= set(saved.probes)


def test_every_option_reaches_prediction_depth(tmp_path, mine, monkeypatch):
    asked = {}

    def record(model, support, queries, **options):
        asked.update(options, rows=len(support), queries=queries)
        raise ImportError("far enough")

    monkeypatch.setattr("pdepth.depth.prediction_depth", record)
    sentence = refused(
        "run", f"{mine}:net", "--support", f"{mine}:support", "--out", tmp_path / "o", "-k", 7,
        "--layers", "0, 2", "--batch-size", 11, "--device", "cpu", "--threads", 3,
        "--backend", "cpu", "--memory", "2GiB", "--all-votes", "--quiet", "--metric", "cosine",
        "--vote-weights", "exp", "--temperature", "0.1", "--reference", "label",
        "--keep-embeddings", tmp_path / "kept",
    )  # fmt: skip
    assert sentence == "Error: far enough\n"
    assert asked == {
        "rows": 60,
        "queries": None,
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
    }


def test_a_run_that_was_interrupted_goes_on(tmp_path, mine, monkeypatch):
    from pdepth.io import journal

    keep, left = journal.Journal.keep, [2]

    def cut(*given):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        keep(*given)

    monkeypatch.setattr(journal.Journal, "keep", cut)
    out = tmp_path / "o"
    command = ["run", f"{mine}:net", "--support", f"{mine}:support", "--out", out, "-k", 5, "-q"]
    result = call(*command)
    assert result.exit_code == 130
    assert "The same command goes on from here." in result.stderr
    assert len(list((out / ".unfinished").glob("votes-*"))) == 2
    left[0] = 99
    sentence = refused(*command[:-3], "-k", 6, "-q")
    assert "holds a run of which k differs: 5 then, 6 now; use another directory" in sentence
    assert sentence.endswith("--overwrite does so here.\n")
    (out / "depth.parquet").touch()  # cut short while it wrote
    assert call(*command).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["depth.parquet", "depth.png"]
    left[0] = 2
    assert call(*command, "--overwrite").exit_code == 130
    left[0] = 99
    assert call(*command[:-3], "-k", 6, "-q", "--overwrite").exit_code == 0
    assert DepthResult.load(out / "depth.parquet").k == 6
    assert call(*command, "--overwrite").exit_code == 0
    other = tmp_path / "other"
    command[command.index(out)] = other
    assert call(*command).exit_code == 0
    one, two = (DepthResult.load(each / "depth.parquet") for each in (out, other))
    assert (one.votes == two.votes).all()
    assert (one.depth == two.depth).all()


def test_what_a_run_will_cost(tmp_path, mine):
    for command in (("plan",), ("run", "--dry-run", "--out", tmp_path / "o")):
        result = call(*command, f"{mine}:net", "--support", f"{mine}:support", "-k", 5)
        assert result.exit_code == 0, result.output
        lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
        assert lines["rows"] == "60 of support, each left out of its own vote"
        assert "in 1 pass, " in lines["forward"]
        assert lines["time"].endswith(" at most, as measured here")
    assert not (tmp_path / "o").exists()
    assert refused("plan", f"{mine}:net") == "Error: --support DATA is needed.\n"


def test_show_probes(mine):
    result = call("run", f"{mine}:net", "--show-probes", "--support", f"{mine}:support")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[-1][1:3] == ["probes,", "placed"]
    assert any(line[:1] == ["softmax"] and line[-1] == "3" for line in lines)
    assert any(line[:1] == ["input"] and line[-1] == "6" for line in lines)


def test_without_matplotlib_the_table_is_written_and_a_line_says_why(tmp_path, mine, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    (tmp_path / "depth.png").write_text("of an older run")
    result = call(
        "run", f"{mine}:net", "--support", f"{mine}:support", "-k", 3, "--out", tmp_path,
        "--overwrite",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "pip install 'pdepth[plot]'" in result.stdout
    assert (tmp_path / "depth.parquet").exists()
    assert not (tmp_path / "depth.png").exists()


def test_existing_results_are_kept_unless_told(tmp_path, mine):
    (tmp_path / "depth.parquet").write_text("precious")
    arguments = ("run", f"{mine}:net", "--support", f"{mine}:support", "-k", 3, "--out", tmp_path)
    assert "already holds depth.parquet; pass --overwrite." in refused(*arguments)
    assert "already holds depth.parquet" in refused("demo", "--out", tmp_path)
    assert (tmp_path / "depth.parquet").read_text() == "precious"
    assert call(*arguments, "--overwrite").exit_code == 0
    assert len(DepthResult.load(tmp_path / "depth.parquet")) == 60


def test_an_impossible_out_is_refused_before_any_work(tmp_path, mine, monkeypatch):
    arguments = ("run", "file_that_is_gone.py:net", "--support", f"{mine}:support", "--out")
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in refused(*arguments, tmp_path / "file" / "deeper")

    def refuse(**_: object) -> str:
        raise PermissionError("no")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert "is not writable" in refused(*arguments, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_mistakes_are_one_sentence(tmp_path, mine):
    net, data, out = f"{mine}:net", f"{mine}:support", tmp_path / "o"
    base = ("run", net, "--support", data, "--out", out)
    assert "--support DATA and --out DIR are needed" in refused("run", net)
    assert "needs --weights FILE" in refused(
        "run", "torchvision:resnet18", "--support", data, "--out", out
    )
    assert "--mean 'a,b' is not numbers with commas" in refused(*base, "--mean", "a,b")
    assert "k is 60" in refused(*base, "-k", 60)
    assert "k holds 3 twice" in refused(*base, "-k", 3, "-k", 3)
    assert "--metric is 'l1'; one of sqeuclidean, cosine is" in refused(*base, "--metric", "l1")
    assert "--vote-weights is 'w.pt'; one of" in refused(*base, "--vote-weights", "w.pt")
    assert "--reference is 'truth'; one of" in refused(*base, "--reference", "truth")
    assert "temperature goes with weights='exp'" in refused(*base, "--temperature", 1)
    assert "'fastest'" in refused(*base, "-k", 3, "--backend", "fastest")
    assert "'abacus'" in refused(*base, "-k", 3, "--device", "abacus")
    assert "there is no file" in refused(*base, "--queries", "npz:gone.npz")
    assert not out.exists()


def test_a_bug_keeps_its_traceback(tmp_path, mine):
    result = call("run", f"{mine}:net", "--support", f"{mine}:bug", "--out", tmp_path / "o")
    assert isinstance(result.exception, RuntimeError)
    assert isinstance(result.exception.__cause__, KeyError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "depth.parquet"), "depth.parquet: No space left"),
        (ImportError("two\nlines"), "two lines"),
        (MemoryError(), "MemoryError."),
    ],
)
def test_errors_become_one_line(capsys, error, line):
    with pytest.raises(SystemExit) as end, cli._sentences():
        raise error
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"Error: {line}")


def test_a_model_that_fails_keeps_its_traceback(tmp_path, mine):
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) + 'a'\n"
        "def net():\n"
        "    return Net(torch.nn.Flatten(), torch.nn.LazyLinear(3), torch.nn.Linear(3, 3))\n"
    )
    options = ("--support", f"{mine}:support", "--out", tmp_path / "o", "-k", 3)
    result = call("run", f"{broken}:net", *options)
    assert isinstance(result.exception, TypeError)
    assert not (tmp_path / "o").exists()


def test_version_and_help():
    assert re.fullmatch(r"pdepth \d+\.\d+\S*\n", call("--version").stdout)
    for command in ((), ("run",), ("demo",)):
        assert "Usage:" in call(*command, "--help").stdout
    assert "--show-probes" in call("run", "--help").stdout


def test_help_imports_nothing_slow():
    code = (
        "import sys\nfrom pdepth.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'pyarrow', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root(), stdout=subprocess.DEVNULL)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path, mine):
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "pdepth", "run", f"{mine}:net", "--support", f"{mine}:Slow"]
    with subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=root(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)  # the data would take minutes
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in errors
    assert os.listdir(out) == []


def test_demo(tmp_path):
    pytest.importorskip("sklearn")
    before = torch.get_rng_state()
    result = call("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert torch.equal(before, torch.get_rng_state())
    assert sorted(os.listdir(tmp_path)) == ["depth.parquet", "depth.png", "support.parquet"]
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


def root() -> Path:
    return Path(__file__).parents[2]
