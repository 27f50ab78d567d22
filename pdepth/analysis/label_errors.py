"""Likely label errors: labels that the votes of all probes are against.

A row's k neighbours at probe l give it shares of votes, s_l(c) for class c. Rows with label j have
a usual profile there, their mean share for each class; with a little for every class, so that no
logarithm is infinite:

    p_l(c | j) = (mean of s_l(c) over the rows with label j + 1/32) / (1 + C/32)

A probe says little of labels where the rows' own ones have few of the votes, and as little where
they have nearly all, since the network has learnt them by heart there, right or wrong. So it counts
by the mean share a_l of all rows' own labels, and a label y by how much better another one fits:

    w_l   = a_l (1 - a_l) / sum over probes of the same
    score = max over j != y of sum over l, c of w_l s_l(c) log (p_l(c | j) / p_l(c | y))

From 0 on another label fits a row's votes at least as well as its own. Labels whose score is at
least the threshold are issues, and of these alone another one is suggested.

Sums of votes are whole numbers and logarithms are rounded to 2^-30, so that sums over classes are
exact: scores are the same in any order of the rows, and of any backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.native import default_arithmetic
from pdepth.optional import require

__all__ = ["THRESHOLD", "LabelIssues", "find_issues"]

THRESHOLD = 0.0
SMOOTHING = 1 / 32  # of a share of votes, for each class
UNIT = 2.0**30  # logarithms are whole numbers of its inverse
LEAST = 1 / UNIT  # weight of a probe: should all have none, all count alike
CHUNK = 1 << 13  # rows whose votes are multiplied at a time


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """How likely the labels of N examples are wrong, in the examples' order.

    Attributes:
        score: (N,) float64, the greatest the likeliest error.
        label: (N,) int64, the given labels.
        suggested: (N,) int64, the other label that fits best; where there is no other, the same. It
            is suggested in place of the given one where `is_issue`.
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

        is_label_issue, label_quality (1 / (1 + exp(score)): low is bad), given_label,
        predicted_label, which is the suggested one.
        """
        pandas = require("pandas", "LabelIssues.to_cleanlab", "tables")
        return pandas.DataFrame(
            {
                "is_label_issue": self.is_issue,
                "label_quality": 1 / (1 + np.exp(self.score)),
                "given_label": self.label,
                "predicted_label": self.suggested,
            }
        )

    def name_of(self, label: int) -> str:
        """The name of a class; its number where it has none."""
        named = self.class_names is not None and 0 <= label < len(self.class_names)
        return self.class_names[label] if named and self.class_names else str(label)


@default_arithmetic()
def find_issues(
    counts: Iterable[Any], classes: Any, labels: Any, threshold: float | None = None
) -> LabelIssues:
    """Score the labels of N rows; the module's docstring has the formula.

    Args:
        counts: (N, C) whole numbers, the votes of each class, of one probe after the other; in each
            as many for every row.
        classes: (C,) of the columns, ascending. labels: (N,) integers.
        threshold: the score from which on a label is an issue; None for `THRESHOLD`.

    Raises:
        ValueError, TypeError: counts of weighted votes or of another shape, no probe or no row.
    """
    limit = check_threshold(threshold)
    given = arguments.check_integers(labels, "labels")
    present, codes = np.unique(given, return_inverse=True)
    columns, known = arguments.codes_of(present, np.asarray(to_numpy(classes)))
    fit = _fit(counts, codes, np.where(known, columns, -1))
    rows = np.arange(len(given))
    if len(present) == 1:
        return LabelIssues(np.full(len(given), -np.inf), given, given, limit, rows)
    own = fit[rows, codes]
    fit[rows, codes] = -np.inf
    best = fit.argmax(axis=1)
    return LabelIssues(fit[rows, best] - own, given, present[best], limit, rows)


def _fit(
    counts: Iterable[Any], codes: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """How well each label's profile fits (N, labels), weighted over probes.

    codes: (N,) of the given labels. columns: (labels,) of their votes in counts, -1 without any.
    """
    labels = len(columns)
    fit, total, with_column = np.zeros((len(codes), labels)), 0.0, columns >= 0
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(labels))
    for each in counts:
        votes = _check_probe(each, len(codes))
        k = int(votes[0].sum())
        sums = np.add.reduceat(votes[order], starts, axis=0, dtype=np.int64)
        shares = sums / sums.sum(axis=1, keepdims=True)
        profiles = (shares + SMOOTHING) / (1 + SMOOTHING * votes.shape[1])
        logarithms = np.rint(np.log(profiles) * UNIT)
        own = int(sums[with_column, columns[with_column]].sum()) / int(sums.sum())
        weight = own * (1 - own) + LEAST
        for begin in range(0, len(votes), CHUNK):
            rows = slice(begin, begin + CHUNK)
            products = votes[rows].astype(np.float64) @ logarithms.T  # exact
            fit[rows] += products * (weight / (k * UNIT))
        total += weight
    if not total:
        raise ValueError("counts: expected those of at least one probe, got none.")
    fit /= total
    return fit


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
