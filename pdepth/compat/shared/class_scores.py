"""Scores of classes by weighted k-NN: a neighbour's vote weighs exp(product / temperature)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import Index
from pdepth.arrays import arguments
from pdepth.arrays.convert import as_floats, to_numpy
from pdepth.arrays.problem import checked_rows
from pdepth.arrays.rows import shares_memory
from pdepth.compat.shared.inner_products import InnerProductIndex, is_on_device
from pdepth.native import default_arithmetic
from pdepth.search.voting import count_votes

EPSILON = float(np.finfo(np.float64).eps)
SMALL = 1e-290  # a weight below it has lost bits, or soon will
HELD = 1 << 28  # bytes of neighbours and scores that are held at a time
LEAST = 1024  # queries of a chunk: on a device the rows are packed anew for each

Uncertain = Callable[["list[NDArray[np.float64]]", "NDArray[np.float64]"], "NDArray[np.bool_]"]
"""Takes scores (N, C) of each k, true to a relative error (N,); which queries these do not decide.
"""


class FeatureBank:
    """Rows that vote, copied and prepared once.

    The rule: neighbours are the k rows of largest inner product with the query, in the order
    (product descending, row); each weighs exp((product - largest product) / temperature), and a
    class adds up its neighbours' weights in their order, all of it in float64. That is the rule of
    Wu et al., arXiv 1805.01978, and of the evaluations of DINO and lightly, but for a factor common
    to a query's neighbours, without which large products would overflow.

    Args:
        rows: (M, D) tensor or array; float16 and bfloat16 are widened, integers become float64.
        labels: (M,) integers from 0 to num_classes - 1.

    Raises:
        RuntimeError: as torch does, for shapes that do not fit, and for labels that are no class.
        ValueError: NaN or infinity.
    """

    def __init__(self, rows: Any, labels: Any, num_classes: int) -> None:
        self.num_classes = int(num_classes)
        shape = tuple(rows.shape)
        _require(len(shape) == 2, f"bank: expected shape (M, D), got {shape}.")
        self._dtype = rows.dtype
        rows = as_floats(rows)
        labels = to_numpy(labels)
        _require(
            labels.shape == (len(rows),),
            f"labels: expected shape ({len(rows)},), one for each row of the bank, got "
            f"{labels.shape}.",
        )
        _require(
            labels.dtype.kind in "iu",
            f"labels: expected integers, got elements of type {labels.dtype}.",
        )
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        _require(
            not len(outside),
            f"labels: expected classes from 0 to {self.num_classes - 1}, got {outside[:1]}.",
        )
        self._codes = labels.astype(np.int32)  # a copy, as the rows'
        checked = checked_rows(rows, "bank")  # refuses NaN and infinity
        self._width = checked.width
        self._index: InnerProductIndex | Index = (
            InnerProductIndex(rows)
            if is_on_device(rows)
            else Index(checked.array, metric="inner_product", copy=shares_memory(checked, rows))
        )

    def scores(
        self, queries: Any, ks: Sequence[int], temperature: float, uncertain: Uncertain
    ) -> Iterator[tuple[slice, list[NDArray[np.float64]]]]:
        """Yield query chunks, and for each k their classes' scores (n, num_classes).

        Scores are near those of the rule; where `uncertain` says that this does not decide what
        they are used for, they are those of the rule to the bit.
        """
        shape = tuple(queries.shape)
        _require(
            len(shape) == 2 and shape[1] == self._width,
            f"features: expected shape (N, {self._width}) as in the bank, got {shape}.",
        )
        _require(
            queries.dtype == self._dtype,
            f"features: expected type {self._dtype} as in the bank, got {queries.dtype}.",
        )
        rows = len(self._index)
        for k in ks:
            _require(
                0 < k <= rows,
                f"k: expected an integer from 1 to {rows}, the rows of the bank, got {k}.",
            )
        _require(len(queries) > 0, "features: expected at least one row, got none.")
        temperature = arguments.check_voting(1, "exp", temperature).temperature
        queries = to_numpy(as_floats(queries))
        step = max(LEAST, HELD // (32 * max(ks) + 32 * self.num_classes * len(ks)))
        for begin in range(0, len(queries), step):
            chunk = slice(begin, begin + step)
            yield chunk, self._chunk_scores(queries[chunk], ks, temperature, uncertain)

    @default_arithmetic()
    def _chunk_scores(
        self, queries: NDArray[Any], ks: Sequence[int], temperature: float, uncertain: Uncertain
    ) -> list[NDArray[np.float64]]:
        largest_k, rows = max(ks), len(self._index)
        if isinstance(self._index, Index):
            products, near = map(to_numpy, self._index.kneighbors(queries, largest_k))
            weights = _weights(products, temperature)
            return self._sums(weights, near, ks)
        distances, near, margin = self._index.candidates(queries, min(largest_k + 1, rows))
        products = self._index.approximate_products(queries, distances[:, :largest_k])
        weights = _weights(products, temperature)
        scores = self._sums(weights, near, ks)
        # Two products are each a quarter of the margin off; what the arguments of exp and its
        # values are rounded by, and the sums; of those here, and of the rule's.
        error = np.expm1(margin / (2 * temperature) + 4096 * EPSILON)
        error += 2 * (largest_k + 8) * EPSILON
        recompute = uncertain(scores, error) | (weights[:, -1] < SMALL) | ~(error < 1)
        for k in ks:  # which rows are the k nearest
            if k < rows:
                recompute |= distances[:, k] - distances[:, k - 1] <= margin
        if recompute.any():
            products, near = self._index.search(queries[recompute], largest_k)
            weights = _weights(products, temperature)
            for score, exact in zip(scores, self._sums(weights, near, ks), strict=True):
                score[recompute] = exact
        return scores

    def _sums(
        self, weights: NDArray[np.float64], near: NDArray[np.int64], ks: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """Add up the first weights of each class (n, num_classes), in their order, for each k."""
        near = near[:, : weights.shape[1]]
        counted = count_votes(self._codes, near, self.num_classes, ks, weights, counts=True)
        return list(counted.counts)


@default_arithmetic()
def rank_classes(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order the classes (n, C) by score, largest first; of equal scores the smallest class."""
    order: NDArray[np.int64] = np.argsort(-score, axis=1, kind="stable")
    return order


def ranking_uncertain(
    scores: list[NDArray[np.float64]], error: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which queries' scores are too near to each other for the order of their classes.

    Args:
        scores: (n, C) of each k. error: (n,) their relative error.
    """
    result = np.zeros(len(error), dtype=np.bool_)
    for score in scores:
        descending = -np.sort(-score, axis=1)
        above, below = descending[:, :-1], descending[:, 1:]
        # Two classes without neighbours are certain: each is 0.
        close = above - below <= error[:, None] * (above + below)
        result |= (close & (above > 0)).any(axis=1)
    return result


def _weights(products: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp((products - products[:, :1]) / temperature)
    return weights


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise RuntimeError(sentence)
