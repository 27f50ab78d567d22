"""What the scripts of this folder share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Failed(RuntimeError):
    """What is missing or went wrong, in a sentence."""


def run(command: list[str | Path], **options: Any) -> str:
    """What a command prints; raises Failed with all of it where the command fails."""
    done = subprocess.run(command, text=True, capture_output=True, check=False, **options)
    if done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()
        raise Failed(f"{said}\nexit code {done.returncode} of {' '.join(map(str, command))}")
    return str(done.stdout)


def interpreter(version: str) -> str:
    """The path of that CPython; raises Failed where there is none."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [
        shutil.which(f"python{version}"),
        *sorted(versions.glob(f"{version}.*/bin/python"), reverse=True),
    ]
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
