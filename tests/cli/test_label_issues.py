"""`pdepth label-issues`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import pdepth

from helpers.commands import invoke, refusal

for module in ("pyarrow", "pandas", "PIL"):
    pytest.importorskip(module)


@pytest.fixture
def out(tmp_path: Path, user_file: Path) -> Path:
    """A run with early exit that kept its embeddings."""
    folder = tmp_path / "run"
    arguments = ("--support", f"{user_file}:support", "-k", 3, "--keep-embeddings", tmp_path / "k")
    result = invoke("run", f"{user_file}:net", *arguments, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


def test_label_issues_are_printed_and_written(out: Path) -> None:
    import pandas

    result = invoke("label-issues", out, "--top", 1)
    assert result.exit_code == 0, result.output
    expected = pdepth.label_issues(out)
    table = pandas.read_csv(out / "label-issues.csv", dtype={"score": str})
    assert list(table)[:6] == [
        "row", "path", "label", "suggested_label", "score", "is_label_issue",
    ]  # fmt: skip
    assert table["row"].tolist() == expected.ranked.tolist()
    np.testing.assert_array_equal(table["score"].astype(float), expected.score[expected.ranked])
    assert table["path"].isna().all()
    assert f"{expected.is_issue.sum()} of 60 labels have a score of at least 0." in result.stdout
    assert expected.is_issue.sum() > 1
    shown = []
    for row in expected.ranked[:2]:
        line = (row, expected.label[row], expected.suggested[row], f"{expected.score[row]:.2f}")
        pattern = r"^ *" + " +".join(map(str, line)) + r" *$"
        shown.append(re.search(pattern, result.stdout, re.MULTILINE) is not None)
    assert shown == [True, False]
    assert "path" not in result.stdout
    assert "label-issues.csv; pass --overwrite" in refusal("label-issues", out).replace(
        ", which exists", ""
    )
    assert invoke("label-issues", out, "--overwrite", "--quiet").stdout == ""


def test_a_list_in_json_at_another_threshold(out: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    result = invoke("label-issues", out, "--out", file, "--threshold", 1e6)
    assert result.exit_code == 0, result.output
    assert "0 of 60 labels have a score of at least 1e+06." in result.stdout
    records = json.loads(file.read_text())
    assert len(records) == 60
    assert not any(record["is_label_issue"] for record in records)
    scores = [record["score"] for record in records]
    assert scores == sorted(scores, reverse=True)


def test_wrong_use(out: Path, tmp_path: Path, user_file: Path) -> None:
    assert "path: expected a suffix of" in refusal("label-issues", out, "--out", tmp_path / "a.txt")
    assert "RESULTS: expected a folder or a Parquet file" in refusal("label-issues", out / "b")
    other = tmp_path / "other"
    net = ("run", f"{user_file}:net", "--support", f"{user_file}:support", "-k", 3)
    assert invoke(*net, "--out", other).exit_code == 0
    assert f"pdepth run {user_file}:net --support {user_file}:support -k 3" in refusal(
        "label-issues", other
    )
    cast = invoke("label-issues", other, "--store", tmp_path / "k")
    assert cast.exit_code == 0, cast.output
    expected = pdepth.label_issues(out).score
    found = pdepth.label_issues(other, store=tmp_path / "k").score
    np.testing.assert_array_equal(found, expected)
