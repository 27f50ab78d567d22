"""Calls of the command line, within the process of a test."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from pdepth import cli


def invoke(*arguments: object) -> Any:
    """Run `pdepth` with these arguments; its exit code, output and errors."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """The one sentence with which `pdepth` refuses these arguments."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr
