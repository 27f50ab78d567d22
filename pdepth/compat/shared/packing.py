"""Memory of searches that replace others which take little."""

from __future__ import annotations

from typing import Any

from pdepth.arrays.rows import is_torch
from pdepth.native import default_threads

DIVISOR = 4  # the rows' bytes by this
THREAD_BYTES = 8 << 20  # but at least so many for each thread


def packing_memory(rows: Any, num_threads: int | None = None) -> int | None:
    """Choose `memory`, in bytes, for a search among rows (M, D); None for the backend's choice.

    The CPU backend packs all rows at once unless `memory` limits it. So low a limit costs it 0 to
    7 % of its time, and half of that up to 25 % (two threads, AVX2, widths 8 to 16,384). None on a
    GPU, which has memory of its own.
    """
    if is_torch(rows) and rows.device.type != "cpu":
        return None
    return max(int(rows.nbytes) // DIVISOR, (num_threads or default_threads()) * THREAD_BYTES)
