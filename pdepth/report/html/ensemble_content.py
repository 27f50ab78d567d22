"""Build the content of a page about an ensemble of networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.groups import CORNERS, Groups, groups_or_reason
from pdepth.analysis.ranks import correlate
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
)
from pdepth.report.names import ClassNames
from pdepth.report.tables import Table

LEAD = (
    "A network turns its input into an answer layer by layer. An example's prediction depth is the "
    "first layer from which on its nearest neighbours among the support examples vote for the "
    "network's own answer. It is measured here under many networks, and twice: where the example "
    "was in the support that the network was trained on, and where it was held out."
)
MEANING = {
    "easy": "Shallow both ways: every layer's neighbours agree.",
    "like_another": "Shallow held out, deep where its label is given: it is quickly taken for "
    "another class, or its label is wrong.",
    "needs_label": "Deep held out, shallow where its label is given: the label fits once it is "
    "known.",
    "ambiguous": "Deep both ways: hard even with its label.",
}
NO_GROUP, UNKNOWN = "between the corners", "never held out, or always"
RIGHT = ("another class", "the label", "never held out")
CONSISTENT = 0.9  # the consistency from which on networks count as agreeing


def ensemble_content(ensemble: Ensemble, names: ClassNames = None) -> PageContent:
    """Build a page's content, for an ensemble of at least two networks."""
    groups, _ = groups_or_reason(ensemble)
    examples = {name: values for name, (values, _) in ensemble.examples().items()}
    n, never = len(ensemble.labels), examples["held_out_networks"] == 0
    right = np.where(never, 2, (examples["consensus"] == ensemble.labels).astype(np.int64))
    selects = {"label": "Label", "consensus": "Consensus", "right": "The consensus is"}
    if groups is not None:
        selects["group"] = "Group"
    return PageContent(
        title=f"Prediction depth of {n:,} examples under {len(ensemble)} networks",
        lead=LEAD,
        tiles=_tiles(examples, ensemble, right),
        sentences=_sentences(examples, right, groups, n),
        count=n,
        columns=_columns(ensemble, examples, never, right, groups),
        classes=ensemble.classes,
        names=names,
        selects=selects,
        depth="held_out_depth",
        probes=(),
        views=_views(groups is not None),
        sheets=_sheets(groups is not None, len(ensemble)),
        tables=[] if groups is None else [_table_by_group(groups, examples, right)],
        about=_about(ensemble),
        image_class="label",
        facts={
            "layers": ensemble.layers,
            "limits": None if groups is None else groups.limits,
        },
    )


def _columns(
    ensemble: Ensemble,
    examples: dict[str, NDArray[np.generic]],
    never: NDArray[np.bool_],
    right: Int,
    groups: Groups | None,
) -> dict[str, Column]:
    classes, ids = ensemble.classes, ensemble.ids
    columns = {
        "id": Column(ids, "text" if ids.dtype.kind == "U" else "whole", "Id"),
        "label": Column(encode_classes(ensemble.labels, classes), "class", "Label"),
        "consensus": Column(
            encode_classes(examples["consensus"], classes, never), "class", "Consensus"
        ),
        "right": Column(right, "choice", "Consensus is", RIGHT),
    }
    if groups is not None:
        unknown = np.isnan(groups.depths).any(axis=0)
        codes = np.where(unknown, len(CORNERS) + 1, len(CORNERS))
        outward = np.zeros(len(ids))
        for code, rows in enumerate(groups.corners.values()):
            codes[rows], outward[rows] = code, -np.arange(len(rows))
        columns["outward"] = Column(outward, "order")
        columns["group"] = Column(codes, "choice", "Group", (*CORNERS.values(), NO_GROUP, UNKNOWN))
    for name, title, kind in (
        ("held_out_depth", "Depth held out", "number"),
        ("support_depth", "Depth in support", "number"),
        ("consistency", "Consistency", "number"),
        ("entropy", "Entropy, nats", "number"),
        ("held_out_accuracy", "Accuracy held out", "number"),
        ("support_accuracy", "Accuracy in support", "number"),
        ("held_out_networks", "Networks held out", "whole"),
        ("support_networks", "Networks in support", "whole"),
        ("held_out_undefined", "", "whole"),
        ("support_undefined", "", "whole"),
    ):
        columns[name] = Column(np.asarray(examples[name]), kind, title)
    return columns


def _tiles(
    examples: dict[str, NDArray[np.float64]], ensemble: Ensemble, right: Int
) -> list[tuple[str, str]]:
    known, layers = int((right < 2).sum()), ensemble.layers
    tiles = [
        (f"{len(ensemble.labels):,}", "examples"),
        (f"{len(ensemble):,}", "networks"),
        (_format_mean(examples["support_depth"]), f"mean depth in the support, of 0 to {layers}"),
        (_format_mean(examples["held_out_depth"]), f"mean depth held out, of 0 to {layers}"),
    ]
    if known:
        agree = int((right == 1).sum())
        tiles.append(
            (
                f"{100 * agree / known:.1f} %",
                f"have their label as consensus: {agree:,} of {known:,}",
            )
        )
    return tiles


def _format_mean(values: NDArray[np.float64]) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.2f}" if len(known) else "unknown"


def _sentences(
    examples: dict[str, NDArray[np.float64]], right: Int, groups: Groups | None, n: int
) -> list[str]:
    sentences = []
    if never := int((right == 2).sum()):
        sentences.append(
            f"{count_of(never, n)} were never held out: what needs that is missing for "
            "them, and not counted as 0."
        )
    networks = examples["held_out_networks"]
    if once := int((networks == 1).sum()):
        sentences.append(
            f"{count_of(once, n)} were held out from one network only: whether networks agree is "
            "not known of them."
        )
    if (networks > 1).any():
        sentences += _agreement_sentences(examples, right, networks > 1)
    if groups is None:
        sentences.append(
            "There are no groups: the depths are too alike to separate shallow from deep."
        )
    else:
        sizes = "; ".join(
            f"{CORNERS[name].lower()} {len(rows):,}" for name, rows in groups.corners.items()
        )
        (support_low, support_high), (held_out_low, held_out_high) = groups.limits
        sentences.append(
            f"Groups are corners of both depths: {sizes}. In the support an example is shallow up "
            f"to {support_low:.2f} and deep from {support_high:.2f}, held out up to "
            f"{held_out_low:.2f} and from {held_out_high:.2f}."
        )
    return sentences


def _agreement_sentences(
    examples: dict[str, NDArray[np.float64]], right: Int, several: NDArray[np.bool_]
) -> list[str]:
    """Sentences about the examples (N,) bool that were held out from several networks."""
    total = int(several.sum())
    consistent = several & (examples["consistency"] >= CONSISTENT)
    doubtful = int((consistent & (right == 0)).sum())
    sentences = [
        f"On {count_of(int(consistent.sum()), total)}, at least {100 * CONSISTENT:.0f} % of the "
        "networks that an example is held out from give the same class, the consensus.",
        f"On {count_of(doubtful, total)}, they agree so on a class that is not the label: these "
        "look like another class, or their label is wrong.",
    ]
    trend = correlate(
        examples["held_out_depth"][several], examples["consistency"][several]
    ).statistic
    if np.isfinite(trend):
        sentences.append(
            "Depth held out and the consistency of the networks have a rank correlation of "
            f"{format_signed(trend)}: {_describe_trend(trend)}."
        )
    return sentences


def _describe_trend(trend: float) -> str:
    if abs(trend) < 0.1:
        return "the two are hardly related"
    return f"the deeper an example, the {'fewer' if trend < 0 else 'more'} networks agree on it"


def _views(has_groups: bool) -> list[View]:
    corners = " Dashed lines bound the corners, which are the groups." if has_groups else ""
    return [
        View(
            "plane",
            "Both depths of every example",
            "A dot is an example: to the right, deep where its label was given; to the top, deep "
            f"where it was held out.{corners} Point at one to see it.",
        ),
        View(
            "spread",
            "How deep examples are",
            "How many examples have which mean depth, in the support and held out. Where the lines "
            "part, it matters that the label is known.",
        ),
        View(
            "consistency",
            "Agreement of the networks by depth",
            "Of examples that are about as deep held out: the share of networks that give the "
            "consensus, and of those that give the label, on average.",
        ),
    ]


def _sheets(has_groups: bool, networks: int) -> list[Sheet]:
    several = "held_out_networks", 2, networks  # one alone agrees with itself
    sheets = [
        Sheet(
            CORNERS[name],
            MEANING[name],
            (("group", code, code),),
            (("outward", -1),),
            ("support_depth", "in support"),
        )
        for code, name in enumerate(CORNERS)
        if has_groups
    ]
    return [
        *sheets,
        Sheet(
            "Agreed on another class",
            "Networks that never saw the example agree on a class that is not the label: it looks "
            "like that class, or its label is wrong.",
            (("right", 0, 0), several),
            (("consistency", -1), ("held_out_networks", -1)),
        ),
        Sheet(
            "Most disputed",
            "Networks that never saw the example give the most different answers.",
            (("right", 0, 1), several),
            (("entropy", -1),),
        ),
    ]


def _table_by_group(groups: Groups, examples: dict[str, NDArray[np.float64]], right: Int) -> Table:
    table_rows = [
        [
            CORNERS[name],
            f"{len(rows):,}",
            _format_mean(examples["support_depth"][rows]),
            _format_mean(examples["held_out_depth"][rows]),
            _format_mean(examples["consistency"][rows]),
            f"{100 * np.mean(right[rows] == 1):.1f} %" if len(rows) else "",
        ]
        for name, rows in groups.corners.items()
    ]
    head = (
        "Group",
        "Examples",
        "Depth in support",
        "Depth held out",
        "Consistency",
        "Consensus is the label",
    )
    return Table("All examples, group by group", head, table_rows)


def _about(ensemble: Ensemble) -> dict[str, str]:
    kept = {name: text for name, text in ensemble.meta.items() if text}
    return {
        "Networks": f"{len(ensemble):,}",
        "Probes": f"{ensemble.layers}",
        **{heading(name): text for name, text in kept.items()},
    }
