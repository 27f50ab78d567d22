"""Which level is in use: what processor and system have, asked by CPUID, XGETBV and their like."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import pytest

from pdepth import native

from helpers.cpu_flags import CPUINFO, LEVELS, expected_levels

X86 = platform.machine() == "x86_64"
EMULATOR = shutil.which("qemu-x86_64")

known = pytest.mark.skipif(
    not CPUINFO.exists() or platform.machine() not in LEVELS,
    reason="reads /proc/cpuinfo of x86_64 or aarch64",
)
emulated = pytest.mark.skipif(not (X86 and EMULATOR), reason="no qemu-x86_64")


@known
def test_levels_are_those_of_cpuinfo() -> None:
    assert native.simd_levels() == expected_levels()


@known
def test_the_fastest_level_of_cpuinfo_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.SIMD, raising=False)
    assert native.simd_level() == [name for name, runs in expected_levels().items() if runs][-1]


ASKED = "from pdepth import _native; print(*(name for name, runs in _native.levels() if runs))"


@emulated
@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "levels"),
    [
        ("Nehalem", "bf16 portable"),
        ("Haswell,-fma", "bf16 portable"),
        ("Haswell,-xsave", "bf16 portable"),  # what has AVX, under a system that does not keep it
        ("Haswell", "bf16 portable avx2"),
    ],
)
def test_levels_of_other_processors(cpu: str, levels: str) -> None:
    assert EMULATOR
    command = [EMULATOR, "-cpu", cpu, sys.executable, "-c", ASKED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == levels.split()
