"""One forward pass that fills an embedding matrix for every probe."""

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

DRY_ROWS = 2


@dataclass(frozen=True)
class Layout:
    """What each probe of a network holds for one row, learnt from a dry pass.

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
    """What one pass over a source gave.

    embeddings: for each probe (n, D), contiguous, on the device that was asked for.
    labels, predictions: (n,) int64, on the CPU.
    """

    embeddings: list[Tensor]
    labels: Tensor
    predictions: Tensor


def footprint(
    layout: Layout, rows: int, metric: str = "sqeuclidean", numbers: Sequence[int] | None = None
) -> int:
    """Bytes that the embeddings of `rows` rows take; for "cosine" with their float64 copies.

    numbers: of these probes only.
    """
    copy = 8 if metric == "cosine" else 0
    sizes = [
        width * (dtype.itemsize + copy)
        for width, dtype in zip(layout.widths, layout.dtypes, strict=True)
    ]
    return rows * sum(sizes if numbers is None else (sizes[number] for number in numbers))


def check_memory(
    layout: Layout,
    rows: int,
    budget: Budget,
    metric: str = "sqeuclidean",
    where: str = "memory",
) -> str:
    """What the embeddings take, in a sentence; a MemoryError where the budget does not suffice."""
    bytes_needed = footprint(layout, rows, metric)
    need = f"{human(bytes_needed)} in {where} for {rows:,} rows x {len(layout.probes)} probes"
    if budget.size is None:
        return need
    if bytes_needed > budget.size:
        raise MemoryError(
            f"The embeddings need {need}, more than the {budget}; "
            "probe fewer layers or use fewer rows."
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
            f"device is {str(device)!r}, but the model is spread over "
            f"{', '.join(sorted(map(str, homes)))}; wanted device=None for such a model."
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

    def note(probe: Probe, value: Any) -> None:
        # What a later in-place operation does to the value changes neither shape nor type.
        values.setdefault(probe, []).append(value)

    first, *middle, last = placement.probes
    channels_last = _likes_channels_last(model, inputs)
    with _hooks(model, (first, *middle), note):
        try:
            output = _forward(model, inputs, channels_last)
        except RuntimeError as error:
            kind = str(inputs.dtype).removeprefix("torch.")
            raise ValueError(
                f"the model fails on inputs of shape {tuple(inputs.shape[1:])} and type {kind}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        scores = _scores(output, len(inputs))
    # Dictionaries keep the order of the first call, which is the order of the forward pass.
    ran = sorted(values, key=lambda probe: probe != first)
    kept: dict[Probe, Tensor] = {}
    for probe in (*ran, *(p for p in middle if p not in values)):
        try:
            kept[probe] = _only(probe, values.get(probe, []), len(inputs))
        except ValueError:
            if placement.rule != "chain":
                raise
    probabilities = _sums_to_one(scores)
    kept[last] = scores if probabilities else _softmax(scores)
    return Layout(
        tuple(kept),
        tuple(tuple(value.shape[1:]) for value in kept.values()),
        tuple(value.dtype for value in kept.values()),
        probabilities,
        channels_last,
    )


def capture(
    model: nn.Module,
    layout: Layout,
    source: Batches,
    *,
    numbers: Sequence[int] | None = None,
    put: Callable[[int, Tensor], None] | None = None,
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
    make_room: Callable[[int], object] = lambda rows: None,
) -> Captured:
    """Run the model over all of `source`; its probes' values are copied as they arise.

    Call it inside `at_rest`. numbers: the probes whose values are kept; None for all. put: takes
    values (B, ...) of a probe, by its number, instead of memory; the result has no embeddings then.
    device: where values are kept; None for the CPU. on_rows: told how many rows are done after each
    batch. make_room: told for how many rows memory is about to be taken, more than once where a
    source does not know its length; it may refuse with a MemoryError.
    Raises ValueError when a row's shape differs from the layout's, or a label is not one of the
    network's classes.
    """
    rows = source.rows or 0
    make_room(rows)
    kept = range(len(layout.probes)) if numbers is None else numbers
    matrices = {
        number: torch.empty(
            (rows if put is None else 0, *layout.shapes[number]),
            dtype=layout.dtypes[number],
            device=device or "cpu",
        )
        for number in kept
    }
    done = 0

    def placed() -> Iterator[tuple[int, Batch]]:
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

    def place(number: int, begin: int, values: Tensor) -> None:
        if put is None:
            matrices[number][begin : begin + len(values)].copy_(values)
        else:
            put(number, values)

    batches = forward(model, layout, source.what, placed(), kept, place, predict=True)
    labels, predictions = zip(*batches, strict=True)
    embeddings = [matrix[:done].reshape(done, -1) for matrix in matrices.values() if put is None]
    return Captured(embeddings, torch.cat(labels), torch.cat(predictions))


def labels_of(
    layout: Layout, source: Batches, *, on_rows: Callable[[int], None] = lambda done: None
) -> Tensor:
    """The labels (n,) int64 of all of `source`; the model does not run.

    Raises ValueError as `capture`.
    """
    found: list[Tensor] = []
    done = 0
    for _, labels in source:
        check_labels(layout, source.what, labels)
        found.append(labels)
        done += len(labels)
        on_rows(done)
    return torch.cat(found)


def capture_again(
    model: nn.Module,
    layout: Layout,
    source: Batches,
    numbers: Sequence[int],
    rows: NDArray[np.int64],
    *,
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """The values (n, D) of some probes, by their numbers, at some rows, ascending, of `source`.

    Call it inside `at_rest`. Batches are those of the first reading, so that values have the same
    bits; a batch without any of the rows is not run, and no batch beyond the last of the probes.
    Raises `data.Changed` where the source gives other rows than before.
    """
    matrices = {
        number: torch.empty(
            (len(rows), *layout.shapes[number]), dtype=layout.dtypes[number], device=device or "cpu"
        )
        for number in numbers
    }
    size = source.batch_rows
    assert size is not None  # of a source that can be read again
    batches = np.unique(rows // size)
    last = 0

    def placed() -> Iterator[tuple[int, Batch]]:
        for begin, batch in source.again(batches.tolist()):
            yield begin, batch
            on_rows(last)

    def put(number: int, begin: int, values: Tensor) -> None:
        nonlocal last
        first, last = np.searchsorted(rows, [begin, begin + len(values)]).tolist()
        some = values if last - first == len(values) else values[rows[first:last] - begin]
        matrices[number][first:last].copy_(some)

    for _ in forward(model, layout, source.what, placed(), numbers, put):
        pass
    return [matrix.reshape(len(rows), -1) for matrix in matrices.values()]


def scores(model: nn.Module, layout: Layout, inputs: Tensor) -> Tensor:
    """The class scores (B, C) of a batch, as the model gives them: logits, or probabilities.

    Call it inside `at_rest`. Raises ValueError for an output that is not (batch, classes).
    """
    return _scores(_forward(unwrap(model), inputs, layout.channels_last), len(inputs))


class _Enough(BaseException):
    """The last of the wanted probes has been seen; a model's own handlers are not for this."""


def forward(
    model: nn.Module,
    layout: Layout,
    what: str,
    batches: Iterable[tuple[int, Batch]],
    numbers: Sequence[int],
    put: Callable[[int, int, Tensor], None],
    *,
    predict: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run batches, each with its first row's number, and `put` the values of some probes.

    Call it inside `at_rest`. put: takes a probe's number, the first row's, and values (B, ...),
    which later code of the model may change. Yields labels (B,) and the network's predictions (B,)
    of each batch; no predictions (0,) unless they are asked for or the softmax is among the probes,
    and the model runs no farther than the last of these. Raises ValueError as `capture`.
    """
    model = unwrap(model)
    number_of = {layout.probes[number]: number for number in numbers}
    last = len(layout.probes) - 1
    whole = predict or last in numbers
    filled: set[Probe] = set()
    begin = rows = 0

    def store(probe: Probe, value: Any) -> None:
        if probe in filled:
            raise _not_once(probe, 2)
        filled.add(probe)
        value, shape = _pooled(probe, value, rows), layout.shapes[number_of[probe]]
        if value.shape[1:] != shape:
            raise ValueError(
                f"{what}: probe {probe.name!r} gives values of shape {tuple(value.shape[1:])} in "
                f"rows {begin}-{begin + rows - 1}; wanted {shape}, as in the first rows."
            )
        put(number_of[probe], begin, value)
        if not whole and len(filled) == len(number_of):
            raise _Enough

    hooked = [probe for probe, number in number_of.items() if number != last]
    with _hooks(model, hooked, store):
        for begin, (inputs, labels) in batches:
            rows = len(labels)
            check_labels(layout, what, labels)
            filled.clear()
            predictions = labels[:0]
            # Not around the loop: a generator's caller must not run without gradients for it.
            with torch.no_grad():
                try:
                    scores = _scores(_forward(model, inputs, layout.channels_last), rows)
                except _Enough:
                    pass
                else:
                    for probe in hooked:
                        if probe not in filled:
                            raise _not_once(probe, 0)
                    if last in numbers:
                        put(last, begin, scores if layout.probabilities else _softmax(scores))
                    predictions = scores.argmax(dim=1).cpu()
            yield labels, predictions


def check_labels(layout: Layout, what: str, labels: Tensor) -> None:
    """Raises ValueError for labels (B,) of `what` that are no classes of the network."""
    classes = layout.shapes[-1][0]
    strange = labels[(labels < 0) | (labels >= classes)]
    if len(strange):
        raise ValueError(
            f"{what} yields label {strange[0]}, and the network has {classes} classes; "
            f"wanted labels from 0 to {classes - 1}."
        )


@contextmanager
def _hooks(
    model: nn.Module, probes: list[Probe] | tuple[Probe, ...], receive: Callable[[Probe, Any], None]
) -> Iterator[None]:
    """Give `receive` each probe's value the moment it exists, before later code can change it."""

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


def _likes_channels_last(model: nn.Module, inputs: Tensor) -> bool:
    """Whether the model convolves float32 on a CPU, and runs on images that lie channels last."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if inputs.ndim != 4 or device_of(model).type != "cpu":
        return False
    if not any(each.weight.dtype == torch.float32 for each in convolutions):
        return False
    try:
        _forward(model, inputs, channels_last=True)
    except Exception:  # of a view(), say, that wants another order; other faults will show again
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


def _only(probe: Probe, values: list[Any], rows: int) -> Tensor:
    if len(values) != 1:
        raise _not_once(probe, len(values))
    return _pooled(probe, values[0], rows)


def _not_once(probe: Probe, times: int) -> ValueError:
    found = "more than once" if times else "never"
    return ValueError(
        f"layers: module {probe.module!r} runs {found} in a forward pass; wanted modules that run "
        "exactly once."
    )


def _pooled(probe: Probe, value: Any, rows: int) -> Tensor:
    """A probe's tensor (rows, ...) from a module's input or output, tokens pooled."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    value = value.detach() if isinstance(value, Tensor) else value
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"layers: the {probe.at} of module {probe.module!r} is {found} for {rows} inputs; "
            "wanted a tensor with one row for each."
        )
    if value.ndim > 2 and probe.pool == "token":
        return value[:, 0]
    if value.ndim > 2 and probe.pool == "mean":
        return value.flatten(1, -2).mean(dim=1)
    return value


def _scores(output: Any, rows: int) -> Tensor:
    """The class scores (rows, C) in a model's output."""
    found = type(output).__name__
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if isinstance(output, Tensor):
        if output.ndim == 2 and len(output) == rows and output.shape[1] > 1:
            return output
        found = f"of shape {tuple(output.shape)} for {rows} inputs"
    raise ValueError(
        f"The model's output is {found}; wanted class scores (batch, classes) with at least two "
        "classes, alone, first in a tuple or as .logits."
    )


def _softmax(scores: Tensor) -> Tensor:
    # 16 bits round confident rows to the same probability; neighbours need them apart.
    return scores.softmax(dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _sums_to_one(scores: Tensor) -> bool:
    tolerance = 1e-2 if scores.dtype.itemsize < 4 else 1e-4
    off = (scores.double().sum(dim=1) - 1).abs()
    return bool((scores >= 0).all() and (off < tolerance).all())
