"""What memory.py writes into docs/memory.md, from its stored results."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pdepth.bench.common import describe
from pdepth.bench.studies.memory_cases import MAPPED_QUERIES, MAPPED_ROWS, MAPPED_WIDTH

SAMPLE = 2_000, 256  # rows and queries on which aucurriculum's way is measured
ROUNDS = 3


def table(stored: dict[str, Any]) -> str:
    """All sections that have been measured, each with its machine."""
    blocks = []
    for name, text in TEXTS.items():
        if name in stored:
            records = stored[name].get("runs", [stored[name]])
            machines = dict.fromkeys(describe(record["machine"]) for record in records)
            blocks += [text(stored[name]), f"<small>{'; '.join(machines)}</small>"]
    return "\n\n".join(blocks)


def _cifar10(record: dict[str, Any]) -> str:
    return "\n".join(
        [
            "**CIFAR-10, ResNet18**, 11 probes to 65,536 wide, k = 30, early exit; the same depths "
            "in all runs of a size:",
            "",
            "| support | queries | memory | time | processor time | peak | before the start | "
            "readings | forward pass | filter | settlement | reading and the rest |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *map(_run_row, record["runs"]),
        ]
    )


def _run_row(run: dict[str, Any]) -> str:
    rest = run["seconds"] - run["forward"] - run["search"]
    shares = [run["forward"], run["search"] - run["settling"], run["settling"], rest]
    cells = " | ".join(f"{100 * share / run['seconds']:.0f} %" for share in shares)
    readings = re.findall(r"computed in (\d+)", "\n".join(run["notes"]))
    queries = f"{run['queries']:,}" if run["queries"] else "its own rows"
    return (
        f"| {run['rows']:,} | {queries} | {run['memory']} | {_time(run['seconds'])} | "
        f"{_time(run['processor_seconds'])} | {_size(run['peak'])} | {_size(run['before'])} | "
        f"{readings[-1] if readings else '1'} | {cells} |"
    )


def _spill(record: dict[str, Any]) -> str:
    times = "once" if record["rounds"] == 1 else f"{record['rounds']} times in turn, medians"
    return (
        f"**Disk instead of further forward passes**, {record['rows']:,} x {record['queries']:,} "
        f"within {record['memory']}, the same depths: {record['again']:.0f} s of processor time "
        f"computed again, {record['spilled']:.0f} s with `spill`, a ratio of "
        f"{record['ratio']:.2f} (each {times}); the forward pass takes "
        f"{100 * record['again_forward']:.0f} % of the time, and "
        f"{100 * record['spilled_forward']:.0f} %; peaks {_size(record['again_peak'])} and "
        f"{_size(record['peak'])}, of which "
        f"{_size(record['before'])} before the start."
    )


def _aucurriculum(record: dict[str, Any]) -> str:
    total = record["forward"] + record["search"]
    return (
        f"**The same in aucurriculum's way**, {record['rows']:,} x {record['queries']:,}: a "
        f"forward pass a probe {_time(record['forward'])}, distances and their smallest "
        f"{_time(record['search'])}, together {_time(total)} (measured on {SAMPLE[0]:,} x "
        f"{SAMPLE[1]:,} and scaled), and {_size(record['memory'])} of memory; its queries would "
        "vote on themselves."
    )


def _mapped(record: dict[str, Any]) -> str:
    return (
        f"**A support from disk**, {MAPPED_ROWS:,} x {MAPPED_WIDTH:,} float16 "
        f"({_size(2 * MAPPED_ROWS * MAPPED_WIDTH)}), {MAPPED_QUERIES:,} queries, "
        f"the same votes: {record['held']:.1f} s in memory with a peak of "
        f"{_size(record['held_peak'])}; {record['read']:.1f} s within {record['memory']}, peak "
        f"{_size(record['peak'])}: {100 * record['speed']:.0f} % of the speed."
    )


def _linear(record: dict[str, Any]) -> str:
    base = record["base"]
    lines = [
        f"**Cost grows linearly**, from {base['rows']:,} support rows, {base['queries']:,} "
        f"queries, width {base['width']}, float32; one doubled thrice, medians of {ROUNDS}:",
        "",
        "| doubled | x 1 | x 2 | x 4 | x 8 | exponent |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in record["table"]:
        times = " | ".join(f"{seconds:.2f} s" for seconds in row["seconds"])
        lines.append(f"| {row['of']} | {times} | {row['exponent']:.2f} |")
    return "\n".join(lines)


def _resume(record: dict[str, Any]) -> str:
    return (
        f"**Kills**: {record['kills']} at random moments, {record['passing']} of them while a "
        f"support passed by, {record['ends']} ends, all with the bits of a run in one piece "
        f"({record['work']:.0f} s of work in {record['memory']}); a kill costs "
        f"{100 * record['twice']:.0f} % of the work once more (median; the time of a start is "
        "taken off, and no better known than to a few per cent)."
    )


TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "cifar10": _cifar10,
    "spill": _spill,
    "theirs": _aucurriculum,
    "mapped": _mapped,
    "linear": _linear,
    "resume": _resume,
}


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds > 100 else f"{seconds:.1f} s"


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
