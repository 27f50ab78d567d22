"""The parts of a network that a reader of its code would name: layers, blocks, and what opens.

A part ends at a cut of the trace. A module is opened where it is a row of such parts, and left
whole where its values branch within it (a residual block, an inception, a dense block).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Literal

from torch import nn

from pdepth.embeddings.trace import Call, Trace

SPATIAL_NORMS = ("Batch", "Group", "Instance", "Local")


@dataclass(eq=False)
class Unit:
    """A part of a network: a layer with its normalisation and activation, or a whole module.

    first, last: the calls in which it begins and ends; of a module the same. block: its values
    branch within it. at: "input" where it ends before that call: what a loop over a list of modules
    makes outside of them, as `x = x + block(x)` does.
    """

    first: Call
    last: Call
    block: bool = False
    layer: bool = False
    at: Literal["input", "output"] = "output"

    @property
    def calls(self) -> tuple[Call, ...]:
        return (self.first,) if self.first is self.last else (self.first, self.last)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its first value."""
        return self.last.shape if self.at == "output" else self.last.entry_shape

    def ends(self, trace: Trace) -> tuple[int, ...]:
        """Its nodes: of several values the first where that is a cut, else all."""
        call = self.last
        if self.at == "input":
            return () if call.entry is None else (call.entry,)
        return ends_of(trace, call)

    def parts(self, trace: Trace, rows: int | None) -> tuple[int, ...]:
        """Which of several values that a module returns are taken: those with one for each input.

        None of them where the first is all of a row.
        """
        several = self._several(trace)
        return tuple(p for p in several if rows is None or self.last.shapes[p][:1] == (rows,))

    def left_out(self, trace: Trace, rows: int | None) -> list[tuple[int, ...]]:
        """The shapes of values that are not taken."""
        if isinstance(self.last.module, nn.RNNBase):  # its states have the rows second
            return []
        places = set(self._several(trace)) - set(self.parts(trace, rows))
        return [self.last.shapes[place] for place in sorted(places)]

    def _several(self, trace: Trace) -> list[int]:
        ends, nodes = self.ends(trace), self.last.nodes
        if self.at == "input" or ends == nodes[:1]:
            return []
        return sorted(nodes.index(node) for node in ends if trace.reaches_output(node))

    def has_tokens(self, shape: tuple[int, ...]) -> bool:
        """Whether values of this shape are tokens, by its own layers or by those it is among."""
        calls, parent = self.calls, self.last.parent
        if parent is not None and parent.parent is not None and not self.block:
            calls = (*calls, parent)
        return has_tokens(calls, shape)


class Units:
    """Find the units of a trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        total = {id(p): p.numel() for p in trace.root.module.parameters()}
        self._weights = sum(total.values())
        self._kept: dict[int, list[Unit]] = {}
        # Of one class all are blocks, or rows of units, as its first instances show.
        self._block_classes: set[type] = set()
        self._row_classes: set[type] = {nn.Sequential}
        calls = list(trace.root.walk())
        blocks = {type(c.module) for c in calls if self._is_block(c)} - self._row_classes
        rows = {type(c.module) for c in calls if self._is_row(c)} - blocks
        self._block_classes, self._row_classes = blocks, self._row_classes | rows
        self._kept.clear()

    def all(self) -> list[Unit]:
        """Every unit that ends in a cut and is followed by weights, in the order they run."""
        units = self._inside(self._trace.root)
        return [u for u in units if self._trace.has_weights_after(max(u.ends(self._trace)))]

    def _inside(self, call: Call) -> list[Unit]:
        """The units within a call."""
        if id(call) not in self._kept:
            self._kept[id(call)] = self._merged(self._row(call))
        return self._kept[id(call)]

    def _row(self, call: Call) -> list[Unit]:
        """The parts of a call's children, and what a loop over a list makes between its members."""
        after = self._after_members(call)
        parts: list[Unit] = []
        for child in call.children:
            if child in after:
                parts.append(Unit(child, child, block=True, at="input"))
            parts += self._parts(child)
        return parts

    def _after_members(self, call: Call) -> list[Call]:
        """The calls whose input is what a member of a list made, where no member ends in a cut.

        The network's own code adds the member's output to its input, as `x = x + block(x)` does.
        """
        trace = self._trace
        after: list[Call] = []
        if call.parent is None:  # the network's own code, whatever its modules are called
            after = [
                child
                for before, child in pairwise(call.children)
                if self._adds(before) and self._made(before, child)
            ]
        groups = [(m, list(c)) for m, c in groupby(call.children, partial(_member, trace, call))]
        for listed, run in groupby(groups, lambda group: group[0] and group[0][0]):
            members = [children for _, children in run]
            units = [u for children in members for child in children for u in self._parts(child)]
            if listed is None or any(trace.is_cut(unit.ends(trace)) for unit in units):
                continue
            firsts = [children[0] for children in members]
            made = [child for before, child in pairwise(firsts) if self._made(before, child)]
            if made == firsts[1:]:
                after += made
        return after

    def _adds(self, call: Call) -> bool:
        """Whether a call gives a part of what a row's values become, and not all of it."""
        ends = ends_of(self._trace, call)
        reaching = any(self._trace.reaches_output(node) for node in ends)
        return reaching and not self._trace.is_cut(ends)

    def _made(self, before: Call, call: Call) -> bool:
        """Whether a call's input arose since another call began, and is a cut."""
        entry = call.entry
        return entry is not None and entry >= before.begin and self._trace.is_cut([entry])

    def _parts(self, call: Call) -> list[Unit]:
        """A call as units, and as layers that may follow on another."""
        trace = self._trace
        if not call.children:
            return [Unit(call, call, layer=True)]
        inner = self._inside(call)
        if not trace.is_cut(ends_of(trace, call)):
            return inner
        if type(call.module) in self._block_classes or self._is_block(call):
            looped = [unit for unit in inner if unit.at == "input"]
            return [*looped, Unit(call, call, block=True)]
        if not any(trace.weighted[call.begin : call.end]):
            return [Unit(call, call, layer=True)]  # an activation of several modules, say
        if len(inner) == 1 and inner[0].ends(trace) == ends_of(trace, call):
            if inner[0].block and type(call.module) in self._row_classes:
                return inner
            return [Unit(call, call, block=inner[0].block)]
        if inner and self._opens(call, inner):
            return self._row(call)
        branches = bool(trace.branches(call.begin, call.end))
        return [Unit(call, call, block=branches and not _looks_up(call))]

    def _is_block(self, call: Call) -> bool:
        """Whether values branch within a call, and not only within units of it."""
        if not call.children or call.parent is None:
            return False
        trace = self._trace
        if not trace.is_cut(ends_of(trace, call)):
            return False
        whole = [u for u in self._inside(call) if not u.layer and u.at == "output"]
        ranges = [(u.first.begin, u.last.end) for u in whole]
        branches = any(
            not any(begin <= node < end for begin, end in ranges)
            for node in trace.branches(call.begin, call.end)
        )
        return branches and not _looks_up(call)

    def _opens(self, call: Call, inner: list[Unit]) -> bool:
        """Whether a call is a mere row of units: a Sequential, a stage, a backbone."""
        if type(call.module) in self._row_classes or self._is_row(call):
            return True
        own = {id(p): p.numel() for p in call.module.parameters()}
        return len(inner) > 1 and sum(own.values()) > self._weights / 2

    def _is_row(self, call: Call) -> bool:
        """Whether two of the units within a call are of one class and members of one list."""
        units = [u.first for u in self._inside(call) if not u.layer and u.at == "output"]
        members = Counter((type(u.module), _list_of(self._trace, u.name)) for u in units)
        return any(count > 1 for (_, listed), count in members.items() if listed is not None)

    def _merged(self, parts: Iterable[Unit]) -> list[Unit]:
        """Units that end in cuts; a layer's normalisation and activation belong to it."""
        trace = self._trace
        units: list[Unit] = []
        for part in parts:
            ends = part.ends(trace)
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
    """The nodes of a call's output: the first tensor's where that is a cut, else all.

    Tensors that are handed through are none of them, where others are not.
    """
    nodes = [node for node in dict.fromkeys(call.nodes) if node is not None]
    nodes = [node for node in nodes if node >= call.begin] or nodes
    return tuple(nodes[:1] if trace.is_cut(nodes[:1]) else nodes)


def _list_of(trace: Trace, name: str) -> str | None:
    """The list that a module is a numbered member of, like all beside it: its dotted name, in which
    lists of one kind are one."""
    parent, _, own = name.rpartition(".")
    beside = [child for child, _ in trace.root.module.get_submodule(parent).named_children()]
    kinds = {re.sub(r"\d+", "", child) for child in beside}
    return re.sub(r"\d+", "", parent) if len(kinds) == 1 and own not in kinds else None


def _member(trace: Trace, call: Call, child: Call) -> tuple[str, str] | None:
    """The outermost list within a call that a child of it is in, and which member that is."""
    inside = child.name.removeprefix(f"{call.name}." if call.name else "").split(".")
    outside = [call.name] if call.name else []
    for depth in range(1, len(inside) + 1):
        name = ".".join([*outside, *inside[:depth]])
        if (listed := _list_of(trace, name)) is not None:
            return listed, name
    return None


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module has a matrix of weights."""
    return any(weight.ndim > 1 for weight in (*module.parameters(), *module.buffers()))


def _looks_up(call: Call) -> bool:
    """Whether all matrices within a call are tables of embeddings.

    Those of words and of token types are added up where both are inputs: that is no block.
    """
    matrices = [c.module for c in call.walk() if not c.children and _has_matrix(c.module)]
    return bool(matrices) and all(isinstance(module, nn.Embedding) for module in matrices)


def has_tokens(calls: Iterable[Call], shape: tuple[int, ...]) -> bool:
    """Whether values of this shape are tokens (B, ..., D): some layer within works along D.

    What a convolution within gives is no tokens.
    """
    if len(shape) < 3:
        return False
    within = [call for top in calls for call in top.walk()]
    if any(call.shape == shape and isinstance(call.module, nn.Conv2d) for call in within):
        return False
    return any(_along_last(call, shape[-1]) for call in within)


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
