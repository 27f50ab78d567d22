"""MODEL: a network by its name in a library, or from a function in a user's file."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pdepth.inputs.python_files import PYTHON, call_function, split_spec
from pdepth.inputs.weights import load_state, read_state
from pdepth.optional import require

MODEL_FORMS = {"torchvision": "NAME", "timm": "NAME"}


def load_model(
    spec: str, weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> nn.Module:
    """Build the network that MODEL names, with the weights of a file.

    Args:
        spec: torchvision:NAME, timm:NAME or path/to/file.py:function (called without arguments).
        weights: a state dict (.pt, .pth or .safetensors; plain, or in a checkpoint). The number
            of classes is read from it. file.py:function may bring its own instead.
        untrained: allow a library's network without weights, to look at its structure.

    Raises:
        ValueError: an unknown form or name, no weights, or weights that do not fit.
        TypeError: the function returned something else.
        FileNotFoundError, ImportError: a file or a library is missing.
    """
    kind, name = split_spec(spec, "MODEL", MODEL_FORMS)
    state = None if weights is None else read_state(weights)
    if kind == PYTHON:
        model = call_function(spec, "MODEL")
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"MODEL: expected a torch.nn.Module from {spec}, got {type(model).__name__}."
            )
    elif state is None and not untrained:
        raise ValueError(
            f"MODEL {spec}: expected trained weights, as random ones say nothing about the data, "
            "got none; pass --weights FILE."
        )
    else:
        model = _library_model(kind, name, state or {})
    if state is not None and weights is not None:
        load_state(model, state, spec, weights)
    return model


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
        head = state.get(last, own[last])
        if head.ndim and len(head) != len(own[last]):
            return create(name, num_classes=len(head))
        return model
