"""Where a network is probed: at the layers and blocks that a forward pass shows, or by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import Tensor, nn

from pdepth.embeddings.calling import Output, unwrap
from pdepth.embeddings.trace import Call, Trace
from pdepth.embeddings.units import Unit, Units

VERSION = 2  # of the rules; depths of other versions may have other probes
POOLS = ("flatten", "mean", "max", "token", "last")
Pool = str | Callable[[Tensor], Tensor]
Named = str | nn.Module


@dataclass(frozen=True)
class Probe:
    """A point of a network, and how a row's value there becomes a vector.

    Attributes:
        name: as results show it. module: its dotted name ("" is the network itself). at: whether
            the module's input or its output is taken. call: of a module that runs more than once,
            which run, from 1. runs: how often it runs in every forward pass; None: not checked.
        pool: "flatten" keeps all of a value; "mean" and "max" are taken over the positions of a
            feature map (B, C, ...) or over the tokens (B, ..., D) that count; "token" is the first
            token, "last" the last that counts; a callable takes the values (B, ...), detached, and
            returns (B, D) or (B, ...); "softmax" turns class scores into probabilities. "auto" is
            not decided yet.
        positions: from the first of the tokens that "mean" and "max" take to before the last; None
            for the end. masked: whether padding, where it is known, is left out.
        grid: a feature map (B, C, H, W) is averaged to grid x grid, tokens to `grid` equal runs;
            None leaves it as it is.
        parts: of several values that a module returns, which are taken, side by side.
        tokens: whether values are tokens (B, ..., D), and no feature maps (B, C, ...). axis: of the
            rows. layer: of a recurrent network, whose last state is taken. nodes: whether values
            have a row for each node of the graphs in a batch.
    """

    name: str
    module: str
    at: Literal["input", "output"] = "output"
    pool: Pool = "flatten"
    call: int = 1
    runs: int | None = field(default=None, compare=False)
    positions: tuple[int, int | None] = (0, None)
    masked: bool = True
    grid: int | None = None
    parts: tuple[int, ...] = (0,)
    tokens: bool = False
    axis: int = 0
    layer: int | None = None
    nodes: bool = False


Layers = str | Sequence[str | Probe] | Mapping[str, Pool] | Callable[[nn.Module], Iterable[Named]]
Pools = Pool | Mapping[str, Pool]


@dataclass(frozen=True)
class ProbeOptions:
    """Where a network is probed and how, as `pdepth.prediction_depth` takes it.

    Attributes:
        layers: see `place`. pool: for every probe, or by a probe's name; "auto" flattens feature
            maps and takes of tokens those that the network's head reads. input: whether the input
            is a probe; None: unless it is token ids, graphs, or of varying length.
        max_width: a wider feature map is averaged to the largest square grid that is not.
        output: where the class scores are in what the network returns.
    """

    layers: Layers = "auto"
    pool: Pools = "auto"
    input: bool | None = None
    max_width: int | None = None
    output: Output = None

    def __post_init__(self) -> None:
        pools = self.pool.values() if isinstance(self.pool, Mapping) else [self.pool]
        if isinstance(self.layers, Mapping):
            pools = [*pools, *self.layers.values()]
        for pool in pools:
            if not callable(pool) and pool not in ("auto", *POOLS):
                raise ValueError(
                    f"pool: expected one of auto, {', '.join(POOLS)} or a callable, got {pool!r}."
                )
        width = self.max_width
        if width is not None and (isinstance(width, bool) or not isinstance(width, int)):
            raise TypeError(f"max_width: expected an integer, got {width!r}.")
        if width is not None and width < 1:
            raise ValueError(f"max_width: expected an integer >= 1, got {width}.")

    def own_pool(self, name: str, default: Pool = "flatten") -> Pool:
        """The pooling that is chosen for a probe by its name."""
        for chosen in (self.layers, self.pool):
            if isinstance(chosen, Mapping):
                for pattern, pool in chosen.items():
                    if pool != "auto" and (pattern == name or _fits(name, pattern)):
                        return pool
        return default

    def pool_of(self, name: str, default: Pool) -> Pool:
        """The pooling of a probe between input and softmax."""
        own = self.own_pool(name, "auto")
        if own != "auto":
            return own
        if self.pool == "auto" or isinstance(self.pool, Mapping):
            return default
        return self.pool


@dataclass(frozen=True)
class Placement:
    """The probes of a network between its input and its softmax, in the order they run.

    Attributes:
        probes: tokens have the pool "auto" until it is known which of them the head reads.
        rule: which rule placed them: "resnet", "vgg", "mlp", "blocks", "layers", or "given".
        dropped: sentences on what could not be probed.
    """

    probes: tuple[Probe, ...]
    rule: str
    dropped: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(probe.name for probe in self.probes)


def place(
    trace: Trace,
    options: ProbeOptions,
    rows: int | None,
    nodes: int | None = None,
    *,
    alone: bool = True,
) -> Placement:
    """Place the probes of a network by what a forward pass over `rows` rows shows.

    nodes: how many nodes a batch of graphs has. alone: whether rows do not depend on each other; a
    graph network's layers are more than their matrices, and so no MLP's.

    layers="auto" follows the network's family:

    - ResNet: the stem's normalisation, before its activation; each residual block.
    - VGG: each convolution of `features`.
    - MLP (linear layers and norms hold all weights): each linear layer but the last.
    - anything with blocks, within which values branch (residual, attention, inception, dense):
      each block, after its addition; before them and between them layers that end in an
      activation, and the stem before a convolutional block.
    - anything else: each layer, after its normalisation and activation where these are modules.

    Recurrent networks are probed layer by layer, at the last step. A module that runs several times
    is probed each time: "block@2" is the second. The classifier's own output, auxiliary heads and
    whatever a shortcut passes by are no probes.

    Otherwise `layers` names modules: a list of dotted names or `Probe`s, a string of
    comma-separated names or glob patterns ("layer[34].*"), a mapping of names to poolings, or a
    callable that takes the model and returns names or modules.

    Raises ValueError for names that the model lacks, patterns without a match, and modules that do
    not run; TypeError for anything that is not of these kinds.
    """
    if isinstance(options.layers, str) and options.layers == "auto":
        return _automatic(trace, rows, nodes, alone)
    return Placement(tuple(_given(trace, options.layers, rows, nodes)), "given")


def check_layers(model: nn.Module, layers: Layers) -> None:
    """Raise as `place` for what can be known before the network runs."""
    network = unwrap(model)
    if not (isinstance(layers, str) and layers == "auto"):
        _chosen(network, layers)


def check_pools(options: ProbeOptions, placement: Placement) -> None:
    """Raise ValueError for a pooling of a probe that is not there."""
    if not isinstance(options.pool, Mapping):
        return
    names = ["input", *placement.names]
    for pattern in options.pool:
        if not any(pattern == name or _fits(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise ValueError(
                f"pool: expected names of probes or patterns, got {pattern!r}; nearest: "
                f"{_listed(near)}."
            )


def _automatic(trace: Trace, rows: int | None, nodes: int | None, alone: bool) -> Placement:
    units = Units(trace).all()
    blocks = [unit for unit in units if unit.block]
    rule = "blocks" if blocks else "layers"
    if alone and (dense := _dense(trace)) is not None and not blocks:
        rule, units = "mlp", _followed_by_weights(trace, dense)
    elif _family(trace.root.module, "vgg") and not blocks:
        rule, units = "vgg", _convolutions(units)
    elif blocks:
        if _family(trace.root.module, "resnet") and (stem := _stem_norm(trace, blocks[0])):
            rule, units = "resnet", [Unit(stem, stem), *blocks]
        else:
            units = _around_blocks(trace, units)
    probes: list[Probe] = []
    lost: dict[tuple[int, ...], list[str]] = {}
    for unit in units:
        placed = _probes_of(trace, unit, rows, nodes)
        probes += placed
        for shape in unit.left_out(trace, rows) if placed else [unit.shape]:
            lost.setdefault(shape, []).append(repr(unit.last.name))
    dropped = _outside_modules(trace, units)
    for shape, names in lost.items():
        some = f"{names[0]} gives" if len(names) == 1 else f"{names[0]} to {names[-1]} give"
        dropped.append(f"{some} values of shape {shape}, not one for each row")
    return Placement(tuple(probes), rule, tuple(dropped))


def _around_blocks(trace: Trace, units: list[Unit]) -> list[Unit]:
    """The blocks, and of other layers those that do more than to change the size."""
    places = [place for place, unit in enumerate(units) if unit.block]
    first, last = places[0], places[-1]
    attends_first, attends_last = (trace.attends(units[p].last) for p in (first, last))
    tokens_first = attends_first or units[first].has_tokens(units[first].shape)

    def kept(place: int, unit: Unit) -> bool:
        if unit.block:
            return True
        if place > last and attends_last and len(unit.shape) < 3:  # a pooler: the head's own
            return False
        if place == first - 1 and not tokens_first:
            return True
        return unit.last.node is not None and trace.activates(unit.first.begin, unit.last.node)

    return [unit for place, unit in enumerate(units) if kept(place, unit)]


def _dense(trace: Trace) -> list[Call] | None:
    """The calls of linear layers; None where others have weights, or values have positions."""
    dense: list[Call] = []
    for call in trace.root.walk():
        if isinstance(call.module, nn.Linear):
            if len(call.shape) != 2:
                return None
            dense.append(call)
        elif any(True for _ in call.module.parameters(recurse=False)) and not (
            "Norm" in type(call.module).__name__ or isinstance(call.module, nn.PReLU)
        ):
            return None
    return dense or None


def _followed_by_weights(trace: Trace, calls: Iterable[Call]) -> list[Unit]:
    """Calls that end in a cut, but for the classifier's, as units."""
    return [
        Unit(call, call, layer=True)
        for call in calls
        if call.node is not None
        and trace.is_cut([call.node])
        and trace.has_weights_after(call.node)
    ]


def _outside_modules(trace: Trace, units: Iterable[Unit]) -> list[str]:
    """Sentences on layers that would be probed, but run without being called as modules."""
    ranges = [(unit.first.begin, unit.last.end) for unit in units]
    ranges += [(c.begin, c.end) for c in trace.root.walk() if not c.children and c.name]
    names = [
        trace.weights.get(node)
        for node in range(len(trace.parents))
        if trace.is_layer(node)
        and trace.is_cut([node])
        and trace.has_weights_after(node)
        and not any(begin <= node < end for begin, end in ranges)
    ]
    return [
        f"{name!r} is used without a call of its module"
        for name in dict.fromkeys(name for name in names if name)
    ]


def _convolutions(units: list[Unit]) -> list[Unit]:
    """Of units that begin with a convolution of `features`, that convolution."""
    inside = [call for unit in units for call in unit.first.walk()]
    return [
        Unit(call, call, layer=True)
        for call in inside
        if isinstance(call.module, nn.Conv2d) and "features" in call.name.split(".")
    ]


def _family(model: nn.Module, name: str) -> bool:
    """Whether the network, or what holds most of its weights, is of a class of this name."""
    half = _weights(model) / 2
    body: nn.Module | None = model
    while body is not None:
        if any(name in base.__name__.lower() for base in type(body).__mro__):
            return True
        body = next((child for child in body.children() if _weights(child) > half), None)
    return False


def _stem_norm(trace: Trace, block: Unit) -> Call | None:
    """The last normalisation before the first block."""
    norms = [
        call
        for call in trace.root.walk()
        if "Norm" in type(call.module).__name__
        and not call.children
        and call.end <= block.first.begin
        and call.node is not None
        and trace.is_cut([call.node])
    ]
    return norms[-1] if norms else None


def _probes_of(
    trace: Trace, unit: Unit, rows: int | None, nodes: int | None, name: str | None = None
) -> list[Probe]:
    """A probe of a unit; of a recurrent network one a layer; none for values without rows."""
    call = unit.last
    if name is None:
        name = call.name + (f"@{call.number}" if trace.times[call.name] > 1 else "")
        if unit.at == "input":
            name += " (input)"
        elif name in ("input", "softmax"):
            name += " (module)"
    if isinstance(call.module, nn.RNNBase):
        layers = call.module.num_layers
        return [
            Probe(
                f"{name}[{n}]" if layers > 1 else name,
                call.name,
                call=call.number,
                runs=trace.times[call.name],
                layer=n,
            )
            for n in range(layers)
        ]
    probe = Probe(name, call.name, unit.at, call=call.number, runs=trace.times[call.name])
    shape = unit.shape
    if nodes is not None and shape[:1] == (nodes,):
        return [replace(probe, pool="mean", nodes=True)]
    if parts := unit.parts(trace, rows):
        probe, shape = replace(probe, parts=parts), call.shapes[parts[0]]
    if not shape or (rows is not None and rows not in shape[:2]):
        return []
    axis = 0 if rows is None or shape[0] == rows else 1
    if axis == 1 and len(shape) < 3:
        return []
    tokens = unit.has_tokens(shape)
    return [replace(probe, axis=axis, pool="auto" if tokens else "flatten", tokens=tokens)]


def _given(trace: Trace, layers: Layers, rows: int | None, nodes: int | None) -> list[Probe]:
    """The probes that a caller chose, in the order they run."""
    calls: dict[str, list[Call]] = {}
    for call in trace.root.walk():
        calls.setdefault(call.name, []).append(call)
    probes: list[tuple[int, Probe]] = []
    for item in _chosen(trace.root.module, layers):
        name, number = (item.module, item.call) if isinstance(item, Probe) else _split(item)
        runs = calls.get(name, [])
        if not runs:
            raise ValueError(
                "layers: expected modules that run in a forward pass, got "
                f"{name!r}, which runs never."
            )
        if number is None and len(runs) > 1:
            raise ValueError(
                f"layers: expected one run of each module, got {name!r}, which runs "
                f"{len(runs)} times; name '{name}@1' to '{name}@{len(runs)}'."
            )
        if (number or 1) > len(runs):
            raise ValueError(
                f"layers: expected a run from 1 to {len(runs)} of {name!r}, got {number}."
            )
        call = runs[(number or 1) - 1]
        if isinstance(item, Probe):
            probes.append((call.end, item))
            continue
        unit = Unit(call, call)
        label = f"{item} (module)" if item in ("input", "softmax") else item
        placed = _probes_of(trace, unit, rows, nodes, label)
        if not placed:
            raise ValueError(
                f"layers: expected one row for each of {rows} inputs as the output of module "
                f"{name!r}, got shape {call.shape}."
            )
        probes += [(call.end, probe) for probe in placed]
    return [probe for _, probe in sorted(probes, key=lambda pair: pair[0])]


def _split(name: str) -> tuple[str, int | None]:
    """A module's name and the number of its run, of "block@2"."""
    match = re.fullmatch(r"(.*)@(\d+)", name)
    return (match[1], int(match[2])) if match else (name, None)


def _chosen(model: nn.Module, layers: Any) -> list[str | Probe]:
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(layers, str):
        chosen: list[str | Probe] = []
        for pattern in filter(None, map(str.strip, layers.split(","))):
            chosen += _matching(model, pattern, names)
        if not chosen:
            raise ValueError("layers: expected 'auto', names or patterns, got empty text.")
        return list(dict.fromkeys(chosen))
    if isinstance(layers, Mapping):
        return [match for name in layers for match in _matching(model, name, names)]
    if callable(layers):
        items: object = layers(model)
        source = "a callable that returned"
    else:
        items, source = layers, ""
    if isinstance(items, (str, nn.Module)) or not isinstance(items, Iterable):
        source = f"{source} a {type(items).__name__}".strip()
        raise TypeError(f"layers: expected an iterable of module names or modules, got {source}.")
    chosen = []
    for item in items:
        name = _name_of(model, item, names)
        if name in chosen:
            raise ValueError(f"layers: expected each module once, got {item!r} twice.")
        chosen.append(name)
    return chosen


def _name_of(model: nn.Module, item: object, names: list[str]) -> str | Probe:
    if isinstance(item, Probe):
        if item.module and item.module not in names:
            raise _unknown(item.module, names)
        return item
    if isinstance(item, nn.Module):
        module = unwrap(item)
        item = next((name for name, own in model.named_modules() if own is module and name), None)
        if item is None:
            raise ValueError("layers: expected submodules of the model, got a module of another.")
    if not isinstance(item, str):
        raise TypeError(f"layers: expected module names, got a {type(item).__name__}.")
    if _split(item)[0] not in names:
        raise _unknown(item, names)
    return item


def _matching(model: nn.Module, pattern: str, names: list[str]) -> list[str]:
    if _split(pattern)[0] in names:
        return [pattern]
    if not any(sign in pattern for sign in "*?["):
        raise _unknown(pattern, names)
    # Lists and dictionaries of modules are never called, so a pattern does not mean them.
    never = (nn.ModuleList, nn.ModuleDict)
    modules = dict(model.named_modules())
    matches = [n for n in names if _fits(n, pattern) and not isinstance(modules[n], never)]
    if not matches:
        raise ValueError(
            f"layers: expected a pattern that matches a module, got {pattern!r}; the model has "
            f"{_listed(names[:8])}{' and others' if len(names) > 8 else ''}."
        )
    return matches


def _fits(name: str, pattern: str) -> bool:
    """Whether a name matches, component by component: no wildcard reaches over a dot."""
    components, patterns = name.split("."), pattern.split(".")
    return len(components) == len(patterns) and all(map(fnmatchcase, components, patterns))


def _unknown(name: str, names: list[str]) -> ValueError:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
    return ValueError(
        f"layers: expected names of the model's modules, got {name!r}; nearest: {_listed(near)}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no submodules"


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if not nn.parameter.is_lazy(p))
