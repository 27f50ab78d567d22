"""Sets and decisions in a browser: how they are made, undone, kept and saved."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.analysis.label_errors import find_issues
from pdepth.report.decisions import run_of
from pdepth.report.html import page

from helpers.pages import (
    NAMES,
    N,
    Tab,
    comparison_example,
    ensemble_example,
    example,
    neighbors_example,
)

for module in ("plotly", "pyarrow"):
    pytest.importorskip(module)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    page.write(neighbors_example(), folder / "run.html", class_names=NAMES)
    page.write(neighbors_example(early=True), folder / "early.html", class_names=NAMES)
    page.write(comparison_example(), folder / "two.html", class_names=NAMES)
    page.write(ensemble_example(), folder / "many.html")
    return folder


@pytest.fixture
def tab(browser: Any, pages: Path) -> Tab:
    tab = Tab(browser).open(pages / "run.html")
    tab("localStorage.clear()")
    return tab.open(pages / "run.html")


def press(tab: Tab, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(tab.browser).send_keys(*keys).perform()


def click(tab: Tab, name: str) -> None:
    tab(f"document.getElementById('{name}').click()")


def focus_row(tab: Tab, row: int) -> None:
    tab.search(row)
    tab("document.querySelector('#scroll tbody tr[tabindex=\"0\"]').focus()")


def saved(tab: Tab, name: str, button: str) -> Path:
    return tab.download(name, lambda: click(tab, button))


def counts(tab: Tab) -> str:
    return tab("document.getElementById('decision-count').textContent")


def in_set(tab: Tab) -> str:
    return tab("document.getElementById('set-count').textContent")


def test_filter_and_table_make_one_set(tab: Tab) -> None:
    result = neighbors_example()
    tab.choose("filter-label", 1)
    click(tab, "set-add")
    tab.choose("filter-prediction", 2)
    click(tab, "set-remove")
    tab("document.querySelector('#filter button[type=reset]').click()")
    tab.settled(N)
    expected = (result.labels == 1) & (result.predictions != 2)
    boxes = "[...document.querySelectorAll('#scroll .tick input')]"
    tab(f"{boxes}[0].click()")
    expected[0] = True
    tab(
        f"{boxes}[4].dispatchEvent(new MouseEvent('click', {{ bubbles: true, shiftKey: true }}))"
    )  # a range
    expected[:5] = True
    focus_row(tab, 9)
    press(tab, "s")
    expected[9] ^= True
    tab("document.querySelector('#filter button[type=reset]').click()")
    click(tab, "set-only")
    rows = np.flatnonzero(expected)
    tab.settled(len(rows))
    assert in_set(tab) == f"{len(rows)} examples in the set"
    assert [int(cells[0]) for cells in tab.table()] == rows[: len(tab.table())].tolist()
    file = saved(tab, "selection.json", "set-json")
    read = pdepth.read_selection(file)
    assert read.run == run_of(result)
    np.testing.assert_array_equal(read.rows, rows)
    click(tab, "set-clear")
    tab.settled(0)
    assert in_set(tab) == "0 examples in the set"
    assert tab("document.getElementById('set-json').disabled")
    assert tab.errors() == []


def test_a_set_is_saved_under_its_name_in_every_format(tab: Tab) -> None:
    import pyarrow.parquet

    result = neighbors_example()
    tab.choose("filter-label", 3)
    click(tab, "set-add")
    tab("(document.getElementById('set-name').value = 'ships <i>/../')")
    rows = np.flatnonzero(result.labels == 3)
    name = "ships-i-..-"
    table = pyarrow.parquet.read_table(saved(tab, f"{name}.parquet", "set-parquet"))
    assert table.schema.to_string() == "row: int64 not null"
    np.testing.assert_array_equal(table["row"], rows)
    file = saved(tab, f"{name}.csv", "set-csv")
    np.testing.assert_array_equal(pdepth.read_selection(file).rows, rows)
    with file.open(newline="") as lines:
        lines = list(csv.DictReader(lines))
    np.testing.assert_array_equal([int(line["depth"]) for line in lines], result.depth[rows])
    file = saved(tab, f"{name}.json", "set-json")
    assert json.loads(file.read_text())["name"] == "ships <i>/../"


def test_issues_are_those_of_python_the_worst_first(tab: Tab) -> None:
    result = neighbors_example()
    kept = result.neighbors
    assert kept is not None
    click(tab, "set-add")
    with saved(tab, "selection.issues.csv", "set-issues").open(newline="") as file:
        lines = list(csv.DictReader(file))
    issues = find_issues(kept.class_counts(), kept.classes, result.labels)
    table = issues.to_cleanlab().iloc[issues.ranked]
    assert [int(line["row"]) for line in lines] == issues.ranked.tolist()
    for name in ("given_label", "predicted_label"):
        assert [int(line[name]) for line in lines] == table[name].tolist()
    assert [line["is_label_issue"] == "True" for line in lines] == table.is_label_issue.tolist()
    np.testing.assert_allclose(
        [float(line["label_quality"]) for line in lines], table.label_quality
    )


def test_keys_decide_and_undo(tab: Tab) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    result = neighbors_example()
    assert result.labels is not None
    for row, key in ((7, "r"), (14, "d"), (3, "k")):
        focus_row(tab, row)
        press(tab, key)
    assert counts(tab) == "1 keep, 1 relabel, 1 drop"
    focus_row(tab, 14)
    press(tab, "k")
    assert counts(tab) == "2 keep, 1 relabel, 0 drop"
    press(tab, "u")
    assert counts(tab) == "1 keep, 1 relabel, 1 drop"
    press(tab, Keys.ENTER)
    tab.until(lambda: tab("document.getElementById('detail').open"))
    assert tab("document.querySelector('#detail .decide [aria-pressed=true]').textContent") == (
        "Drop D"
    )
    press(tab, "r")
    assert counts(tab) == "1 keep, 2 relabel, 0 drop"
    select = "document.querySelector('#detail .decide select')"
    suggested = int(tab(f"{select}.value"))
    assert suggested != result.labels[14]
    other = next(code for code in range(4) if code not in (suggested, result.labels[14]))
    tab(f"(() => {{ {select}.value = {other}; {select}.dispatchEvent(new Event('change')); }})()")
    facts = "document.querySelector('#detail .facts').textContent"
    tab.until(lambda: f"New label{NAMES[other]}" in tab(facts))
    keys = ActionChains(tab.browser)
    keys.key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    tab.until(lambda: f"New label{NAMES[suggested]}" in tab(facts))
    press(tab, Keys.ESCAPE)
    tab("document.querySelector('#filter button[type=reset]').click()")
    tab.choose("filter-decision", 2)
    tab.settled(2)
    assert [int(cells[0]) for cells in tab.table()] == [7, 14]
    for left in ("1 keep, 1 relabel, 1 drop", "0 keep, 1 relabel, 1 drop"):
        click(tab, "decision-undo")
        assert counts(tab) == left
    assert tab.errors() == []


def test_decisions_are_kept_and_saved_for_pdepth(tab: Tab, pages: Path) -> None:
    result = neighbors_example()
    assert result.labels is not None
    for row, key in ((7, "r"), (14, "d"), (3, "k")):
        focus_row(tab, row)
        press(tab, key)
    tab.open(pages / "run.html")
    assert counts(tab) == "1 keep, 1 relabel, 1 drop"
    file = saved(tab, "decisions.json", "decision-save")
    read = pdepth.Decisions.read(file)
    assert read.run == run_of(result)
    assert [(entry.row, entry.decision, entry.given) for entry in read.entries] == [
        (row, kind, result.labels[row]) for row, kind in ((3, "keep"), (7, "relabel"), (14, "drop"))
    ]
    label = read.relabelled[7]
    assert read.entries[1].name == NAMES[label]
    images = np.arange(N)
    left, labels = pdepth.apply_decisions((images, result.labels), file)
    np.testing.assert_array_equal(left, np.delete(images, 14))
    assert labels[7] == label != result.labels[7]
    click(tab, "decision-clear")
    assert counts(tab) == "0 keep, 0 relabel, 0 drop"
    load = tab.browser.find_element("id", "decision-load")
    load.send_keys(str(file))
    tab.until(lambda: counts(tab) == "1 keep, 1 relabel, 1 drop")
    click(tab, "decision-undo")
    assert counts(tab) == "0 keep, 0 relabel, 0 drop"


def test_kept_decisions_that_do_not_fit_the_page_stay(tab: Tab, pages: Path) -> None:
    """As those of another network's page of the same data, with more classes."""
    focus_row(tab, 5)
    press(tab, "k")
    (key,) = tab("Object.keys(localStorage).filter((key) => key.startsWith('pdepth-decisions'))")
    kept = json.loads(tab(f"localStorage.getItem({json.dumps(key)})"))
    kept["decisions"][0] |= {"decision": "relabel", "label": 77}
    text = json.dumps(kept)
    tab(f"localStorage.setItem({json.dumps(key)}, {json.dumps(text)})")
    tab.open(pages / "run.html")
    assert counts(tab) == "0 keep, 0 relabel, 0 drop"
    note = "document.getElementById('decision-note').textContent"
    assert "do not fit this page" in tab(note)
    focus_row(tab, 6)
    press(tab, "d")
    assert counts(tab) == "0 keep, 0 relabel, 1 drop"
    assert tab(f"localStorage.getItem({json.dumps(key)})") == text
    assert "do not fit this page" in tab(note)


def test_files_of_other_data_are_refused(tab: Tab, tmp_path: Path) -> None:
    run = run_of(neighbors_example()).to_json()
    whole = {"format": "pdepth-decisions", "version": 1, "run": run, "decisions": []}
    for name, content, why in (
        ("a.json", "{", "JSON"),
        ("b.json", json.dumps({**whole, "format": "<b>"}), "got another file"),
        ("c.json", json.dumps({**whole, "run": {**run, "rows": 3}}), "those of other data"),
        ("d.json", json.dumps({**whole, "decisions": [{"row": 999, "decision": "drop"}]}), "999"),
        (
            "e.json",
            json.dumps({**whole, "decisions": [{"row": 1, "decision": "relabel", "label": 77}]}),
            "of row 1",
        ),
    ):
        (tmp_path / name).write_text(content)
        tab.browser.find_element("id", "decision-load").send_keys(str(tmp_path / name))
        note = "document.getElementById('decision-note').textContent"
        tab.until(lambda: tab(note).startswith(f"{name}:") and why in tab(note))  # noqa: B023
        assert counts(tab) == "0 keep, 0 relabel, 0 drop"


def test_a_whole_set_is_decided_at_once(tab: Tab) -> None:
    result = neighbors_example()
    tab.choose("filter-right", 0)
    click(tab, "set-add")
    click(tab, "decision-relabel")
    wrong = int((result.predictions != result.labels).sum())
    assert counts(tab) == f"0 keep, {wrong} relabel, 0 drop"
    click(tab, "decision-undo")
    assert counts(tab) == "0 keep, 0 relabel, 0 drop"


def test_other_pages_have_sets_without_decisions(browser: Any, pages: Path) -> None:
    tab = Tab(browser).open(pages / "many.html")
    assert tab("document.getElementById('decisions').hidden")
    click(tab, "set-add")
    file = saved(tab, "selection.csv", "set-csv")
    assert len(file.read_text().splitlines()) == 61
    tab.open(pages / "early.html")
    click(tab, "set-add")
    assert tab("document.getElementById('set-issues').disabled"), "votes are missing"
    assert "--all-votes" in tab("document.getElementById('set-issues').title")
    assert tab.errors() == []


def test_data_without_checksums_do_not_share_decisions(
    tab: Tab, tmp_path: Path, pages: Path
) -> None:
    """Two pages of as many rows without labels: what was decided of one is not the other's."""
    first = example(labels=False)
    other = replace(first, predictions=(first.predictions + 1) % 3)
    for name, result in (("first", first), ("same", first), ("other", other)):
        page.write(result, tmp_path / f"{name}.html")
    tab.open(tmp_path / "first.html")
    click(tab, "set-add")
    click(tab, "decision-drop")
    assert counts(tab) == f"0 keep, 0 relabel, {N} drop"
    tab.open(tmp_path / "same.html")
    assert counts(tab) == f"0 keep, 0 relabel, {N} drop"
    tab.open(tmp_path / "other.html")
    assert counts(tab) == "0 keep, 0 relabel, 0 drop"
    tab("localStorage.clear()")
