"""From a module's input or output to one row of values for each input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller
from pdepth.embeddings.placement import Probe
from pdepth.embeddings.trace import tensors_in


@dataclass(frozen=True)
class Mask:
    """Where the inputs say which positions of a row count, and which are padding.

    Attributes:
        name: of the tensor (B, T), as the network's `forward` has it.
        marks: "valid" or "padding", what is true or not 0 there; "ids", whose value `padding` is
            padding; or "lengths" (B,), of the positions that count. explicit: the network names
            the value for padding.
    """

    name: str
    marks: Literal["valid", "padding", "ids", "lengths"]
    padding: int = 0
    explicit: bool = False

    def read(self, caller: Caller, inputs: Inputs) -> Tensor | None:
        """Which positions count, (B, T) bool; None where the inputs have no such tensor."""
        named = dict(caller.parameter_names(inputs))
        tensor = named.get(self.name)
        if tensor is None or tensor.ndim != (1 if self.marks == "lengths" else 2):
            return None
        if self.marks == "lengths":
            longest = max((t.shape[1] for t in named.values() if t.ndim > 1), default=0)
            return torch.arange(longest, device=tensor.device) < tensor.unsqueeze(1)
        if self.marks == "ids":
            return tensor != self.padding
        return (tensor != 0) == (self.marks == "valid")


@dataclass(frozen=True, eq=False)
class Positions:
    """Of a batch of B rows: which positions count, (B, T) bool; and the graph of each node, (n,).

    None where nothing says so.
    """

    valid: Tensor | None = None
    graph: Tensor | None = None


NOTHING_KNOWN = Positions()


def masks_of(caller: Caller, inputs: Inputs) -> list[Mask]:
    """What may say which positions count: masks by name, then token ids that are padding."""
    masks = []
    named = list(caller.parameter_names(inputs))
    for name, tensor in named:
        if "mask" in name.lower() and tensor.ndim == 2:
            padding = "padding" in name.lower() or tensor.dtype == torch.bool
            marks = ("padding", "valid") if padding else ("valid", "padding")
            masks += [Mask(name, mark) for mark in marks]  # type: ignore[arg-type]
    masks += [
        Mask(name, "lengths")
        for name, tensor in named
        if "length" in name.lower() and tensor.ndim == 1
    ]
    for name, tensor in named:
        if tensor.ndim == 2 and not tensor.is_floating_point() and "mask" not in name.lower():
            config = getattr(caller.model, "config", None)
            own = getattr(config, "pad_token_id", None)
            indices = [m.padding_idx for m in caller.model.modules() if isinstance(m, nn.Embedding)]
            named_values = [value for value in (own, *indices) if isinstance(value, int)]
            for value in dict.fromkeys([*named_values, 0]):
                masks.append(Mask(name, "ids", value, explicit=value in named_values))
    return masks


def not_once(probe: Probe, times: int) -> ValueError:
    """The error of a module that ran so many times in a forward pass."""
    count = f"{times} times" if times else "never"
    return ValueError(
        "layers: expected modules that run as often as in the first rows, got "
        f"{probe.module!r}, whose run {probe.call} comes {count}."
    )


def pooled(
    probe: Probe, value: Any, rows: int | None, positions: Positions = NOTHING_KNOWN
) -> Tensor:
    """A probe's tensor (rows, ...) from a module's output.

    Raises ValueError for anything but one row for each input.
    """
    if probe.layer is not None:
        return last_states(probe.layer, value, positions.valid)
    tensors = [tensor.detach() for tensor in tensors_in(value)]
    if len(probe.parts) > 1:
        one = [replace(probe, parts=(part,)) for part in probe.parts]
        return torch.cat([pooled(p, value, rows, positions).flatten(1) for p in one], dim=1)
    tensor = tensors[probe.parts[0]] if len(tensors) > probe.parts[0] else None
    if probe.nodes and tensor is not None and positions.graph is not None and rows is not None:
        return _of_nodes(probe, tensor, positions.graph, rows)
    if (
        tensor is None
        or tensor.ndim <= probe.axis
        or tensor.shape[probe.axis] != (rows or len(tensor))
    ):
        kind = type(value).__name__ if tensor is None else f"shape {tuple(tensor.shape)}"
        raise ValueError(
            f"layers: expected one row for each of {rows} inputs as the {probe.at} of module "
            f"{probe.module!r}, got {kind}."
        )
    tensor = tensor.movedim(probe.axis, 0)
    if callable(probe.pool):
        return _checked(probe, probe.pool(tensor.clone()), len(tensor))
    if tensor.ndim < 3 or probe.pool in ("flatten", "softmax"):
        return tensor if probe.grid is None else averaged(tensor, probe.grid, probe.tokens)
    if probe.tokens:
        return _of_tokens(probe, tensor, positions.valid if probe.masked else None)
    if probe.pool in ("mean", "max"):
        tensor = tensor.flatten(2)
        return _mean(tensor, 2) if probe.pool == "mean" else tensor.amax(dim=2)
    raise ValueError(
        f"pool: expected 'flatten', 'mean', 'max' or a callable for the feature maps of probe "
        f"{probe.name!r}, {tuple(tensor.shape[1:])} a row, got {probe.pool!r}."
    )


class RecurrentRun(NamedTuple):
    """One run of a torch.nn.RNN, GRU or LSTM: the module, its arguments and its output."""

    module: nn.RNNBase
    arguments: tuple[Any, ...]
    output: Any


def last_states(layer: int, run: RecurrentRun, valid: Tensor | None) -> Tensor:
    """The last state (rows, D) of a layer of a recurrent network, of both directions side by side.

    Of packed sequences that is the last valid step. Where rows were padded at their end instead,
    the module runs once more over the same rows, packed. valid: (rows, T) bool, or None.
    """
    module, output = run.module, run.output
    sequences = run.arguments[0] if run.arguments else None
    if isinstance(sequences, Tensor) and valid is not None and not bool(valid.all()):
        steps = sequences.shape[1 if module.batch_first else 0]
        lengths = valid.sum(dim=1).clamp_min(1).cpu()
        at_end = bool(
            (
                valid.cpu() == (torch.arange(valid.shape[1], device="cpu") < lengths.unsqueeze(1))
            ).all()
        )
        if at_end and valid.shape[1] == steps:
            packed = nn.utils.rnn.pack_padded_sequence(
                sequences, lengths, batch_first=module.batch_first, enforce_sorted=False
            )
            output = module.forward(packed, *run.arguments[1:])
    states = output[1][0] if isinstance(output[1], tuple) else output[1]
    if states.ndim == 2:
        raise ValueError("layers: expected a batch of sequences, got one sequence.")
    both = 2 if module.bidirectional else 1
    last: Tensor = states.detach()[layer * both : (layer + 1) * both].movedim(0, 1).flatten(1)
    return last


def averaged(value: Tensor, grid: int, tokens: bool) -> Tensor:
    """A feature map (B, C, H, W) averaged to grid x grid; tokens (B, T, D) to `grid` equal runs.

    Of series (B, C, T) and volumes (B, C, H, W, Z) likewise; no side becomes longer.
    """
    maps = value.flatten(1, -2).movedim(1, 2) if tokens else value
    pool = getattr(nn.functional, f"adaptive_avg_pool{maps.ndim - 2}d")
    pooled = _narrow(pool(_wide(maps), min(grid, *maps.shape[2:])), value)
    return pooled.movedim(1, 2) if tokens else pooled


def grid_for(shape: tuple[int, ...], max_width: int, tokens: bool) -> int | None:
    """The largest grid at which a row's value of this shape has at most `max_width` values.

    None where it has no more, or no positions to average over; 1 where a position alone has more.
    """
    if torch.Size(shape).numel() <= max_width or len(shape) < 2:
        return None
    sides, cells = (
        (1, max_width // shape[-1]) if tokens else (len(shape) - 1, max_width // shape[0])
    )
    nearest: int = max(1, round(cells ** (1 / sides)))
    return nearest - 1 if nearest > 1 and nearest**sides > cells else nearest


def _mean(value: Tensor, dim: int) -> Tensor:
    """The mean; of 16 bits with the sum in 32, which it might else exceed."""
    return _narrow(_wide(value).mean(dim=dim), value)


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _narrow(value: Tensor, like: Tensor) -> Tensor:
    """Of the precision of `like`, unless that is integers."""
    return value.to(like.dtype) if like.is_floating_point() else value


def _of_nodes(probe: Probe, nodes: Tensor, graph: Tensor, rows: int) -> Tensor:
    """Values of nodes (n, D) pooled over each of the graphs (rows, D)."""
    if callable(probe.pool):
        return _checked(probe, probe.pool(nodes.clone()), rows)
    reduce = "amax" if probe.pool == "max" else "mean"
    nodes = nodes.flatten(1)
    index = graph.to(nodes.device).unsqueeze(1).expand_as(nodes)
    empty = nodes.new_zeros(rows, nodes.shape[1])
    return empty.scatter_reduce(0, index, nodes, reduce, include_self=False)


def _of_tokens(probe: Probe, tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Tokens (B, ..., D) to (B, D)."""
    tokens = tokens.flatten(1, -2)
    if valid is None or valid.shape != tokens.shape[:2]:
        valid = None
    if probe.pool == "token":
        return tokens[:, 0]
    if probe.pool == "last":
        if valid is None:
            return tokens[:, -1]
        places = torch.arange(valid.shape[1], device=valid.device)
        last = torch.where(valid, places, -1).amax(dim=1).clamp_min(0)
        return tokens[torch.arange(len(tokens), device=tokens.device), last.to(tokens.device)]
    part = slice(*probe.positions)
    tokens = tokens[:, part]
    if valid is None:
        return tokens.amax(dim=1) if probe.pool == "max" else _mean(tokens, 1)
    weights = valid[:, part].to(tokens.device).unsqueeze(-1)
    if probe.pool == "max":
        return tokens.masked_fill(~weights, -torch.inf).amax(dim=1)
    total = _wide(tokens).masked_fill(~weights, 0).sum(dim=1)
    return _narrow(total / weights.sum(dim=1).clamp_min(1), tokens)


def _checked(probe: Probe, value: Any, rows: int) -> Tensor:
    """What a pooling callable returned; ValueError for another number of rows."""
    if isinstance(value, Tensor) and value.ndim and len(value) == rows:
        return value
    kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"pool: expected a callable that returns one row for each of {rows} at probe "
        f"{probe.name!r}, got {kind}."
    )
