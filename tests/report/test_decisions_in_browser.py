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
from pdepth.report.label_issues import issues_of_kept

from helpers.pages import (
    NAMES,
    N,
    Tab,
    comparison_example,
    ensemble_example,
    example,
    neighbors_example,
    read_columns,
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


def said(tab: Tab) -> str | None:
    return tab("document.getElementById('said')?.textContent")


def suggested(tab: Tab) -> dict[int, int]:
    """The new labels of all rows, relabelled as suggested, by row."""
    click(tab, "set-add")
    click(tab, "decision-relabel")
    assert counts(tab).startswith("0 keep, ")
    return pdepth.Decisions.read(saved(tab, "decisions.json", "decision-save")).relabelled


def test_issues_alone_are_relabelled_as_suggested(tab: Tab) -> None:
    """As Python and `pdepth label-issues` do: of other rows the given label fits best."""
    result = neighbors_example()
    issues = issues_of_kept(result)
    assert issues is not None
    few = int(issues.is_issue.sum())
    assert 0 < few < N
    assert suggested(tab) == pdepth.issue_decisions(issues, result).relabelled
    left = "a label score below 0 means that the given label fits best"
    assert said(tab) == f"No label is suggested for {N - few} of these examples: {left}."
    click(tab, "decision-undo")
    assert counts(tab) == "0 keep, 0 relabel, 0 drop"
    row = int(np.flatnonzero(~issues.is_issue)[-1])
    focus_row(tab, row)
    assert said(tab) is not None
    press(tab, "k")
    assert said(tab) is None, "until the next key"
    press(tab, "r")
    assert said(tab) == f"No label is suggested for this example: {left}."
    assert counts(tab) == "1 keep, 0 relabel, 0 drop"
    tab("document.activeElement.click()")
    tab.until(lambda: tab("document.getElementById('detail').open"))
    select = "document.querySelector('#detail .decide select')"
    assert tab(f"{select}.value") == ""
    press(tab, "r")
    assert tab("document.querySelector('#detail #said').textContent").startswith("No label is")
    tab(f"({select}.value = 2, {select}.dispatchEvent(new Event('change')))")
    assert counts(tab) == "0 keep, 1 relabel, 0 drop", "a label that somebody has chosen"
    assert tab.errors() == []


def test_without_scores_half_of_the_probes_or_the_network_suggest(
    browser: Any, tmp_path: Path
) -> None:
    tab = Tab(browser)
    for early in (False, True):
        result = example(early=early)
        assert result.labels is not None
        page.write(result, tmp_path / f"{early}.html", class_names=NAMES)
        columns = read_columns((tmp_path / f"{early}.html").read_text())
        expected = {}
        for row, (label, prediction) in enumerate(
            zip(result.labels.tolist(), result.predictions.tolist(), strict=True)
        ):
            if not early and columns["rival_votes"][row] >= 2:
                expected[row] = int(columns["rival"][row])
            elif prediction != label:
                expected[row] = prediction
        tab.open(tmp_path / f"{early}.html")
        tab("localStorage.clear()")
        tab.open(tmp_path / f"{early}.html")
        assert suggested(tab) == expected
        assert f"for {N - len(expected)} of these examples: the network gives" in str(said(tab))
        tab("localStorage.clear()")


def test_two_pages_of_one_run_keep_what_both_decide(tab: Tab, pages: Path) -> None:
    browser = tab.browser
    one = browser.current_window_handle
    focus_row(tab, 7)
    press(tab, "d")
    browser.switch_to.new_window("tab")
    two = browser.current_window_handle
    try:
        tab.open(pages / "run.html")
        assert counts(tab) == "0 keep, 0 relabel, 1 drop"
        focus_row(tab, 3)
        press(tab, "k")
        browser.switch_to.window(one)
        tab.until(lambda: counts(tab) == "1 keep, 0 relabel, 1 drop")
        focus_row(tab, 14)
        press(tab, "d")
        browser.switch_to.window(two)
        tab.until(lambda: counts(tab) == "1 keep, 0 relabel, 2 drop")
        focus_row(tab, 14)
        press(tab, "k")
        browser.switch_to.window(one)
        tab.until(lambda: counts(tab) == "2 keep, 0 relabel, 1 drop")
        press(tab, "u")  # of row 14, of which the other page has decided since
        assert counts(tab) == "2 keep, 0 relabel, 1 drop"
        assert "nothing is undone" in str(said(tab))
        press(tab, "u")
        assert counts(tab) == "2 keep, 0 relabel, 0 drop"
        click(tab, "decision-clear")
        browser.switch_to.window(two)
        tab.until(lambda: counts(tab) == "0 keep, 0 relabel, 0 drop")
    finally:
        browser.switch_to.window(two)
        browser.close()
        browser.switch_to.window(one)


def test_what_another_page_has_kept_meanwhile_is_not_overwritten(tab: Tab) -> None:
    """Also where this page has not heard of it yet, or the storage was emptied."""
    focus_row(tab, 7)
    press(tab, "d")
    (key,) = tab("Object.keys(localStorage).filter((key) => key.startsWith('pdepth-decisions'))")
    kept = json.loads(tab(f"localStorage.getItem({json.dumps(key)})"))
    kept["decisions"].append({"row": 3, "decision": "keep"})
    tab(f"localStorage.setItem({json.dumps(key)}, {json.dumps(json.dumps(kept))})")
    focus_row(tab, 14)
    press(tab, "d")
    assert counts(tab) == "1 keep, 0 relabel, 2 drop"
    tab("localStorage.clear()")
    press(tab, "k")
    assert counts(tab) == "2 keep, 0 relabel, 1 drop"
    rows = f"JSON.parse(localStorage.getItem({json.dumps(key)})).decisions.map((d) => d.row)"
    assert tab(rows) == [3, 7, 14]


def test_a_decision_leaves_the_focus_where_it_is(tab: Tab) -> None:
    tab.choose("filter-decision", 0)
    tab("document.querySelector('#scroll tbody tr[data-place=\"5\"]').click()")
    tab.until(lambda: tab("document.getElementById('detail').open"))
    group, active = "document.querySelector('#detail .decide')", "document.activeElement"
    tab(f"{group}.querySelector('button').focus()")
    tab(f"{active}.click()")
    assert tab(f"[{active}.textContent, {active}.ariaPressed]") == ["Keep K", "true"]
    press(tab, "s")
    assert tab(f"{active}.textContent") == "Keep K"
    assert tab(f"{group}.lastChild.ariaPressed") == "true"
    tab("document.querySelector('#detail .strip').focus()")
    press(tab, "d")
    assert tab(f"{active}.className") == "strip"
    assert "Decisiondrop" in tab("document.querySelector('#detail .facts').textContent")
    tab.press("Next", "#detail")  # of the row that has left the table
    tab.until(lambda: tab("document.getElementById('detail-title').textContent") == "Row 6")
    tab.press("Close", "#detail")
    tab("document.querySelector('#scroll tbody tr[tabindex=\"0\"]').focus()")
    for row in range(3):  # each is gone once it is decided
        assert tab(f"{active}.cells[1].textContent") == str(row)
        press(tab, "k")
    assert tab.errors() == []


def test_a_narrow_window_begins_with_what_is_known(tab: Tab) -> None:
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    tab.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        heads = "[...document.querySelectorAll('#scroll th')]"
        inside = "(th) => th.getBoundingClientRect().right <= innerWidth"
        seen = tab(f"{heads}.filter({inside}).map((th) => th.dataset.column ?? '')")
        assert seen == ["", "row", "label"]
    finally:
        tab.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    names = tab(f"{heads}.map((th) => th.dataset.column)")
    assert names.index("decision") == names.index("depth") + 1


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
