"""The parts of a network that a reader of its code would name: layers, blocks, and what opens.

A part ends at a cut of the trace. A module is opened where it is a row of such parts, and left
whole where its values branch within it (a residual block, an inception, a dense block).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from pdepth.embeddings.trace import Call, Trace

SPATIAL_NORMS = ("Batch", "Group", "Instance", "Local")


@dataclass(eq=False)
class Unit:
    """A part of a network: a layer with its normalisation and activation, or a whole module.

    first, last: the calls in which it begins and ends; of a module the same. block: its values
    branch within it.
    """

    first: Call
    last: Call
    block: bool = False
    layer: bool = False

    @property
    def calls(self) -> tuple[Call, ...]:
        return (self.first,) if self.first is self.last else (self.first, self.last)


class Units:
    """Find the units of a trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        total = {id(p): p.numel() for p in trace.root.module.parameters()}
        self._weights = sum(total.values())
        self._kept: dict[int, list[Unit]] = {}
        self._block_classes: set[type] = set()
        blocks = [call for call in trace.root.walk() if self._is_block(call)]
        self._block_classes = {type(c.module) for c in blocks} - {nn.Sequential, nn.ModuleList}
        self._kept.clear()

    def all(self) -> list[Unit]:
        """Every unit that ends in a cut and is followed by weights, in the order they run."""
        units = self._inside(self._trace.root)
        return [
            u for u in units if self._trace.has_weights_after(max(ends_of(self._trace, u.last)))
        ]

    def _inside(self, call: Call) -> list[Unit]:
        """The units within a call."""
        if id(call) not in self._kept:
            parts = [part for child in call.children for part in self._parts(child)]
            self._kept[id(call)] = self._merged(parts)
        return self._kept[id(call)]

    def _parts(self, call: Call) -> list[Unit]:
        """A call as units, and as layers that may follow on another."""
        trace = self._trace
        if not call.children:
            return [Unit(call, call, layer=True)]
        inner = self._inside(call)
        if not trace.is_cut(ends_of(trace, call)):
            return inner
        if type(call.module) in self._block_classes or self._is_block(call):
            return [Unit(call, call, block=True)]
        if not any(trace.weighted[call.begin : call.end]):
            return [Unit(call, call, layer=True)]  # an activation of several modules, say
        if len(inner) == 1 and ends_of(trace, inner[0].last) == ends_of(trace, call):
            if inner[0].block and type(call.module) is nn.Sequential:
                return inner
            return [Unit(call, call, block=inner[0].block)]
        if inner and self._opens(call, inner):
            return [part for child in call.children for part in self._parts(child)]
        return [Unit(call, call, block=bool(trace.branches(call.begin, call.end)))]

    def _is_block(self, call: Call) -> bool:
        """Whether values branch within a call, and not only within units of it."""
        if not call.children or call.parent is None:
            return False
        trace = self._trace
        if not trace.is_cut(ends_of(trace, call)):
            return False
        ranges = [(u.first.begin, u.last.end) for u in self._inside(call) if not u.layer]
        return any(
            not any(begin <= node < end for begin, end in ranges)
            for node in trace.branches(call.begin, call.end)
        )

    def _opens(self, call: Call, inner: list[Unit]) -> bool:
        """Whether a call is a mere row of units: a Sequential, a stage, a backbone."""
        if type(call.module) is nn.Sequential:
            return True
        classes = Counter(type(u.first.module) for u in inner if not u.layer)
        if any(count > 1 for count in classes.values()):
            return True
        own = {id(p): p.numel() for p in call.module.parameters()}
        return len(inner) > 1 and sum(own.values()) > self._weights / 2

    def _merged(self, parts: Iterable[Unit]) -> list[Unit]:
        """Units that end in cuts; a layer's normalisation and activation belong to it."""
        trace = self._trace
        units: list[Unit] = []
        for part in parts:
            ends = ends_of(trace, part.last)
            if not ends or not trace.is_cut(ends):
                continue
            if part.layer and not _has_matrix(part.first.module):
                if units and not units[-1].block and self._follows(part.first, units[-1].last):
                    units[-1] = Unit(units[-1].first, part.last, layer=units[-1].layer)
                continue
            units.append(part)
        return units

    def _follows(self, call: Call, last: Call) -> bool:
        """Whether a call normalises or activates a unit's values, and none from elsewhere."""
        ends = ends_of(self._trace, last)
        return call.entry in ends and call.shape == last.shape and call.node not in ends


def ends_of(trace: Trace, call: Call) -> tuple[int, ...]:
    """The nodes of a call's output: the first tensor's where that is a cut, else all."""
    if call.node is not None and trace.is_cut([call.node]):
        return (call.node,)
    return tuple(dict.fromkeys(node for node in call.nodes if node is not None))


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module has a matrix of weights."""
    return any(weight.ndim > 1 for weight in (*module.parameters(), *module.buffers()))


def has_tokens(calls: Iterable[Call], shape: tuple[int, ...]) -> bool:
    """Whether values of this shape are tokens (B, ..., D): some layer within works along D."""
    if len(shape) < 3 or (len(shape) == 4 and shape[1] == shape[-1]):
        return False
    return any(_along_last(call, shape[-1]) for top in calls for call in top.walk())


def _along_last(call: Call, width: int) -> bool:
    if call.children or len(call.shape) < 3 or call.shape[-1] != width:
        return False
    module, kind = call.module, type(call.module).__name__
    if isinstance(module, nn.Linear | nn.Embedding) or kind == "Conv1D":  # GPT-2's linear layer
        return True
    if "Norm" not in kind or kind.startswith(SPATIAL_NORMS):
        return False
    weights = [weight for weight in module.parameters() if weight.ndim == 1]
    return any(len(weight) == width for weight in weights)
