"""What a network's embeddings are: its probes, their shapes and types, seen in a dry pass."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller, Form, as_classes
from pdepth.embeddings.placement import Probe
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
                f"{p.positions} {p.masked} {p.grid} {p.axis} {p.layer}"
                for p in self.probes
            )
            + f"; {self.form}; {self.mask}"
        )

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
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)
