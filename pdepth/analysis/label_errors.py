"""Likely label errors: labels that the votes of all probes are against.

Each probe's k neighbours of a row give it shares of votes, s_l(c). Rows with one label have a usual
profile of shares there, their mean; with a little of every class, so that no logarithm is infinite:

    p_l(c | j) = (mean of s_l(c) over rows with label j + 1/32) / (1 + C/32)

Which label's profile a row's votes fit, all probes together, and how much better another one fits
than that of the given label y. Profiles that differ much anyway would hide an error between their
labels, so half of what a usual row would show (the Kullback-Leibler divergence) is taken off:

    e(j) = 1/L sum over l, c of s_l(c) log p_l(c | j)
    D(y, j) = 1/L sum over l, c of p_l(c | y) log (p_l(c | y) / p_l(c | j))
    d = max over j != y of e(j) - e(y) + D(y, j) / 2

A network that has learnt its wrong labels by heart gives them at its last probes, as it does the
right ones: that moves all d alike. So d is compared with that of all rows: with the median, and
with the tenth from below, the rows whose labels are borne out best:

    score = (d - median) / max(median - tenth, |median| / 10)

0 is a usual label; from 1 on, as far above the median as the tenth is below it, a label is an
issue. The j of the largest e(j) + D(y, j) / 2 is suggested in its place.

Sums of votes are whole numbers and logarithms are rounded to 2^-30, so that sums over classes are
exact: scores are the same in any order of the rows, and of any backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.vote_counts import check_counts
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.native import default_arithmetic
from pdepth.optional import require
from pdepth.result import DepthResult, Votes

__all__ = ["THRESHOLD", "LabelIssues", "find_issues"]

THRESHOLD = 1.0
SMOOTHING = 1 / 32  # of a share of votes, for each class
TENTH = 0.1  # of the rows, and of the median where the lowest tenth is no lower
UNIT = 2.0**30  # logarithms are whole numbers of its inverse
CHUNK = 1 << 13  # rows whose votes are multiplied at a time


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """How likely the labels of N examples are wrong, in the examples' order.

    Attributes:
        score: (N,) float64; 0 is usual, the greatest the likeliest error.
        label: (N,) int64, the given labels.
        suggested: (N,) int64, the other label that fits best; where there is no other, the same.
        threshold: the score from which on a label is an issue.
        rows: (N,) int64, the examples' row numbers in their data.
        paths: (N,) the examples' files, or None.
        class_names: a name by class, or None.
    """

    score: NDArray[np.float64]
    label: NDArray[np.int64]
    suggested: NDArray[np.int64]
    threshold: float
    rows: NDArray[np.int64]
    paths: Sequence[str] | None = None
    class_names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.score)

    def __repr__(self) -> str:
        return f"LabelIssues({len(self)} labels, {int(self.is_issue.sum())} issues)"

    @property
    def is_issue(self) -> NDArray[np.bool_]:
        """(N,) bool: the score is at least the threshold."""
        return self.score >= self.threshold

    @property
    def ranked(self) -> NDArray[np.int64]:
        """(N,) int64: positions of the examples, the greatest score first; of equals, by row."""
        return np.lexsort((self.rows, -self.score))

    def to_pandas(self) -> Any:
        """A pandas DataFrame, the likeliest error first.

        Columns: row, path (empty where there is none), label, suggested_label, score,
        is_label_issue; and where classes have names, label_name and suggested_name.
        """
        pandas = require("pandas", "LabelIssues.to_pandas", "tables")
        order = self.ranked
        columns = {
            "row": self.rows[order],
            "path": [self.paths[place] if self.paths else "" for place in order],
            "label": self.label[order],
            "suggested_label": self.suggested[order],
            "score": self.score[order],
            "is_label_issue": self.is_issue[order],
        }
        if self.class_names is not None:
            for name, classes in (("label_name", self.label), ("suggested_name", self.suggested)):
                columns[name] = [self.name_of(label) for label in classes[order]]
        return pandas.DataFrame(columns)

    def to_cleanlab(self) -> Any:
        """A pandas DataFrame in the order and the columns of cleanlab's `CleanLearning`.

        is_label_issue, label_quality (1 / (1 + exp(score - 1)): low is bad), given_label,
        predicted_label, which is the suggested one.
        """
        pandas = require("pandas", "LabelIssues.to_cleanlab", "tables")
        return pandas.DataFrame(
            {
                "is_label_issue": self.is_issue,
                "label_quality": 1 / (1 + np.exp(self.score - 1)),
                "given_label": self.label,
                "predicted_label": self.suggested,
            }
        )

    def name_of(self, label: int) -> str:
        """The name of a class; its number where it has none."""
        named = self.class_names is not None and 0 <= label < len(self.class_names)
        return self.class_names[label] if named and self.class_names else str(label)


@default_arithmetic()
def find_issues(counts: Iterable[Any], labels: Any, threshold: float | None = None) -> LabelIssues:
    """Score the labels of N rows; the module's docstring has the formula.

    Args:
        counts: (N, C) whole numbers, the votes of each class, of one probe after the other; in each
            as many for every row.
        labels: (N,) integers.
        threshold: the score from which on a label is an issue; None for `THRESHOLD`.

    Raises:
        ValueError, TypeError: counts of weighted votes or of another shape, no probe or no row.
    """
    limit = check_threshold(threshold)
    given = arguments.check_integers(labels, "labels")
    classes, codes = np.unique(given, return_inverse=True)
    fit, rows = _fit(counts, codes, len(classes)), np.arange(len(given))
    if len(classes) == 1:
        return LabelIssues(np.zeros(len(given)), given, given, limit, rows)
    own = fit[rows, codes]
    fit[rows, codes] = -np.inf
    best = fit.argmax(axis=1)
    against = fit[rows, best] - own
    low, median = np.quantile(against, (TENTH, 0.5), method="inverted_cdf")
    spread = max(median - low, abs(median) * TENTH, 1 / UNIT)
    return LabelIssues((against - median) / spread, given, classes[best], limit, rows)


def _fit(counts: Iterable[Any], codes: NDArray[np.intp], labels: int) -> NDArray[np.float64]:
    """How well each label's profile fits (N, labels), e(j) + D(y, j) / 2; codes: (N,) of y."""
    fit, half, probes = np.zeros((len(codes), labels)), np.zeros((labels, labels)), 0
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(labels))
    for each in counts:
        votes = _check_probe(each, len(codes))
        k = int(votes[0].sum())
        sums = np.add.reduceat(votes[order], starts, axis=0, dtype=np.int64)
        shares = sums / sums.sum(axis=1, keepdims=True)
        profiles = (shares + SMOOTHING) / (1 + SMOOTHING * votes.shape[1])
        logarithms = np.rint(np.log(profiles) * UNIT)
        crossed = profiles @ (logarithms.T / UNIT)
        half += (np.diag(crossed)[:, None] - crossed) / 2
        for rows in _chunks(len(votes)):
            fit[rows] += votes[rows].astype(np.float64) @ logarithms.T / (k * UNIT)
        probes += 1
    if not probes:
        raise ValueError("counts: expected those of at least one probe, got none.")
    for rows in _chunks(len(codes)):
        fit[rows] = (fit[rows] + half[codes[rows]]) / probes
    return fit


def _chunks(rows: int) -> Iterator[slice]:
    for begin in range(0, rows, CHUNK):
        yield slice(begin, begin + CHUNK)


def _check_probe(counts: Any, rows: int) -> NDArray[Any]:
    """Counts (N, C) of one probe: whole numbers, with the same sum in every row."""
    array = np.asarray(to_numpy(counts))
    if array.ndim != 2 or len(array) != rows or not rows:
        raise ValueError(f"counts: expected shape ({rows}, C) at a probe, got {array.shape}.")
    if array.dtype.kind not in "iu":
        raise ValueError("counts: expected whole votes, got weights; use weights='uniform'.")
    sums = array.sum(axis=1, dtype=np.int64)
    if not sums[0] or (sums != sums[0]).any():
        raise ValueError("counts: expected as many votes in every row, got others.")
    return array


def check_threshold(threshold: float | None) -> float:
    """The threshold as a finite number; None for `THRESHOLD`."""
    if threshold is None:
        return THRESHOLD
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number):
        raise TypeError(f"threshold: expected a number, got {threshold!r}.")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: expected a finite number, got {threshold}.")
    return float(threshold)


def counts_of_votes(votes: Votes) -> Iterator[NDArray[Any]]:
    """Counts (N, C) of each probe, of votes with counts of one array or of several."""
    counts = to_numpy(check_counts(votes))
    yield from counts[None] if counts.ndim == 2 else counts


def counts_of_result(result: DepthResult) -> Iterator[NDArray[np.int8]]:
    """Counts (N, C) of each probe, in which the winner's vote is the only one."""
    classes = np.unique(result.votes)
    for votes in result.votes:
        yield (votes[:, None] == classes).astype(np.int8)
