"""What several commands print."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdepth.io.decisions import skipped_by_reason

if TYPE_CHECKING:
    from pdepth.result import DepthResult


def print_results(results: Iterable[DepthResult]) -> None:
    """Print a summary of each result."""
    from rich.console import Console

    from pdepth.report.terminal import print_summary

    console = Console()
    for result in results:
        print_summary(result, console)
        console.print()


def print_cost(start: float) -> None:
    """Print the time since `start`, of `time.monotonic`, and the peak memory of the process."""
    from pdepth.progress import format_seconds

    typer.echo(f"{format_seconds(time.monotonic() - start)}{_peak_memory()}.")


def print_written(paths: Iterable[Path | str]) -> None:
    """Print the names of the files that were written."""
    typer.echo(f"Wrote {', '.join(map(str, paths))}.")


def print_skipped(skipped: Mapping[str, Mapping[int, str]]) -> None:
    """Print how many rows of each dataset were skipped; `skipped`: reasons by row, by its name."""
    for name, reasons in skipped.items():
        for why, count in skipped_by_reason(reasons).items():
            typer.echo(f"Skipped {count:,} rows of {name}, which {why}.")


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f", peak memory {peak / 1e9:.1f} GB"
