"""Training: reductions against plain loops, files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.analysis import export, training
from pdepth.analysis.training import Training
from pdepth.result import DepthResult

from helpers.torch_or_skip import torch

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
            "predictions of step 1: expected 4 entries, got 3.",
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
        (
            lambda: training.learned(random_training(), "last"),
            "reference: expected one of final, label, got 'last'.",
        ),
    ],
)
def test_mistakes(call: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_predictions_that_are_no_integers() -> None:
    with pytest.raises(TypeError, match="predictions of step 0.*float64"):
        Training.from_predictions(P / 1.0, Y)


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
