"""The demo's network, a small CNN, and its training with a fixed seed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from pdepth.demo.data import CANVAS

LAYERS = ("conv1", "conv2", "conv3", "dense")  # probed between input and softmax
EPOCHS, BATCH, RATE = 8, 64, 3e-3


def train(support: Dataset[Any], seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """Train the demo's network on some of the moved digits.

    Args:
        support: a Dataset with a length, of (image (1, 12, 12), class).
        seed: of the initial weights and the order of the images.
        epochs: readings of the support.

    Returns:
        The network, in evaluation mode; its layers are named `LAYERS` and "classes".
    """
    rows = range(len(support))  # type: ignore[arg-type]
    images, labels = zip(*(support[row] for row in rows), strict=True)
    with _reproducible(seed):
        return _fit(_build(), torch.stack(images), torch.stack(labels), epochs)


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


def _build() -> nn.Module:
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


def _fit(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x), device=x.device), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()
