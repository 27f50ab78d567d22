"""What every benchmark says about where it ran, and how its tables get into README.md."""

from __future__ import annotations

import platform
import subprocess
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pdepth import native

HERE = Path(__file__).parent
RESULTS, README = HERE / "results", HERE.parent / "README.md"


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine(*packages: str) -> dict[str, Any]:
    """Processor, threads, level, versions of `packages`, commit and date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": named[0] if named else platform.processor(),
        "threads": native.default_threads(),
        "level": native.simd_level(),
        "versions": {"python": platform.python_version()} | {p: version_of(p) for p in packages},
        "commit": commit.stdout.strip(),
        "date": date.today().isoformat(),
    }


def where(about: dict[str, Any]) -> str:
    """`machine()` in a line."""
    used = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    return (
        f"{about['threads']} threads of {about['processor']} (level {about['level']}), "
        f"{about['date']}, commit {about['commit']}, {used}"
    )


def render(name: str, text: str) -> None:
    """Put `text` between README.md's marks of the benchmark `name`."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    page = README.read_text()
    head, rest = page.split(begin, 1)
    README.write_text(head + begin + text + end + rest.split(end, 1)[1])
