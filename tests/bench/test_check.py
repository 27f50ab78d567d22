"""The reference set, and the check of an implementation against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pdepth import cli, definition
from pdepth.bench.suite import check


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["bench", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    return str(result.stderr)


def test_the_reference_set_holds_the_definitions_votes():
    known = check.reference()
    sample = np.arange(0, 500, 25)
    for number, name in enumerate(known["probes"]):
        support, queries = known[f"support_{name}"], known[f"queries_{name}"]
        held_out = definition.probe_votes(support, known["labels"], queries[sample])
        own = definition.probe_votes(support, known["labels"], query_rows=sample)
        for prefix, table in (("", held_out), ("own_", own)):
            np.testing.assert_array_equal(known[f"{prefix}votes"][number, sample], table.votes)
            np.testing.assert_array_equal(known[f"{prefix}tied"][number, sample], table.tied)
    for prefix in check.PREFIXES:
        depth, undefined = definition.depth_from_votes(
            known[f"{prefix}votes"], known[f"{prefix}predictions"]
        )
        np.testing.assert_array_equal(known[f"{prefix}depth"], depth)
        np.testing.assert_array_equal(known[f"{prefix}undefined"], undefined)


def test_pdepth_agrees_with_the_reference_set():
    result = call("--reference")
    assert result.exit_code == 0, result.output
    assert "votes[5] (softmax): 500 compared, 0 differ\n" in result.stdout
    assert "pdepth portable\n" in result.stdout


@pytest.fixture
def answers() -> dict[str, Any]:
    return {name: check.reference()[name].copy() for name in ("votes", "own_depth")}


def test_the_checker_reports_a_planted_error(tmp_path, answers):
    file = tmp_path / "mine.npz"
    np.savez(file, **answers)
    assert call("--check", file).exit_code == 0
    right = answers["votes"][2, 17]
    answers["votes"][2, 17] = right + 1
    answers["votes"][2, 40] = -1
    np.savez(file, **answers)
    result = call("--check", file)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[2] == (
        f"votes[2] (conv2): 500 compared, 2 differ, the first at 17: {right + 1} for {right}"
    )
    assert lines[6] == "own_depth: 1,297 compared, 0 differ"


def test_the_checker_refuses_what_it_cannot_compare(tmp_path, answers):
    file = tmp_path / "mine.npz"
    np.savez(file, votes=answers["votes"][:3])
    assert "votes: expected shape (6, 500), got (3, 500)." in refused("--check", file)
    np.savez(file, votes=answers["votes"].astype(float))
    assert "votes: expected integers or booleans, got float64." in refused("--check", file)
    np.savez(file, other=answers["votes"])
    assert "answers: expected one or more of votes, tied, depth" in refused("--check", file)
    file.write_text("text")
    assert ": expected a .npz file of arrays of numbers." in refused("--check", file)
    assert "No such file" in refused("--check", tmp_path / "gone.npz")
