"""What the scripts of this folder share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CORE_TESTS = "test-core"  # the extra of the tests that need no torch
PARALLEL = ("-n", "auto", "--dist", "worksteal")
REPORT = (
    "import dataclasses, json, sys; from pdepth.bench.studies.libraries import Report; "
    "print(json.dumps(dataclasses.asdict(Report.read(open(sys.argv[1]).read()))))"
)


class Failed(RuntimeError):
    """What is missing or went wrong, in a sentence."""


def run(command: list[str | Path], **options: Any) -> str:
    """What a command prints; raises Failed with all of it where the command fails."""
    done = subprocess.run(command, text=True, capture_output=True, check=False, **options)
    if done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()
        raise Failed(f"{said}\nexit code {done.returncode} of {' '.join(map(str, command))}")
    return str(done.stdout)


def releases(version: str) -> list[Path]:
    """Those of pyenv's interpreters that are releases of a version, the newest first."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [each for each in versions.glob(f"{version}.*") if re.fullmatch(r"[\d.]+", each.name)]
    found.sort(key=lambda each: [int(number) for number in each.name.split(".")], reverse=True)
    return [each / "bin" / "python" for each in found if (each / "bin" / "python").exists()]


def interpreter(version: str) -> str:
    """The path of that CPython; raises Failed where there is none."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    candidates = [shutil.which(f"python{version}"), *releases(version)]
    for candidate in filter(None, candidates):
        asked = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if asked.returncode == 0 and f" {version}." in asked.stdout:
            return str(candidate)
    raise Failed(f"expected Python {version} in PATH or among pyenv's versions, found none")


def zig() -> Path:
    """The compiler that PyPI's ziglang brings."""
    try:
        import ziglang
    except ImportError:
        raise Failed(
            "ziglang is not installed: pip install -r .ci/release-requirements.txt"
        ) from None
    return Path(ziglang.__file__).with_name("zig")


def run_installed_tests(python: str | Path, folder: Path) -> dict[str, Any]:
    """Run the fast tests beside an installed pdepth, from a new folder and without a PATH.

    Returns how many passed, which failed, and how many were skipped, by reason; raises Failed where
    pytest wrote no report.
    """
    junit, env = folder / "junit.xml", {"PATH": "", "HOME": str(folder)}
    command = [python, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--installed", *PARALLEL]
    command += [f"--junitxml={junit}", f"--basetemp={folder / 'tests'}", ROOT / "tests"]
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", flush=True)
    if not junit.exists():
        raise Failed("pytest has written no report")
    report: dict[str, Any] = json.loads(run([python, "-c", REPORT, junit], cwd=folder))
    return report
