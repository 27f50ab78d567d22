"""All that a GPU has to show, in one command: equality first, then times, limits and peers.

    python bench/gpu                    every part, in order
    python bench/gpu equality times     some of them
    python bench/gpu --list             what there is

Parts are meant to stay under ten minutes each; one that fails is named, and the others go on. But
no time is taken before tests, bound and equality have passed: in this run, or stored by this commit
(of a copy without its history, PDEPTH_COMMIT names it). The results of each part are stored under
bench/results/, one file a device, and a part that runs again replaces its own. Without a GPU,
TRITON_INTERPRET=1 and --tiny go through the script at sizes that an interpreter manages: no times
worth anything, but it is known to run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from pdepth.backends import triton as backend
from pdepth.bench import common
from pdepth.bench.gpu.context import Bench
from pdepth.bench.gpu.gates import bound, equality, tests
from pdepth.bench.gpu.measurements import compiling, kernels, networks, peers, race, times
from pdepth.bench.pages import save

GATES: dict[str, Callable[[Bench], None]] = {
    each.__name__: each for each in (tests, bound, equality)
}
PARTS = GATES | {each.__name__: each for each in (times, peers, networks, kernels, race, compiling)}


def about(device: torch.device) -> dict[str, Any]:
    """The machine, and the device with its driver."""
    machine: dict[str, Any] = common.machine("torch", "triton", "flashlib", "faiss-gpu-cu12")
    if device.type != "cuda":
        return {**machine, "device": "none: Triton's interpreter"}
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


def _passed(record: Any, where: dict[str, Any]) -> bool:
    """Whether a gate has found no difference: in this run, or earlier with all the same."""
    if record is None or record["differing"]:
        return False
    before = record["about"]
    known = where["commit"] and not where["commit"].endswith("-dirty")
    same = all(before.get(key) == where.get(key) for key in ("commit", "versions", "driver"))
    return before is where or bool(known and same)


def main(arguments: list[str]) -> int:
    tiny = "--tiny" in arguments
    names = [name for name in arguments if name != "--tiny"]
    if "--list" in names:
        print("\n".join(f"{name:10} {part.__doc__}" for name, part in PARTS.items()))
        return 0
    if unknown := [name for name in names if name not in PARTS]:
        print(f"Error: part: expected {', '.join(PARTS)}, got {unknown[0]}.", file=sys.stderr)
        return 2
    if (reason := backend.unavailable()) is not None:
        print(f"Error: no triton backend here: {reason}", file=sys.stderr)
        return 2
    device = torch.device("cpu" if backend.interpreted() else "cuda")
    if device.type == "cpu" and not tiny:
        print("Error: Triton is interpreted here; pass --tiny with it.", file=sys.stderr)
        return 2
    where = about(device)
    name = re.sub(r"\W+", "-", where["device"].lower())
    path = common.HOME / common.RESULTS / f"gpu-{name}.json"
    stored = json.loads(path.read_text())["parts"] if path.exists() and not tiny else {}
    failed = []
    for part in names or PARTS:
        closed = [gate for gate in GATES if not _passed(stored.get(gate), where)]
        if part not in GATES and closed:
            print(f"{part}: left out, since {', '.join(closed)} did not pass here")
            failed.append(part)
            continue
        bench = Bench(device, tiny, lambda line: print(line, flush=True))

        def keep(part: str = part, bench: Bench = bench) -> None:
            stored[part] = {
                "about": where, "differing": bench.differing, "results": bench.results,
            }  # fmt: skip
            if not tiny:
                save({"parts": stored}, path)

        if part not in GATES:  # a gate counts as a whole
            bench.keep = keep
        print(f"== {part}: {PARTS[part].__doc__}", flush=True)
        begin = time.perf_counter()
        try:
            PARTS[part](bench)
        except Exception:
            bench.differing += 1  # unknown
            traceback.print_exc()
        keep()
        if bench.differing:
            failed.append(part)
        print(f"== {part}: {time.perf_counter() - begin:.0f} s", flush=True)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
