"""Which tokens a network's head reads, by the gradient of its winning score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller, call, differentiable
from pdepth.embeddings.placement import Probe
from pdepth.embeddings.pooling import Mask, masks_of
from pdepth.embeddings.trace import tensors_in

SAMPLE_ROWS = 4
READS_PADDING = "the head reads padding"
UNEQUAL = 1e-3  # of the largest score


def resolve(
    caller: Caller, inputs: Inputs, probes: Sequence[Probe], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[Probe], Mask | None, list[str]]:
    """Give probes with the pool "auto" that of the tokens which the head reads.

    A block's tokens are pooled as those of the last block with as many positions. shapes: of each
    probe's value, by its name.

    Returns:
        The probes; where padding is marked, or None; and sentences on what is doubtful.
    """
    candidates = masks_of(caller, inputs)
    named = next((mask for mask in candidates if mask.marks != "ids"), None)
    if not any(probe.pool == "auto" or probe.tokens for probe in probes):
        return list(probes), named, []
    sample = _sample(caller, inputs, candidates)
    padding = any(
        (valid := each.read(caller, inputs)) is not None and valid.any() and not valid.all()
        for each in candidates
        if each.marks != "ids"
    )
    chosen: list[Probe] = []
    mask: Mask | None = None
    doubts: list[str] = []
    later: tuple[int, Probe] | None = None  # the number of positions, and how they are pooled
    for probe in reversed(probes):
        if probe.pool != "auto":
            chosen.append(probe)
            continue
        positions = _positions(probe, shapes[probe.name])
        if later is None or later[0] != positions:
            read = gradient_positions(caller, sample, probe)
            pooled, used, doubt = _pooling(caller, sample, probe, read, candidates)
            if doubt.startswith(READS_PADDING) and not padding:
                doubt = ""
            if later is None and not doubt and (pooled.pool, pooled.positions[1]) == ("mean", None):
                doubt = _unequal(caller, sample, pooled, used)
            later, mask = (positions, pooled), mask or used
            doubts += [doubt] if doubt else []
        how = later[1]
        chosen.append(replace(probe, pool=how.pool, positions=how.positions, masked=how.masked))
    return chosen[::-1], mask or named, doubts


def _sample(caller: Caller, inputs: Inputs, candidates: Sequence[Mask]) -> Inputs:
    """A few rows, those with most padding among them, where something says which that is.

    Where none of the rows holds any, two of them get some: how the network treats it would else
    stay unseen.
    """
    if not inputs.sliceable or inputs.rows is None:
        return inputs
    chosen = list(range(min(SAMPLE_ROWS, inputs.rows)))
    said = [mask for mask in candidates if mask.marks != "ids" or mask.explicit]
    for mask in said or candidates:
        valid = mask.read(caller, inputs)
        if valid is not None and valid.any() and not valid.all():
            fewest = valid.sum(dim=1).masked_fill(~valid.any(dim=1), valid.shape[1])
            padded = fewest.argsort(stable=True)[: SAMPLE_ROWS // 2].tolist()
            return inputs.take(list(dict.fromkeys([*padded, *chosen]))[:SAMPLE_ROWS])
    return _padded(caller, inputs.take(chosen), candidates)


def _padded(caller: Caller, sample: Inputs, candidates: Sequence[Mask]) -> Inputs:
    """Rows without padding, two of which get some at their end, by the masks or the token ids."""
    named = dict(caller.parameter_names(sample))
    masks = {mask.name for mask in candidates if mask.marks in ("valid", "padding")}
    ids = next((mask for mask in candidates if mask.marks == "ids" and mask.explicit), None)
    changed = [named[name] for name in masks] or ([] if ids is None else [named[ids.name]])

    def pad(tensor: Tensor) -> Tensor:
        if not any(tensor is other for other in changed) or tensor.shape[1] < 3:
            return tensor
        tensor = tensor.clone()
        end = tensor[: SAMPLE_ROWS // 2, -(tensor.shape[1] // 3) :]
        if not masks:
            end.fill_(ids.padding if ids is not None else 0)
        elif tensor.dtype == torch.bool:
            end.logical_not_()
        else:  # ones, or zeros that are added to scores
            added = tensor.is_floating_point() and not tensor.any()
            end.fill_(torch.finfo(tensor.dtype).min if added else 1 - int(bool(tensor.any())))
        return tensor

    return sample.map(pad)


def gradient_positions(caller: Caller, inputs: Inputs, probe: Probe) -> Tensor | None:
    """Where the winning score depends on a probe's tokens: (B, T, D) bool.

    None where the network is not differentiable from there on.
    """
    held: list[Tensor] = []

    def leaves(value: Any) -> Any:
        tensors = list(tensors_in(value))
        if probe.at == "input":  # others hold the same tensor: x + block(x)
            held.append(tensors[0].requires_grad_())
            return None
        held.extend(tensors[part].detach().requires_grad_() for part in probe.parts)
        # Clones, since what follows may write into them.
        changed = {id(tensors[p]): leaf.clone() for p, leaf in zip(probe.parts, held, strict=True)}
        return _with(value, changed)

    try:
        with differentiable(caller.model), replacing(caller.model, probe, leaves):
            returned = call(caller, inputs)
            scores = caller.scores(returned, inputs.rows)
            top = scores[:, 1] if caller.single(returned) else scores.amax(dim=1)
            slopes = torch.autograd.grad(top.sum(), held, allow_unused=True)
    except (RuntimeError, ValueError, IndexError):
        return None
    read = [s for s in slopes if s is not None and s.any()]  # of several values, the first of these
    if not read:
        return torch.zeros_like(held[0], dtype=torch.bool).movedim(probe.axis, 0).flatten(1, -2)
    return read[0].movedim(probe.axis, 0).flatten(1, -2) != 0


@contextmanager
def replacing(model: nn.Module, probe: Probe, change: Callable[[Any], Any]) -> Iterator[None]:
    """Put what `change` returns of a probe's value in its place; None leaves it as it is."""
    runs = 0

    def hook(value: Any) -> Any:
        nonlocal runs
        runs += 1
        return change(value) if runs == probe.call else None

    module = model.get_submodule(probe.module)
    if probe.at == "input":
        handle = module.register_forward_pre_hook(
            lambda module, args, kwargs: hook((args, kwargs)), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(lambda module, args, value: hook(value))
    try:
        yield
    finally:
        handle.remove()


def _pooling(
    caller: Caller,
    inputs: Inputs,
    probe: Probe,
    read: Tensor | None,
    candidates: Sequence[Mask],
) -> tuple[Probe, Mask | None, str]:
    """How tokens are pooled, the mask that this needs, and what is doubtful."""
    doubt = "which tokens the head reads could not be checked"
    sloping = None if read is None else read.flatten(1).any(dim=1)  # none of a saturated score
    if read is not None and sloping is not None and sloping.any():
        masks = [(mask, mask.read(caller, inputs)) for mask in candidates]
        fitting = [
            (mask, valid[sloping].cpu())
            for mask, valid in masks
            if valid is not None and valid.shape == read.shape[:2]
        ]
        read = read[sloping]
        choice = _matching(probe, read, read.any(dim=2).cpu(), fitting)
        if choice is not None:
            return choice
        doubt = "the head reads other tokens than any pooling takes"
    guess = replace(probe, pool=_guess(caller))
    return guess, None, f"{doubt} at {probe.name!r}: pooled by {guess.pool!r}; pass pool= to choose"


def _unequal(caller: Caller, inputs: Inputs, probe: Probe, mask: Mask | None) -> str:
    """A doubt where the scores change when a row's tokens change places, which no mean would see.

    As of the last block: what comes after an earlier one may well know places.
    """
    valid = None if mask is None else mask.read(caller, inputs)

    def turned(value: Any) -> Any:
        tensors = list(tensors_in(value))
        changed = {}
        for part in probe.parts if probe.at == "output" else (0,):
            tokens = tensors[part].movedim(probe.axis, 0)
            flat = tokens.flatten(1, -2).clone()
            for row, of_row in enumerate(flat):
                places = torch.arange(len(of_row), device="cpu")[slice(*probe.positions)]
                if valid is not None and probe.masked and valid.shape[1] == len(of_row):
                    places = places[valid[row].cpu()[places]]
                flat[row, places] = of_row[places.flip(0)].clone()
            changed[id(tensors[part])] = flat.reshape(tokens.shape).movedim(0, probe.axis)
        return _with(value, changed)

    try:
        expected = caller.scores(caller(inputs), inputs.rows)
        with replacing(caller.model, probe, turned):
            actual = caller.scores(caller(inputs), inputs.rows)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return ""
    scale = float(expected.abs().max()) + 1e-12
    if float((actual - expected).abs().max()) <= UNEQUAL * scale:
        return ""
    return (
        f"the head does not read all tokens alike at {probe.name!r}: pooled by their mean; pass "
        "pool= to choose"
    )


def _matching(
    probe: Probe, read: Tensor, places: Tensor, masks: Sequence[tuple[Mask, Tensor]]
) -> tuple[Probe, Mask | None, str] | None:
    """The pooling that takes exactly the positions that are read (B, T)."""
    count = places.shape[1]
    index = torch.arange(count, device=places.device)
    first = index == 0
    if count == 1:
        return replace(probe, pool="mean", masked=False), None, ""
    if (places == first).all():
        return replace(probe, pool="token"), None, ""
    # What is said of padding; other readings fit the end of padded rows by coincidence.
    usual = {mask.name: mask for mask, _ in reversed(masks)}
    said = [(m, v) for m, v in masks if usual[m.name] is m and (m.marks != "ids" or m.explicit)]
    at_end = bool((places == (index == count - 1)).all())
    for mask, valid in said if at_end else masks:
        last = index == torch.where(valid, index, -1).amax(dim=1, keepdim=True)
        if valid.any(dim=1).all() and (places == last).all():
            return replace(probe, pool="last"), mask, ""
    padded = any((places & ~valid).any() for mask, valid in said if mask.marks != "ids")
    doubt = f"{READS_PADDING} at {probe.name!r}, which votes" if padded else ""
    certain = None if padded else next((mask for mask, _ in said if mask.marks != "ids"), None)
    if (read.sum(dim=1) <= 1).all() and (places.sum(dim=1) > 1).any():  # of each value one token's
        return replace(probe, pool="max", masked=not padded), certain, doubt
    for mask, valid in masks:
        if (places == valid).all() and not valid.all():
            return replace(probe, pool="mean"), mask, ""
    if places.all():
        return replace(probe, pool="mean", masked=not padded), certain, doubt
    if (places == places[0]).all():
        (kept,) = torch.where(places[0])
        begin, end = int(kept[0]), int(kept[-1]) + 1
        if len(kept) == 1 and end == count:
            return replace(probe, pool="last", masked=False), None, doubt
        if len(kept) == end - begin:
            stop = None if end == count else end
            return replace(probe, pool="mean", positions=(begin, stop), masked=False), None, ""
    return None


def _guess(caller: Caller) -> str:
    """The class token where the network has one, else the mean."""
    tokens = {name.rpartition(".")[2] for name, _ in caller.model.named_parameters()}
    return "token" if tokens & {"cls_token", "class_token"} else "mean"


def _positions(probe: Probe, shape: tuple[int, ...]) -> int:
    """The number of positions of tokens of a shape that includes the rows."""
    sizes = [size for axis, size in enumerate(shape[:-1]) if axis != probe.axis]
    return int(torch.Size(sizes).numel())


def _with(value: Any, changed: Mapping[int, Tensor]) -> Any:
    """A module's output with other tensors in the place of some, by their ids."""
    if isinstance(value, Tensor):
        return changed.get(id(value), value)
    if isinstance(value, Mapping):
        copied = copy.copy(value)
        for key in value:
            copied[key] = _with(value[key], changed)  # type: ignore[index]
        return copied
    if is_dataclass(value) and not isinstance(value, type):
        own = {item.name: _with(getattr(value, item.name), changed) for item in fields(value)}
        return replace(value, **own)
    if not isinstance(value, tuple | list):
        return value
    items = [_with(item, changed) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
