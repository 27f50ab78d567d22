"""Analyse one network: what depth goes with, confused classes, and where examples settle.

Each function takes a DepthResult, of `prediction_depth` or `depth_from_embeddings`, and arrays in
the order of its examples. Source of the questions: Baldock, Maennel, Neyshabur, "Deep Learning
Through the Lens of Example Difficulty", arXiv 2106.09647.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_examples, check_values, labels_and_votes
from pdepth.analysis.ranks import Correlation, spearman
from pdepth.optional import require
from pdepth.result import DepthResult

Float = NDArray[np.float64]
Int = NDArray[np.int64]
ACCURACY = "accuracy"


@dataclass(frozen=True, eq=False)
class AgainstDepth:
    """Measures of N examples against their depth.

    Attributes:
        depth: (L + 1,) int64, 0 .. L; L stands for undefined depths.
        probes: (L + 1,) names, the last "undefined".
        count: (L + 1,) int64, examples of each depth.
        mean: by measure, (L + 1,) float64; NaN where there is no example.
        trend: by measure, Spearman's correlation with depth over all N examples; undefined depths
            count as L.
    """

    depth: Int
    probes: tuple[str, ...]
    count: Int
    mean: dict[str, Float]
    trend: dict[str, Correlation]

    def to_pandas(self) -> Any:
        """A DataFrame, one depth per row: depth, probe, count and the mean of each measure.

        Needs the extra `tables`.
        """
        pandas = require("pandas", "AgainstDepth.to_pandas", "tables")
        return pandas.DataFrame(
            {"depth": self.depth, "probe": self.probes, "count": self.count, **self.mean}
        )


def against_depth(result: DepthResult, measures: Mapping[str, Any] | None = None) -> AgainstDepth:
    """Relate accuracy (where the result has labels) and other measures to depth.

    Args:
        measures: (N,) numbers by name. `pdepth.analysis.outputs.Outputs.measures()` gives
            confidence, entropy and margins; a `Training` gives the iteration learned.

    Raises:
        ValueError: a measure of another length or with NaN, or one named "accuracy" where the
            result has labels.
    """
    values_by_name: dict[str, NDArray[Any]] = {}
    if result.labels is not None:
        values_by_name[ACCURACY] = (result.predictions == result.labels).astype(np.float64)
    for name, values in (measures or {}).items():
        if name in values_by_name:
            raise ValueError(
                f"measures: expected names other than {name!r}, which the result's labels give."
            )
        values_by_name[name] = check_values(values, name, len(result))
    count = result.settled()
    mean = {}
    for name, values in values_by_name.items():
        sums = np.zeros(len(count))
        np.add.at(sums, result.depth, values)
        with np.errstate(invalid="ignore"):
            mean[name] = sums / count
    return AgainstDepth(
        np.arange(len(count)),
        (*result.probes, "undefined"),
        count,
        mean,
        {name: spearman(result.depth, values) for name, values in values_by_name.items()},
    )


@dataclass(frozen=True, eq=False)
class Agreement:
    """Shares of N examples at each of L probes.

    Attributes:
        probes: L names.
        network: (L,) float64, share of votes that are the network's class; NaN where not all votes
            are known.
        label: (L,) float64, share of votes that are the label (the probe's k-NN accuracy); NaN as
            above; None without labels.
        settled: (L,) float64, share of examples whose depth is this probe or an earlier one.
    """

    probes: tuple[str, ...]
    network: Float
    label: Float | None
    settled: Float

    def to_pandas(self) -> Any:
        """A DataFrame, one probe per row: probe, network, label (if there are labels), settled.

        Needs the extra `tables`.
        """
        pandas = require("pandas", "Agreement.to_pandas", "tables")
        label = {} if self.label is None else {"label": self.label}
        return pandas.DataFrame(
            {"probe": self.probes, "network": self.network, **label, "settled": self.settled}
        )


def agreement(result: DepthResult) -> Agreement:
    """How votes agree with the network and the label from probe to probe.

    Raises:
        ValueError: a result without examples.
    """
    check_examples(result)
    shares = (result.votes == result.predictions).mean(axis=1)
    return Agreement(
        result.probes,
        np.where(result.complete(), shares, np.nan),
        None if result.labels is None else result.probe_accuracy(),
        np.cumsum(result.settled()[:-1]) / len(result),
    )


@dataclass(frozen=True, eq=False)
class ConfusedPairs:
    """P pairs of classes; those that stay confused longest come first.

    Attributes:
        first, second: (P,) int64, the two classes, first < second.
        examples: (P,) int64, examples that have one of the two as their label.
        counts: (P, L) int64, examples of these whose vote at a probe is the other of the two.
        until: (P,) int64, the last probe where the pair is confused.
        probes: L names.
    """

    first: Int
    second: Int
    examples: Int
    counts: Int
    until: Int
    probes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.first)

    @property
    def share(self) -> Float:
        """(P, L) float64, counts / examples."""
        shares: Float = self.counts / self.examples[:, None]
        return shares

    def to_pandas(self) -> Any:
        """A DataFrame, one pair per row: first, second, examples, until (a name), `share_<probe>`.

        Needs the extra `tables`.
        """
        pandas = require("pandas", "ConfusedPairs.to_pandas", "tables")
        shares = {
            f"share_{probe}": column
            for probe, column in zip(self.probes, self.share.T, strict=True)
        }
        return pandas.DataFrame(
            {
                "first": self.first,
                "second": self.second,
                "examples": self.examples,
                "until": [self.probes[probe] for probe in self.until],
                **shares,
            }
        )


def confusion(result: DepthResult) -> tuple[Int, Int]:
    """Confusion matrices of all probes.

    Returns:
        Counts (L, C, C) int64 of examples by label (rows) and vote (columns), and the classes (C,)
        among labels and votes, ascending.

    Raises:
        ValueError: a result without labels, or with votes that early exit left unknown.
    """
    labels, votes = labels_and_votes(result, "confusion")
    classes, codes = np.unique(np.concatenate([labels, votes.ravel()]), return_inverse=True)
    label_codes, vote_codes = codes[: len(labels)], codes[len(labels) :].reshape(votes.shape)
    n = len(classes)
    counts = [np.bincount(label_codes * n + row, minlength=n * n) for row in vote_codes]
    return np.array(counts, np.int64).reshape(len(votes), n, n), classes


def confused_pairs(result: DepthResult, share: float = 0.05) -> ConfusedPairs:
    """Which pairs of classes are confused until which probe.

    A pair is confused at a probe where at least `share` of the examples of its two classes get the
    other class's vote. Pairs that are confused nowhere are left out. Pairs are ordered by the last
    probe where they are confused (the last first), then by all counts together (the most first),
    then by class.

    Raises:
        ValueError: as `confusion`; a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected a number above 0 and at most 1, got {share}.")
    counts, classes = confusion(result)
    a, b = np.triu_indices(len(classes), 1)
    exchanged = (counts + counts.transpose(0, 2, 1))[:, a, b].T
    class_sizes = counts[0].sum(axis=1)
    examples = class_sizes[a] + class_sizes[b]
    confused = (exchanged > 0) & (exchanged >= share * examples[:, None])
    until = np.where(confused, np.arange(exchanged.shape[1]), -1).max(axis=1)
    kept = np.flatnonzero(until >= 0)
    order = kept[np.lexsort((-exchanged[kept].sum(axis=1), -until[kept]))]
    return ConfusedPairs(
        first=classes[a[order]],
        second=classes[b[order]],
        examples=examples[order],
        counts=exchanged[order],
        until=until[order],
        probes=result.probes,
    )


def settling(result: DepthResult, by: Any = None) -> dict[str, Int]:
    """Rows of the examples that settle at each probe, by its name; "undefined" comes last.

    Args:
        by: (N,) numbers; the rows of a probe are in ascending order of these. None for row order.
    """
    rows = np.arange(len(result))
    if by is not None:
        rows = np.argsort(check_values(by, "by", len(result)), kind="stable")
    depth = result.depth[rows]
    names = (*result.probes, "undefined")
    return {name: rows[depth == probe] for probe, name in enumerate(names)}
