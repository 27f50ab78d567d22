"""The backends that answer a checked problem, by name; `base.Backend` says what one is."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pdepth.backends import cpu, reference, triton
from pdepth.backends.base import Backend, Session

__all__ = ["Backend", "Session", "availability", "backend_named"]

_MODULES: dict[str, ModuleType] = {"cpu": cpu, "triton": triton, "reference": reference}


def availability() -> dict[str, str]:
    """Each backend's name, and "available" or why it is not."""
    return {name: module.unavailable() or "available" for name, module in _MODULES.items()}


def backend_named(name: str, device: Any = None) -> Backend:
    """The backend of that name; "auto" is that of the arrays' torch device, None for NumPy's.

    Raises ValueError for a name that does not exist or a backend that is not available.
    """
    on_gpu = device is not None and device.type == "cuda"
    chosen = ("triton" if on_gpu else "cpu") if name == "auto" else name
    if chosen not in _MODULES:
        raise ValueError(f"backend: expected one of auto, {', '.join(_MODULES)}, got {name!r}.")
    reason = _MODULES[chosen].unavailable()
    if reason is not None:
        raise ValueError(f"backend {chosen!r} is not available: {reason}")
    return _MODULES[chosen]
