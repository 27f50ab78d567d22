"""`pdepth explain`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pdepth
from pdepth import DepthResult

from helpers.commands import invoke, refusal

for module in ("pyarrow", "pandas", "matplotlib", "PIL"):
    pytest.importorskip(module)


def test_kept_neighbours_are_said_and_drawn(tmp_path: Path, user_file: Path) -> None:
    out = tmp_path / "o"
    command = ("run", f"{user_file}:net", "--support", f"{user_file}:support", "--out", out)
    assert invoke(*command, "-k", 5, "--keep-neighbors", 3, "-q").exit_code == 0
    result = DepthResult.load(out / "depth.parquet")
    said = invoke("explain", out, 4, 11, "--out", tmp_path / "why")
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith(f"row 4, label {result.labels[4]}, seen as ")
    assert "The pictures come from Python code" in said.stderr
    names = {"explanation.csv", "row-4.png", "row-4.pdf", "row-11.png", "row-11.pdf"}
    assert {path.name for path in (tmp_path / "why").iterdir()} == names
    lines = (tmp_path / "why" / "explanation.csv").read_text().splitlines()
    assert lines[0] == "row,probe,rank,neighbor,distance,label,agrees"
    kept = pdepth.open_neighbors(out / "neighbors.pdepth")
    assert len(lines) - 1 == 3 * kept.searched[:, [4, 11]].sum()
    assert refusal("explain", out, 4, "--out", tmp_path / "why").startswith("Error: out: expected")
    again = invoke("explain", out, 4, "--out", tmp_path / "why", "--overwrite", "-q")
    assert (again.exit_code, again.stdout) == (0, "")


def test_rows_and_runs_that_are_not_there(tmp_path: Path, user_file: Path) -> None:
    out = tmp_path / "o"
    command = ("run", f"{user_file}:net", "--support", f"{user_file}:support", "--out", out)
    assert invoke(*command, "-k", 5, "--keep-neighbors", 3, "-q").exit_code == 0
    assert refusal("explain", out, 60) == "Error: rows: expected rows from 0 to 59, got 60.\n"
    assert refusal("explain", tmp_path / "none", 0).startswith("Error: RESULTS: expected a folder")


def test_a_run_without_neighbours_is_searched_again(tmp_path: Path, user_file: Path) -> None:
    """After its plan; code only where it is named."""
    out, options = tmp_path / "o", ("--support", f"{user_file}:support")
    more = ("--queries", f"{user_file}:queries")
    assert invoke("run", f"{user_file}:net", *options, *more, "--out", out, "-k", 5).exit_code == 0
    sentence = refusal("explain", out, 3)
    assert f"or --model {user_file}:net." in sentence
    model = ("--model", f"{user_file}:net")
    said = invoke("explain", out, 3, *model, *options, *more)
    assert said.exit_code == 0, said.output
    assert "rows        60 of support, 1 queries" in said.stderr
    assert said.stdout.startswith("row 3, ")


def test_pictures_of_a_folder_and_texts(tmp_path: Path) -> None:
    """Both sides of held-out data are found again."""
    pytest.importorskip("torch")
    from PIL import Image

    rng = np.random.default_rng(0)
    for side, count in (("train", 12), ("test", 4)):
        for number in range(count):
            folder = tmp_path / side / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    nets = tmp_path / "nets.py"
    nets.write_text(
        "import torch\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))\n"
    )
    out = tmp_path / "o"
    data = (
        "--support",
        f"imagefolder:{tmp_path}/train",
        "--queries",
        f"imagefolder:{tmp_path}/test",
    )
    ran = invoke("run", f"{nets}:net", *data, "--out", out, "-k", 3, "--keep-neighbors", 2, "-q")
    assert ran.exit_code == 0, ran.output
    said = invoke("explain", out, 1, "--out", tmp_path / "why")
    assert said.exit_code == 0, said.output
    assert said.stderr == ""
    assert "label a" in said.stdout
    (tmp_path / "train").rename(tmp_path / "moved")
    said = invoke("explain", out, 1, "--out", tmp_path / "why", "--overwrite")
    assert said.exit_code == 0, said.output
    assert "There are no pictures" in said.stderr
    now = ("--support", f"imagefolder:{tmp_path}/moved")
    said = invoke("explain", out, 1, *now, "--out", tmp_path / "why", "--overwrite")
    assert (said.exit_code, said.stderr) == (0, "")
