"""The command line: `pdepth demo`, `run`, `ensemble`, `report`, `view`, `explain`, `compare`,
`label-issues`, `plan`, `bench` and `info`.

A command is a function in a file of its own: it parses its options, calls the library and prints.
To add one, write `pdepth/cli/NAME.py` with a function `NAME`, its options from
`pdepth.cli.options`, and list it in `COMMANDS`.

What takes long to import (torch, rich's tables) is imported inside the commands, so that
`pdepth --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pdepth import __version__
from pdepth.cli.bench import bench
from pdepth.cli.compare import compare
from pdepth.cli.demo import demo
from pdepth.cli.ensemble import ensemble
from pdepth.cli.errors import one_line_errors
from pdepth.cli.explain import explain
from pdepth.cli.info import info
from pdepth.cli.label_issues import label_issues
from pdepth.cli.plan import plan
from pdepth.cli.report import report
from pdepth.cli.run import run
from pdepth.cli.view import view

COMMANDS = (demo, run, ensemble, report, view, explain, compare, label_issues, plan, bench, info)

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command()(one_line_errors()(_command))


def main() -> None:
    """The entry point `pdepth`."""
    with one_line_errors():
        app()


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"pdepth {__version__}")
        raise typer.Exit


@app.callback()
def _pdepth(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Exact prediction depth: from which layer on does a network's answer stand?"""
