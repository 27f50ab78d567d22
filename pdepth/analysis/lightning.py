"""A callback for Lightning that records predictions and depths while a network trains.

    from pdepth.analysis.lightning import DepthCallback

    callback = DepthCallback(test_set, support=train_set, depth_every=5)
    Trainer(callbacks=[callback]).fit(module, train_loader)
    training = callback.training()

Needs Lightning: the extra `lightning`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pdepth.analysis.training import Recorder, Training
from pdepth.arrays import arguments
from pdepth.optional import require_tested

require_tested("lightning.pytorch", "pdepth.analysis.lightning", "lightning", "2.5", "2.7")

from lightning.pytorch import Callback
from torch import nn

__all__ = ["DepthCallback"]


class DepthCallback(Callback):
    """Record at the end of training epochs, with the trainer's global step as the step.

    Where several processes train, only the first records.

    Args:
        data: a Dataset or DataLoader of (input, integer label), as in `Recorder`.
        every_n_epochs: record after every so many epochs, and at the end of training.
        network: returns the classifier of the LightningModule; None for the module itself, whose
            `forward` returns class scores.
        options: further options of `Recorder`: ids, support, depth_every, batch_size, k, layers ...
    """

    def __init__(
        self,
        data: Any,
        *,
        every_n_epochs: int = 1,
        network: Callable[[Any], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        self.every_n_epochs: int = arguments.check_int(every_n_epochs, "every_n_epochs")
        self.network = network
        self._recorder = Recorder(data, **options)
        self._last_step = -1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._record(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._record(trainer, pl_module)

    def training(self) -> Training:
        """Everything recorded so far; raises ValueError before the first record."""
        return self._recorder.training()

    def _record(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and trainer.global_step != self._last_step:
            model = pl_module if self.network is None else self.network(pl_module)
            self._recorder.record(model, trainer.global_step)
            self._last_step = trainer.global_step
