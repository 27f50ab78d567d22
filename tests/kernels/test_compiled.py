"""Every kernel compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from pdepth.backends import triton as backend

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.bench.gpu import replay

from helpers import machine_code

MOST = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that a program may have


def test_the_largest_kernels_compile() -> None:
    kernels = _check(_compile(*MOST, few=True))
    assert kernels == {"prepare", "filter", "settle"}


@pytest.mark.slow
def test_every_kernel_compiles() -> None:
    """In each configuration that can be chosen."""
    assert _check(_compile(*MOST)) == {
        *("measure", "prepare", "same", "filter", "unpack", "differences", "tighten"),
        *("settle", "distances"),
    }


def _compile(*capabilities: int, few: bool = False) -> list[dict[str, Any]]:
    """What the compiler made of each kernel; the capabilities side by side."""
    environment = {name: value for name, value in os.environ.items() if name != backend.INTERPRET}
    script = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "gpu_code.py"), "--json"]
    script += ["--few"] if few else []
    running = [
        subprocess.Popen(
            [*script, str(capability)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for capability in capabilities
    ]
    kernels = []
    for process in running:
        kernels += [json.loads(line) for line in process.communicate()[0].splitlines()]
        assert process.returncode == 0
    return kernels


def _check(kernels: list[dict[str, Any]]) -> set[str]:
    """That each fits, has the matrix instructions that are meant, and the figures of its compiler.

    Registers and spills are figures of a kernel and a compiler: they are compared where those of
    the installed Triton are stored, by `python tests/helpers/gpu_code.py`, for these kernels.
    """
    for kernel in kernels:
        capability = kernel["capability"]
        meant, other = ("HGMMA", "HMMA") if capability == 90 else ("HMMA", "HGMMA")
        assert kernel["shared"] <= MOST[capability], kernel
        assert (kernel[meant] > 0) == (kernel["kernel"] == "filter"), kernel
        assert kernel[other] == 0, kernel
        assert kernel["hazards"] == [], kernel
        assert set(kernel["narrow"]) <= machine_code.BOUNDED.get(kernel["kernel"], set()), kernel
        if kernel["kernel"] in ("tighten", "unpack"):
            assert kernel["warps"] == 1 or kernel["reads first"], kernel
        if kernel["kernel"] == "settle":
            pairs = kernel["constants"]["PAIRS"] if kernel["warps"] == 1 else 1
            assert kernel["registers"] <= {8: 128, 2: 136, 1: 168}[pairs], kernel
        if kernel["kernel"] == "filter" and capability == 90:
            least = 1 if kernel["constants"]["SECTION"] else 2  # narrow layers share it
            sizes = (kernel[name] for name in ("registers", "shared", "warps"))
            assert replay.programs_at_once(*sizes) >= least, kernel
        if kernel["kernel"] == "filter":  # room for a tile's row is reserved once
            assert kernel["atomics"] == 1, kernel
        figures = [kernel[name] for name in ("registers", "spilled", "shared")]
        if kernel["stored"] is not None:
            assert kernel["stored"] == figures, kernel
            assert kernel["spilled"] == 0, kernel
    if unknown := [kernel["name"] for kernel in kernels if kernel["stored"] is None]:
        warnings.warn(
            f"no figures of this Triton's code for these kernels are stored: registers and spills "
            f"of {len(unknown)} configurations were not compared",
            stacklevel=2,
        )
    return {kernel["kernel"] for kernel in kernels}
