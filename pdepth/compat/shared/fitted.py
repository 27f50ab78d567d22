"""The rows that an estimator was fitted on, as an index that is made when it is first asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.arrays.problem import ZeroNormError
from pdepth.native import ForkLock
from pdepth.search.index import ChangedRowsError, Index


class FittedRows:
    """Rows (M, D) and labels (M,), or None, of an estimator; the first query makes their index.

    The rows are the caller's, not copied. Where a query finds that they were changed the index is
    made anew; changes that its sample of rows misses are not seen.

    Pickles and copies hold rows and labels alone. Any number of threads may query.
    """

    rows: Any
    labels: Any
    metric: str

    def __init__(self, rows: Any, labels: Any = None, *, metric: str = "sqeuclidean") -> None:
        if isinstance(rows, np.memmap):
            rows = np.asarray(rows)  # in memory, as far as the system keeps it there
        self.rows, self.labels, self.metric = rows, labels, metric
        self._begin()

    def _begin(self) -> None:
        """Have nothing but rows and labels."""
        self._lock = ForkLock()
        self._index: Index | None = None
        self._refused: ZeroNormError | None = None  # what made the index impossible

    @property
    def nbytes(self) -> int:
        """Bytes of the index, of rows and of what is packed by now; 0 before the first query."""
        index = self._index
        return 0 if index is None else index.nbytes

    def kneighbors(self, queries: Any, **options: Any) -> Any:
        """Search as `Index.kneighbors`. Raises ZeroNormError for a row that has no cosine."""
        return self._asked("kneighbors", queries, options)

    def votes(self, queries: Any, **options: Any) -> Any:
        """Vote as `Index.votes`. Raises ZeroNormError for a row that has no cosine."""
        return self._asked("votes", queries, options)

    def _asked(self, method: str, queries: Any, options: dict[str, Any]) -> Any:
        index = self._opened()
        try:
            return getattr(index, method)(queries, **options)
        except ChangedRowsError:
            with self._lock:
                if self._index is index:  # which another thread may have made anew by now
                    self._index = None
            return getattr(self._opened(), method)(queries, **options)

    def _opened(self) -> Index:
        with self._lock:
            if self._refused is not None:
                raise self._refused
            if self._index is None:
                try:
                    self._index = Index(self.rows, self.labels, metric=self.metric, copy=False)
                except ZeroNormError as error:
                    self._refused = error
                    raise
            return self._index

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows, "labels": self.labels, "metric": self.metric}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()
