"""The card of one example in a browser: its way through the network, and its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdepth.report.html import neighbors, page
from pdepth.report.pictures import Images
from pdepth.report.view import View, serving
from pdepth.result import DepthResult

from helpers.pages import LAYERS, NAMES, N, Tab, grey_images, neighbors_example

for module in ("plotly", "pyarrow", "PIL"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of held-out examples and of a support's own, and one without room for neighbours."""
    folder = tmp_path_factory.mktemp("pages")
    options: dict[str, Any] = {"class_names": NAMES, "images": grey_images()}
    page.write(
        neighbors_example(early=True),
        folder / "queries.html",
        support_images=grey_images(50),
        **options,
    )
    page.write(neighbors_example(own=True), folder / "own.html", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "MAX_BYTES", 0)
        page.write(neighbors_example(), folder / "none.html", **options)
    return folder


def open_row(tab: Tab, row: int) -> None:
    tab.search(row)
    tab("document.querySelector('#scroll tbody tr:not(.gap)').click()")
    tab.until(lambda: title(tab) == f"Row {row}")


def title(tab: Tab) -> str | None:
    return tab("document.getElementById('detail-title')?.textContent")


def nearest(tab: Tab) -> list[list[str]]:
    """What the buttons of each probe's neighbours are called, once they are there."""
    cells = "[...document.querySelectorAll('#detail td.nearest')]"
    tab.until(lambda: tab(f"{cells}.every((cell) => cell.textContent)"))
    return tab(f"{cells}.map((c) => [...c.querySelectorAll('button')].map((b) => b.ariaLabel))")


def expected(result: DepthResult, row: int, word: str, distances: bool = False) -> list[list[str]]:
    kept, lines = result.neighbors, []
    assert kept is not None
    for probe in range(LAYERS):
        line = []
        for rank, near in enumerate(kept.rows[probe, row]):
            if near < 0:
                continue
            label = int(kept.codes[near])
            number = near if kept.row_numbers is None else kept.row_numbers[near]
            agrees = "agrees" if label == result.predictions[row] else "disagrees"
            far = f", distance {kept.distances[probe, row, rank]:.4g}" if distances else ""
            line.append(f"{word} {number}: {NAMES[label]}{far}, {agrees}")
        lines.append(line)
    return lines


def test_the_strip_is_the_votes_and_their_margins(browser: Any, pages: Path) -> None:
    result = neighbors_example(early=True)
    kept = result.neighbors
    assert kept is not None
    tab = Tab(browser).open(pages / "queries.html")
    for row in (17, 28):  # of depths 2 and 3
        open_row(tab, row)
        told = tab("document.querySelector('#detail .strip').ariaLabel")
        lines = [
            f"{probe}: {NAMES[vote]}, margin {margin}" if there else f"{probe}: unknown"
            for probe, vote, margin, there in zip(
                result.probes,
                kept.votes()[:, row],
                kept.margins()[:, row],
                kept.searched[:, row],
                strict=True,
            )
        ]
        assert told == f"Votes by probe: {'; '.join(lines)}"
        heights = tab(
            "[...document.querySelectorAll('#detail .step .bar i')].map((bar) => bar.style.height)"
        )
        shown = np.where(kept.searched[:, row], np.maximum(4, kept.margins()[:, row] / 0.3), 0)
        np.testing.assert_allclose([float(text.rstrip("%")) for text in heights], shown, atol=1e-3)
        settles = "document.querySelector('#detail .step.settles').lastElementChild.textContent"
        assert tab(settles) == result.probes[result.depth[row]]
    assert "<script>" in tab("document.querySelector('#detail').textContent"), "as text"
    assert tab.errors() == []


def test_neighbours_of_held_out_examples_open_cards_of_the_support(
    browser: Any, pages: Path
) -> None:
    result = neighbors_example(early=True)
    tab = Tab(browser).open(pages / "queries.html")
    open_row(tab, 28)
    assert nearest(tab) == expected(result, 28, "Support row")
    images = tab("document.querySelectorAll('#detail .near img').length")
    assert images == sum(map(len, expected(result, 28, "")))
    frames = tab("[...document.querySelectorAll('#detail .near')].map((b) => b.className)")
    told = [name.endswith(" agrees") for line in nearest(tab) for name in line]
    assert [frame == "near agrees" for frame in frames] == told
    name = nearest(tab)[3][0].split(":")[0]
    tab("document.querySelectorAll('#detail td.nearest')[3].querySelector('button').click()")
    tab.until(lambda: title(tab) == name)
    assert "of the support" in tab("document.querySelector('#detail .facts').textContent")
    tab.until(lambda: tab("document.querySelector('#detail .body > img').naturalWidth") == 6)
    tab.press("Back", "#detail")
    tab.until(lambda: title(tab) == "Row 28")
    assert "Back" not in tab("document.querySelector('#detail .bar').textContent")
    assert tab.errors() == []


def test_own_neighbours_open_as_examples_and_keys_go_back(browser: Any, pages: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    result = neighbors_example(own=True)
    assert result.neighbors is not None
    tab = Tab(browser).open(pages / "own.html")
    open_row(tab, 20)
    assert nearest(tab) == expected(result, 20, "Row")
    for step in range(2):
        shown = int((title(tab) or "").split()[1])
        nearest(tab)
        tab("document.querySelector('#detail .near').click()")
        there = int(result.neighbors.rows[0, shown, 0])
        tab.until(lambda: title(tab) == f"Row {there}")  # noqa: B023
        assert nearest(tab) == expected(result, there, "Row"), step
    for there in (int(result.neighbors.rows[0, 20, 0]), 20):
        ActionChains(browser).send_keys(Keys.BACKSPACE).perform()
        tab.until(lambda: title(tab) == f"Row {there}")  # noqa: B023


def test_what_is_not_in_the_page_is_said(browser: Any, pages: Path) -> None:
    tab = Tab(browser).open(pages / "none.html")
    open_row(tab, 20)
    assert nearest(tab) == [[]] * LAYERS
    assert tab("document.querySelector('#detail td.nearest').textContent") == "in pdepth view alone"


def test_a_served_page_asks_for_neighbours_and_has_distances(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = neighbors_example(early=True)
    assert result.neighbors is not None
    result.save(tmp_path / "depth.parquet")
    result.neighbors.save(tmp_path / "neighbors.pdepth")
    for name, count in (("find_images", N), ("neighbors_images", 50)):
        found = Images(grey_images(count), NAMES)
        monkeypatch.setattr(f"pdepth.report.view.{name}", lambda *_, found=found: found)
    with serving(View(tmp_path)) as address:
        tab = Tab(browser).open(address)
        open_row(tab, 28)
        assert nearest(tab) == expected(result, 28, "Support row", distances=True)
        picture = "document.querySelector('#detail .near img')"
        tab.until(lambda: tab(f"{picture}.complete && {picture}.naturalWidth") == 6)
        assert "/support/thumbnails/" in tab(f"{picture}.src")
        tab("document.querySelector('#detail .near').click()")
        tab.until(lambda: (title(tab) or "").startswith("Support row"))
        assert "/support/images/" in tab("document.querySelector('#detail .body > img').src")
        assert tab.errors() == []
