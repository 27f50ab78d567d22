"""A rough clock for kernels, from their machine code: not a measurement.

A warp's instructions are gone through one after the other. Each waits as many clocks as its control
word says, and for the scoreboards that it names, which longer operations set when they are done.
How long those take is assumed; products of the matrix units are counted apart. What the pipes of a
multiprocessor need for all of its warps is a floor; the time of one program, with so many beside
it, is what it takes where nothing overlaps within a program.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

MULTIPROCESSORS, CLOCK = 132, 1.9e9  # of an H200
PARTS = 4  # of a multiprocessor, each with a scheduler and pipes of its own
REGISTERS, SHARED, WARPS = 65_536, 233_472, 64  # of a multiprocessor; bytes of shared memory
PRODUCT = 4096.0  # float16 operations a clock on a multiprocessor's matrix units
BARRIER = 30
# Assumed, in clocks: global memory from the second cache, shared memory, shuffles, conversions.
LATENCY = {
    **dict.fromkeys(("LDG", "LD", "LDGSTS"), 450),
    **dict.fromkeys(("ATOMG", "ATOM"), 650),
    **dict.fromkeys(("LDS", "F2F", "I2F", "F2I", "MUFU", "S2UR", "S2R", "LDC"), 30),
    **dict.fromkeys(("SHFL", "POPC", "FLO"), 24),
    **dict.fromkeys(("DADD", "DMUL", "DFMA", "DSETP"), 16),
    **dict.fromkeys(("RED", "HGMMA", "UTMALDG"), 0),
}
USUAL = 20
# Clocks of a pipe for one warp's instruction.
PIPES: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("FADD", "FMUL", "FFMA"), ("FMA", 1)),
    **dict.fromkeys(("IMAD",), ("FMA", 2)),
    **dict.fromkeys(("DADD", "DMUL", "DFMA", "DSETP", "DMNMX"), ("FP64", 2)),
    **dict.fromkeys(("F2F", "I2F", "F2I", "MUFU", "POPC", "FLO", "BREV"), ("XU", 8)),
    **dict.fromkeys(("LDS", "STS", "LDG", "STG", "LD", "ST", "LDGSTS", "LDSM", "STSM"), ("LSU", 4)),
    **dict.fromkeys(("ATOMG", "ATOM", "RED", "SHFL"), ("LSU", 4)),
    **dict.fromkeys(("BAR", "BRA", "EXIT", "NOP", "HGMMA", "WARPGROUP", "DEPBAR"), ("control", 1)),
}
OTHERS = ("ALU", 2)


@dataclass(frozen=True)
class Instruction:
    """One instruction and its control word: how long to wait, and which scoreboards it sets (7:
    none) and waits for, a bit each."""

    at: int
    text: str
    stall: int
    sets: int
    reads: int
    waits: int

    @property
    def operation(self) -> str:
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0].split(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"0x([0-9a-f]+)\s*$", self.text) if self.operation == "BRA" else None
        return int(found[1], 16) if found else None


@dataclass
class Cost:
    """Of one warp: clocks from its first instruction to its last, and of each pipe."""

    clocks: float = 0.0
    instructions: int = 0
    pipes: Counter[str] = field(default_factory=Counter)

    def less(self, other: Cost) -> Cost:
        """What this one takes more."""
        pipes = Counter({name: n - other.pipes[name] for name, n in self.pipes.items()})
        more = self.instructions - other.instructions
        return Cost(self.clocks - other.clocks, more, pipes)

    def floor(self, warps: int) -> float:
        """Clocks that the busiest pipe of a multiprocessor takes for a program of so many."""
        return max(self.pipes.values(), default=0) * warps / PARTS


def parse(sass: str) -> list[Instruction]:
    """What `cuobjdump --dump-sass` prints."""
    found, lines = [], sass.splitlines()
    for line, following in pairwise(lines):
        if match := re.match(r"\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);\s+/\* 0x[0-9a-f]{16} \*/", line):
            word = re.search(r"0x([0-9a-f]{16})", following)
            control = int(word[1], 16) >> 41 if word else 0
            fields = control & 15, control >> 5 & 7, control >> 8 & 7, control >> 11 & 63
            found.append(Instruction(int(match[1], 16), match[2].strip(), *fields))
    return found


def programs_at_once(registers: int, shared: int, warps: int) -> int:
    """Programs that a multiprocessor holds: registers of a thread, bytes and warps of a program."""
    of_registers = -(-registers // 8) * 8 * 32 * warps
    return min(REGISTERS // of_registers, SHARED // (shared + 1024), WARPS // warps)


def tool() -> Path:
    """cuobjdump, which Triton brings."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def disassembled(cubin: Path) -> list[Instruction]:
    """The instructions of a file."""
    call = [str(tool()), "--dump-sass", str(cubin)]
    return parse(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def loops(instructions: Sequence[Instruction]) -> dict[int, int]:
    """Where each loop begins and ends, in the order of the code."""
    ends: dict[int, int] = {}
    for each in instructions:
        if each.target is not None and each.target < each.at - 16:  # else it is the code's end
            ends[each.target] = max(each.at, ends.get(each.target, 0))
    return dict(sorted(ends.items()))


def replay(instructions: Sequence[Instruction], trips: Sequence[int]) -> Cost:
    """One warp, each loop gone through so many times; one of none is jumped over, where a branch
    can and leaves no other out."""
    ends = loops(instructions)
    if len(ends) != len(trips):
        raise ValueError(f"trips: expected {len(ends)} of them, got {len(trips)}.")
    times = dict(zip(ends, trips, strict=True))
    left, places = times.copy(), {each.at: i for i, each in enumerate(instructions)}
    reached = _Reached(instructions, places, {head for head, count in times.items() if count})
    cost, ready, at = Cost(), [0.0] * 8, 0
    while at < len(instructions):
        now = instructions[at]
        waited = [ready[i] for i in range(6) if now.waits >> i & 1]
        cost.clocks = max([cost.clocks, *waited])
        operation = now.operation
        cost.instructions += 1
        pipe, clocks = PIPES.get(operation, OTHERS)
        cost.pipes[pipe] += clocks
        cost.pipes["issue"] += 1
        if now.sets < 6:
            ready[now.sets] = cost.clocks + LATENCY.get(operation, USUAL)
        if now.reads < 6:
            ready[now.reads] = max(ready[now.reads], cost.clocks + 12)
        cost.clocks += max(1, now.stall) + (BARRIER if operation == "BAR" else 0)
        if operation == "EXIT" and not now.text.startswith("@"):
            break
        reached.now(now.at)
        at = _next(now, at, places, ends, times, left, reached)
    return cost


class _Reached:
    """Which of the loops that are to be gone through lie ahead, and have not been met."""

    def __init__(
        self, instructions: Sequence[Instruction], places: Mapping[int, int], wanted: set[int]
    ) -> None:
        self._instructions, self._places, self._wanted = instructions, places, wanted
        self._ahead: dict[int, set[int]] = {}

    def now(self, at: int) -> None:
        """An instruction is met."""
        self._wanted.discard(at)

    def ahead(self, at: int) -> set[int]:
        """Of the instruction that is `at`-th."""
        if at not in self._ahead:
            met, waiting = set(), [at]
            while waiting:
                i = waiting.pop()
                while i < len(self._instructions) and i not in met:
                    met.add(i)
                    each = self._instructions[i]
                    conditional = each.text.startswith("@")
                    if each.target is not None:
                        waiting.append(self._places[each.target])
                    if each.operation in ("BRA", "EXIT") and not conditional:
                        break
                    i += 1
            self._ahead[at] = {self._instructions[i].at for i in met}
        return self._ahead[at] & self._wanted


def _next(
    now: Instruction,
    at: int,
    places: Mapping[int, int],
    ends: Mapping[int, int],
    times: Mapping[int, int],
    left: dict[int, int],
    reached: _Reached,
) -> int:
    target = now.target
    if target is None:
        return at + 1
    if target in ends and ends[target] == now.at:
        left[target] -= 1
        if left[target] > 0:
            return places[target]
        left[target] = times[target]
    elif target > now.at:
        if not now.text.startswith("@"):
            return places[target]
        there, here = reached.ahead(places[target]), reached.ahead(at + 1)
        if there != here:
            return places[target] if here < there else at + 1
        over = [times[head] for head, end in ends.items() if now.at < head and end < target]
        if over and not any(over):
            return places[target]
    return at + 1
