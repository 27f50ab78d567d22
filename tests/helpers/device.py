"""Tensors where the kernels run: on a CUDA device, or on the CPU, where they are interpreted."""

from __future__ import annotations

from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(values: Any) -> torch.Tensor:
    """A tensor or an array on `DEVICE`."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
    return tensor.to(DEVICE)


def numbers(count: int) -> torch.Tensor:
    """(count,) int64: 0 .. count - 1 on `DEVICE`."""
    return torch.arange(count, device=DEVICE)
