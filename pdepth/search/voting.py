"""Votes of checked problems: by a backend's own kernel, or counted here from its neighbours.

The kernel knows one k and one vote a neighbour. Weights, and several k from one search, are counted
from the neighbours' exact distances, by the definition's own functions, so that all backends agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.arrays.arguments import Layer, Problem, Voting
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Engine, Progress

HELD = 1 << 28
"""Bytes that a stretch of queries may take: their rows and neighbours, or their counts."""
LEAST = 256  # queries of a stretch: each stretch packs the support anew


def votes(
    problem: Problem,
    ballot: Voting,
    engine: Engine,
    wanted: NDArray[np.int32] | None,
    return_counts: bool,
    progress: Progress | None,
) -> list[EncodedVotes]:
    """The votes of each k of the ballot, whose largest is the problem's.

    With `wanted` (k's, N) only those that equal it from there to the last probe; a query is asked
    as long as this holds for one k.
    """
    if ballot.plain:
        asked = None if wanted is None else wanted[0]
        found: EncodedVotes = engine.votes(problem, asked, return_counts, progress)
        return [found]
    numbers: Sequence[int] = range(len(problem.layers))
    shape = (len(ballot.ks), len(numbers), problem.count)
    kind = np.int32 if ballot.weights == "uniform" else np.float64
    cast = np.full(shape, UNKNOWN, dtype=np.int32)
    tied = np.empty(shape, dtype=np.bool_) if wanted is None else None
    counts = np.empty((*shape, len(problem.classes)), kind) if return_counts else None
    alive = np.ones((shape[0], shape[2]), dtype=np.bool_)
    for number in numbers if wanted is None else reversed(numbers):
        who = np.flatnonzero(alive.any(axis=0))
        for some, place, count in _counted(problem, number, who, ballot, engine, progress):
            winners, shared = definition.majority(count)
            cast[place, number, some] = winners
            if tied is not None:
                tied[place, number, some] = shared
            if counts is not None:
                counts[place, number, some] = count
        if wanted is not None:
            alive &= cast[:, number] == wanted
            cast[:, number][~alive] = UNKNOWN
    return [
        EncodedVotes(
            cast[place],
            None if tied is None else tied[place],
            None if counts is None else counts[place],
        )
        for place in range(len(ballot.ks))
    ]


def _counted(
    problem: Problem,
    number: int,
    who: NDArray[np.intp],
    ballot: Voting,
    engine: Engine,
    progress: Progress | None,
) -> Iterator[tuple[NDArray[np.intp], int, NDArray[Any]]]:
    """Stretches (n,) of the queries `who`, a k's place, and its counts (n, C) at one layer.

    The next step changes the counts.
    """
    layer, classes = problem.layers[number], len(problem.classes)
    for some in _stretches(who, 24 * problem.k + 8 * layer.support.width):
        first = int(np.searchsorted(who, some[0]))
        report = None if progress is None else _part(progress, number, first, len(who))
        distances, rows = engine.neighbors(asked(problem, layer, some), report)
        weights = definition.vote_weights(distances, ballot.weights, ballot.temperature)
        codes = problem.codes[rows]
        for part in _stretches(np.arange(len(some)), 24 * classes):
            count = np.zeros((len(part), classes), weights.dtype)
            for neighbour in range(problem.k):
                count[part - part[0], codes[part, neighbour]] += weights[part, neighbour]
                if neighbour + 1 in ballot.ks:
                    yield some[part], ballot.ks.index(neighbour + 1), count


def _stretches(who: NDArray[np.intp], bytes_each: int) -> Iterator[NDArray[np.intp]]:
    step = max(LEAST, HELD // bytes_each)
    for begin in range(0, len(who), step):
        yield who[begin : begin + step]


def asked(problem: Problem, layer: Layer, who: NDArray[np.intp]) -> Problem:
    """Some queries at one layer."""
    if layer.queries is None:
        rows = who if problem.query_rows is None else problem.query_rows[who]
        return replace(problem, layers=(layer,), query_rows=rows, count=len(who))
    together = who[-1] - who[0] + 1 == len(who)
    some = layer.queries[slice(who[0], who[-1] + 1) if together else who]
    return replace(problem, layers=(replace(layer, queries=some),), count=len(who))


def _part(progress: Progress, number: int, first: int, total: int) -> Progress:
    """Reports of a stretch of queries as those of its layer."""
    return lambda _, fraction, asked: progress(number, (first + fraction * asked) / total, total)
