"""Each skip says what would run its test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.skips import NIGHTLY, with_remedy


def skips() -> Iterator[tuple[str, str]]:
    """Where a test may be skipped, and the reason as far as it is written there."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func).rpartition(".")[2]
            given = {each.arg: each.value for each in call.keywords}
            reason = given.get("reason", call.args[0] if call.args else None)
            if name not in ("skip", "skipif", "importorskip") or reason is None:
                continue
            if (
                name == "importorskip"
                and "reason" not in given
                and isinstance(reason, ast.Constant)
            ):
                yield f"{path.name}:{call.lineno}", f"could not import {reason.value!r}"
            elif isinstance(reason, ast.Constant | ast.JoinedStr):
                yield f"{path.name}:{call.lineno}", ast.unparse(reason)


def test_every_skip_says_what_would_run_it() -> None:
    silent = [(place, reason) for place, reason in skips() if with_remedy(reason) == reason]
    assert [(place, reason) for place, reason in silent if "pip install" not in reason] == []


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("could not import 'aucurriculum.curricula': No module named 'aucurriculum'", NIGHTLY),
        ("scikit-learn-intelex is not installed", NIGHTLY),
        ("could not import 'sklearn.neighbors': No module named 'sklearn'", "pdepth[test]"),
        ("this machine lacks amx", "a CPU that has it"),
    ],
)
def test_remedies(reason: str, remedy: str) -> None:
    assert remedy in with_remedy(reason)
    assert with_remedy(with_remedy(reason)) == with_remedy(reason)
