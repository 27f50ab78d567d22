"""What a run will take: compile times that were measured, and kernel times that were estimated.

Estimates are at the slow end of docs/gpu.md's and peers' published speeds, so that a run that is
planned with them comes to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pdepth.bench.gpu.specialisations import Specialisation, seconds_of

CORES = 16
MOST = 360.0  # seconds until the key table is whole
START = 15.0  # Python, torch and the device's context, twice: this process and those beside it
# Of processor time, measured: all of csrc/, and its slowest source.
NATIVE, LONGEST_SOURCE, SOURCES = 94.0, 12.0, 27
LAUNCHERS, LAUNCHER = 20, 3.0  # C code that Triton 3.6 compiles for signatures, and for its own use
FOREIGN = 1.5  # times as long as here: another machine's processor, all of its cores at work
LOADING = 0.01  # of a kernel's code, where it is first launched
PROBLEM = 0.5  # of `equality`, its data included; what is expected comes from other processes
ORACLE = 0.3  # of processor time, for one problem; measured
BOUND = 10.0
# Effective TFLOP/s of exact votes, of the product and of float32; and of the widest layers.
VOTES, PRODUCT, PLAIN, WIDEST = 36.0, 500.0, 40.0, 70.0
SORTED = 1e10  # distances a second that `topk` goes over
FLASHLIB = 40.0


@dataclass(frozen=True)
class Line:
    """One step and the seconds that it takes."""

    step: str
    seconds: float


def row_seconds(width: int) -> float:
    """Of one row of the key table: its data, check and rounds."""
    rows = 50_000 if width <= 4096 else 20_000
    work = 2e-12 * rows * rows * width
    ours = work / (VOTES if width < 512 else WIDEST)
    each = 2 * ours + work / PRODUCT + work / PLAIN + rows * rows / SORTED + work / FLASHLIB
    rounds, checks = 4, 2
    return 1.0 + rounds * each + checks * ours + work / PLAIN


def compiling(seconds: Mapping[Specialisation, float], cores: int = CORES) -> float:
    """Wall time of all of them on so many cores, the longest first, beside `NATIVE`."""
    busy = [0.0] * cores
    native = [LONGEST_SOURCE, *[(NATIVE - LONGEST_SOURCE) / SOURCES] * SOURCES]
    for taken in sorted([*seconds.values(), *native, *[LAUNCHER] * LAUNCHERS], reverse=True):
        least = busy.index(min(busy))
        busy[least] += taken
    return FOREIGN * max(busy)


def lines(
    known: Mapping[Specialisation, float | None], problems: int, widths: tuple[int, ...], kinds: int
) -> list[Line]:
    """The steps of a run that has the list compiled beforehand."""
    made = f"{len(known)} specialisations and _native, {CORES} cores"
    expected = FOREIGN * problems * ORACLE / (CORES - 2)
    table = sum(row_seconds(width) for width in widths) * kinds
    return [
        Line("Python, torch, the device", START),
        Line(made, compiling(seconds_of(known))),
        Line(f"equality: {problems} problems", max(problems * PROBLEM, expected)),
        Line("kernels loaded", LOADING * len(known)),
        Line("bound", BOUND),
        Line(f"key table: {len(widths) * kinds} rows", table),
    ]


def in_words(steps: list[Line]) -> str:
    """The budget, a line a step, and the sum."""
    total = Line("in all", sum(each.seconds for each in steps))
    return "\n".join(f"{each.seconds:7.0f} s  {each.step}" for each in [*steps, total])
