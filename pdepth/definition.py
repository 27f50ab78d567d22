"""Votes and prediction depth in float64 NumPy, slow and simple: the reference of every test.

Source of the definition: Baldock, Maennel, Neyshabur, "Deep Learning Through the Lens of Example
Difficulty", NeurIPS 2021, arXiv 2106.09647. Where the paper is silent, the rules below decide:

1. Squared L2 distance, in float64, from the stored values, summed as `total` does.
2. Neighbours in the order (distance, support row). The first k vote. With the metric
   "inner_product": in the order (product descending, row).
3. A query that is a support row is left out by its row number, never by "drop the nearest".
4. One vote a neighbour, or as much as `vote_weights` says. Each class adds up its votes in the
   neighbours' order; the class with most wins; of tied classes, the smallest label.
5. Labels are any integers.

Every backend of pdepth returns exactly these votes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]
TEMPERATURE = 0.07


class VoteTable(NamedTuple):
    """The votes of one probe: `votes` (N,), `tied` (N,), `counts` (N, C), `classes` (C,)."""

    votes: Int
    tied: NDArray[np.bool_]
    counts: Int | Float  # float64 where votes have weights
    classes: Int


def as_rows(array: Any, metric: str = "sqeuclidean") -> Float:
    """`array` (n, ...) as float64 rows (n, D); for `metric="cosine"` each divided by its norm.

    By a power of two first, which brings its largest value to 1/2 .. 1, so that no square overflows
    or is lost: any row but one of zeros has a norm.
    """
    if hasattr(array, "detach"):  # a torch tensor: NumPy has no bfloat16 of its own
        array = array.detach().cpu().double().numpy()
    rows = np.ascontiguousarray(array, dtype=np.float64)
    rows = rows.reshape(len(rows), -1)
    if metric == "cosine":
        _, exponents = np.frexp(np.abs(rows).max(axis=1))
        rows = np.ldexp(rows, -exponents[:, None])
        rows = rows / np.sqrt(total(rows * rows))[:, None]
    return rows


def total(terms: Float) -> Float:
    """The sums (M,) over `terms` (M, D): the last half is added to the first until one is left.

    A fixed order, so that a sum has the same bits everywhere: NumPy's own changes between versions.
    """
    while (width := terms.shape[1]) > 1:
        half = width // 2  # the middle term of an odd number waits
        terms = np.hstack(
            [terms[:, :half] + terms[:, width - half :], terms[:, half : width - half]]
        )
    return terms[:, 0]


def squared_distances(support: Float, query: Float) -> Float:
    """(M,) from each row of `support` (M, D) to `query` (D,)."""
    difference = support - query
    return total(difference * difference)


def inner_products(support: Float, query: Float) -> Float:
    """(M,) of each row of `support` (M, D) with `query` (D,)."""
    return total(query * support)


def nearest(distances: Float, k: int, left_out: int | None = None) -> Int:
    """The first k rows (k,) in the order (distance, row), without the row `left_out`."""
    rows = np.arange(len(distances))
    if left_out is not None:
        rows = rows[rows != left_out]
    return rows[np.lexsort((rows, distances[rows]))[:k]]


def vote_weights(
    distances: Float, weights: str = "uniform", temperature: float = TEMPERATURE
) -> Int | Float:
    """The weight of each neighbour's vote (N, k), from its squared distance d, nearest first.

    "uniform": 1. "distance": 1 / sqrt(d); where a neighbour is at distance 0 (or all at infinity),
    those like it weigh 1 and the others 0: scikit-learn's KNeighborsClassifier. "exp":
    exp(-(d - nearest d) / (2 temperature)); with the cosine metric d = 2 - 2 cos, so this is
    exp(cos / temperature), of Wu et al., arXiv 1805.01978, and of DINO's and lightly's evaluation,
    up to a factor common to a query's neighbours. Of inner products d = -2 x.y stands for it, so
    that "exp" is exp(x.y / temperature); "distance" has no meaning. A weight does not depend on k.
    """
    if weights == "uniform":
        return np.ones(distances.shape, dtype=np.int64)
    nearest = distances[:, :1]
    equal = distances == nearest
    with np.errstate(all="ignore"):
        if weights == "distance":
            alone = (nearest == 0) | np.isinf(nearest)
            return np.where(alone, equal, 1 / np.sqrt(distances))
        return np.exp(np.where(equal, 0, nearest - distances) / temperature / 2)


def majority(counts: Int | Float) -> tuple[Int, NDArray[np.bool_]]:
    """The class with most votes in each row of `counts` (N, C), and whether another has as many.

    Of tied classes the first, which is the smallest label.
    """
    most = counts == counts.max(axis=1, keepdims=True)
    return most.argmax(axis=1), most.sum(axis=1) > 1


def kneighbors(
    support: Any,
    queries: Any = None,
    *,
    query_rows: ArrayLike | None = None,
    k: int = 30,
    exclude_self: bool = True,
    metric: str = "sqeuclidean",
) -> tuple[Float, Int]:
    """Squared distances (N, k) and rows (N, k) of each query's k nearest support rows.

    Of `metric="inner_product"`, the largest products and their rows. Without `queries`, the queries
    are the support's own rows (or those of `query_rows`), each left out of its own neighbours
    unless `exclude_self` is false.
    """
    source = as_rows(support, metric)
    if queries is not None:
        query_values, left_out = as_rows(queries, metric), None
    else:
        left_out = np.arange(len(source)) if query_rows is None else np.asarray(query_rows)
        query_values = source[left_out]
    shape = len(query_values), k
    distances, rows = np.empty(shape), np.empty(shape, dtype=np.int64)
    for i, query in enumerate(query_values):
        own = int(left_out[i]) if left_out is not None and exclude_self else None
        products = metric == "inner_product"
        to_all = (inner_products if products else squared_distances)(source, query)
        rows[i] = nearest(-to_all if products else to_all, k, own)
        distances[i] = to_all[rows[i]]
    return distances, rows


def probe_votes(
    support: Any,
    labels: ArrayLike,
    queries: Any = None,
    weights: str = "uniform",
    temperature: float = TEMPERATURE,
    **options: Any,
) -> VoteTable:
    """The vote of one probe for each query; `options` are those of `kneighbors`."""
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    distances, rows = kneighbors(support, queries, **options)
    if options.get("metric") == "inner_product":
        distances = -2 * distances  # of rows of norm 1, less 2: their squared distance
    weight = vote_weights(distances, weights, temperature)
    counts: Any = np.zeros((len(rows), len(classes)), dtype=weight.dtype)
    for i, neighbors in enumerate(rows):
        for place, row in enumerate(neighbors):
            counts[i, codes[row]] += weight[i, place]
    winners, tied = majority(counts)
    return VoteTable(classes[winners], tied, counts, classes)


def depth_from_votes(votes: ArrayLike, reference: ArrayLike) -> tuple[Int, NDArray[np.bool_]]:
    """Depth (N,) of votes (L, N) against `reference` (N,), and where it is undefined (N,).

    depth(i) = min { l : votes[m, i] == reference[i] for every m in l..L-1 }; where not even the
    last probe agrees no such l exists: the depth is L and the example is marked undefined.
    """
    votes, reference = np.asarray(votes), np.asarray(reference)
    depth = np.full(votes.shape[1], len(votes), dtype=np.int64)
    for i in range(votes.shape[1]):
        for probe in reversed(range(len(votes))):
            if votes[probe, i] != reference[i]:
                break
            depth[i] = probe
    return depth, depth == len(votes)
