"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pdepth.analysis.groups import CORNERS
from pdepth.analysis.ranks import correlate
from pdepth.report.names import class_name
from pdepth.report.tables import (
    format_number,
    percent,
    percent_interval,
    signed_percent,
    table_by_k,
)
from pdepth.result import AGAINST, DepthResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from pdepth.analysis.ensemble import Ensemble
    from pdepth.analysis.groups import Groups
    from pdepth.analysis.label_errors import LabelIssues
    from pdepth.analysis.runs import RunComparison

BAR_WIDTH = 24  # columns of the longest bar


def print_summary(result: DepthResult, console: Console) -> None:
    """Print one line per probe (width, k-NN accuracy, how many examples settle), and the totals.

    The k-NN accuracy of a probe with unknown votes is not shown, as its known votes are a biased
    sample: after early exit they are those of examples whose later probes all agreed.
    """
    from rich.text import Text

    block = "█" if console.encoding.startswith("utf") else "#"
    kind = "support examples, each left out of its own vote"
    table = _new_table(f"{len(result):,} {kind if result.leave_one_out else 'held-out examples'}")
    table.add_column("probe", overflow="fold")
    for heading in ("width", "k-NN accuracy", "settle here"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")

    complete = result.complete()
    accuracy = np.full(len(complete), np.nan)
    if result.labels is not None:
        accuracy = result.probe_accuracy()
    settled = result.settled()
    for depth, name in enumerate([*result.probes, "undefined"]):
        is_probe = depth < len(result.probes)
        if not is_probe and not settled[depth]:
            continue
        table.add_row(
            Text(name, style="" if is_probe else "italic"),
            f"{result.widths[depth]:,}" if is_probe and result.widths else "",
            f"{100 * accuracy[depth]:.1f} %" if is_probe and complete[depth] else "",
            f"{settled[depth]:,}",
            Text(block * round(BAR_WIDTH * settled[depth] / settled.max()), style="blue"),
        )
    console.print(table)
    console.print(_totals(result), highlight=False, soft_wrap=True)
    if text := result.meta.get("probes"):
        console.print(f"Probes: {text}.", highlight=False, soft_wrap=True, markup=False)
    if not complete.all():
        console.print(
            "Early exit left votes unknown: no k-NN accuracy there (--all-votes asks them all).",
            style="dim",
            soft_wrap=True,
        )


def print_by_k(results: Mapping[int, DepthResult], console: Console) -> None:
    """Print one line per k: mean depth, share undefined, rank correlation with the largest k."""
    content = table_by_k(results)
    table = _new_table(content.caption)
    for heading in content.head:
        table.add_column(heading, justify="right")
    for row in content.rows:
        table.add_row(*row)
    console.print(table)


def print_label_issues(issues: LabelIssues, console: Console, top: int = 20) -> None:
    """Print the `top` likeliest label errors, and how many there are."""
    from rich.text import Text

    order = issues.ranked[: min(top, int(issues.is_issue.sum()))]
    if len(order):
        table = _new_table(f"The {len(order):,} likeliest label errors")
        table.add_column("row", justify="right")
        for heading in (*(["path"] if issues.paths else []), "label", "suggested"):
            table.add_column(heading, overflow="fold")
        table.add_column("score", justify="right")
        for place in order:
            path = [Text(issues.paths[place])] if issues.paths else []
            classes = (issues.label[place], issues.suggested[place])
            names = [Text(class_name(int(label), issues.class_names)) for label in classes]
            table.add_row(
                f"{issues.rows[place]}", *path, *names, format_number(issues.score[place], ".2f")
            )
        console.print(table)
    console.print(
        f"{int(issues.is_issue.sum()):,} of {len(issues):,} labels have a score of at least "
        f"{issues.threshold:g}.",
        highlight=False,
        soft_wrap=True,
    )


def print_ensemble(ensemble: Ensemble, groups: Groups | None, console: Console) -> None:
    """Print means over an ensemble's examples, and how many examples are in each group."""
    columns = {name: values for name, (values, _) in ensemble.examples().items()}
    never = int((columns["held_out_networks"] == 0).sum())
    table = _new_table(f"{len(ensemble.labels):,} examples under {len(ensemble)} networks")
    for heading in ("mean over examples", "in the support", "held out"):
        table.add_column(heading, justify="left" if heading.startswith("mean") else "right")
    for name, text_of, support, held_out in (
        ("depth", "{:.2f}".format, "support_depth", "held_out_depth"),
        ("networks that give the label", percent, "support_accuracy", "held_out_accuracy"),
        ("networks that give the consensus", percent, "", "consistency"),
        ("entropy, nats", "{:.3f}".format, "", "entropy"),
    ):
        means = [
            text_of(float(np.nanmean(columns[column]))) if column else ""
            for column in (support, held_out)
        ]
        table.add_row(name, *means)
    console.print(table)
    if never:
        console.print(f"{never:,} examples were never held out.", highlight=False)
    for name in ("consistency", "held_out_accuracy", "entropy"):
        correlation = correlate(columns["held_out_depth"], columns[name])
        console.print(
            f"Rank correlation of held-out depth with {name.replace('_', ' ')}: "
            f"{correlation.statistic:.2f}.",
            highlight=False,
        )
    if groups is not None:
        sizes = [f"{CORNERS[name]}: {len(rows):,}" for name, rows in groups.corners.items()]
        console.print("; ".join(sizes) + ".", highlight=False, soft_wrap=True)


def print_comparison(comparison: RunComparison, console: Console) -> None:
    """Print both sides' depths, how they differ, and the note of each doubt."""
    first, second = comparison.names
    table = _new_table(f"{len(comparison):,} examples: {first} and {second}")
    for heading in ("", first, second):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("mean depth, of all probes", *(percent(d.mean()) for d in comparison.depths))
    table.add_row("undefined", *(f"{int(u.sum()):,}" for u in comparison.undefined))
    console.print(table)
    change, rank = comparison.difference, comparison.rank_correlation
    sentences = [
        f"Mean change {signed_percent(change.value)}, 95 % interval "
        f"{percent_interval(change.low, change.high)}; {comparison.deeper:,} are deeper in "
        f"{second}, {comparison.shallower:,} shallower."
    ]
    if not np.isnan(rank.low):
        sentences.append(
            f"Rank correlation {rank.value:.2f}, 95 % interval {rank.low:.2f} to {rank.high:.2f}."
        )
    for sentence in [*sentences, *comparison.notes]:
        console.print(sentence, highlight=False, soft_wrap=True, markup=False)


def _new_table(title: str) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = title
    return table


def _totals(result: DepthResult) -> str:
    defined = result.depth[~result.undefined]
    totals = [f"k = {result.k}"]
    if result.reference != "prediction":
        totals.append(f"against {AGAINST[result.reference]}")
    if len(defined):
        subset = "" if len(defined) == len(result) else " of those that settle"
        mean = f"{defined.mean():.2f}"
        totals.append(f"mean depth{subset} {mean}, of 0 to {len(result.probes) - 1}")
    totals.append(f"{len(result) - len(defined):,} undefined")
    if result.labels is not None:
        right = 100 * np.mean(result.predictions == result.labels)
        totals.append(f"the network is right on {right:.1f} %")
    return ", ".join(totals)
