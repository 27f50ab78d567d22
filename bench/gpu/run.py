"""A run: the parts in their order, what they find written down as they find it."""

from __future__ import annotations

import os
import re
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pdepth.bench import common
from pdepth.bench.gpu import budget, specialisations
from pdepth.bench.gpu.context import Bench
from pdepth.bench.gpu.equality import cases, equality
from pdepth.bench.gpu.gates import bound, tests
from pdepth.bench.gpu.measurements import compiling, kernels, networks, peers, race
from pdepth.bench.gpu.rows import Rows
from pdepth.bench.gpu.table import KINDS, WIDTHS, table

GATES: dict[str, Callable[[Bench], None]] = {each.__name__: each for each in (equality, bound)}
PARTS = GATES | {
    each.__name__: each for each in (table, networks, kernels, peers, race, tests, compiling)
}
# Seconds without which a part is not begun.
LEAST = {"networks": 30, "kernels": 20, "peers": 40, "race": 60, "tests": 200, "compiling": 30}


@dataclass
class Plan:
    """What a run is asked for.

    Attributes:
        parts: their names; none: all.
        ends: when, on time.monotonic's clock.
        stubbed: kernels do nothing: what this process runs is looked at, not its answers.
        every: one in so many of the problems of `equality`.
    """

    out: Path
    resume: Path | None = None
    parts: list[str] = field(default_factory=list)
    ends: float = float("inf")
    tiny: bool = False
    stubbed: bool = False
    every: int = 1


def about(device: torch.device) -> dict[str, Any]:
    """The machine, and the device with its driver."""
    machine: dict[str, Any] = common.machine("torch", "triton", "flashlib", "faiss-gpu-cu12")
    if device.type != "cuda":
        return {**machine, "device": "none", "driver": ""}
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        driver = ""
    return machine | {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "device_memory": properties.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def run(plan: Plan, device: torch.device, say: Callable[[str], None]) -> int:
    """Exit status: 0 if all that was asked for is there and nothing differs, else 1."""
    seed = 0 if plan.stubbed else int.from_bytes(os.urandom(4), "little")
    where = about(device) | {"seed": seed}
    try:
        rows = Rows(plan.out, where, plan.resume)
    except (ValueError, OSError) as error:
        say(f"Error: {error}")
        return 2
    failed: list[str] = []
    left_out: list[str] = []
    spent = time.monotonic()
    if not plan.tiny:
        steps = budget.lines(specialisations.load(), len(cases()), WIDTHS, len(KINDS))[2:]
        say(
            f"== {plan.ends - spent:.0f} s left; until the key table is whole it takes about "
            f"{sum(each.seconds for each in steps):.0f} s"
        )
    for part in plan.parts or PARTS:
        ended = rows.ended(part)
        if ended is not None and not ended["differing"] and not ended["left_out"]:
            say(f"== {part}: done before")
            continue
        if part not in GATES and (closed := [gate for gate in GATES if not _passed(rows, gate)]):
            say(f"== {part}: left out, since {', '.join(closed)} did not pass here")
            asked = not plan.parts or set(GATES) <= set(plan.parts)
            (left_out if asked and not failed else failed).append(part)
            continue
        bench = _bench(plan, device, say, rows, part)
        if bench.left() < LEAST.get(part, 0):
            bench.leave_out(part)
            left_out += bench.left_out
            continue
        _part(bench, part, rows)
        left_out += bench.left_out
        if bench.differing:
            failed.append(part)
    say(f"== {time.monotonic() - spent:.0f} s")
    for line in next_steps(rows, failed, left_out):
        say(line)
    rows.close()
    return 1 if failed or left_out else 0


def _passed(rows: Rows, gate: str) -> bool:
    ended = rows.ended(gate)
    return ended is not None and not ended["differing"] and not ended["left_out"]


def _bench(
    plan: Plan, device: torch.device, say: Callable[[str], None], rows: Rows, part: str
) -> Bench:
    """What a part is given, with the rows that it has already."""
    bench = Bench(device, plan.tiny, say)
    bench.results = rows.of(part)
    known = [each for each in bench.results.values() if isinstance(each, dict)]
    bench.differing = sum(each.get("differing") or 0 for each in known if part != "peers")
    bench.stubbed, bench.every, bench.seed = plan.stubbed, plan.every, rows.about["seed"]
    bench.left = lambda: plan.ends - time.monotonic()
    bench.oracles = 0 if plan.tiny else max(1, len(os.sched_getaffinity(0)) - 2)

    def keep() -> None:
        for name, value in bench.results.items():
            rows.write(part, name, value)

    bench.keep = keep
    return bench


def _part(bench: Bench, part: str, rows: Rows) -> None:
    """One part to its end, or to its error."""
    bench.say(f"== {part}: {PARTS[part].__doc__}")
    begin, trouble = time.monotonic(), ""
    try:
        PARTS[part](bench)
    except Exception as error:
        if bench.stubbed:
            raise
        bench.differing += 1  # not known
        trouble = f"{type(error).__name__}: {error}"[:500]
        bench.say(traceback.format_exc())
    if bench.stubbed:
        bench.differing = 0
    bench.keep()
    seconds = round(time.monotonic() - begin, 1)
    rows.write(
        part, "", {"differing": bench.differing, "seconds": seconds, "left_out": bench.left_out,
                   "error": trouble},
    )  # fmt: skip
    bench.say(f"== {part}: {seconds:.0f} s")


def next_steps(rows: Rows, failed: list[str], left_out: list[str]) -> list[str]:
    """What to do with the rows, and about those that are missing."""
    folder = rows.path.parent
    lines = [f"Rows are in {rows.path}."]
    if failed:
        lines.append(f"Failed: {', '.join(failed)}; the rows say in what.")
    if left_out:
        lines.append("Missing, for lack of time:")
        lines += [f"  {what}" for what in left_out]
        lines.append(f"Go on with: python bench/gpu --resume {folder}")
    if find_spec("flashlib") is None:
        lines.append("Not beside the votes: flashlib, which was not carried here.")
    lines.append(f"Store and render, where the repository is: python bench/gpu --store {folder}")
    return lines


def stored_name(device: str) -> str:
    """The file under bench/results/ of a device."""
    return f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower())}.json"
