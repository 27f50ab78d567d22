"""Prediction depth by the rules of published code, by name: to compare with numbers made by it.

    from pdepth.compat import presets

    result = presets.depth(support, labels, predictions, queries, preset="murali")
    result.depth              # numbered as pdepth numbers: 0 .. L, L where undefined
    presets.scores(result)    # the numbers that this code gives

A preset is a rule of voting and counting, not a network's probes nor a choice of support: those are
the caller's. Whatever a peer leaves to its library, the order of equally near rows and the rounding
of distances, is here as in the definition: (distance in float64, row). docs/presets.md has a table
of where each differs from the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pdepth import definition, depth_from_embeddings
from pdepth.arrays import arguments
from pdepth.arrays.arguments import Problem
from pdepth.arrays.encoded import UNKNOWN
from pdepth.arrays.rows import Rows
from pdepth.backends import backend_named
from pdepth.compat.shared.manhattan import nearest_rows
from pdepth.result import DepthResult
from pdepth.search import chunks
from pdepth.search.backward import Targets, suffix

__all__ = ["RULES", "Rule", "depth", "scores"]

Score = Callable[[NDArray[np.int64], NDArray[np.bool_], int], NDArray[Any]]


def _as_it_is(depth: NDArray[np.int64], undefined: NDArray[np.bool_], probes: int) -> NDArray[Any]:
    return depth


@dataclass(frozen=True)
class Rule:
    """How a depth is arrived at. All keep a row that is asked about itself among its neighbours.

    k: neighbours. metric: "sqeuclidean" or "manhattan".
    reference: what votes have to equal, as in `depth_from_embeddings`.
    dropped: whether the nearest neighbour, whoever it is, has no vote: "never", "always", or where
        the support's "own" rows are asked.
    misweighed: the vote of the neighbour at place j weighs one over the query's distance not to it
        but to support row j.
    needed: fewer votes than this for the winner, and the probe abstains.
    sure: the example is undefined where one of this many last probes abstains.
    score: the code's own number, of (depth, undefined, L).
    """

    k: int = 30
    metric: Literal["sqeuclidean", "manhattan"] = "sqeuclidean"
    reference: Literal["prediction", "label", "last_probe"] = "prediction"
    dropped: Literal["never", "own", "always"] = "never"
    misweighed: bool = False
    needed: int = 0
    sure: int = 1
    score: Score = _as_it_is

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
    """The prediction depth of queries by the rule of a preset, one of `RULES`.

    Arguments are those of `pdepth.depth_from_embeddings`; early_exit is followed where the engine
    votes as the preset does, and else all votes are known. Where a probe abstains, its vote is not
    `known`, and equals nothing. The preset's name is in the result's `meta`.

    Raises ValueError and TypeError as `depth_from_embeddings`, and for an unknown preset.
    """
    rule = RULES[arguments.check_choice(preset, "preset", tuple(RULES))]
    options: dict[str, Any] = {"num_threads": num_threads, "memory": memory}
    options |= {"query_rows": query_rows, "k": rule.k, "exclude_self": False}
    meta = {"preset": preset}
    if rule.plain:
        result: DepthResult = depth_from_embeddings(
            support,
            labels,
            predictions,
            queries,
            reference=rule.reference,
            early_exit=early_exit,
            backend=backend,
            probes=probes,
            query_labels=query_labels,
            **options,
        )
        return replace(result, meta=result.meta | meta)
    given: Targets | None = None
    names, cast = [], []
    for problem in arguments.problems(
        support, queries, labels, names=probes, metric="sqeuclidean", **options
    ):
        given = given or Targets.of(problem, predictions, query_labels, rule.reference)
        for layer in problem.layers:
            cast.append(_votes(rule, replace(problem, layers=(layer,)), backend))
            names.append((layer.name, layer.support.width))
    assert given is not None  # a call without a probe is refused
    codes = np.stack(cast)
    known = codes != UNKNOWN
    wanted = codes[-1] if given.wanted is None else given.wanted
    found, undefined = suffix(known & (codes == wanted))
    undefined |= ~known[-rule.sure :].all(axis=0)
    votes = np.where(known, problem.classes[codes], -1)
    return DepthResult(
        depth=np.where(undefined, len(codes), found),
        undefined=undefined,
        votes=votes,
        known=known,
        predictions=given.predictions,
        labels=given.labels,
        probes=tuple(name for name, _ in names),
        k=rule.k,
        widths=tuple(width for _, width in names),
        reference=rule.reference,
        reference_values=votes[-1] if given.wanted is None else given.values,
        meta=meta,
    )


def scores(result: DepthResult) -> NDArray[Any]:
    """The number (N,) that the code of the result's preset gives to each example.

    Raises ValueError for a result that is not of `presets.depth`.
    """
    if result.meta.get("preset") not in RULES:
        raise ValueError(
            "the result is of no preset; one of pdepth.compat.presets.depth is wanted."
        )
    rule = RULES[result.meta["preset"]]
    return rule.score(result.depth, result.undefined, len(result.probes))


def _votes(rule: Rule, problem: Problem, backend: str) -> NDArray[np.int32]:
    """The codes (N,) that the queries of a problem of one probe vote, UNKNOWN for an abstention."""
    if rule.metric == "manhattan":
        layer = problem.layers[0]
        near = nearest_rows(layer.support, _queries(problem), rule.k, problem.threads)
    else:
        near = _neighbours(problem, backend)[1]
    own = problem.layers[0].queries is None
    if rule.dropped == "always" or (rule.dropped == "own" and own):
        near = near[:, 1:]
    weights: NDArray[Any] = np.ones(near.shape, dtype=np.int64)
    if rule.misweighed:
        with np.errstate(divide="ignore"):
            weights = 1 / np.sqrt(_to_first_rows(problem, near.shape[1], backend))
    counts = np.zeros((len(near), len(problem.classes)), dtype=weights.dtype)
    for row, weight in zip(problem.codes[near].T, weights.T, strict=True):
        counts[np.arange(len(near)), row] += weight
    winners = definition.majority(counts)[0].astype(np.int32)
    return np.where(counts.max(axis=1) < rule.needed, np.int32(UNKNOWN), winners)


def _to_first_rows(problem: Problem, rows: int, backend: str) -> NDArray[np.float64]:
    """Squared distances (N, rows) from each query to the first rows of the support, in order."""
    (layer,) = problem.layers
    first = replace(layer, support=layer.support[:rows], queries=_queries(problem))
    codes = problem.codes[:rows]
    distances, numbers = _neighbours(
        replace(problem, layers=(first,), codes=codes, k=rows, query_rows=None), backend
    )
    return np.take_along_axis(distances, numbers.argsort(axis=1), axis=1)


def _neighbours(problem: Problem, backend: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    engine = chunks.engine_for(problem, backend_named(backend, problem.device))
    return engine.neighbors(problem)


def _queries(problem: Problem) -> Rows:
    """What a problem of one probe asks, the support's own rows too."""
    (layer,) = problem.layers
    if layer.queries is not None:
        return layer.queries
    if problem.query_rows is None:
        return layer.support
    numbers, back = np.unique(problem.query_rows, return_inverse=True)  # as a source wants them
    return layer.support[numbers][back]
