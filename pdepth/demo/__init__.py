"""A small network on scikit-learn's digits, trained and measured within seconds."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pdepth.demo.data import CANVAS, DATA, SUPPORT, moved_digits, result_images
from pdepth.optional import imported_later

if TYPE_CHECKING:
    from pdepth.demo.network import BATCH, EPOCHS, LAYERS, RATE, train
    from pdepth.demo.run import Demo, run_demo, train_demo

__all__ = [
    "BATCH",
    "CANVAS",
    "DATA",
    "EPOCHS",
    "LAYERS",
    "RATE",
    "SUPPORT",
    "Demo",
    "moved_digits",
    "result_images",
    "run_demo",
    "train",
    "train_demo",
]

_NETWORK, _RUN = "pdepth.demo.network", "pdepth.demo.run"
__getattr__: Callable[[str], Any] = imported_later(
    __name__,
    dict.fromkeys(("BATCH", "EPOCHS", "LAYERS", "RATE", "train"), _NETWORK)
    | dict.fromkeys(("Demo", "run_demo", "train_demo"), _RUN),
)
