"""`pdepth compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdepth.cli.options import Images, Quiet, Thumbnails
from pdepth.cli.output import print_written


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="The --out of pdepth run or demo, or one Parquet file in it. Each is compared "
            "with the first; with --against all are one side.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the page and files go.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="A run of the other side; more than once, for seeds."),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Of the sides.", show_default="the folders'"),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", "-k", help="Which k, of runs with several.")
    ] = None,
    other_inputs: Annotated[
        bool,
        typer.Option(
            "--other-inputs",
            help="The same rows are prepared otherwise, as for another image size: compare rows "
            "and labels alone.",
        ),
    ] = False,
    images: Images = None,
    thumbnails: Thumbnails = "sample",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier comparison.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compare the depths of the same examples under networks, checkpoints, k or seeds.

    Depths are shares of the probes, so that networks of different sizes compare. Writes a page,
    a table of all examples and figures: depth against depth, the change of each class with
    intervals, the accuracy of probes, which depths are undefined, and the examples whose depth
    changed most. Runs of other data are refused, with the first row that differs.

    \b
    Examples:
      pdepth compare before after --out changed
      pdepth compare small/depth-k5.parquet small/depth-k30.parquet --out by-k
      pdepth compare a/seed0 a/seed1 --against b/seed0 --against b/seed1 --names a,b --out seeds
    """
    from pdepth import demo
    from pdepth.report.comparison import ComparisonOptions, write_comparisons

    options = ComparisonOptions(
        names=() if names is None else tuple(name.strip() for name in names.split(",")),
        k=k,
        other_inputs=other_inputs,
        images=images,
        thumbnails=thumbnails,
    )
    written = write_comparisons(
        runs, against or [], out, options,
        built_in={demo.DATA: demo.result_images}, overwrite=overwrite,
    )  # fmt: skip
    if quiet:
        return
    from rich.console import Console

    from pdepth.report.terminal import print_comparison

    console = Console()
    for comparison, files in written:
        print_comparison(comparison, console)
        print_written(files)
