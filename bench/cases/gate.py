"""The gate: pdepth's answers are the definition's, or there is no number.

A peer's answers are compared with pdepth's, and how many differ is stored. Where they are rows, it
is also asked whether float32 explains the difference: a peer whose rows are further away than its
rounding allows does not search all of them, and is no exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.bench.cases.catalogue import RANKS, ROWS, VOTES
from pdepth.bench.cases.tasks import IP, Task
from pdepth.bench.gate import class_ranks, definition_votes, first_difference, products_of
from pdepth.bench.studies.compat import TEMPERATURE

SAMPLE = 1e8  # float64 differences that the gate computes for a case, three queries at least
UNIT = 2.0**-24  # of float32's rounding
SPARE = 8  # roundings beyond those of a sum over the columns


class Refused(ValueError):
    """pdepth's answers are not the definition's: no number."""


@dataclass
class Verdict:
    """What a comparison found.

    Attributes:
        checked: queries that were compared with the definition.
        answered: queries that were compared with pdepth's.
        differing: by contestant, of how many of these the answer is another.
        recall: by contestant, which share of pdepth's rows it found.
        beyond: by contestant, of how many checked queries float32 does not explain its rows.
    """

    checked: int = 0
    answered: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)
    beyond: dict[str, int] = field(default_factory=dict)


def judge(
    kind: str, task: Task, ours: str, answers: dict[str, dict[int, Any]], same: tuple[str, ...] = ()
) -> Verdict:
    """Compare answers.

    Args:
        kind: ROWS, VOTES or RANKS.
        task: what was asked.
        ours: pdepth's name.
        answers: by contestant, and by batch, (n, ...).
        same: further names of pdepth's, whose answers have to be equal.

    Raises Refused where pdepth's differ from the definition's on a sample of the queries.
    """
    batches = sorted(set.intersection(*(set(each) for each in answers.values())))
    numbers = np.concatenate([task.rows_of(batch) for batch in batches])
    by_name = {
        name: np.concatenate([each[batch] for batch in batches]) for name, each in answers.items()
    }
    count = min(len(numbers), 3 + int(SAMPLE / task.support.size))
    places = np.sort(np.random.default_rng(1).choice(len(numbers), count, replace=False))
    scores = _scores(task, numbers[places]) if kind == ROWS else []
    expected = _definition(kind, task, numbers[places], scores)
    _same(ours, "the definition's, on a sample", by_name[ours][places], expected)
    verdict = Verdict(count, len(numbers))
    for name, theirs in by_name.items():
        if name in same:
            _same(name, f"{ours}'s", theirs, by_name[ours])
        verdict.differing[name] = int(_differs(theirs, by_name[ours]).sum())
        if kind == ROWS:
            verdict.recall[name] = _recall(theirs, by_name[ours])
            verdict.beyond[name] = _beyond(task, numbers[places], scores, theirs[places], expected)
    return verdict


def _definition(
    kind: str, task: Task, numbers: NDArray[np.int64], scores: Sequence[NDArray[np.float64]]
) -> NDArray[Any]:
    """The definition's answers for some queries; `scores` are theirs, for ROWS."""
    if kind == ROWS:
        rows = [
            definition.nearest(values, task.k, own)
            for values, own in zip(scores, _own(task, numbers), strict=True)
        ]
        return np.stack(rows)
    queries = _queries(task)[numbers]
    answers: NDArray[np.int64]
    if kind == RANKS:
        answers = class_ranks(task.support, task.labels, queries, task.k, TEMPERATURE)
        return answers
    assert kind == VOTES
    own = numbers if task.queries is None else None
    answers = definition_votes(task.support, task.labels, queries, task.k, own)
    return answers


def _queries(task: Task) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = task.support if task.queries is None else task.queries
    return rows


def _own(task: Task, numbers: NDArray[np.int64]) -> list[int | None]:
    return numbers.tolist() if task.queries is None else [None] * len(numbers)


def _scores(task: Task, numbers: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """What each query's rows are ordered by (M,): squared distances, or products, negative."""
    queries = _queries(task)[numbers]
    if task.metric == IP:
        return [-products for products in products_of(task.support, queries)]
    support = definition.as_rows(task.support)
    return [definition.squared_distances(support, row) for row in definition.as_rows(queries)]


def _differs(theirs: NDArray[Any], ours: NDArray[Any]) -> NDArray[np.bool_]:
    different: NDArray[np.bool_] = (theirs != ours).reshape(len(ours), -1).any(axis=1)
    return different


def _recall(theirs: NDArray[np.int64], ours: NDArray[np.int64]) -> float:
    """The share of our rows that are among theirs."""
    found = [len(np.intersect1d(*pair)) for pair in zip(theirs, ours, strict=True)]
    return float(np.sum(found) / ours.size)


def _beyond(
    task: Task,
    numbers: NDArray[np.int64],
    scores: Sequence[NDArray[np.float64]],
    theirs: NDArray[np.int64],
    expected: NDArray[np.int64],
) -> int:
    """Of how many queries (n,) rows (n, k) are missed that float32 would have told apart.

    A sum over D columns of float32 is off by at most (D + SPARE) roundings of its terms' sum, which
    is at most (|x| + |y|)^2 for a distance and |x||y| for a product; two of them are compared.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", task.support, task.support, dtype=np.float64))
    own, wrong = _queries(task)[numbers].astype(np.float64), 0
    for at, (values, query) in enumerate(zip(scores, own, strict=True)):
        norm = np.linalg.norm(query)
        size = norm * norms.max() if task.metric == IP else (norm + norms.max()) ** 2
        allowed = 2 * (task.support.shape[1] + SPARE) * UNIT * size
        excess = np.sort(values[theirs[at]]) - values[expected[at]]
        wrong += bool(excess.max() > allowed or len(np.unique(theirs[at])) < task.k)
    return wrong


def _same(name: str, origin: str, answers: NDArray[Any], expected: NDArray[Any]) -> None:
    if answers.shape != expected.shape:
        raise Refused(f"{name}: expected answers of shape {expected.shape}, got {answers.shape}.")
    wrong, place = first_difference(np.ravel(answers), np.ravel(expected))
    if wrong:
        raise Refused(f"{wrong} of {answers.size} answers of {name} are not {origin}{place}.")
