"""Training: which examples a network learned when, and forgot, and when its probes settled.

    recorder = Recorder(test_set, support=train_set, depth_every=5)
    for step, batch in enumerate(loader):
        ...
        if step % 100 == 0:
            recorder.record(model, step)
    training = recorder.training()
    learned(training).step, forgetting(training).count, over_training(training).accuracy

`from_checkpoints` does the same over saved weights, `Training.from_predictions` over predictions at
hand, and `pdepth.analysis.lightning` has a callback for Lightning.

Sources: Baldock, Maennel, Neyshabur, arXiv 2106.09647 (iteration learned, probes over training);
Toneva et al., "An Empirical Study of Example Forgetting", arXiv 1812.05159 (forgetting events).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.io.atomic import replacing
from pdepth.optional import require
from pdepth.result import DepthResult, depth_of
from pdepth.votes import depth_from_votes

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1  # of the file; raised when an older pdepth could not read it
Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Training:
    """What a network said of N examples at T points of its training.

    Attributes:
        steps: (T,) int64, ascending.
        predictions: (T, N) int64, the network's classes.
        labels: (N,) int64.
        ids: (N,) distinct integers or strings, the examples' names.
        label_probability: (T, N) float32, the softmax's entry of the label, or None.
        depths: depths of the same examples by step, at some of the steps.

    Raises:
        ValueError: shapes that do not fit, steps that do not ascend, an id used twice, depths of
            another step, or of examples with other labels.
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
            raise ValueError("Training.steps is empty; at least one is wanted.")
        wanted = {"predictions": (t, n), "ids": (n,), "label_probability": (t, n)}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(
                    f"Training.{name} has shape {np.shape(value)}; {shape} is wanted for "
                    f"{t} steps and {n} examples."
                )
        if (np.diff(self.steps) <= 0).any():
            raise ValueError("Training.steps does not ascend; distinct steps in order are wanted.")
        names, times = np.unique(self.ids, return_counts=True)
        if len(names) < n:
            raise ValueError(f"Training.ids holds {names[times > 1][0]!s} twice.")
        for step, result in self.depths.items():
            if step not in self.steps:
                raise ValueError(f"Training.depths has step {step}, which is none of steps.")
            _same_labels(result.labels, self.labels, f"depths[{step}]")

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
        """Of predictions at hand.

        predictions: T arrays (N,) of integers, one array (T, N), or a mapping of such by step.
        steps: (T,) integers, ascending; None for a mapping's keys in order, or 0 .. T - 1.
        ids: (N,) names of the examples, or T of them, or a mapping by step, if every checkpoint
            brings its own: they are compared. None for row numbers.
        label_probability: (T, N), or the likes of predictions.

        Raises ValueError for checkpoints of other lengths, or whose ids differ from the first's.
        """
        if isinstance(predictions, Mapping):
            if steps is not None:
                raise ValueError("steps goes with arrays, and predictions is a mapping by step.")
            steps = sorted(predictions)
        given = _by_step(predictions, steps, "predictions")
        numbers = (
            np.arange(len(given)) if steps is None else arguments.check_integers(steps, "steps")
        )
        if len(numbers) != len(given):
            raise ValueError(f"steps has {len(numbers)} entries for {len(given)} predictions.")
        own = arguments.check_integers(labels, "labels")
        parts = [
            arguments.check_integers(each, f"predictions of step {step}", len(own))
            for step, each in zip(numbers, given, strict=True)
        ]
        shares = None
        if label_probability is not None:
            shares = np.asarray(_by_step(label_probability, steps, "label_probability"), np.float32)
        return cls(
            numbers,
            np.array(parts, np.int64).reshape(len(parts), len(own)),
            own,
            _common_ids(ids, steps, numbers, len(own)),
            shares,
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
            values = {each.name: getattr(result, each.name) for each in dataclasses.fields(result)}
            held = {name: each for name, each in values.items() if isinstance(each, np.ndarray)}
            arrays |= {f"depths/{step}/{name}": each for name, each in held.items()}
            about["depths"][str(step)] = {n: v for n, v in values.items() if n not in held}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Training:
        """Read what `save` wrote.

        Raises FileNotFoundError for no file, ValueError for one that is no Training, or newer.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no file {path} to load a Training from.")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            about = json.loads(str(arrays.pop("about")))
        except (BadZipFile, ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is not a Training that pdepth wrote.") from None
        if about["format"] > FORMAT:
            raise ValueError(
                f"{path} has format {about['format']}, from a newer pdepth; this one reads up to "
                f"{FORMAT}."
            )
        depths = {}
        for step, rest in about["depths"].items():
            head = f"depths/{step}/"
            held = {n.removeprefix(head): a for n, a in arrays.items() if n.startswith(head)}
            rest |= {
                name: None if rest[name] is None else tuple(rest[name])
                for name in ("probes", "widths")
            }
            depths[int(step)] = DepthResult(**held, **rest)
        own = {name: each for name, each in arrays.items() if "/" not in name}
        return cls(**own, depths=depths)

    def to_pandas(self) -> Any:
        """A DataFrame, one example a row. Needs the extra `tables`.

        Columns: id, label, prediction (the last), step_learned (of the last prediction),
        step_learned_label (inf: never), forgetting_events, never_learned, correctness (at how many
        steps the prediction is the label).
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


@dataclass(frozen=True, eq=False)
class Learned:
    """When N examples were learned.

    Attributes:
        index: (N,) int64, the first checkpoint from which on every prediction is the reference; T
            where `never`.
        step: (N,) float64, its step; inf where `never`.
        never: (N,) bool, the last prediction is another.
    """

    index: Int
    step: Float
    never: NDArray[np.bool_]


def learned(training: Training, reference: str = "final") -> Learned:
    """Iteration learned: the reduction that gives depth, over checkpoints in place of probes.

    reference: "final", the class that the last checkpoint predicts, as in arXiv 2106.09647 for a
    network that has converged; or "label".
    """
    arguments.check_choice(reference, "reference", ("final", "label"))
    wanted = training.predictions[-1] if reference == "final" else training.labels
    index, never = depth_from_votes(training.predictions, wanted)
    step = np.where(never, np.inf, training.steps[np.minimum(index, len(training.steps) - 1)])
    return Learned(index, step, never)


@dataclass(frozen=True, eq=False)
class Forgetting:
    """Forgetting events of N examples over T checkpoints.

    Attributes:
        events: (N,) int64, how often a right prediction is followed by a wrong one.
        never: (N,) bool, no prediction is right.
        count: (N,) int64, events, and T where `never`: more than any other can have.
    """

    events: Int
    never: NDArray[np.bool_]
    count: Int


def forgetting(training: Training) -> Forgetting:
    """Forgetting events, arXiv 1812.05159; what was never learned counts as the most, as there.

    There a prediction is noted at each presentation of an example in training; here at each
    checkpoint, so that what happens between two of them is not seen.
    """
    right = training.predictions == training.labels
    events = (right[:-1] & ~right[1:]).sum(axis=0, dtype=np.int64)
    never = ~right.any(axis=0)
    return Forgetting(events, never, np.where(never, len(training.steps), events))


@dataclass(frozen=True, eq=False)
class OverTraining:
    """What L probes and the depths were at S steps of training.

    Attributes:
        steps: (S,) int64, those with depths.
        probes: L names.
        accuracy: (S, L) float64, each probe's k-NN accuracy; nan where votes are unknown.
        kept: (S, L) float64, the share of each probe's votes that are those of the last step; nan
            likewise.
        network: (S,) float64, the network's accuracy.
        mean_depth: (S,) float64, of the defined; nan where there is none.
        undefined: (S,) float64, their share.
    """

    steps: Int
    probes: tuple[str, ...]
    accuracy: Float
    kept: Float
    network: Float
    mean_depth: Float
    undefined: Float

    def converged(self, within: float = 0.02) -> Int:
        """(L,) int64, the first step from which on a probe's accuracy is within that of its last.

        A probe whose accuracies are unknown converges at the last step, by this measure.
        """
        with np.errstate(invalid="ignore"):
            near = np.abs(self.accuracy - self.accuracy[-1]) <= within
        near[-1] = True
        found: Int = self.steps[depth_of(near)[0]]
        return found

    def to_pandas(self) -> Any:
        """One row a step and probe: step, probe, accuracy, kept. Needs the extra `tables`."""
        pandas = require("pandas", "OverTraining.to_pandas", "tables")
        return pandas.DataFrame(
            {
                "step": np.repeat(self.steps, len(self.probes)),
                "probe": np.tile(np.array(self.probes), len(self.steps)),
                "accuracy": self.accuracy.ravel(),
                "kept": self.kept.ravel(),
            }
        )


def over_training(training: Training) -> OverTraining:
    """Probes and depths over training, where there are depths; do early layers converge first?

    Raises ValueError where there are no depths, or of other probes at one step than at another.
    """
    steps = sorted(training.depths)
    results = [training.depths[step] for step in steps]
    if not results:
        raise ValueError("over_training needs depths, and this Training has none.")
    last = results[-1]
    for step, result in zip(steps, results, strict=True):
        if result.probes != last.probes:
            raise ValueError(
                f"depths[{step}] has the probes {', '.join(result.probes)}; those of step "
                f"{steps[-1]}, {', '.join(last.probes)}, are wanted."
            )
    known = [result.complete() & last.complete() for result in results]
    kept = [(result.votes == last.votes).mean(axis=1) for result in results]
    defined = [result.depth[~result.undefined] for result in results]
    return OverTraining(
        np.array(steps, np.int64),
        last.probes,
        np.array([result.probe_accuracy() for result in results]),
        np.where(known, kept, np.nan),
        np.array([(result.predictions == result.labels).mean() for result in results]),
        np.array([each.mean() if len(each) else np.nan for each in defined]),
        np.array([result.undefined.mean() for result in results]),
    )


class Recorder:
    """Notes what a network says of the same examples while it trains, for plain PyTorch loops.

    Args:
        data: a Dataset or DataLoader of (input, integer label), read in the dataset's order;
            without random transforms.
        ids: (N,) names of its examples; None for row numbers.
        support: what votes, a Dataset or DataLoader; None: `data` itself, each row left out.
        depth_every: take depths at every so many-th record, the first included; 0 for never.
        batch_size, device: of the forward pass.
        options: others of `pdepth.prediction_depth`; all votes are cast (early_exit=False) and
            nothing is printed, unless told.
    """

    def __init__(
        self,
        data: Any,
        *,
        ids: Any = None,
        support: Any = None,
        depth_every: int = 0,
        batch_size: int = 256,
        device: Any = None,
        **options: Any,
    ) -> None:
        self.depth_every = arguments.check_int(depth_every, "depth_every", 0)
        if support is not None and not depth_every:
            raise ValueError("support votes for depths, and depth_every is 0, which takes none.")
        self._data, self._ids, self._support = data, ids, support
        self._passes: dict[str, Any] = {"batch_size": batch_size, "device": device}
        self._options: dict[str, Any] = {"early_exit": False, "progress": False} | options
        if not isinstance(self._options.get("k", 1), int):
            raise TypeError(f"k is {self._options['k']!r}; one number is wanted.")
        self._labels: Int | None = None
        self._steps: list[int] = []
        self._predictions: list[Int] = []
        self._shares: list[NDArray[np.float32]] = []
        self._depths: dict[int, DepthResult] = {}

    def record(self, model: nn.Module, step: int) -> None:
        """Note predictions now, and depths if it is their turn; the model comes back as it was.

        Raises ValueError for a step that is not above the last one, and for data that has come in
        another order, or of another length, than at the first record.
        """
        from pdepth.analysis.outputs import outputs
        from pdepth.depth import prediction_depth

        step = arguments.check_int(step, "step", 0)
        if self._steps and step <= self._steps[-1]:
            raise ValueError(f"step is {step} after {self._steps[-1]}; a later one is wanted.")
        found = outputs(model, self._data, **self._passes)
        if self._labels is None:
            self._labels = found.labels
        _same_labels(found.labels, self._labels, f"data at step {step}")
        if self.depth_every and len(self._steps) % self.depth_every == 0:
            voters, asked = self._support, self._data
            if voters is None:
                voters, asked = asked, None
            options = self._passes | self._options
            self._depths[step] = prediction_depth(model, voters, asked, **options)
        self._steps.append(step)
        self._predictions.append(found.predictions)
        self._shares.append(found.label_probability.astype(np.float32))

    def training(self) -> Training:
        """All that has been noted. Raises ValueError before the first record."""
        if self._labels is None:
            raise ValueError("nothing has been recorded; record(model, step) comes first.")
        return Training.from_predictions(
            self._predictions,
            self._labels,
            steps=self._steps,
            ids=self._ids,
            label_probability=self._shares,
            depths=self._depths,
        )


def from_checkpoints(
    model: nn.Module,
    checkpoints: Mapping[int, Any],
    data: Any,
    *,
    state_of: Callable[[Any], Mapping[str, Any]] | None = None,
    **options: Any,
) -> Training:
    """The training that saved weights tell of; the model has its own weights again afterwards.

    model: of the checkpoints' kind. checkpoints: by step, a state dict or the path of a file that
    `torch.load` reads with weights_only=True, one at a time. state_of: takes the model's state dict
    out of what is loaded; None: what lies under "state_dict" (Lightning) or "model", or all of it.
    data, options: of `Recorder`.
    """
    import torch

    recorder = Recorder(data, **options)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    try:
        for step in sorted(checkpoints):
            held = checkpoints[step]
            if isinstance(held, str | os.PathLike):
                held = torch.load(held, map_location="cpu", weights_only=True)
            model.load_state_dict(_state(held) if state_of is None else state_of(held))
            recorder.record(model, step)
    finally:
        model.load_state_dict(before)
    return recorder.training()


def _state(held: Any) -> Any:
    for key in ("state_dict", "model"):
        if isinstance(held.get(key), Mapping):
            return held[key]
    return held


def _same_labels(found: Int | None, wanted: Int, what: str) -> None:
    if found is None or len(found) != len(wanted):
        many = "no labels" if found is None else f"{len(found)} examples"
        raise ValueError(f"{what} has {many}; the same {len(wanted)} as before are wanted.")
    other = np.flatnonzero(found != wanted)
    if len(other):
        raise ValueError(
            f"{what} has label {found[other[0]]} in row {other[0]}, which was {wanted[other[0]]}; "
            "the same examples in the same order are wanted."
        )


def _by_step(given: Any, steps: Iterable[Any] | None, what: str) -> list[Any]:
    """T arrays, from an array, a sequence or a mapping by step."""
    if isinstance(given, Mapping):
        if steps is None or sorted(given) != sorted(steps):
            raise ValueError(f"{what} has the steps {sorted(given)}; those of all are wanted.")
        return [to_numpy(given[step]) for step in steps]
    return [to_numpy(each) for each in given]


def _common_ids(ids: Any, steps: Any, numbers: Int, count: int) -> NDArray[Any]:
    """(count,) ids, from one set or from one a checkpoint, which must all be the first's."""
    if ids is None:
        return np.arange(count)
    if not isinstance(ids, Mapping) and (not len(ids) or np.ndim(ids[0]) == 0):
        return np.asarray(to_numpy(ids))
    given = [np.asarray(each) for each in _by_step(ids, steps, "ids")]
    if len(given) != len(numbers):
        raise ValueError(f"ids has {len(given)} entries for {len(numbers)} checkpoints.")
    first = given[0]
    for step, each in zip(numbers, given, strict=True):
        if each.shape != first.shape:
            raise ValueError(
                f"ids of step {step} has shape {each.shape}; {first.shape}, as at step "
                f"{numbers[0]}, is wanted."
            )
        other = np.flatnonzero(each != first)
        if len(other):
            row = other[0]
            raise ValueError(
                f"ids of step {step} has {each[row]!s} in row {row}, and step {numbers[0]} has "
                f"{first[row]!s}; the same examples in the same order are wanted."
            )
    return first
