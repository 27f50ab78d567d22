"""Options of how images are read: --as-imagefolder, --skip-unreadable and --classes."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

from pdepth.analysis.ensemble import Ensemble
from pdepth.inputs import read_class_names
from pdepth.result import DepthResult

from helpers.commands import invoke, refusal
from helpers.image_files import encoded, image_folder, npz, parquet, pixels

for module in ("pyarrow", "matplotlib", "torchvision"):
    pytest.importorskip(module)
Image = pytest.importorskip("PIL.Image")

NETWORK = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)
    )

def train(data, seed):
    for row in data:
        assert row[0].shape == (3, 4, 4)
    return net()

def networks():
    yield net(), range(12)
    yield net(), range(12, 24)
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORK)
    return f"{tmp_path / 'nets.py'}:net"


def images_of_three(root, names="abc", seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (3, 8, 4, 4, 3), np.uint8)
    return image_folder(root, {n: list(of) for n, of in zip(names, images, strict=True)})


def run(*arguments):
    result = invoke("run", *arguments, "-k", 3)
    assert result.exit_code == 0, result.output
    return result


def test_skipped_rows_are_counted_and_listed(tmp_path, net):
    root, out = images_of_three(tmp_path / "data"), tmp_path / "o"
    (root / "b" / "1.png").write_bytes(b"no")
    (root / "c" / "7.png").write_bytes(encoded(pixels(4, 4, 3))[:50])
    command = (net, "--support", f"imagefolder:{root}", "--out", out)
    assert "b/1.png cannot be read as an image" in refusal("run", *command, "-k", 3, "-q")
    result = run(*command, "--skip-unreadable")
    assert "Skipped 2 rows of support, which cannot be read." in result.stdout
    assert str(out / "skipped.csv") in result.stdout
    assert "Warning: support: skipped 2 of 24 rows, which cannot be read: 9, 23" in result.stderr
    saved = DepthResult.load(out / "depth.parquet")
    assert saved.rows.tolist() == [row for row in range(24) if row not in (9, 23)]
    with (out / "skipped.csv").open(newline="") as file:
        listed = list(csv.reader(file))
    assert listed[0] == ["data", "row", "reason"]
    assert [line[:2] for line in listed[1:]] == [["support", "9"], ["support", "23"]]
    assert listed[1][2] == saved.skipped["support"][9]
    assert sorted(os.listdir(out)) == ["depth.parquet", "depth.png", "skipped.csv"]
    (root / "b" / "1.png").write_bytes(encoded(pixels(4, 4, 3)))
    (root / "c" / "7.png").write_bytes(encoded(pixels(4, 4, 3)))
    run(*command, "--skip-unreadable", "--overwrite")
    assert sorted(os.listdir(out)) == ["depth.parquet", "depth.png"]


def test_the_report_shows_the_images_of_the_rows_that_were_read(tmp_path, net):
    pytest.importorskip("plotly")
    root, out = images_of_three(tmp_path / "data"), tmp_path / "o"
    (root / "a" / "0.png").write_bytes(b"no")
    run(net, "--support", f"imagefolder:{root}", "--out", out, "--skip-unreadable")
    result = invoke("report", out)
    assert result.exit_code == 0, result.output
    assert "no pictures" not in result.output
    assert "cannot be read" not in result.output
    page = (out / "report.html").read_text()
    assert "Rows of support that cannot be read" in page
    assert "1, which were skipped" in page
    from pdepth.report.pictures import find_images

    saved = DepthResult.load(out / "depth.parquet")
    shown = find_images(saved).images
    assert len(shown) == 23
    np.testing.assert_array_equal(shown[0], np.asarray(Image.open(root / "a" / "1.png")))
    changed = images_of_three(tmp_path / "other", "bca")
    result = invoke("report", out, "--images", f"imagefolder:{changed}", "--overwrite")
    assert result.exit_code == 0, result.output  # the labels are the same


def test_as_imagefolder_reaches_the_run_and_its_report(tmp_path, net):
    root = images_of_three(tmp_path / "data")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels(4, 4, 3)).save(root / "a" / "9.png", exif=exif)
    command = (net, "--support", f"imagefolder:{root}")
    result = run(*command, "--out", tmp_path / "upright")
    assert "otherwise in 1 rows: images that EXIF turns (1)" in result.stderr
    assert result.stderr.count("otherwise") == 1
    result = run(*command, "--out", tmp_path / "as", "--as-imagefolder")
    assert "otherwise" not in result.stderr
    from pdepth.report.pictures import find_images

    for out, expected in (("upright", np.rot90(pixels(4, 4, 3), -1)), ("as", pixels(4, 4, 3))):
        saved = DepthResult.load(tmp_path / out / "depth.parquet")
        np.testing.assert_array_equal(find_images(saved).images[8], expected)
    data = npz(tmp_path / "a.npz", x=pixels(9, 4, 4, 3), y=np.arange(9) % 3)
    sentence = refusal("run", net, "--support", data, "--out", tmp_path / "x", "--as-imagefolder")
    assert "--as-imagefolder (as_imagefolder=True): expected DATA imagefolder:DIR" in sentence
    assert not (tmp_path / "x").exists()


def test_hidden_folders_are_no_classes_in_queries_either(tmp_path, net):
    train, test = images_of_three(tmp_path / "train"), images_of_three(tmp_path / "test", seed=1)
    for file in (train / ".cache" / "a.png", test / "b" / ".b.png"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded(pixels(4, 4, 3)))
    for file in (test / "a").iterdir():
        file.unlink()
    result = run(
        net, "--support", f"imagefolder:{train}", "--queries", f"imagefolder:{test}",
        "--out", tmp_path / "o",
    )  # fmt: skip
    assert "Warning: DATA imagefolder: no images in 1 of 3 class folders" in result.stderr
    saved = DepthResult.load(tmp_path / "o" / "depth.parquet")
    assert saved.labels.tolist() == [1] * 8 + [2] * 8
    assert json.loads(saved.meta["class_names"]) == ["a", "b", "c"]


def test_classes_name_and_number(tmp_path, net):
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n\n", encoding="utf-8")
    (tmp_path / "names.json").write_text('["owl", "cat", "dog"]')
    numbers = npz(tmp_path / "a.npz", x=pixels(24, 4, 4, 3), y=np.arange(24) % 3)
    names = np.array(["cat", "dog", "owl"])[np.arange(24) % 3].tolist()
    images = [encoded(image) for image in pixels(24, 4, 4, 3)]
    table = parquet(tmp_path / "a.parquet", image=images, label=names)
    for number, (data, file, first) in enumerate(
        [(numbers, "names.txt", 0), (table, "names.txt", 0), (table, "names.json", 1)]
    ):
        out = tmp_path / f"o{number}"
        run(net, "--support", data, "--classes", tmp_path / file, "--out", out)
        saved = DepthResult.load(out / "depth.parquet")
        assert json.loads(saved.meta["class_names"]) == read_class_names(tmp_path / file)
        assert saved.labels[0] == first


def test_classes_that_do_not_fit_are_refused(tmp_path, net):
    def refused(data, text, name="names.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return refusal(
            "run", net, "--support", data, "--classes", tmp_path / name, "--out", tmp_path / "o"
        )

    numbers = npz(tmp_path / "a.npz", x=pixels(24, 4, 4, 3), y=np.arange(24) % 3)
    folder = f"imagefolder:{images_of_three(tmp_path / 'data')}"
    assert "expected names for the numbers 0 to 2 of support, got 2" in refused(numbers, "a\nb")
    assert "all classes of support, got none named 'c'" in refused(folder, "a\nb")
    assert "expected each name once in" in refused(folder, "a\nb\na\nc")
    for name, text in (("a.txt", ""), ("b.txt", "a\n\nb"), ("c.json", "{}"), ("d.json", "[1]")):
        assert "expected" in refused(folder, text, name)
        assert name in refused(folder, text, name)
    assert "classes: expected an existing file" in refusal(
        "run", net, "--support", folder, "--classes", tmp_path / "gone", "--out", tmp_path / "o"
    )
    assert not (tmp_path / "o").exists()


def test_plan_takes_the_options(tmp_path, net):
    root = images_of_three(tmp_path / "data")
    (root / "b" / "1.png").write_bytes(b"no")
    (tmp_path / "names.txt").write_text("a\nb\nc")
    result = invoke(
        "plan", net, "--support", f"imagefolder:{root}", "-k", 3, "--skip-unreadable",
        "--as-imagefolder", "--classes", tmp_path / "names.txt",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "23 of support" in result.stdout


def test_ensembles_take_folders_as_imagefolder(tmp_path, net):
    root = images_of_three(tmp_path / "data")
    (root / ".z").mkdir()
    (root / ".z" / "a.png").write_bytes(encoded(pixels(4, 4, 3)))
    (tmp_path / "names.txt").write_text("c\nb\na\n.z")
    command = (
        "ensemble", "--data", f"imagefolder:{root}", "--train", f"{net.removesuffix('net')}train",
        "--networks", 2, "-k", 3, "--quiet",
    )  # fmt: skip
    result = invoke(
        *command, "--as-imagefolder", "--classes", tmp_path / "names.txt", "--out", tmp_path / "o"
    )
    assert result.exit_code == 0, result.output
    stored = Ensemble.load(tmp_path / "o" / "ensemble.parquet")
    assert stored.labels.tolist() == [3] + [2] * 8 + [1] * 8 + [0] * 8
    assert stored.meta["as_imagefolder"] == "True"
    (tmp_path / "names.txt").write_text("c\nb\na")
    names = ("--classes", tmp_path / "names.txt")
    sentence = refusal(*command, *names, "--out", tmp_path / "o")
    assert "expected networks with as_imagefolder unset, got True; pass --overwrite" in sentence
    command = (*command, *names, "--out", tmp_path / "without")
    assert invoke(*command).exit_code == 0
    sentence = refusal(*command, "--as-imagefolder")
    assert "expected networks with as_imagefolder True, got unset; pass --overwrite" in sentence
    sentence = refusal(*command, "--image-size", 3)
    assert "expected networks with image_size 3, got unset; pass --overwrite" in sentence


def test_ensembles_skip_rows(tmp_path, net):
    """Trained and read ones; the examples keep the numbers of the data, and its images."""
    pytest.importorskip("plotly")
    root, out = images_of_three(tmp_path / "data"), tmp_path / "o"
    whole = image_bytes(root)
    kept = [row for row in range(24) if row not in (9, 23)]
    for file in ("b/1.png", "c/7.png"):
        (root / file).write_bytes(b"no")
    data = ("ensemble", "--data", f"imagefolder:{root}", "-k", 3, "--held-out", 0.25)
    file = net.removesuffix("net")
    train = (*data, "--train", f"{file}train", "--out", out)
    assert "b/1.png cannot be read as an image" in refusal(*train, "--networks", 2, "-q")
    result = invoke(*train, "--networks", 2, "--skip-unreadable")
    assert result.exit_code == 0, result.output
    assert "Skipped 2 rows of data, which cannot be read." in result.stdout
    assert result.stderr.count("data: skipped 2 of 24 rows, which cannot be read: 9, 23") == 1
    with (out / "skipped.csv").open(newline="") as lines:
        assert [line[:2] for line in csv.reader(lines)][1:] == [["data", "9"], ["data", "23"]]
    stored = Ensemble.load(out / "ensemble.parquet")
    assert stored.ids.tolist() == kept
    assert stored.labels.tolist() == [row // 8 for row in kept]
    assert stored.counts.sum(0).tolist() == [2] * 22
    assert stored.counts[1].sum() == 2 * round(0.25 * 22)
    from pdepth.report.pictures import find_images

    shown = find_images(stored).images
    for place in (8, 9, 21):
        np.testing.assert_array_equal(shown[place], whole[kept[place]])
    report = invoke("report", out)
    assert report.exit_code == 0, report.output
    assert "no pictures" not in report.output

    sentence = refusal(*train, "--networks", 3)
    assert "networks with skip_unreadable unset, got True; pass --overwrite" in sentence
    result = invoke(*train, "--networks", 3, "--skip-unreadable", "-q")
    assert (result.exit_code, len(Ensemble.load(out / "ensemble.parquet"))) == (0, 3)
    (root / "b" / "1.png").write_bytes(encoded(pixels(4, 4, 3)))
    result = invoke(*train, "--networks", 4, "--skip-unreadable")
    assert result.exit_code == 2
    assert "of the 23 rows that are measured, got some of 22 (1 differ, the first" in result.stderr
    assert "row 9); pass --overwrite, or another --out" in result.stderr

    read = (*data, "--read", f"{file}networks", "--networks", 2, "--out", tmp_path / "read", "-q")
    result = invoke(*read, "--skip-unreadable")
    assert result.exit_code == 0, result.output
    stored = Ensemble.load(tmp_path / "read" / "ensemble.parquet")
    assert stored.ids.tolist() == list(range(23))  # which lacks the last alone
    assert stored.counts[1].tolist() == [1] * 23


def image_bytes(root):
    """The images of a folder, in the order of its rows."""
    return [np.asarray(Image.open(path)) for path in sorted(root.glob("*/*.png"))]


def test_folders_whose_names_are_no_text(tmp_path, net):
    """The whole way, to the report: bytes that are no UTF-8 are written out."""
    root = images_of_three(tmp_path / "data")
    strange = os.fsdecode(os.fsencode(root) + b"/caf\xe9 \xff")
    os.rename(root / "b", strange)
    with open(os.path.join(strange, "1.png"), "wb") as file:
        file.write(b"no")
    out = tmp_path / "o"
    result = run(net, "--support", f"imagefolder:{root}", "--out", out, "--skip-unreadable")
    saved = DepthResult.load(out / "depth.parquet")
    assert json.loads(saved.meta["class_names"]) == ["a", "c", "caf\\xe9 \\xff"]
    assert "caf\\xe9 \\xff/1.png" in (out / "skipped.csv").read_text()
    result = invoke("report", out)
    assert result.exit_code == 0, result.output
    assert "caf\\\\xe9 \\\\xff" in (out / "report.html").read_text()
