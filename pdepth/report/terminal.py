"""A DepthResult on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pdepth.analysis.groups import CORNERS
from pdepth.analysis.ranks import correlate
from pdepth.report.figures.by_k import by_k
from pdepth.result import AGAINST, DepthResult

if TYPE_CHECKING:
    from rich.console import Console

    from pdepth.analysis.ensemble import Ensemble
    from pdepth.analysis.groups import Groups

BAR = 24  # columns of the longest bar


def print_summary(result: DepthResult, console: Console) -> None:
    """Print one line per probe (width, k-NN accuracy, how many examples settle), and the totals.

    The k-NN accuracy of a probe with unknown votes is left out, as its known votes are a biased
    sample (early exit asks only where all later probes agreed with the network).
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    block = "█" if console.encoding.startswith("utf") else "#"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    kind = "support examples, each left out of its own vote"
    table.title = f"{len(result):,} {kind if result.leave_one_out else 'held-out examples'}"
    table.title_style = "bold"
    table.add_column("probe", overflow="fold")
    for heading in ("width", "k-NN accuracy", "settle here"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")

    complete = result.complete()
    accuracy = np.full(len(complete), np.nan)
    if result.labels is not None:
        accuracy = result.probe_accuracy()
    settled = result.settled()
    for layer, name in enumerate([*result.probes, "undefined"]):
        is_probe = layer < len(result.probes)
        if not is_probe and not settled[layer]:
            continue
        table.add_row(
            Text(name, style="" if is_probe else "italic"),
            f"{result.widths[layer]:,}" if is_probe and result.widths else "",
            f"{100 * accuracy[layer]:.1f} %" if is_probe and complete[layer] else "",
            f"{settled[layer]:,}",
            Text(block * round(BAR * settled[layer] / settled.max()), style="blue"),
        )
    console.print(table)
    console.print(_totals(result), highlight=False, soft_wrap=True)
    if not complete.all():
        console.print(
            "Early exit left votes unknown: no k-NN accuracy there (--all-votes asks them all).",
            style="dim",
            soft_wrap=True,
        )


def print_by_k(results: Mapping[int, DepthResult], console: Console) -> None:
    """Print one line per k: mean depth, share undefined, rank correlation with the largest k."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = "Depth against k"
    for heading in ("k", "mean depth", "undefined", f"rank correlation with k = {max(results)}"):
        table.add_column(heading, justify="right")
    for of in by_k(results):
        correlation = "" if np.isnan(of.rank_correlation) else f"{of.rank_correlation:.3f}"
        depth = "" if np.isnan(of.mean_depth) else f"{of.mean_depth:.2f}"
        table.add_row(f"{of.k}", depth, f"{100 * of.undefined:.1f} %", correlation)
    console.print(table)


def print_ensemble(ensemble: Ensemble, groups: Groups | None, console: Console) -> None:
    """Print what an ensemble says on the whole, and how many examples are in each corner."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    columns = {name: values for name, (values, _) in ensemble.examples().items()}
    never = int((columns["held_out_networks"] == 0).sum())
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"{len(ensemble.labels):,} examples under {len(ensemble)} networks"
    for heading in ("mean over examples", "in the support", "held out"):
        table.add_column(heading, justify="left" if heading.startswith("mean") else "right")

    def row(name: str, format_: str, *of: str) -> None:
        table.add_row(name, *(f"{np.nanmean(columns[c]):{format_}}" if c else "" for c in of))

    row("depth", ".2f", "support_depth", "held_out_depth")
    row("networks that give the label", ".1%", "support_accuracy", "held_out_accuracy")
    row("networks that give the consensus", ".1%", "", "consistency")
    row("entropy, nats", ".3f", "", "entropy")
    console.print(table)
    if never:
        console.print(f"{never:,} examples were never held out.", highlight=False)
    for name in ("consistency", "held_out_accuracy", "entropy"):
        found = correlate(columns["held_out_depth"], columns[name])
        said = name.replace("_", " ")
        console.print(
            f"Rank correlation of held-out depth with {said}: {found.statistic:.2f}.",
            highlight=False,
        )
    if groups is not None:
        parts = [f"{CORNERS[name]}: {len(rows):,}" for name, rows in groups.corners.items()]
        console.print("; ".join(parts) + ".", highlight=False, soft_wrap=True)


def _totals(result: DepthResult) -> str:
    defined = result.depth[~result.undefined]
    parts = [f"k = {result.k}"]
    if result.reference != "prediction":
        parts.append(f"against {AGAINST[result.reference]}")
    if len(defined):
        of = "" if len(defined) == len(result) else " of those that settle"
        parts.append(f"mean depth{of} {defined.mean():.2f}, of at most {len(result.probes) - 1}")
    parts.append(f"{len(result) - len(defined):,} undefined")
    if result.labels is not None:
        right = 100 * np.mean(result.predictions == result.labels)
        parts.append(f"the network is right on {right:.1f} %")
    return ", ".join(parts)
