"""Whatever measures a network takes the rows and the options of probes of `prediction_depth`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pdepth
from pdepth.analysis import networks
from pdepth.analysis.outputs import input_margin, outputs
from pdepth.analysis.training import Recorder, from_checkpoints

ROWS, CLASSES, K = 60, 3, 5


class Network(nn.Module):
    """Of images and numbers by name; its class scores are under a name of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.classes = nn.Linear(8 * 16 + 4, CLASSES)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        values = self.second(self.first(image)).flatten(1)
        return {"loss": values.mean(), "found": self.classes(torch.cat([values, numbers], dim=1))}


def columns() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(ROWS) % CLASSES
    images = torch.randn(ROWS, 2, 8, 8, generator=generator) + labels[:, None, None, None] / 2
    numbers = torch.randn(ROWS, 4, generator=generator)
    return {"image": images, "numbers": numbers, "kind": labels}


READING: dict[str, Any] = {"output": "found", "label_column": "kind"}
PROBES: dict[str, Any] = {
    "layers": ["first", "second"], "pool": {"second": "mean"}, "input": False, "max_width": 100,
}  # fmt: skip
OPTIONS = READING | PROBES
measured = partial(pdepth.prediction_depth, k=K, early_exit=False, progress=False, **OPTIONS)


def test_prediction_depth_and_plan() -> None:
    result = measured(Network(), columns())
    assert result.probes == ("first", "second", "softmax")
    assert result.widths == (8 * 3 * 3, 8, CLASSES)
    assert result.meta["probes"] == (
        "second: mean; max_width 100: averaged to fewer positions at first"
    )
    bill = pdepth.plan(Network(), columns(), k=K, measure=False, **OPTIONS)
    assert (bill.probes, bill.widths) == (result.probes, result.widths)
    assert bill.notes == ("max_width 100: averaged to fewer positions at first",)


def test_outputs_and_input_margins() -> None:
    network, data = Network(), columns()
    actual = outputs(network, data, input_margins=True, batch_size=16, **READING)
    with torch.no_grad():
        expected = network(data["image"], data["numbers"])["found"]
    np.testing.assert_allclose(actual.logits, expected.double().numpy(), rtol=1e-5, atol=1e-6)
    assert (actual.labels == data["kind"].numpy()).all()
    inputs = {name: data[name] for name in ("image", "numbers")}
    alone = input_margin(network, inputs, output="found")
    assert actual.input_margin is not None
    np.testing.assert_allclose(actual.input_margin, alone, rtol=1e-4)

    image, numbers = (tensor[:1].clone().requires_grad_() for tensor in inputs.values())
    top = network(image, numbers)["found"].topk(2, dim=1).values[0]
    slopes = torch.autograd.grad(top[0] - top[1], [image, numbers])
    norm = torch.cat([slope.flatten() for slope in slopes]).norm()
    np.testing.assert_allclose(alone[0], float((top[0] - top[1]).detach() / norm), rtol=1e-4)


def test_a_training() -> None:
    data, states = columns(), {}
    recorder = Recorder(data, depth_every=1, k=K, **OPTIONS)
    for step in (1, 2):
        network = Network()
        network.classes.bias.data[0] += step
        states[step] = network.state_dict()
        recorder.record(network, step)
    training = recorder.training()
    read = from_checkpoints(Network(), states, data, depth_every=1, k=K, **OPTIONS)
    for step, state in states.items():
        network = Network()
        network.load_state_dict(state)
        expected = measured(network, data)
        for found in (training, read):
            assert found.depths[step].probes == expected.probes
            assert (found.depths[step].votes == expected.votes).all()
            assert (found.predictions[step - 1] == expected.predictions).all()


def test_members_of_an_ensemble() -> None:
    network, data, held_out = Network(), columns(), np.arange(0, ROWS, 4)
    member = networks.measure(network, data, held_out, name=0, k=K, progress=False, **OPTIONS)
    support = np.setdiff1d(np.arange(ROWS), held_out)

    def part(rows: Any) -> dict[str, Tensor]:
        return {name: column[rows] for name, column in data.items()}

    assert member.layers == 3
    assert (member.depth[support] == measured(network, part(support)).depth).all()
    expected = measured(network, part(support), part(held_out))
    assert (member.depth[held_out] == expected.depth).all()

    def train(rows: Any, seed: int) -> nn.Module:
        assert set(rows[0]) == {"image", "numbers", "kind"}
        return network

    ((number, _, rows),) = networks.train_all(train, data, [3], held_out=0.25)
    assert (number, len(rows)) == (3, 15)
    with pytest.raises(TypeError, match="data: expected a Dataset .*; pass loader.dataset"):
        networks.measure(network, DataLoader(list(range(4))), [0], name=0)  # type: ignore[arg-type]


def test_a_callback_of_lightning() -> None:
    pytest.importorskip("lightning.pytorch")
    from pdepth.analysis.lightning import DepthCallback

    class Trainer:
        is_global_zero, global_step, current_epoch = True, 7, 0

    callback = DepthCallback(columns(), depth_every=1, k=K, **OPTIONS)
    callback.on_train_epoch_end(Trainer(), Network())
    found = callback.training().depths[7]
    assert (found.votes == measured(Network(), columns()).votes).all()
