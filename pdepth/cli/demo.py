"""`pdepth demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pdepth.cli.options import Overwrite, Quiet
from pdepth.cli.output import print_cost, print_results, print_written
from pdepth.optional import require


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("pdepth-demo"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train and measure a small network in seconds.

    It learns scikit-learn's digits: 1,797 real images, each moved to a random place.
    Writes depth.parquet and depth.png (500 held-out images) and support.parquet (the 1,297
    training images, each left out of its own vote), neighbours and maps of both.

    Example: pdepth demo --out digits
    """
    from pdepth.report import folder

    kept = folder.NEIGHBORS, folder.MAP
    names = (*folder.run_names(), folder.SUPPORT_TABLE, *(f"support-{name}" for name in kept))
    folder.check_out(out, names, overwrite=overwrite, others=(folder.ENSEMBLE,))
    for module in ("torch", "matplotlib", "pyarrow", "sklearn"):
        require(module, "The demo", "demo")
    start = time.monotonic()
    from pdepth.demo import run_demo
    from pdepth.report.explain import beside

    result = run_demo(progress=not quiet)
    written = folder.write_results({result.held_out.k: result.held_out}, out, result.images)
    written.append(out / folder.SUPPORT_TABLE)
    result.support.save(written[-1])
    table = written[-1]
    for name, part in zip(kept, (result.support.neighbors, result.support.map), strict=True):
        assert part is not None
        written.append(beside(table, name))
        part.save(written[-1])
    if not quiet:
        print_results([result.support, result.held_out])
        print_cost(start)
        print_written(written)
