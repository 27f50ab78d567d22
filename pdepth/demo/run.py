"""The demo: train the small network on the moved digits, and measure every image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from pdepth.demo.data import DATA, SUPPORT, moved_digits
from pdepth.demo.network import LAYERS, train
from pdepth.depth import prediction_depth
from pdepth.result import DepthResult

NEIGHBORS = 8  # that are kept for `pdepth explain`


@dataclass(frozen=True)
class Demo:
    """The results of the demo.

    Attributes:
        held_out: depths of the 500 images that the network never saw.
        support: depths of the 1,297 training images, each left out of its own vote.
        images: (500, 12, 12) float32 in 0..1, those of `held_out`.
    """

    held_out: DepthResult
    support: DepthResult
    images: NDArray[np.float32]


def run_demo(progress: bool = True) -> Demo:
    """Train on digits with a fixed seed, then measure every image at every probe.

    Needs the extra `demo` (scikit-learn, which brings its 1,797 real images of 8 x 8 pixels).

    Args:
        progress: whether to show progress on standard error.
    """
    model, support, held_out = train_demo()
    meta = {"model": "pdepth.demo, a small CNN", "data": DATA}

    def measure(queries: TensorDataset | None) -> DepthResult:
        result = prediction_depth(
            model,
            support,
            queries,
            layers=LAYERS,
            early_exit=False,
            return_neighbors=NEIGHBORS,
            return_map="pca",
            progress=progress,
        )
        return replace(result, meta={**result.meta, **meta})

    return Demo(
        held_out=measure(held_out),
        support=measure(None),
        images=held_out.tensors[0][:, 0].numpy(),
    )


def train_demo() -> tuple[nn.Module, TensorDataset, TensorDataset]:
    """Train the demo's network with a fixed seed.

    Returns:
        (network, its 1,297 training images, the 500 held-out images).
    """
    x, y = moved_digits().tensors
    support = TensorDataset(x[:SUPPORT], y[:SUPPORT])
    return train(support), support, TensorDataset(x[SUPPORT:], y[SUPPORT:])
