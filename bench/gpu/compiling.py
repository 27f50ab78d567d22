"""Compiles what a run will ask for, on all cores.

    python bench/gpu/compiling.py SITE CAPABILITY            into Triton's cache
    python bench/gpu/compiling.py SITE CAPABILITY --measure  anew, and the seconds into the list

Works before `pdepth._native` is built, and takes no device: SITE is the folder in which the package
`pdepth` lies with all of its rooms.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "pdepth.bench.gpu.specialisations"


class Elsewhere:
    """In place of Triton's driver: a device that is not asked, of some capability."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def without_native(site: Path) -> None:
    """Rooms of the package can be imported, although the package cannot."""
    package = ModuleType("pdepth")
    package.__path__ = [str(site / "pdepth")]
    sys.modules["pdepth"] = package


def aim(capability: int) -> None:
    """Triton compiles for this capability, whatever is here."""
    from triton.runtime import driver

    driver.set_active(Elsewhere(capability))


def _one(line: str) -> tuple[str, float, str]:
    """Processor time of one line of the list, and in what way it failed."""
    each, _ = importlib.import_module(NAME).Specialisation.read(line)
    begin, trouble = _spent(), ""
    try:
        each.warm()
    except Exception as error:  # it will be seen where it is launched
        trouble = f"{each.name}: {type(error).__name__}: {error}".splitlines()[0][:200]
    return line, _spent() - begin, trouble


def _utilities() -> None:
    """What Triton compiles by cc when it first asks for the device."""
    importlib.import_module("triton.backends.nvidia.driver").CudaUtils()


def _spent() -> float:
    """Seconds of this process and those that it started, ptxas."""
    ran = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in ran)


def compiled(lines: Sequence[str], processes: int) -> Iterator[tuple[str, float, str]]:
    """Each line with its seconds, as they are done; the longest begin first."""
    stored = importlib.import_module(NAME)
    seconds = stored.seconds_of(dict(map(stored.Specialisation.read, lines)))
    order = sorted(lines, key=lambda line: -seconds[stored.Specialisation.read(line)[0]])
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        pool.submit(_utilities)
        yield from pool.map(_one, order)


def prepare(site: Path, capability: int) -> list[str]:
    """The list, after this process is ready to compile it."""
    without_native(site)
    aim(capability)
    lines: list[str] = importlib.import_module(NAME).FILE.read_text().splitlines()
    for module in {json.loads(line)[0].split(":")[0] for line in lines}:
        importlib.import_module(module)  # before the processes part
    return lines


def measure(lines: Sequence[str]) -> None:
    """The seconds of those that have none, one after the other, in a cache of their own."""
    stored = importlib.import_module(NAME)
    known = dict(map(stored.Specialisation.read, lines))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        for line in lines:
            each, seconds = stored.Specialisation.read(line)
            if seconds is None:
                _, spent, trouble = _one(line)
                known[each] = round(spent, 2)
                print(f"{spent:6.2f} s  {each.name} {trouble}", flush=True)
    stored.save(stored.load(), seconds=known)  # what was listed meanwhile stays


def main(arguments: list[str]) -> int:
    """Exit status 0; what failed is said in a line each."""
    site, capability, begin = Path(arguments[0]), int(arguments[1]), time.monotonic()
    lines = prepare(site, capability)
    if "--measure" in arguments:
        measure(lines)
        return 0
    done = list(compiled(lines, len(os.sched_getaffinity(0))))
    for trouble in filter(None, (trouble for _, _, trouble in done)):
        print(f"not compiled beforehand: {trouble}", flush=True)
    print(
        f"{len(done)} specialisations compiled, {sum(spent for _, spent, _ in done):.0f} s of "
        f"processor time in {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
