"""One network: what depth goes with, which classes its probes confuse, and what settles where.

Each function takes a DepthResult, pdepth's own or one that `depth_from_embeddings` gives, and
arrays in the order of its examples. Source of the questions: Baldock, Maennel, Neyshabur, "Deep
Learning Through the Lens of Example Difficulty", arXiv 2106.09647.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ranks import Correlation, numbers, spearman
from pdepth.arrays.convert import to_numpy
from pdepth.optional import require
from pdepth.result import DepthResult

Float = NDArray[np.float64]
Int = NDArray[np.int64]
ACCURACY = "accuracy"


@dataclass(frozen=True, eq=False)
class AgainstDepth:
    """Measures of N examples against their depth.

    Attributes:
        depth: (L + 1,) int64, 0 .. L; L stands for the undefined.
        probes: (L + 1,) names, the last "undefined".
        count: (L + 1,) int64, examples of each depth.
        mean: by measure, (L + 1,) float64; nan where there is no example.
        trend: by measure, Spearman's correlation with depth over all N, the undefined as depth L.
    """

    depth: Int
    probes: tuple[str, ...]
    count: Int
    mean: dict[str, Float]
    trend: dict[str, Correlation]

    def to_pandas(self) -> Any:
        """One row a depth: depth, probe, count and the mean of each measure. Extra `tables`."""
        pandas = require("pandas", "AgainstDepth.to_pandas", "tables")
        return pandas.DataFrame(
            {"depth": self.depth, "probe": self.probes, "count": self.count, **self.mean}
        )


def against_depth(result: DepthResult, measures: Mapping[str, Any] | None = None) -> AgainstDepth:
    """Depth against accuracy, where the result has labels, and against measures (N,) by name.

    `pdepth.analysis.outputs.Outputs.measures()` gives confidence, entropy and margins; a
    `Training` the iteration learned. Raises ValueError for a measure of another length or with
    nan, and for one called "accuracy" beside labels.
    """
    given: dict[str, NDArray[Any]] = {}
    if result.labels is not None:
        given[ACCURACY] = (result.predictions == result.labels).astype(np.float64)
    for name, values in (measures or {}).items():
        if name in given:
            raise ValueError(f"measures has {name!r}, which the result's labels give already.")
        given[name] = of_examples(values, name, len(result))
    count = result.settled()
    mean = {}
    for name, values in given.items():
        sums = np.zeros(len(count))
        np.add.at(sums, result.depth, values)
        with np.errstate(invalid="ignore"):
            mean[name] = sums / count
    return AgainstDepth(
        np.arange(len(count)),
        (*result.probes, "undefined"),
        count,
        mean,
        {name: spearman(result.depth, values) for name, values in given.items()},
    )


@dataclass(frozen=True, eq=False)
class Agreement:
    """Shares of N examples at each of L probes.

    Attributes:
        probes: L names.
        network: (L,) float64, votes that are the network's class; nan where not all are known.
        label: (L,) float64, votes that are the label, which is the probe's k-NN accuracy; nan
            likewise; None without labels.
        settled: (L,) float64, examples whose depth is this probe or an earlier one.
    """

    probes: tuple[str, ...]
    network: Float
    label: Float | None
    settled: Float

    def to_pandas(self) -> Any:
        """One row a probe: probe, network, label (if there), settled. Extra `tables`."""
        pandas = require("pandas", "Agreement.to_pandas", "tables")
        label = {} if self.label is None else {"label": self.label}
        return pandas.DataFrame(
            {"probe": self.probes, "network": self.network, **label, "settled": self.settled}
        )


def agreement(result: DepthResult) -> Agreement:
    """How agreement grows from probe to probe. Raises ValueError for a result of no examples."""
    if not len(result):
        raise ValueError("result holds no examples; at least one is wanted.")
    shares = (result.votes == result.predictions).mean(axis=1)
    return Agreement(
        result.probes,
        np.where(result.complete(), shares, np.nan),
        None if result.labels is None else result.probe_accuracy(),
        np.cumsum(result.settled()[:-1]) / len(result),
    )


@dataclass(frozen=True, eq=False)
class ConfusedPairs:
    """P pairs of classes, those that stay confused longest first.

    Attributes:
        first, second: (P,) int64, the two classes, first < second.
        examples: (P,) int64, how many have one or the other as their label.
        counts: (P, L) int64, how many of these a probe's vote takes for the other of the two.
        until: (P,) int64, the last probe where that is at least the asked share of the examples.
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
        found: Float = self.counts / self.examples[:, None]
        return found

    def to_pandas(self) -> Any:
        """One row a pair: first, second, examples, until (a probe's name), and `share_<probe>`.

        Needs the extra `tables`.
        """
        pandas = require("pandas", "ConfusedPairs.to_pandas", "tables")
        shares = {f"share_{name}": of for name, of in zip(self.probes, self.share.T, strict=True)}
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
    """(L, C, C) int64, how many examples of a label (rows) got a vote (columns), and classes (C,).

    The classes are those among labels and votes, ascending. Raises ValueError for a result without
    labels, and where early exit left votes unknown.
    """
    labels, votes = whole(result, "confusion")
    classes, codes = np.unique(np.concatenate([labels, votes.ravel()]), return_inverse=True)
    own, cast = codes[: len(labels)], codes[len(labels) :].reshape(votes.shape)
    many = len(classes)
    counts = [np.bincount(own * many + each, minlength=many * many) for each in cast]
    return np.array(counts, np.int64).reshape(len(votes), many, many), classes


def confused_pairs(result: DepthResult, share: float = 0.05) -> ConfusedPairs:
    """Which pairs of classes are confused until which probe.

    A pair is confused at a probe where at least `share` of the examples of its two classes get the
    other's vote; those that are nowhere are left out. In order of the last such probe, the last
    first, then of all counts together, the most first, then of the classes. Raises ValueError as
    `confusion`, and for a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; more than 0 and at most 1 is wanted.")
    counts, classes = confusion(result)
    a, b = np.triu_indices(len(classes), 1)
    both = (counts + counts.transpose(0, 2, 1))[:, a, b].T
    of = counts[0].sum(axis=1)
    examples = of[a] + of[b]
    confused = (both > 0) & (both >= share * examples[:, None])
    until = np.where(confused, np.arange(both.shape[1]), -1).max(axis=1)
    kept = np.flatnonzero(until >= 0)
    order = kept[np.lexsort((-both[kept].sum(axis=1), -until[kept]))]
    return ConfusedPairs(
        classes[a[order]], classes[b[order]], examples[order], both[order], until[order],
        result.probes,
    )  # fmt: skip


def settling(result: DepthResult, by: Any = None) -> dict[str, Int]:
    """The examples (rows, int64) that settle at each probe, by its name; "undefined" comes last.

    by: (N,) numbers in whose order, ascending, the examples of a probe come; None for row order.
    """
    rows = np.arange(len(result))
    if by is not None:
        rows = np.argsort(of_examples(by, "by", len(result)), kind="stable")
    depth = result.depth[rows]
    names = (*result.probes, "undefined")
    return {name: rows[depth == probe] for probe, name in enumerate(names)}


def whole(result: DepthResult, what: str) -> tuple[Int, Int]:
    """Labels and votes of a result that has all of them."""
    if result.labels is None:
        raise ValueError(f"{what} needs labels, and this DepthResult has none.")
    if not result.known.all():
        raise ValueError(f"{what} needs every vote, and early exit left some: early_exit=False.")
    return result.labels, result.votes


def of_examples(values: Any, name: str, count: int) -> NDArray[Any]:
    """(count,) numbers, one an example."""
    found = np.asarray(to_numpy(values))
    if found.shape != (count,):
        raise ValueError(f"{name} has shape {found.shape}; ({count},) is wanted.")
    if np.isnan(numbers(found, name)).any():
        raise ValueError(f"{name} has nan in row {int(np.isnan(found).argmax())}.")
    return found
