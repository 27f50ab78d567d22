"""Processes held to an instruction set: pdepth by its level, and the peers by what they read.

A machine with AVX-512 or AMX can so show what one without them would measure. Of
scikit-learn-intelex the products are held, by MKL's variable; its own code is not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from pdepth.native import SIMD

HELD: Mapping[str, Mapping[str, str]] = {
    "avx2": {
        SIMD: "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",  # torch
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # torch, scikit-learn-intelex
        "OPENBLAS_CORETYPE": "Haswell",  # faiss, NumPy, SciPy
        "FAISS_SIMD_LEVEL": "AVX2",
        "FAISS_OPT_LEVEL": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL,AVX512_SPR",
    },
    # faiss' wheel has an OpenBLAS that takes a processor younger than itself for one of 2004
    "amx": {SIMD: "amx", "OPENBLAS_CORETYPE": "SkylakeX"},
}


def hold(level: str | None) -> None:
    """Start this process anew with what holds it to a level; nothing where it is so already."""
    variables = HELD.get(level or "", {})
    if any(os.environ.get(name) != value for name, value in variables.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | variables)


def held() -> str:
    """The level that this process is held to, "" for none."""
    return next(
        (
            level
            for level, variables in HELD.items()
            if all(os.environ.get(name) == value for name, value in variables.items())
        ),
        "",
    )
