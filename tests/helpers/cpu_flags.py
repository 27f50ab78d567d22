"""What the kernel says that this machine's processor can run, and which levels so are usable."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
AVX512 = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")

# Levels from the plainest to the fastest, and the kernel's names of what each takes.
LEVELS = {
    "x86_64": {
        "bf16": (),
        "portable": (),
        "avx2": ("avx2", "fma"),
        "avxvnni": ("avx2", "fma", "avx_vnni"),
        "avx512": AVX512,
        "avx512vnni": (*AVX512, "avx512_vnni"),
        "amx": (*AVX512, "amx_tile", "amx_bf16", "amx_int8"),
    },
    "aarch64": {"bf16": (), "portable": (), "neon": ("asimd",), "neondot": ("asimd", "asimddp")},
}


def flags() -> set[str]:
    """Of the first processor; the kernel leaves out what it does not keep for a process."""
    for line in CPUINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    raise ValueError(f"{CPUINFO}: expected a line of flags or Features, found none.")


def expected_levels() -> dict[str, bool]:
    """What `pdepth.native.simd_levels` has to answer here."""
    known = flags()
    return {name: known >= set(takes) for name, takes in LEVELS[platform.machine()].items()}
