"""`pdepth report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdepth.cli.options import Images, Quiet, Results, SupportImages, Thumbnails
from pdepth.cli.output import print_written


def report(
    results: Results,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page; default: report.html in RESULTS."),
    ] = None,
    images: Images = None,
    support: SupportImages = None,
    thumbnails: Thumbnails = "sample",
    pdf: Annotated[
        bool,
        typer.Option("--pdf", help="Also each figure as a PDF for papers, in a folder beside it."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier page and what is beside it.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write results as one HTML page, with plots, pictures and a table.

    The page opens from the disk, in any browser and without a network. A filter by class, depth,
    group, correctness and words applies to everything on it, and filtered rows download as CSV.
    Pictures are those of the measured data. Data that is Python code is not run by itself:
    --images nets.py:data allows it.

    \b
    Examples:
      pdepth demo --out digits && pdepth report digits
      pdepth report depths --thumbnails all --pdf
      pdepth report depths/depth-k5.parquet --images imagefolder:test --out five.html
    """
    from pdepth import demo
    from pdepth.report.write import write_report

    written = write_report(
        results,
        out,
        images=images,
        support=support,
        built_in={demo.DATA: demo.result_images},
        thumbnails=thumbnails,
        pdf=pdf,
        overwrite=overwrite,
    )
    if quiet:
        return
    if written.note:
        typer.echo(written.note, err=True)
    if written.unreadable:
        typer.echo(
            f"{written.unreadable:,} of {written.tried:,} pictures cannot be read.", err=True
        )
    size = written.page.stat().st_size / 1e6
    print_written([f"{written.page} ({size:.1f} MB)", *written.folders])
