"""The tables of docs/cases.md, from stored results alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from pdepth.bench.common import describe
from pdepth.bench.suite.engines import CEILING, PDEPTH, PEER
from pdepth.bench.suite.results import shown_ratio

HEAD = (
    "case", "support x queries x width", "pdepth, ms", "beside it, ms", "beside / pdepth",
    "processor time", "least", "before, least", "pdepth / float32 product",
    "fit and first answer, ms",
)  # fmt: skip
BEFORE = "before"  # the label of the run that others are compared with


def table(stored: dict[str, Any]) -> str:
    """Every level's newest run, with the ratios of an earlier one beside."""
    sections = []
    for level, group in groupby(ordered(stored["runs"]), key=lambda run: run["level"]):
        runs = list(group)
        newest = next((run for run in runs if run["label"] != BEFORE), runs[0])
        before = next((run for run in runs if run["label"] == BEFORE), newest)
        sections.append(section(level, newest, None if before is newest else before))
    return "\n\n".join(sections)


def ordered(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By level; AVX2 first, as the slower ones have the harder task."""
    return sorted(runs, key=lambda run: (run["level"] != "avx2", run["level"]))


def section(level: str, run: dict[str, Any], before: dict[str, Any] | None) -> str:
    """A level's tables."""
    commits = dict.fromkeys(case["commit"] for case in run["cases"])
    lines = [f"### Level {level}", f"{describe(run['machine'])}; cases of {', '.join(commits)}."]
    earlier = {} if before is None else {title(case): case for case in before["cases"]}
    if before is not None:
        lines.append(f"Before: {describe(before['machine'])}.")
    for name, cases in groupby(run["cases"], key=lambda case: case["group"]):
        rows = [line(case, earlier.get(title(case))) for case in cases]
        lines += [f"**{name}**", markdown([HEAD, *rows])]
    every = [(title(case), *cells) for case in run["cases"] for cells in contestants(case)]
    head = (
        "case", "contestant", "ms", "processor ms", "/ pdepth", "rounds", "differ", "rows found",
        "beyond float32",
    )  # fmt: skip
    lines.append(
        f"<details><summary>Every contestant</summary>\n\n{markdown([head, *every])}\n\n</details>"
    )
    return "\n\n".join(lines)


def title(case: dict[str, Any]) -> str:
    return f"{case['group']}: {case['name']}"


def line(case: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, ...]:
    """A case in its group's table."""
    ours, other, product = case["contestants"][0], beside(case), of_kind(case, CEILING)
    rows, width = case["support"]
    size, first = f"{rows:,} x {case['asked']:,} x {width:,}", "-"
    if other is None:
        return (case["name"], size, milliseconds(ours), *["-"] * 6, first)
    if ours["first"] is not None:
        first = f"{shown(ours['first'])}, {shown(other['first'])}"
    recall = 1 if other["recall"] is None else other["recall"]
    found = "" if recall > 0.9995 else f", finds {recall:.3f}"
    return (
        case["name"],
        size,
        milliseconds(ours),
        f"{milliseconds(other)} {other['name']}{found}",
        f"**{shown_ratio(other['ratio'][1])}**",
        shown_ratio(other["processor_ratio"][1]),
        shown_ratio(least_ratio(case)),
        shown_ratio(None if before is None else least_ratio(before)),
        shown_ratio(None if product is None else 1 / product["ratio"][1]),
        first,
    )


def least_ratio(case: dict[str, Any]) -> float | None:
    """The least processor time of who stands beside pdepth over pdepth's."""
    other, ours = beside(case), case["contestants"][0]
    return None if other is None else float(other["least"][1] / ours["least"][1])


def beside(case: dict[str, Any]) -> dict[str, Any] | None:
    """Whose time is set against pdepth's: who is named, or else the fastest exact peer."""
    others: list[dict[str, Any]] = case["contestants"][1:]
    if case["beside"]:
        return next((each for each in others if each["name"] == case["beside"]), None)
    exact = [each for each in others if each["kind"] == PEER and not each["beyond"]]
    return min(exact, key=lambda each: float(each["seconds"]), default=None)


def of_kind(case: dict[str, Any], kind: str) -> dict[str, Any] | None:
    return next((each for each in case["contestants"] if each["kind"] == kind), None)


def contestants(case: dict[str, Any]) -> list[tuple[str, ...]]:
    """Every contestant's line."""
    lines: list[tuple[str, ...]] = []
    for each in case["contestants"]:
        differing = each["differing"]
        compared = differing is not None and each["kind"] != PDEPTH
        rounded = "-" if each["beyond"] is None else f"{each['beyond']} of {case['checked']}"
        lines.append(
            (
                each["name"],
                milliseconds(each),
                shown(each["processor_seconds"]),
                shown_ratio(each["ratio"][1]),
                str(each["rounds"]),
                f"{differing:,} of {case['answered']:,}" if compared else "-",
                "-" if each["recall"] is None else f"{each['recall']:.4f}",
                rounded,
            )
        )
    return lines


def milliseconds(contestant: dict[str, Any]) -> str:
    return shown(contestant["seconds"])


def shown(seconds: float) -> str:
    """Milliseconds, with three digits."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def text(case: dict[str, Any]) -> str:
    """A case's line for a terminal."""
    ours, other = case["contestants"][0], beside(case)
    words = f"{title(case)}: {milliseconds(ours)} ms"
    if other is not None:
        words += (
            f", {other['name']} {milliseconds(other)} ms: {shown_ratio(other['ratio'][1])}, by "
            f"processor time {shown_ratio(other['processor_ratio'][1])}"
        )
    return f"{words}; {case['checked']} compared with the definition"


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """The first row is the head."""
    head, *body = rows
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
