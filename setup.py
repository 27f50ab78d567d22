"""Builds `pdepth._native` from csrc/: one source per instruction set, each with its own flags."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from sysconfig import get_platform

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
# The processor that is built for, which need not be this one's. CPython of two processors, as macOS
# has it, builds for this one.
if sys.platform == "darwin":
    TARGET = os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}").split()[-1]
else:
    TARGET = get_platform().rpartition("-")[2]  # of "linux-aarch64", "win-amd64"
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [
    *AVX2,
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    "-mprefer-vector-width=512",
]
# Levels, and the flags that only their sources may have.
LEVELS: dict[str, list[str]] = {"bf16": [], "portable": []}
if TARGET in ("x86_64", "amd64"):
    LEVELS |= {"avx2": AVX2, "avxvnni": AVX2, "avx512": AVX512, "amx": AVX512}
    LEVELS["avx512vnni"] = [*AVX512, "-mavx512vnni"]
elif TARGET in ("aarch64", "arm64"):
    LEVELS |= {"neon": [], "neondot": []}
OTHERS = """binding binding_merge binding_support call certificate count directions dispatch filter
    images leaves merge norms packing pairs pilot processor scores settle stages support watch"""
SOURCES: dict[str, list[str]] = {name: [] for name in OTHERS.split()}
# They throw nothing: the code that unwinds a stack would be shared with other sources.
SOURCES |= {f"level_{name}": [*flags, "-fno-exceptions"] for name, flags in LEVELS.items()}

MSVC = "msvc"  # the kind of compiler that setuptools takes on Windows, unless it is told MinGW's
ELSEWHERE = ("-pthread", "-fvisibility=hidden", "-fno-exceptions")  # done there anyway, or unknown


def as_clang_cl(flags: list[str]) -> list[str]:
    """Flags of GCC's as clang-cl has them."""
    return [f"/clang:{flag}" for flag in flags if flag not in ELSEWHERE]


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


@cache
def version_of(command: tuple[str, ...]) -> str:
    """What a compiler says of itself in a line, wherever it lies."""
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.partition("\n")[0]


class BuildApart(build_ext):
    """Compiles each source by itself: no instruction of a level leaks into another, and all cores
    have work."""

    def build_extensions(self) -> None:
        """On Windows by clang-cl: Microsoft's own compiler lacks GCC's vectors."""
        if self.compiler.compiler_type == MSVC:
            if not self.compiler.initialized:
                self.compiler.initialize(self.plat_name)
            clang_cl = shutil.which("clang-cl")
            if clang_cl is None:
                raise SystemExit(
                    "pdepth: expected clang-cl on the PATH, got none; install LLVM, or Visual "
                    "Studio's C++ Clang tools, or build with --compiler=mingw32."
                )
            self.compiler.cc = clang_cl
            self.compiler.compile_options.remove("/GL")  # cl's own form of objects
            for ext in self.extensions:
                ext.extra_link_args = []
        super().build_extensions()

    def flags_of(self, source: str) -> list[str]:
        """A source's flags, as this compiler has them."""
        flags = [*COMMON, *SOURCES.get(Path(source).stem, [])]
        return as_clang_cl(flags) if self.compiler.compiler_type == MSVC else flags

    @property
    def compiler_command(self) -> list[str]:
        """The compiler, and the options that it has for all sources."""
        if self.compiler.compiler_type == MSVC:
            return [self.compiler.cc, *self.compiler.compile_options]
        command: list[str] = self.compiler.compiler_so_cxx
        return command

    def key(self, source: str, flags: list[str]) -> str:
        """Of what an object is made from."""
        text = read_with_includes(source)
        path, *options = self.compiler_command
        compiler = [Path(path).name, *options, version_of((path, *options))]
        about: list[object] = [source, flags, compiler]
        if b"<pybind11/" in text:
            about += [sys.version, pybind11.__version__]
        return hashlib.sha256(text + f"{about}".encode()).hexdigest()[:32]

    def object_of(self, ext: Pybind11Extension, source: str) -> str:
        """The path of a source's object, compiled or kept."""
        flags = self.flags_of(source)
        kept = Path(CACHE, f"{self.key(source, flags)}.o") if CACHE else None
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

    def build_extension(self, ext: Pybind11Extension) -> None:
        self.mkpath(os.path.join(self.build_temp, "csrc"))
        sources = [*(f"csrc/{name}.cpp" for name in SOURCES), *ext.sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(lambda source: self.object_of(ext, source), sources))
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
