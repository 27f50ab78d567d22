"""The rows of a case: what is searched, by what, for how many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.bench.suite.shapes import CLASSES, Labels, Rows

L2, IP = "sqeuclidean", "inner_product"
LEAST = 60  # rows of a support, however small the sizes


@dataclass(frozen=True)
class Sizes:
    """How many rows a case takes: as many as its name says, or a part of them.

    Attributes:
        divisor: of rows and queries.
        support, queries: the most of a real layer.
    """

    divisor: int = 1
    support: int = 10_000
    queries: int = 2_000

    def rows(self, count: int) -> int:
        return max(LEAST, count // self.divisor)

    def asked(self, count: int) -> int:
        return max(1, count // self.divisor)


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked.

    Attributes:
        support: (M, D) float32. labels: (M,) int64.
        queries: (N, D) float32; None: the support's own rows, each left out of its own neighbours.
        k: how many neighbours.
        metric: L2 or IP.
        batch: queries of a call; the N are asked a batch after the other.
    """

    support: Rows
    labels: Labels
    queries: Rows | None
    k: int
    metric: str = L2
    batch: int = 0

    @property
    def asked(self) -> int:
        """How many queries a call has."""
        return len(self.support) if self.queries is None else self.batch or len(self.queries)

    @property
    def batches(self) -> int:
        """How many calls have queries of their own."""
        return 1 if self.queries is None else max(1, len(self.queries) // self.asked)

    def rows_of(self, batch: int) -> NDArray[np.int64]:
        """The queries of a batch, by their numbers."""
        return np.arange(batch * self.asked, (batch + 1) * self.asked)

    def queries_of(self, batch: int) -> Rows | None:
        """The queries (n, D) of a call."""
        return None if self.queries is None else self.queries[self.rows_of(batch)]

    def small(self) -> Task:
        """The same on a few rows, to warm who answers."""
        rows = min(len(self.support), max(2 * self.k + 2, 256))
        queries = None if self.queries is None else self.queries[:4]
        return replace(
            self, support=self.support[:rows], labels=self.labels[:rows], queries=queries, batch=0
        )


def split(rows: Rows, support: int, **options: Any) -> Task:
    """A task whose support is the first of the rows, labelled at random, and the rest its queries.

    Without a rest the support asks for itself.
    """
    labels = np.random.default_rng(1).integers(0, CLASSES, support)
    queries = rows[support:] if len(rows) > support else None
    return Task(rows[:support], labels, queries, **options)


@lru_cache(maxsize=1)
def normal(rows: int, width: int) -> Rows:
    """Normal rows (n, D): the worst case for whoever hopes for structure."""
    return np.random.default_rng(0).standard_normal((rows, width), np.float32)


@lru_cache(maxsize=1)
def components(rows: int, width: int) -> Rows:
    """Rows as principal components of cells or images are: clusters, the later columns narrower."""
    rng = np.random.default_rng(0)
    scale = (1 + np.arange(width, dtype=np.float32)) ** -0.5
    centres = rng.standard_normal((40, width), np.float32)
    places = centres[rng.integers(0, len(centres), rows)]
    values: Rows = (places + rng.standard_normal((rows, width), np.float32)) * scale
    return values


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of at most so many rows."""
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))
