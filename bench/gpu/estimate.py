"""Estimated times of kernels from their machine code: python bench/gpu/estimate.py.

Writes the table in docs/gpu.md that the first measured one can be held against. No GPU is asked:
`replay` has the assumptions.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pdepth.bench.gpu import compiling, replay, specialisations
from pdepth.bench.gpu.rehearsal import CAPABILITY, SHARED_MEMORY
from pdepth.bench.gpu.replay import Cost, Instruction
from pdepth.bench.gpu.table import WIDTHS
from pdepth.bench.pages import render
from pdepth.kernels import exact, filter, rescore, settle
from pdepth.kernels.search import support_chunks

PAGE = Path("docs", "gpu.md")
LIST = 128  # candidates of a usual list, and of its bundles
BITS = 32  # of a score, found one by one
CLASSES = 10  # of a query's candidates
OPEN = {4096: 13, 65_536: 54}  # candidates that the bounds leave open, by width: simulated
HELD, FROM_MEMORY = 50e6, 4.3e12  # bytes of the second cache, and a second from beyond it


@dataclass(frozen=True)
class Code:
    """A kernel as it is compiled for an H200."""

    instructions: list[Instruction]
    warps: int
    resident: int  # programs that a multiprocessor holds

    def seconds(self, cost: Cost, programs: float, products: float = 0.0) -> tuple[float, float]:
        """Of so many programs, or turns of a loop: where all overlaps, and where nothing within a
        program does. products: clocks of the matrix units in each."""
        least = max(cost.floor(self.warps), products)
        most = max(least, (cost.clocks + products) / self.resident)
        share = programs / replay.MULTIPROCESSORS / replay.CLOCK
        return least * share, most * share


def code(name: str, chosen: Callable[[dict[str, Any]], bool]) -> Code:
    """That of a kernel whose constants are as asked; of float32 rows."""
    for each in specialisations.load():
        floats = all(kind in ("*fp32", "i32") for kind, _ in each.arguments[:2])
        if each.name == name and (floats or name != "settle") and chosen(each.constants):
            return _code(each.warm())
    raise ValueError(f"{name}: expected one in {specialisations.FILE.name}, found none.")


def _code(compiled: Any) -> Code:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        instructions = replay.disassembled(Path(file.name))
        call = [str(replay.tool()), "--dump-resource-usage", file.name]
        usage = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    registers = int(re.findall(r"REG:(\d+)", usage)[0])
    warps = compiled.metadata.num_warps
    resident = replay.programs_at_once(registers, compiled.metadata.shared, warps)
    return Code(instructions, warps, resident)


def of_filter(width: int, rows: int) -> tuple[float, float]:
    """Seconds of the products and the selection from them."""
    with (
        mock.patch.object(filter, "_has_descriptors", return_value=True),
        mock.patch.object(filter, "_shared_memory", return_value=SHARED_MEMORY),
    ):
        tile = filter.tile_for(width, torch.device("cpu"))
    names = {"TILE_Q": tile.queries, "TILE_S": tile.support, "TILE_D": tile.columns}
    names |= {"SECTION": tile.section, "CAPACITY": 512, "BUNDLE": tile.bundle}
    own = code("filter", lambda constants: names.items() <= constants.items())
    blocks = -(-width // tile.columns)
    within = [blocks] if tile.section else []
    if tile.section and not tile.descriptors:
        steps = tile.section // tile.columns
        within = [-(-blocks // steps), min(blocks, steps)]
    rest = [1] * (len(replay.loops(own.instructions)) - 2 - len(within))
    once, twice = (replay.replay(own.instructions, [1, tiles, *within, *rest]) for tiles in (1, 2))
    products = 2.0 * tile.queries * tile.support * blocks * tile.columns / replay.PRODUCT
    tiles = -(-rows // tile.queries) * -(-rows // tile.support)
    return own.seconds(twice.less(once), tiles, products)


def of_lists(rows: int) -> tuple[float, float]:
    """Seconds of all that tightens and unpacks lists."""
    rounds = len(support_chunks(rows))
    tighten = code("tighten", lambda c: c["CAPACITY"] == 512 and not c["DIFFERENCES"])
    unpack = code("unpack", lambda c: c["CAPACITY"] == 512)
    # Of a usual list it looks at a window alone: the shorter of two loops.
    lengths = [end - begin for begin, end in replay.loops(tighten.instructions).items()]
    window = [BITS if length == min(lengths) else 0 for length in lengths]
    by_tighten = tighten.seconds(replay.replay(tighten.instructions, window), rows * rounds)
    trips = -(-LIST // 64)
    by_unpack = unpack.seconds(replay.replay(unpack.instructions, [trips]), rows * rounds)
    return by_tighten[0] + by_unpack[0], by_tighten[1] + by_unpack[1]


def of_settlement(width: int, rows: int, left_open: int) -> tuple[float, float]:
    """Seconds of settlement, where so many of each query's candidates are left open by bounds.

    Of wide rows half of these lie around the border and are rescored, which decides the vote; all
    that are open of narrow ones have float64 distances computed.
    """
    by = exact.fold(width)
    rescored = by.halvings > exact.UNROLLED.value
    names = {"CAPACITY": 512, "LANES": by.lanes, "HALVINGS": by.halvings}
    names |= dict.fromkeys(("DIFFERENCES", "ONE", "ROWS", "INNER"), False)
    own = code("settle", lambda constants: names.items() <= constants.items())
    loops = _settling(own.instructions)
    trips = dict.fromkeys(loops, 0)
    trips |= {head: -(-BITS // part.bits) for head, part in loops.items() if part.name == "border"}
    trips |= {head: CLASSES for head, part in loops.items() if part.name == "classes"}
    if not rescored:
        counts = {"pairs": -(-left_open // by.pairs), "rank": -(-left_open // settle.BLOCK)}
        counts["fold"] = math.ceil(math.log2(max(2, -(-width >> by.halvings))))
        if not left_open:
            counts = {}
    else:
        counts = {"turns": 1}
        if left_open:
            # Two turns of half of the rows each take as long as one of all and one of none.
            blocks = -(-left_open // 2 // rescore.PAIRS.value)
            columns = -(-width // (rescore.SECTION.value * rescore.LANES.value))
            counts = {"turns": 2, "blocks": -(-blocks // 2), "columns": columns}
    trips |= {head: counts[part.name] for head, part in loops.items() if part.name in counts}
    least, most = own.seconds(replay.replay(own.instructions, [*trips.values()]), rows)
    read = rows * width * 4 * (left_open // 2 if rescored else left_open)
    memory = read / FROM_MEMORY if rows * width * 4 > HELD else 0.0
    return max(least, memory), max(most, memory)


@dataclass(frozen=True)
class Part:
    """A loop of settlement: what it does, and bits that one turn finds, of a search for a bound."""

    name: str
    bits: int = 0


def _settling(instructions: Sequence[Instruction]) -> dict[int, Part]:
    """Of each loop of settlement where it begins and what it does, if a usual list comes by."""
    loops = replay.loops(instructions)
    counts = {
        head: Counter(each.operation for each in instructions if head <= each.at <= end)
        for head, end in loops.items()
    }
    around = {
        head: [h for h, e in loops.items() if h < head and loops[head] <= e][::-1] for head in loops
    }
    innermost = [head for head in loops if not any(head in outer for outer in around.values())]
    parts = dict.fromkeys(loops, Part("other"))
    searches = [h for h in innermost if counts[h]["REDUX"] and not counts[h]["LDG"]]
    length = {h: counts[h].total() for h in loops}
    # Each of these there is twice, and of a usual list threads hold the fewest candidates.
    border = min(
        (h for h in searches if length[h] > 100), key=lambda h: length[h] / counts[h]["REDUX"]
    )
    parts[border] = Part("border", counts[border]["REDUX"])
    classes = [h for h in searches if length[h] < 100 and counts[h]["REDUX"] > 1]
    shortest = min(length[h] for h in classes)
    parts |= {h: Part("classes") for h in classes if length[h] == shortest}
    ranks = [h for h in innermost if counts[h]["DSETP"] >= 32 and counts[h]["LDG"]]
    parts[min(ranks, key=length.__getitem__)] = Part("rank")
    for head in innermost:
        if counts[head]["FMUL"] >= rescore.SECTION.value:
            names = ("columns", "blocks", "turns")
            parts |= {h: Part(n) for h, n in zip([head, *around[head]], names, strict=False)}
    for head in loops:
        count = counts[head]
        if (
            count["DMUL"] >= 16
            and count["SHFL"]
            and count["STG"] == 1
            and not count["REDUX"] + count["FMUL"]
        ):
            parts[head] = Part("pairs")
            parts |= {h: Part("fold") for h in innermost if head in around[h] and counts[h]["SHFL"]}
    return parts


def table() -> str:
    """Milliseconds and rates by width, in Markdown."""
    lines = [
        "| D | rows | filter, ms | lists, ms | settle where bounds decide, ms | TFLOP/s "
        "| open | settle, ms | TFLOP/s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for width in sorted(WIDTHS):
        rows = 50_000 if width <= 4096 else 20_000
        steps = [of_filter(width, rows), of_lists(rows)]
        left_open = OPEN.get(width, OPEN[min(OPEN)])
        decided, settled = (of_settlement(width, rows, n) for n in (0, left_open))
        cells = [f"{width:,}", f"{rows:,}", *map(_milliseconds, [*steps, decided])]
        cells += [_rate(width, rows, [*steps, decided]), f"{left_open}", _milliseconds(settled)]
        cells.append(_rate(width, rows, [*steps, settled]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _milliseconds(seconds: tuple[float, float]) -> str:
    return _span(*(1e3 * each for each in seconds))


def _rate(width: int, rows: int, steps: Sequence[tuple[float, float]]) -> str:
    """TFLOP/s of all steps."""
    least, most = (sum(each[i] for each in steps) for i in (0, 1))
    work = 2e-12 * rows * rows * width
    return _span(work / most, work / least)


def _span(low: float, high: float) -> str:
    def short(value: float) -> str:
        return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}" if value else "0"

    return short(low) if short(low) == short(high) else f"{short(low)} - {short(high)}"


def main() -> None:
    import triton

    compiling.aim(CAPABILITY)
    text = f"Triton {triton.__version__}:\n\n{table()}"
    print(text)
    render("bench/gpu/estimate.py", text, PAGE)


if __name__ == "__main__":
    main()
