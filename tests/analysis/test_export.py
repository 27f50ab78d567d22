"""Tables and files for other tools: their columns, and every number against a plain loop."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import pdepth
from pdepth.analysis import export
from pdepth.result import DepthResult

pandas = pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")


def result(seed: int = 0, n: int = 50) -> DepthResult:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    predictions = np.where(rng.random(n) < 0.8, labels, rng.integers(0, 4, n))
    votes = np.where(rng.random((3, n)) < 0.6, labels, rng.integers(0, 4, (3, n)))
    depth, undefined = pdepth.depth_from_votes(votes, predictions)
    return DepthResult(
        depth, undefined, votes, np.ones((3, n), bool), predictions, labels,
        ("input", "a", "softmax"), 5,
    )  # fmt: skip


def test_table_has_the_result_and_the_columns_given() -> None:
    original = result()
    margin = np.linspace(-1, 1, 50)
    frame = export.table(original, ids=[f"n{i}" for i in range(50)], margin=margin)
    assert list(frame) == ["id", *original.to_pandas(), "margin"]
    assert frame["margin"].tolist() == margin.tolist()
    assert frame["depth"].tolist() == original.depth.tolist()
    assert "id" not in export.table(original)


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_label_issues(threshold: float) -> None:
    original = result()
    assert original.labels is not None
    frame = export.label_issues(original, ids=np.arange(50) + 7, threshold=threshold)
    assert list(frame) == [
        "id", "is_label_issue", "label_quality", "given_label", "predicted_label", "depth",
    ]  # fmt: skip
    for i, row in enumerate(frame.itertuples()):
        depth = 3
        while depth and original.votes[depth - 1, i] == original.labels[i]:
            depth -= 1
        assert row.depth == depth
        assert row.label_quality == 1 - depth / 3
        assert row.is_label_issue == (1 - depth / 3 <= threshold)
        assert (row.id, row.given_label) == (i + 7, original.labels[i])
        assert row.predicted_label == original.predictions[i]
    assert 0 < frame["is_label_issue"].sum() < 50
    if not threshold:
        assert (frame["is_label_issue"] == (original.votes[-1] != original.labels)).all()


def test_label_issues_of_a_result_against_labels_need_no_other_votes() -> None:
    original = result()
    assert original.labels is not None
    depth, undefined = pdepth.depth_from_votes(original.votes, original.labels)
    known = np.arange(3)[:, None] >= depth
    early = dataclasses.replace(
        original, depth=depth, undefined=undefined, known=known, reference="label"
    )
    assert export.label_issues(early).equals(export.label_issues(original))
    with pytest.raises(ValueError, match="label_issues: expected a result with every vote"):
        export.label_issues(dataclasses.replace(early, reference="prediction"))


def test_label_issues_have_the_columns_of_cleanlab() -> None:
    classification = pytest.importorskip("cleanlab.classification")
    pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).standard_normal((60, 3))
    cleanlabs = classification.CleanLearning(verbose=False).find_label_issues(x, np.arange(60) % 2)
    computed = export.label_issues(result())
    assert set(cleanlabs) <= set(computed)
    for name in cleanlabs:
        assert cleanlabs[name].dtype.kind == computed[name].dtype.kind, (
            name
        )  # labels are int16 there


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl", "JSONL"])
def test_write_is_read_back(tmp_path: Path, suffix: str) -> None:
    names = [f"ü, {i}" for i in range(50)]
    frame = export.table(result(), ids=names, margin=np.linspace(0, 1, 50) / 3)
    path = tmp_path / f"table.{suffix}"
    export.write(frame, path)
    assert os.listdir(tmp_path) == [path.name]
    if suffix == "csv":
        actual = pandas.read_csv(path, float_precision="round_trip")  # as pandas 3 reads
    elif suffix == "parquet":
        actual = pandas.read_parquet(path)
    elif suffix == "json":
        actual = pandas.DataFrame(json.loads(path.read_text()))
    else:
        actual = pandas.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    assert list(actual) == list(frame)
    for name in frame:
        assert actual[name].tolist() == frame[name].tolist()


def test_text_in_a_csv_file_is_no_formula(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "a=b", "'=1", ""]
    frame = pandas.DataFrame({"id": names, "=column": np.arange(-5, 5), "x": np.arange(-5, 5) / 4})
    before = frame.copy()
    export.write(frame, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "'=column", "x"]
    assert [row[0] for row in rows] == [*(f"'{name}" for name in names[:7]), *names[7:]]
    assert [int(row[1]) for row in rows] == list(range(-5, 5))  # a number is none
    assert [float(row[2]) for row in rows] == [i / 4 for i in range(-5, 5)]
    assert frame.equals(before)
    export.write(frame, tmp_path / "table.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == names


def test_lines_of_json_say_null_for_what_they_cannot_hold(tmp_path: Path) -> None:
    original = dataclasses.replace(result(n=3), labels=None)
    frame = export.table(original, margin=[0.1, np.inf, 2.0])
    frame["step"] = [1.0, np.nan, 3.0]
    export.write(frame, tmp_path / "table.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [line["margin"] for line in lines] == [0.1, None, 2.0]
    assert [line["step"] for line in lines] == [1, None, 3]
    assert [line["label"] for line in lines] == [None, None, None]
    assert [line["depth"] for line in lines] == original.depth.tolist()


def test_mistakes(tmp_path: Path) -> None:
    original = result()
    with pytest.raises(
        ValueError,
        match=r"path: expected a suffix of .parquet, .csv, .json, .jsonl, got '.*table\.xlsx'",
    ):
        export.write(export.table(original), tmp_path / "table.xlsx")
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match=r"ids: expected shape \(50,\), got \(3,\)"):
        export.table(original, ids=[1, 2, 3])
    with pytest.raises(
        ValueError, match="columns: expected names that the table does not have yet, got 'depth'"
    ):
        export.table(original, depth=original.depth)
    with pytest.raises(ValueError, match=r"margin: expected shape \(50,\), got \(2,\)"):
        export.table(original, margin=[1, 2])
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold: expected a number from 0 to below 1"):
            export.label_issues(original, threshold=threshold)
    with pytest.raises(
        ValueError, match="label_issues: expected a result with labels, got one without"
    ):
        export.label_issues(dataclasses.replace(original, labels=None))


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ImportError, match=r"needs pandas: pip install 'pdepth\[tables\]'"):
        export.label_issues(result())
