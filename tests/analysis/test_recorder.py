"""Recorders: what they note of a network while it trains, from checkpoints, and in Lightning."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pdepth
from pdepth.analysis import training
from pdepth.analysis.outputs import outputs
from pdepth.analysis.training import Recorder


def digits(rows: slice = slice(None)) -> TensorDataset:
    data = load_digits()
    x = torch.from_numpy(data.images[rows].astype(np.float32) / 16)
    return TensorDataset(x, torch.from_numpy(data.target[rows]))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 10)
        )


def trained(recorder: Recorder | None, steps: int = 4) -> list[dict[str, Any]]:
    """A few steps of training, noted before each; the states."""
    model, states = net(), []
    x, y = digits(slice(500)).tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for step in range(steps):
            states.append(copy.deepcopy(model.state_dict()))
            if recorder is not None:
                recorder.record(model, 10 * step)
                assert model.training
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return states


def test_recorder_notes_what_the_network_says() -> None:
    support, queries = digits(slice(500)), digits(slice(500, 620))
    recorder = Recorder(queries, support=support, depth_every=2, k=5, ids=np.arange(500, 620))
    states = trained(recorder)
    actual = recorder.training()
    assert actual.steps.tolist() == [0, 10, 20, 30]
    assert sorted(actual.depths) == [0, 20]
    for place, state in enumerate(states):
        model = net()
        model.load_state_dict(state)
        expected = outputs(model, queries)
        assert (actual.predictions[place] == expected.predictions).all()
        assert actual.label_probability is not None
        assert (
            actual.label_probability[place] == expected.label_probability.astype(np.float32)
        ).all()
        if place % 2 == 0:
            depth = pdepth.prediction_depth(
                model, support, queries, k=5, early_exit=False, progress=False
            )
            assert (actual.depths[10 * place].votes == depth.votes).all()
    assert (actual.labels == queries.tensors[1].numpy()).all()
    assert actual.ids[0] == 500
    over = training.over_training(actual)
    assert over.accuracy.shape == (2, 3)
    assert (over.kept[:, 0] == 1).all()  # the input's votes


def test_recording_does_not_change_the_training() -> None:
    with_it = trained(Recorder(digits(slice(500)), depth_every=1, k=5))
    for first, second in zip(with_it, trained(None), strict=True):
        for name, values in first.items():
            assert torch.equal(values, second[name])


def test_recorder_of_its_own_support_leaves_rows_out() -> None:
    recorder = Recorder(digits(slice(200)), depth_every=1, k=5)
    recorder.record(net(), 7)
    assert recorder.training().depths[7].leave_one_out


def test_recorder_refuses_other_data_and_steps_that_go_back() -> None:
    x, y = digits(slice(50)).tensors
    data = TensorDataset(x, y)
    recorder = Recorder(DataLoader(data, batch_size=16, shuffle=True))  # its order is the dataset's
    recorder.record(net(), 5)
    recorder.record(net(), 6)
    with pytest.raises(ValueError, match="step: expected a step after 6, got 6"):
        recorder.record(net(), 6)
    data.tensors = (x, y.flip(0))
    with pytest.raises(
        ValueError,
        match=r"data at step 7: expected the same examples in the same order, with label \d in row",
    ):
        recorder.record(net(), 7)
    data.tensors = (x[:-1], y[:-1])
    with pytest.raises(ValueError, match="data at step 7: expected labels of 50 examples, got 49"):
        recorder.record(net(), 7)
    assert recorder.training().steps.tolist() == [5, 6]
    with pytest.raises(TypeError, match=r"k: expected one integer, got \[5, 6\]"):
        Recorder(data, depth_every=1, k=[5, 6])


def test_from_checkpoints_gives_what_a_recorder_noted(tmp_path: Path) -> None:
    data = digits(slice(100))
    recorder = Recorder(data, depth_every=3, k=5)
    states = trained(recorder)
    torch.save(states[1], tmp_path / "1.pt")
    torch.save({"state_dict": states[2], "epoch": 1}, tmp_path / "2.ckpt")
    held_rows = {
        30: {"model": states[3]},
        0: states[0],
        10: tmp_path / "1.pt",
        20: str(tmp_path / "2.ckpt"),
    }
    model = net()
    own = copy.deepcopy(model.state_dict())
    actual = training.from_checkpoints(model, held_rows, data, depth_every=3, k=5)
    expected = recorder.training()
    assert (actual.steps == expected.steps).all()
    assert (actual.predictions == expected.predictions).all()
    assert (actual.label_probability == expected.label_probability).all()
    assert (actual.depths[30].votes == expected.depths[30].votes).all()
    for name, values in model.state_dict().items():
        assert torch.equal(values, own[name])
    with pytest.raises(ValueError, match=r"checkpoints\[0\]: expected a state dict .*, got none"):
        training.from_checkpoints(model, {0: {}}, data)
    with pytest.raises(ValueError, match=r"checkpoints\[0\]: expected the tensors .* missing"):
        training.from_checkpoints(model, {0: dict(list(states[0].items())[1:])}, data)
    renamed = {0: {f"net.{name}": value for name, value in states[0].items()}}
    actual = training.from_checkpoints(
        model,
        renamed,
        data,
        state_of=lambda held_rows: {
            name.removeprefix("net."): value for name, value in held_rows.items()
        },
    )
    assert (actual.predictions == expected.predictions[:1]).all()


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pdepth.analysis.lightning", raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    with pytest.raises(ImportError, match=r"needs lightning: pip install 'pdepth\[lightning\]'"):
        importlib.import_module("pdepth.analysis.lightning")


def test_lightning_callback_notes_what_a_plain_loop_does() -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    from lightning.pytorch import LightningModule, Trainer

    from pdepth.analysis.lightning import DepthCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    def fitted(*callbacks: Any) -> nn.Module:
        module = Module()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            Trainer(
                max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
            ).fit(module, DataLoader(digits(slice(300)), batch_size=64))  # fmt: skip
        return module.net

    data = digits(slice(300, 400))
    noted = DepthCallback(data, support=digits(slice(300)), every_n_epochs=2, depth_every=2, k=5)
    inner = DepthCallback(data, every_n_epochs=5, network=lambda module: module.net)
    last = fitted(noted, inner)
    actual = noted.training()
    assert actual.steps.tolist() == [10, 20, 25]  # five batches an epoch
    assert sorted(actual.depths) == [10, 25]
    assert (actual.predictions[-1] == outputs(last, data).predictions).all()
    assert inner.training().steps.tolist() == [25]
    assert (inner.training().predictions[0] == actual.predictions[-1]).all()
    for first, second in zip(last.parameters(), fitted().parameters(), strict=True):
        assert torch.equal(first, second)


def test_what_a_recorder_refuses() -> None:
    with pytest.raises(ValueError, match="depth_every: expected an integer >= 1 with support"):
        Recorder(digits(), support=digits())
    with pytest.raises(ValueError, match="expected at least one record; call record first"):
        Recorder(digits()).training()


def test_checkpoints_of_every_form(tmp_path: Path) -> None:
    data = digits(slice(60))
    recorder = Recorder(data)
    states = trained(recorder)
    torch.save({"state_dict": {f"net.{n}": t for n, t in states[1].items()}}, tmp_path / "1.ckpt")
    (tmp_path / "2").mkdir()
    torch.save(states[2], tmp_path / "2" / "pytorch_model.bin")
    averaged = {"model": states[0], "ema": {f"module.{n}": t for n, t in states[3].items()}}
    checkpoints = {0: states[0], 10: tmp_path / "1.ckpt", 20: tmp_path / "2", 30: averaged}
    with pytest.warns(UserWarning, match=r"checkpoints\[30\]: took 'model', not 'ema'; pass ema"):
        plain = training.from_checkpoints(net(), checkpoints, data)
    expected = recorder.training().predictions
    assert (plain.predictions[:3] == expected[:3]).all()
    assert (plain.predictions[3] == expected[0]).all()
    with pytest.warns(UserWarning, match="took 'ema'"):
        of_averages = training.from_checkpoints(net(), {30: averaged}, data, ema=True)
    assert (of_averages.predictions[0] == expected[3]).all()
