"""Memory for searches that take the place of others which take little."""

from __future__ import annotations

from typing import Any

from pdepth.arrays.rows import is_torch
from pdepth.native import default_threads

SHARE = 4  # of the rows' bytes, one part in so many
A_THREAD = 8 << 20  # but at least so many bytes for each


def little(rows: Any, threads: int | None = None) -> int | None:
    """What `memory` may be for a search among rows (M, D); None for what the engine takes.

    The CPU engine packs all rows at once unless it is told to take less. So much less costs it 0 to
    7 % of its time, and half of that up to 25 % (two threads, AVX2, widths 8 to 16,384). None on a
    GPU, which has memory of its own.
    """
    if is_torch(rows) and rows.device.type != "cpu":
        return None
    return max(int(rows.nbytes) // SHARE, (threads or default_threads()) * A_THREAD)
