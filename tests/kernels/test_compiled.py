"""Every kernel compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdepth.backends import triton as backend

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no GPU engine here: {reason}", allow_module_level=True)


@pytest.mark.slow
def test_every_kernel_compiles_without_spills() -> None:
    """For GPUs that are not here: registers, shared memory and the matrix instructions meant."""
    environment = {name: each for name, each in os.environ.items() if name != backend.INTERPRET}
    script = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "gpu_code.py"), "--json"]
    most = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program may have
    running = {
        capability: subprocess.Popen(
            [*script, str(capability)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for capability in most
    }
    for capability, process in running.items():
        found = [json.loads(line) for line in process.communicate()[0].splitlines()]
        assert process.returncode == 0
        assert {each["kernel"] for each in found} == {
            *("prepare", "hash", "same", "filter", "unpack", "differences", "tighten"),
            *("settle", "distances", "compact", "lengths", "means"),
        }
        meant, other = ("HGMMA", "HMMA") if capability == 90 else ("HMMA", "HGMMA")
        for each in found:
            assert each["spilled"] == 0, each
            assert each["shared"] <= most[capability], each
            assert (each[meant] > 0) == (each["kernel"] == "filter"), each
            assert each[other] == 0, each
            if each["kernel"] == "filter":  # room for a tile's row is reserved once
                assert each["atomics"] == 1, each
