"""What all commands share: help, the version, and errors of one line."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pdepth.cli.errors import one_line_errors

from helpers.commands import invoke


def test_version_and_help():
    assert re.fullmatch(r"pdepth \d+\.\d+\S*\n", invoke("--version").stdout)
    for command in ((), ("run",), ("demo",)):
        assert "Usage:" in invoke(*command, "--help").stdout
    assert "--show-probes" in invoke("run", "--help").stdout


def test_help_imports_nothing_slow():
    code = (
        "import sys\nfrom pdepth.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'pyarrow', 'rich'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "depth.parquet"), "depth.parquet: No space left"),
        (ImportError("two\nlines"), "two lines"),
        (MemoryError(), "MemoryError."),
    ],
)
def test_errors_become_one_line(capsys, error, line):
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise error
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"Error: {line}")
