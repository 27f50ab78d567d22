"""The page in a browser: what a reader can do with it."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdepth.analysis.groups import groups_or_reason
from pdepth.analysis.network import agreement, confused_pairs
from pdepth.analysis.runs import compare
from pdepth.report.html import page, thumbnails
from pdepth.report.pictures import Images
from pdepth.report.view import View, serving

from helpers.pages import (
    NAMES,
    N,
    PartlyReadable,
    Tab,
    comparison_example,
    ensemble_example,
    example,
    read_script,
)

for module in ("plotly", "pyarrow", "PIL"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a result, with half of its pictures beside it, and that of an ensemble."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thumbnails, "MAX_EMBEDDED", 120)
        page.write(
            example(),
            folder / "run.html",
            images=PartlyReadable(),
            class_names=NAMES,
            thumbnails="all",
        )
    page.write(ensemble_example(), folder / "many.html")
    page.write(
        comparison_example(), folder / "two.html", images=PartlyReadable(), class_names=NAMES
    )
    (first,), (second,) = comparison_example().sides
    unlabelled = compare(replace(first, labels=None), [replace(second, labels=None)] * 2)
    page.write(unlabelled, folder / "two-unlabelled.html")
    return folder


@pytest.fixture
def tab(browser: Any, pages: Path) -> Tab:
    return Tab(browser).open(pages / "run.html")


def test_pages_load_without_errors_and_ask_for_nothing(browser: Any, pages: Path) -> None:
    for name in ("run.html", "many.html", "two.html", "two-unlabelled.html"):
        tab = Tab(browser).open(pages / name)
        for key in tab("[...document.querySelectorAll('.view')].map((view) => view.id)"):
            tab.show(key)
        requested = tab("performance.getEntriesByType('resource').map((entry) => entry.name)")
        beside = (pages / "run-thumbnails").as_uri()
        assert [
            value for value in requested if not value.startswith(("data:", "blob:", beside))
        ] == []
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
    result = example()
    tab.show("probes")
    shares = agreement(result)
    for i, expected in enumerate((shares.network, shares.label)):
        actual = tab(f"document.querySelector('#probes .plot').data[{i}].y")
        np.testing.assert_allclose(list(actual), expected)
    tab.show("pairs")
    pairs = confused_pairs(result)
    actual = tab("document.querySelector('#pairs .plot').data[0].z.map((row) => [...row])")
    np.testing.assert_allclose(actual[::-1], pairs.share)


def test_every_example_lies_by_its_label_or_a_column_that_stays(tab: Tab) -> None:
    result = example()
    tab.show("scatter")
    names = tab("[...document.getElementById('upward').options].map((each) => each.value)")
    assert names == ["label", "prediction", "rival", "rival_votes"]
    place = "document.querySelector('#scatter .plot')"
    ticks = f"{place}.layout.yaxis.ticktext"

    def heights() -> np.ndarray:
        pairs = tab(f"{place}.data.flatMap((t) => Array.from(t.rows, (row, i) => [row, t.y[i]]))")
        return np.array(sorted(pairs))[:, 1]

    assert len(tab(ticks)) == len(NAMES)
    np.testing.assert_array_equal(np.rint(heights()), result.labels)
    tab.choose("upward", "rival")
    tab.until(lambda: tab(f"{place}.layout.yaxis.title.text") == "Most other votes")
    assert tab(ticks)[len(NAMES) :] == ["none"]
    assert (np.rint(heights()) == len(NAMES)).any()
    assert heights().max() < tab(f"{place}.layout.yaxis.range")[1]


def test_pointing_at_a_dot_shows_its_picture(tab: Tab) -> None:
    tab.show("scatter")
    place = "document.querySelector('#scatter .plot')"
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
    embedded = json.loads(read_script((pages / "run.html").read_text(), "thumbnails"))["examples"]
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
    file = tab.download("examples.csv", lambda: tab("document.getElementById('csv').click()"))
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    file.unlink()
    kept = np.flatnonzero(result.predictions == 2)
    expected = kept[np.argsort(result.depth[kept], kind="stable")]
    assert [int(row["row"]) for row in rows] == expected.tolist()
    for name, values in {
        "label": result.labels,
        "prediction": result.predictions,
        "depth": result.depth,
        "undefined": result.undefined,
        "vote_block<1>": result.votes[1],
    }.items():
        assert [int(row[name]) for row in rows] == values[expected].astype(int).tolist()
    assert {row["prediction_name"] for row in rows} == {f"'{NAMES[2]}"}  # no formula


def test_keys_reach_the_filter_and_walk_the_table(tab: Tab) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def focused(attribute: str) -> str | None:
        return tab(f"document.activeElement?.{attribute}")

    def press(*keys: str) -> None:
        # To whatever has the focus, not to an element: a table that scrolls replaces its rows.
        ActionChains(tab.browser).send_keys(*keys).perform()

    def is_at(row: int) -> bool:
        return focused("cells?.[2]?.textContent") == str(row)

    tab("document.body.focus()")
    press(Keys.TAB)
    tab.until(lambda: focused("textContent") == "Skip to the findings")
    for _ in range(40):
        before = focused("outerHTML")
        press(Keys.TAB)
        tab.until(lambda: focused("outerHTML") != before)  # noqa: B023
        if focused("id") == "search":
            break
    assert focused("id") == "search"
    press("wrong", " ", "ship")
    tab.until(lambda: all("wrong" in row and "ship" in row for row in tab.table()))
    assert 0 < len(tab.table()) < N
    assert tab("document.getElementById('count').getAttribute('aria-live')") == "polite"
    press(*[Keys.BACKSPACE] * 10)
    tab.until(lambda: tab.count() == "All 240 examples")
    tab("document.querySelector('#scroll tbody tr[tabindex=\"0\"]').focus()")
    press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    tab.until(lambda: is_at(2))
    press(Keys.END)
    tab.until(lambda: is_at(239))
    assert tab("document.getElementById('scroll').scrollTop") > 8000
    press(Keys.ENTER)
    tab.until(lambda: tab("document.getElementById('detail-title')?.textContent") == "Row 239")
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
    tab, ensemble = Tab(browser).open(pages / "many.html"), ensemble_example()
    groups, _ = groups_or_reason(ensemble)
    assert groups is not None
    sizes = [len(rows) for rows in groups.corners.values()]
    assert max(sizes)
    for code, rows in enumerate(groups.corners.values()):
        if len(rows):
            tab.choose("filter-group", code)
            tab.settled(len(rows))
            shown = [int(cells[0]) for cells in tab.table()]
            assert shown == np.sort(rows)[: len(shown)].tolist()
    tab.choose("filter-group", "")
    tab.show("plane")
    drawn = tab("document.querySelector('#plane .plot').data.map((t) => t.rows.length)")
    assert sum(drawn) == (~np.isnan(ensemble.mean_depth()).any(axis=0)).sum()


def test_a_comparison_shows_both_sides(browser: Any, pages: Path) -> None:
    tab, comparison = Tab(browser).open(pages / "two.html"), comparison_example()
    change = comparison.change
    tab.show("sides")
    drawn = tab("document.querySelector('#sides .plot').data.map((t) => [t.name, t.rows.length])")
    kinds = {"deeper": change > 0, "shallower": change < 0, "as deep": change == 0}
    assert drawn == [[name, int(members.sum())] for name, members in kinds.items()]
    tab.show("alignment")
    at, shares = comparison.accuracies(1) or ([], [])
    drawn = tab(
        "(({x, y, name}) => [x, y, name])(document.querySelector('#alignment .plot').data[1])"
    )
    assert drawn[0] == list(at)
    assert drawn[1] == list(shares)
    assert drawn[2] == "&lt;b&gt;large&lt;/b&gt;"
    tab.show("change")
    tab.choose("filter-label", 2)
    members = comparison.labels == 2
    tab.settled(int(members.sum()))
    counts = tab("document.querySelector('#change .plot').data[0].y")
    assert sum(counts) == members.sum()
    assert "Deeper in <b>large</b>" in tab("document.querySelector('.sheet h3').textContent")
    row = int(tab("Number(document.querySelector('.card').ariaLabel.match(/[0-9]+/)[0])"))
    first, second = 100 * comparison.depths[:, row]
    label = tab("document.querySelector('.card').ariaLabel")
    assert label.endswith(f"{first:.1f} to {second:.1f} %")


def test_a_served_page_has_its_pictures_from_the_server(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example().save(tmp_path / "depth.parquet")
    monkeypatch.setattr(
        "pdepth.report.view.find_images", lambda *_: Images(PartlyReadable(), NAMES)
    )
    with serving(View(tmp_path)) as address:
        tab = Tab(browser).open(address)
        for key in tab("[...document.querySelectorAll('.view')].map((view) => view.id)"):
            tab.show(key)
        assert tab.count() == "All 240 examples"
        tab("document.querySelector('.card').click()")
        image = "document.querySelector('dialog .thumb')"
        tab.until(lambda: tab(f"{image}.complete && {image}.naturalWidth") == 6)
        assert "/images/" in tab(f"{image}.src")
        requested = tab("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert all(value.startswith((address, "data:", "blob:")) for value in requested)
        broken = [error for error in tab.errors() if "404" not in str(error)]
        assert broken == [], "but for pictures that cannot be read"


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
