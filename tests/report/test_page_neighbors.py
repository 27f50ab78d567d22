"""Neighbours in a page: what is packed of them, whose pictures are there; what a server tells."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pdepth.report.html import neighbors, page, thumbnails
from pdepth.report.html.neighbors import PageNeighbors
from pdepth.report.html.result_content import result_content
from pdepth.report.pictures import Images
from pdepth.report.view import View
from pdepth.result import DepthResult

from helpers.pages import LAYERS, N, grey_images, neighbors_example, read_columns, read_script

for module in ("plotly", "pyarrow", "PIL"):
    pytest.importorskip(module)


def unpacked(text: str, name: str) -> bytes:
    return gzip.decompress(base64.b64decode(read_script(text, name)))


def expected_rows(result: DepthResult) -> np.ndarray:
    """(N, L, K), the support's size where there is none."""
    kept = result.neighbors
    assert kept is not None
    rows = kept.rows.transpose(1, 0, 2)
    return np.where(rows < 0, len(kept.codes), rows)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["own", "queries"])
def test_all_neighbours_come_back_out_of_the_page(own: bool, early: bool, tmp_path: Path) -> None:
    result = neighbors_example(own=own, early=early)
    page.write(result, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    header, kept = json.loads(read_script(text, "header")), result.neighbors
    assert kept is not None
    assert header["neighbors"]["examples"] is None
    assert header["neighbors"]["own"] == own
    packed = np.frombuffer(unpacked(text, "neighbors"), f"<{header['neighbors']['type']}")
    np.testing.assert_array_equal(packed.reshape(N, LAYERS, 3), expected_rows(result))
    support, count = unpacked(text, "support"), len(kept.codes)
    codes = np.frombuffer(support[: 4 * count], "<u4")
    named = [header["classes"][header["neighbors"]["classes"][code]]["value"] for code in codes]
    assert named == [str(label) for label in kept.classes[kept.codes]]
    if not own:
        numbers = np.frombuffer(support[-8 * count :], "<f8")
        np.testing.assert_array_equal(numbers, kept.row_numbers)


def test_votes_and_margins_are_known_where_neighbours_are(tmp_path: Path) -> None:
    result = neighbors_example(early=True)
    page.write(result, tmp_path / "a.html")
    columns, kept = read_columns((tmp_path / "a.html").read_text()), result.neighbors
    assert kept is not None
    assert (kept.searched & ~result.known).any()
    for number, probe in enumerate(result.probes):
        there = kept.searched[number]
        np.testing.assert_array_equal(columns[f"vote_{probe}"] == 4, ~there)
        np.testing.assert_array_equal(columns[f"vote_{probe}"][there], kept.votes()[number][there])
        np.testing.assert_array_equal(columns[f"margin_{probe}"], kept.margins()[number])


def test_there_is_room_for_the_most_important_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = neighbors_example()
    monkeypatch.setattr(neighbors, "MAX_BYTES", 100 * LAYERS * 3)
    page.write(result, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    count = json.loads(read_script(text, "header"))["neighbors"]["examples"]
    assert count == 100
    packed = unpacked(text, "neighbors")
    examples = np.frombuffer(packed[: 4 * count], "<u4")
    assert (np.diff(examples.astype(int)) > 0).all()
    rows = np.frombuffer(packed[4 * count :], "u1").reshape(count, LAYERS, 3)
    np.testing.assert_array_equal(rows, expected_rows(result)[examples])
    first = thumbnails.order_rows(result_content(result))[:100]
    assert set(examples.tolist()) == set(first.tolist())


def test_pictures_of_neighbours_are_in_the_page_or_beside_it(tmp_path: Path) -> None:
    result, support = neighbors_example(), grey_images(50)
    made = page.write(result, tmp_path / "a.html", images=grey_images(), support_images=support)
    assert made.support is not None
    embedded = json.loads(read_script((tmp_path / "a.html").read_text(), "thumbnails"))
    assert set(map(int, embedded["support"])) == set(made.support.embedded) == set(range(50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pdepth.report.html.thumbnails.MAX_PICTURES", 7)
        made = page.write(
            result, tmp_path / "b.html", images=grey_images(), support_images=support,
            thumbnails="all",
        )  # fmt: skip
    assert made.support is not None
    assert len(made.support.embedded) == 7
    beside = {int(file.stem) for file in (tmp_path / "b-thumbnails/support/0").iterdir()}
    assert beside == set(range(50)) - set(made.support.embedded)
    page.write(
        result, tmp_path / "b.html", images=grey_images(), support_images=support, thumbnails="all"
    )  # what is beside a page may be replaced


def test_own_neighbours_are_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = neighbors_example(own=True)
    monkeypatch.setattr("pdepth.report.html.thumbnails.MAX_EMBEDDED", 60)
    monkeypatch.setattr("pdepth.report.html.thumbnails.EXPLAINED", 10)
    made = page.write(result, tmp_path / "a.html", images=grey_images())
    assert made.support is None
    first = list(made.embedded)[:10]
    near = PageNeighbors(result.neighbors, own=True).nearest(np.array(first))  # type: ignore[arg-type]
    assert set(near.tolist()) <= set(made.embedded)


def test_images_of_another_support_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="support_images: expected 50, one per row of the support, got 3"
    ):
        page.write(neighbors_example(), tmp_path / "a.html", support_images=grey_images(3))
    assert not list(tmp_path.iterdir())


def test_a_server_tells_the_neighbours_of_each_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = neighbors_example(early=True)
    result.save(tmp_path / "depth.parquet")
    assert result.neighbors is not None
    result.neighbors.save(tmp_path / "neighbors.pdepth")
    for name, count in (("find_images", N), ("neighbors_images", 50)):
        found = Images(grey_images(count))
        monkeypatch.setattr(f"pdepth.report.view.{name}", lambda *_, found=found: found)
    view = View(tmp_path)
    answer = view.answer("neighbors/17")
    assert answer is not None
    told = json.loads(answer[1])
    np.testing.assert_array_equal(told["rows"], expected_rows(result)[17])
    distances = result.neighbors.distances[:, 17]
    np.testing.assert_array_equal(np.array(told["distances"], float), distances)
    for name in (f"neighbors/{N}", "neighbors/-1", "neighbors/", "support/images/50", "support/3"):
        assert view.answer(name) is None
    for name in ("support/images/49", "support/thumbnails/0/49.png", f"images/{N - 1}"):
        assert view.answer(name) is not None
