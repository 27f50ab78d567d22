"""The engines that answer a checked problem, by name.

A backend is a module with three functions:

    available() -> str | None       None, or the reason why it cannot be used here
    votes(problem, wanted, return_counts, progress) -> EncodedVotes
    neighbours(problem, progress) -> (distances (N, k) float64, rows (N, k) int64) of one layer
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pdepth.arrays.encoded import EncodedVotes, Engine, Progress
from pdepth.backends import cpu, reference, triton

__all__ = ["EncodedVotes", "Progress", "availability", "backend_named"]

_MODULES: dict[str, ModuleType] = {"cpu": cpu, "triton": triton, "reference": reference}


def availability() -> dict[str, str]:
    """Each backend's name, and "available" or why it is not."""
    return {name: module.available() or "available" for name, module in _MODULES.items()}


def backend_named(name: str, device: Any = None) -> Engine:
    """The backend of that name; "auto" is that of the arrays' torch device, None for NumPy's.

    Raises ValueError for a name that does not exist or a backend that is not available.
    """
    on_gpu = device is not None and device.type == "cuda"
    chosen = ("triton" if on_gpu else "cpu") if name == "auto" else name
    if chosen not in _MODULES:
        raise ValueError(f"backend is {name!r}; one of auto, {', '.join(_MODULES)} is wanted.")
    reason = _MODULES[chosen].available()
    if reason is not None:
        raise ValueError(f"backend {chosen!r} is not available: {reason}")
    return _MODULES[chosen]
