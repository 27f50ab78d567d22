"""The gate of every benchmark: votes equal the definition's before a number is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition


def definition_votes(
    support: Any,
    labels: NDArray[np.int64],
    queries: Any,
    k: int,
    query_rows: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The definition's votes (N,), computed in chunks of the support, so that wide layers fit.

    Args:
        support, labels: (M, D) rows and their labels (M,).
        queries: (N, D) rows.
        k: how many neighbours vote.
        query_rows: (N,) the support row that each query is, left out of its own vote.
    """
    rows = definition.as_rows(queries)
    step = max(1, 2**24 // rows.shape[1])
    chunks = (definition.as_rows(support[at : at + step]) for at in range(0, len(support), step))
    distances = np.concatenate(
        [[definition.squared_distances(chunk, row) for row in rows] for chunk in chunks], axis=1
    )
    classes, codes = np.unique(labels, return_inverse=True)
    own_rows = [None] * len(rows) if query_rows is None else query_rows.tolist()
    neighbors = [
        codes[definition.nearest(row, k, own)] for row, own in zip(distances, own_rows, strict=True)
    ]
    counts = np.stack([np.bincount(near, minlength=len(classes)) for near in neighbors])
    return classes[definition.majority(counts)[0]]


def first_difference(result: NDArray[Any], expected: NDArray[Any]) -> tuple[int, str]:
    """How many elements (N,) differ, and in words where the first does."""
    wrong = np.flatnonzero(result != expected)
    if not len(wrong):
        return 0, ""
    first = wrong[0]
    return len(wrong), f", the first at {first}: {result[first]} for {expected[first]}"


def products_of(support: Any, queries: Any) -> Iterator[NDArray[np.float64]]:
    """Each query's products (M,) with the support, by the definition's sum."""
    rows = definition.as_rows(support)
    for query in definition.as_rows(queries):
        yield definition.total(rows * query)


def largest(products: NDArray[np.float64], k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k largest, and their rows."""
    rows = definition.nearest(-products, k)
    return products[rows], rows


def class_ranks(
    support: Any, labels: NDArray[np.int64], queries: Any, k: int, temperature: float
) -> NDArray[np.int64]:
    """The classes (N, C) of each query, best first, as lightly's `knn_predict` ranks them.

    Each of the k largest products x counts exp(x / temperature) for its label.
    """
    scores = np.zeros((len(queries), int(labels.max()) + 1))
    for score, products in zip(scores, products_of(support, queries), strict=True):
        near, rows = largest(products, k)
        np.add.at(score, labels[rows], np.exp((near - near[0]) / temperature))
    ranks: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")
    return ranks
