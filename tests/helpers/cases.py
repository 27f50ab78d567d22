"""Random problems of every kind that has broken a k-NN engine, and the comparison that guards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pdepth
from pdepth import definition

DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int64")


def normal(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    return rng.standard_normal((rows, width))


def grid(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    """Small whole numbers: distances tie exactly."""
    return rng.integers(-3, 4, (rows, width)).astype(float)


def duplicates(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    return normal(rng, max(1, rows // 7), width)[rng.integers(0, max(1, rows // 7), rows)]


def near_duplicates(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    noise = 10.0 ** rng.uniform(-9, -3)
    return duplicates(rng, rows, width) + noise * normal(rng, rows, width)


def tight_clusters(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    """A few far places, and near each of them rows that differ by less than float32 resolves."""
    spread = 10.0 ** rng.uniform(-9, -3)
    places = normal(rng, 3, width)[rng.integers(0, 3, rows)]
    return places + spread * normal(rng, rows, width)


def constant(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    return np.full((rows, width), rng.choice([0.0, 1.0, -2.5, 1 / 3]))


def huge_and_tiny(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    return normal(rng, rows, width) * 10.0 ** rng.uniform(-15, 15, (rows, 1))


def far_away(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    return normal(rng, rows, width) + 10.0 ** rng.uniform(0, 5) * normal(rng, 1, width)


def outlier(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    values = normal(rng, rows, width)
    values[rng.integers(rows)] *= 1e12
    return values


def activations(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    """Clusters behind a ReLU: sparse, of unequal norms."""
    centres = normal(rng, 8, width)
    return np.maximum(0, centres[rng.integers(0, 8, rows)] + 0.3 * normal(rng, rows, width))


def saturated(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    """A softmax: half of the rows one-hot, many of the others nearly so."""
    logits = 20 * normal(rng, rows, width)
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    values /= values.sum(axis=1, keepdims=True)
    hot = rng.random(rows) < 0.5
    values[hot] = np.eye(width)[values[hot].argmax(axis=1)]
    return values


def subnormal(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    return normal(rng, rows, width) * 10.0 ** rng.uniform(-320, -30)


def overflowing(rng: np.random.Generator, rows: int, width: int) -> NDArray[Any]:
    """Squares beyond float32's end, or float64's: there all distances are infinite and tie."""
    return normal(rng, rows, width) * 10.0 ** rng.uniform(18, 250)


KINDS = (
    *(normal, grid, duplicates, near_duplicates, tight_clusters, constant, huge_and_tiny),
    *(far_away, outlier, activations, saturated, subnormal, overflowing),
)


def cast(values: NDArray[Any], dtype: str) -> Any:
    """`values` in the element type, clipped to what it holds; bfloat16 as a torch tensor."""
    if dtype in ("uint8", "int64"):
        spread = np.abs(values).max() or 1.0
        low, high = (0, 255) if dtype == "uint8" else (-(2**40), 2**40)
        scaled = values if spread < 1e6 else values / spread * 1e6
        return np.clip(np.rint(scaled * 4 + (128 if low == 0 else 0)), low, high).astype(dtype)
    if dtype == "bfloat16":
        try:
            import torch
        except ImportError:  # an installation without it has no arrays of bfloat16 either
            return cast(values, "float32")
        return torch.from_numpy(np.clip(values, -3e38, 3e38)).to(torch.bfloat16)
    most = float(np.finfo(dtype).max)
    return np.clip(values, -most, most).astype(dtype)


@dataclass(frozen=True, eq=False)
class Case:
    """One call of the engine: its arrays and its options."""

    name: str
    support: Any
    labels: NDArray[np.int64]
    queries: Any
    options: dict[str, Any]


@lru_cache(maxsize=64)  # each level is asked the same
def case(seed: int, *, small: bool = False) -> Case:
    """The problem of that number: kind, type, sizes, ties and form of the queries drawn at random.

    small: of few queries and up to half the rows, for a backend that is interpreted.
    """
    rng = np.random.default_rng(seed)
    most_rows, most_asked = (400, 7) if small else (800, 150)
    kind, dtype = KINDS[seed % len(KINDS)], DTYPES[rng.integers(len(DTYPES))]
    width = int(np.exp(rng.uniform(0, np.log(700.99))))
    if rng.random() < 0.3:
        width |= 1
    k = int(rng.choice([1, 2, 5, 30, 30, 30, 61]))
    rows = k + 1 + int(rng.choice([0, 1, rng.integers(0, 40), rng.integers(0, most_rows)]))
    asked = int(rng.integers(1, most_asked))
    classes = int(rng.choice([2, 10, 100]))
    labels = rng.permutation(3 * classes)[:classes][rng.integers(0, classes, rows)] - classes
    values = kind(rng, rows + asked, width)
    support, queries, options = values[:rows], values[rows:], {"k": k}
    way = rng.choice(["queries", "own", "some", "kept"])
    if way == "queries" and rng.random() < 0.3:  # the same rows among both
        queries[: asked // 2] = support[rng.integers(0, rows, asked // 2)]
    if way == "some" or (small and way != "queries"):
        options["query_rows"] = rng.integers(0, rows, asked)
    if way == "kept":
        options["exclude_self"] = False
    return Case(
        f"seed {seed}: {kind.__name__} {dtype} {rows} x {width}, {way}, {classes} classes, k={k}",
        cast(support, dtype),
        labels,
        cast(queries, dtype) if way == "queries" else None,
        options,
    )


def first_difference(found: Any, wanted: Any) -> tuple[int, ...] | None:
    """Where two integer or boolean arrays first differ; shapes count too."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return (-1,)
    places = np.argwhere(found != wanted)
    return tuple(int(i) for i in places[0]) if len(places) else None


def assert_exact(problem: Case, oracle: definition.VoteTable, **engine_options: Any) -> int:
    """The engine's votes, ties and counts equal the oracle's; returns how many votes that were.

    So does what it says where only "is the vote the prediction?" is asked.
    """
    found = pdepth.probe_votes(
        problem.support, problem.labels, problem.queries, **problem.options, **engine_options
    )
    for name in ("classes", "votes", "tied"):
        where = first_difference(getattr(found, name), getattr(oracle, name))
        assert where is None, f"{problem.name}: {name} differ first at {where}"
    counted = pdepth.probe_votes(
        problem.support,
        problem.labels,
        problem.queries,
        return_counts=True,
        **problem.options,
        **engine_options,
    )
    where = first_difference(counted.counts, oracle.counts)
    assert where is None, f"{problem.name}: counts differ first at {where}"
    where = first_difference(counted.votes, oracle.votes)
    assert where is None, f"{problem.name}: votes beside counts differ first at {where}"
    predictions = np.where(np.arange(len(oracle.votes)) % 2, np.roll(oracle.votes, 3), oracle.votes)
    depth = pdepth.depth_from_embeddings(
        [problem.support],
        problem.labels,
        predictions,
        None if problem.queries is None else [problem.queries],
        **problem.options,
        **engine_options,
    )
    where = first_difference(depth.undefined, oracle.votes != predictions)
    assert where is None, f"{problem.name}: a vote is taken for the prediction, or not, at {where}"
    return len(oracle.votes)


def assert_nearest(problem: Case, nearest: int, **engine_options: Any) -> int:
    """Votes, counts and so many of the nearest rows, in one answer, are the oracle's; returns how
    many votes that were."""
    found = pdepth.probe_votes(
        problem.support, problem.labels, problem.queries,
        return_neighbors=nearest, **problem.options, **engine_options,
    )  # fmt: skip
    oracle = oracle_of(problem)
    for name in ("votes", "tied", "counts"):
        where = first_difference(getattr(found, name), getattr(oracle, name))
        assert where is None, f"{problem.name}, {nearest} of k: {name} differ first at {where}"
    distances, rows = (each[:, :nearest] for each in neighbors_of(problem))
    assert first_difference(found.rows, rows) is None, f"{problem.name}, {nearest} of k"
    assert first_difference(found.distances, distances) is None, f"{problem.name}, {nearest} of k"
    return len(oracle.votes)


@lru_cache(maxsize=64)
def oracle_of(problem: Case) -> definition.VoteTable:
    """The votes of the definition."""
    with np.errstate(over="ignore"):
        return definition.probe_votes(
            problem.support, problem.labels, problem.queries, **problem.options
        )


@lru_cache(maxsize=64)
def neighbors_of(problem: Case) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distances and rows of the neighbours by the definition."""
    with np.errstate(over="ignore"):
        return definition.kneighbors(problem.support, problem.queries, **problem.options)


def largest_by_definition(
    support: Any, queries: Any, k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    own, asked = definition.as_rows(support), definition.as_rows(queries)
    every = np.stack([definition.total(own * query) for query in asked])
    rows = np.stack([definition.nearest(-products, k) for products in every])
    return np.take_along_axis(every, rows, axis=1), rows


def scores_by_definition(
    support: Any, labels: Any, queries: Any, ks: list[int], temperature: float, classes: int
) -> list[NDArray[np.float64]]:
    """What each class weighs (N, classes) among the k largest products, for each k."""
    products, rows = largest_by_definition(support, queries, max(ks))
    weights = np.exp((products - products[:, :1]) / temperature)
    scores = []
    for k in ks:
        score = np.zeros((len(rows), classes))
        for i, own in enumerate(rows):
            for place in range(k):
                score[i, int(labels[own[place]])] += weights[i, place]
        scores.append(score)
    return scores


def unit_rows(rows: Any) -> NDArray[np.float32]:
    """Rows divided by their norms, as float32."""
    found: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    return found
