"""Thumbnails of a page: which are in it, which are beside it, and which cannot be read."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pdepth.report.html import page, thumbnails
from pdepth.report.html.result_content import result_content

from helpers.pages import NAMES, N, PartlyReadable, example, read_script
from helpers.torch_or_skip import torch

for module in ("plotly", "PIL"):
    pytest.importorskip(module)


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    actual = page.write(example(), tmp_path / "a.html", images=PartlyReadable())
    text = (tmp_path / "a.html").read_text()
    assert sorted(actual.unreadable) == list(range(3, N, 10))
    assert sorted(actual.embedded) == [row for row in range(N) if row % 10 != 3]
    assert "24 of 240 pictures cannot be read" in text
    embedded = json.loads(read_script(text, "thumbnails"))["examples"]
    from PIL import Image

    for row in (0, 17, 239):
        with Image.open(io.BytesIO(base64.b64decode(embedded[str(row)]))) as image:
            np.testing.assert_array_equal(np.asarray(image), PartlyReadable().images[row])


def test_float_pictures_keep_their_black_and_white(tmp_path: Path) -> None:
    from PIL import Image

    images = torch.linspace(-2, 3, N * 27).reshape(N, 3, 3, 3)
    actual = page.write(example(), tmp_path / "a.html", images=images)
    low = np.asarray(Image.open(io.BytesIO(actual.embedded[0])))
    high = np.asarray(Image.open(io.BytesIO(actual.embedded[N - 1])))
    assert low.shape == (3, 3, 3)
    assert low.max() < 20
    assert high.min() > 230


def test_the_rest_of_the_pictures_is_beside_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pdepth.report.html.thumbnails.MAX_EMBEDDED", 40)
    result = example()
    few = page.write(result, tmp_path / "few.html", images=PartlyReadable())
    assert len(few.embedded) + len(few.unreadable) == 40
    assert (
        f"{len(few.embedded)} of 240 pictures are in this page"
        in (tmp_path / "few.html").read_text()
    )
    assert sorted(os.listdir(tmp_path)) == ["few.html"]
    for _ in range(2):  # and again, over what is there
        complete = page.write(
            result, tmp_path / "all.html", images=PartlyReadable(), thumbnails="all"
        )
    folder = tmp_path / complete.folder
    beside = {int(file.stem) for file in folder.glob("0/*.png")}
    assert not beside & set(complete.embedded)
    assert sorted(beside | set(complete.embedded)) == [row for row in range(N) if row % 10 != 3]
    assert len(complete.unreadable) == 24
    assert sorted(os.listdir(tmp_path)) == ["all-thumbnails", "all.html", "few.html"]
    none = page.write(result, tmp_path / "none.html", images=PartlyReadable(), thumbnails="none")
    assert not none.embedded
    (folder / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"all-thumbnails: .* got one that holds mine\.txt"):
        page.write(result, tmp_path / "all.html", images=PartlyReadable(), thumbnails="all")


def test_the_ends_of_every_sheet_and_class_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    content = result_content(example(2000), NAMES)
    monkeypatch.setattr(thumbnails, "MAX_EMBEDDED", 700)
    chosen = thumbnails.choose_rows(content)
    assert len(np.unique(chosen)) == len(chosen) == 700
    for sheet in content.sheets:
        rows = sheet.rows(content.columns, np.arange(2000))
        key = np.stack(
            [sign * content.columns[name].values[rows] for name, sign in sheet.by] or [rows * 0]
        )
        for members in (rows, rows[content.columns["label"].values[rows] == 1]):
            ends = key[:, np.isin(rows, members)][:, :6]
            shown = key[:, np.isin(rows, np.intersect1d(members, chosen))][:, :6]
            np.testing.assert_array_equal(shown, ends)
