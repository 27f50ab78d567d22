"""What a network's embeddings are: its probes, their shapes and types, seen in a dry pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import Tensor

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller, Form, as_classes
from pdepth.embeddings.placement import VERSION, Probe
from pdepth.embeddings.pooling import Mask, Positions


@dataclass(frozen=True)
class Layout:
    """The shapes and types of one row at each probe of a network, from a dry pass.

    Attributes:
        probes: in the order in which the forward pass runs them. shapes: of one row's value,
            pooled. dtypes: as the model computes.
        caller: how the network is called. form: what its class scores are.
        mask: where padding is marked, or None.
        rule: which rule placed the probes. notes, doubts: sentences on what was done, and on what
            may not be right.
    """

    probes: tuple[Probe, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    caller: Caller
    form: Form = "logits"
    mask: Mask | None = None
    rule: str = "given"
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(probe.name for probe in self.probes)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def description(self) -> str:
        """What decides the values at the probes, beside the network and the data."""
        return (
            "; ".join(
                f"{p.module}@{p.call} {p.at} {getattr(p.pool, '__qualname__', p.pool)} "
                f"{p.positions} {p.masked} {p.grid} {p.parts} {p.axis} {p.layer}"
                for p in self.probes
            )
            + f"; {self.form}; {self.mask}"
        )

    def meta(self) -> dict[str, str]:
        """What a result keeps of it, as text by name.

        The entry "probes" says how values became vectors, where they are not taken whole, what was
        left out or averaged, and what is doubtful.
        """
        meta = {
            "model": type(self.caller.model).__name__,
            "placement": self.rule,
            "placement version": str(VERSION),
        }
        if sentences := (*self._poolings(), *self.notes, *self.doubts):
            meta["probes"] = "; ".join(sentences)
        return meta

    def _poolings(self) -> Iterator[str]:
        """Which probes' values are pooled, and how: "blocks.0 to blocks.11: token"."""
        texts = {
            probe.name: pooling_text(probe, self.mask)
            for probe in self.probes
            if probe.grid is None  # a note says which are averaged
        }
        for text in dict.fromkeys(texts.values()):
            alike = [name for name in texts if texts[name] == text]
            if text not in ("flatten", "softmax"):
                yield f"{ranges_of(self.names, alike)}: {text}"

    @property
    def probabilities(self) -> bool:
        """Whether the class scores are already what a softmax would give."""
        return self.form in ("probabilities", "probability")

    def scores(self, returned: Any, rows: int | None) -> Tensor:
        """The class scores (rows, C) in what the network returned; the largest is its class."""
        return as_classes(self.caller.scores(returned, rows), self.form)

    def positions(self, inputs: Inputs) -> Positions:
        """Which positions of a batch's rows count, and which graph a node is of."""
        valid = None if self.mask is None else self.mask.read(self.caller, inputs)
        graph = inputs.graph
        return Positions(valid, None if graph is None else graph.batch)

    def input_value(self, inputs: Inputs) -> Tensor:
        """The value (B, ...) of the input: of several, all of them side by side."""
        return input_value(self.caller, inputs)


def input_value(caller: Caller, inputs: Inputs) -> Tensor:
    """The followed tensors of the inputs; of several, all side by side (B, D)."""
    tensors = [tensor for _, tensor in caller.followed(inputs)]
    if len(tensors) == 1:
        return tensors[0]
    flat = [tensor.reshape(len(tensor), -1) for tensor in tensors]
    dtype = flat[0].dtype
    for tensor in flat:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.cat([tensor.to(dtype) for tensor in flat], dim=1)


def ranges_of(names: Sequence[str], chosen: Collection[str]) -> str:
    """Some of the names in few words, neighbours together: "stem, blocks.0 to blocks.11"."""
    ranges = []
    for is_chosen, group in groupby(names, key=lambda name: name in chosen):
        first, *rest = group
        if is_chosen:
            ranges.append(f"{first} to {rest[-1]}" if rest else first)
    return ", ".join(ranges)


def pooling_text(probe: Probe, mask: Mask | None = None) -> str:
    """How a probe's values become vectors, in a few words: "mean of tokens 1 to the last"."""
    pool = getattr(probe.pool, "__name__", str(probe.pool))
    if probe.layer is not None:
        return "last state"
    if probe.nodes:
        return f"{pool} of nodes"
    if probe.grid is not None:
        runs = "runs" if probe.tokens else f"x {probe.grid}"
        return f"averaged to {probe.grid} {runs}"
    begin, end = probe.positions
    if (begin, end) != (0, None):
        return f"{pool} of tokens {begin} to {'the last' if end is None else end - 1}"
    if probe.tokens and probe.masked and mask is not None and pool in ("mean", "max", "last"):
        return f"{pool} of tokens without padding"
    return pool
