"""Scores of classes by weighted k-NN: a neighbour's vote weighs exp(product / temperature)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import Index
from pdepth.arrays import arguments
from pdepth.arrays.convert import as_floats, to_numpy
from pdepth.arrays.problem import checked_rows
from pdepth.arrays.rows import shares_memory
from pdepth.native import default_arithmetic
from pdepth.search.voting import count_votes

HELD = 1 << 28  # bytes of neighbours and scores that are held at a time
LEAST = 1024  # queries of a chunk: on a device the rows are packed anew for each


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
        self.num_classes: int = int(num_classes)
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
        # A tensor of a device may be no copy: the caller's own may change.
        copy = checked.on_device or shares_memory(checked, rows)
        self._index = Index(checked.array, metric="inner_product", copy=copy)

    def scores(
        self, queries: Any, ks: Sequence[int], temperature: float
    ) -> Iterator[tuple[slice, list[NDArray[np.float64]]]]:
        """Yield query chunks, and for each k their classes' scores (n, num_classes)."""
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
        queries = as_floats(queries)
        step = max(LEAST, HELD // (32 * max(ks) + 32 * self.num_classes * len(ks)))
        for begin in range(0, len(queries), step):
            chunk = slice(begin, begin + step)
            yield chunk, self._chunk_scores(queries[chunk], ks, temperature)

    @default_arithmetic()
    def _chunk_scores(
        self, queries: Any, ks: Sequence[int], temperature: float
    ) -> list[NDArray[np.float64]]:
        products, near = map(to_numpy, self._index.kneighbors(queries, max(ks)))
        weights: NDArray[np.float64] = np.exp((products - products[:, :1]) / temperature)
        # In the order of the neighbours, for each k.
        counted = count_votes(self._codes, near, self.num_classes, ks, weights, counts=True)
        return list(counted.counts)


@default_arithmetic()
def rank_classes(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order the classes (n, C) by score, largest first; of equal scores the smallest class."""
    order: NDArray[np.int64] = np.argsort(-score, axis=1, kind="stable")
    return order


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise RuntimeError(sentence)
