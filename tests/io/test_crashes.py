"""A crash at any file operation: the same call ends right, see `helpers.crashes`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import crashes

pytest.importorskip("pyarrow")
# A process each; the first is the fast tier's.
CASES = ["run,keep_and_run,ensemble", "overwrite", "keep", "relabel", "spill", "report"]


def test_every_case_is_run() -> None:
    assert set(",".join(CASES).split(",")) == set(crashes.CASES)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.slow_if(cases=CASES[1:])
@pytest.mark.parametrize("cases", CASES)
def test_crashes(cases: str, tmp_path: Path, of_tier: Callable[[Any, Any], Any]) -> None:
    """At every operation; in the fast tier at every 24th."""
    if cases == "report":
        pytest.importorskip("plotly")
    tests = Path(__file__).parents[1]
    step, offset = of_tier((24, 11), (1, 0))
    environment = {**os.environ, "PYTHONPATH": str(tests), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, crashes.__file__, cases, str(tmp_path), str(step), str(offset)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    points = dict(re.findall(r"^(\w+): (\d+) points", ended.stdout, re.M))
    assert list(points) == cases.split(",")
    assert all(int(number) >= of_tier(1, 20) for number in points.values())
