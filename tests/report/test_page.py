"""The page of a result: what it holds, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.analysis.groups import groups_or_reason
from pdepth.analysis.intervals import wilson_interval
from pdepth.report.html import page

from helpers.pages import (
    NAMES,
    N,
    PageReader,
    comparison_example,
    ensemble_example,
    example,
    grey_images,
    map_example,
    read_columns,
    read_script,
    read_words,
)

for module in ("plotly", "pyarrow", "PIL"):
    pytest.importorskip(module)


def test_the_result_comes_back_out_of_the_page(tmp_path: Path) -> None:
    result = example()
    page.write(result, tmp_path / "a.html", class_names=NAMES)
    text = (tmp_path / "a.html").read_text()
    header, columns = json.loads(read_script(text, "header")), read_columns(text)
    classes = np.array([int(value["value"]) for value in header["classes"]])
    assert [value["name"] for value in header["classes"]] == NAMES
    votes = {
        f"vote_{probe}": members for probe, members in zip(result.probes, result.votes, strict=True)
    }
    for name, values in {
        "label": result.labels,
        "prediction": result.predictions,
        **votes,
    }.items():
        np.testing.assert_array_equal(classes[columns[name]], values)
    assert result.labels is not None
    rest = [
        [
            (result.votes[:, row] == members).sum()
            for members in classes
            if members != result.labels[row]
        ]
        for row in range(N)
    ]
    for name, values in {
        "row": np.arange(N),
        "depth": result.depth,
        "undefined": result.undefined,
        "right": result.predictions == result.labels,
        "rival_votes": np.max(rest, axis=1),
    }.items():
        np.testing.assert_array_equal(columns[name], values)
    rivals = np.flatnonzero(columns["rival_votes"])
    cast = (result.votes == classes[np.minimum(columns["rival"], 3)]).sum(axis=0)
    np.testing.assert_array_equal(cast[rivals], columns["rival_votes"][rivals])
    assert (np.delete(columns["rival"], rivals) == len(classes)).all()


def test_names_that_are_no_text_are_written_out(tmp_path: Path) -> None:
    """Of classes, and of files, as a result's meta keeps them."""
    result = dataclasses.replace(example(), meta={"support": "imagefolder:caf\udce9"})
    page.write(result, tmp_path / "a.html", class_names=["caf\udce9", *NAMES[1:]])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    header = json.loads(read_script(text, "header"))
    assert [value["name"] for value in header["classes"]] == ["caf\\udce9", *NAMES[1:]]
    assert "imagefolder:caf\\udce9" in text


def test_unknown_votes_are_missing_and_what_needs_them_left_out(tmp_path: Path) -> None:
    result = example(early=True)
    page.write(result, tmp_path / "a.html", images=grey_images())
    text = (tmp_path / "a.html").read_text()
    columns = read_columns(text)
    for probe, known in zip(result.probes, result.known, strict=True):
        np.testing.assert_array_equal(columns[f"vote_{probe}"] == 4, ~known)
    assert not {"rival", "rival_votes"} & set(columns)
    assert 'id="pairs"' not in text
    assert "--all-votes" in text
    assert '"complete":[]' in text


def test_words_tell_what_the_numbers_are(tmp_path: Path) -> None:
    result = example()
    page.write(result, tmp_path / "a.html", class_names=NAMES)
    words = read_words(tmp_path / "a.html")
    right = int((result.predictions == result.labels).sum())
    assert "Prediction depth of 240 held-out examples" in words
    assert f"right: {right:,} of 240" in words
    assert "mean depth of those that settle, of 0 to 3" in words
    assert "48 of 240 examples (20.0 %) never settle" in words
    assert "Half of the examples have settled by block2, probe 2 of 0 to 3: 144 of 240." in words
    first = result.depth == 0
    count, members = int((result.predictions == result.labels)[first].sum()), int(first.sum())
    low, high = wilson_interval(count, members)
    row = f"input {members} {100 * count / members:.1f} % {100 * low:.0f} to {100 * high:.0f} %"
    assert row in words


def test_sheets_hold_what_their_names_say(tmp_path: Path) -> None:
    """Shallow is up to half of the probes, deep beyond; what is undefined is neither."""
    result = example()
    page.write(result, tmp_path / "a.html", class_names=NAMES)
    text = (tmp_path / "a.html").read_text()
    columns = read_columns(text)
    rows = {}
    for sheet, title in zip(
        json.loads(read_script(text, "header"))["sheets"],
        re.findall(r'<h3 id="sheet-\d+">([^<]*) <span>', text),
        strict=True,
    ):
        within = np.ones(N, bool)
        for name, least, most in sheet["where"]:
            within &= (columns[name] >= least) & (columns[name] <= most)
        rows[title] = within
    wrong = result.predictions != result.labels
    np.testing.assert_array_equal(rows["Wrong and shallow"], wrong & (result.depth <= 1))
    deep = wrong & (result.depth > 1) & ~result.undefined
    np.testing.assert_array_equal(rows["Wrong and deep"], deep)
    words = read_words(tmp_path / "a.html")
    assert "agree by probe 1 at the latest on a class that is not the label" in words
    assert "The network decides after probe 1, and wrongly" in words


def test_pages_without_decisions_speak_of_none(tmp_path: Path) -> None:
    for result, title in (
        (example(), "Set and decisions"),
        (ensemble_example(), "Set"),
        (comparison_example(), "Set"),
    ):
        page.write(result, tmp_path / f"{title}.html")
        text = (tmp_path / f"{title}.html").read_text()
        assert f'<h2 id="set-title">{title}</h2>' in text
        assert f'<a href="#set">{title}</a>' in text
        assert "The filter's examples and ticks in the table (key S) make one set." in text
    page.write(map_example(), tmp_path / "map.html")
    text = (tmp_path / "map.html").read_text()
    assert "The filter's examples, a lasso on the map and ticks in the table (key S)" in text


def test_how_probes_were_placed_and_taken_is_said(tmp_path: Path) -> None:
    meta = {
        "placement": "blocks",
        "placement version": "2",
        "probes": "block1 to block2: token; the input is no probe: rows differ in length",
    }
    page.write(dataclasses.replace(example(), meta=meta), tmp_path / "a.html", class_names=NAMES)
    words = read_words(tmp_path / "a.html")
    assert "Rule that placed the probes blocks" in words
    assert "Placement version 2" in words
    assert f"How the probes were taken {meta['probes']}" in words


def test_words_depend_on_what_votes_were_compared_with(tmp_path: Path) -> None:
    for reference, whose in (
        ("label", "the label"),
        ("array", "the one that it was compared with"),
    ):
        second = example().labels if reference == "array" else None
        result = dataclasses.replace(example(), reference=reference, reference_values=second)
        page.write(result, tmp_path / "a.html", class_names=NAMES)
        text = (tmp_path / "a.html").read_text()
        words = read_words(tmp_path / "a.html")
        assert f"vote for another class than {whose}." in words
        assert "look like another class, or" not in words
        assert ("reference" in read_columns(text)) == (second is not None)


def test_nothing_of_the_data_is_html(tmp_path: Path) -> None:
    result = dataclasses.replace(example(), meta={"model": "</style><img src=x>", "data": "a&b"})
    page.write(result, tmp_path / "a.html", class_names=NAMES, note="<b>of pictures</b>")
    text = (tmp_path / "a.html").read_text()
    read = PageReader(text)
    assert "<script>alert" not in text
    assert "<img" not in text
    assert not {"img", "b", "iframe"} & set(read.opened)
    assert "</style><img src=x>" in read.words
    assert "block<1>" in read.words
    assert all(link.startswith(("#", "data:,")) for link in read.links), "no file is asked for"
    assert read.opened.count("script") == 5


def test_names_in_the_page_code_are_defined_once() -> None:
    """The scripts share a scope, in which a second function would replace the first."""
    code = "\n".join((page.ASSETS / f"{name}.js").read_text("utf-8") for name in page.SCRIPTS)
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", code, re.MULTILINE)
    assert len(names) > 50
    assert {name for name in names if names.count(name) > 1} == set()


def test_measures_are_columns(tmp_path: Path) -> None:
    entropy = np.linspace(0, 1, N) ** 3
    page.write(example(), tmp_path / "a.html", measures={"entropy": entropy})
    np.testing.assert_array_equal(
        read_columns((tmp_path / "a.html").read_text())["entropy"], entropy
    )
    with pytest.raises(
        ValueError, match="measures: expected names that are no column of the page yet, got 'depth'"
    ):
        page.write(example(), tmp_path / "b.html", measures={"depth": entropy})
    with pytest.raises(ValueError, match=r"entropy: expected shape \(240,\), got \(3,\)"):
        page.write(example(), tmp_path / "b.html", measures={"entropy": entropy[:3]})


def test_an_ensemble(tmp_path: Path) -> None:
    ensemble = ensemble_example()
    page.write(ensemble, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    columns, expected = read_columns(text), ensemble.examples()
    for name in ("support_depth", "held_out_depth", "consistency", "entropy", "held_out_networks"):
        np.testing.assert_array_equal(columns[name], expected[name][0])
    consensus, never = expected["consensus"]
    np.testing.assert_array_equal(columns["consensus"] == 3, never)
    np.testing.assert_array_equal(columns["consensus"][~never], consensus[~never])
    np.testing.assert_array_equal(columns["right"] == 2, never)
    assert "6 of 60 examples (10.0 %) were never held out" in text
    groups, _ = groups_or_reason(ensemble)
    assert groups is not None
    for code, rows in enumerate(groups.corners.values()):
        np.testing.assert_array_equal(np.flatnonzero(columns["group"] == code), np.sort(rows))
    once = np.flatnonzero(expected["held_out_networks"][0] == 1)
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
    sheets = json.loads(read_script(text, "header"))["sheets"]
    assert all(["held_out_networks", 2, 3] in sheet["where"] for sheet in sheets[-2:])


def test_large_ids_and_names_are_kept(tmp_path: Path) -> None:
    for ids in (np.array(["a\n", "<b>", "ü"]), np.array([2**60, -1, 2**60 + 1])):
        ensemble = Ensemble([0, 1, 1], ids=ids)
        for name in range(2):
            out = np.arange(3) % 2 == name
            ensemble.add(Member(np.arange(3), np.arange(3) % 2, out, 3, name))
        page.write(ensemble, tmp_path / "a.html")
        actual = read_columns((tmp_path / "a.html").read_text())["id"]
        assert actual.tolist() == [str(value) for value in ids]


def test_size_and_time_of_many_examples(tmp_path: Path) -> None:
    result = example(60_000)
    start = time.process_time()
    page.write(result, tmp_path / "a.html", class_names=NAMES)
    assert time.process_time() - start < 30
    plotly = len(read_script((tmp_path / "a.html").read_text(), "plotly"))
    assert (tmp_path / "a.html").stat().st_size - plotly < 1_000_000


def test_what_is_refused(tmp_path: Path) -> None:
    result = example()
    for name, call in {
        r"path: expected a suffix of \.html, \.htm, got '.*a\.txt'": lambda: page.write(
            result, tmp_path / "a.txt"
        ),
        "thumbnails: expected one of sample, all, none, got 'some'": lambda: page.write(
            result, tmp_path / "a.html", thumbnails="some"
        ),
        "images: expected 240, one per example, got 3": lambda: page.write(
            result, tmp_path / "a.html", images=grey_images(3)
        ),
        "result: expected at least one example, got none": lambda: page.write(
            example(0), tmp_path / "a.html"
        ),
        "result: expected at least one k": lambda: page.write({}, tmp_path / "a.html"),
        "ensemble: expected at least two networks, got 1": lambda: page.write(
            ensemble_example(networks=1), tmp_path / "a.html"
        ),
    }.items():
        with pytest.raises(ValueError, match=name):
            call()
    assert not list(tmp_path.iterdir())


def test_unlabelled_and_several_k(tmp_path: Path) -> None:
    single = example(labels=False)
    page.write({30: single, 5: dataclasses.replace(single, k=5)}, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "Depth against the number of neighbours" in text
    assert not {"label", "right"} & set(read_columns(text))
    assert "wrong" not in " ".join(PageReader(text).words)
