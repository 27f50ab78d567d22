"""Rows of the host's memory on the device, copied while the kernels work on others."""

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from pdepth.arrays.rows import Rows, divide
from pdepth.native import default_arithmetic

WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "float64"}  # what the kernels read
PIECE = 1 << 25  # bytes of pinned memory; two of them take turns


def row_bytes_on_device(rows: Rows) -> int:
    """Bytes that a row takes on the device; 0 where it can be read as it is."""
    if rows.on_device and rows.type not in WIDER:
        return 0
    return rows.width * type_of(rows).itemsize


class Transfer:
    """Copies to one device, made by a thread of their own on a stream of their own.

    `expect` begins a copy and `take` waits for it, or makes it: kernels that are launched after
    that on the current stream see it whole. Rows are known by their identity.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pdepth-copy")
        self._coming: dict[int, tuple[Rows, torch.Tensor, Future[torch.cuda.Event | None]]] = {}
        self._lane: _Lane | None = None  # pinned memory is taken by the first copy

    def expect(self, rows: Rows) -> None:
        """Begin to copy rows that will be taken later."""
        if rows.on_device or id(rows) in self._coming:
            return
        target = torch.empty(rows.array.shape, dtype=type_of(rows), device=self.device)
        begin = None
        if self.device.type == "cuda":
            self._lane = self._lane or _Lane(self.device)
            # Kernels of the memory's former owner may still be at work.
            begin = torch.cuda.current_stream(self.device).record_event()
        mode = torch.is_inference_mode_enabled()  # which the thread does not inherit
        copy = self._thread.submit(_copy, rows, target, self._lane, begin, mode)
        self._coming[id(rows)] = rows, target, copy

    def take(self, rows: Rows) -> torch.Tensor:
        """(n, D) on the device, in a type that the kernels read."""
        if rows.on_device:
            return rows.array.to(type_of(rows))  # type: ignore[no-any-return]
        self.expect(rows)
        _, target, copy = self._coming[id(rows)]
        whole = copy.result()
        if whole is not None:
            torch.cuda.current_stream(self.device).wait_event(whole)
        del self._coming[id(rows)]  # not before: an interrupted wait leaves it to `close`
        return target

    def drop(self) -> None:
        """Let go of what is expected, once no copy to it is under way."""
        for _, _, copy in self._coming.values():
            if not copy.cancel():
                copy.exception()
        if self._lane is not None:
            self._lane.stream.synchronize()
        self._coming.clear()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)  # first: it may be putting copies on the stream
        self.drop()


class _Lane:
    """A stream, and two pieces of pinned memory that rows pass through."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        # "cpu" is said, since the user's default device may be another.
        self.pieces = [
            torch.empty(PIECE, dtype=torch.uint8, device="cpu", pin_memory=True) for _ in range(2)
        ]
        self.free = [torch.cuda.Event() for _ in self.pieces]

    def copy(self, rows: Rows, target: torch.Tensor) -> None:
        host, norms = as_tensor(rows), rows.norms
        step = PIECE // (target.stride(0) * target.itemsize)
        if step == 0:  # rows beyond a piece go as they are
            target.copy_(as_tensor(rows.divided()))
            return
        for turn, first in enumerate(range(0, len(host), step)):
            part = target[first : first + step]
            free = self.free[turn % 2]
            free.synchronize()
            piece = self.pieces[turn % 2][: part.numel() * part.itemsize]
            piece = piece.view(part.dtype).view(part.shape)
            piece.copy_(host[first : first + step])  # reads a memory map's pages, widens
            if norms is not None:
                divide(piece.numpy(), norms[first : first + step])
            part.copy_(piece, non_blocking=True)
            free.record(self.stream)


def _copy(
    rows: Rows,
    target: torch.Tensor,
    lane: _Lane | None,
    begin: torch.cuda.Event | None,
    inference_mode: bool,
) -> torch.cuda.Event | None:
    """Fill `target`, in the thread; returns the event after which it is whole."""
    with torch.inference_mode(inference_mode), default_arithmetic():
        if lane is None or begin is None:
            target.copy_(as_tensor(rows.divided()))
            return None
        with torch.cuda.stream(lane.stream):
            lane.stream.wait_event(begin)
            lane.copy(rows, target)
            whole: torch.cuda.Event = lane.stream.record_event()
            return whole


def as_tensor(rows: Rows) -> torch.Tensor:
    """NumPy's rows as torch sees them, uncopied where it can."""
    array = rows.array
    if array.strides[0] < 0 or array.strides[0] % array.itemsize:
        array = np.ascontiguousarray(array)  # torch has no such rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about read-only arrays; it is only read
        if rows.type == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)


def type_of(rows: Rows) -> torch.dtype:
    """The type in which the kernels read rows; those with norms are divided by them first."""
    kind = "float64" if rows.norms is not None else WIDER.get(rows.type, rows.type)
    found: torch.dtype = getattr(torch, kind)
    return found
