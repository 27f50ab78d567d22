"""Which tokens a network's head reads, by the gradient of its winning score."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller, call, differentiable
from pdepth.embeddings.placement import Probe
from pdepth.embeddings.pooling import Mask, masks_of
from pdepth.embeddings.trace import tensors_in

SAMPLE_ROWS = 4


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
            later, mask = (positions, pooled), mask or used
            doubts += [doubt] if doubt else []
        how = later[1]
        chosen.append(replace(probe, pool=how.pool, positions=how.positions, masked=how.masked))
    return chosen[::-1], mask or named, doubts


def _sample(caller: Caller, inputs: Inputs, candidates: Sequence[Mask]) -> Inputs:
    """A few rows, those with most padding among them, where something says which that is.

    Where token ids have a value for padding that none of the rows holds, two of them get some: how
    the network treats it would else stay unseen.
    """
    if not inputs.sliceable or inputs.rows is None:
        return inputs
    chosen = list(range(min(SAMPLE_ROWS, inputs.rows)))
    for mask in candidates:
        valid = mask.read(caller, inputs)
        if valid is not None and valid.any() and not valid.all():
            fewest = valid.sum(dim=1).masked_fill(~valid.any(dim=1), valid.shape[1])
            padded = fewest.argsort(stable=True)[: SAMPLE_ROWS // 2].tolist()
            return inputs.take(list(dict.fromkeys([*padded, *chosen]))[:SAMPLE_ROWS])
    sample = inputs.take(chosen)
    ids = next((mask for mask in candidates if mask.marks == "ids" and mask.explicit), None)
    if ids is None or any(mask.marks != "ids" for mask in candidates):
        return sample
    padded_ids = dict(caller.parameter_names(sample))[ids.name]

    def pad(tensor: Tensor) -> Tensor:
        if tensor is not padded_ids or tensor.shape[1] < 3:
            return tensor
        tensor = tensor.clone()
        tensor[: SAMPLE_ROWS // 2, -(tensor.shape[1] // 3) :] = ids.padding
        return tensor

    return sample.map(pad)


def gradient_positions(caller: Caller, inputs: Inputs, probe: Probe) -> Tensor | None:
    """Where the winning score depends on a probe's tokens: (B, T, D) bool.

    None where the network is not differentiable from there on.
    """
    held: list[Tensor] = []
    runs = 0

    def hook(module: Any, args: Any, value: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs != probe.call:
            return None
        tensors = list(tensors_in(value))
        if probe.at == "input":  # others hold the same tensor: x + block(x)
            held.append(tensors[0].requires_grad_())
            return None
        held.extend(tensors[part].detach().requires_grad_() for part in probe.parts)
        # Clones, since what follows may write into them.
        changed = {id(tensors[p]): leaf.clone() for p, leaf in zip(probe.parts, held, strict=True)}
        return _with(value, changed)

    module = caller.model.get_submodule(probe.module)
    if probe.at == "input":
        handle = module.register_forward_pre_hook(
            lambda module, args, kwargs: hook(module, args, (args, kwargs)), with_kwargs=True
        )
    else:
        handle = module.register_forward_hook(hook)
    try:
        with differentiable(caller.model):
            returned = call(caller, inputs)
            scores = caller.scores(returned, inputs.rows)
            top = scores[:, 1] if caller.single(returned) else scores.amax(dim=1)
            slopes = torch.autograd.grad(top.sum(), held, allow_unused=True)
    except (RuntimeError, ValueError, IndexError):
        return None
    finally:
        handle.remove()
    read = [s for s in slopes if s is not None and s.any()]  # of several values, the first of these
    if not read:
        return torch.zeros_like(held[0], dtype=torch.bool).movedim(probe.axis, 0).flatten(1, -2)
    return read[0].movedim(probe.axis, 0).flatten(1, -2) != 0


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


def _matching(
    probe: Probe, read: Tensor, places: Tensor, masks: Sequence[tuple[Mask, Tensor]]
) -> tuple[Probe, Mask | None, str] | None:
    """The pooling that takes exactly the positions that are read (B, T)."""
    count = places.shape[1]
    index = torch.arange(count)
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
    doubt = f"the head reads padding at {probe.name!r}, which votes" if padded else ""
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
    if not isinstance(value, tuple | list):
        return value
    items = [_with(item, changed) for item in value]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
