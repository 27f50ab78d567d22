"""Decisions on the command line: from a page or `pdepth label-issues` into the next run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdepth import label_issues
from pdepth.report.decisions import run_of
from pdepth.report.explain import read_run
from pdepth.result import DepthResult

from helpers.commands import invoke, refusal

for module in ("pyarrow", "pandas"):
    pytest.importorskip(module)


def decided(tmp_path: Path, run: Path, entries: list[dict[str, Any]], name: str = "d.json") -> Path:
    """A file of decisions about a run's examples, as the page writes it."""
    rows = run_of(DepthResult.load(run / "depth.parquet")).to_json()
    content = {"format": "pdepth-decisions", "version": 1, "run": rows, "decisions": entries}
    (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / name


def test_decisions_are_applied_to_what_they_are_of(tmp_path, user_file):
    """The support, whose rows the first run asked, also beside queries; and the queries."""
    net = f"{user_file}:net"
    own, held = ("--support", f"{user_file}:support"), ("--queries", f"{user_file}:queries")
    shared = ("--layers", "0,2", "-k", 3, "--quiet")
    for name, data in (("a", own), ("b", (*own, *held))):
        result = invoke("run", net, *data, *shared, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    support = tmp_path / "a"
    label = int(DepthResult.load(support / "depth.parquet").labels[4])
    entries = [
        {"row": 2, "decision": "drop"},
        {"row": 4, "decision": "relabel", "label": (label + 1) % 3, "given": label},
    ]
    of_support = decided(tmp_path, support, entries)
    of_queries = decided(tmp_path, tmp_path / "b", [{"row": 0, "decision": "drop"}], "q.json")
    result = invoke(
        "run", net, *own, "--layers", "0,2", "-k", 3, "--out", tmp_path / "c",
        "--decisions", of_support,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Skipped 1 rows of support, which were dropped by decision." in result.stdout
    cleaned = DepthResult.load(tmp_path / "c" / "depth.parquet")
    assert cleaned.row_numbers.tolist() == [*range(2), *range(3, 60)]
    assert cleaned.labels[3] == (label + 1) % 3
    page = tmp_path / "page.html"
    assert invoke("report", tmp_path / "c", "--out", page).exit_code == 0
    text = page.read_text()
    assert "Rows of support that were dropped by decision" in text
    assert "Rows of support with a decided label" in text
    said = invoke("explain", tmp_path / "c", 4, "--model", net, "--support", f"{user_file}:support")
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith(f"row 4, label {(label + 1) % 3}")
    result = invoke(
        "run", net, *own, *held, *shared, "--out", tmp_path / "d", "--decisions", of_support,
        "--decisions", of_queries, "--keep-neighbors", 2, "--keep-map", "pca",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    both = read_run(tmp_path / "d")
    assert both.row_numbers.tolist() == list(range(1, 20))
    assert both.skipped == {
        "support": {2: "dropped by decision"},
        "queries": {0: "dropped by decision"},
    }
    for numbers in (both.neighbors.row_numbers, both.map.support_rows):
        assert numbers.tolist() == [*range(2), *range(3, 60)]
    sentence = refusal(
        "run", net, "--support", f"{user_file}:queries", *held, *shared, "--out", tmp_path / "e",
        "--decisions", of_support,
    )  # fmt: skip
    assert "Of queries: decisions: expected those of a dataset of 20 rows, as this one" in sentence
    assert "Of support: decisions: expected those of a dataset of 20 rows, as this one" in sentence
    assert not (tmp_path / "e").exists()


def test_label_issues_become_decisions_of_the_next_run(tmp_path, user_file):
    net, own = f"{user_file}:net", ("--support", f"{user_file}:support", "-k", 3, "--quiet")
    kept = ("--keep-embeddings", tmp_path / "kept")
    assert invoke("run", net, *own, *kept, "--out", tmp_path / "a").exit_code == 0
    file = tmp_path / "d.json"
    result = invoke("label-issues", tmp_path / "a", "--decisions", file, "--decide", "drop")
    assert result.exit_code == 0, result.output
    issues = label_issues(tmp_path / "a").rows[label_issues(tmp_path / "a").is_issue]
    again = ("label-issues", tmp_path / "a", "--decisions", file)
    assert "--decisions: expected a new file, got" in refusal(*again)
    assert "--decide: expected one of relabel, drop, got 'x'" in refusal(*again, "--decide", "x")
    result = invoke("run", net, *own, "--out", tmp_path / "b", "--decisions", file)
    assert f"support: decisions relabel 0 rows and drop {len(issues)}." in result.output
    assert result.exit_code == 0, result.output
    left = DepthResult.load(tmp_path / "b" / "depth.parquet").row_numbers
    assert left.tolist() == np.setdiff1d(np.arange(60), issues).tolist()


def test_labels_are_compared_alone_where_inputs_are_others(tmp_path, user_file):
    scaled = "    x, labels = support().tensors\n    return TensorDataset(2 * x, labels)\n"
    user_file.write_text(user_file.read_text() + f"\ndef scaled():\n{scaled}")
    command = ("run", f"{user_file}:net", "-k", 3, "--quiet", "--support")
    first = invoke(*command, f"{user_file}:support", "--out", tmp_path / "a")
    assert first.exit_code == 0, first.output
    file = decided(tmp_path, tmp_path / "a", [{"row": 2, "decision": "drop"}])
    command = (*command, f"{user_file}:scaled", "--out", tmp_path / "b")
    sentence = refusal(*command, "--decisions", file)
    assert "expected the inputs of the run's rows, got others of the same labels" in sentence
    assert "or check_inputs=False (--no-check-inputs), which compares labels alone" in sentence
    alone = refusal(*command, "--no-check-inputs")
    assert alone == "Error: --no-check-inputs: expected --decisions with it, got none.\n"
    result = invoke(*command, "--decisions", file, "--no-check-inputs")
    assert result.exit_code == 0, result.output
    left = DepthResult.load(tmp_path / "b" / "depth.parquet").row_numbers
    assert left.tolist() == [0, 1, *range(3, 60)]
