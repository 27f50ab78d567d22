"""When examples were learned, and how often they were forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.votes import depth_from_votes

if TYPE_CHECKING:
    from pdepth.analysis.training.record import Training


@dataclass(frozen=True, eq=False)
class Learned:
    """When N examples were learned.

    Attributes:
        index: (N,) int64, the first of T checkpoints from which on every prediction is the
            reference; T where `never`.
        step: (N,) float64, step of that checkpoint; infinite where `never`.
        never: (N,) bool, whether the last prediction is another class.
    """

    index: NDArray[np.int64]
    step: NDArray[np.float64]
    never: NDArray[np.bool_]


def learned(training: Training, reference: str = "final") -> Learned:
    """Iteration learned: the reduction that gives depth, over checkpoints in place of probes.

    Args:
        reference: "final", the class that the last checkpoint predicts, as in arXiv 2106.09647 for
            a network that has converged; or "label".
    """
    arguments.check_choice(reference, "reference", ("final", "label"))
    target = training.predictions[-1] if reference == "final" else training.labels
    index, never = depth_from_votes(training.predictions, target)
    step = np.where(never, np.inf, training.steps[np.minimum(index, len(training.steps) - 1)])
    return Learned(index, step, never)


@dataclass(frozen=True, eq=False)
class Forgetting:
    """Forgetting events of N examples over T checkpoints.

    Attributes:
        events: (N,) int64, how often a right prediction is followed by a wrong one.
        never: (N,) bool, whether no prediction is right.
        count: (N,) int64, events, and T where `never`: more than any other example can have.
    """

    events: NDArray[np.int64]
    never: NDArray[np.bool_]
    count: NDArray[np.int64]


def forgetting(training: Training) -> Forgetting:
    """Forgetting events of Toneva et al., arXiv 1812.05159.

    As there, examples that were never learned have the greatest count. There a prediction is
    recorded at each presentation of an example in training; here at each checkpoint, so events
    between two checkpoints are not seen.
    """
    right = training.predictions == training.labels
    events = (right[:-1] & ~right[1:]).sum(axis=0, dtype=np.int64)
    never = ~right.any(axis=0)
    return Forgetting(events, never, np.where(never, len(training.steps), events))
