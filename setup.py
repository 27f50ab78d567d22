"""Builds `pdepth._native` from csrc/: one source per instruction set, each with its own flags."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
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
# name -> the flags that only this source may have
SOURCES: dict[str, list[str]] = {name: [] for name in ("binding", "binding_support", "dispatch")}
SOURCES |= {name: [] for name in ("call", "filter", "packing", "settle", "support", "scores")}
SOURCES |= {
    name: [] for name in ("certificate", "count", "directions", "images", "leaves", "merge")
}
SOURCES |= {name: [] for name in ("pairs", "pilot", "stages", "norms", "watch")}
SOURCES |= {"level_bf16": [], "level_portable": [], "binding_merge": []}
if platform.machine() in ("x86_64", "AMD64"):
    avx2 = ["-mavx2", "-mfma"]
    SOURCES |= {"level_avx2": avx2, "level_avxvnni": avx2}
    avx512 = [
        *avx2,
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        "-mprefer-vector-width=512",
    ]
    SOURCES["level_avx512"] = avx512
    SOURCES["level_avx512vnni"] = [*avx512, "-mavx512vnni"]
    SOURCES["level_amx"] = avx512


# They throw nothing: the code that unwinds a stack would be shared with other sources.
for name in SOURCES:
    if name.startswith("level_"):
        SOURCES[name] = [*SOURCES[name], "-fno-exceptions"]

# A folder of objects: what was compiled from the same sources in the same way is taken from there.
CACHE = os.environ.get("PDEPTH_BUILD_CACHE")


def read_with_includes(source: str) -> bytes:
    """The source, and whatever it includes of its own folder, each file once."""
    names, texts = [Path(source).name], []
    for name in names:  # which grows
        texts.append(Path(source).with_name(name).read_bytes())
        included = re.findall(rb'^\s*#include "(.+)"', texts[-1], re.MULTILINE)
        names += dict.fromkeys(found.decode() for found in included if found.decode() not in names)
    return b"".join(texts)


class BuildApart(build_ext):
    """Compiles each source by itself: no instruction of a level leaks into another, and all cores
    have work."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        def compiled(source: str) -> str:
            flags = [*COMMON, *SOURCES.get(Path(source).stem, [])]
            about = (source, flags, self.compiler.compiler_so, sys.version, pybind11.__version__)
            text = read_with_includes(source)
            key = hashlib.sha256(text + f"{about}".encode()).hexdigest()[:32]
            kept = Path(CACHE, f"{key}.o") if CACHE else None
            if kept and kept.exists():
                return str(kept)
            (compiled,) = self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                depends=ext.depends,
                extra_postargs=flags,
            )
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(compiled, f"{kept}.{os.getpid()}")
                os.replace(f"{kept}.{os.getpid()}", kept)
            return str(compiled)

        self.mkpath(os.path.join(self.build_temp, "csrc"))
        sources = [*(f"csrc/{name}.cpp" for name in SOURCES), *ext.sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compiled, sources))
        ext.sources = []  # all that is left is linking
        super().build_extension(ext)


# Paths relative to this file, whatever directory the build was started from.
os.chdir(Path(__file__).parent)

setup(
    ext_modules=[
        Pybind11Extension(
            "pdepth._native",
            ["csrc/module.cpp"],
            depends=[str(path) for path in sorted(Path("csrc").iterdir())],
            extra_compile_args=COMMON,
            extra_link_args=["-pthread", *SANITIZE],
        )
    ],
    cmdclass={"build_ext": BuildApart},
)
