"""How the accuracy of probes and depths change over training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.training.record import Training
from pdepth.optional import require
from pdepth.result import depth_of

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OverTraining:
    """Accuracy of L probes, and depths, at S steps of training.

    Attributes:
        steps: (S,) int64, those with depths.
        probes: L names.
        accuracy: (S, L) float64, each probe's k-NN accuracy; NaN where votes are unknown.
        kept: (S, L) float64, share of each probe's votes that equal those of the last step; NaN
            where votes are unknown.
        network: (S,) float64, accuracy of the network.
        mean_depth: (S,) float64, mean of the defined depths; NaN where none is defined.
        undefined: (S,) float64, share of undefined depths.
    """

    steps: Int
    probes: tuple[str, ...]
    accuracy: Float
    kept: Float
    network: Float
    mean_depth: Float
    undefined: Float

    def converged(self, within: float = 0.02) -> Int:
        """First step (L,) int64 from which on a probe's accuracy stays near its last accuracy.

        A probe whose accuracies are unknown converges at the last step by this measure.

        Args:
            within: greatest difference from the last accuracy.
        """
        with np.errstate(invalid="ignore"):
            near = np.abs(self.accuracy - self.accuracy[-1]) <= within
        near[-1] = True
        steps: Int = self.steps[depth_of(near)[0]]
        return steps

    def to_pandas(self) -> Any:
        """A DataFrame, one row per step and probe: step, probe, accuracy, kept.

        Needs the extra `tables`.
        """
        pandas = require("pandas", "OverTraining.to_pandas", "tables")
        return pandas.DataFrame(
            {
                "step": np.repeat(self.steps, len(self.probes)),
                "probe": np.tile(np.array(self.probes), len(self.steps)),
                "accuracy": self.accuracy.ravel(),
                "kept": self.kept.ravel(),
            }
        )


def over_training(training: Training) -> OverTraining:
    """Probes and depths over training, at the steps with depths; do early layers converge first?

    Raises:
        ValueError: no depths, or depths with different probes.
    """
    steps = sorted(training.depths)
    results = [training.depths[step] for step in steps]
    if not results:
        raise ValueError("training: expected a Training with depths, got one without.")
    last = results[-1]
    for step, result in zip(steps, results, strict=True):
        if result.probes != last.probes:
            raise ValueError(
                f"depths[{step}]: expected the probes of step {steps[-1]}, "
                f"{', '.join(last.probes)}, got {', '.join(result.probes)}."
            )
    known = [result.complete() & last.complete() for result in results]
    kept = [(result.votes == last.votes).mean(axis=1) for result in results]
    defined = [result.depth[~result.undefined] for result in results]
    return OverTraining(
        steps=np.array(steps, np.int64),
        probes=last.probes,
        accuracy=np.array([result.probe_accuracy() for result in results]),
        kept=np.where(known, kept, np.nan),
        network=np.array([(result.predictions == result.labels).mean() for result in results]),
        mean_depth=np.array([depth.mean() if len(depth) else np.nan for depth in defined]),
        undefined=np.array([result.undefined.mean() for result in results]),
    )
