"""aucurriculum's k-NN classifier, `ParallelKNN`, with its arguments and votes.

    from pdepth.compat.aucurriculum import ParallelKNN

or, for its prediction depth too and in a whole program, `pdepth.compat.aucurriculum.patch()`, and
`unpatch()`; configurations stay as they are. One whose `_target_` is
`pdepth.compat.aucurriculum_scoring.PredictionDepth` needs neither.

aucurriculum itself is needed by `patch` alone. As there, a support row among the queries votes for
itself too, of tied classes the smallest label wins, and votes come back on the CPU.

What differs. Neighbours come in the order (distance in float64, row). aucurriculum takes distances
from products in float32, so that neighbours nearer to each other than its rounding may swap, and
leaves the order of ties to `torch.topk`. NaN is an error, not a row without neighbours. Labels may
be any integers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from pdepth.compat.shared.parallel_knn import ParallelKNN
from pdepth.compat.shared.patching import Patch, Replacements
from pdepth.optional import require

__all__ = ["ParallelKNN", "patch", "unpatch"]

SCORING = "aucurriculum.curricula.scoring"


def _replacements() -> Replacements:
    """Pair aucurriculum's classes, from the modules that define them, with pdepth's."""
    scoring, utils = (
        require(f"{SCORING}.{name}", "patch", "aucurriculum")
        for name in ("prediction_depth", "utils")
    )
    from pdepth.compat.aucurriculum_scoring import PredictionDepth

    return [
        (scoring.PredictionDepth, PredictionDepth),
        (utils.ParallelKNN, ParallelKNN),
    ]


_PATCH = Patch(_replacements)
patch: Callable[[], ExitStack] = _PATCH.apply
unpatch: Callable[[], None] = _PATCH.undo
