"""Estimated times of kernels from their machine code: python bench/gpu/estimate.py.

Writes the table in docs/gpu.md that the first measured one can be held against. No GPU is asked:
`replay` has the assumptions.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Callable
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
from pdepth.kernels import filter
from pdepth.kernels.search import support_chunks

PAGE = Path("docs", "gpu.md")
LIST = 128  # candidates of a usual list, and of its bundles
BITS = 32  # of a score, found one by one
BLOCK = 8  # candidates that settlement compares at a time


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
    names |= {"SECTION": tile.section, "CAPACITY": 512}
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


def of_bounds(width: int, rows: int) -> tuple[float, float]:
    """Seconds of settlement where the bounds decide; what is not decided comes on top."""
    pairs = 64 if width <= 128 else 8 if width <= 1024 else 1
    own = code(
        "settle",
        lambda c: (
            c["CAPACITY"] == 512
            and c["PAIRS"] == pairs
            and not (c["DIFFERENCES"] or c["ONE"] or c["ROWS"])
        ),
    )
    trips = [-(-LIST // BLOCK)] * 4
    rest = [0] * (len(replay.loops(own.instructions)) - len(trips))
    return own.seconds(replay.replay(own.instructions, [*trips, *rest]), rows)


def table() -> str:
    """Milliseconds and rates by width, in Markdown."""
    lines = [
        "| D | rows | filter, ms | lists, ms | settle where bounds decide, ms | TFLOP/s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for width in sorted(WIDTHS):
        rows = 50_000 if width <= 4096 else 20_000
        steps = [of_filter(width, rows), of_lists(rows), of_bounds(width, rows)]
        least, most = (sum(each[i] for each in steps) for i in (0, 1))
        work = 2e-12 * rows * rows * width
        cells = [f"{width:,}", f"{rows:,}", *(_span(*(1e3 * s for s in each)) for each in steps)]
        cells.append(_span(work / most, work / least))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
