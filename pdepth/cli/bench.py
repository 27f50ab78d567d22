"""`pdepth bench`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pdepth import native
from pdepth.cli.errors import DIFFERS
from pdepth.optional import require


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small shapes, three rounds, under two minutes.")
    ] = False,
    shape: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Shapes to measure, such as '*x 512'.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Engines beside pdepth's fastest, such as faiss."),
    ] = None,
    own: Annotated[
        str | None,
        typer.Option("--with", metavar="FILE.py:CLASS", help="Measure your own engine too."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds of each shape, 5; ten times as many of a brief one."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the results here, for pytest-benchmark."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Print shapes and engines and stop.")
    ] = False,
    render: Annotated[
        bool,
        typer.Option("--render", help="Write tables and picture of the stored results, and stop."),
    ] = False,
    reference: Annotated[
        bool,
        typer.Option("--reference", help="Check this pdepth against the reference set and stop."),
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Check another implementation's answers and stop."),
    ] = None,
) -> None:
    """Measure pdepth, its peers and this machine's limits, side by side.

    No number is printed before votes have been compared with the float64 definition. A run of all
    shapes and engines stores its results and renders them, in a checkout into README.md, else into
    ./pdepth-bench; after an interruption it resumes with the next shape. Any other run prints
    them. --check and --reference exit with 1 if anything differs.

    \b
    Examples:
      pdepth bench --quick
      pdepth bench --shape '10,000 x 10,000 x 64' --engine faiss --json now.json
      pdepth bench --check mine.npz
    """
    exclusive = [render, reference, check is not None]
    chosen = [quick, shape, engine, own, rounds, json]
    if sum([show, *exclusive]) > 1 or (any(exclusive) and any(chosen)):
        raise ValueError("--render, --reference, --check: expected one alone or none, got more.")
    if os.environ.get(native.SIMD):
        raise ValueError(
            f"{native.SIMD}: expected to be unset, as pdepth bench measures every level of this "
            f"machine, got {os.environ[native.SIMD]!r}; choose with --engine instead."
        )
    if reference or check is not None:
        _check_reference(check)
        return
    from pdepth.bench.suite import engines, shapes
    from pdepth.bench.suite import render as report

    if render:
        typer.echo(report.publish(report.load()))
        return
    measured = shapes.pick(shape, quick)
    available, missing = engines.pick(engine, own)
    for module in () if show else ("pytest_benchmark", "matplotlib"):
        require(module, "pdepth bench", "bench")
    for sentence in missing:
        typer.echo(sentence, err=True)
    if show:
        typer.echo("\n".join([*(s.name for s in measured), "", *(e.name for e in available)]))
        return
    from pdepth.bench import common
    from pdepth.bench.suite import measure

    is_complete = not (quick or shape or engine or own)
    if json is not None and not json.absolute().parent.is_dir():
        raise ValueError(f"--json: expected a file in an existing folder, got {json}.")
    suite = measure.Suite(
        measured,
        available,
        rounds=rounds or (3 if quick else 5),
        patience=8 if quick else 100,
        fresh=not quick,
        report=lambda text: typer.echo(text, err=True),
    )
    if is_complete:
        unfinished = common.HOME / report.UNFINISHED
        results = measure.run(suite, unfinished)
        written = [report.publish(results)]
        unfinished.unlink()
    else:
        results, written = measure.run(suite), []
    if json is not None:
        report.save(results, json)
        written.append(f"Wrote {json}.")
    typer.echo("\n".join([report.lines(results), *written]))


def _check_reference(file: Path | None) -> None:
    """Print the differences of `file`, or of pdepth itself; exit with 1 if there are any."""
    from pdepth.bench.suite import check

    all_equal = True
    for equal, lines in check.check_pdepth() if file is None else [check.check_file(file)]:
        typer.echo(lines)
        all_equal = all_equal and equal
    if not all_equal:
        raise typer.Exit(DIFFERS)
