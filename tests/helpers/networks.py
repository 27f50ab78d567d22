"""Small networks and images for the tests of capture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller, at_rest, unwrap
from pdepth.embeddings.capture import capture
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.inspection import inspect, traced
from pdepth.embeddings.layout import Layout
from pdepth.embeddings.placement import Placement, ProbeOptions, place

BATCH = 4
AUTOMATIC = ProbeOptions()


def images(rows=10, size=16, channels=3, classes=5):
    torch.manual_seed(0)
    return TensorDataset(torch.randn(rows, channels, size, size), torch.arange(rows) % classes)


def run(model, data, layers="auto", batch_size=BATCH, *, probes=AUTOMATIC, **options):
    """(names, Captured) of a whole dataset."""
    if layers != "auto":
        probes = replace(probes, layers=layers)
    source = Batches(data, "support", batch_size)
    with at_rest(model):
        layout = inspect(model, probes, source.first.inputs, varies=source.varies)
        return layout.names, capture(layout, source, **options)


def placed(model, inputs, layers="auto") -> Placement:
    """Where a network is probed; on the device "meta" by its structure alone, without weights.

    inputs: what it is called with, as `Inputs.of` takes it; two rows.
    """
    with at_rest(model):
        trace, _ = traced(Caller(unwrap(model)), Inputs.of(inputs, 2))
    return place(trace, ProbeOptions(layers=layers), rows=2)


def inspected(model, inputs, rows=2, **options) -> Layout:
    """The layout of a network; options: of `ProbeOptions`."""
    with at_rest(model):
        return inspect(model, ProbeOptions(**options), Inputs.of(inputs, rows))


def batches(inputs):
    return inputs.split(BATCH)


def laid(inputs):
    """Batches of images as a network that convolves them in float32 is given them."""
    return [part.contiguous(memory_format=torch.channels_last) for part in batches(inputs)]


def assert_same(got, wanted):
    """Bitwise, and of one type: closeness would hide a wrong point of capture."""
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert torch.equal(got, wanted), f"first difference at {(got != wanted).nonzero()[0].tolist()}"


def of_timm(name):
    """A network of timm in evaluation mode by its structure alone, and the device of that.

    Versions before 1.0.21 read values while they build some networks, which then have weights.
    """
    timm = pytest.importorskip("timm")
    try:
        with torch.device("meta"):
            return timm.create_model(name).eval(), "meta"
    except (NotImplementedError, RuntimeError):
        return timm.create_model(name).eval(), "cpu"


def small_resnet():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(1)
    return models.resnet.ResNet(models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5)


class Net(nn.Module):
    """A small network with an in-place activation and dropout; `wrap` shapes its output."""

    def __init__(self, wrap=lambda scores: scores):
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 14 * 14, 5)
        self.wrap = wrap

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        return self.wrap(self.head(self.drop(x.flatten(1))))


class Stream(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        yield from self.data
