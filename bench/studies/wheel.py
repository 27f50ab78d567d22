"""A wheel beside the build of this checkout's own compiler: the same votes, and how long they take.

    python bench/studies/wheel.py dist/NAME.whl   measure, store, render into docs/install.md
    python bench/studies/wheel.py --render        the page's table, as stored

The quick shapes of `pdepth bench` at the levels that most machines have, one thread each: two
processes, one with the wheel in a folder of its own and one with the checkout, take turns. A number
is the least of ROUNDS processor times, each of as many calls as take LEAST seconds, and of two new
processes: where memory happens to lie, and what else the machine does, only add to a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from pdepth import native
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.pages import publish_of_wheel
from pdepth.bench.suite.shapes import pick

NAME, STORED, PAGE = (
    "bench/studies/wheel.py",
    HOME / RESULTS / "wheel.json",
    Path("docs", "install.md"),
)
ROUNDS, LEAST = 9, 0.1
LEVELS = ("portable", "avx2", "avx512vnni")

WORKER = """
import json, os, sys, time
import pdepth
from pdepth.bench.suite.shapes import K, pick
problems = {shape.name: shape.fill(shape) for shape in pick(None, quick=True)}
print(json.dumps(pdepth.__file__), flush=True)
for line in sys.stdin:
    name, level, calls = json.loads(line)
    os.environ["PDEPTH_SIMD"] = level
    labels, layers = problems[name]
    begin = time.process_time()
    for _ in range(calls):
        votes = [pdepth.probe_votes(rows, labels, queries, k=K, num_threads=1)
                 for rows, queries in layers]
    seconds = (time.process_time() - begin) / calls
    print(json.dumps([seconds, [each.votes.tolist() for each in votes]]), flush=True)
"""


class Worker:
    """A process that imports pdepth from a folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        imported = Path(self._answer())
        assert imported.is_relative_to(folder.resolve()), imported

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def time(self, shape: str, level: str, calls: int) -> tuple[float, Any]:
        """Seconds of processor time a call, and the votes."""
        assert self._process.stdin is not None
        print(json.dumps([shape, level, calls]), file=self._process.stdin, flush=True)
        seconds, votes = self._answer()
        return seconds, votes

    def end(self) -> None:
        """Let it go."""
        self._process.communicate()


Cell = tuple[str, str]  # the names of a level and of a shape


def time_round(workers: dict[str, Worker], cells: dict[Cell, int]) -> dict[Cell, dict[str, float]]:
    """The time of a call of each worker, whose votes were equal.

    cells: how many calls a time is of; set in the first round, where it is 0.
    """
    times: dict[Cell, dict[str, float]] = {}
    for cell, calls in cells.items():
        level, shape = cell
        first = {name: worker.time(shape, level, 1) for name, worker in workers.items()}
        assert first["wheel"][1] == first["local"][1], f"{shape}, {level}: votes differ"
        cells[cell] = calls or max(1, round(LEAST / max(first["local"][0], 1e-6)))
        times[cell] = {
            name: worker.time(shape, level, cells[cell])[0] for name, worker in workers.items()
        }
    return times


def measure(path: Path) -> dict[str, Any]:
    """All shapes at all levels that run here."""
    levels = [level for level in LEVELS if native.simd_levels()[level]]
    cells = {(level, shape.name): 0 for level in levels for shape in pick(None, quick=True)}
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        (module,) = Path(folder, "pdepth").glob("_native*.so")
        folders = [("wheel", Path(folder)), ("local", HOME)]
        rounds = []
        for number in range(ROUNDS):
            order = folders[:: 1 if number % 2 else -1]
            workers = {name: Worker(where) for name, where in order}
            rounds.append(time_round(workers, cells))
            for worker in workers.values():
                worker.end()
        sizes = {"wheel": path.stat().st_size, "module": module.stat().st_size}
    rows = [
        {"shape": cell[1], "level": cell[0], "calls": calls}
        | {name: min(times[cell][name] for times in rounds) for name, _ in folders}
        for cell, calls in cells.items()
    ]
    return {"machine": machine("numpy"), "name": path.name, "bytes": sizes, "rows": rows}


def table(stored: dict[str, Any]) -> str:
    """A line a shape: the wheel's time as a multiple of the local build's, level by level."""
    rows = stored["rows"]
    levels = list(dict.fromkeys(row["level"] for row in rows))
    lines = [
        "| shape | " + " | ".join(f"`{level}`" for level in levels) + " |",
        "| --- |" + " ---: |" * len(levels),
    ]
    for shape in dict.fromkeys(row["shape"] for row in rows):
        ratios = [row["wheel"] / row["local"] for row in rows if row["shape"] == shape]
        lines.append(f"| {shape} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    sizes = stored["bytes"]
    said = f"`{stored['name']}`: {sizes['wheel'] / 1e6:.1f} MB, the module in it"
    lines += ["", f"{said} {sizes['module'] / 1e6:.1f} MB. {describe(stored['machine'])}."]
    return "\n".join(lines)


if __name__ == "__main__":
    publish_of_wheel(sys.argv[1:], NAME, measure, table, STORED, PAGE)
