"""`pdepth explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdepth.cli.options import Overwrite, Quiet
from pdepth.cli.output import print_written


def explain(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The --out of pdepth run or demo, or one table in it."),
    ],
    rows: Annotated[
        list[int],
        typer.Argument(metavar="ROW...", min=0, help="Row numbers of examples in their data."),
    ],
    k: Annotated[
        int, typer.Option("--k", "-k", min=1, help="Nearest rows of each probe that are shown.")
    ] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for explanation.csv and, of each row, a picture (row-17.png and .pdf).",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Where the network is now, or Python code that is to run."
        ),
    ] = None,
    support: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Where the support is now, likewise."),
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Where the queries are now, likewise."),
    ] = None,
    dark: Annotated[
        bool, typer.Option("--dark", help="Pictures are light on a dark ground, for slides.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Say why examples are as deep as they are: which support rows voted for them, probe by probe.

    Of a run with --keep-neighbors nothing is searched. Of one with --keep-embeddings its store is;
    of others network and data are opened again, and searched once for all rows, after the plan of
    that is printed. Code that is Python runs only where it is named again.

    \b
    Examples:
      pdepth demo --out digits && pdepth explain digits 3 17 --out why
      pdepth explain depths 120 --model nets.py:net --support nets.py:data
    """
    from pdepth import demo
    from pdepth.report.explain import explain as explained
    from pdepth.report.shown import check_out, shown_inputs, write_explanation

    if out is not None:
        check_out(out, rows, overwrite=overwrite)

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    explanation = explained(run, rows, k=k, model=model, support=support, queries=queries, say=say)
    shown = shown_inputs(
        run,
        explanation,
        (support, queries),
        {demo.DATA: demo.result_images},
        wanted=out is not None,
    )
    if not quiet:
        for example in range(len(rows)):
            typer.echo(explanation.summary(example, shown.names))
        for remark in explanation.remarks():
            typer.echo(remark)
    if shown.note:
        typer.echo(shown.note, err=True)
    if out is not None:
        written = write_explanation(explanation, out, shown, dark=dark)
        if not quiet:
            print_written(written)
