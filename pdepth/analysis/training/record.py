"""The record of a training: predictions at checkpoints, kept in one file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_unique
from pdepth.analysis.training.learning import forgetting, learned
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.io.atomic import replacing
from pdepth.optional import require
from pdepth.result import DepthResult

FORMAT = 1  # of the file; raised when an older pdepth could not read it
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Training:
    """Predictions of a network for N examples at T points of its training.

    Attributes:
        steps: (T,) int64, ascending.
        predictions: (T, N) int64, the network's classes.
        labels: (N,) int64.
        ids: (N,) distinct integers or strings, names of the examples.
        label_probability: (T, N) float32, softmax probability of the label, or None.
        depths: depths of the same examples by step, at some of the steps.

    Raises:
        ValueError: shapes that do not match, steps that do not ascend, an id that occurs twice,
            depths of another step, or of examples with other labels.
    """

    steps: Int
    predictions: Int
    labels: Int
    ids: NDArray[Any]
    label_probability: NDArray[np.float32] | None = None
    depths: Mapping[int, DepthResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        t, n = len(self.steps), len(self.labels)
        if t == 0:
            raise ValueError("Training.steps: expected at least one step, got none.")
        shapes = {"predictions": (t, n), "ids": (n,), "label_probability": (t, n)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(
                    f"Training.{name}: expected shape {shape} for {t} steps and {n} examples, got "
                    f"{np.shape(value)}."
                )
        if (np.diff(self.steps) <= 0).any():
            raise ValueError(f"Training.steps: expected ascending steps, got {self.steps}.")
        check_unique(self.ids, "Training.ids")
        for step, result in self.depths.items():
            if step not in self.steps:
                raise ValueError(f"Training.depths: expected steps of the training, got {step}.")
            check_same_labels(result.labels, self.labels, f"depths[{step}]")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"Training({len(self)} examples, {len(self.steps)} steps to {self.steps[-1]}, "
            f"depths at {len(self.depths)})"
        )

    @classmethod
    def from_predictions(
        cls,
        predictions: Any,
        labels: Any,
        *,
        steps: Any = None,
        ids: Any = None,
        label_probability: Any = None,
        depths: Mapping[int, DepthResult] | None = None,
    ) -> Training:
        """Build a record from predictions.

        Args:
            predictions: T arrays (N,) of integers, one array (T, N), or a mapping of arrays by
                step.
            labels: (N,) integers.
            steps: (T,) integers, ascending; None for a mapping's keys in order, or 0 .. T - 1.
            ids: (N,) names of the examples; or T of them, or a mapping by step, which have to be
                equal. None for row numbers.
            label_probability: in one of the forms of `predictions`.
            depths: by step.

        Raises:
            ValueError: checkpoints of different lengths, or whose ids differ from the first's.
        """
        if isinstance(predictions, Mapping):
            if steps is not None:
                raise ValueError(
                    "steps: expected None with a mapping of predictions by step, got steps."
                )
            steps = sorted(predictions)
        arrays = _list_by_step(predictions, steps, "predictions")
        numbers = (
            np.arange(len(arrays)) if steps is None else arguments.check_integers(steps, "steps")
        )
        if len(numbers) != len(arrays):
            raise ValueError(
                f"steps: expected {len(arrays)} entries as in predictions, got {len(numbers)}."
            )
        label_array = arguments.check_integers(labels, "labels")
        n = len(label_array)
        rows = [
            arguments.check_integers(array, f"predictions of step {step}", n)
            for step, array in zip(numbers, arrays, strict=True)
        ]
        probability = None
        if label_probability is not None:
            probability = np.asarray(
                _list_by_step(label_probability, steps, "label_probability"), np.float32
            )
        return cls(
            numbers,
            np.array(rows, np.int64).reshape(len(rows), n),
            label_array,
            _common_ids(ids, steps, numbers, n),
            probability,
            dict(depths or {}),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz file, whole or not at all: arrays by name, the rest as JSON in `about`."""
        arrays: dict[str, Any] = {}
        for name in ("steps", "predictions", "labels", "ids", "label_probability"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        about: dict[str, Any] = {"format": FORMAT, "depths": {}}
        for step, result in self.depths.items():
            values = {item.name: getattr(result, item.name) for item in dataclasses.fields(result)}
            own_arrays = {
                name: value for name, value in values.items() if isinstance(value, np.ndarray)
            }
            arrays |= {f"depths/{step}/{name}": array for name, array in own_arrays.items()}
            about["depths"][str(step)] = {
                name: value for name, value in values.items() if name not in own_arrays
            }
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Training:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is not a Training, or has a newer format.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path: expected the file of a Training, got {path}.")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            about = json.loads(str(arrays.pop("about")))
        except (BadZipFile, ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: expected a file of Training.save, got another.") from None
        if about["format"] > FORMAT:
            raise ValueError(
                f"{path}: expected a format up to {FORMAT}, got {about['format']} of a newer "
                "pdepth."
            )
        depths = {}
        for step, rest in about["depths"].items():
            prefix = f"depths/{step}/"
            own_arrays = {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
            for name in ("probes", "widths"):
                rest[name] = None if rest[name] is None else tuple(rest[name])
            depths[int(step)] = DepthResult(**own_arrays, **rest)
        fields = {name: array for name, array in arrays.items() if "/" not in name}
        return cls(**fields, depths=depths)

    def to_pandas(self) -> Any:
        """A DataFrame, one example per row. Needs the extra `tables`.

        Columns: id, label, prediction (the last), step_learned (of the last prediction),
        step_learned_label (infinite: never), forgetting_events, never_learned, correctness (number
        of steps whose prediction is the label).
        """
        pandas = require("pandas", "Training.to_pandas", "tables")
        forgotten = forgetting(self)
        return pandas.DataFrame(
            {
                "id": self.ids,
                "label": self.labels,
                "prediction": self.predictions[-1],
                "step_learned": learned(self).step,
                "step_learned_label": learned(self, "label").step,
                "forgetting_events": forgotten.events,
                "never_learned": forgotten.never,
                "correctness": (self.predictions == self.labels).sum(axis=0),
            }
        )


def check_same_labels(labels: Int | None, expected: Int, name: str) -> None:
    """Raise ValueError, naming the first row, where labels differ from the expected ones."""
    if labels is None or len(labels) != len(expected):
        count = "none" if labels is None else f"{len(labels)}"
        raise ValueError(f"{name}: expected labels of {len(expected)} examples, got {count}.")
    different = np.flatnonzero(labels != expected)
    if len(different):
        row = different[0]
        raise ValueError(
            f"{name}: expected the same examples in the same order, with label {expected[row]} in "
            f"row {row}, got {labels[row]}."
        )


def _list_by_step(values: Any, steps: Iterable[Any] | None, name: str) -> list[Any]:
    """T arrays, from an array, a sequence or a mapping by step."""
    if isinstance(values, Mapping):
        if steps is None or sorted(values) != sorted(steps):
            raise ValueError(f"{name}: expected the steps of predictions, got {sorted(values)}.")
        return [to_numpy(values[step]) for step in steps]
    return [to_numpy(array) for array in values]


def _common_ids(ids: Any, steps: Any, numbers: Int, count: int) -> NDArray[Any]:
    """Ids (count,), from one array, or from one per checkpoint that equals the first's."""
    if ids is None:
        return np.arange(count)
    if not isinstance(ids, Mapping) and (not len(ids) or np.ndim(ids[0]) == 0):
        return np.asarray(to_numpy(ids))
    arrays = [np.asarray(array) for array in _list_by_step(ids, steps, "ids")]
    if len(arrays) != len(numbers):
        raise ValueError(f"ids: expected {len(numbers)} entries, one per step, got {len(arrays)}.")
    first = arrays[0]
    for step, array in zip(numbers, arrays, strict=True):
        if array.shape != first.shape:
            raise ValueError(
                f"ids of step {step}: expected shape {first.shape} as at step {numbers[0]}, got "
                f"{array.shape}."
            )
        different = np.flatnonzero(array != first)
        if len(different):
            row = different[0]
            raise ValueError(
                f"ids of step {step}: expected the same examples in the same order as at step "
                f"{numbers[0]}, with {first[row]!s} in row {row}, got {array[row]!s}."
            )
    return first
