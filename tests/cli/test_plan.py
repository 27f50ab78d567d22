"""`pdepth plan` and `pdepth run --dry-run`."""

from __future__ import annotations

import pytest

from pdepth import DepthResult

from helpers.commands import invoke, refusal

pytest.importorskip("pyarrow")


def test_the_cost_of_a_run(tmp_path, user_file):
    for command in (("plan",), ("run", "--dry-run", "--out", tmp_path / "o")):
        result = invoke(*command, f"{user_file}:net", "--support", f"{user_file}:support", "-k", 5)
        assert result.exit_code == 0, result.output
        lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
        assert lines["rows"] == "60 of support, each left out of its own vote"
        assert "in 1 pass, " in lines["forward"]
        assert lines["time"].endswith(" at most, as measured here")
    assert not (tmp_path / "o").exists()
    assert refusal("plan", f"{user_file}:net") == "Error: --support: expected DATA, got none.\n"


def test_what_max_width_would_make_of_it(tmp_path):
    """A plan beyond the memory names it; one with it, and a dry run, say what is averaged."""
    pytest.importorskip("torch")
    images = tmp_path / "images.py"
    images.write_text(
        "import torch\n"
        "def net():\n"
        "    return torch.nn.Sequential(\n"
        "        torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(),\n"
        "        torch.nn.Linear(32 * 30 * 30, 3),\n"
        "    )\n"
        "def data():\n"
        "    images = torch.rand(60, 3, 32, 32)\n"
        "    return torch.utils.data.TensorDataset(images, torch.arange(60) % 3)\n"
    )
    options = (f"{images}:net", "--support", f"{images}:data", "-k", 3, "--memory", "5MB")
    whole = invoke("plan", *options)
    assert whole.exit_code == 0, whole.output
    lines = dict(line.split(maxsplit=1) for line in whole.stdout.splitlines())
    assert lines["probes"] == "3, widths 3072; 28800; 3"
    assert lines["narrower"] == "max_width=4096 would need 1.7 MB and 50 MFLOP"
    for command in (("plan",), ("run", "--dry-run")):
        narrow = invoke(*command, *options, "--max-width", 4096, "--pool", "input=max")
        assert narrow.exit_code == 0, narrow.output
        lines = dict(line.split(maxsplit=1) for line in narrow.stdout.splitlines())
        assert lines["probes"] == "3, widths 3; 3872; 3"
        assert lines["note"] == "max_width 4096: averaged to fewer positions at 1"
        assert "narrower" not in lines


def test_disk_in_place_of_more_forward_passes(tmp_path, user_file):
    """Priced by a plan and a dry run; a run leaves nothing of it, and a folder has to be there."""
    disk, none = tmp_path / "disk", tmp_path / "none"
    disk.mkdir()
    options = (f"{user_file}:net", "--support", f"{user_file}:support", "-k", 5)
    little = ("--memory", "2kB", "--spill")
    for command in (("plan",), ("run", "--dry-run")):
        result = invoke(*command, *options, *little, disk)
        assert result.exit_code == 0, result.output
        lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
        assert lines["spill"].startswith(f"4.6 kB to {disk}, read from there: 1 forward pass in")
        assert lines["disk"].startswith("4.6 kB written, ")
        assert "in 1 pass, " in lines["forward"]
        sentence = refusal(*command, *options, *little, none)
        assert sentence.startswith("Error: spill: expected an existing folder or 'auto', got ")
    depths = []
    for name, more in (("whole", ()), ("spilled", (*little, disk))):
        result = invoke("run", *options, "--out", tmp_path / name, *more)
        assert result.exit_code == 0, result.output
        depths.append(DepthResult.load(tmp_path / name / "depth.parquet").votes.tolist())
    assert depths[0] == depths[1]
    assert list(disk.iterdir()) == []
