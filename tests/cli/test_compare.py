"""`pdepth compare`: runs of the same examples, compared into a folder."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pdepth import cli

from helpers.pages import comparison_example, read_words

for module in ("plotly", "pyarrow", "pandas", "matplotlib", "PIL"):
    pytest.importorskip(module)

COMPARISON = comparison_example()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Folders "small" and "large", and "k" with two k."""
    for name, (result,) in zip(("small", "large"), COMPARISON.sides, strict=True):
        (tmp_path / name).mkdir()
        result.save(tmp_path / name / "depth.parquet")
    (tmp_path / "k").mkdir()
    for k, (result,) in zip((5, 30), COMPARISON.sides, strict=True):
        replace(result, k=k).save(tmp_path / "k" / f"depth-k{k}.parquet")
    return tmp_path


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_two_runs(runs: Path) -> None:
    result = call(runs / "small", runs / "large", "--out", runs / "out")
    assert result.exit_code == 0, result.output
    assert "240 examples: small and large" in result.output
    assert "Inputs were not compared" in result.output
    change, low, high = COMPARISON.difference
    told = f"{100 * change:+.1f} %, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} %;"
    assert f"Mean change {told}".replace("-", "\u2212") in result.output
    assert f"{100 * COMPARISON.depths[0].mean():.1f} %" in result.output
    assert not re.search(r"\d%", result.output)
    with (runs / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.allclose([float(row["difference"]) for row in rows], COMPARISON.change)
    names = sorted(file.name for file in (runs / "out").iterdir())
    assert names == ["comparison.csv", "comparison.html", "comparison.pdf"]
    again = runs / "small", runs / "large", "--out", runs / "out"
    assert "expected a folder without results" in refused(*again)
    assert call(*again, "--overwrite", "--quiet").output == ""


def test_a_run_with_early_exit(runs: Path) -> None:
    (result,) = COMPARISON.second
    known = np.logical_and.accumulate((result.votes == result.predictions)[::-1])[::-1]
    known[-1] = True
    votes = np.where(known, result.votes, -1)
    replace(result, known=known, votes=votes).save(runs / "large" / "depth.parquet")
    done = call(runs / "small", runs / "large", "--out", runs / "out")
    assert done.exit_code == 0, done.output
    unknown = "No accuracy of probes of large: early exit left votes unknown; pdepth run"
    assert unknown in done.output
    words = read_words(runs / "out" / "comparison.html")
    assert unknown in words
    assert "from the first probe to the last; of large it is not known." in words


def test_several_k_of_one_run(runs: Path) -> None:
    tables = [runs / "k" / f"depth-k{k}.parquet" for k in (5, 30)]
    result = call(*tables, "--out", runs / "out")
    assert result.exit_code == 0, result.output
    assert "The runs differ in k: 30, 5." in result.output
    assert "k: expected one of 5, 30 in" in refused(runs / "k", runs / "small", "--out", runs / "x")
    assert call(runs / "k", runs / "small", "--k", 30, "--out", runs / "y").exit_code == 0
    assert "got 7" in refused(runs / "k", runs / "small", "--k", 7, "--out", runs / "x")
    assert not (runs / "x").exists()


def test_each_further_run_with_the_first_and_seeds(runs: Path) -> None:
    result = call(runs / "small", runs / "large", runs / "k/depth-k5.parquet", "--out", runs / "a")
    assert result.exit_code == 0, result.output
    assert sorted(folder.name for folder in (runs / "a").iterdir()) == ["depth-k5", "large"]
    result = call(
        runs / "small", runs / "large", "--against", runs / "large", "--names", "both,one",
        "--out", runs / "b",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "240 examples: both and one" in result.output


def test_wrong_arguments(runs: Path) -> None:
    out = "--out", runs / "out"
    assert "expected two runs or more" in refused(runs / "small", *out)
    assert "expected distinct names" in refused(runs / "k", runs / "small", runs / "small", *out)
    assert "names: expected 2" in refused(runs / "small", runs / "large", "--names", "a,b,c", *out)
    assert "RESULTS: expected a folder" in refused(runs / "small", runs / "none", *out)
    assert "thumbnails: expected" in refused(
        runs / "small", runs / "large", "--thumbnails", "some", *out
    )
    assert not (runs / "out").exists()


def test_runs_of_other_data(runs: Path) -> None:
    (result,) = COMPARISON.first
    labels = result.labels.copy()  # type: ignore[union-attr]
    labels[17] += 1
    replace(result, labels=labels).save(runs / "large" / "depth.parquet")
    text = refused(runs / "small", runs / "large", "--out", runs / "out")
    assert "got another label first at row 17." in text
