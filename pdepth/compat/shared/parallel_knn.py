"""aucurriculum's k-NN classifier, for its drop-in and for the scoring function built on it."""

from __future__ import annotations

from typing import Any

import pdepth
from pdepth.arrays.rows import is_torch

__all__ = ["ParallelKNN"]


class ParallelKNN:
    """The majority class of the `n_neighbors` nearest rows, by Euclidean distance.

    Args:
        n_neighbors: how many vote.
        batch_size, progress_bar: accepted; pdepth divides the work itself and draws no bar.
        device: where distances are computed; rows that lie elsewhere are copied to it.

    Attributes:
        x, y: the rows and labels passed to `fit`. num_classes: the greatest label plus one.
    """

    n_neighbors: int
    batch_size: int
    device: Any
    progress_bar: bool
    num_classes: Any

    def __init__(
        self, n_neighbors: int, batch_size: int, device: Any, progress_bar: bool = True
    ) -> None:
        self.n_neighbors, self.batch_size = n_neighbors, batch_size
        self.device, self.progress_bar = device, progress_bar
        self.x: Any = None
        self.y: Any = None

    def fit(self, x: Any, y: Any) -> None:
        """Hold the rows x (M, D) and labels y (M,), tensors, without a copy."""
        self.x, self.y = x, y
        self.num_classes = y.max().item() + 1

    def predict(self, x: Any) -> Any:
        """Predict the class (N,) int64 of each row of x (N, D), a tensor on the CPU.

        Raises:
            ValueError: `fit` was not called, or NaN.
            RuntimeError: as torch does, widths differ or fewer rows are held than have to vote.
        """
        if self.x is None or self.y is None:
            raise ValueError("ParallelKNN: expected a fitted classifier; call fit(x, y) first.")
        if x.ndim != 2 or x.shape[1:] != self.x.shape[1:]:
            raise RuntimeError(
                f"x: expected shape (N, D) as the rows of fit, {tuple(self.x.shape)}, got "
                f"{tuple(x.shape)}."
            )
        if self.n_neighbors > len(self.x):
            raise RuntimeError(
                f"n_neighbors: expected at most {len(self.x)}, the rows of fit, got "
                f"{self.n_neighbors}."
            )
        # Rows that are queries too are moved, and packed, once.
        support = self.x.detach().to(self.device)
        queries = None if x is self.x else x.detach().to(self.device)
        votes = pdepth.probe_votes(
            support, self.y, queries, k=self.n_neighbors, exclude_self=False
        ).votes
        assert is_torch(votes)  # as the rows are
        return votes.cpu()
