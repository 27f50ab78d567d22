"""Build the content of a page about one network's result."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.intervals import wilson_interval
from pdepth.analysis.label_errors import LabelIssues
from pdepth.analysis.network import against_depth
from pdepth.io.decisions import skipped_by_reason
from pdepth.io.map_file import KeptMap
from pdepth.report.decisions import run_of
from pdepth.report.html.content import (
    Column,
    Int,
    PageContent,
    Sheet,
    View,
    count_of,
    encode_classes,
    format_signed,
    heading,
    join_words,
)
from pdepth.report.html.embedding_map import PageMap
from pdepth.report.html.neighbors import PageNeighbors
from pdepth.report.label_issues import issues_of_kept
from pdepth.report.names import ClassNames, class_name
from pdepth.report.style import FEW
from pdepth.report.tables import Table, table_by_k
from pdepth.result import AGAINST, RELABELLED, SKIPPED, DepthResult

LEAD = (
    "A network turns its input into an answer layer by layer. An example's prediction depth is the "
    "first layer from which on its nearest neighbours among the support examples vote for "
    "{answer}: small for easy examples, large for those that the network needs all its layers for."
)
ANSWER = {
    "prediction": "the network's own answer",
    "label": "its label",
    "last_probe": "what they vote for at the last layer",
    "array": "the class it was compared with",
}
VOTE = "vote_{}"  # the column of a probe's votes
MARGIN = "margin_{}"  # and of how far the first class is before the second
REFERENCE = {  # a result's `reference`, as the class that votes are compared with
    "prediction": "the network's",
    "label": "the label",
    "last_probe": "their own",
    "array": "the one that it was compared with",
}
CORRECT = ("wrong", "right")
MAX_SCORED = 5_000_000  # examples x classes that labels are scored of on the way to a page


def result_content(
    result: DepthResult,
    names: ClassNames = None,
    measures: Mapping[str, NDArray[np.float64]] | None = None,
    by_k: Mapping[int, DepthResult] | None = None,
) -> PageContent:
    """Build a page's content.

    Args:
        result: with at least one example.
        names: of the classes.
        measures: (N,) numbers by name, further columns.
        by_k: results of the same examples with other k, for a table.

    Raises:
        ValueError: a measure with the name of another column.
    """
    n, layers = len(result), len(result.probes)
    labelled = result.labels is not None
    arrays = [result.predictions, result.votes[result.known]]
    arrays += [a for a in (result.labels, result.reference_values) if a is not None]
    kept = result.neighbors
    arrays += [] if kept is None else [kept.classes]
    classes = np.unique(np.concatenate([array.ravel() for array in arrays]))
    rivals = _find_rivals(result) if result.known.all() and layers else None
    issues = issues_of_kept(result) if n * len(classes) <= MAX_SCORED else None
    kind = "support" if result.leave_one_out else "held-out"
    probes = (*result.probes, "undefined")
    selects = {"prediction": "Network's class"}
    if labelled:
        selects = {"label": "Label", **selects, "right": "The network is"}
    return PageContent(
        title=f"Prediction depth of {n:,} {kind} examples",
        lead=LEAD.format(answer=ANSWER[result.reference]),
        tiles=_tiles(result),
        sentences=_sentences(result, names),
        count=n,
        columns=_columns(result, classes, rivals, issues, measures or {}),
        classes=classes,
        names=names,
        selects=selects,
        depth="depth",
        probes=probes if result.undefined.any() else result.probes,
        views=_views(result),
        sheets=[*_sheets(result, rivals is not None), *_issue_sheets(issues)],
        tables=[_table_by_depth(result), *([table_by_k(by_k)] if by_k and len(by_k) > 1 else [])],
        about=_about(result),
        image_class="label" if labelled else "prediction",
        facts={
            "layers": layers,
            "complete": np.flatnonzero(result.complete()).tolist(),
            "margin": _largest_margin(result),
            "threshold": None if issues is None else issues.threshold,
        },
        neighbors=None if kept is None else PageNeighbors(kept, result.leave_one_out),
        map=None if result.map is None else PageMap(result.map),
        run=run_of(result).to_json(),
    )


def _find_rivals(result: DepthResult) -> tuple[Int, Int]:
    """The class (N,) that most probes vote for besides the label, and how many probes do (N,).

    Without labels, besides the network's class. Of several classes, that of the earliest probe.
    """
    own = result.predictions if result.labels is None else result.labels
    votes = result.votes
    times = np.stack([np.where(row == own, 0, (votes == row).sum(axis=0)) for row in votes])
    best = times.argmax(axis=0)
    rows = np.arange(len(result))
    return votes[best, rows], times[best, rows]


def _columns(
    result: DepthResult,
    classes: Int,
    rivals: tuple[Int, Int] | None,
    issues: LabelIssues | None,
    measures: Mapping[str, NDArray[np.float64]],
) -> dict[str, Column]:
    columns = {"row": Column(result.row_numbers, "whole", "Row")}
    if result.labels is not None:
        columns["label"] = Column(encode_classes(result.labels, classes), "class", "Label")
    columns["prediction"] = Column(
        encode_classes(result.predictions, classes), "class", "Network's class"
    )
    if result.labels is not None:
        right = (result.predictions == result.labels).astype(np.int64)
        columns["right"] = Column(right, "choice", "Network", CORRECT)
    columns["depth"] = Column(result.depth, "whole", "Depth")
    columns["undefined"] = Column(result.undefined.astype(np.int64), "whole")
    if rivals is not None:
        other, times = rivals
        columns["rival"] = Column(
            encode_classes(other, classes, times == 0), "class", "Most other votes"
        )
        columns["rival_votes"] = Column(times, "whole", "Probes for it")
    if issues is not None:
        suggested = encode_classes(issues.suggested, classes)
        columns["suggested_label"] = Column(suggested, "class", "Best other label")
        columns["label_score"] = Column(issues.score, "number", "Label score")
    of_probes = _columns_by_probe(result, classes)
    for name, values in measures.items():
        if name in columns or name in of_probes or name == "reference":
            raise ValueError(
                f"measures: expected names that are no column of the page yet, got {name!r}."
            )
        columns[name] = Column(np.asarray(values, np.float64), "number", heading(name), digits=3)
    if result.reference_values is not None:
        columns["reference"] = Column(
            encode_classes(result.reference_values, classes), "class", "Compared with"
        )
    return columns | of_probes


def _columns_by_probe(result: DepthResult, classes: Int) -> dict[str, Column]:
    """Votes and margins of each probe; of neighbours that were kept also where early exit ended."""
    columns, kept = {}, result.neighbors
    votes, known, margins = result.votes, result.known, result.margins
    if kept is not None:
        votes, known = np.where(known, votes, kept.votes()), known | kept.searched
        margins = kept.margins()
    for probe, of_probe, there in zip(result.probes, votes, known, strict=True):
        columns[VOTE.format(probe)] = Column(encode_classes(of_probe, classes, ~there), "class")
    if margins is not None:
        kind = "number" if margins.dtype.kind == "f" else "whole"
        columns |= {
            MARGIN.format(probe): Column(of_probe, kind)
            for probe, of_probe in zip(result.probes, margins, strict=True)
        }
    return columns


def _largest_margin(result: DepthResult) -> float:
    """What the first class may be before the second; of weights, what it is at most."""
    margins = result.margins if result.neighbors is None else result.neighbors.margins()
    weighted = margins is not None and margins.dtype.kind == "f" and margins.any()
    return float(np.nanmax(margins)) if weighted and margins is not None else result.k


def _tiles(result: DepthResult) -> list[tuple[str, str]]:
    n, undefined = len(result), int(result.undefined.sum())
    tiles = [(f"{n:,}", "examples")]
    if result.labels is not None:
        right = int((result.predictions == result.labels).sum())
        tiles.append((f"{100 * right / n:.1f} %", f"right: {right:,} of {n:,}"))
    if undefined < n:
        mean = result.depth[~result.undefined].mean()
        subset = "" if not undefined else " of those that settle"
        tiles.append((f"{mean:.2f}", f"mean depth{subset}, of 0 to {len(result.probes) - 1}"))
    tiles.append((f"{100 * undefined / n:.1f} %", f"undefined: {undefined:,} of {n:,}"))
    return tiles


def _sentences(result: DepthResult, names: ClassNames) -> list[str]:
    n, settled = len(result), result.settled()
    sentences = []
    defined = int(settled[:-1].sum())
    if 2 * defined >= n:
        half = int(np.searchsorted(np.cumsum(settled), n / 2))
        sentences.append(
            f"Half of the examples have settled by {result.probes[half]}, probe {half} of "
            f"0 to {len(result.probes) - 1}: {int(settled[: half + 1].sum()):,} of {n:,}."
        )
    if settled[-1]:
        sentences.append(
            f"{count_of(int(settled[-1]), n)} never settle: even at the last probe the neighbours "
            f"vote for another class than {REFERENCE[result.reference]}. Their depth is called "
            "undefined, and counts as deeper than any other."
        )
    if result.labels is not None:
        sentences += _accuracy_sentences(result)
        sentences += _class_sentences(result, result.labels, names)
    if result.labels is not None and result.reference == "prediction":
        half = _half(result)
        wrong = (result.predictions != result.labels) & ~result.undefined
        early = int((wrong & (result.depth <= half)).sum())
        if early:
            sentences.append(
                f"On {count_of(early, n)}, neighbours and network agree by probe {half} at the "
                "latest on a class that is not the label: these look like another class, or their "
                "label is wrong."
            )
    if not result.known.all():
        sentences.append(
            "Early exit left votes unknown that no depth depends on: what needs every vote is left "
            "out here; pdepth run --all-votes computes them all."
        )
    return sentences


def _accuracy_sentences(result: DepthResult) -> list[str]:
    right, depth = result.predictions == result.labels, result.depth
    trend = against_depth(result).trend["accuracy"]
    low, high = map(int, np.quantile(depth, (0.25, 0.75), method="inverted_cdf"))
    if not np.isfinite(trend.statistic) or low == high:
        return []
    finding = "Whether the network is right does not clearly go with depth"
    if trend.p_value < 0.05:
        less = "less" if trend.statistic < 0 else "more"
        finding = f"The deeper an example, the {less} often the network is right"
    ends = [
        f"{100 * right[subset].mean():.1f} % of the {int(subset.sum()):,} of depth {words}"
        for subset, words in (
            (depth <= low, "0" if low == 0 else f"0 to {low}"),
            (depth >= high, f"{high} and more"),
        )
    ]
    return [
        f"{finding}: on {join_words(ends)} (rank correlation {format_signed(trend.statistic)})."
    ]


def _class_sentences(result: DepthResult, labels: Int, names: ClassNames) -> list[str]:
    classes, codes = np.unique(labels, return_inverse=True)
    settled = ~result.undefined
    counts = np.bincount(codes[settled], minlength=len(classes))
    sums = np.bincount(codes[settled], result.depth[settled], len(classes))
    mean = sums / np.maximum(counts, 1)
    frequent = np.flatnonzero(counts >= FEW)
    if len(frequent) < 3:
        return []
    order = frequent[np.argsort(mean[frequent], kind="stable")]

    def describe(chosen: Int) -> str:
        return join_words([f"{class_name(int(classes[c]), names)} ({mean[c]:.2f})" for c in chosen])

    count = 1 if len(order) < 6 else 3
    return [
        "Of all classes, the mean depth of what settles is least for "
        f"{describe(order[:count])}, and greatest for {describe(order[::-1][:count])}."
    ]


def _views(result: DepthResult) -> list[View]:
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
            "scatter",
            "Every example",
            "A dot is an example: how far right it lies is its depth. Point at one to see it; "
            "click to see the votes of all its probes.",
        )
    )
    return views if result.map is None else [*views, _map_view(result.map)]


def _map_view(kept: KeptMap) -> View:
    made = {
        "pca": "the two leading principal components of its support",
        "umap": "UMAP of its exact nearest neighbours",
    }
    return View(
        "map",
        "Map of the embeddings",
        f"A dot is an example, where it lies at a probe: {made[kept.method]}. The slider goes from "
        "probe to probe, and keeps the set. Draw around dots to make them the set, with Shift to "
        "add, with Alt to take away. With Ctrl, or after a click, the wheel zooms.",
    )


def _half(result: DepthResult) -> int:
    """Up to which depth an example is shallow."""
    return (len(result.probes) - 1) // 2


def _sheets(result: DepthResult, has_rivals: bool) -> list[Sheet]:
    defined = ("undefined", 0, 0)
    shallow, deep, other = ("depth", 1), ("depth", -1), ("rival_votes", -1)
    reference = REFERENCE[result.reference]
    hint = f"Even at the last probe the neighbours vote for another class than {reference}."
    by = (other,) if has_rivals else (shallow,)  # all equally deep
    undefined = Sheet("Undefined", hint, (("undefined", 1, 1),), by)
    if result.labels is None:
        sheets = [
            Sheet("Easiest", "The shallowest.", (defined,), (shallow,)),
            Sheet("Hardest", "The deepest that settle.", (defined,), (deep,)),
        ]
    else:
        wrong, right, half = ("right", 0, 0), ("right", 1, 1), _half(result)
        first, second = ("depth", 0, half), ("depth", half + 1, len(result.probes))
        until, after = f"by probe {half} at the latest", f"after probe {half}"
        early = (
            f"Neighbours and network agree {until} on a class that is not the label: they look "
            "like another class, or the label is wrong."
        )
        late = f"The network decides {after}, and wrongly: often truly ambiguous."
        if result.reference in ("label", "array"):
            against = AGAINST[result.reference]
            early = f"The network is wrong, though the neighbours vote for {against} {until}."
            late = f"The network is wrong, and the neighbours vote for {against} {after} only."
        sheets = [
            Sheet("Easiest", "Right, and settled first.", (right, defined), (shallow,)),
            Sheet("Hardest", "Right, and settled last.", (right, defined), (deep,)),
            Sheet("Wrong and shallow", early, (wrong, defined, first), (shallow,)),
            Sheet("Wrong and deep", late, (wrong, defined, second), (deep,)),
        ]
    if has_rivals:
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


def _issue_sheets(issues: LabelIssues | None) -> list[Sheet]:
    """Labels that another one fits at least as well as."""
    if issues is None or not issues.is_issue.any():
        return []
    return [
        Sheet(
            "Likely label errors",
            "Labels that the votes of all probes are against, the clearest first.",
            (("label_score", issues.threshold, float(issues.score.max())),),
            (("label_score", -1),),
            ("suggested_label", "suggested:"),
        )
    ]


def _table_by_depth(result: DepthResult) -> Table:
    """The numbers that the first three views draw."""
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
            row += _share_with_interval(int(right[depth]), int(settled[depth]))
        known = is_probe and complete[depth]
        row.append(
            f"{100 * np.mean(result.votes[depth] == result.predictions):.1f} %" if known else ""
        )
        if labelled:
            row.append(f"{100 * accuracy[depth]:.1f} %" if known else "")
        rows.append(row)
    return Table("All examples, probe by probe", head, rows)


def _share_with_interval(count: int, total: int) -> list[str]:
    """A share and its 95 % interval as text; empty for a total of 0."""
    if not total:
        return ["", ""]
    low, high = wilson_interval(count, total)
    return [f"{100 * count / total:.1f} %", f"{100 * low:.0f} to {100 * high:.0f} %"]


def _about(result: DepthResult) -> dict[str, str]:
    about = {
        "Neighbours that vote": f"{result.k}",
        "Queries": "the support itself, each example left out of its own vote"
        if result.leave_one_out
        else "held-out examples",
        "Depth against": AGAINST[result.reference],
        "Probes": ", ".join(
            f"{name} ({width:,} wide)" if result.widths else name
            for name, width in zip(result.probes, result.widths or result.probes, strict=True)
        ),
    }
    about |= {
        f"Rows of {name} that {why}": f"{count:,}, which were skipped"
        for name, reasons in result.skipped.items()
        for why, count in skipped_by_reason(reasons).items()
    }
    about |= {
        f"Rows of {name} with a decided label": f"{len(rows):,}"
        for name, rows in result.relabelled.items()
    }
    kept = {
        name: text
        for name, text in result.meta.items()
        if text
        and name not in ("class_names", "record")
        and not name.startswith((SKIPPED, RELABELLED))
    }
    return about | {heading(name): text for name, text in kept.items()}
