"""What a forward pass does: which modules run, in which order, and how a row's values flow.

Every operation on values that depend on the input is a node of a directed graph, whatever the
network is made of. A node through which every path from the input to the class scores leads is a
*cut*: all that the network knows of a row passes there. Outputs of residual blocks are cuts, their
inner convolutions are not; neither are parallel branches, auxiliary heads or shortcuts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

# Their results have the shape of an operand, and none of its values.
SHAPE_ONLY = frozenset(
    f"{kind}_{suffix}"
    for kind in ("zeros", "ones", "full", "empty", "rand", "randn")
    for suffix in ("like",)
) | {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
# Operations of a layer, by a part of their names; others join a weight to values, as a class token.
LAYERS = ("mm", "mv", "conv", "linear", "embedding")
ACTIVATIONS = frozenset(
    name + suffix
    for name in (
        *("relu", "relu6", "leaky_relu", "prelu", "_prelu_kernel", "rrelu", "rrelu_with_noise"),
        *("gelu", "silu", "mish", "elu", "celu", "selu", "glu", "softplus", "threshold"),
        *("sigmoid", "log_sigmoid_forward", "tanh", "hardtanh", "hardswish", "hardsigmoid"),
        *("clamp", "clamp_min", "exp", "square", "abs", "sin"),
    )
    for suffix in ("", "_")
)
OVERWRITING = ("copy_", "zero_", "fill_")


@dataclass(eq=False)
class Call:
    """One run of a module.

    Attributes:
        module, name: the module and its dotted name. number: of this run among the module's own,
            from 1. parent: the call within which it ran. children: in order.
        entry, entry_shape: the node and the shape of its first input. nodes: of its output's
            tensors, in order. shape: of the first of them. shapes: of all.
        begin, end: the range of nodes that were made while it ran.
    """

    module: nn.Module
    name: str
    number: int
    parent: Call | None
    begin: int
    entry: int | None = None
    entry_shape: tuple[int, ...] = ()
    end: int = 0
    nodes: tuple[int | None, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    children: list[Call] = field(default_factory=list)

    @property
    def node(self) -> int | None:
        """Of the output's first tensor."""
        return self.nodes[0] if self.nodes else None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0] if self.shapes else ()

    def walk(self) -> Iterator[Call]:
        """This call and all within it, in order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(eq=False)
class Trace:
    """A finished forward pass.

    Attributes:
        root: the network's own call. operations: of each node, without "aten.". parents: of each
            node. weighted: whether an operation takes a matrix of weights. weights: the parameter's
            name by node, where it takes the parameter itself.
        output: the node of the class scores, None where they do not depend on the input.
        times: how often each module ran, by name.
    """

    root: Call
    operations: list[str]
    parents: list[tuple[int, ...]]
    weighted: list[bool]
    weights: dict[int, str]
    output: int | None
    times: dict[str, int]
    _forward: list[int] = field(default_factory=list)
    _backward: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Count the paths from the input to each node, and from each node to the scores."""
        for parents in self.parents:
            self._forward.append(sum(self._forward[p] for p in parents) if parents else 1)
        self._backward = [0] * len(self.parents)
        if self.output is not None:
            self._backward[self.output] = 1
        for node in reversed(range(len(self.parents))):
            for parent in self.parents[node]:
                self._backward[parent] += self._backward[node]

    @property
    def last_operations(self) -> frozenset[str]:
        """Those between the last layer's weights and the class scores."""
        last = max(
            (n for n, w in enumerate(self.weighted) if w and self.reaches_output(n)), default=-1
        )
        later = range(last + 1, len(self.parents))
        return frozenset(self.operations[node] for node in later if self.reaches_output(node))

    def reaches_output(self, node: int) -> bool:
        return self._backward[node] > 0

    def is_cut(self, nodes: Iterable[int | None]) -> bool:
        """Whether every path from the input to the scores leads through one of these nodes."""
        if self.output is None:
            return False
        distinct = {node for node in nodes if node is not None}
        if len(distinct) == 1:
            (node,) = distinct
            return self._forward[node] * self._backward[node] == self._forward[self.output]
        passed: list[bool] = []  # whether a path from the input reaches a node around them
        for node, parents in enumerate(self.parents):
            passed.append(node not in distinct and (not parents or any(passed[p] for p in parents)))
        return not passed[self.output]

    def has_weights_after(self, node: int) -> bool:
        """Whether a matrix of weights lies between a cut and the scores."""
        return any(
            self.weighted[later] and self.reaches_output(later)
            for later in range(node + 1, len(self.parents))
        )

    def is_layer(self, node: int) -> bool:
        """Whether a node is the result of a layer with a matrix of weights."""
        return self.weighted[node] and any(part in self.operations[node] for part in LAYERS)

    def branches(self, begin: int, end: int) -> list[int]:
        """The weighted nodes of a range that lead to the scores and are no cuts."""
        return [
            node
            for node in range(begin, end)
            if self.weighted[node] and self.reaches_output(node) and not self.is_cut([node])
        ]

    def attends(self, call: Call) -> bool:
        """Whether a call computes attention: a softmax that leads on to the scores."""
        return any(
            ("scaled_dot_product" in operation or operation in ("_softmax", "_safe_softmax"))
            and self.reaches_output(node)
            for node, operation in enumerate(self.operations[call.begin : call.end], call.begin)
        )

    def activates(self, begin: int, node: int) -> bool:
        """Whether weights and then an activation lie between `begin` and a node, or right after it.

        Activations that a shortcut passes by are none.
        """
        if any(
            self.operations[within] in ACTIVATIONS
            and any(self.weighted[begin:within])
            and self.is_cut([within])
            for within in range(begin, node + 1)
        ):
            return True
        after = [later for later, parents in enumerate(self.parents) if node in parents]
        return any(self.operations[later] in ACTIVATIONS for later in after)


class Recorder(TorchDispatchMode):
    """Record operations and module calls; use it as a context, around one call of the network."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import torch._dynamo to skip it, two seconds of the first call."""
        return False

    def __init__(
        self, model: nn.Module, sources: Iterable[Tensor], *, through_comparisons: bool = False
    ) -> None:
        """sources: the tensors whose values are followed.

        through_comparisons: follow what is true of a value, as a binary activation does; else it is
            taken for a mask, which only says which values count.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._through_comparisons = model, through_comparisons
        self._operations: list[str] = []
        self._parents: list[tuple[int, ...]] = []
        self._weighted: list[bool] = []
        # By storage, since views share it. Weak references keep an address from being used again.
        self._node_of: dict[int, int] = {}
        self._weights: dict[int, str] = {}  # names, "" for what was computed from weights
        self._weight_of: dict[int, str] = {}
        self._references: dict[int, StorageWeakRef] = {}
        self._without_storage: dict[int, Tensor] = {}
        self._sources = list(sources)
        for source in self._sources:
            self._node_of[self._key(source)] = self._add("input", (), False)
        for name, weight in _matrices(model):
            self._weights[self._key(weight)] = name
        self._stack: list[Call] = []
        self._root: Call | None = None
        self._times: dict[str, int] = {}

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        handles = []
        try:
            for name, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # runs as one piece, and takes no hooks
                handles.append(
                    module.register_forward_pre_hook(self._enter(name), with_kwargs=True)
                )
                # Also of a call that raises, which the network may handle.
                handles.append(module.register_forward_hook(self._leave, always_call=True))
            with self:
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def trace(self, scores: Tensor | None) -> Trace:
        """What was recorded. scores: the class scores, one of the tensors that arose."""
        if self._root is None:  # a ScriptModule
            self._root = Call(self._model, "", 1, None, 0, end=len(self._parents))
        output = None if scores is None else self._node(scores)
        return Trace(
            self._root,
            self._operations,
            self._parents,
            self._weighted,
            self._weight_of,
            output,
            self._times,
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operands = list(tensors_in((args, kwargs)))
        operation = func._schema.name.rpartition("::")[2]
        if operation not in SHAPE_ONLY:
            written = _written(func, args, kwargs) if func._schema.is_mutable else []
            self._record(operation, operands, list(tensors_in(result)), written)
        return result

    def _record(
        self,
        operation: str,
        operands: list[Tensor],
        results: list[Tensor],
        written: list[Tensor],
    ) -> None:
        parents = self._parents_in(operands)
        names = [name for t in operands if (name := self._weights.get(self._key(t))) is not None]
        views = {self._key(tensor) for tensor in operands}
        fresh = [t for t in results if self._key(t) not in views]
        for tensor in {self._key(t): t for t in (*fresh, *written)}.values():
            key = self._key(tensor)
            if parents and (tensor.dtype != torch.bool or self._through_comparisons):
                node = self._node_of[key] = self._add(operation, parents, bool(names))
                if name := next(filter(None, names), ""):
                    self._weight_of[node] = name
            elif key not in {self._key(t) for t in written} or operation in OVERWRITING:
                self._node_of.pop(key, None)
                if names:
                    self._weights[key] = ""

    def _parents_in(self, operands: list[Tensor]) -> tuple[int, ...]:
        """The nodes of the operands.

        Where values meet integers, as in an index, the integers only say which values.
        """
        nodes = [(t, node) for t in operands if (node := self._node(t)) is not None]
        values = [node for t, node in nodes if t.is_floating_point() or t.is_complex()]
        parents = values or [node for _, node in nodes]
        return tuple(dict.fromkeys(parents))

    def _add(self, operation: str, parents: tuple[int, ...], weighted: bool) -> int:
        self._operations.append(operation)
        self._parents.append(parents)
        self._weighted.append(weighted)
        return len(self._parents) - 1

    def _node(self, tensor: Tensor) -> int | None:
        return self._node_of.get(self._key(tensor))

    def _key(self, tensor: Tensor) -> int:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # a sparse one: kept, so that its id stays its
            self._without_storage[id(tensor)] = tensor
            return -id(tensor)
        key: int = storage._cdata
        if key not in self._references:
            self._references[key] = StorageWeakRef(storage)
        return key

    def _enter(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            number = self._times[name] = self._times.get(name, 0) + 1
            parent = self._stack[-1] if self._stack else None
            call = Call(module, name, number, parent, begin=len(self._parents))
            entry = next(tensors_in((args, kwargs)), None)
            if entry is not None:
                call.entry_shape = tuple(entry.shape)
                # A part of a value, as a half that was split off, is not all of it.
                call.entry = self._node(entry) if _is_whole(entry) else None
            if parent is None:
                self._root = call
            else:
                parent.children.append(call)
            self._stack.append(call)

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self._stack.pop()
        values = list(tensors_in(output))
        call.end = len(self._parents)
        call.nodes = tuple(self._node(value) for value in values)
        call.shapes = tuple(tuple(value.shape) for value in values)


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is no smaller than what it is a view of."""
    if tensor.layout != torch.strided:
        return True
    try:
        size = tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return True
    return tensor.numel() * tensor.element_size() >= size


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists, mappings, dataclasses and packed sequences, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.utils.rnn.PackedSequence):
        yield value.data
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from tensors_in(getattr(value, item.name))


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The operands that an operation writes to."""
    written: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            written += tensors_in(value)
    return written


def _matrices(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Weights with two dimensions or more; of a network without parameters, its buffers."""
    tensors: list[tuple[str, Tensor]] = list(model.named_parameters()) or [
        (name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()
    ]
    return [(name, tensor) for name, tensor in tensors if tensor.ndim > 1]
