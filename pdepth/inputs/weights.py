"""A network's weights: read from a checkpoint, and loaded into a model."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pdepth.optional import require

NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from .pt, .pth or .safetensors, without running code from the file.

    Checkpoints that keep it under `state_dict`, `model_state_dict` or `model` are opened; the
    prefixes that DataParallel and torch.compile put before each name are taken off.

    Raises:
        FileNotFoundError: no such file. ValueError: no state dict in it.
        ImportError: safetensors is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights: expected an existing file, got {path}.")
    try:
        if Path(path).suffix == ".safetensors":
            safetensors = require("safetensors.torch", "Reading .safetensors files", "timm")
            state = safetensors.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError):
        raise ValueError(
            f"weights: expected a state dict that torch.load(weights_only=True) reads, got "
            f"{path}; save one with torch.save(model.state_dict(), path)."
        ) from None
    for key in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        raise ValueError(f"weights: expected a state dict (tensors by name) in {path}, got none.")
    return _unwrapped(dict(state))


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], spec: str, path: str | os.PathLike[str]
) -> None:
    """Load a state dict into a model. Raises ValueError where names or shapes differ.

    spec, path: of the model and of the weights, for the error.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name}, {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    differences = [
        f"{len(names)} {kind} (first: {names[0]})"
        for names, kind in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (shapes, "of another shape"),
        )
        if names
    ]
    if differences:
        raise ValueError(
            f"weights: expected the tensors of {spec}, got {path} with {', '.join(differences)}."
        )
    model.load_state_dict(state)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state
