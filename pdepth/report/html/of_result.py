"""What a page tells of one network: see `pdepth.report.html.page`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.network import against_depth
from pdepth.report.figures.by_k import by_k
from pdepth.report.figures.examples import Names, class_name
from pdepth.report.figures.plots import FEW, wilson
from pdepth.report.html.story import (
    Column,
    Int,
    Sheet,
    Story,
    Table,
    View,
    and_,
    codes,
    heading,
    share,
    signed,
)
from pdepth.result import AGAINST, DepthResult

LEAD = (
    "A network turns its input into an answer layer by layer. An example's prediction depth is the "
    "first layer from which on its nearest neighbours among the support examples vote for "
    "{answer}: small for what is easily told, large for what the network needs all its layers for."
)
ANSWER = {
    "prediction": "the network's own answer",
    "label": "its label",
    "last_probe": "what they vote for at the last layer",
    "array": "the class it was compared with",
}
VOTE = "vote_{}"  # the column of a probe's votes
WHOSE = {  # a result's `reference`, as what the last probe's votes are not
    "prediction": "the network's",
    "label": "the label",
    "last_probe": "their own",
    "array": "the one that it was compared with",
}
CORRECT = ("wrong", "right")


def story_of(
    result: DepthResult,
    names: Names = None,
    measures: Mapping[str, NDArray[np.float64]] | None = None,
    of_k: Mapping[int, DepthResult] | None = None,
) -> Story:
    """Of a result with at least one example; `of_k` are the same examples' by other k too.

    Raises ValueError for a measure with the name of another column.
    """
    n, layers = len(result), len(result.probes)
    given = [result.predictions, result.votes[result.known]]
    given += [each for each in (result.labels, result.reference_values) if each is not None]
    classes = np.unique(np.concatenate([each.ravel() for each in given]))
    rival = _rivals(result) if result.known.all() and layers else None
    kind = "support" if result.leave_one_out else "held-out"
    probes = (*result.probes, "undefined")
    return Story(
        title=f"Prediction depth of {n:,} {kind} examples",
        lead=LEAD.format(answer=ANSWER[result.reference]),
        tiles=_tiles(result),
        sentences=_sentences(result, names),
        count=n,
        columns=_columns(result, classes, rival, measures or {}),
        classes=classes,
        names=names,
        selects=({} if result.labels is None else {"label": "Label"})
        | {"prediction": "Network's class"}
        | ({} if result.labels is None else {"right": "The network is"}),
        depth="depth",
        probes=probes if result.undefined.any() else result.probes,
        views=_views(result, measures or {}),
        sheets=_sheets(result, rival is not None),
        tables=[_by_depth(result), *([_by_k(of_k)] if of_k and len(of_k) > 1 else [])],
        about=_about(result),
        image_class="prediction" if result.labels is None else "label",
        facts={"layers": layers, "complete": np.flatnonzero(result.complete()).tolist()},
    )


def _rivals(result: DepthResult) -> tuple[Int, Int]:
    """The class that most probes vote for beside the label (the network's class where there is
    none), and how many do: (N,) each; of equals, the class of the earliest probe."""
    own = result.predictions if result.labels is None else result.labels
    votes = result.votes
    times = np.stack([np.where(each == own, 0, (votes == each).sum(axis=0)) for each in votes])
    best = times.argmax(axis=0)
    rows = np.arange(len(result))
    return votes[best, rows], times[best, rows]


def _columns(
    result: DepthResult,
    classes: Int,
    rival: tuple[Int, Int] | None,
    measures: Mapping[str, NDArray[np.float64]],
) -> dict[str, Column]:
    columns = {"row": Column(np.arange(len(result)), "whole", "Row")}
    if result.labels is not None:
        columns["label"] = Column(codes(result.labels, classes), "class", "Label")
    columns["prediction"] = Column(codes(result.predictions, classes), "class", "Network's class")
    if result.labels is not None:
        right = (result.predictions == result.labels).astype(np.int64)
        columns["right"] = Column(right, "choice", "Network", CORRECT)
    columns["depth"] = Column(result.depth, "whole", "Depth")
    columns["undefined"] = Column(result.undefined.astype(np.int64), "whole")
    if rival is not None:
        other, times = rival
        columns["rival"] = Column(codes(other, classes, times == 0), "class", "Most other votes")
        columns["rival_votes"] = Column(times, "whole", "Probes for it")
    for name, values in measures.items():
        if name in columns or name in ("reference", *map(VOTE.format, result.probes)):
            raise ValueError(f"measures has {name!r}, which is a column of the page already.")
        columns[name] = Column(np.asarray(values, np.float64), "number", heading(name), digits=3)
    if result.reference_values is not None:
        columns["reference"] = Column(
            codes(result.reference_values, classes), "class", "Compared with"
        )
    for probe, votes, known in zip(result.probes, result.votes, result.known, strict=True):
        columns[VOTE.format(probe)] = Column(codes(votes, classes, ~known), "class")
    return columns


def _tiles(result: DepthResult) -> list[tuple[str, str]]:
    n, undefined = len(result), int(result.undefined.sum())
    tiles = [(f"{n:,}", "examples")]
    if result.labels is not None:
        right = int((result.predictions == result.labels).sum())
        tiles.append((f"{100 * right / n:.1f} %", f"right: {right:,} of {n:,}"))
    if undefined < n:
        mean = result.depth[~result.undefined].mean()
        whose = "" if not undefined else " of those that settle"
        tiles.append((f"{mean:.2f}", f"mean depth{whose}, of at most {len(result.probes) - 1}"))
    tiles.append((f"{100 * undefined / n:.1f} %", f"undefined: {undefined:,} of {n:,}"))
    return tiles


def _sentences(result: DepthResult, names: Names) -> list[str]:
    n, settled = len(result), result.settled()
    said = []
    defined = int(settled[:-1].sum())
    if 2 * defined >= n:
        half = int(np.searchsorted(np.cumsum(settled), n / 2))
        said.append(
            f"Half of the examples have settled by {result.probes[half]}, probe {half} of "
            f"0 to {len(result.probes) - 1}: {int(settled[: half + 1].sum()):,} of {n:,}."
        )
    if settled[-1]:
        said.append(
            f"{share(int(settled[-1]), n)} never settle: even at the last probe the neighbours "
            f"vote for another class than {WHOSE[result.reference]}. Their depth is called "
            "undefined, and counts as deeper than any other."
        )
    if result.labels is not None:
        said += _accuracy(result) + _classes(result, result.labels, names)
    if result.labels is not None and result.reference == "prediction":
        half = (len(result.probes) - 1) // 2
        wrong = (result.predictions != result.labels) & ~result.undefined
        early = int((wrong & (result.depth <= half)).sum())
        if early:
            said.append(
                f"On {share(early, n)}, neighbours and network agree by probe {half} at the latest "
                "on a class that is not the label: these look like another class, or their label "
                "is wrong."
            )
    if not result.known.all():
        said.append(
            "Early exit left votes unknown that no depth depends on: what needs every vote is left "
            "out here, and pdepth run --all-votes brings it."
        )
    return said


def _accuracy(result: DepthResult) -> list[str]:
    right, depth = result.predictions == result.labels, result.depth
    trend = against_depth(result).trend["accuracy"]
    low, high = map(int, np.quantile(depth, (0.25, 0.75), method="inverted_cdf"))
    if not np.isfinite(trend.statistic) or low == high:
        return []
    what = "Whether the network is right does not clearly go with depth"
    if trend.p_value < 0.05:
        less = "less" if trend.statistic < 0 else "more"
        what = f"The deeper an example, the {less} often the network is right"
    ends = [
        f"{100 * right[which].mean():.1f} % of the {int(which.sum()):,} of depth {words}"
        for which, words in (
            (depth <= low, "0" if low == 0 else f"0 to {low}"),
            (depth >= high, f"{high} and more"),
        )
    ]
    return [f"{what}: on {and_(ends)} (rank correlation {signed(trend.statistic)})."]


def _classes(result: DepthResult, labels: Int, names: Names) -> list[str]:
    of, code = np.unique(labels, return_inverse=True)
    settled = ~result.undefined
    counts = np.bincount(code[settled], minlength=len(of))
    mean = np.bincount(code[settled], result.depth[settled], len(of)) / np.maximum(counts, 1)
    many = np.flatnonzero(counts >= FEW)
    if len(many) < 3:
        return []
    order = many[np.argsort(mean[many], kind="stable")]

    def named(chosen: Int) -> str:
        return and_([f"{class_name(int(of[c]), names)} ({mean[c]:.2f})" for c in chosen])

    count = 1 if len(order) < 6 else 3
    return [
        f"Of all classes, the mean depth of what settles is least for {named(order[:count])}, and "
        f"greatest for {named(order[::-1][:count])}."
    ]


def _views(result: DepthResult, measures: Mapping[str, NDArray[np.float64]]) -> list[View]:
    labelled = result.labels is not None
    views = [
        View(
            "settle",
            "Where examples settle",
            "A bar for each probe: how many examples have it as their depth. Left is easy; far "
            "right, the undefined. A click on a bar keeps its examples alone.",
        )
    ]
    if labelled:
        views.append(
            View(
                "accuracy",
                "Accuracy by depth",
                "How often the network is right on the examples of each depth, with 95\u00a0% "
                f"intervals; hollow: fewer than {FEW} examples.",
            )
        )
    if result.complete().sum() > 1:
        views.append(
            View(
                "probes",
                "What each probe's neighbours say",
                "How many of a probe's votes are the network's class"
                + (", and how many are the label" if labelled else "")
                + ". The line rises where the network does its work.",
            )
        )
    if labelled and result.known.all():
        views.append(
            View(
                "pairs",
                "Which classes are confused until which probe",
                "A row for two classes, a column for a probe: the share of their examples that get "
                "the other's vote. Strong colours to the right are told apart late, or never.",
            )
        )
    views.append(
        View(
            "map",
            "Every example",
            "A dot is an example: how far right it lies is its depth. Point at one to see it; "
            "click to see the votes of all its probes.",
        )
    )
    return views


def _sheets(result: DepthResult, rivals: bool) -> list[Sheet]:
    defined = ("undefined", 0, 0)
    shallow, deep, other = ("depth", 1), ("depth", -1), ("rival_votes", -1)
    whose = WHOSE[result.reference]
    hint = f"Even at the last probe the neighbours vote for another class than {whose}."
    by = (other,) if rivals else (shallow,)  # all equally deep
    undefined = Sheet("Undefined", hint, (("undefined", 1, 1),), by)
    if result.labels is None:
        sheets = [
            Sheet("Easiest", "The shallowest.", (defined,), (shallow,)),
            Sheet("Hardest", "The deepest that settle.", (defined,), (deep,)),
        ]
    else:
        wrong, right = ("right", 0, 0), ("right", 1, 1)
        early = (
            "Neighbours and network agree early on a class that is not the label: they look like "
            "another class, or the label is wrong."
        )
        late = "The network decides late, and wrongly: often truly ambiguous."
        if result.reference in ("label", "array"):
            against = AGAINST[result.reference]
            early = f"The network is wrong, though the neighbours vote for {against} early."
            late = f"The network is wrong, and the neighbours vote for {against} late."
        sheets = [
            Sheet("Easiest", "Right, and settled first.", (right, defined), (shallow,)),
            Sheet("Hardest", "Right, and settled last.", (right, defined), (deep,)),
            Sheet("Wrong and shallow", early, (wrong, defined), (shallow,)),
            Sheet("Wrong and deep", late, (wrong, defined), (deep,)),
        ]
    if rivals:
        sheets.append(
            Sheet(
                "Another class first",
                (
                    "Right in the end, but half of the probes or more vote for one other class: "
                    "odd examples and, in the support, wrong labels that were learned by heart."
                    if result.labels is not None
                    else "Half of the probes or more vote for one class that is not the "
                    "network's: odd examples, and such as look like that class."
                ),
                (("rival_votes", math.ceil(len(result.probes) / 2), len(result.probes)), defined)
                + ((("right", 1, 1),) if result.labels is not None else ()),
                (other, deep),
                ("rival", "votes for"),
            )
        )
    return [*sheets, undefined] if result.undefined.any() else sheets


def _by_depth(result: DepthResult) -> Table:
    """What the first three views draw, in numbers."""
    settled, complete = result.settled(), result.complete()
    labelled = result.labels is not None
    head = ["Probe", "Settle here"]
    if labelled:
        head += ["Network right", "95 % interval"]
        accuracy = result.probe_accuracy()
        right = np.bincount(
            result.depth[result.predictions == result.labels], minlength=len(settled)
        )
    head += ["Votes as the network", *(["Votes as the label"] if labelled else [])]
    rows = []
    for depth, name in enumerate([*result.probes, "undefined"]):
        is_probe = depth < len(result.probes)
        if not is_probe and not settled[depth]:
            continue
        row = [name, f"{settled[depth]:,}"]
        if labelled:
            if settled[depth]:
                low, high = wilson(right[depth], settled[depth])
                row += [
                    f"{100 * right[depth] / settled[depth]:.1f} %",
                    f"{100 * low:.0f} to {100 * high:.0f} %",
                ]
            else:
                row += ["", ""]
        known = is_probe and complete[depth]
        row.append(
            f"{100 * np.mean(result.votes[depth] == result.predictions):.1f} %" if known else ""
        )
        if labelled:
            row.append(f"{100 * accuracy[depth]:.1f} %" if known else "")
        rows.append(row)
    return Table("All examples, probe by probe", head, rows)


def _by_k(results: Mapping[int, DepthResult]) -> Table:
    rows = [
        [
            f"{of.k}",
            f"{of.mean_depth:.2f}",
            f"{100 * of.undefined:.1f} %",
            f"{of.rank_correlation:.3f}",
        ]
        for of in by_k(results)
    ]
    head = ("k", "Mean depth", "Undefined", f"Rank correlation with k = {max(results)}")
    return Table("Depth against the number of neighbours", head, rows)


def _about(result: DepthResult) -> dict[str, str]:
    own = {
        "Neighbours that vote": f"{result.k}",
        "Asked": "the support itself, each example left out of its own vote"
        if result.leave_one_out
        else "held-out examples",
        "Depth against": AGAINST[result.reference],
        "Probes": ", ".join(
            f"{name} ({width:,} wide)" if result.widths else name
            for name, width in zip(result.probes, result.widths or result.probes, strict=True)
        ),
    }
    kept = {name: text for name, text in result.meta.items() if text and name != "class_names"}
    return own | {heading(name): text for name, text in kept.items()}
