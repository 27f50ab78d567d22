"""Record predictions and depths while a network trains, or from its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.training.record import Training, check_same_labels
from pdepth.arrays import arguments
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from torch import nn

OF_ROWS = ("output", "label_column", "processor")  # options that each reading of the data takes


class Recorder:
    """Record a network's predictions for the same examples while it trains, in plain PyTorch loops.

    Args:
        data: a Dataset or DataLoader of (input, integer label), read in the dataset's order;
            without random transforms.
        ids: (N,) names of its examples; None for row numbers.
        support: the rows that vote, a Dataset or DataLoader; None for `data` itself, each row left
            out of its own vote.
        depth_every: measure depths at every so many-th record, starting with the first; 0 for
            never.
        batch_size, device: of the forward pass.
        options: further options of `pdepth.prediction_depth`, such as label_column and processor;
            unlike there, the defaults are early_exit=False and progress=False.
    """

    def __init__(
        self,
        data: Any,
        *,
        ids: Any = None,
        support: Any = None,
        depth_every: int = 0,
        batch_size: int = 256,
        device: Any = None,
        **options: Any,
    ) -> None:
        self.depth_every: int = arguments.check_int(depth_every, "depth_every", 0)
        if support is not None and not depth_every:
            raise ValueError("depth_every: expected an integer >= 1 with support, got 0.")
        self._data, self._ids, self._support = data, ids, support
        self._forward: dict[str, Any] = {"batch_size": batch_size, "device": device}
        self._forward |= {name: options.pop(name) for name in OF_ROWS if name in options}
        self._options: dict[str, Any] = {"early_exit": False, "progress": False} | options
        if not isinstance(self._options.get("k", 1), int):
            raise TypeError(f"k: expected one integer, got {self._options['k']!r}.")
        self._labels: NDArray[np.int64] | None = None
        self._steps: list[int] = []
        self._predictions: list[NDArray[np.int64]] = []
        self._label_probability: list[NDArray[np.float32]] = []
        self._depths: dict[int, DepthResult] = {}

    def record(self, model: nn.Module, step: int) -> None:
        """Record predictions now, and depths if due; the model's state is left as it was.

        Raises:
            ValueError: a step that is not above the last one, or data of another order or length
                than at the first record.
        """
        from pdepth.analysis.outputs import outputs
        from pdepth.depth import prediction_depth

        step = arguments.check_int(step, "step", 0)
        if self._steps and step <= self._steps[-1]:
            raise ValueError(f"step: expected a step after {self._steps[-1]}, got {step}.")
        current = outputs(model, self._data, **self._forward)
        if self._labels is None:
            self._labels = current.labels
        check_same_labels(current.labels, self._labels, f"data at step {step}")
        if self.depth_every and len(self._steps) % self.depth_every == 0:
            options = self._forward | self._options
            support, queries = self._support, self._data
            if support is None:
                support, queries = self._data, None
            self._depths[step] = prediction_depth(model, support, queries, **options)
        self._steps.append(step)
        self._predictions.append(current.predictions)
        self._label_probability.append(current.label_probability.astype(np.float32))

    def training(self) -> Training:
        """Everything recorded so far; raises ValueError before the first record."""
        if self._labels is None:
            raise ValueError("Recorder.training: expected at least one record; call record first.")
        return Training.from_predictions(
            self._predictions,
            self._labels,
            steps=self._steps,
            ids=self._ids,
            label_probability=self._label_probability,
            depths=self._depths,
        )


def from_checkpoints(
    model: Any,
    checkpoints: Mapping[int, Any],
    data: Any,
    *,
    state_of: Callable[[Any], Mapping[str, Any]] | None = None,
    ema: bool = False,
    **options: Any,
) -> Training:
    """Record a training from saved weights; the model's own weights are restored afterwards.

    Args:
        model: of the same architecture as the checkpoints.
        checkpoints: by step, a state dict, a checkpoint that holds one, or the path of a file or
            folder, each as `pdepth.inputs.read_state` takes them; one at a time is loaded.
        data: as in `Recorder`.
        state_of: returns the model's state dict of what was loaded; None for what
            `pdepth.inputs.find_state` finds in it.
        ema: take the averaged weights of checkpoints.
        options: of `Recorder`.

    Raises:
        ValueError: a checkpoint that holds no state dict, or one of another network.
    """
    from pdepth import inputs

    network = inputs.network_of(model)
    recorder = Recorder(data, **options)
    own_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        for step in sorted(checkpoints):
            inputs.load_checkpoint(
                network,
                checkpoints[step],
                state_of=state_of,
                ema=ema,
                what=f"checkpoints[{step}]",
            )
            recorder.record(network, step)
    finally:
        network.load_state_dict(own_state)
    return recorder.training()
