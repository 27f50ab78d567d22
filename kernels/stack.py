"""Rows of several layers as one launch reads them: by a table of where each layer's begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import triton
import triton.language as tl

FIELDS = tl.constexpr(3)  # of a layer in the table: address, stride, width
# Of a layer in a table of places: its packed columns in blocks of `prepare.BLOCK`, and where its
# packed rows and its centre begin.
PLACES = tl.constexpr(3)


_sent: ContextVar[dict[str, torch.Tensor] | None] = ContextVar("sent", default=None)


@contextmanager
def sent_once(tables: dict[str, torch.Tensor]) -> Iterator[None]:
    """Within, what is in `tables` is not sent to the device again, and what is sent joins it.

    Launches that are repeated then send nothing, so that a CUDA graph can hold them.
    """
    token = _sent.set(tables)
    try:
        yield
    finally:
        _sent.reset(token)


def on_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Numbers of the host on the device; the host does not wait for the device."""
    tables = _sent.get()
    if tables is None or isinstance(values, torch.Tensor):
        return _sent_now(values, device, dtype)
    key = f"{dtype} {values}"
    if key not in tables:
        tables[key] = _sent_now(values, device, dtype)
    return tables[key]


def _sent_now(values: Any, device: torch.device, dtype: torch.dtype | None) -> torch.Tensor:
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

    def __init__(self, layers: Sequence[torch.Tensor], table: torch.Tensor | None = None) -> None:
        """table: where `fields` have been sent already."""
        self.layers: tuple[torch.Tensor, ...] = tuple(layers)
        assert len({rows.dtype for rows in layers}) == 1  # a kernel sees addresses alone
        self.table: torch.Tensor = (
            on_device(fields(layers), self.any.device) if table is None else table
        )

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def any(self) -> torch.Tensor:
        """The first layer's rows, from which a kernel takes the type of all."""
        return self.layers[0]

    @property
    def widths(self) -> list[int]:
        return [rows.shape[1] for rows in self.layers]


def fields(layers: Sequence[torch.Tensor]) -> list[list[int]]:
    """A stack's table: address, stride and width of each layer's rows."""
    return [[rows.data_ptr(), rows.stride(0), rows.shape[1]] for rows in layers]


@triton.jit
def rows_of(source, table, layer):
    """A layer's first row, the stride and the width, of rows that have the type of `source`."""
    entry = table + layer * FIELDS
    return tl.load(entry).to(source.dtype), tl.load(entry + 1), tl.load(entry + 2).to(tl.int32)
