"""One forward pass after the other: the values of a network at some of its probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pdepth.embeddings.batch import Batch, Inputs
from pdepth.embeddings.calling import call, probabilities
from pdepth.embeddings.layout import Layout
from pdepth.embeddings.placement import Probe
from pdepth.embeddings.pooling import RecurrentRun, not_once, pooled


def scores(layout: Layout, inputs: Inputs) -> Tensor:
    """The class scores (B, C) of a batch, as the model gives them: logits, or probabilities.

    Call it inside `at_rest`. Raises ValueError for an output that is no class scores.
    """
    return layout.scores(layout.caller(inputs), inputs.rows)


def values_of(layout: Layout, inputs: Inputs) -> list[Tensor]:
    """The values (B, ...) of a batch at every probe. Call it inside `at_rest`."""
    values: dict[int, Tensor] = {}

    def keep(number: int, value: Tensor) -> None:
        values[number] = value.clone()

    Forward(layout, range(len(layout.probes)), keep).run(inputs)
    return [values[number] for number in range(len(layout.probes))]


class _LastProbeReached(BaseException):
    """Ends a forward pass after its last probe; no Exception, which a model may handle itself."""


class _ProbeFailed(BaseException):
    """Carries an error of a probe's own through the network's code."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Forward:
    """Forward passes of a network, batch by batch, that hand on the values of some probes."""

    def __init__(
        self,
        layout: Layout,
        probes: Sequence[int],
        receive: Callable[[int, Tensor], None],
        *,
        whole: bool = True,
    ) -> None:
        """probes: by their numbers. receive: called with a probe's number and values (B, ...),
        which later code of the model may change. whole: run beyond the last of the probes."""
        self._layout, self._receive = layout, receive
        self._numbers = {layout.probes[number]: number for number in probes}
        self._softmax = len(layout.probes) - 1
        self._whole = whole or self._softmax in probes
        self._inputs = [p for p in self._numbers if p.at == "input" and not p.module]
        others = (*self._inputs, layout.probes[self._softmax])
        self._hooked = [p for p in self._numbers if p not in others]

    def run(self, inputs: Inputs) -> Tensor | None:
        """Run a batch; its class scores (B, C), or None where the pass ended at the last probe."""
        layout = self._layout
        moved = layout.caller.moved(inputs)
        positions = layout.positions(moved)
        received: set[Probe] = set()

        def take(probe: Probe, value: Any) -> None:
            received.add(probe)
            try:
                self._receive(self._numbers[probe], pooled(probe, value, inputs.rows, positions))
            except Exception as error:
                raise _ProbeFailed(error) from error
            if not self._whole and len(received) == len(self._numbers):
                raise _LastProbeReached

        # Not around the loop over batches: a generator's caller must not run without gradients.
        with torch.no_grad(), _hooks(layout.caller.model, self._hooked, take) as runs:
            try:
                for probe in self._inputs:
                    take(probe, layout.input_value(moved))
                returned = call(layout.caller.run, moved)
            except _LastProbeReached:
                return None
            except _ProbeFailed as failed:
                raise failed.error from failed.error.__cause__
            for probe in self._hooked:
                times = runs[probe.module, probe.at]
                if probe not in received or probe.runs not in (None, times):
                    raise not_once(probe, times)
            scores = layout.scores(returned, inputs.rows)
            if self._softmax in self._numbers.values():
                self._receive(self._softmax, probabilities(scores, layout.form))
        return scores


def forward(
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
    begin = rows = 0

    def check_and_hand_on(number: int, value: Tensor) -> None:
        shape = layout.shapes[number]
        if value.shape[1:] != shape:
            raise ValueError(
                f"{what}: expected values of shape {shape} at probe "
                f"{layout.probes[number].name!r}, as in the first rows, got "
                f"{tuple(value.shape[1:])} in rows {begin}-{begin + rows - 1}; pass pool='mean' "
                "for rows of several lengths."
            )
        receive(number, begin, value)

    run = Forward(layout, probes, check_and_hand_on, whole=predict)
    for first, (inputs, labels) in batches:
        begin = first
        rows = len(labels)
        check_labels(layout, what, labels)
        scores = run.run(inputs)
        yield labels, labels[:0] if scores is None else scores.argmax(dim=1).cpu()


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
    model: nn.Module, probes: Sequence[Probe], receive: Callable[[Probe, Any], None]
) -> Iterator[Mapping[tuple[str, str], int]]:
    """Call `receive` with each probe's value as soon as it exists, before later code changes it.

    Yields how often each module ran so far, by its name and the point of it.
    """
    runs: Counter[tuple[str, str]] = Counter()

    def hook_of(point: tuple[str, str], run_of: dict[int, list[Probe]]) -> Callable[[Any], None]:
        def hook(value: Any) -> None:
            runs[point] += 1
            for probe in run_of.get(runs[point], ()):
                receive(probe, value)

        return hook

    by_module: dict[tuple[str, str], dict[int, list[Probe]]] = {}
    for probe in probes:
        by_module.setdefault((probe.module, probe.at), {}).setdefault(probe.call, []).append(probe)
    handles = []
    try:
        for (name, at), run_of in by_module.items():
            module, hook = model.get_submodule(name), hook_of((name, at), run_of)
            handles.append(_before(module, hook) if at == "input" else _after(module, hook))
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def _before(module: nn.Module, hook: Callable[[Any], None]) -> RemovableHandle:
    """Call `hook` with a module's arguments before each of its runs."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        hook((args, kwargs))

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _after(module: nn.Module, hook: Callable[[Any], None]) -> RemovableHandle:
    """Call `hook` with a module's output after each of its runs."""

    def after(module: nn.Module, args: Any, output: Any) -> None:
        hook(RecurrentRun(module, args, output) if isinstance(module, nn.RNNBase) else output)

    return module.register_forward_hook(after)
