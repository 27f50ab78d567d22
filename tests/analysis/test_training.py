"""Training: reductions against plain loops, files, recorders; refusals of what does not belong."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pdepth
from pdepth.analysis import export, training
from pdepth.analysis.outputs import outputs
from pdepth.analysis.training import Recorder, Training
from pdepth.result import DepthResult

STEPS = np.array([0, 3, 10, 40, 41, 100])


def random_training(seed: int = 0, n: int = 40, **more: Any) -> Training:
    """Predictions that are right more often as training goes on, some never; classes as they come.

    The first rows: always right, never right, learned at the end, forgotten at the end.
    """
    rng = np.random.default_rng(seed)
    labels = rng.choice([-5, 0, 9], n)
    right = rng.random((len(STEPS), n)) < np.linspace(0.2, 0.9, len(STEPS))[:, None]
    right[:, 0], right[:, 1] = True, False
    right[:, 2], right[:, 3] = STEPS == 100, STEPS < 100
    predictions = np.where(right, labels, labels + 1)
    return Training.from_predictions(predictions, labels, steps=STEPS, **more)


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


@pytest.mark.parametrize("reference", ["final", "label"])
def test_learned(reference: str) -> None:
    original = random_training()
    actual = training.learned(original, reference)
    expected = original.predictions[-1] if reference == "final" else original.labels
    for i, column in enumerate(original.predictions.T.tolist()):
        from_there = [
            t for t in range(len(STEPS)) if all(value == expected[i] for value in column[t:])
        ]
        assert actual.never[i] == (not from_there)
        assert actual.index[i] == (from_there[0] if from_there else len(STEPS))
        assert actual.step[i] == (STEPS[from_there[0]] if from_there else np.inf)
    assert actual.never.any() == (reference == "label")


def test_forgetting() -> None:
    original = random_training()
    actual = training.forgetting(original)
    for i, column in enumerate(original.predictions.T):
        right = (column == original.labels[i]).tolist()
        events = sum(a and not b for a, b in pairwise(right))
        assert actual.events[i] == events
        assert actual.never[i] == (not any(right))
        assert actual.count[i] == (events if any(right) else len(STEPS))
    assert actual.count.argmax() == 1
    first = Training.from_predictions(original.predictions[:1], original.labels)
    assert not training.forgetting(first).events.any()


def depths_of(steps: list[int], n: int = 40, **changes: Any) -> dict[int, DepthResult]:
    """Depths at some steps; of the early probes the votes change until the second of them."""
    actual = {}
    labels = random_training().labels[:n]
    for place, step in enumerate(steps):
        rng = np.random.default_rng(place)
        wrong = rng.random((3, n)) < np.array([[0.5], [0.3], [0.3 / (place + 1)]])
        votes = np.where(wrong, labels + 1, labels)
        votes[0] = labels + np.arange(n) % 2
        predictions = votes[-1].copy()
        predictions[:3] += 1
        depth, undefined = pdepth.depth_from_votes(votes, predictions)
        actual[step] = DepthResult(
            depth, undefined, votes, np.ones((3, n), bool), predictions, labels,
            ("input", "a", "softmax"), 5, (64, 3, 10), **changes,
        )  # fmt: skip
    return actual


def test_over_training() -> None:
    depths = depths_of([3, 40, 100])
    original = random_training(depths=depths)
    actual = training.over_training(original)
    assert actual.steps.tolist() == [3, 40, 100]
    last = depths[100]
    for place, (step, result) in enumerate(depths.items()):
        for probe in range(3):
            votes = list(zip(result.votes[probe], last.votes[probe], original.labels, strict=True))
            assert actual.accuracy[place, probe] == sum(v == y for v, _, y in votes) / 40
            assert actual.kept[place, probe] == sum(v == w for v, w, _ in votes) / 40
        own = [d for d, u in zip(result.depth, result.undefined, strict=True) if not u]
        assert actual.mean_depth[place] == sum(own) / len(own)
        assert actual.undefined[place] == (40 - len(own)) / 40
        assert actual.network[place] == (result.predictions == result.labels).mean()
        assert step in original.steps
    for within in (0.0, 0.02, 0.2):
        for probe in range(3):
            column = actual.accuracy[:, probe]
            expected = next(
                s
                for place, s in enumerate([3, 40, 100])
                if all(abs(value - column[-1]) <= within for value in column[place:])
            )
            assert actual.converged(within)[probe] == expected
    assert actual.converged()[0] == 3  # the input's votes stay
    frame = actual.to_pandas()
    assert frame["accuracy"].tolist() == actual.accuracy.ravel().tolist()
    assert frame[["step", "probe"]].values.tolist()[3:5] == [[40, "input"], [40, "a"]]


def test_over_training_where_votes_are_unknown() -> None:
    depths = depths_of([3, 40, 100])
    depths[40].known[1, 5] = False
    actual = training.over_training(random_training(depths=depths))
    assert np.isnan(actual.accuracy[:, 1]).tolist() == [False, True, False]
    assert np.isnan(actual.kept[:, 1]).tolist() == [False, True, False]
    assert actual.converged()[1] == 100


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ids": [f"é{i}" for i in range(40)]},
        {
            "ids": np.arange(40) * 7 - 3,
            "label_probability": np.random.default_rng(0).random((6, 40)),
        },
        {"depths": {}},
        {"depths": depths_of([3, 100])},
        {"depths": depths_of([100], tied=np.eye(3, 40, dtype=bool), meta={"model": "réseau"})},
    ],
)
def test_load_restores_what_save_wrote(tmp_path: Path, more: dict[str, Any]) -> None:
    original = random_training(**more)
    original.save(tmp_path / "run.npz")
    actual = Training.load(tmp_path / "run.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]

    def compare(a: Any, b: Any) -> None:
        for field in dataclasses.fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name == "depths":
                assert list(x) == list(y)
                for step in x:
                    compare(x[step], y[step])
            elif isinstance(x, np.ndarray):
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)
            else:
                assert x == y, field.name
                assert type(x) is type(y), field.name

    compare(original, actual)


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path: expected the file of a Training, got"):
        Training.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("steps")
    np.savez(tmp_path / "other.npz", steps=np.arange(3))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ValueError, match="expected a file of Training.save, got another"):
            Training.load(tmp_path / name)
    np.savez(tmp_path / "newer.npz", about=json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="expected a format up to 1, got 99 of a newer pdepth"):
        Training.load(tmp_path / "newer.npz")


def test_from_predictions_of_a_mapping_and_of_tensors() -> None:
    original = random_training(ids=[f"n{i}" for i in range(40)])
    by_step = {int(step): original.predictions[i] for i, step in enumerate(STEPS)}
    ids = dict.fromkeys(by_step, original.ids)
    shuffled = {step: by_step[step] for step in [41, 3, 100, 0, 10, 40]}
    actual = Training.from_predictions(shuffled, torch.from_numpy(original.labels), ids=ids)
    assert actual.steps.tolist() == STEPS.tolist()
    assert (actual.predictions == original.predictions).all()
    tensors = [torch.from_numpy(value) for value in original.predictions]
    actual = Training.from_predictions(tensors, original.labels, ids=[original.ids] * 6)
    assert actual.steps.tolist() == list(range(6))
    assert (actual.predictions == original.predictions).all()
    assert (actual.ids == original.ids).all()


P, Y = np.zeros((3, 4), int), np.arange(4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: Training.from_predictions([P[0], P[1, 1:]], Y),
            r"predictions of step 1.*(3.*4|4.*3)",
        ),
        (
            lambda: Training.from_predictions(P, Y, ids=[Y, Y, [0, 1, 3, 2]]),
            "ids of step 2: expected the same examples in the same order as at step 0, with 2 in "
            "row 2, got 3",
        ),
        (
            lambda: Training.from_predictions(P, Y, ids=[Y, Y, Y[1:]]),
            r"ids of step 2: expected shape \(4,\) as at step 0, got \(3,\)",
        ),
        (
            lambda: Training.from_predictions(P, Y, ids=[Y, Y]),
            "ids: expected 3 entries, one per step, got 2",
        ),
        (
            lambda: Training.from_predictions({1: Y, 2: Y}, Y, ids={1: Y}),
            r"ids: expected the steps of predictions, got \[1\]",
        ),
        (
            lambda: Training.from_predictions(P, Y, ids=["a", "b", "b", "c"]),
            "Training.ids: expected distinct values, got b twice",
        ),
        (
            lambda: Training.from_predictions(P, Y, ids=[1, 2]),
            r"Training.ids: expected shape \(4,\) for 3 steps and 4 examples, got \(2,\)",
        ),
        (
            lambda: Training.from_predictions(P, Y, steps=[1, 2]),
            "steps: expected 3 entries as in predictions, got 2",
        ),
        (
            lambda: Training.from_predictions(P, Y, steps=[1, 3, 3]),
            "Training.steps: expected ascending steps",
        ),
        (
            lambda: Training.from_predictions(P[:0], Y),
            "Training.steps: expected at least one step, got none",
        ),
        (
            lambda: Training.from_predictions({1: Y}, Y, steps=[1]),
            "steps: expected None with a mapping of predictions",
        ),
        (
            lambda: Training.from_predictions(P, Y, label_probability=P[:2]),
            r"label_probability: expected shape \(3, 4\) .* got \(2, 4\)",
        ),
        (
            lambda: random_training(depths=depths_of([7])),
            "Training.depths: expected steps of the training, got 7",
        ),
        (
            lambda: random_training(depths=depths_of([3], 39)),
            r"depths\[3\]: expected labels of 40 examples, got 39",
        ),
        (
            lambda: random_training(seed=1, depths=depths_of([3])),
            r"depths\[3\]: expected the same examples in the same order, with label",
        ),
        (
            lambda: training.over_training(random_training()),
            "training: expected a Training with depths",
        ),
        (lambda: training.learned(random_training(), "last"), r"reference.*final, label"),
        (
            lambda: Recorder(digits(), support=digits()),
            "depth_every: expected an integer >= 1 with support, got 0",
        ),
        (lambda: Recorder(digits()).training(), "expected at least one record; call record first"),
    ],
)
def test_mistakes(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_predictions_that_are_no_integers() -> None:
    with pytest.raises(TypeError, match="predictions of step 0.*float64"):
        Training.from_predictions(P / 1.0, Y)


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
    with pytest.raises(RuntimeError, match="Missing key"):
        training.from_checkpoints(model, {0: {}}, data)
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


def test_table_of_a_training() -> None:
    original = random_training(ids=[f"n{i}" for i in range(40)])
    frame = original.to_pandas()
    assert frame["id"].tolist() == original.ids.tolist()
    assert frame["step_learned_label"].tolist() == training.learned(original, "label").step.tolist()
    assert frame["forgetting_events"].tolist() == training.forgetting(original).events.tolist()
    assert (
        frame["correctness"].tolist() == (original.predictions == original.labels).sum(0).tolist()
    )


def test_cartography(tmp_path: Path) -> None:
    """As the paper's code has it: field names, order, and what each is."""
    rng = np.random.default_rng(0)
    shares = rng.random((6, 40)).astype(np.float32)
    original = random_training(ids=[f"n{i}" for i in range(40)], label_probability=shares)
    export.write(export.cartography(original), tmp_path / "td_metrics.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "td_metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 40
    for i, line in enumerate(lines):
        own = [float(value) for value in shares[:, i]]
        mean = sum(own) / 6
        right = (original.predictions[:, i] == original.labels[i]).tolist()
        forgotten = sum(a and not b for a, b in pairwise(right))
        assert list(line) == [
            "guid", "index", "threshold_closeness", "confidence", "variability", "correctness",
            "forgetfulness",
        ]  # fmt: skip
        assert line["guid"] == f"n{i}"
        assert line["index"] == i
        assert line["confidence"] == pytest.approx(mean, rel=1e-12)
        assert line["threshold_closeness"] == pytest.approx(mean * (1 - mean), rel=1e-12)
        expected = (sum((value - mean) ** 2 for value in own) / 6) ** 0.5
        assert line["variability"] == pytest.approx(expected, rel=1e-12)
        assert line["correctness"] == sum(right)
        assert line["forgetfulness"] == (forgotten if any(right) else 1000)
    with pytest.raises(ValueError, match="training: expected a Training with label_probability"):
        export.cartography(random_training())


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
