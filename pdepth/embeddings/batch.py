"""One batch of rows: what a network is called with, and the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdepth.arrays.rows import raw_bytes

NUMBERS = "biufc"  # kinds of NumPy's types that tensors have too


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of one call of a network, for a number of rows.

    Attributes:
        args, kwargs: positional and by name; tensors, or nested mappings, tuples and lists of
            tensors, or graphs of PyTorch Geometric. Anything else is handed on.
        rows: how many rows they are of; None where only the network's output tells.
        whole: rows depend on each other, as nodes of one graph do, and cannot be cut.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rows: int | None
    whole: bool = False

    @classmethod
    def of(cls, value: Any, rows: int | None) -> Inputs:
        """A mapping becomes arguments by name, a tuple or list several, anything else one.

        A named tuple, such as a PackedSequence, is one.
        """
        if isinstance(value, Mapping):
            return cls((), dict(value), rows)
        if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            return cls(tuple(value), {}, rows)
        return cls((value,), {}, rows)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name: "0" of the first argument, "image.left" of a nested one."""
        yield from _tensors("", dict(enumerate(self.args)))
        yield from _tensors("", self.kwargs)

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with `function` of each tensor in its place."""
        args, kwargs = _mapped(self.args, function), _mapped(dict(self.kwargs), function)
        return replace(self, args=args, kwargs=kwargs)

    def first(self, rows: int) -> Inputs:
        """The first rows; the whole of a graph batch, which cannot be cut."""
        if self.rows is None or self.rows <= rows or not self.sliceable:
            return self
        return self.take(range(rows))

    def take(self, numbers: Sequence[int]) -> Inputs:
        """Some of the rows, by their numbers; of tensors (B, ...)."""
        whole, index = self.rows, list(numbers)

        def cut(tensor: Tensor) -> Tensor:
            return tensor[index] if tensor.ndim and len(tensor) == whole else tensor

        return replace(self.map(cut), rows=len(index))

    @property
    def sliceable(self) -> bool:
        """Whether rows can be taken from it: it holds tensors of rows that stand alone."""
        return self.graph is None and not self.whole

    @property
    def graph(self) -> Any:
        """The batch of graphs among the arguments, or None: an object with `num_graphs`."""
        for value in (*self.args, *self.kwargs.values()):
            if hasattr(value, "num_graphs"):
                return value
        return None


class Batch(NamedTuple):
    """inputs: of B rows. labels: (B,) int64, on the CPU."""

    inputs: Inputs
    labels: Tensor

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name: of the inputs, ordered by name, then the labels."""
        yield from sorted(self.inputs.tensors(), key=lambda named: named[0])
        yield "labels", self.labels

    def row_checksums(self) -> NDArray[np.uint64]:
        """(B,) 64 bits of BLAKE2b over each row's inputs: names, types, shapes and values.

        Of rows that are padded to the batch's longest, over what their attention mask takes and the
        first of their padding. What is no tensor of rows (graphs, a mask for all rows) counts for
        each of them.
        """
        rows, tensors = len(self.labels), sorted(self.inputs.tensors(), key=lambda named: named[0])
        mask = self.inputs.kwargs.get("attention_mask")
        kept: list[Tensor] = []
        longest = torch.Size()
        if isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) == rows:
            kept, longest = _unpadded(mask), mask.shape[1:]
        common = blake2b(digest_size=8)
        parts: list[tuple[Any, int]] = []  # of each tensor the bytes, and how many a row has
        ragged: list[Tensor] = []
        for name, tensor in tensors:
            dense = _dense(tensor).detach().cpu()
            of_rows = self.inputs.graph is None and dense.ndim > 0 and len(dense) == rows
            is_padded = bool(kept) and of_rows and dense.shape[1:2] == longest
            shape = dense.shape[1 + is_padded :] if of_rows else dense.shape
            common.update(f"{name} {tensor.dtype} {tuple(shape)} {of_rows}".encode())
            if is_padded:
                ragged.append(dense)
            elif of_rows:
                parts.append((raw_bytes(dense), dense[0].numel() * dense.element_size()))
            else:
                common.update(raw_bytes(dense))
        digests = bytearray()
        for row in range(rows):
            digest = common.copy()
            for content, size in parts:
                digest.update(content[row * size : (row + 1) * size])
            for dense in ragged:
                digest.update(raw_bytes(dense[row][kept[row]]))
            digests += digest.digest()
        return np.frombuffer(bytes(digests), np.uint64)

    def same_as(self, other: Batch) -> bool:
        """Whether all tensors have the same names, types, shapes and bits."""
        mine, others = list(self.tensors()), list(other.tensors())
        return len(mine) == len(others) and all(
            name == other_name and _same_bits(tensor, other_tensor)
            for (name, tensor), (other_name, other_tensor) in zip(mine, others, strict=True)
        )


def _unpadded(mask: Tensor) -> list[Tensor]:
    """Of each row of a mask (B, T) the positions that count, and the first of the others."""
    valid = mask.detach().cpu() != 0
    first = (~valid).int().argmax(dim=1, keepdim=True)
    return [row.nonzero().flatten() for row in valid.scatter(1, first, True)]


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    # As bytes: NaN is not equal to itself, and -0.0 is to 0.0.
    bits = [
        _dense(t).detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (left, right)
    ]
    return torch.equal(*bits)


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _tensors(prefix: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _tensors(f"{prefix}.{name}" if prefix else str(name), item)
    elif isinstance(value, tuple | list):
        yield from _tensors(prefix, dict(enumerate(value)))
    elif _is_graph(value):
        yield from _tensors(prefix, dict(value.to_dict()))


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, function) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, function) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_mapped(item, function) for item in value)
    if _is_graph(value):
        return value.clone().apply(function)
    return value


def _is_graph(value: Any) -> bool:
    """Whether a value is a graph of PyTorch Geometric, or a batch of graphs."""
    return all(hasattr(value, name) for name in ("num_nodes", "to_dict", "apply"))


def same_shapes(left: Inputs, right: Inputs) -> bool:
    """Whether rows of both have the same shapes."""
    return [(n, t.shape[1:]) for n, t in left.tensors()] == [
        (n, t.shape[1:]) for n, t in right.tensors()
    ]


def to_tensor(value: Any) -> Any:
    """NumPy arrays of numbers as tensors, nested ones too."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in NUMBERS:
        return tensor_of(value)
    if isinstance(value, Mapping):
        return {name: to_tensor(item) for name, item in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(to_tensor(item) for item in value)
    return value


def tensor_of(array: Any) -> Tensor:
    """A NumPy array of numbers as a tensor, over the same memory where torch can use it."""
    array = np.asarray(array)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.as_tensor(array, device="cpu")
