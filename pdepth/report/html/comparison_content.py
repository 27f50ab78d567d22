"""Build the content of a page that compares runs of the same examples."""

from __future__ import annotations

import numpy as np

from pdepth.analysis.runs import ClassChange, Interval, RunComparison
from pdepth.report.html.content import (
    Column,
    Int,
    PageContent,
    Sheet,
    View,
    count_of,
    encode_classes,
    format_signed,
)
from pdepth.report.names import ClassNames, class_name
from pdepth.report.tables import Table, percent, percent_interval, signed_percent
from pdepth.result import DepthResult

LEAD = (
    "A network turns its input into an answer layer by layer. An example's prediction depth is the "
    "first layer from which on its nearest neighbours among the support examples vote for the "
    "reference, most often the network's own answer. Here it is measured twice, in two ways, as a "
    "share of all probes, 0 to 100 %, so that networks of different sizes compare; 100 % is an "
    "undefined depth."
)
STATES = ("defined in both", "undefined in the first", "undefined in the second", "in neither")
FIRST, SECOND = "first_depth", "second_depth"


def comparison_content(comparison: RunComparison, names: ClassNames = None) -> PageContent:
    """Build a page's content; names: of the classes."""
    n, labels = len(comparison), comparison.labels
    single = [side[0] for side in comparison.sides if len(side) == 1]
    arrays = [result.predictions for result in single]
    if labels is not None:
        arrays.append(labels)
    classes = np.unique(np.concatenate([*arrays, np.empty(0, np.int64)]))
    columns = _columns(comparison, classes)
    selects = {"label": "Label"} if labels is not None else {}
    first, second = comparison.names
    return PageContent(
        title=f"Prediction depth of {n:,} examples: {first} and {second}",
        lead=LEAD,
        tiles=_tiles(comparison),
        sentences=_sentences(comparison, names),
        count=n,
        columns=columns,
        classes=classes,
        names=names,
        selects=selects | {"state": "Undefined"},
        depth=SECOND,
        probes=(),
        views=_views(comparison),
        sheets=_sheets(comparison),
        tables=_tables(comparison, names),
        about=_about(comparison),
        image_class=next(name for name in ("label", "first_class", "state") if name in columns),
        facts={
            "layers": 100,  # the largest depth
            "sides": comparison.names,
            "steps": [100 / len(side[0].probes) for side in comparison.sides],
            "accuracies": [_accuracies(comparison, side) for side in (0, 1)],
        },
    )


def _columns(comparison: RunComparison, classes: Int) -> dict[str, Column]:
    columns = {"row": Column(comparison.rows, "whole", "Row")}
    if comparison.labels is not None:
        columns["label"] = Column(encode_classes(comparison.labels, classes), "class", "Label")
    for number, (side, name) in enumerate(zip(comparison.sides, comparison.names, strict=True)):
        prefix = ("first", "second")[number]
        if len(side) == 1:
            codes = encode_classes(side[0].predictions, classes)
            columns[f"{prefix}_class"] = Column(codes, "class", f"{name}: class")
        depth = 100 * comparison.depths[number]
        columns[f"{prefix}_depth"] = Column(depth, "number", f"{name}: depth, %", digits=1)
    columns["change"] = Column(100 * comparison.change, "number", "Change, %", digits=1)
    state = comparison.undefined[0] + 2 * comparison.undefined[1]
    columns["state"] = Column(state.astype(np.int64), "choice", "Undefined", STATES)
    return columns


def _tiles(comparison: RunComparison) -> list[tuple[str, str]]:
    tiles = [(f"{len(comparison):,}", "examples")]
    tiles += [
        (percent(depths.mean()), f"mean depth, {name}")
        for depths, name in zip(comparison.depths, comparison.names, strict=True)
    ]
    if not np.isnan(comparison.rank_correlation.value):
        tiles.append(
            (f"{comparison.rank_correlation.value:.2f}", "rank correlation of both depths")
        )
    undefined = [int(side.sum()) for side in comparison.undefined]
    tiles.append((" / ".join(f"{count:,}" for count in undefined), "undefined in each"))
    return tiles


def _sentences(comparison: RunComparison, names: ClassNames) -> list[str]:
    n, (first, second) = len(comparison), comparison.names
    mean = comparison.difference
    finding = "no clear difference: the interval holds 0"
    if mean.low > 0 or mean.high < 0:
        finding = f"examples are {'deeper' if mean.low > 0 else 'shallower'} in {second}"
    sentences = [
        f"On average {finding}. The mean change is {signed_percent(mean.value)} of the probes, "
        f"with 95 % interval over examples {_ends(mean)}.",
        f"{count_of(comparison.deeper, n)} are deeper in {second}, "
        f"{count_of(comparison.shallower, n)} shallower.",
    ]
    if not np.isnan(comparison.rank_correlation.low):
        value, low, high = map(format_signed, comparison.rank_correlation)
        sentences.append(
            f"Both order the examples with a rank correlation of {value} (95 % interval {low} to "
            f"{high})."
        )
    (_, lost), (won, both) = comparison.transitions
    sentences.append(
        f"{int(lost):,} become undefined in {second}, {int(won):,} undefined in {first} are so no "
        f"more, and {int(both):,} are undefined in both."
    )
    return sentences + _class_sentences(comparison, names) + list(comparison.notes)


def _class_sentences(comparison: RunComparison, names: ClassNames) -> list[str]:
    """The classes with the largest changes whose interval is on one side of 0."""
    sentences = []
    for sign, word in ((1, "deeper"), (-1, "shallower")):
        clear = [
            change
            for change in comparison.by_class
            if min(sign * change.difference.low, sign * change.difference.high) > 0
        ]
        clear.sort(key=lambda change: -sign * change.difference.value)
        if clear and len(comparison.by_class) > 1:
            words = ", ".join(
                f"{class_name(change.label, names)} ({signed_percent(change.difference.value)})"
                for change in clear[:3]
            )
            sentences.append(f"Classes that became {word} by most: {words}.")
    return sentences


def _views(comparison: RunComparison) -> list[View]:
    first, second = comparison.names
    views = [
        View(
            "sides",
            "Every example on both sides",
            f"A dot is an example: to the right, deep in {first}; to the top, deep in {second}. "
            "Dots of one place are spread a little. On the dashed line nothing changes.",
        ),
        View(
            "change",
            "How depths change",
            f"How many examples have which change; to the right of 0, deeper in {second}.",
        ),
    ]
    known = [_accuracies(comparison, side) for side in (0, 1)]
    unknown = [name for name, of_side in zip(comparison.names, known, strict=True) if not of_side]
    if len(unknown) < len(known):
        views.append(
            View(
                "alignment",
                "Accuracy of the probes",
                "How many of a probe's votes are the label, from the first probe to the last"
                + "".join(f"; of {name} it is not known" for name in unknown)
                + ".",
            )
        )
    return views


def _sheets(comparison: RunComparison) -> list[Sheet]:
    first, second = comparison.names
    change, (was, became) = comparison.change, comparison.undefined
    sheets = [
        (
            change > 0,
            Sheet(
                f"Deeper in {second}",
                f"Those that take most more of the probes than in {first}.",
                (("change", 1e-9, 100),),
                (("change", -1),),
            ),
        ),
        (
            change < 0,
            Sheet(
                f"Shallower in {second}",
                f"Those that take most less of the probes than in {first}.",
                (("change", -100, -1e-9),),
                (("change", 1),),
            ),
        ),
        (became & ~was, _undefined_sheet(second, 2, FIRST)),
        (was & ~became, _undefined_sheet(first, 1, SECOND)),
    ]
    return [sheet for members, sheet in sheets if members.any()]


def _undefined_sheet(name: str, code: int, other: str) -> Sheet:
    """Of the examples whose state has a code; other: the column of the other side's depth."""
    return Sheet(
        f"Undefined in {name} alone",
        "Even its last probe votes against the reference; the other side's does not.",
        (("state", code, code),),
        ((other, 1),),
    )


def _tables(comparison: RunComparison, names: ClassNames) -> list[Table]:
    first, second = comparison.names
    states = ("defined", "undefined")
    transitions = [
        [f"{state} in {first}", *(f"{count:,}" for count in counts)]
        for state, counts in zip(states, comparison.transitions, strict=True)
    ]
    head = ("", *(f"{state} in {second}" for state in states))
    tables = [Table("Which depths are undefined", head, transitions)]
    if comparison.by_class:
        head = ("Class", "Examples", f"Depth in {first}", f"Depth in {second}", "Change",
                "95 % interval", "Deeper", "Shallower")  # fmt: skip
        rows = [_class_row(change, names) for change in comparison.by_class]
        tables.append(Table("Class by class", head, rows))
    return tables


def _class_row(change: ClassChange, names: ClassNames) -> list[str]:
    shares = (change.deeper, change.shallower)
    return [
        class_name(change.label, names),
        f"{change.examples:,}",
        percent(change.first),
        percent(change.second),
        signed_percent(change.difference.value),
        _ends(change.difference),
        *map(percent, shares),
    ]


def _ends(interval: Interval) -> str:
    return percent_interval(interval.low, interval.high)


def _accuracies(comparison: RunComparison, side: int) -> list[list[float]]:
    """Places, 0 to 1, and accuracies of the probes of a side, for the page."""
    return [values.tolist() for values in comparison.known_accuracies(side) or ()]


def _about(comparison: RunComparison) -> dict[str, str]:
    about = {}
    for name, side in zip(comparison.names, comparison.sides, strict=True):
        about[name] = f"{_run(side[0])}" + (f", mean of {len(side)} runs" if len(side) > 1 else "")
    return about


def _run(result: DepthResult) -> str:
    kind = "leave-one-out" if result.leave_one_out else "held out"
    words = [f"k = {result.k}", f"{len(result.probes)} probes", kind]
    return ", ".join([*filter(None, [result.meta.get("model")]), *words])
