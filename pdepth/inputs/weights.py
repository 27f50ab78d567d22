"""A network's weights: a state dict, under the names that checkpoints use, loaded into a model."""

from __future__ import annotations

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pdepth.inputs.checkpoints import find_state, read_checkpoint

COMPILED = "_orig_mod."  # what torch.compile puts before the names of a module, anywhere
PREFIXES = ("module.", "model.", "net.", "network.")  # of DataParallel, and of a training module
# torchvision's DenseNets of before 2018, whose own function for downloads renames them
OLD_NAMES = ((re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),)

SHOWN = 5  # tensors that a note lists


@dataclass(frozen=True)
class Misfit:
    """Where a state dict and a model differ, once the model's own hooks have translated names.

    failure: what else went wrong, in the model's own words; "" where nothing has.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]
    failure: str

    def __len__(self) -> int:
        """How much differs; 0 where all tensors are loaded."""
        counted = len(self.missing) + len(self.unexpected) + len(self.shapes)
        return counted or bool(self.failure)

    def __str__(self) -> str:
        parts = [
            f"{len(names)} {kind} (first: {names[0]})"
            for names, kind in (
                (self.missing, "missing"),
                (self.unexpected, "unexpected"),
                (self.shapes, "of another shape"),
            )
            if names
        ]
        return ", ".join(parts) or f"a failure ({self.failure.rstrip('.')})"


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    name: str = "the model",
    source: str = "a state dict",
    what: str = "weights",
) -> None:
    """Load a state dict into a model, all of it or nothing.

    The model's own loading hooks translate older names first. Where names do not fit, prefixes are
    taken off (`PREFIXES`: a DataParallel's, and the attribute of a LightningModule that holds the
    network). What lies outside of a prefix, such as metrics, is left out with a warning, if all
    that the model has is inside.

    Args:
        model: loaded in place, and left as it was where that fails.
        state: tensors by name.
        name, source: of the model and of the weights; what: the argument. Named in errors.

    Raises:
        ValueError: names or shapes differ.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    own = model.state_dict()
    before: dict[str, Tensor] = {}
    best: Misfit | None = None
    for prefix, part in _ranked(_candidates(state, own), own):
        if not before and not _same_shapes(part, own):  # it may fail halfway
            before = {key: t.clone() for key, t in own.items() if isinstance(t, Tensor)}
        misfit = _load(model, part, own)
        if not misfit:
            left_out = [key for key in state if not key.startswith(prefix)]
            if left_out:
                more = ", ..." if len(left_out) > SHOWN else ""
                warnings.warn(
                    f"{what}: left out what is not under {prefix!r}, and no part of {name}: "
                    f"{', '.join(left_out[:SHOWN])}{more}.",
                    stacklevel=2,
                )
            return
        if best is None or len(misfit) < len(best):
            best = misfit
    with torch.no_grad():
        for key, tensor in before.items():
            own[key].copy_(tensor)
    raise ValueError(
        f"{what}: expected the tensors of {name}, got {source} with {best}; "
        f"{_advice(state, own, what)}."
    )


def load_checkpoint(
    model: nn.Module,
    checkpoint: Any,
    *,
    state_of: Callable[[Any], Mapping[str, Tensor]] | None = None,
    ema: bool = False,
    what: str = "weights",
) -> None:
    """Load a checkpoint into a model: the path of a file or folder, or what one holds.

    Args:
        model: as in `load_state`.
        checkpoint: as `read_state` and `find_state` take it.
        state_of: returns the state dict of what was read; None for `find_state`.
        ema: take the averaged weights of a checkpoint.
        what: named in errors.

    Raises what `read_state` and `load_state` raise.
    """
    source = ""
    if isinstance(checkpoint, str | os.PathLike):
        source = str(checkpoint)
        checkpoint = read_checkpoint(source, what)
    if state_of is not None:
        state = state_of(checkpoint)
    else:
        state = find_state(checkpoint, source, ema=ema, what=what)
    load_state(model, state, source=source or "a state dict", what=what)


def rename(
    state: Mapping[str, Tensor], new_name: Callable[[str], str | None]
) -> OrderedDict[str, Tensor]:
    """A state dict under other names, and without those whose new name is None.

    The versions of modules that torch keeps beside the tensors, which loading hooks read, go along;
    `new_name` gets a module's name with a dot at its end.
    """
    renamed = OrderedDict(
        (new, tensor) for name, tensor in state.items() if (new := new_name(name)) is not None
    )
    versions: Mapping[str, Any] | None = getattr(state, "_metadata", None)
    if versions is not None:
        of_modules = ((new_name(f"{name}." if name else ""), v) for name, v in versions.items())
        kept = OrderedDict((new[:-1], v) for new, v in of_modules if new is not None)
        renamed._metadata = kept  # type: ignore[attr-defined]
    return renamed


def find_tensor(state: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The tensor of this name, perhaps behind a prefix that `load_state` takes off."""
    return next((state[p + name] for p in _prefixes(state) if p + name in state), None)


def _prefixes(state: Mapping[str, Any]) -> Iterator[str]:
    """Every prefix of names that may be taken off, the shortest first."""
    prefixes = [""]
    for prefix in prefixes:  # which grows
        yield prefix
        longer = (prefix + more for more in (COMPILED, *PREFIXES))
        prefixes += [p for p in longer if any(name.startswith(p) for name in state)]


def _candidates(
    state: Mapping[str, Tensor], own: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What may fit a model: a prefix, and the tensors behind it under the model's own names."""
    compiled = {name.replace(COMPILED, ""): name for name in own if COMPILED in name}

    def own_name(name: str) -> str:
        plain = name.replace(COMPILED, "")
        return compiled.get(plain, plain)

    def new_name(name: str) -> str:
        for pattern, replacement in OLD_NAMES:
            name = pattern.sub(replacement, name)
        return name

    def behind(prefix: str) -> OrderedDict[str, Tensor]:
        return rename(
            state, lambda name: own_name(name[len(prefix) :]) if name.startswith(prefix) else None
        )

    for prefix in _prefixes(state):
        part = behind(prefix)
        for candidate in (part, rename(part, new_name)):
            if candidate is part or set(candidate) != set(part):
                yield prefix, candidate
                # A file without versions of modules (safetensors): some hooks refuse to guess.
                if getattr(state, "_metadata", None) is None and hasattr(own, "_metadata"):
                    current = rename(candidate, lambda n: n)
                    current._metadata = own._metadata  # type: ignore[attr-defined]
                    yield prefix, current


def _ranked(
    candidates: Iterable[tuple[str, dict[str, Tensor]]], own: Mapping[str, Any]
) -> list[tuple[str, dict[str, Tensor]]]:
    """Those whose names fit best first; without those of which no name fits, if there are others.

    A hook that meets names of another network may change the model for them.
    """
    ranked = sorted(candidates, key=lambda candidate: len(set(candidate[1]) ^ set(own)))
    return [c for c in ranked if set(c[1]) & set(own)] or ranked


def _load(model: nn.Module, part: Mapping[str, Tensor], own: Mapping[str, Any]) -> Misfit:
    """Load what fits, and say what does not; `own` is the model's state dict of before."""
    missing: list[str] = [name for name in own if name not in part]
    unexpected: list[str] = [name for name in part if name not in own]

    def note(module: nn.Module, keys: Any) -> None:  # the names after the hooks, errors or not
        missing[:], unexpected[:] = keys.missing_keys, keys.unexpected_keys

    failure = ""
    handle = model.register_load_state_dict_post_hook(note)
    try:
        model.load_state_dict(part, strict=False)
    except Exception as error:  # other shapes; or whatever a hook of the model raises
        failure = " ".join(str(error).split())[:300]
    finally:
        handle.remove()
    shapes = [
        f"{name}, {tuple(part[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in part
        and isinstance(own[name], Tensor)
        and isinstance(part[name], Tensor)
        and part[name].shape != own[name].shape
    ]
    loaded = {_memory(own[name]) for name in own if name in part}
    missing = [name for name in missing if name not in own or _memory(own[name]) not in loaded]
    return Misfit(tuple(missing), tuple(unexpected), tuple(shapes) if failure else (), failure)


def _same_shapes(part: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    shapes = ({n: getattr(t, "shape", None) for n, t in state.items()} for state in (part, own))
    return next(shapes) == next(shapes)


def _memory(value: Any) -> Any:
    """What two names of one tensor (tied weights) share."""
    if not isinstance(value, Tensor) or not value.numel() or not value.data_ptr():
        return id(value)
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _advice(state: Mapping[str, Any], own: Mapping[str, Any], what: str) -> str:
    """How to come to weights that fit: a part of these, or another file."""
    last = max(own, key=len, default="")
    for name in state:
        prefix = name.removesuffix(last)
        if name.endswith(f".{last}") and all(prefix + key in state for key in own):
            return (
                f"all are there under {prefix!r}: pass {{name.removeprefix({prefix!r}): tensor for "
                f"name, tensor in state.items() if name.startswith({prefix!r})}}, saved"
            )
    return "build the network that was saved, or pass this one's own weights"
