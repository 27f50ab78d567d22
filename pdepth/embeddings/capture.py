"""Forward passes that fill an embedding matrix for every probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdepth.arrays.memory import Budget, human
from pdepth.embeddings.dataset import Batch, Batches
from pdepth.embeddings.placement import Placement, Probe, unwrap
from pdepth.embeddings.pooling import not_once, only_value, pooled

DRY_ROWS = 2


@dataclass(frozen=True)
class Layout:
    """The shapes and types of one row at each probe of a network, from a dry pass.

    probes: in the order in which the forward pass runs them. shapes: of one row's value, tokens
    already pooled. dtypes: as the model computes. probabilities: the model's output is already
    what a softmax would give. channels_last: images are given to the model in that order of
    memory, in which convolutions on a CPU are faster.
    """

    probes: tuple[Probe, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    probabilities: bool
    channels_last: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(probe.name for probe in self.probes)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(prod(shape) for shape in self.shapes)


@dataclass(frozen=True, eq=False)
class Captured:
    """Embeddings, labels and predictions of all rows of a source.

    embeddings: (n, D) of each probe, contiguous, on the device that `capture` had as argument.
    labels, predictions: (n,) int64, on the CPU.
    """

    embeddings: list[Tensor]
    labels: Tensor
    predictions: Tensor


def footprint(
    layout: Layout, rows: int, metric: str = "sqeuclidean", probes: Sequence[int] | None = None
) -> int:
    """Bytes that the embeddings of `rows` rows take; for "cosine" with their float64 copies.

    probes: the numbers of those that count; None for all.
    """
    copy = 8 if metric == "cosine" else 0
    sizes = [
        width * (dtype.itemsize + copy)
        for width, dtype in zip(layout.widths, layout.dtypes, strict=True)
    ]
    return rows * sum(sizes if probes is None else (sizes[probe] for probe in probes))


def check_memory(
    layout: Layout,
    rows: int,
    budget: Budget,
    metric: str = "sqeuclidean",
    where: str = "memory",
) -> str:
    """The memory that embeddings take, in words. Raises MemoryError where the budget is smaller."""
    bytes_needed = footprint(layout, rows, metric)
    need = f"{human(bytes_needed)} in {where} for {rows:,} rows x {len(layout.probes)} probes"
    if budget.size is None:
        return need
    if bytes_needed > budget.size:
        raise MemoryError(
            f"embeddings: expected at most the {budget}, got {need}; probe fewer layers or use "
            "fewer rows."
        )
    return f"{need} ({budget})"


@contextmanager
def at_rest(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients and plain eager execution, on `device` if one is given.

    On leaving, however that happens, every submodule has its training flag back and the model is
    where it was. Flags are set directly: train() may be overridden, and eval() may have effects.
    Raises ValueError when a model spread over several devices is asked to move.
    """
    model = unwrap(model)
    flags = [(module, module.training) for module in model.modules()]
    homes = {tensor.device for tensor in _tensors(model)}
    if device is not None and len(homes) > 1:
        raise ValueError(
            "device: expected None for a model that is spread over "
            f"{', '.join(sorted(map(str, homes)))}, got {str(device)!r}."
        )
    try:
        if device is not None:
            model.to(device)
        for module, _ in flags:
            module.training = False
        # Code compiled before the hooks came would not run them. And not inference_mode: what a
        # model caches or initialises under it could never be trained with again.
        with torch.compiler.set_stance("force_eager"), torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training
        if device is not None and homes:
            model.to(homes.pop())


def inspect(model: nn.Module, placement: Placement, inputs: Tensor) -> Layout:
    """The layout of a network's probes, from a dry pass over the first rows of `inputs`.

    Call it inside `at_rest`. Raises ValueError for an output that is not (batch, classes), and
    for a probed module that does not run exactly once or does not give one row per input; only
    under the rule "chain" such probes are left out instead.
    """
    model = unwrap(model)
    inputs = inputs[:DRY_ROWS]
    values: dict[Probe, list[Any]] = {}

    def record(probe: Probe, value: Any) -> None:
        # What a later in-place operation does to the value changes neither shape nor type.
        values.setdefault(probe, []).append(value)

    first, *middle, last = placement.probes
    channels_last = _runs_channels_last(model, inputs)
    with _hooks(model, (first, *middle), record):
        try:
            output = _forward(model, inputs, channels_last)
        except RuntimeError as error:
            kind = str(inputs.dtype).removeprefix("torch.")
            raise ValueError(
                f"model: expected a network for inputs of shape {tuple(inputs.shape[1:])} and type "
                f"{kind}, got an error: {str(error).splitlines()[0]}"
            ) from error
        scores = _scores(output, len(inputs))
    # Dictionaries keep the order of the first call, which is the order of the forward pass.
    called = sorted(values, key=lambda probe: probe != first)
    layout: dict[Probe, Tensor] = {}
    for probe in (*called, *(p for p in middle if p not in values)):
        try:
            layout[probe] = only_value(probe, values.get(probe, []), len(inputs))
        except ValueError:
            if placement.rule != "chain":
                raise
    probabilities = _sums_to_one(scores)
    layout[last] = scores if probabilities else _softmax(scores)
    return Layout(
        tuple(layout),
        tuple(tuple(value.shape[1:]) for value in layout.values()),
        tuple(value.dtype for value in layout.values()),
        probabilities,
        channels_last,
    )


def capture(
    model: nn.Module,
    layout: Layout,
    source: Batches,
    *,
    probes: Sequence[int] | None = None,
    receive: Callable[[int, Tensor], None] | None = None,
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
    make_room: Callable[[int], object] = lambda rows: None,
) -> Captured:
    """Run the model over all of `source`; its probes' values are copied as they arise.

    Call it inside `at_rest`. probes: the numbers of those whose values are kept; None for all.
    receive: called with a probe's number and values (B, ...), which are not kept in memory then.
    device: where values are kept; None for the CPU. on_rows: called with the number of rows done
    after each batch. make_room: called with the number of rows that memory is about to be taken
    for, more than once where a source does not know its length; it may raise a MemoryError.
    Raises ValueError when a row's shape differs from the layout's, or a label is not one of the
    network's classes.
    """
    rows = source.rows or 0
    make_room(rows)
    probes = range(len(layout.probes)) if probes is None else probes
    matrices = {
        probe: torch.empty(
            (rows if receive is None else 0, *layout.shapes[probe]),
            dtype=layout.dtypes[probe],
            device=device or "cpu",
        )
        for probe in probes
    }
    done = 0

    def numbered_batches() -> Iterator[tuple[int, Batch]]:
        nonlocal rows, done
        for batch in source:
            begin, done = done, done + len(batch[1])
            if source.rows is None and done > rows:
                rows = max(done, rows + rows // 2)
                make_room(rows)
                for matrix in matrices.values():
                    matrix.resize_(rows, *matrix.shape[1:])
            yield begin, batch
            on_rows(done)

    def store(probe: int, begin: int, values: Tensor) -> None:
        if receive is None:
            matrices[probe][begin : begin + len(values)].copy_(values)
        else:
            receive(probe, values)

    batches = forward(model, layout, source.what, numbered_batches(), probes, store, predict=True)
    labels, predictions = zip(*batches, strict=True)
    embeddings = []
    if receive is None:
        embeddings = [matrix[:done].reshape(done, -1) for matrix in matrices.values()]
    return Captured(embeddings, torch.cat(labels), torch.cat(predictions))


def labels_of(
    layout: Layout, source: Batches, *, on_rows: Callable[[int], None] = lambda done: None
) -> Tensor:
    """The labels (n,) int64 of all of `source`; the model does not run.

    Raises ValueError as `capture`.
    """
    parts: list[Tensor] = []
    done = 0
    for _, labels in source:
        check_labels(layout, source.what, labels)
        parts.append(labels)
        done += len(labels)
        on_rows(done)
    return torch.cat(parts)


def capture_again(
    model: nn.Module,
    layout: Layout,
    source: Batches,
    probes: Sequence[int],
    rows: NDArray[np.int64],
    *,
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """The values (n, D) of some probes, by their numbers, at some rows, ascending, of `source`.

    Call it inside `at_rest`. Batches are those of the first reading, so that values have the same
    bits; a batch without any of the rows is not run, and no batch beyond the last of the probes.
    Raises `dataset.Changed` where the source gives other rows than before.
    """
    matrices = {
        probe: torch.empty(
            (len(rows), *layout.shapes[probe]), dtype=layout.dtypes[probe], device=device or "cpu"
        )
        for probe in probes
    }
    size = source.batch_rows
    assert size is not None  # of a source that can be read again
    batches = np.unique(rows // size)
    last = 0

    def numbered_batches() -> Iterator[tuple[int, Batch]]:
        for begin, batch in source.again(batches.tolist()):
            yield begin, batch
            on_rows(last)

    def store(probe: int, begin: int, values: Tensor) -> None:
        nonlocal last
        first, last = np.searchsorted(rows, [begin, begin + len(values)]).tolist()
        if last - first < len(values):
            values = values[rows[first:last] - begin]
        matrices[probe][first:last].copy_(values)

    for _ in forward(model, layout, source.what, numbered_batches(), probes, store):
        pass
    return [matrix.reshape(len(rows), -1) for matrix in matrices.values()]


def scores(model: nn.Module, layout: Layout, inputs: Tensor) -> Tensor:
    """The class scores (B, C) of a batch, as the model gives them: logits, or probabilities.

    Call it inside `at_rest`. Raises ValueError for an output that is not (batch, classes).
    """
    return _scores(_forward(unwrap(model), inputs, layout.channels_last), len(inputs))


class _LastProbeReached(BaseException):
    """Ends a forward pass after its last probe; no Exception, which a model may handle itself."""


def forward(
    model: nn.Module,
    layout: Layout,
    what: str,
    batches: Iterable[tuple[int, Batch]],
    probes: Sequence[int],
    receive: Callable[[int, int, Tensor], None],
    *,
    predict: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run batches, each with its first row's number, and hand on the values of some probes.

    Call it inside `at_rest`. receive: called with a probe's number, the first row's, and values
    (B, ...), which later code of the model may change. Yields labels (B,) and the network's
    predictions (B,) of each batch; no predictions (0,) unless `predict` or the softmax is among the
    probes, and the model runs no farther than the last of these. Raises ValueError as `capture`.
    """
    model = unwrap(model)
    number_of = {layout.probes[number]: number for number in probes}
    last = len(layout.probes) - 1
    whole = predict or last in probes
    received: set[Probe] = set()
    begin = rows = 0

    def pool_and_check(probe: Probe, value: Any) -> None:
        if probe in received:
            raise not_once(probe, 2)
        received.add(probe)
        value, shape = pooled(probe, value, rows), layout.shapes[number_of[probe]]
        if value.shape[1:] != shape:
            raise ValueError(
                f"{what}: expected values of shape {shape} at probe {probe.name!r}, as in the "
                f"first rows, got {tuple(value.shape[1:])} in rows {begin}-{begin + rows - 1}."
            )
        receive(number_of[probe], begin, value)
        if not whole and len(received) == len(number_of):
            raise _LastProbeReached

    hooked = [probe for probe, number in number_of.items() if number != last]
    with _hooks(model, hooked, pool_and_check):
        for begin, (inputs, labels) in batches:
            rows = len(labels)
            check_labels(layout, what, labels)
            received.clear()
            predictions = labels[:0]
            # Not around the loop: a generator's caller must not run without gradients for it.
            with torch.no_grad():
                try:
                    scores = _scores(_forward(model, inputs, layout.channels_last), rows)
                except _LastProbeReached:
                    pass
                else:
                    for probe in hooked:
                        if probe not in received:
                            raise not_once(probe, 0)
                    if last in probes:
                        receive(last, begin, scores if layout.probabilities else _softmax(scores))
                    predictions = scores.argmax(dim=1).cpu()
            yield labels, predictions


def check_labels(layout: Layout, what: str, labels: Tensor) -> None:
    """Raises ValueError for labels (B,) of `what` that are no classes of the network."""
    classes = layout.shapes[-1][0]
    unknown = labels[(labels < 0) | (labels >= classes)]
    if len(unknown):
        raise ValueError(
            f"{what}: expected labels from 0 to {classes - 1}, the network's {classes} classes, "
            f"got {unknown[0]}."
        )


@contextmanager
def _hooks(
    model: nn.Module, probes: list[Probe] | tuple[Probe, ...], receive: Callable[[Probe, Any], None]
) -> Iterator[None]:
    """Call `receive` with each probe's value as soon as it exists, before later code changes it."""

    def output_hook(probe: Probe) -> Callable[..., None]:
        return lambda module, args, output: receive(probe, output)

    def input_hook(probe: Probe) -> Callable[..., None]:
        return lambda module, args, kwargs: receive(probe, (*args, *kwargs.values()))

    handles = []
    try:
        for probe in probes:
            module = model.get_submodule(probe.module)
            if probe.at == "input":
                hook = input_hook(probe)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(output_hook(probe)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _runs_channels_last(model: nn.Module, inputs: Tensor) -> bool:
    """Whether the model convolves float32 on a CPU, and runs on images that lie channels last."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if inputs.ndim != 4 or device_of(model).type != "cpu":
        return False
    if not any(module.weight.dtype == torch.float32 for module in convolutions):
        return False
    try:
        _forward(model, inputs, channels_last=True)
    except Exception:  # of a view(), say, that needs another order; other faults show again
        return False
    return True


def _forward(model: nn.Module, inputs: Tensor, channels_last: bool) -> Any:
    """Run the model on inputs moved to its device and, if both are floating, to its precision."""
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    for tensor in _tensors(model):
        dtype = tensor.dtype if inputs.is_floating_point() else inputs.dtype
        if tensor.is_floating_point():
            return model(inputs.to(tensor.device, dtype))
    return model(inputs)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU for one without."""
    first = next(_tensors(unwrap(model)), None)
    return torch.device("cpu") if first is None else first.device


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _scores(output: Any, rows: int) -> Tensor:
    """The class scores (rows, C) in a model's output."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if isinstance(output, Tensor):
        if output.ndim == 2 and len(output) == rows and output.shape[1] > 1:
            return output
        kind = f"shape {tuple(output.shape)} for {rows} inputs"
    raise ValueError(
        "model: expected class scores (batch, classes) as output, with at least two classes, "
        f"alone, first in a tuple or as .logits, got {kind}."
    )


def _softmax(scores: Tensor) -> Tensor:
    # 16 bits round confident rows to the same probability; neighbours need them apart.
    return scores.softmax(dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _sums_to_one(scores: Tensor) -> bool:
    tolerance = 1e-2 if scores.dtype.itemsize < 4 else 1e-4
    off = (scores.double().sum(dim=1) - 1).abs()
    return bool((scores >= 0).all() and (off < tolerance).all())
