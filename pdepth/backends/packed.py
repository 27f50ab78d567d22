"""A support that is packed on the device by its first search, for all that follow."""

from __future__ import annotations

import torch

from pdepth.arrays.memory import FREE_SHARE, free_on
from pdepth.backends.room import INTERPRETED_BYTES, packed_bytes
from pdepth.kernels.support import Support, pack
from pdepth.native import ForkLock


class PackedSupport:
    """One layer's packed rows; see `ProbeRows.packed`. Any number of threads may ask for them."""

    def __init__(self, memory: int, *, inner_products: bool) -> None:
        """memory: bytes that they may take, which they do not beyond a share of what is free."""
        self._memory, self._inner_products = memory, inner_products
        self._lock = ForkLock()
        self._support: Support | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of what is packed by now."""
        return self._support.nbytes if self._support is not None else 0

    def of(self, rows: torch.Tensor) -> Support | None:
        """The packed rows (M, D), which are on the device; None where they take too much."""
        with self._lock:
            if self._support is None and self._fits(rows):
                self._support = pack(rows, inner_products=self._inner_products)
                if rows.is_cuda:  # another thread's stream may be the next to read them
                    torch.cuda.current_stream(rows.device).synchronize()
            return self._support

    def _fits(self, rows: torch.Tensor) -> bool:
        count, width = rows.shape
        free = free_on(rows.device) if rows.is_cuda else INTERPRETED_BYTES
        return packed_bytes(width, count, 0) <= min(self._memory, int(FREE_SHARE * free))
