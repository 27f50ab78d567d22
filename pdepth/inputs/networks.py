"""The network in what people have: a module, a LightningModule or a skorch net."""

from __future__ import annotations

from typing import Any

from torch import nn


def network_of(model: Any, argument: str = "model") -> nn.Module:
    """Return the torch module of a model.

    Args:
        model: a torch.nn.Module (a LightningModule is one), or an initialised skorch net, whose
            `module_` it is.
        argument: named in errors.

    Raises:
        ValueError: a skorch net without weights. TypeError: anything else.
    """
    if isinstance(model, nn.Module):
        return model
    if is_skorch(model):
        module = getattr(model, "module_", None)
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"{argument}: expected a fitted skorch net, got a {type(model).__name__} that is "
                "not initialised; call net.fit(X, y), or net.initialize() and "
                "net.load_params(f_params=FILE)."
            )
        return module
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(
            f"{argument}: expected a network, got the class {model.__name__}; pass an object of "
            f"it, {model.__name__}(...), with its weights."
        )
    raise TypeError(f"{argument}: expected a torch.nn.Module, got {_named(model)}.")


def is_skorch(model: Any) -> bool:
    """Whether a model is a net of skorch, which need not be installed for this."""
    return any(kind.__module__.partition(".")[0] == "skorch" for kind in type(model).__mro__)


def _named(model: Any) -> str:
    return "None" if model is None else f"a {type(model).__name__}"
