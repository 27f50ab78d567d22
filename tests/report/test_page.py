"""The page of a result: what it holds, and what a reader can do with it in a browser."""

from __future__ import annotations

import base64
import csv
import dataclasses
import gzip
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pdepth import cli, demo, inputs
from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.report.figures import pdf
from pdepth.report.figures.plots import wilson
from pdepth.report.html import of_ensemble, of_result, page, thumbnails
from pdepth.result import DepthResult

for module in ("plotly", "pyarrow", "matplotlib", "PIL"):
    pytest.importorskip(module)

NAMES = ["cat", "<script>alert(1)</script>", 'dog, "old"', "ship"]
N, LAYERS = 240, 4


def example(n: int = N, labels: bool = True, early: bool = False) -> DepthResult:
    """Depths cycle through 0..4, the undefined; every seventh row is wrong."""
    rows = np.arange(n)
    depth = rows % (LAYERS + 1)
    given = (rows // 5) % 4
    predictions = np.where(rows % 7 == 0, (given + 1) % 4, given)
    agree = np.arange(LAYERS)[:, None] >= depth
    votes = np.where(agree, predictions, (predictions + 2) % 4)
    known = agree | (not early)
    return DepthResult(
        depth=depth,
        undefined=depth == LAYERS,
        votes=np.where(known, votes, -1),
        known=known,
        predictions=predictions,
        labels=given if labels else None,
        probes=("input", "block<1>", "block2", "softmax"),
        k=30,
    )


def many(n: int = 60, networks: int = 4) -> Ensemble:
    """The last tenth of the examples is never held out."""
    rng = np.random.default_rng(0)
    ensemble = Ensemble(np.arange(n) % 3)
    for name in range(networks):
        out = (np.arange(n) % networks == name) | (rng.random(n) < 0.4)
        out[-n // 10 :] = False
        depth = np.minimum(np.arange(n) // 10 + rng.integers(0, 2, n), 4)
        said = np.where(rng.random(n) < 0.2, 0, np.arange(n) % 3)
        ensemble.add(Member(depth, said, out, 4, name))
    return ensemble


def pictures(n: int = N) -> np.ndarray:
    """Grey ones of 6 x 6, of which each is another."""
    return np.random.default_rng(1).integers(0, 256, (n, 6, 6), np.uint8)


class Some:
    """Pictures of which every tenth cannot be read."""

    def __init__(self, n: int = N) -> None:
        self.all = pictures(n)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, row: int) -> np.ndarray:
        if row % 10 == 3:
            raise ValueError(f"picture {row} is broken")
        return self.all[row]


def script(text: str, name: str) -> str:
    found = re.search(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return found[1]


def columns_of(text: str) -> dict[str, np.ndarray]:
    """What the page's code reads, read here."""
    data = gzip.decompress(base64.b64decode(script(text, "data")))
    found, begin = {}, 0
    for entry in json.loads(script(text, "header"))["columns"]:
        part = data[begin : begin + entry["length"]]
        kind = entry["type"]
        found[entry["name"]] = (
            np.array(json.loads(part)) if kind == "json" else np.frombuffer(part, f"<{kind}")
        )
        begin += -(-entry["length"] // 8) * 8
    assert begin == len(data)
    return found


class Reader(HTMLParser):
    """Elements that open, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self._inside = tag
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)


# ---- what is written ----


def test_the_result_comes_back_out_of_the_page(tmp_path: Path) -> None:
    result = example()
    page.write(result, tmp_path / "a.html", class_names=NAMES)
    text = (tmp_path / "a.html").read_text()
    header, columns = json.loads(script(text, "header")), columns_of(text)
    classes = np.array([int(each["value"]) for each in header["classes"]])
    assert [each["name"] for each in header["classes"]] == NAMES
    votes = {f"vote_{probe}": of for probe, of in zip(result.probes, result.votes, strict=True)}
    for name, values in {
        "label": result.labels,
        "prediction": result.predictions,
        **votes,
    }.items():
        np.testing.assert_array_equal(classes[columns[name]], values)
    assert result.labels is not None
    others = [
        [(result.votes[:, row] == of).sum() for of in classes if of != result.labels[row]]
        for row in range(N)
    ]
    for name, values in {
        "row": np.arange(N),
        "depth": result.depth,
        "undefined": result.undefined,
        "right": result.predictions == result.labels,
        "rival_votes": np.max(others, axis=1),
    }.items():
        np.testing.assert_array_equal(columns[name], values)
    rivals = np.flatnonzero(columns["rival_votes"])
    cast = (result.votes == classes[np.minimum(columns["rival"], 3)]).sum(axis=0)
    np.testing.assert_array_equal(cast[rivals], columns["rival_votes"][rivals])
    assert (np.delete(columns["rival"], rivals) == len(classes)).all()


def test_unknown_votes_are_missing_and_what_needs_them_left_out(tmp_path: Path) -> None:
    result = example(early=True)
    page.write(result, tmp_path / "a.html", images=pictures())
    text = (tmp_path / "a.html").read_text()
    columns = columns_of(text)
    for probe, known in zip(result.probes, result.known, strict=True):
        np.testing.assert_array_equal(columns[f"vote_{probe}"] == 4, ~known)
    assert not {"rival", "rival_votes"} & set(columns)
    assert 'id="pairs"' not in text
    assert "--all-votes" in text
    assert '"complete":[]' in text


def test_words_tell_what_the_numbers_are(tmp_path: Path) -> None:
    result = example()
    page.write(result, tmp_path / "a.html", class_names=NAMES)
    said = " ".join(" ".join(Reader((tmp_path / "a.html").read_text()).words).split())
    right = int((result.predictions == result.labels).sum())
    assert "Prediction depth of 240 held-out examples" in said
    assert f"right: {right:,} of 240" in said
    assert "mean depth of those that settle, of at most 3" in said
    assert "48 of 240 examples (20.0 %) never settle" in said
    assert "Half of the examples have settled by block2, probe 2 of 0 to 3: 144 of 240." in said
    first = result.depth == 0
    count, of = int((result.predictions == result.labels)[first].sum()), int(first.sum())
    low, high = wilson(count, of)
    row = f"input {of} {100 * count / of:.1f} % {100 * low:.0f} to {100 * high:.0f} %"
    assert row in said


def test_words_depend_on_what_votes_were_compared_with(tmp_path: Path) -> None:
    for reference, whose in (
        ("label", "the label"),
        ("array", "the one that it was compared with"),
    ):
        other = example().labels if reference == "array" else None
        result = dataclasses.replace(example(), reference=reference, reference_values=other)
        page.write(result, tmp_path / "a.html", class_names=NAMES)
        text = (tmp_path / "a.html").read_text()
        said = " ".join(" ".join(Reader(text).words).split())
        assert f"vote for another class than {whose}." in said
        assert "look like another class, or" not in said
        assert ("reference" in columns_of(text)) == (other is not None)


def test_nothing_of_the_data_is_html(tmp_path: Path) -> None:
    result = dataclasses.replace(example(), meta={"model": "</style><img src=x>", "data": "a&b"})
    page.write(result, tmp_path / "a.html", class_names=NAMES, note="<b>of pictures</b>")
    text = (tmp_path / "a.html").read_text()
    read = Reader(text)
    assert "<script>alert" not in text
    assert "<img" not in text
    assert not {"img", "b", "iframe"} & set(read.opened)
    assert "</style><img src=x>" in read.words
    assert "block<1>" in read.words
    assert all(link.startswith("#") for link in read.links), "no file but the page is asked for"
    assert read.opened.count("script") == 5


def test_measures_are_columns(tmp_path: Path) -> None:
    entropy = np.linspace(0, 1, N) ** 3
    page.write(example(), tmp_path / "a.html", measures={"entropy": entropy})
    np.testing.assert_array_equal(columns_of((tmp_path / "a.html").read_text())["entropy"], entropy)
    with pytest.raises(ValueError, match="measures has 'depth', which is a column"):
        page.write(example(), tmp_path / "b.html", measures={"depth": entropy})
    with pytest.raises(ValueError, match=r"entropy has shape \(3,\); \(240,\) is wanted"):
        page.write(example(), tmp_path / "b.html", measures={"entropy": entropy[:3]})


def test_an_ensemble(tmp_path: Path) -> None:
    ensemble = many()
    page.write(ensemble, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    columns, wanted = columns_of(text), ensemble.examples()
    for name in ("support_depth", "held_out_depth", "consistency", "entropy", "held_out_networks"):
        np.testing.assert_array_equal(columns[name], wanted[name][0])
    consensus, never = wanted["consensus"]
    np.testing.assert_array_equal(columns["consensus"] == 3, never)
    np.testing.assert_array_equal(columns["consensus"][~never], consensus[~never])
    np.testing.assert_array_equal(columns["right"] == 2, never)
    assert "6 of 60 examples (10.0 %) were never held out" in text
    corners = of_ensemble.corners(ensemble)
    assert corners is not None
    for code, rows in enumerate(corners.corners.values()):
        np.testing.assert_array_equal(np.flatnonzero(columns["group"] == code), np.sort(rows))
    once = np.flatnonzero(wanted["held_out_networks"][0] == 1)
    assert ("were held out from one network only" in text) == bool(len(once))
    flat = Ensemble(np.zeros(4, int))
    for name in range(2):
        flat.add(Member(np.zeros(4, int), np.zeros(4, int), np.ones(4, bool), 3, name))
    page.write(flat, tmp_path / "b.html")
    assert "There are no groups" in (tmp_path / "b.html").read_text()


def test_one_network_does_not_agree_with_itself(tmp_path: Path) -> None:
    ensemble = Ensemble(np.zeros(6, int))
    for name in range(3):  # rows 0 to 3 are held out from one, 4 and 5 from all
        out = np.array([name == 0, name == 0, name == 1, name == 2, True, True])
        ensemble.add(Member(np.zeros(6, int), np.ones(6, int), out, 3, name))
    page.write(ensemble, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "4 of 6 examples (66.7 %) were held out from one network only" in text
    assert "On 2 of 2 examples (100.0 %), at least 90 % of the networks" in text
    assert "On 2 of 2 examples (100.0 %), they agree so on a class that is not the label" in text
    sheets = json.loads(script(text, "header"))["sheets"]
    assert all(["held_out_networks", 2, 3] in sheet["where"] for sheet in sheets[-2:])


def test_large_ids_and_names_are_kept(tmp_path: Path) -> None:
    for ids in (np.array(["a\n", "<b>", "ü"]), np.array([2**60, -1, 2**60 + 1])):
        ensemble = Ensemble([0, 1, 1], ids=ids)
        for name in range(2):
            out = np.arange(3) % 2 == name
            ensemble.add(Member(np.arange(3), np.arange(3) % 2, out, 3, name))
        page.write(ensemble, tmp_path / "a.html")
        found = columns_of((tmp_path / "a.html").read_text())["id"]
        assert found.tolist() == [str(each) for each in ids]


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    found = page.write(example(), tmp_path / "a.html", images=Some())
    text = (tmp_path / "a.html").read_text()
    assert sorted(found.unreadable) == list(range(3, N, 10))
    assert sorted(found.embedded) == [row for row in range(N) if row % 10 != 3]
    assert "24 of 240 pictures cannot be read" in text
    embedded = json.loads(script(text, "thumbnails"))
    from PIL import Image

    for row in (0, 17, 239):
        with Image.open(io.BytesIO(base64.b64decode(embedded[str(row)]))) as image:
            np.testing.assert_array_equal(np.asarray(image), Some().all[row])


def test_float_pictures_keep_their_black_and_white(tmp_path: Path) -> None:
    from PIL import Image

    images = torch.linspace(-2, 3, N * 27).reshape(N, 3, 3, 3)
    found = page.write(example(), tmp_path / "a.html", images=images)
    low = np.asarray(Image.open(io.BytesIO(found.embedded[0])))
    high = np.asarray(Image.open(io.BytesIO(found.embedded[N - 1])))
    assert low.shape == (3, 3, 3)
    assert low.max() < 20
    assert high.min() > 230


def test_the_rest_of_the_pictures_is_beside_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdepth.report.html.thumbnails.EMBEDDED", 40)
    result = example()
    few = page.write(result, tmp_path / "few.html", images=Some())
    assert len(few.embedded) + len(few.unreadable) == 40
    assert (
        f"{len(few.embedded)} of 240 pictures are in this page"
        in (tmp_path / "few.html").read_text()
    )
    assert sorted(os.listdir(tmp_path)) == ["few.html"]
    for _ in range(2):  # and again, over what is there
        every = page.write(result, tmp_path / "all.html", images=Some(), thumbnails="all")
    folder = tmp_path / every.folder
    beside = {int(file.stem) for file in folder.glob("0/*.png")}
    assert not beside & set(every.embedded)
    assert sorted(beside | set(every.embedded)) == [row for row in range(N) if row % 10 != 3]
    assert len(every.unreadable) == 24
    assert sorted(os.listdir(tmp_path)) == ["all-thumbnails", "all.html", "few.html"]
    none = page.write(result, tmp_path / "none.html", images=Some(), thumbnails="none")
    assert not none.embedded
    (folder / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"all-thumbnails holds mine\.txt"):
        page.write(result, tmp_path / "all.html", images=Some(), thumbnails="all")


def test_the_ends_of_every_sheet_and_class_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    story = of_result.story_of(example(2000), NAMES)
    monkeypatch.setattr(thumbnails, "EMBEDDED", 700)
    chosen = thumbnails.chosen(story)
    assert len(np.unique(chosen)) == len(chosen) == 700
    for sheet in story.sheets:
        rows = sheet.rows(story.columns, np.arange(2000))
        key = np.stack(
            [sign * story.columns[name].values[rows] for name, sign in sheet.by] or [rows * 0]
        )
        for of in (rows, rows[story.columns["label"].values[rows] == 1]):
            ends = key[:, np.isin(rows, of)][:, :6]
            shown = key[:, np.isin(rows, np.intersect1d(of, chosen))][:, :6]
            np.testing.assert_array_equal(shown, ends)


def test_size_and_time_of_many_examples(tmp_path: Path) -> None:
    result = example(60_000)
    start = time.monotonic()
    page.write(result, tmp_path / "a.html", class_names=NAMES)
    assert time.monotonic() - start < 30
    plotly = len(script((tmp_path / "a.html").read_text(), "plotly"))
    assert (tmp_path / "a.html").stat().st_size - plotly < 1_000_000


def test_what_is_refused(tmp_path: Path) -> None:
    result = example()
    for name, call in {
        r"a\.txt' ends in neither": lambda: page.write(result, tmp_path / "a.txt"),
        "thumbnails is 'some'": lambda: page.write(result, tmp_path / "a.html", thumbnails="some"),
        "images holds 3 pictures for 240": lambda: page.write(
            result, tmp_path / "a.html", images=pictures(3)
        ),
        "nothing to tell": lambda: page.write(example(0), tmp_path / "a.html"),
        "holds no k": lambda: page.write({}, tmp_path / "a.html"),
        "at least two are wanted": lambda: page.write(many(networks=1), tmp_path / "a.html"),
    }.items():
        with pytest.raises(ValueError, match=name):
            call()
    assert not list(tmp_path.iterdir())


def test_unlabelled_and_several_k(tmp_path: Path) -> None:
    one = example(labels=False)
    page.write({30: one, 5: dataclasses.replace(one, k=5)}, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "Depth against the number of neighbours" in text
    assert not {"label", "right"} & set(columns_of(text))
    assert "wrong" not in " ".join(Reader(text).words)


# ---- pdepth report ----


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
        Image.fromarray(pictures()[row]).save(file)
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
    assert [each["name"] for each in json.loads(script(text, "header"))["classes"]] == list("abcd")
    assert len(json.loads(script(text, "thumbnails"))) == 239
    assert "which exists; pass --overwrite" in refused(run_dir)
    shutil.rmtree(tmp_path / "images")
    moved = call(run_dir / "depth.parquet", "--overwrite", "-q")
    assert (moved.exit_code, moved.output) == (0, "")
    assert "There are no pictures" in (run_dir / "report.html").read_text()


def test_pictures_for_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fewer in ("network.EACH", "plots.ROWS", "plots.COLUMNS"):  # they take a second each
        monkeypatch.setattr(f"pdepth.report.{fewer}", 2)
    folder = pdf.write(example(10), tmp_path / "report.html", Some(10), NAMES)
    assert sorted(os.listdir(tmp_path)) == ["report-figures"]
    names = {"depth", "agreement", "against-depth", "confused-pairs", "settling"}
    assert {file.stem for file in folder.iterdir()} == names
    assert all(file.read_bytes().startswith(b"%PDF") for file in folder.iterdir())
    (folder / "notes.txt").touch()
    example(10).save(tmp_path / "depth.parquet")
    assert "report-figures holds notes.txt" in refused(tmp_path, "--pdf")
    assert not (tmp_path / "report.html").exists()


def test_a_run_is_reported_with_its_pictures_and_names(tmp_path: Path) -> None:
    from PIL import Image

    for row, picture in enumerate(pictures(40)):
        file = tmp_path / "images" / ("<a>", "b")[row % 2] / f"{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "def net():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))\n"
    )
    asked = ["run", tmp_path / "nets.py:net", "--support", f"imagefolder:{tmp_path}/images"]
    more = ["--mean", "0.5", "--std", "0.5", "-k", 3, "--out", tmp_path / "out", "-q"]
    ran = CliRunner().invoke(cli.app, [str(each) for each in asked + more])
    assert ran.exit_code == 0, ran.output
    assert call(tmp_path / "out", "-q").output == ""
    text = (tmp_path / "out" / "report.html").read_text()
    header = json.loads(script(text, "header"))
    assert [each["name"] for each in header["classes"]] == ["<a>", "b"]
    first = base64.b64decode(json.loads(script(text, "thumbnails"))["0"])
    with Image.open(io.BytesIO(first)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")), pictures(40)[0])


def test_what_lies_beside_an_earlier_page_goes_with_it(tmp_path: Path) -> None:
    example().save(tmp_path / "depth.parquet")
    for name in ("report-figures", "report-thumbnails", "other"):
        (tmp_path / name).mkdir()
    assert call(tmp_path).exit_code == 0
    assert (tmp_path / "report-figures").exists()
    assert call(tmp_path, "--overwrite").exit_code == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "depth.parquet", "other", "report.html",
    ]  # fmt: skip
    (tmp_path / "report-figures").mkdir()
    (tmp_path / "report-figures" / "mine.txt").touch()
    assert call(tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "report-figures" / "mine.txt").exists()


def test_report_knows_data_that_is_another(tmp_path: Path, run_dir: Path) -> None:
    x, labels = pictures(), DepthResult.load(run_dir / "depth.parquet").labels
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
    many().save(tmp_path / "ensemble.parquet")
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
    assert "is not a readable Parquet file" in refused(tmp_path)
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
    journal.note("reading", {})
    assert "interrupted: the votes of all 3 probes are missing" in refused(tmp_path / "o")
    journal.keep(2, 0, np.arange(3), [])
    assert "votes of 2 of 3 probes are missing (input, block)" in refused(tmp_path / "o")
    (tmp_path / "run").mkdir()
    (tmp_path / "o").rename(tmp_path / "run" / ".unfinished")
    assert "votes of 2 of 3 probes are missing" in refused(tmp_path / "run")


def test_the_demo_and_runs_say_where_their_pictures_are(tmp_path: Path) -> None:
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


# ---- in a browser ----

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --enable-unsafe-swiftshader "
    "--window-size=1400,1000"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Chromium for all tests, and a folder that it downloads into."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium or no chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    home = tmp_path_factory.mktemp("browser")
    for flag in (*FLAGS.split(), f"--user-data-dir={home / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    found.downloads = home / "downloads"
    downloads = {"behavior": "allow", "downloadPath": str(found.downloads)}
    found.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    yield found
    found.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a result, with half of its pictures beside it, and that of an ensemble."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thumbnails, "EMBEDDED", 120)
        page.write(
            example(), folder / "run.html", images=Some(), class_names=NAMES, thumbnails="all"
        )
    page.write(many(), folder / "many.html")
    return folder


class Tab:
    """A page in the browser, asked in JavaScript."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def __call__(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def open(self, path: Path) -> Tab:
        self.browser.get_log("browser")
        self.browser.get(path.as_uri())
        self.until(lambda: self("document.documentElement.dataset.ready") == "yes")
        self("(document.documentElement.style.scrollBehavior = 'auto')")
        return self

    def until(self, done: Callable[[], Any]) -> Any:
        end = time.monotonic() + 30
        while not (found := done()):
            assert time.monotonic() < end, "the page does not come to it"
            time.sleep(0.02)
        return found

    def choose(self, name: str, value: object) -> None:
        self(
            f"(() => {{ const s = document.getElementById('{name}'); s.value = '{value}'; "
            "s.dispatchEvent(new Event('change')); })()"
        )

    def search(self, row: int) -> None:
        self(
            f"(() => {{ const s = document.getElementById('search'); s.value = '{row}'; "
            "s.dispatchEvent(new Event('input')); })()"
        )
        self.until(lambda: [cells[0] for cells in self.table()] == [str(row)])

    def count(self) -> str:
        return str(self("document.getElementById('count').textContent"))

    def settled(self, count: int) -> None:
        """Wait until the plots are of so many rows."""
        self.until(lambda: self("document.documentElement.dataset.drawn") == str(count))

    def table(self) -> list[list[str]]:
        """Cells of the rows that are drawn, without the pictures."""
        return self(
            "[...document.querySelectorAll('#scroll tbody tr:not(.gap)')].map((row) => "
            "[...row.cells].map((cell) => cell.textContent).slice(1))"
        )

    def show(self, key: str) -> None:
        """Scroll to a view, and wait for its plot."""
        self(f"document.getElementById('{key}').scrollIntoView()")
        self.until(lambda: self(f"document.querySelector('#{key} .plot').data?.length"))

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.browser.execute_cdp_cmd(
            "Input.dispatchMouseEvent",
            {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1},
        )

    def errors(self) -> list[str]:
        return [e["message"] for e in self.browser.get_log("browser") if e["level"] == "SEVERE"]


@pytest.fixture
def tab(browser: Any, pages: Path) -> Tab:
    return Tab(browser).open(pages / "run.html")


def test_pages_load_without_errors_and_ask_for_nothing(browser: Any, pages: Path) -> None:
    for name in ("run.html", "many.html"):
        tab = Tab(browser).open(pages / name)
        for key in tab("[...document.querySelectorAll('.view')].map((view) => view.id)"):
            tab.show(key)
        asked = tab("performance.getEntriesByType('resource').map((entry) => entry.name)")
        beside = (pages / "run-thumbnails").as_uri()
        assert [each for each in asked if not each.startswith(("data:", "blob:", beside))] == []
        assert tab.errors() == []
        assert tab("document.documentElement.scrollWidth <= innerWidth")
    assert "<script>alert(1)</script>" in tab.open(pages / "run.html")(
        "document.getElementById('filter-label').textContent"
    )


def test_the_filter_drives_plots_sheets_and_table(tab: Tab) -> None:
    result = example()
    assert tab.count() == "All 240 examples"
    tab.show("settle")
    tab.choose("filter-label", 1)
    kept = result.labels == 1
    tab.settled(60)
    assert tab.count() == "60 of 240 examples"
    assert {row[1] for row in tab.table()} == {NAMES[1]}
    right, wrong = (tab(f"document.querySelector('#settle .plot').data[{i}].y") for i in range(2))
    good = result.predictions == result.labels
    assert right == np.bincount(result.depth[kept & good], minlength=5).tolist()
    assert wrong == np.bincount(result.depth[kept & ~good], minlength=5).tolist()
    labels = tab("[...document.querySelectorAll('.card')].map((card) => card.ariaLabel)")
    assert labels
    assert all(NAMES[1] in label for label in labels)
    tab.choose("depth-least", 1)
    tab.choose("depth-most", 2)
    tab.choose("filter-right", 0)
    kept &= (result.depth >= 1) & (result.depth <= 2) & ~good
    tab.settled(int(kept.sum()))
    assert [int(row[0]) for row in tab.table()] == np.flatnonzero(kept).tolist()
    tab("document.querySelector('#filter button[type=reset]').click()")
    tab.settled(240)
    assert tab.count() == "All 240 examples"


def test_probes_and_pairs_are_those_of_python(tab: Tab) -> None:
    from pdepth.analysis.network import agreement, confused_pairs

    result = example()
    tab.show("probes")
    shares = agreement(result)
    for i, wanted in enumerate((shares.network, shares.label)):
        found = tab(f"document.querySelector('#probes .plot').data[{i}].y")
        np.testing.assert_allclose(list(found), wanted)
    tab.show("pairs")
    pairs = confused_pairs(result)
    found = tab("document.querySelector('#pairs .plot').data[0].z.map((row) => [...row])")
    np.testing.assert_allclose(found[::-1], pairs.share)


def test_pointing_at_a_dot_shows_its_picture(tab: Tab) -> None:
    tab.show("map")
    place = "document.querySelector('#map .plot')"
    tab.until(lambda: tab(f"{place}._fullLayout.xaxis.l2p !== undefined"))
    row, x, y = tab(
        f"(() => {{ const p = {place}, box = p.getBoundingClientRect(), t = p.data[0]; "
        "const { xaxis, yaxis } = p._fullLayout; let best = 0, far = 0; "
        "t.rows.forEach((row, i) => { if (row % 10 === 3) return; let near = 9; "
        "t.x.forEach((x, j) => { if (j !== i) near = Math.min(near, "
        "Math.hypot(x - t.x[i], t.y[j] - t.y[i])); }); "
        "if (near > far) { far = near; best = i; } }); "
        "return [t.rows[best], box.x + xaxis._offset + xaxis.l2p(t.x[best]), "
        "box.y + yaxis._offset + yaxis.l2p(t.y[best])]; })()"
    )

    def pointed() -> bool:
        for nudge in (-2, 0):
            tab.mouse("mouseMoved", x + nudge, y)
        time.sleep(0.1)
        return not tab("document.getElementById('hover').hidden")

    tab.until(pointed)
    assert tab("document.querySelector('#hover p').textContent") == f"Row {row}"
    tab.until(lambda: tab("document.querySelector('#hover img').naturalWidth") == 6)
    for kind in ("mousePressed", "mouseReleased"):
        tab.mouse(kind, x, y)
    tab.until(lambda: tab("document.getElementById('detail').open"))
    votes = tab(
        "[...document.querySelectorAll('#detail td:first-of-type')].map((c) => c.textContent)"
    )
    assert votes == [NAMES[vote] for vote in example().votes[:, row]]
    assert tab.errors() == []


def test_pictures_are_in_the_page_beside_it_or_a_sign(tab: Tab, pages: Path) -> None:
    embedded = json.loads(script((pages / "run.html").read_text(), "thumbnails"))
    beside = next(row for row in range(20, N) if str(row) not in embedded and row % 10 != 3)
    inside = next(int(row) for row in embedded if int(row) > 9)
    for row, start in ((inside, "data:image/png"), (beside, "file://")):
        tab.search(row)
        tab.until(lambda: tab("document.querySelector('#scroll td img').naturalWidth") == 6)
        assert tab("document.querySelector('#scroll td img').src").startswith(start)
    tab.search(13)
    assert tab("document.querySelector('#scroll .blank').ariaLabel") == "Picture cannot be read"


def test_the_download_holds_what_is_filtered(tab: Tab) -> None:
    result = example()
    tab.choose("filter-prediction", 2)
    tab("document.querySelector('th[data-column=depth] button').click()")
    tab("document.getElementById('csv').click()")
    file = tab.browser.downloads / "examples.csv"
    tab.until(file.exists)
    tab.until(lambda: not list(tab.browser.downloads.glob("*.crdownload")))
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    file.unlink()
    kept = np.flatnonzero(result.predictions == 2)
    wanted = kept[np.argsort(result.depth[kept], kind="stable")]
    assert [int(row["row"]) for row in rows] == wanted.tolist()
    for name, values in {
        "label": result.labels,
        "prediction": result.predictions,
        "depth": result.depth,
        "undefined": result.undefined,
        "vote_block<1>": result.votes[1],
    }.items():
        assert [int(row[name]) for row in rows] == values[wanted].astype(int).tolist()
    assert {row["prediction_name"] for row in rows} == {NAMES[2]}


def test_keys_reach_the_filter_and_walk_the_table(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    def active(what: str = "id") -> str:
        return tab(f"document.activeElement.{what}")

    def press(*keys: str) -> None:
        for key in keys:
            tab.browser.switch_to.active_element.send_keys(key)

    tab("document.body.focus()")
    press(Keys.TAB)
    assert active("textContent") == "Skip to the findings"
    for _ in range(40):
        press(Keys.TAB)
        if active() == "search":
            break
    assert active() == "search"
    press("wrong", " ", "ship")
    tab.until(lambda: all("wrong" in row and "ship" in row for row in tab.table()))
    assert 0 < len(tab.table()) < N
    assert tab("document.getElementById('count').getAttribute('aria-live')") == "polite"
    press(*[Keys.BACKSPACE] * 10)
    tab.until(lambda: tab.count() == "All 240 examples")
    tab("document.querySelector('#scroll tbody tr[tabindex=\"0\"]').focus()")
    press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert active("cells[1].textContent") == "2"
    press(Keys.END)
    assert active("cells[1].textContent") == "239"
    assert tab("document.getElementById('scroll').scrollTop") > 8000
    press(Keys.ENTER)
    assert tab("document.getElementById('detail-title').textContent") == "Row 239"
    press(Keys.ESCAPE)
    tab.until(lambda: not tab("document.getElementById('detail').open"))
    assert tab("document.querySelectorAll('#scroll tbody tr').length") < 60


def test_the_table_sorts(tab: Tab) -> None:
    click = "document.querySelector('th[data-column=label] button').click()"
    tab(click)
    order = sorted(NAMES)
    assert tab("document.querySelector('th[data-column=label]').ariaSort") == "ascending"
    assert {row[1] for row in tab.table()} == {"<script>alert(1)</script>"} <= set(order)
    tab(click)
    assert {row[1] for row in tab.table()} == {"ship"}
    assert [int(row[0]) for row in tab.table()] == sorted(int(row[0]) for row in tab.table())
    tab(click)
    assert [row[0] for row in tab.table()][:3] == ["0", "1", "2"]


def test_dark_and_light(tab: Tab) -> None:
    def paper() -> str:
        return tab("getComputedStyle(document.body).backgroundColor")

    def ink() -> str:
        return tab("document.querySelector('#settle .plot').layout.font.color")

    def system(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        tab.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    system("light")
    tab.show("settle")
    light = tab.until(lambda: paper() == "rgb(251, 251, 249)" and ink())
    system("dark")
    tab.until(lambda: paper() == "rgb(21, 24, 28)" and ink() != light)
    tab("document.getElementById('theme').click()")
    tab.until(lambda: paper() == "rgb(251, 251, 249)" and ink() == light)
    tab("document.getElementById('theme').click()")
    system("light")
    assert paper() == "rgb(21, 24, 28)", "the reader's choice stays"
    tab("localStorage.clear()")


def test_the_groups_of_an_ensemble(browser: Any, pages: Path) -> None:
    tab, ensemble = Tab(browser).open(pages / "many.html"), many()
    corners = of_ensemble.corners(ensemble)
    assert corners is not None
    sizes = [len(rows) for rows in corners.corners.values()]
    assert max(sizes)
    for code, rows in enumerate(corners.corners.values()):
        if len(rows):
            tab.choose("filter-group", code)
            tab.settled(len(rows))
            shown = tab(
                "[...document.querySelectorAll('#scroll tbody tr:not(.gap)')]"
                ".map((row) => row.cells[0].textContent)"
            )
            assert [int(each) for each in shown] == np.sort(rows)[: len(shown)].tolist()
    tab.choose("filter-group", "")
    tab.show("plane")
    drawn = tab("document.querySelector('#plane .plot').data.map((t) => t.rows.length)")
    assert sum(drawn) == (~np.isnan(ensemble.mean_depth()).any(axis=0)).sum()


def test_every_control_has_a_name(tab: Tab) -> None:
    unnamed = tab(
        "[...document.querySelectorAll('button, select, input, a')].filter((each) => "
        "!(each.textContent.trim() || each.ariaLabel || each.labels?.length))"
        ".map((each) => each.outerHTML)"
    )
    assert unnamed == []
    assert tab("document.querySelectorAll('main, header, nav').length") == 3
    assert tab("[...document.querySelectorAll('th')].every((th) => th.scope)")
    levels = tab("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
