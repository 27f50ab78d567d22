"""Compiles what a run will ask for, on all cores: python bench/gpu/compiling.py SITE CAPABILITY.

Works before `pdepth._native` is built, and takes no device: SITE is the folder in which the package
`pdepth` lies with all of its rooms.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
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
        yield from pool.map(_one, order)


def main(arguments: list[str]) -> int:
    """Exit status 0; what failed is said in a line each."""
    site, capability, begin = Path(arguments[0]), int(arguments[1]), time.monotonic()
    without_native(site)
    aim(capability)
    lines = importlib.import_module(NAME).FILE.read_text().splitlines()
    for module in {json.loads(line)[0].split(":")[0] for line in lines}:
        importlib.import_module(module)  # before the processes part
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
