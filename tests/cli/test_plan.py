"""`pdepth plan` and `pdepth run --dry-run`."""

from __future__ import annotations

import pytest

from helpers.commands import invoke, refusal

pytest.importorskip("pyarrow")


def test_the_cost_of_a_run(tmp_path, user_file):
    for command in (("plan",), ("run", "--dry-run", "--out", tmp_path / "o")):
        result = invoke(*command, f"{user_file}:net", "--support", f"{user_file}:support", "-k", 5)
        assert result.exit_code == 0, result.output
        lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
        assert lines["rows"] == "60 of support, each left out of its own vote"
        assert "in 1 pass, " in lines["forward"]
        assert lines["time"].endswith(" at most, as measured here")
    assert not (tmp_path / "o").exists()
    assert refusal("plan", f"{user_file}:net") == "Error: --support: expected DATA, got none.\n"
