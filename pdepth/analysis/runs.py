"""Compare runs: the depths of the same examples under two networks, checkpoints, k or poolings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_examples
from pdepth.analysis.compare import Interval
from pdepth.analysis.ranks import spearman
from pdepth.io import tables
from pdepth.result import DepthResult

__all__ = ["ClassChange", "Interval", "RunComparison", "compare"]

Results = DepthResult | Sequence[DepthResult]
Z = 1.959963984540054  # quantile of the standard normal distribution, of 95 % intervals
RESAMPLES = 2_000
SIDES = "first", "second"


@dataclass(frozen=True)
class ClassChange:
    """How the examples of one class differ between two sides.

    Attributes:
        label: the class. examples: how many it has.
        first, second: mean depth, as a share of the probes, of each side.
        difference: of `second` from `first`, with its interval.
        deeper, shallower: shares of the examples that are so on the second side.
    """

    label: int
    examples: int
    first: float
    second: float
    difference: Interval
    deeper: float
    shallower: float


@dataclass(frozen=True, eq=False)
class RunComparison:
    """The depths of N examples on two sides, each one run or several, such as seeds.

    Depths are shares of the probes, 0 to 1, so that networks of different sizes compare; an
    undefined depth is 1. Of several runs of a side it is their mean.

    Attributes:
        first, second: the results of each side.
        names: of the sides.
        depths: (2, N) float64.
        undefined: (2, N) bool, in more than half of a side's runs.
        difference: mean of second less first, with the 95 % interval of a bootstrap over examples.
        rank_correlation: Spearman's, of both sides' depths, with the 95 % interval of Bonett and
            Wright (Psychometrika 65, 2000); NaN where one side's depths are all equal.
        transitions: (2, 2) int64, examples that are defined (0) or undefined (1), by side.
        by_class: of all classes, ascending; empty without labels.
        notes: sentences on what differs beside the networks, and on what is not known.
    """

    first: tuple[DepthResult, ...]
    second: tuple[DepthResult, ...]
    names: tuple[str, str]
    depths: NDArray[np.float64]
    undefined: NDArray[np.bool_]
    difference: Interval
    rank_correlation: Interval
    transitions: NDArray[np.int64]
    by_class: tuple[ClassChange, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.depths[0])

    @property
    def sides(self) -> tuple[tuple[DepthResult, ...], tuple[DepthResult, ...]]:
        """The results of both."""
        return self.first, self.second

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,) the examples' own classes, or None."""
        return self.first[0].labels

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) the examples' row numbers in their data."""
        return self.first[0].row_numbers

    @property
    def change(self) -> NDArray[np.float64]:
        """(N,) depth on the second side less that on the first."""
        change: NDArray[np.float64] = self.depths[1] - self.depths[0]
        return change

    @property
    def deeper(self) -> int:
        """Examples that are deeper on the second side."""
        return int((self.change > 0).sum())

    @property
    def shallower(self) -> int:
        """Examples that are shallower on the second side."""
        return int((self.change < 0).sum())

    def largest(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Examples, by their places: those that became deeper by most, and shallower by most.

        At most `count` of each; of equal changes the earlier examples.
        """
        order = np.argsort(-self.change, kind="stable")
        deeper = order[self.change[order] > 0][:count]
        order = np.argsort(self.change, kind="stable")
        return deeper, order[self.change[order] < 0][:count]

    def accuracies(self, side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Where the probes of a side are, 0 for the first to 1 for the last, and how many of each
        one's votes are the label, a share (L,), NaN where not every vote is known. The mean over
        runs; None without labels, or where the runs of a side have different numbers of probes.
        """
        results = self.sides[side]
        probes = len(results[0].probes)
        if self.labels is None or any(len(result.probes) != probes for result in results):
            return None
        shares = np.mean([result.probe_accuracy() for result in results], axis=0)
        return np.linspace(0, 1, probes) if probes > 1 else np.ones(1), shares

    def known_accuracies(self, side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """`accuracies` of the probes of which it is known; None where these are fewer than two."""
        found = self.accuracies(side)
        if found is None:
            return None
        known = ~np.isnan(found[1])
        return (found[0][known], found[1][known]) if known.sum() > 1 else None

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a line for each example. Needs the extra `tables`."""
        columns: dict[str, tuple[NDArray[Any], None]] = {"row": (self.rows, None)}
        if self.labels is not None:
            columns["label"] = self.labels, None
        for number, (side, results) in enumerate(zip(SIDES, self.sides, strict=True)):
            if len(results) == 1:
                columns[f"prediction_{side}"] = results[0].predictions, None
            columns[f"depth_{side}"] = self.depths[number], None
            columns[f"undefined_{side}"] = self.undefined[number], None
        columns["difference"] = self.change, None
        return tables.frame(columns, "RunComparison.to_pandas")


def compare(
    first: Results,
    second: Results,
    *,
    names: tuple[str, str] = ("first", "second"),
    other_inputs: bool = False,
    seed: int = 0,
) -> RunComparison:
    """Compare the depths of the same examples on two sides.

    Args:
        first, second: a result, or several, such as those of several seeds, whose depths are
            averaged. Numbers of probes may differ.
        names: of the sides.
        other_inputs: the same examples are prepared differently, as for networks of other image
            sizes: rows and labels are compared, and the inputs' checksums are not.
        seed: of the bootstrap.

    Raises:
        ValueError: no results or examples; results of other data: of other rows, labels or inputs,
            with the first row that differs.
        TypeError: an argument is no DepthResult.
    """
    sides = tuple(_results(side, name) for side, name in zip((first, second), SIDES, strict=True))
    everything = [*sides[0], *sides[1]]
    for result in everything[1:]:
        _check_same(everything[0], result, other_inputs)
    depths = np.stack([np.mean([r.normalised() for r in side], axis=0) for side in sides])
    undefined = np.stack([np.mean([r.undefined for r in side], axis=0) > 0.5 for side in sides])
    transitions = np.zeros((2, 2), np.int64)
    np.add.at(transitions, (undefined[0].astype(int), undefined[1].astype(int)), 1)
    rng = np.random.default_rng(seed)
    labels = everything[0].labels
    classes = [] if labels is None else [(int(c), labels == c) for c in np.unique(labels)]
    comparison = RunComparison(
        first=sides[0],
        second=sides[1],
        names=names,
        depths=depths,
        undefined=undefined,
        difference=_mean_interval(depths[1] - depths[0], rng),
        rank_correlation=_correlation(depths),
        transitions=transitions,
        by_class=tuple(_of_class(label, depths[:, members], rng) for label, members in classes),
        notes=tuple(_notes(everything)),
    )
    return replace(comparison, notes=(*comparison.notes, *_unknown_accuracies(comparison)))


def _results(side: Results, name: str) -> tuple[DepthResult, ...]:
    results = (side,) if isinstance(side, DepthResult) else tuple(side)
    if not results:
        raise ValueError(f"{name}: expected at least one result, got none.")
    for result in results:
        if not isinstance(result, DepthResult):
            raise TypeError(
                f"{name}: expected a DepthResult or a sequence of them, got "
                f"{type(result).__name__}."
            )
        check_examples(result)
    return results


def _check_same(one: DepthResult, other: DepthResult, other_inputs: bool) -> None:
    """Raise ValueError, with the first row that differs, where results are of other examples."""
    if len(one) != len(other):
        raise ValueError(
            f"results: expected runs of the same examples, got {len(one):,} and {len(other):,}."
        )
    if (one.labels is None) != (other.labels is None):
        raise ValueError("results: expected labels in all runs or none, got some with and without.")
    kinds: list[tuple[str, NDArray[Any] | None, NDArray[Any] | None]] = [
        ("row number", one.row_numbers, other.row_numbers),
        ("label", one.labels, other.labels),
    ]
    if not other_inputs and one.checksums is not None and other.checksums is not None:
        kinds.append(("input", one.checksums, other.checksums))
    for what, a, b in kinds:
        if a is None or b is None or np.array_equal(a, b):
            continue
        at = int(np.flatnonzero(a != b)[0])
        advice = "."
        if what == "input":
            advice = (
                "; where the same rows are only prepared otherwise, as for another image size, "
                "pass other_inputs=True (--other-inputs)."
            )
        elif what == "label" and one.relabelled != other.relabelled:
            advice = ", which decisions have changed; compare runs under the same --decisions."
        raise ValueError(
            f"results: expected runs of the same examples, got another {what} first at row "
            f"{int(one.row_numbers[at])}{advice}"
        )


def _mean_interval(values: NDArray[np.float64], rng: np.random.Generator) -> Interval:
    """The mean of values (n,), with percentiles of a bootstrap.

    Equal values are drawn together, which gives the same distribution as one by one.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(len(values), counts / len(values), RESAMPLES)
    low, high = np.percentile(drawn @ distinct / len(values), (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high))


def _correlation(depths: NDArray[np.float64]) -> Interval:
    """Spearman's correlation of both sides' depths (2, n)."""
    found = spearman(*depths)
    r, n = found.statistic, found.n
    if math.isnan(r) or n < 4 or abs(r) == 1:
        return Interval(r, r, r) if abs(r) == 1 else Interval(r, math.nan, math.nan)
    half = Z * math.sqrt((1 + r * r / 2) / (n - 3))
    return Interval(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))


def _of_class(label: int, depths: NDArray[np.float64], rng: np.random.Generator) -> ClassChange:
    """depths: (2, n) of its examples."""
    change = depths[1] - depths[0]
    return ClassChange(
        label=label,
        examples=len(change),
        first=float(depths[0].mean()),
        second=float(depths[1].mean()),
        difference=_mean_interval(change, rng),
        deeper=float((change > 0).mean()),
        shallower=float((change < 0).mean()),
    )


def _notes(results: Sequence[DepthResult]) -> list[str]:
    """What differs beside the networks, and keeps depths from being comparable."""
    notes = []
    if any(result.checksums is None for result in results):
        notes.append("Inputs were not compared: not every run has their checksums.")
    differing: dict[str, set[Any]] = {
        "the reference that votes are compared with": {r.reference for r in results},
        "whether examples are left out of their own support": {r.leave_one_out for r in results},
        "k": {r.k for r in results},
        "the number of probes": {len(r.probes) for r in results},
    }
    notes += [
        f"The runs differ in {what}: {', '.join(sorted(map(str, values)))}."
        for what, values in differing.items()
        if len(values) > 1
    ]
    return notes


def _unknown_accuracies(comparison: RunComparison) -> list[str]:
    """Of which side's probes the accuracy is not known, and why."""
    notes = []
    for side, name in enumerate(comparison.names if comparison.labels is not None else ()):
        found, known = comparison.accuracies(side), comparison.known_accuracies(side)
        if found is None:
            notes.append(
                f"No accuracy of probes of {name}, whose runs have different numbers of probes."
            )
        elif np.isnan(found[1]).any():
            few = "No accuracy of probes" if known is None else "Accuracy of a part of the probes"
            notes.append(
                f"{few} of {name}: early exit left votes unknown; pdepth run --all-votes computes "
                "them."
            )
    return notes
