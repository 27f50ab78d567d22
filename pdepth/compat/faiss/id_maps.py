"""faiss' maps of ids over a flat index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.convert import convert_like, to_numpy
from pdepth.compat.faiss.flat import Named
from pdepth.compat.faiss.rows import into
from pdepth.compat.faiss.selectors import IDSelectorBatch, SearchParameters, members, selected_by


class IndexIDMap(Named):
    """faiss.IndexIDMap: rows of a flat index under the caller's ids (int64), which may repeat.

    Attributes:
        index: the flat index, empty when it is wrapped. id_map: (ntotal,) the ids in order.
    """

    is_trained: bool = True
    verbose: bool = False

    def __init__(self, index: Any) -> None:
        if index.ntotal:
            raise RuntimeError(f"index: expected an empty one, got one of {index.ntotal} rows.")
        self.index = index
        self.id_map: NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def d(self) -> int:
        return int(self.index.d)

    @property
    def ntotal(self) -> int:
        return int(self.index.ntotal)

    @property
    def metric_type(self) -> int:
        return int(self.index.metric_type)

    def train(self, x: Any, **options: Any) -> None:
        """Do nothing: there is nothing to learn."""

    def add(self, x: Any) -> None:
        """Raise RuntimeError, as faiss does: rows need ids."""
        raise RuntimeError("add: expected ids beside the rows; use add_with_ids(x, ids).")

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """Hold a copy of the rows x (n, d) under ids (n,), which are taken as int64."""
        ids = np.array(to_numpy(ids))
        if ids.shape != (len(x),):
            raise AssertionError(f"ids: expected shape ({len(x)},), got {ids.shape}.")
        before = self.id_map
        self.id_map = np.concatenate([before, ids.astype(np.int64)])  # before a search finds rows
        try:
            self.index.add(x)
        except BaseException:
            self.id_map = before
            raise

    def reset(self) -> None:
        """Remove all rows."""
        self.index.reset()
        self.id_map = np.empty(0, np.int64)

    def search(self, x: Any, k: int, params: Any = None, D: Any = None, I: Any = None) -> Any:
        """Search as IndexFlat; selectors and answers are of ids."""
        distances, rows = self.index.search(x, k, self._translated(params), D)
        return distances, into(I, self._ids(rows), "I")

    def assign(self, x: Any, k: int = 1, labels: Any = None) -> Any:
        """Find the ids (n, k) of the k best."""
        return self.search(x, k, I=labels)[1]

    def range_search(self, x: Any, thresh: float, params: Any = None) -> Any:
        """Search as IndexFlat; selectors and answers are of ids."""
        lims, distances, rows = self.index.range_search(x, thresh, self._translated(params))
        return lims, distances, self._ids(rows)

    def search_and_reconstruct(
        self, x: Any, k: int, params: Any = None, D: Any = None, I: Any = None, R: Any = None
    ) -> Any:
        """Search as IndexFlat; selectors and answers are of ids."""
        params = self._translated(params)
        distances, rows, found = self.index.search_and_reconstruct(x, k, params, D, R=R)
        return distances, into(I, self._ids(rows), "I"), found

    def remove_ids(self, sel: Any) -> int:
        """Remove the rows of ids that an IDSelector, or an array, selects; returns how many."""
        removed = members(sel, self.id_map)
        self.index.remove_ids(IDSelectorBatch(np.flatnonzero(removed)))
        self.id_map = self.id_map[~removed]
        return int(removed.sum())

    def merge_from(self, other: Any, add_id: int = 0) -> None:
        """Move the rows of another map behind those of this one, `add_id` added to their ids."""
        self.check_compatible_for_merge(other)
        self.index.merge_from(other.index)
        self.id_map = np.concatenate([self.id_map, other.id_map + add_id])
        other.reset()

    def check_compatible_for_merge(self, other: Any) -> None:
        """Raise RuntimeError for an index of another kind, width or metric."""
        if type(other) is not type(self):
            raise RuntimeError(
                f"other: expected an {type(self).__name__}, got an {type(other).__name__}."
            )
        self.index.check_compatible_for_merge(other.index)

    def _ids(self, rows: Any) -> Any:
        """The ids of rows; -1 for -1."""
        return convert_like(np.append(self.id_map, -1)[to_numpy(rows)], rows)

    def _translated(self, params: Any) -> Any:
        """Parameters that select rows where the caller's select ids."""
        selected = selected_by(params, self.id_map)
        if selected is None:
            return None
        return SearchParameters(IDSelectorBatch(np.flatnonzero(selected)))


class IndexIDMap2(IndexIDMap):
    """faiss.IndexIDMap2, which also copies rows by id; of equal ids the last counts."""

    def reconstruct(self, key: int, x: Any = None) -> Any:
        """Copy the row (d,) of an id. Raises RuntimeError, as faiss does: there is none."""
        return into(x, self.reconstruct_batch(np.array([key]))[0])

    def reconstruct_batch(self, key: Any, x: Any = None) -> Any:
        """Copy the rows (n, d) of ids (n,)."""
        key = np.asarray(to_numpy(key), np.int64)
        order = np.argsort(self.id_map, kind="stable")
        ascending = self.id_map[order]
        place = np.searchsorted(ascending, key, side="right") - 1
        missing = key[(place < 0) | (ascending[place] != key)] if len(order) else key
        if len(missing):
            raise RuntimeError(f"key: expected ids that are held, got {missing[0]}.")
        return self.index.reconstruct_batch(order[place] if len(order) else key, x)

    def construct_rev_map(self) -> None:
        """Do nothing: ids are looked up in `id_map`."""

    def check_consistency(self) -> None:
        """Raise RuntimeError where there are not as many ids as rows."""
        if len(self.id_map) != self.ntotal:
            raise RuntimeError(
                f"id_map: expected {self.ntotal} ids, one a row, got {len(self.id_map)}."
            )
