"""A callback for Lightning that records predictions and depths while a network trains.

    from pdepth.analysis.lightning import DepthCallback

    noted = DepthCallback(test_set, support=train_set, depth_every=5)
    Trainer(callbacks=[noted]).fit(module, train_loader)
    training = noted.training()

Needs Lightning: the extra `lightning`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pdepth.analysis.training import Recorder, Training
from pdepth.arrays import arguments
from pdepth.optional import require_tested

require_tested("lightning.pytorch", "pdepth.analysis.lightning", "lightning", "2.5", "2.7")

from lightning.pytorch import Callback

__all__ = ["DepthCallback"]


class DepthCallback(Callback):
    """Records at the end of training epochs, with the trainer's global step as the step.

    Args:
        data: a Dataset or DataLoader of (input, integer label), as of `Recorder`.
        every_n_epochs: record after so many epochs, and after the last.
        network: takes the classifier out of the LightningModule; None: the module itself, whose
            `forward` gives class scores.
        options: others of `Recorder`: ids, support, depth_every, batch_size, k, layers ...

    Where several processes train, the first records.
    """

    def __init__(
        self,
        data: Any,
        *,
        every_n_epochs: int = 1,
        network: Callable[[Any], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        self.every_n_epochs = arguments.check_int(every_n_epochs, "every_n_epochs")
        self.network = network
        self._recorder = Recorder(data, **options)
        self._last = -1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._record(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._record(trainer, pl_module)

    def training(self) -> Training:
        """All that has been recorded. Raises ValueError where nothing has."""
        return self._recorder.training()

    def _record(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and trainer.global_step != self._last:
            model = pl_module if self.network is None else self.network(pl_module)
            self._recorder.record(model, trainer.global_step)
            self._last = trainer.global_step
