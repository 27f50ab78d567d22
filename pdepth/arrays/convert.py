"""Torch in, torch out, around code that speaks NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.arrays.rows import is_torch


def to_numpy(value: Any) -> Any:
    """A tensor as a NumPy array, bfloat16 widened to float32; anything else as it is."""
    if not is_torch(value):
        return value
    host = value.detach().cpu().resolve_neg()
    return host.float().numpy() if str(host.dtype) == "torch.bfloat16" else host.numpy()


def convert_like(found: Any, given: Any) -> Any:
    """NumPy's `found`, or a tuple or list of such, as `given`'s kind, on its device.

    What torch has no type for, such as strings, stays NumPy's.
    """
    if not is_torch(given):
        return found
    if isinstance(found, tuple | list):
        return type(found)(convert_like(each, given) for each in found)
    if found.dtype.kind not in "biuf":
        return found
    import torch

    return torch.from_numpy(found).to(given.device)


def drop_self(distances: Any, rows: Any) -> tuple[Any, Any]:
    """Neighbours (N, k + 1) without query i's own row i, or else without the last: (N, k)."""
    own = rows == convert_like(np.arange(len(rows)), rows)[:, None]
    own[:, -1] |= ~own.any(1)
    return distances[~own].reshape(len(rows), -1), rows[~own].reshape(len(rows), -1)
