"""A small network on scikit-learn's digits, trained and measured within seconds.

Each 8 x 8 digit is laid somewhere on a canvas of 12 x 12 pixels. Left where they are, digits are
so alike that their raw pixels already decide 95 % of them and nearly every depth is 0; moved, they
need the network, and its depths tell the easy from the hard.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from pdepth.depth import prediction_depth
from pdepth.optional import require
from pdepth.result import DepthResult

SUPPORT = 1297  # of 1,797 images; the other 500, the last, come from writers seen less often
CANVAS = 12  # pixels
DATA = "scikit-learn's digits, moved"  # what results say of their data
LAYERS = ("conv1", "conv2", "conv3", "dense")  # probed between input and softmax
EPOCHS, BATCH, RATE = 8, 64, 3e-3


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes:
        held_out: depths of the 500 images that the network never saw.
        support: depths of the 1,297 training images, each left out of its own vote.
        images: (500, 12, 12) float32 in 0..1, those of `held_out`.
    """

    held_out: DepthResult
    support: DepthResult
    images: NDArray[np.float32]


def run_demo(progress: bool = True) -> Demo:
    """Train on digits with a fixed seed, then ask every probe about every image.

    Needs the extra `demo` (scikit-learn, which brings its 1,797 real images of 8 x 8 pixels).
    """
    model, support, queries = train_demo()
    about = {"model": "pdepth.demo, a small CNN", "data": DATA}

    def ask(queries: TensorDataset | None) -> DepthResult:
        result = prediction_depth(
            model, support, queries, layers=LAYERS, early_exit=False, progress=progress
        )
        return replace(result, meta={**result.meta, **about})

    return Demo(held_out=ask(queries), support=ask(None), images=queries.tensors[0][:, 0].numpy())


def train_demo() -> tuple[nn.Module, TensorDataset, TensorDataset]:
    """The demo's network, trained with a fixed seed; its training images and the held-out ones."""
    x, y = moved_digits().tensors
    support = TensorDataset(x[:SUPPORT], y[:SUPPORT])
    return train(support), support, TensorDataset(x[SUPPORT:], y[SUPPORT:])


def moved_digits() -> TensorDataset:
    """All 1,797 images (1, 12, 12) with their classes."""
    datasets: Any = require("sklearn.datasets", "The demo", "demo")
    digits = datasets.load_digits()
    x = torch.from_numpy(_moved(digits.images / 16))[:, None]
    return TensorDataset(x, torch.from_numpy(digits.target))


def train(support: Dataset[Any], seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """The demo's network, trained on some of the moved digits."""
    x, y = zip(*(support[row] for row in range(len(support))), strict=True)  # type: ignore[arg-type]
    with _reproducible(seed):
        return _train(_network(), torch.stack(x), torch.stack(y), epochs)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """A fixed seed and one thread, which is also the fastest here; both restored at the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _moved(images: NDArray[np.float64]) -> NDArray[np.float32]:
    """Lay each image (8, 8) on an empty canvas, at a place drawn with a fixed seed."""
    n, size = len(images), images.shape[1]
    canvas = np.zeros((n, CANVAS, CANVAS), np.float32)
    places = np.random.default_rng(0).integers(0, CANVAS - size + 1, (n, 2))
    for image, empty, (top, left) in zip(images, canvas, places, strict=True):
        empty[top : top + size, left : left + size] = image
    return canvas


def _network() -> nn.Module:
    def block(channels: int, out: int, *more: nn.Module) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            *more,
        )

    return nn.Sequential(
        OrderedDict(
            conv1=block(1, 8),
            conv2=block(8, 16, nn.MaxPool2d(2)),
            conv3=block(16, 32, nn.MaxPool2d(2)),
            dense=nn.Sequential(nn.Flatten(), nn.Linear(32 * (CANVAS // 4) ** 2, 64), nn.ReLU()),
            classes=nn.Linear(64, 10),
        )
    )


def _train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()
