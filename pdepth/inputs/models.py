"""MODEL: a network by its name in a library, or from a function in a user's file."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pdepth.inputs.checkpoints import read_state
from pdepth.inputs.networks import network_of
from pdepth.inputs.pretrained import load_pretrained
from pdepth.inputs.python_files import PYTHON, call_function, split_spec
from pdepth.inputs.weights import find_tensor, load_state
from pdepth.optional import require

PRETRAINED = "hf"
MODEL_FORMS = {"torchvision": "NAME", "timm": "NAME", PRETRAINED: "DIR"}


def load_model(
    spec: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    untrained: bool = False,
    ema: bool = False,
) -> nn.Module:
    """Build the network that MODEL names, with the weights of a file.

    Args:
        spec: torchvision:NAME, timm:NAME, hf:DIR (a classifier that transformers saved) or
            path/to/file.py:function (called without arguments; returns a torch module, a
            LightningModule or a fitted skorch net).
        weights: a state dict, as `read_state` reads it: a file, an index of shards or a folder.
            The number of classes of a library's network is read from it. hf:DIR and
            file.py:function may bring their own instead.
        untrained: allow a network without weights, to look at its structure.
        ema: take the averaged weights of a checkpoint.

    Raises:
        ValueError: an unknown form or name, no weights, or weights that do not fit.
        TypeError: the function returned something else.
        FileNotFoundError, ImportError: a file or a library is missing.
    """
    kind, name = split_spec(spec, "MODEL", MODEL_FORMS)
    if ema and weights is None:
        raise ValueError("ema (--ema): expected together with weights (--weights FILE), got alone.")
    state = None if weights is None else read_state(weights, ema=ema)
    if kind == PYTHON:
        model = _users_model(spec)
    elif kind == PRETRAINED:
        model = load_pretrained(name, with_weights=state is None, untrained=untrained)
    elif state is None and not untrained:
        raise ValueError(
            f"MODEL {spec}: expected trained weights, as random ones say nothing about the data, "
            "got none; pass --weights FILE."
        )
    else:
        model = _library_model(kind, name, state or {})
    if state is not None:
        load_state(model, state, name=spec, source=str(weights))
    return model


def is_pretrained(spec: str) -> bool:
    """Whether MODEL is hf:DIR, a folder that may hold a processor, too."""
    return split_spec(spec, "MODEL", MODEL_FORMS)[0] == PRETRAINED


def model_runs_code(spec: str) -> bool:
    """Whether opening MODEL runs a Python file."""
    return split_spec(spec, "MODEL", MODEL_FORMS)[0] == PYTHON


def _users_model(spec: str) -> nn.Module:
    model = call_function(spec, "MODEL")
    try:
        return network_of(model, "MODEL")
    except TypeError:
        kind = type(model).__name__
        raise TypeError(f"MODEL: expected a torch.nn.Module from {spec}, got {kind}.") from None


def _library_model(library: str, name: str, state: Mapping[str, Tensor]) -> nn.Module:
    if library == "torchvision":
        models = require("torchvision.models", f"MODEL {library}:", "vision")
        names = models.list_models(module=models)
        create: Callable[..., nn.Module] = models.get_model
        known = name in names
    else:
        models = require("timm", f"MODEL {library}:", "timm")
        names, create = models.list_models(), models.create_model
        known = models.is_model(name.partition(".")[0])
    if not known:
        close = difflib.get_close_matches(name, names, 3)
        hint = f"; did you mean {', '.join(close)}?" if close else "."
        raise ValueError(f"MODEL: expected the name of a {library} model, got {name!r}{hint}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values, which the weights replace
        model = create(name)
        # The last weight or bias is as long as there are classes. The model says which it is: a
        # file may list its tensors in any order (safetensors: by name).
        own = model.state_dict()
        last = [key for key in own if key.endswith((".weight", ".bias"))][-1]
        head = find_tensor(state, last)
        head = own[last] if head is None else head
        if head.ndim and len(head) != len(own[last]):
            return create(name, num_classes=len(head))
        return model
