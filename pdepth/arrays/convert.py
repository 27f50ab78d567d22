"""Conversion between torch and NumPy, around code that works on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.arrays.rows import BFloat16, is_torch, widen_bits
from pdepth.native import default_arithmetic


def to_numpy(value: Any) -> Any:
    """Return a tensor as a NumPy array, bfloat16 widened to float32; anything else as it is."""
    if isinstance(value, BFloat16):
        return widen_bits(value)
    if not is_torch(value):
        return value
    host = value.detach().cpu().resolve_neg()
    return host.float().numpy() if str(host.dtype) == "torch.bfloat16" else host.numpy()


def as_floats(rows: Any) -> Any:
    """Return rows as float32, or float64 where that may not hold them; a tensor stays one."""
    name = str(rows.dtype).removeprefix("torch.")
    single = name in ("float16", "bfloat16", "float32")
    if not is_torch(rows):
        return rows.astype("float32" if single else "float64", copy=False)
    return rows.detach().float() if single else rows.detach().double()


@default_arithmetic()
def as_single(rows: Any, what: str) -> Any:
    """Return rows as contiguous float32; a tensor stays one.

    Raises ValueError for finite numbers beyond float32, which would become infinite.
    """
    if is_torch(rows):
        rows = rows.detach()
        single = rows.float()
        if rows.dtype != single.double().dtype or not (single.isinf() & rows.isfinite()).any():
            return single
        single, rows = to_numpy(single), to_numpy(rows)
    else:
        try:
            with np.errstate(over="raise"):
                return np.ascontiguousarray(rows, dtype=np.float32)
        except FloatingPointError:
            with np.errstate(over="ignore"):
                single = np.asarray(rows, dtype=np.float32)
    beyond = tuple(np.argwhere(np.isinf(single) & np.isfinite(rows))[0])
    raise ValueError(
        f"{what}: expected numbers within float32, up to 3.4e38, got {np.asarray(rows)[beyond]:g} "
        f"in row {beyond[0]}; divide all rows and queries by one number."
    )


def convert_like(value: Any, template: Any) -> Any:
    """Return a NumPy array, or a tuple or list of arrays, as the template's kind, on its device.

    What torch has no type for, such as strings, stays NumPy's.
    """
    if not is_torch(template):
        return value
    if isinstance(value, tuple | list):
        return type(value)(convert_like(array, template) for array in value)
    if value.dtype.kind not in "biuf":
        return value
    return to_device(value, template.device)


def to_device(array: Any, device: Any) -> Any:
    """Return a NumPy array as a tensor on a torch device; as it is where `device` is None."""
    if array is None or device is None:
        return array
    import torch

    return torch.from_numpy(array).to(device)


def drop_self(distances: Any, rows: Any) -> tuple[Any, Any]:
    """Return neighbours (N, k) from (N, k + 1): without query i's own row i, or else the last."""
    own = rows == convert_like(np.arange(len(rows)), rows)[:, None]
    own[:, -1] |= ~own.any(1)
    return distances[~own].reshape(len(rows), -1), rows[~own].reshape(len(rows), -1)
