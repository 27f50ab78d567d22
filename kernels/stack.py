"""Rows of several layers as one launch reads them: by a table of where each layer's begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

FIELDS = tl.constexpr(3)  # of a layer in the table: address, stride, width


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Numbers of the host on the device; the host does not wait for the device."""
    tensor = torch.as_tensor(values, dtype=dtype, device="cpu")  # whatever torch's default is
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Stack:
    """Rows (n, D) of L layers, whose elements are of one type and whose D are their own.

    Attributes:
        layers: each layer's rows, whose elements lie side by side.
        table: (L, FIELDS) int64, on the device.
    """

    def __init__(self, layers: Sequence[torch.Tensor]) -> None:
        self.layers = tuple(layers)
        assert len({rows.dtype for rows in layers}) == 1  # a kernel sees addresses alone
        fields = [[rows.data_ptr(), rows.stride(0), rows.shape[1]] for rows in self.layers]
        self.table = on_device(fields, self.any.device)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def any(self) -> torch.Tensor:
        """The first layer's rows, from which a kernel takes the type of all."""
        return self.layers[0]

    @property
    def widths(self) -> list[int]:
        return [rows.shape[1] for rows in self.layers]

    def select(self, numbers: Sequence[int]) -> Stack:
        """The layers of these numbers."""
        return self if len(numbers) == len(self) else Stack([self.layers[i] for i in numbers])


@triton.jit
def rows_of(source, table, layer):
    """A layer's first row, the stride and the width, of rows that have the type of `source`."""
    entry = table + layer * FIELDS
    return tl.load(entry).to(source.dtype), tl.load(entry + 1), tl.load(entry + 2).to(tl.int32)
