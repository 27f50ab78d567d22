"""pytorch-metric-learning's nearest neighbours, with pdepth's search.

    from pdepth.compat.metric_learning import FaissKNN, knn_func

    calculator = AccuracyCalculator(knn_func=knn_func)
    model = InferenceModel(trunk, knn_func=FaissKNN(reset_before=False, reset_after=False))

Neither pytorch-metric-learning nor faiss is needed, but faiss for `save` and `load`. As there, rows
are taken as float32 and distances are squared. What differs is what differs from faiss, see
`pdepth.compat.faiss`: distances are exact, and equally near rows come in the order of their
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pdepth.arrays.convert import drop_self, to_numpy
from pdepth.compat.faiss import IndexFlatL2
from pdepth.optional import require

__all__ = ["FaissKNN", "knn_func"]


class FaissKNN:
    """pytorch-metric-learning's `FaissKNN`: `(query, k, reference)` -> distances, rows.

    Args:
        reset_before, reset_after: begin and end each call with no rows; both False for an index
            that is filled by `train` and `add`.
        index_init_fn: makes an index of a width, by default `pdepth.compat.faiss.IndexFlatL2`.
        gpus: checked and not used: a search runs where the rows are.
    """

    reset_before: bool
    reset_after: bool
    gpus: list[int] | tuple[int, ...] | None

    def __init__(
        self,
        reset_before: bool = True,
        reset_after: bool = True,
        index_init_fn: Callable[[int], Any] | None = None,
        gpus: Sequence[int] | None = None,
    ) -> None:
        if gpus is not None and not isinstance(gpus, list | tuple):
            raise TypeError(f"gpus: expected a list, got {type(gpus).__name__}.")
        if gpus is not None and not gpus:
            raise ValueError("gpus: expected at least one, got an empty list.")
        self.reset_before, self.reset_after, self.gpus = reset_before, reset_after, gpus
        self.index_init_fn: Callable[[int], Any] = (
            IndexFlatL2 if index_init_fn is None else index_init_fn
        )
        self.index: Any = None

    def __call__(
        self, query: Any, k: int, reference: Any = None, ref_includes_query: bool = False
    ) -> tuple[Any, Any]:
        """Find squared distances (N, k) float32 and rows (N, k) int64, on the queries' device.

        Args:
            query: (N, D). reference: (M, D), added to the rows that are held.
            ref_includes_query: the first N rows are the queries: each is left out by its number.

        Raises:
            ValueError: there is no index, or NaN.
            AssertionError, RuntimeError: as faiss does, widths differ, or k is below 1.
        """
        if self.reset_before:
            self.index = self.index_init_fn(query.shape[1])
        if self.index is None:
            raise ValueError("index is None: expected rows; call train(...) or load(...) first.")
        if reference is not None:
            self.index.add(reference)
        k += bool(ref_includes_query)
        if k < 1:  # of tensors, faiss raises this
            raise RuntimeError(f"k: expected an integer >= 1, got {k}.")
        distances, rows = self.index.search(query, k)
        if self.reset_after:
            self.reset()
        return drop_self(distances, rows) if ref_includes_query else (distances, rows)

    def train(self, embeddings: Any) -> None:
        """Hold the rows (M, D), and no others."""
        self.index = self.index_init_fn(embeddings.shape[1])
        self.add(embeddings)

    def add(self, embeddings: Any) -> None:
        """Hold the rows (M, D) too."""
        self.index.add(embeddings)

    def save(self, filename: str) -> None:
        """Write the rows to a file, as faiss writes an IndexFlatL2."""
        library = require("faiss", "FaissKNN.save", "faiss")
        index = library.IndexFlatL2(self.index.d)
        index.add(to_numpy(self.index.rows))
        library.write_index(index, filename)

    def load(self, filename: str) -> None:
        """Hold the rows of a file that `save`, or faiss, has written."""
        index = require("faiss", "FaissKNN.load", "faiss").read_index(filename)
        self.train(index.reconstruct_n(0, index.ntotal))

    def reset(self) -> None:
        """Hold no index."""
        self.index = None


def knn_func(
    query: Any, k: int, reference: Any, ref_includes_query: bool = False
) -> tuple[Any, Any]:
    """Find neighbours as `FaissKNN()` does, without holding rows between calls."""
    return FaissKNN()(query, k, reference, ref_includes_query)
