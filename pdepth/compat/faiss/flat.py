"""faiss' flat indexes, over `pdepth.Index`: rows are packed once, when they are first searched."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import Index
from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.arrays.problem import checked_rows
from pdepth.arrays.rows import is_torch
from pdepth.compat.faiss.rows import (
    METRIC_INNER_PRODUCT,
    METRIC_L2,
    answer,
    as_count,
    as_rows,
    check_metric,
    copied,
    found_once,
    held,
    into,
)
from pdepth.compat.faiss.selectors import members, selected_by
from pdepth.compat.shared.pairwise import pair_sums, squared_differences
from pdepth.compat.shared.radius import DistanceIndex, products_above
from pdepth.native import default_arithmetic, default_threads

THREADS: list[int | None] = [None]  # of searches; None: the process's share of the cores


class Named:
    """Says what there is where something is asked for that is not here."""

    def __getattr__(self, name: str) -> Any:
        kind = type(self)
        there = ", ".join(sorted(each for each in dir(kind) if each[0] != "_"))
        raise AttributeError(
            f"{kind.__name__}: no attribute {name!r} in pdepth.compat.faiss, which has {there}; "
            "for others use faiss itself."
        )


class IndexFlat(Named):
    """faiss.IndexFlat: holds rows, and finds the k best of all of them for each query.

    Attributes:
        d: columns. ntotal: rows held. metric_type: METRIC_L2 or METRIC_INNER_PRODUCT.
    """

    is_trained: bool = True
    verbose: bool = False
    metric_arg: float = 0.0
    d: int
    metric_type: int

    def __init__(self, d: int, metric: int = METRIC_L2) -> None:
        check_metric(metric)
        self.d, self.metric_type = int(d), int(metric)
        self._held: Index | None = None

    @property
    def ntotal(self) -> int:
        return len(self.rows)

    @property
    def rows(self) -> Any:
        """(ntotal, d) float32, not to be written to; of the kind that was added first."""
        return np.empty((0, self.d), dtype=np.float32) if self._held is None else self._held.rows

    def train(self, x: Any, **options: Any) -> None:
        """Do nothing: there is nothing to learn."""

    def add(self, x: Any) -> None:
        """Hold a copy of the rows x (n, d) too, numbered on from `ntotal`; NaN is a ValueError."""
        x = as_rows(x, "x", self.d)
        if self._held is not None:
            self._held.add(x)
        elif len(x):
            self._held = held(x, self.metric_type)

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """Raise RuntimeError, as faiss does: rows are numbered; IndexIDMap gives them ids."""
        raise RuntimeError(
            f"add_with_ids: expected an index that keeps ids, got an {type(self).__name__}; use "
            "IndexIDMap(index)."
        )

    def reset(self) -> None:
        """Remove all rows."""
        self._held = None

    def search(self, x: Any, k: int, params: Any = None, D: Any = None, I: Any = None) -> Any:
        """Find distances, or products, (n, k) float32 and rows (n, k) int64, best first.

        Args:
            params: SearchParameters(sel=...), which rows are looked at.
            D, I: arrays to write the answers to.

        Raises:
            AssertionError: as faiss does, x has not d columns, or k is below 1.
            TypeError: k is no integer. ValueError: NaN.
        """
        x = as_rows(x, "x", self.d)
        k = as_count(k)
        found = self._found(x, k, self._selected(params)) if len(x) else None
        distances, rows = convert_like(answer(found, (len(x), k), self.metric_type), x)
        return into(D, distances, "D"), into(I, rows, "I")

    def _selected(self, params: Any) -> NDArray[np.int64] | None:
        """The rows that a search looks at, ascending; None for all."""
        selected = selected_by(params, np.arange(self.ntotal))
        return None if selected is None else np.flatnonzero(selected)

    def _found(self, x: Any, k: int, rows: NDArray[np.int64] | None) -> Any:
        """Values and rows of the min(k, rows) best; None where there is no row."""
        k = min(k, self.ntotal if rows is None else len(rows))
        if k == 0 or self._held is None:
            return None
        if rows is None:
            return self._held.kneighbors(x, k, num_threads=THREADS[0])
        values, near = found_once(self.rows[rows], x, k, self.metric_type, THREADS[0])
        return values, rows[to_numpy(near)]

    def assign(self, x: Any, k: int = 1, labels: Any = None) -> Any:
        """Find the rows (n, k) of the k best."""
        return self.search(x, k, I=labels)[1]

    def range_search(self, x: Any, thresh: float, params: Any = None) -> Any:
        """Find all rows nearer than `thresh`, or of larger products.

        Returns:
            lims (n + 1,), D (total,) float32 and I (total,) int64: query i has the entries from
            lims[i] to lims[i + 1], ascending by row. lims are uint64, of tensors int64.
        """
        x = as_rows(x, "x", self.d)
        numbers = self._selected(params)
        rows = to_numpy(self.rows if numbers is None else self.rows[numbers])
        queries, threads = to_numpy(x), THREADS[0] or default_threads()
        found = _within(rows, queries, thresh, self.metric_type, threads) if rows.size else []
        sizes = np.array([len(near) for near in found] or [0] * len(x), dtype=np.int64)
        near = np.concatenate([np.empty(0, np.int64), *found])
        products = self.metric_type == METRIC_INNER_PRODUCT
        terms = np.multiply if products else squared_differences
        asked = np.repeat(np.arange(len(x)), sizes)
        values = pair_sums(terms, rows, queries, near, asked, threads)
        with default_arithmetic(), np.errstate(over="ignore"):
            distances = values.astype(np.float32)
        lims = np.concatenate([[0], np.cumsum(sizes)]).astype("int64" if is_torch(x) else "uint64")
        return convert_like((lims, distances, near if numbers is None else numbers[near]), x)

    def search_and_reconstruct(
        self, x: Any, k: int, params: Any = None, D: Any = None, I: Any = None, R: Any = None
    ) -> Any:
        """Search, and copy the rows found (n, k, d); NaN where there is none."""
        distances, rows = self.search(x, k, params, D, I)
        numbers = to_numpy(rows)
        found = np.full((*numbers.shape, self.d), np.nan, np.float32)
        found[numbers >= 0] = to_numpy(self.reconstruct_batch(numbers[numbers >= 0]))
        return distances, rows, into(R, convert_like(found, rows), "R")

    def reconstruct(self, key: int, x: Any = None) -> Any:
        """Copy a row (d,), into x if given. Raises RuntimeError, as faiss does: there is none."""
        return into(x, self.reconstruct_batch(np.array([int(key)]))[0])

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: Any = None) -> Any:
        """Copy the rows (ni, d) from n0 on, all of them for -1."""
        ni = self.ntotal - n0 if ni < 0 else ni
        if not 0 <= n0 <= n0 + ni <= self.ntotal:
            raise RuntimeError(
                f"n0, ni: expected rows below ntotal, {self.ntotal}, got rows {n0} to "
                f"{n0 + ni - 1}."
            )
        return into(x, copied(self.rows[n0 : n0 + ni]))

    def reconstruct_batch(self, key: Any, x: Any = None) -> Any:
        """Copy the rows (n, d) of the numbers key (n,)."""
        key = np.asarray(to_numpy(key), np.int64)
        wrong = key[(key < 0) | (key >= self.ntotal)]
        if len(wrong):
            raise RuntimeError(
                f"key: expected rows below ntotal, {self.ntotal}, got row {wrong[0]}."
            )
        return into(x, self.rows[key])

    def remove_ids(self, sel: Any) -> int:
        """Remove the rows that an IDSelector, or an array of numbers, selects; returns how many.

        Those that remain move up, and are packed anew.
        """
        removed = members(sel, np.arange(self.ntotal))
        if removed.any():
            kept = self.rows[np.flatnonzero(~removed)]
            self._held = held(kept, self.metric_type) if len(kept) else None
        return int(removed.sum())

    def merge_from(self, other: Any, add_id: int = 0) -> None:
        """Move the rows of another index behind those of this one.

        Raises RuntimeError, as faiss does, for another kind of index, and for `add_id`, since rows
        are numbered.
        """
        self.check_compatible_for_merge(other)
        if add_id:
            raise RuntimeError(
                f"add_id: expected 0, got {add_id}; rows are numbered: use IndexIDMap for ids."
            )
        if other.ntotal:
            self.add(other.rows)
            other.reset()

    def check_compatible_for_merge(self, other: Any) -> None:
        """Raise RuntimeError for an index of another kind, width or metric."""
        for name in ("d", "metric_type"):
            if getattr(other, name) != getattr(self, name):
                raise RuntimeError(
                    f"other: expected {name} {getattr(self, name)}, got {getattr(other, name)}."
                )

    def compute_residual(self, x: Any, key: int) -> Any:
        """Subtract row `key` from x (d,)."""
        return as_rows(x[None], "x", self.d)[0] - self.reconstruct(key)

    @property
    def code_size(self) -> int:
        """Bytes of a row."""
        return 4 * self.d


class IndexFlatL2(IndexFlat):
    """faiss.IndexFlatL2: by squared distance."""

    def __init__(self, d: int) -> None:
        super().__init__(d, METRIC_L2)


class IndexFlatIP(IndexFlat):
    """faiss.IndexFlatIP: by inner product, which of rows of norm one is the cosine."""

    def __init__(self, d: int) -> None:
        super().__init__(d, METRIC_INNER_PRODUCT)


def _within(
    rows: NDArray[np.float32],
    queries: NDArray[np.float32],
    thresh: float,
    metric: int,
    threads: int,
) -> list[NDArray[np.int64]]:
    """Each query's rows of distances, rounded to float32, below `thresh`, or products above."""
    if len(queries):
        checked_rows(queries, "x")  # refuses NaN and infinity
    products = metric == METRIC_INNER_PRODUCT
    limit = _largest_below(-thresh if products else thresh)
    if np.isnan(limit):  # nothing is below
        return [np.empty(0, np.int64)] * len(queries)
    if products:
        return list(products_above(rows, queries, -limit, threads))
    return list(DistanceIndex(rows, threads).radius_neighbors(queries, limit))


@default_arithmetic()
def _largest_below(thresh: float) -> float:
    """The largest float64 that float32 rounds to less than `thresh`; NaN where there is none."""
    with np.errstate(over="ignore"):
        bound = np.float32(thresh)
    if np.isnan(bound) or bound == -np.inf:
        return float("nan")
    with np.errstate(over="ignore"):
        below = np.nextafter(bound, np.float32(-np.inf))
    if bound == np.inf:  # where float64 rounds to infinity
        limit = float(np.finfo(np.float32).max) + 2.0**103
    elif below == -np.inf:
        limit = -float(np.finfo(np.float32).max) - 2.0**103
    else:
        limit = (float(below) + float(bound)) / 2
    with np.errstate(over="ignore"):
        rounds_below = np.float32(limit) < bound
    return limit if rounds_below else float(np.nextafter(limit, -np.inf))
