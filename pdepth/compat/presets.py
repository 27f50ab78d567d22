"""Prediction depth by the rules of published code, by name: to compare with numbers made by it.

    from pdepth.compat import presets

    result = presets.depth(support, labels, predictions, queries, preset="murali")
    result.depth              # numbered as pdepth numbers: 0 .. L, L where undefined
    presets.scores(result)    # the numbers that this code gives

A preset is a rule of voting and counting, not a network's probes nor a choice of support: those are
the caller's. Whatever a peer leaves to its library, the order of equally near rows and the rounding
of distances, is here as in the definition: (distance in float64, row). docs/presets.md has a table
of how each differs from the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pdepth import depth_from_embeddings, depth_from_votes, kneighbors
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.arrays.problem import ProbeRows, Problem, problems
from pdepth.arrays.rows import Rows, as_bfloat16
from pdepth.arrays.sources import Stored
from pdepth.compat.shared.manhattan import manhattan_neighbors
from pdepth.native import default_arithmetic
from pdepth.result import DepthResult
from pdepth.search.voting import count_votes

__all__ = ["RULES", "Rule", "depth", "scores"]

Score = Callable[[NDArray[np.int64], NDArray[np.bool_], int], NDArray[Any]]


def _depth(depth: NDArray[np.int64], undefined: NDArray[np.bool_], probes: int) -> NDArray[Any]:
    return depth


@dataclass(frozen=True)
class Rule:
    """How votes are counted and made a depth. A query that is a support row votes for itself.

    Attributes:
        k: neighbours. metric: "sqeuclidean" or "manhattan".
        reference: what votes have to equal, as in `depth_from_embeddings`; "last_probe" for rules
            that are not `plain`.
        dropped: whether the nearest neighbour, itself or another, has no vote: "never", "always",
            or where queries are the support's "own" rows.
        misweighed: the vote of the neighbour at place j weighs one over the query's distance not
            to it but to support row j.
        needed: fewer votes than this for the winner, and the probe abstains.
        sure: the example is undefined where one of this many last probes abstains.
        score: the code's own number, from (depth, undefined, L).
    """

    k: int = 30
    metric: Literal["sqeuclidean", "manhattan"] = "sqeuclidean"
    reference: Literal["prediction", "label", "last_probe"] = "prediction"
    dropped: Literal["never", "own", "always"] = "never"
    misweighed: bool = False
    needed: int = 0
    sure: int = 1
    score: Score = _depth

    @property
    def plain(self) -> bool:
        """Whether votes are those of `depth_from_embeddings`."""
        special = self.dropped != "never" or self.misweighed or self.needed > 0
        return self.metric == "sqeuclidean" and not special


_RPI = Rule(
    reference="last_probe",
    dropped="own",
    misweighed=True,
    score=lambda depth, undefined, probes: np.maximum(depth, 1),
)
RULES = {
    "aucurriculum": Rule(score=lambda depth, undefined, probes: depth / (probes + 1)),
    "classifier_playground": Rule(reference="last_probe"),
    "miae": replace(_RPI, dropped="always"),
    "murali": Rule(
        k=29,
        metric="manhattan",
        reference="last_probe",
        needed=19,  # a share that rounds to more than 0.62, of two classes to less than 0.38
        sure=2,
        score=lambda depth, undefined, probes: np.where(undefined, -25, 4 * depth + 4),
    ),
    "nn_example_difficulty": Rule(reference="label"),
    "rpi_dsplab": _RPI,
    "tflearning": Rule(
        reference="last_probe",
        score=lambda depth, undefined, probes: np.maximum(depth - 1, 0),
    ),
}


def depth(
    support: Any,
    labels: Any,
    predictions: Any,
    queries: Any = None,
    *,
    preset: str,
    query_rows: Any = None,
    query_labels: Any = None,
    probes: Sequence[str] | None = None,
    early_exit: bool = True,
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
) -> DepthResult:
    """Compute the prediction depth of queries by the rule of a preset, one of `RULES`.

    Arguments are those of `pdepth.depth_from_embeddings`; early_exit is followed where votes are
    pdepth's own, and else all votes are known. Where a probe abstains, its vote is not `known`, and
    equals nothing. The preset's name is in the result's `meta`.

    Raises:
        ValueError, TypeError: as `depth_from_embeddings`, and for an unknown preset.
    """
    rule = RULES[arguments.check_choice(preset, "preset", tuple(RULES))]
    if rule.plain:
        result: DepthResult = depth_from_embeddings(
            support,
            labels,
            predictions,
            queries,
            query_rows=query_rows,
            k=rule.k,
            exclude_self=False,
            reference=rule.reference,
            early_exit=early_exit,
            backend=backend,
            num_threads=num_threads,
            memory=memory,
            probes=probes,
            query_labels=query_labels,
        )
        return replace(result, meta=result.meta | {"preset": preset})
    votes: list[NDArray[np.int64]] = []
    known: list[NDArray[np.bool_]] = []
    names: list[str] = []
    widths: list[int] = []
    voting = arguments.check_voting(rule.k)
    options = arguments.check_search(voting, "sqeuclidean", False, num_threads, memory)
    for problem in problems(support, queries, labels, options, query_rows=query_rows, names=probes):
        if not votes:
            count = problem.num_queries
            predictions = arguments.check_integers(predictions, "predictions", count)
            if query_labels is not None:
                query_labels = arguments.check_integers(query_labels, "query_labels", count)
            elif problem.own_rows:
                numbers = slice(None) if problem.query_rows is None else problem.query_rows
                query_labels = problem.classes[problem.codes[numbers]]
        for probe in problem.probes:
            codes, voted = _votes(rule, problem, probe, backend)
            votes.append(np.where(voted, problem.classes[codes], -1))
            known.append(voted)
            names.append(probe.name)
            widths.append(probe.support.width)
    return _result(
        rule,
        np.stack(votes),
        np.stack(known),
        predictions=predictions,
        labels=query_labels,
        probes=tuple(names),
        widths=tuple(widths),
        meta={"preset": preset},
    )


def scores(result: DepthResult) -> NDArray[Any]:
    """Return the number (N,) that the code of the result's preset gives to each example.

    Raises:
        ValueError: the result is not of `presets.depth`.
    """
    if result.meta.get("preset") not in RULES:
        raise ValueError(
            "result: expected one of pdepth.compat.presets.depth, got one without a preset."
        )
    rule = RULES[result.meta["preset"]]
    return rule.score(result.depth, result.undefined, len(result.probes))


@default_arithmetic()
def _votes(
    rule: Rule, problem: Problem, probe: ProbeRows, backend: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Let a probe vote: the codes (N,) of the winners, and whether they have votes enough (N,)."""
    search: dict[str, Any] = {
        "backend": backend,
        "num_threads": problem.num_threads,
        "memory": problem.memory,
    }
    if rule.metric == "manhattan":
        queries = _query_rows(problem, probe)
        near = manhattan_neighbors(probe.support, queries, rule.k, problem.num_threads)
    else:
        _, rows = kneighbors(
            _as_array(probe.support),
            None if probe.queries is None else _as_array(probe.queries),
            query_rows=problem.query_rows,
            k=rule.k,
            exclude_self=False,
            **search,
        )
        near = to_numpy(rows)
    if rule.dropped == "always" or (rule.dropped == "own" and problem.own_rows):
        near = near[:, 1:]
    weights: NDArray[np.float64] | None = None
    if rule.misweighed:
        first = probe.support[: near.shape[1]]
        squared, rows = kneighbors(
            _as_array(first), _as_array(_query_rows(problem, probe)), k=len(first), **search
        )
        order = to_numpy(rows).argsort(axis=1)
        with np.errstate(divide="ignore"):
            weights = 1 / np.sqrt(np.take_along_axis(to_numpy(squared), order, axis=1))
    votes, _, counts = count_votes(
        problem.codes, near, len(problem.classes), near.shape[1:], weights,
        num_threads=problem.num_threads, counts=True,
    )  # fmt: skip
    return votes[0], counts[0].max(axis=1) >= rule.needed


def _query_rows(problem: Problem, probe: ProbeRows) -> Rows:
    """Return the rows (N, D) of the queries, also where they are the support's own."""
    if probe.queries is not None:
        return probe.queries
    if problem.query_rows is None:
        return probe.support
    numbers, inverse = np.unique(problem.query_rows, return_inverse=True)  # as a source requires
    return probe.support[numbers][inverse]


def _as_array(rows: Rows) -> Any:
    """Return rows as the public functions take them: an array, a tensor or a source."""
    if rows.type != "bfloat16" or isinstance(rows, Stored) or rows.on_device:
        return rows.array
    return as_bfloat16(rows.array)


def _result(
    rule: Rule, votes: NDArray[np.int64], known: NDArray[np.bool_], **about: Any
) -> DepthResult:
    """Reduce votes (L, N), -1 where not known; of a rule that compares with the last probe's."""
    agrees = known & (votes == votes[-1])
    found, undefined = depth_from_votes(agrees, np.ones(agrees.shape[1], dtype=np.bool_))
    undefined |= ~known[-rule.sure :].all(axis=0)
    return DepthResult(
        depth=np.where(undefined, len(votes), found),
        undefined=undefined,
        votes=votes,
        known=known,
        k=rule.k,
        reference=rule.reference,
        reference_values=votes[-1],
        **about,
    )
