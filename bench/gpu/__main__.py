"""All that a GPU has to show, in one command: equality first, then the key table, then the rest.

    python bench/gpu --minutes 10 --out DIR     all of it, the key table within six minutes
    python bench/gpu --resume DIR               goes on where the run with these rows ended
    python bench/gpu equality bound table       some parts
    python bench/gpu --list                     what there is
    python bench/gpu --store DIR                rows to bench/results/ and docs/gpu.md; needs no GPU
    python bench/gpu --rehearse                 the same code here, over kernels that do nothing: is
                                                the list of what it compiles whole, and how long
                                                will it take; --specialise makes that list anew.
                                                With TRITON_INTERPRET=1: tiny, and answers count

Needs no installation: what is missing of pdepth is built in a folder of its own, while the kernels
that the run will ask for are compiled beside it. Nothing is fetched. What a run finds is written to
DIR/rows.jsonl as it is found. No time is taken before equality and bound have passed. Of a copy
without its history PDEPTH_COMMIT names the commit.

This file takes Python alone, so that it can say within a second that there is no device.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CAPABILITY = 80
MAJOR, MINOR = 75, 76  # attributes of a device, by CUDA's numbers
NEEDED = ("torch", "triton", "numpy", "filelock")
TO_BUILD = ("pybind11", "setuptools")
COMPILERS = (os.environ.get("CC", "cc"), "gcc", "clang")


def say(line: str) -> None:
    print(line, flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/gpu")
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it (10)")
    parser.add_argument("--out", type=Path, help="where rows go (gpu-run, or that of --resume)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="rows of a run to go on with")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    parser.add_argument("--specialise", action="store_true", help="makes the list of kernels")
    parser.add_argument(
        "--every", type=int, default=1, help="one in so many of equality's problems"
    )
    parser.add_argument("--list", action="store_true", help="the parts")
    parser.add_argument("--store", type=Path, metavar="DIR", help="rows of a run to be stored")
    return parser.parse_args(arguments)


def capability() -> int | str:
    """That of the first device, 90 for 9.0; or why there is none, as the driver says."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is here (libcuda.so.1)"
    device, count, major, minor = (ctypes.c_int() for _ in range(4))
    if code := cuda.cuInit(0):
        return f"the NVIDIA driver finds no device (error {code} of cuInit)"
    cuda.cuDeviceGetCount(ctypes.byref(count))
    if not count.value:
        return "the NVIDIA driver finds no device"
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    found = 10 * major.value + minor.value
    if found < CAPABILITY:
        return f"expected a device of capability 8.0 or more, got {major.value}.{minor.value}"
    return found


def lacking(build: bool) -> list[str]:
    """What has to be carried here before a run, a sentence each."""
    names = (*NEEDED, *TO_BUILD) if build else NEEDED
    missing = [
        f"{name} is not installed here: carry its wheel (pip download --no-deps {name}) and put it "
        "on PYTHONPATH."
        for name in names
        if importlib.util.find_spec(name) is None
    ]
    if not any(map(shutil.which, COMPILERS)):
        missing.append("Triton needs a C compiler, and there is none.")
    if build and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        missing.append("pdepth._native is not built for this Python, and there is no C++ compiler.")
    return missing


def installed() -> bool:
    """Whether this repository's pdepth can be imported, its C++ module included."""
    spec = importlib.util.find_spec("pdepth")
    folders = list(spec.submodule_search_locations or []) if spec else []
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return any(
        Path(folder).resolve() == ROOT / "pdepth" and Path(folder, f"_native{suffix}").exists()
        for folder in folders
    )


class Beside:
    """What is made while the run begins: the C++ module and the kernels' code.

    Attributes:
        site: a folder with the package, all rooms in their places.
    """

    site: Path

    def __init__(self, folder: Path, capability: int, build: bool) -> None:
        self.site, self._folder, self._build = folder / "site", folder, build
        self._begin = time.monotonic()
        for path in ((self.site / "pdepth"), folder / "source", folder / "built"):
            path.mkdir(parents=True, exist_ok=True)
        rooms = [*(ROOT / "pdepth").iterdir(), ROOT / "kernels", ROOT / "bench"]
        for path in rooms:
            if not path.name.startswith(("_native.c", "__pycache__")):
                _link(self.site / "pdepth" / path.name, path)
        for name in ("setup.py", "csrc"):
            _link(folder / "source" / name, ROOT / name)
        self._running: dict[str, subprocess.Popen[str]] = {}
        if build:
            self._start(
                "build", ["setup.py", "-q", "build_ext", "--build-lib", str(folder / "built"),
                          "--build-temp", str(folder / "objects")], folder / "source",
            )  # fmt: skip
        script = str(ROOT / "bench" / "gpu" / "compiling.py")
        self._start("compile", [script, str(self.site), str(capability)], folder)

    def _start(self, name: str, command: list[str], where: Path) -> None:
        environment = {**os.environ, "PDEPTH_BUILD_CACHE": str(self._folder / "cache")}
        with self._log(name).open("w") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *command], cwd=where, env=environment, stdout=log,
                stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def wait(self) -> str | None:
        """Until both are done, the package importable; or why it is not."""
        status = {name: process.wait() for name, process in self._running.items()}
        say("".join(self._log("compile").read_text().splitlines(keepends=True)[-5:]).rstrip())
        if status["compile"]:
            say("kernels are compiled as they are asked for")
        if self._build:
            made = list((self._folder / "built" / "pdepth").glob("_native.*"))
            if status["build"] or not made:
                tail = self._log("build").read_text().splitlines()[-12:]
                return "pdepth._native could not be built:\n" + "\n".join(tail)
            _link(self.site / "pdepth" / made[0].name, made[0])
            sys.path.insert(0, str(self.site))
            others = os.environ.get("PYTHONPATH", "")
            os.environ["PYTHONPATH"] = f"{self.site}{os.pathsep}{others}"
            importlib.invalidate_caches()
        say(f"== made beforehand: {time.monotonic() - self._begin:.0f} s")
        return None

    def stop(self) -> None:
        """End what still runs."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def folder_of_this_python() -> Path:
    """Where what is built for this interpreter and repository is kept between runs."""
    key = hashlib.sha256(f"{ROOT} {sys.version}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir(), f"pdepth-gpu-{os.getuid()}-{key}")


def main(arguments: Sequence[str]) -> int:
    options, begin = parse(arguments), time.monotonic()
    if options.store or options.list:
        return _told(options)
    if options.rehearse:
        return _rehearsed(options, begin)
    found = capability()
    if isinstance(found, str):
        return _error(f"{found}; python bench/gpu --rehearse runs without one.")
    build = not installed()
    if missing := lacking(build):
        return _error(" ".join(missing))
    beside = Beside(folder_of_this_python(), found, build)
    try:
        import torch  # takes seconds, of which there are some

        if trouble := beside.wait():
            return _error(trouble)
    finally:
        beside.stop()
    from pdepth.bench.gpu import run

    plan = _plan(run.Plan, options, begin)
    if unknown := [part for part in plan.parts if part not in run.PARTS]:
        return _error(f"part: expected {', '.join(run.PARTS)}, got {unknown[0]}.")
    status: int = run.run(plan, torch.device("cuda"), say)
    return status


def _plan(kind: Any, options: argparse.Namespace, begin: float) -> Any:
    out = options.out or options.resume or Path("gpu-run")
    ends = begin + 60 * options.minutes
    return kind(out, options.resume, options.parts, ends, every=options.every)


def _rehearsed(options: argparse.Namespace, begin: float) -> int:
    from pdepth.bench.gpu import rehearsal, run

    if unknown := [part for part in options.parts if part not in run.PARTS]:
        return _error(f"part: expected {', '.join(run.PARTS)}, got {unknown[0]}.")
    with tempfile.TemporaryDirectory() as folder:
        options.out = options.out or options.resume or Path(folder, "rows")
        plan = _plan(run.Plan, options, begin)
        status: int = rehearsal.rehearse(plan, say, write=options.specialise)
        return status


def _told(options: argparse.Namespace) -> int:
    from pdepth.bench.gpu import run, store

    if options.list:
        say("\n".join(f"{name:10} {part.__doc__}" for name, part in run.PARTS.items()))
        return 0
    try:
        say(store.store(options.store))
    except ValueError as error:
        return _error(str(error))
    return 0


def _error(sentence: str) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
