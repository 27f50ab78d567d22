"""Builds `pdepth._native` from csrc/: one source per instruction set, each with its own flags."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

COMMON = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-pthread"]
SANITIZE: list[str] = []  # of compiling and of linking
if sanitizers := os.environ.get("PDEPTH_SANITIZE"):  # "address,undefined": see .ci/sanitize
    SANITIZE = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    # The last of contradicting flags holds. CPython's own -fwrapv would make signed overflow
    # lawful, and unseen.
    COMMON += [*SANITIZE, "-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv"]
# source -> the flags that only this source may have
LEVELS: dict[str, list[str]] = {"csrc/level_bf16.cpp": [], "csrc/level_portable.cpp": []}
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS["csrc/level_avx2.cpp"] = ["-mavx2", "-mfma"]
    avx512 = [
        *("-mavx2", "-mfma"),
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        "-mprefer-vector-width=512",
    ]
    LEVELS["csrc/level_avx512.cpp"] = avx512
    LEVELS["csrc/level_avx512vnni.cpp"] = [*avx512, "-mavx512vnni"]
    LEVELS["csrc/level_amx.cpp"] = avx512


class BuildLevels(build_ext):
    """Compiles each level's source apart, so that no instruction of one leaks into another."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        objects = []
        for source, flags in LEVELS.items():
            objects += self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                depends=ext.depends,
                extra_postargs=[*COMMON, *flags],
            )
        ext.extra_objects = objects
        super().build_extension(ext)


# Paths relative to this file, whatever directory the build was started from.
os.chdir(Path(__file__).parent)

setup(
    ext_modules=[
        Pybind11Extension(
            "pdepth._native",
            [f"csrc/{name}.cpp" for name in ("module", "engine", "inspect", "support", "dispatch")],
            depends=[str(path) for path in sorted(Path("csrc").iterdir())],
            extra_compile_args=COMMON,
            extra_link_args=["-pthread", *SANITIZE],
        )
    ],
    cmdclass={"build_ext": BuildLevels},
)
