"""aucurriculum's k-NN classifier by pdepth's engine: `ParallelKNN`, with its arguments and votes.

    from pdepth.compat.aucurriculum import ParallelKNN

or, for its prediction depth too and in a whole program, `pdepth.compat.aucurriculum.patch()`, and
`unpatch()`; configurations stay as they are. One whose `_target_` is
`pdepth.compat.aucurriculum_scoring.PredictionDepth` needs none.

aucurriculum itself is needed by `patch` alone. As there, a row that is asked about itself votes for
itself too, of tied classes the smallest label wins, and votes come back on the CPU.

What differs. Neighbours come in the order (distance in float64, row). aucurriculum takes distances
from products in float32, so that neighbours nearer to each other than its rounding may swap, and
leaves the order of ties to `torch.topk`. NaN is an error, not a row without neighbours. Labels may
be any integers.
"""

from __future__ import annotations

from typing import Any

import pdepth
from pdepth.arrays.rows import is_torch
from pdepth.compat.shared.patching import Pairs, Patch
from pdepth.optional import require

__all__ = ["ParallelKNN", "patch", "unpatch"]

SCORING = "aucurriculum.curricula.scoring"
DEFINED = ("prediction_depth", "utils")  # where it has PredictionDepth and ParallelKNN


class ParallelKNN:
    """The majority class of the `n_neighbors` nearest rows, by Euclidean distance.

    Args:
        n_neighbors: how many vote.
        batch_size, progress_bar: accepted; the engine divides the work itself and draws no bar.
        device: where distances are computed; rows that lie elsewhere are copied to it.

    Attributes:
        x, y: what `fit` was given. num_classes: the greatest label and one.
    """

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
        """The class (N,) int64 of each row of x (N, D), a tensor on the CPU.

        Raises ValueError where `fit` was not called, or for NaN; RuntimeError, as torch does, where
        widths differ or fewer rows are held than have to vote.
        """
        if self.x is None or self.y is None:
            raise ValueError("predict is asked of a ParallelKNN that has not been fitted.")
        if x.ndim != 2 or x.shape[1:] != self.x.shape[1:]:
            raise RuntimeError(
                f"x has shape {tuple(x.shape)} and the rows of fit {tuple(self.x.shape)}; two "
                "dimensions and equal widths are wanted."
            )
        if self.n_neighbors > len(self.x):
            raise RuntimeError(
                f"n_neighbors is {self.n_neighbors} and fit was given {len(self.x)} rows; at most "
                f"{len(self.x)} is wanted."
            )
        # Rows asked about themselves are moved, and packed, once.
        support = self.x.detach().to(self.device)
        queries = None if x is self.x else x.detach().to(self.device)
        found = pdepth.probe_votes(
            support, self.y, queries, k=self.n_neighbors, exclude_self=False
        ).votes
        assert is_torch(found)  # as the rows are
        return found.cpu()


def _pairs() -> Pairs:
    """aucurriculum's classes, from the modules that define them, each with ours."""
    defined = [require(f"{SCORING}.{name}", "patch", "aucurriculum") for name in DEFINED]
    from pdepth.compat.aucurriculum_scoring import PredictionDepth

    ours = (PredictionDepth, ParallelKNN)
    return [(getattr(one, our.__name__), our) for one, our in zip(defined, ours, strict=True)]


_PATCH = Patch(_pairs)
patch, unpatch = _PATCH.begin, _PATCH.end
