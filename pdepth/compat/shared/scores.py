"""How much each class weighs among the rows of largest products: exp(product / temperature)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.arrays.problem import checked_rows
from pdepth.arrays.rows import is_torch
from pdepth.compat.shared.products import Lifted

EPSILON = float(np.finfo(np.float64).eps)
SMALL = 1e-290  # a weight below it has lost bits, or soon will
HELD = 1 << 28  # bytes of neighbours and scores that are held at a time
LEAST = 1024  # queries of a stretch: each has the rows packed anew

Doubtful = Callable[["list[NDArray[np.float64]]", "NDArray[np.float64]"], "NDArray[np.bool_]"]
"""Of scores (N, C) of each k, true to a relative error (N,): which queries those do not decide."""


class Bank:
    """Rows that vote, prepared once, and copied.

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
        _refuse(len(shape) != 2, f"the bank has shape {shape}; two dimensions are wanted.")
        self._type = rows.dtype
        rows = _numbers(rows)
        self._codes: NDArray[np.int64] = np.array(to_numpy(labels))  # a copy, as the rows'
        _refuse(
            self._codes.shape != (len(rows),),
            f"the labels have shape {tuple(self._codes.shape)}; one for each of {len(rows)} rows "
            "is wanted.",
        )
        _refuse(
            self._codes.dtype.kind not in "iu",
            f"the labels are of type {self._codes.dtype}; integers are wanted.",
        )
        wrong = self._codes[(self._codes < 0) | (self._codes >= self.num_classes)]
        _refuse(
            bool(len(wrong)),
            f"the labels hold {wrong[:1]}; classes from 0 to {self.num_classes - 1} are wanted.",
        )
        checked_rows(rows, "support (the bank)")
        self._lifted, self._width = Lifted(rows), rows.shape[1]

    def scores(
        self, queries: Any, ks: Sequence[int], temperature: float, doubtful: Doubtful
    ) -> Iterator[tuple[slice, list[NDArray[np.float64]]]]:
        """Stretches of the queries, and of each k their classes' scores (n, num_classes).

        Scores are near those of the rule; where `doubtful` says that this does not decide what is
        asked of them, they are those of the rule to the bit.
        """
        _refuse(
            queries.ndim != 2 or queries.shape[1] != self._width,
            f"the features have shape {tuple(queries.shape)}; (rows, {self._width}) is wanted.",
        )
        _refuse(
            queries.dtype != self._type,
            f"the features are of type {queries.dtype} and the bank's of {self._type}; "
            "equal types are wanted.",
        )
        for k in ks:
            _refuse(
                not 0 < k <= len(self._lifted),
                f"k is {k}; from 1 to {len(self._lifted)}, the bank's rows, is wanted.",
            )
        _refuse(len(queries) == 0, "the features have no rows; at least one is wanted.")
        temperature = arguments.check_voting(1, "exp", temperature).temperature
        asked = to_numpy(_numbers(queries))
        step = max(LEAST, HELD // (32 * max(ks) + 32 * self.num_classes * len(ks)))
        for begin in range(0, len(asked), step):
            part = slice(begin, begin + step)
            yield part, self._stretch(asked[part], ks, temperature, doubtful)

    def _stretch(
        self, asked: NDArray[Any], ks: Sequence[int], temperature: float, doubtful: Doubtful
    ) -> list[NDArray[np.float64]]:
        most, rows = max(ks), len(self._lifted)
        distances, near, margin = self._lifted.near(asked, min(most + 1, rows))
        products = self._lifted.products(asked, distances[:, :most])
        weights = _weights(products, temperature)
        scores = [self._summed(weights, near, k) for k in ks]
        # Two products are each a quarter of the margin off; what the arguments of exp and its
        # values are rounded by, and the sums; of ours, and of the rule's.
        slack = np.expm1(margin / (2 * temperature) + 4096 * EPSILON) + 2 * (most + 8) * EPSILON
        unsure = doubtful(scores, slack) | (weights[:, -1] < SMALL) | ~(slack < 1)
        for k in ks:  # which rows are the k nearest
            if k < rows:
                unsure |= distances[:, k] - distances[:, k - 1] <= margin
        if unsure.any():
            products, near = self._lifted.largest(asked[unsure], most)
            weights = _weights(products, temperature)
            for k, score in zip(ks, scores, strict=True):
                score[unsure] = self._summed(weights, near, k)
        return scores

    def _summed(
        self, weights: NDArray[np.float64], near: NDArray[np.int64], k: int
    ) -> NDArray[np.float64]:
        """(n, num_classes) sums of the k first weights, in their order."""
        places = np.arange(len(near))[:, None] * self.num_classes + self._codes[near[:, :k]]
        sums: NDArray[Any] = np.bincount(
            places.ravel(), weights[:, :k].ravel(), len(near) * self.num_classes
        )
        return sums.reshape(len(near), self.num_classes)


def ranked(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """The classes (n, C), those of largest score first, of equal scores the smallest class."""
    order: NDArray[np.int64] = np.argsort(-score, axis=1, kind="stable")
    return order


def rank_in_doubt(
    scores: list[NDArray[np.float64]], slack: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whose scores, known to `slack`, are too near to each other to tell the order of classes."""
    doubt = np.zeros(len(slack), dtype=np.bool_)
    for score in scores:
        falling = -np.sort(-score, axis=1)
        above, below = falling[:, :-1], falling[:, 1:]
        # Two classes without neighbours are not in doubt: each is 0.
        doubt |= ((above - below <= slack[:, None] * (above + below)) & (above > 0)).any(axis=1)
    return doubt


def _weights(products: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp((products - products[:, :1]) / temperature)
    return weights


def _numbers(rows: Any) -> Any:
    """As `Lifted` takes them: float32 or float64, of the same kind."""
    name = str(rows.dtype).removeprefix("torch.")
    wanted = "float32" if name in ("float16", "bfloat16", "float32") else "float64"
    if not is_torch(rows):
        return rows.astype(wanted, copy=False)
    rows = rows.detach()
    return rows.double() if wanted == "float64" else rows.float()


def _refuse(wrong: bool, sentence: str) -> None:
    if wrong:
        raise RuntimeError(sentence)
