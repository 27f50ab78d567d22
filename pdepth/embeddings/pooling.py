"""From a module's input or output to one row of values for each input."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pdepth.embeddings.placement import Probe


def only_value(probe: Probe, values: list[Any], rows: int) -> Tensor:
    """The tensor of a probe whose module ran exactly once; ValueError for another number."""
    if len(values) != 1:
        raise not_once(probe, len(values))
    return pooled(probe, values[0], rows)


def not_once(probe: Probe, times: int) -> ValueError:
    """The error of a module that ran so many times in a forward pass."""
    count = "more than once" if times else "never"
    return ValueError(
        "layers: expected modules that run exactly once in a forward pass, got "
        f"{probe.module!r}, which runs {count}."
    )


def pooled(probe: Probe, value: Any, rows: int) -> Tensor:
    """A probe's tensor (rows, ...) from a module's input or output, tokens pooled.

    Raises ValueError for anything but one row for each input.
    """
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    value = value.detach() if isinstance(value, Tensor) else value
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"layers: expected one row for each of {rows} inputs as the {probe.at} of module "
            f"{probe.module!r}, got {kind}."
        )
    if value.ndim > 2 and probe.pool == "token":
        return value[:, 0]
    if value.ndim > 2 and probe.pool == "mean":
        return value.flatten(1, -2).mean(dim=1)
    return value
