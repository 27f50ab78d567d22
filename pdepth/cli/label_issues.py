"""`pdepth label-issues`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdepth.arrays.arguments import check_choice
from pdepth.cli.options import Quiet
from pdepth.cli.output import print_written
from pdepth.io.atomic import check_replaceable

FILE = "label-issues.csv"


def label_issues(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The --out of pdepth run or demo, a Parquet file in it, or a store.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The list: .csv, .json, .jsonl or .parquet; default: label-issues.csv in RUN.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score from which on a label is an issue.", show_default="0"),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run's --keep-embeddings; default: where the run kept them.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Where the examples' files are, as in pdepth run; default: where the run read "
            "them.",
        ),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the issues as decisions, for pdepth run --decisions and "
            "pdepth.apply_decisions.",
        ),
    ] = None,
    decide: Annotated[
        str,
        typer.Option(help="Of --decisions: relabel the issues as suggested, or drop them."),
    ] = "relabel",
    top: Annotated[int, typer.Option(min=0, help="How many issues are printed.")] = 20,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier list.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """List the labels that are likely wrong, the likeliest first, and a label in place of each.

    Every row's label is compared with the votes of all probes, which are counted from the
    embeddings that the run kept (--keep-embeddings), without the network, or from all its
    neighbours (--keep-neighbors with --all-votes). The list has every row, with a flag for those
    at or above the threshold, the issues: of these alone another label is suggested, and decided
    with --decisions.

    \b
    Examples:
      pdepth run nets.py:net --support imagefolder:train --keep-embeddings kept --out depths
      pdepth label-issues depths
      pdepth label-issues depths --out suspects.json --threshold 0.1
      pdepth label-issues depths --decisions decisions.json
    """
    from pdepth.analysis.export import check_new, write
    from pdepth.report.decisions import issue_decisions
    from pdepth.report.label_issues import label_issues as find
    from pdepth.report.label_issues import opened_run
    from pdepth.report.terminal import print_label_issues

    check_choice(decide, "--decide", ("relabel", "drop"))
    if decisions is not None and check_replaceable(decisions).exists() and not overwrite:
        raise FileExistsError(
            f"--decisions: expected a new file, got {decisions}; pass --overwrite to replace it."
        )
    path = check_new(out or (run if run.is_dir() else run.parent) / FILE, overwrite=overwrite)
    issues = find(run, threshold=threshold, store=store, data=data)
    write(issues.to_pandas(), path)
    written = [path]
    if decisions is not None:
        issue_decisions(issues, opened_run(run), decide).save(decisions)
        written.append(decisions)
    if not quiet:
        from rich.console import Console

        print_label_issues(issues, Console(), top)
        print_written(written)
