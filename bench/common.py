"""Where benchmarks read and write, and what they record of the machine they ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from pdepth import __version__, native
from pdepth.report.environment import processor_name, version_of

HERE = Path(__file__).resolve().parent
CHECKOUT = (HERE.parent / "csrc").is_dir()  # False for an installed copy
HOME = HERE.parent if CHECKOUT else Path("pdepth-bench")  # everything is written below it
README, PAGE = Path("README.md"), Path("docs", "benchmarks.md")
PICTURE, RESULTS = Path("docs", "bench.png"), Path("bench", "results")


def machine(*packages: str) -> dict[str, Any]:
    """Processor, threads, level, versions of `packages`, commit and date."""
    versions = {"pdepth": __version__, "python": platform.python_version()}
    return {
        "processor": processor_name(),
        "system": platform.platform(),
        "threads": native.default_threads(),
        "level": native.simd_level(),
        "versions": versions | {package: version_of(package) for package in packages},
        "commit": commit(),
        "date": date.today().isoformat(),
    }


def commit() -> str:
    """The checkout's commit, with "-dirty" if files were changed; "" for an installed copy.

    PDEPTH_COMMIT takes precedence: for a copy without history, and for runs that follow one whose
    results have been written already.
    """
    if not CHECKOUT:
        return ""
    if override := os.environ.get("PDEPTH_COMMIT", ""):
        return override
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()


def describe(record: dict[str, Any]) -> str:
    """The record of `machine` in one line."""
    versions = ", ".join(
        f"{name} {number}" for name, number in record["versions"].items() if number
    )
    at_commit = f"commit {record['commit']}, " if record["commit"] else ""
    return (
        f"{record['threads']} threads of {record['processor']} (level {record['level']}), "
        f"{record['date']}, {at_commit}{versions}"
    )
