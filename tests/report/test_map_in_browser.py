"""The map of embeddings: what is packed, and in a browser its dots, lasso, zoom and slider."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import pdepth
from pdepth.report.html import page
from pdepth.report.html.embedding_map import ABSENT, FAR
from pdepth.report.view import View, serving
from pdepth.result import DepthResult

from helpers.pages import LAYERS, NAMES, N, Tab, map_example, read_script

for module in ("plotly", "pyarrow"):
    pytest.importorskip(module)

ADD, REMOVE = 8, 1  # Shift and Alt


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    page.write(map_example(early=True), folder / "early.html", class_names=NAMES)
    page.write(map_example(), folder / "all.html", class_names=NAMES)
    return folder


def test_places_beyond_float32_are_drawn_at_the_edge(tmp_path: Path) -> None:
    result = map_example()
    assert result.map is not None
    places = result.map.queries.copy()
    places[3, 0] = np.inf, -np.inf
    page.write(replace(result, map=replace(result.map, queries=places)), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    x, x_step, y, y_step = json.loads(read_script(text, "header"))["map"]["boxes"][0]
    steps = np.frombuffer(gzip.decompress(base64.b64decode(read_script(text, "map-0"))), "<u2")
    assert steps.reshape(N, 2)[3].tolist() == [ABSENT - 1, 0]
    assert np.isclose(x + (ABSENT - 1) * x_step, FAR)
    assert (steps.reshape(N, 2)[np.arange(N) != 3] == [0, ABSENT - 1]).all()
    assert np.isfinite([y, y_step]).all()


@pytest.fixture
def tab(browser: Any, pages: Path) -> Tab:
    return shown(Tab(browser).open(pages / "early.html"))


def shown(tab: Tab) -> Tab:
    """With the map in sight."""
    tab("document.getElementById('map').scrollIntoView()")
    tab.until(lambda: "of 4:" in said(tab))
    tab("document.querySelector('#map .plot').scrollIntoView({ block: 'center' })")
    return tab


def said(tab: Tab) -> str:
    return tab("document.getElementById('map-says')?.textContent ?? ''")


def move_to(tab: Tab, probe: int) -> None:
    tab(
        f"(() => {{ const s = document.getElementById('map-probe'); s.value = {probe}; "
        "s.dispatchEvent(new Event('input')); })()"
    )


def go_to(tab: Tab, probe: int) -> None:
    move_to(tab, probe)
    tab.until(lambda: said(tab).startswith(f"{probe + 1} of"))


def on_screen(tab: Tab, result: DepthResult, probe: int) -> NDArray[np.float64]:
    """(N, 2) where the window shows the examples, with the whole map in sight."""
    assert result.map is not None
    places = result.map.queries[:, probe].astype(np.float64)
    x, y, width, height = tab(
        "(({x, y, width, height}) => [x, y, width, height])"
        "(document.getElementById('map-dots').getBoundingClientRect())"
    )
    least, most = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
    scale = 0.94 * min(np.array([width, height]) / (most - least))
    middle = np.array([x + width / 2, y + height / 2])
    return middle + (places - (least + most) / 2) * [scale, -scale]


def inside(places: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which places lie in a convex polygon, whose corners go round."""
    edges = np.roll(corners, -1, axis=0) - corners
    offsets = places[:, None] - corners
    crossed = edges[:, 0] * offsets[..., 1] - edges[:, 1] * offsets[..., 0]
    return (crossed > 0).all(axis=1) | (crossed < 0).all(axis=1)


def lasso(tab: Tab, corners: NDArray[np.float64], modifiers: int = 0) -> None:
    corner, *others = corners.tolist()
    tab.mouse("mousePressed", *corner, modifiers)
    for x, y in others:
        tab.mouse("mouseMoved", x, y, modifiers, buttons=1)
    tab.mouse("mouseReleased", *others[-1], modifiers)


def in_set(tab: Tab) -> NDArray[np.int64]:
    button = "document.getElementById('set-json')"
    if tab(f"{button}.disabled"):
        return np.array([], np.int64)
    return pdepth.read_selection(
        tab.download("selection.json", lambda: tab(f"{button}.click()"))
    ).rows


def polygon(
    places: NDArray[np.float64], middle: tuple[float, float], radius: float
) -> NDArray[np.float64]:
    """Six corners at whole pixels around a place, whose edges have no dot within a pixel."""
    for turn in np.arange(0, np.pi / 3, 0.02):
        angles = turn + np.pi / 3 * np.arange(6)
        around = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        corners = (np.array(middle) + around).round()
        edges = np.roll(corners, -1, axis=0) - corners
        offsets = places[:, None] - corners
        along = (offsets * edges).sum(axis=2) / (edges**2).sum(axis=1)
        far = np.linalg.norm(offsets - along.clip(0, 1)[..., None] * edges, axis=2)
        if np.nanmin(far) > 1:
            return corners
    raise AssertionError("a dot is near each polygon")


@pytest.mark.parametrize("early", [True, False])
def test_places_come_back_out_of_the_page(early: bool, pages: Path) -> None:
    kept = map_example(early=early).map
    assert kept is not None
    text = (pages / ("early.html" if early else "all.html")).read_text()
    boxes = np.array(json.loads(read_script(text, "header"))["map"]["boxes"])
    for probe in range(LAYERS):
        packed = gzip.decompress(base64.b64decode(read_script(text, f"map-{probe}")))
        steps = np.frombuffer(packed, "<u2").reshape(N, 2)
        there = ~np.isnan(kept.queries[:, probe, 0])
        np.testing.assert_array_equal(steps[:, 0] != ABSENT, there)
        places = boxes[probe, 0::2] + boxes[probe, 1::2] * steps[there]
        far = np.abs(places - kept.queries[there, probe])
        assert (far <= 0.51 * boxes[probe, 1::2]).all()


def test_a_lasso_makes_adds_to_and_takes_from_the_set(tab: Tab) -> None:
    result = map_example(early=True)
    places = on_screen(tab, result, LAYERS - 1)
    middle = np.nanmean(places, axis=0)
    outer, inner = (polygon(places, tuple(middle), radius) for radius in (130, 60))
    beside = polygon(places, (middle[0] + 200, middle[1]), 90)
    lasso(tab, outer)
    expected = inside(places, outer)
    assert 10 < expected.sum() < N
    np.testing.assert_array_equal(in_set(tab), np.flatnonzero(expected))
    lasso(tab, inner, REMOVE)
    expected &= ~inside(places, inner)
    np.testing.assert_array_equal(in_set(tab), np.flatnonzero(expected))
    lasso(tab, beside, ADD)
    expected |= inside(places, beside)
    np.testing.assert_array_equal(in_set(tab), np.flatnonzero(expected))
    lasso(tab, inner)
    np.testing.assert_array_equal(in_set(tab), np.flatnonzero(inside(places, inner)))
    assert tab.errors() == []


def test_the_slider_keeps_the_set_and_leaves_absent_examples_out(tab: Tab) -> None:
    result = map_example(early=True)
    places = on_screen(tab, result, LAYERS - 1)
    lasso(tab, polygon(places, tuple(np.nanmean(places, axis=0)), 130))
    chosen = in_set(tab)
    go_to(tab, 0)
    absent = int((~result.known[0]).sum())
    assert f"{absent} were not searched here" in said(tab)
    assert "50.0 % and 25.0 % of the variance" in said(tab)
    np.testing.assert_array_equal(in_set(tab), chosen)
    tab.press("Choose what is in sight", "#map")
    np.testing.assert_array_equal(in_set(tab), np.flatnonzero(result.known[0]))
    go_to(tab, LAYERS - 1)
    assert "variance" not in said(tab), "unknown"


def test_a_dot_is_drawn_pointed_at_and_opened(tab: Tab) -> None:
    result = map_example(early=True)
    go_to(tab, 1)
    places = on_screen(tab, result, 1)
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    apart[np.isnan(apart)] = np.inf
    np.fill_diagonal(apart, np.inf)
    lonely = int(np.argmax(np.where(result.known[1], apart.min(axis=1), -1)))
    x, y = places[lonely]
    pixel = (
        "(() => { const c = document.getElementById('map-dots'), box = c.getBoundingClientRect();"
        f"return [...c.getContext('2d').getImageData(Math.round({x} - box.x),"
        f"Math.round({y} - box.y), 1, 1).data]; }})()"
    )
    assert tab(pixel)[:3] != [255, 255, 255]
    tab.choose("filter-label", (lonely // 5 + 1) % 4)
    tab.until(lambda: tab(pixel)[:3] == [255, 255, 255])
    tab("document.querySelector('#filter button[type=reset]').click()")
    tab.until(lambda: tab(pixel)[:3] != [255, 255, 255])

    def pointed() -> bool:
        for nudge in (1, 2):
            tab.mouse("mouseMoved", x + nudge, y)
        return tab("document.querySelector('#hover p')?.textContent") == f"Row {lonely}"

    tab.until(pointed)
    for kind in ("mousePressed", "mouseReleased"):
        tab.mouse(kind, x + 2, y)
    tab.until(lambda: tab("document.getElementById('detail').open"))
    assert tab("document.getElementById('detail-title').textContent") == f"Row {lonely}"


def test_zoom_and_move(tab: Tab) -> None:
    result = map_example(early=True)
    places = on_screen(tab, result, LAYERS - 1)
    x, y = np.nanmean(places, axis=0)
    lasso(tab, polygon(places, (x, y), 150))  # the map has the focus now
    tab.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400 * np.log(2))
    zoomed = (x, y) + 2 * (places - (x, y))
    tab.press("Choose what is in sight", "#map")
    box = tab(
        "(({left, top, right, bottom}) => [left, top, right, bottom])"
        "(document.getElementById('map-dots').getBoundingClientRect())"
    )

    def in_sight(at: NDArray[np.float64]) -> NDArray[np.int64]:
        within = (at >= box[:2]).all(axis=1) & (at <= box[2:]).all(axis=1)
        return np.flatnonzero(within)

    expected = in_sight(zoomed)
    assert 0 < len(expected) < N
    tab.until(lambda: len(in_set(tab)) == len(expected))
    np.testing.assert_array_equal(in_set(tab), expected)
    tab.press("Move", "#map")
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 100), ("mouseReleased", 100)):
        tab.mouse(kind, x + dx, y, buttons=int(kind == "mouseMoved"))
    tab.press("Choose what is in sight", "#map")
    np.testing.assert_array_equal(in_set(tab), in_sight(zoomed + np.array([100, 0])))
    tab.press("Whole map", "#map")
    tab.press("Choose what is in sight", "#map")
    np.testing.assert_array_equal(in_set(tab), np.flatnonzero(result.known[-1]))


def test_colours_have_a_legend(tab: Tab) -> None:
    legend = "document.getElementById('map-legend').textContent"
    assert tab(legend).startswith("inputundefined")
    tab.choose("map-by", "label")
    assert all(name in tab(legend) for name in NAMES), "as text"
    tab.choose("map-by", "right")
    assert "wrong" in tab(legend)


def test_colours_follow_decisions(tab: Tab) -> None:
    picture = "document.getElementById('map-dots').toDataURL()"
    tab.choose("map-by", "decision")
    assert tab("document.getElementById('map-legend').textContent").startswith("nonekeeprelabel")
    before = tab(picture)
    tab("document.getElementById('set-add').click()")
    chosen = tab.until(lambda: (now := tab(picture)) != before and now)
    tab("document.getElementById('decision-drop').click()")
    tab.until(lambda: tab(picture) != chosen)
    tab("document.getElementById('decision-undo').click()")
    tab.until(lambda: tab(picture) == chosen)


def test_a_served_map_is_asked_for_probe_by_probe(browser: Any, tmp_path: Path) -> None:
    result = map_example(early=True)
    assert result.map is not None
    result.save(tmp_path / "depth.parquet")
    result.map.save(tmp_path / "map.pdepth")
    with serving(View(tmp_path)) as address:
        tab = shown(Tab(browser).open(address))
        asked = "performance.getEntriesByType('resource').map((e) => e.name.split('/').pop())"
        assert [name for name in tab(asked) if name.startswith("map-")] == ["map-3"]
        go_to(tab, 0)
        assert [name for name in tab(asked) if name.startswith("map-")] == ["map-3", "map-0"]
        assert tab.errors() == []
        tab("(window.real = fetch, window.fetch = () => Promise.reject(new Error('gone')))")
        move_to(tab, 1)
        tab.until(lambda: "block<1> cannot be read (gone)" in said(tab))
        tab("(window.fetch = window.real)")
        go_to(tab, 1)
