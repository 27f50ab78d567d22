"""`pdepth report`: results of a run, a demo or an ensemble as a page, with their images."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pdepth import cli, demo, inputs
from pdepth.report.figures import pdf
from pdepth.result import DepthResult

from helpers.pages import (
    NAMES,
    N,
    PartlyReadable,
    ensemble_example,
    example,
    grey_images,
    read_script,
)
from helpers.torch_or_skip import torch

for module in ("plotly", "pyarrow", "matplotlib", "PIL"):
    pytest.importorskip(module)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Results of a folder of images, of which one has broken since."""
    from PIL import Image

    root = tmp_path / "images"
    result = example()
    files = []
    for row, label in enumerate(result.labels):
        file = root / "abcd"[label] / f"{row:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey_images()[row]).save(file)
        files.append((label, row, file))
    order = [row for _, row, _ in sorted(files)]
    meta = {"queries": f"imagefolder:{root}", "support": "npz:elsewhere.npz"}
    out = tmp_path / "run"
    out.mkdir()
    dataclasses.replace(
        result, depth=result.depth[order], undefined=result.undefined[order],
        votes=result.votes[:, order], known=result.known[:, order],
        predictions=result.predictions[order], labels=result.labels[order], meta=meta,
    ).save(out / "depth.parquet")  # fmt: skip
    first = min(files)[2]
    first.write_bytes(first.read_bytes()[:40])
    return out


def test_report_finds_the_pictures_of_a_run(tmp_path: Path, run_dir: Path) -> None:
    result = call(run_dir)
    assert result.exit_code == 0, result.output
    assert "1 of 240 pictures cannot be read." in result.stderr
    assert f"Wrote {run_dir / 'report.html'} (" in result.stdout
    text = (run_dir / "report.html").read_text()
    assert [value["name"] for value in json.loads(read_script(text, "header"))["classes"]] == list(
        "abcd"
    )
    assert len(json.loads(read_script(text, "thumbnails"))["examples"]) == 239
    assert "which exists; pass --overwrite" in refused(run_dir)
    shutil.rmtree(tmp_path / "images")
    moved = call(run_dir / "depth.parquet", "--overwrite", "-q")
    assert (moved.exit_code, moved.output) == (0, "")
    assert "There are no pictures" in (run_dir / "report.html").read_text()


def test_pictures_for_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fewer in ("network.PER_PROBE", "depth.ROWS", "depth.COLUMNS"):  # they take a second each
        monkeypatch.setattr(f"pdepth.report.figures.{fewer}", 2)
    folder = pdf.write(example(10), tmp_path / "report.html", PartlyReadable(10), NAMES)
    assert sorted(os.listdir(tmp_path)) == ["report-figures"]
    names = {"depth", "agreement", "against-depth", "confused-pairs", "settling"}
    assert {file.stem for file in folder.iterdir()} == names
    assert all(file.read_bytes().startswith(b"%PDF") for file in folder.iterdir())
    (folder / "notes.txt").touch()
    example(10).save(tmp_path / "depth.parquet")
    assert "expected a folder that may be replaced, got one that holds notes.txt" in refused(
        tmp_path, "--pdf"
    )
    assert not (tmp_path / "report.html").exists()


def test_a_run_is_reported_with_its_pictures_and_names(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from PIL import Image

    for row, picture in enumerate(grey_images(40)):
        file = tmp_path / "images" / ("<a>", "b")[row % 2] / f"{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "def net():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))\n"
    )
    command = ["run", tmp_path / "nets.py:net", "--support", f"imagefolder:{tmp_path}/images"]
    options = ["--mean", "0.5", "--std", "0.5", "-k", 3, "--out", tmp_path / "out", "-q"]
    ran = CliRunner().invoke(cli.app, [str(value) for value in command + options])
    assert ran.exit_code == 0, ran.output
    assert call(tmp_path / "out", "-q").output == ""
    text = (tmp_path / "out" / "report.html").read_text()
    header = json.loads(read_script(text, "header"))
    assert [value["name"] for value in header["classes"]] == ["<a>", "b"]
    first = base64.b64decode(json.loads(read_script(text, "thumbnails"))["examples"]["0"])
    with Image.open(io.BytesIO(first)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")), grey_images(40)[0])


def test_what_lies_beside_an_earlier_page_goes_with_it(tmp_path: Path) -> None:
    example().save(tmp_path / "depth.parquet")
    for name in ("report-figures", "report-thumbnails", "other"):
        (tmp_path / name).mkdir()
    assert call(tmp_path).exit_code == 0
    assert (tmp_path / "report-figures").exists()
    assert call(tmp_path, "--overwrite").exit_code == 0
    assert sorted(value.name for value in tmp_path.iterdir()) == [
        "depth.parquet", "other", "report.html",
    ]  # fmt: skip
    (tmp_path / "report-figures").mkdir()
    (tmp_path / "report-figures" / "mine.txt").touch()
    assert call(tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "report-figures" / "mine.txt").exists()


def test_report_knows_data_that_is_another(tmp_path: Path, run_dir: Path) -> None:
    pytest.importorskip("torch")
    x, labels = grey_images(), DepthResult.load(run_dir / "depth.parquet").labels
    np.savez(tmp_path / "few.npz", x=x[:9], y=labels[:9])
    np.savez(tmp_path / "other.npz", x=x, y=labels[::-1])
    np.savez(tmp_path / "flat.npz", x=np.zeros((N, 5), np.float32), y=labels)
    np.savez(tmp_path / "same.npz", x=x, y=labels)
    assert "images: expected 240 rows in" in refused(run_dir, "--images", f"npz:{tmp_path}/few.npz")
    assert "images: expected the labels of the results in" in refused(
        run_dir, "--images", f"npz:{tmp_path}/other.npz"
    )
    assert "images: expected images (H, W, C) or (C, H, W)" in refused(
        run_dir, "--images", f"npz:{tmp_path}/flat.npz"
    )
    assert not (run_dir / "report.html").exists()
    assert call(run_dir, "--images", f"npz:{tmp_path}/same.npz").exit_code == 0
    code = tmp_path / "mine.py"  # whose labels come only with their inputs
    code.write_text(
        "import numpy as np, torch\n"
        "class Rows(torch.utils.data.Dataset):\n"
        "    def __init__(self, x, y): self.x, self.y = x, y\n"
        "    def __len__(self): return len(self.x)\n"
        "    def __getitem__(self, row): return np.atleast_3d(self.x[row]), self.y[row]\n"
        "def rows(file):\n"
        f"    held = np.load('{tmp_path}/' + file)\n"
        "    return Rows(held['x'], held['y'])\n"
        "def same():\n    return rows('same.npz')\n"
        "def other():\n    return rows('other.npz')\n"
    )
    assert "images: expected the labels of the results in" in refused(
        run_dir, "--overwrite", "--images", f"{code}:other"
    )
    assert call(run_dir, "--overwrite", "--images", f"{code}:same").exit_code == 0


def test_report_runs_no_code_that_a_result_names(tmp_path: Path) -> None:
    code = tmp_path / "data.py"
    code.write_text("raise SystemExit('it ran')")
    dataclasses.replace(example(), meta={"queries": f"{code}:data"}).save(
        tmp_path / "depth.parquet"
    )
    result = call(tmp_path)
    assert result.exit_code == 0, result.output
    assert f"runs only for --images {code}:data" in result.stderr


def test_report_of_an_ensemble_and_of_several_k(tmp_path: Path) -> None:
    ensemble_example().save(tmp_path / "ensemble.parquet")
    assert call(tmp_path, "--pdf", "-q").exit_code == 0
    assert os.listdir(tmp_path / "report-figures") == ["groups.pdf"]
    of_k = tmp_path / "k"
    of_k.mkdir()
    for k in (5, 30):
        dataclasses.replace(example(), k=k).save(of_k / f"depth-k{k}.parquet")
    assert call(of_k, "-q").exit_code == 0
    assert "Depth against the number of neighbours" in (of_k / "report.html").read_text()


def test_report_of_what_is_no_result(tmp_path: Path) -> None:
    assert "expected a folder or a Parquet file, got" in refused(tmp_path / "nowhere")
    assert "expected depth.parquet, depth-k*.parquet or ensemble.parquet in" in refused(tmp_path)
    (tmp_path / "depth.parquet").write_text("no")
    assert "expected a Parquet file, got one that cannot be read" in refused(tmp_path)
    for name in ("plotly", "pyarrow"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(__import__("sys").modules, name, None)
            assert f"needs {name}: pip install 'pdepth[report]'" in refused(tmp_path)


def test_report_of_an_unfinished_run(tmp_path: Path) -> None:
    from pdepth.io.journal import Journal

    journal = Journal(tmp_path / "o", {"the list of probes": "input, block, softmax"})
    journal.close()
    missing = "its first reading of the data and the votes of all 3 probes are missing"
    assert missing in refused(tmp_path / "o")
    journal.write("reading", {})
    assert "interrupted: the votes of all 3 probes are missing" in refused(tmp_path / "o")
    journal.write_votes(2, 0, np.arange(3), [])
    assert "votes of 2 of 3 probes are missing (input, block)" in refused(tmp_path / "o")
    (tmp_path / "run").mkdir()
    (tmp_path / "o").rename(tmp_path / "run" / ".unfinished")
    assert "votes of 2 of 3 probes are missing" in refused(tmp_path / "run")


def test_the_demo_and_runs_say_where_their_pictures_are(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from pdepth.report import pictures

    digits = demo.moved_digits().tensors[1].numpy()
    images = demo.moved_digits().tensors[0][:, 0].numpy()
    built_in = {demo.DATA: demo.result_images}
    for own, rows in ((True, slice(0, demo.SUPPORT)), (False, slice(demo.SUPPORT, None))):
        labels = digits[rows]
        result = dataclasses.replace(
            example(len(labels)), leave_one_out=own, meta={"data": demo.DATA}
        )
        np.testing.assert_array_equal(
            pictures.find_images(result, None, built_in).images, images[rows]
        )
    options = inputs.ImageOptions(7)
    data = torch.utils.data.TensorDataset(torch.zeros(2, 3, 4, 4), torch.arange(2))
    assert pictures.image_meta(data, options) == {"image_size": "7"}
    data.classes = ["a", "b"]
    result = dataclasses.replace(example(), meta=pictures.image_meta(data, options))
    assert pictures.find_images(result).names == ["a", "b"]
