"""Where a network is probed: rules for known families, one for the rest, and the user's choice."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

Pool = Literal["flatten", "token", "mean", "softmax"]
Layers = str | Sequence[str] | Callable[[nn.Module], Iterable["str | nn.Module"]]
Named = tuple[str, nn.Module]


@dataclass(frozen=True)
class Probe:
    """A point of a network.

    name: as results show it. module: its dotted name ("" is the network itself). at: whether the
    module's input or its output is taken. pool: how a row's value becomes a vector: "flatten"
    keeps all of it, "token" keeps the first token, "mean" averages the tokens (both for values
    (B, ..., D) of three or more dimensions; flatter ones are kept), "softmax" turns class scores
    into probabilities.
    """

    name: str
    module: str
    at: Literal["input", "output"] = "output"
    pool: Pool = "flatten"


@dataclass(frozen=True)
class Placement:
    """The probes of a network, the input first and the softmax last.

    rule: which rule placed them: "resnet", "vgg", "mlp", "transformer", "chain", or "given" for
    the caller's own. "chain" is a guess, so what one forward pass does not run exactly once is
    left out; under any other rule that is an error.
    """

    probes: tuple[Probe, ...]
    rule: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(probe.name for probe in self.probes)


def place(model: nn.Module, layers: Layers = "auto") -> Placement:
    """Place the probes of `model`.

    layers="auto" follows the network's family, wherever the submodule that holds more than half of
    the weights belongs to one (so a backbone inside a wrapper is found):

    - ResNet: input; the stem's normalisation, before its ReLU; each residual block; softmax.
    - VGG: input; each convolution of `features`; softmax.
    - MLP (linear layers and norms hold all weights): input; each linear layer but the last;
      softmax.
    - transformer (blocks of one class, with attention and no convolution): the first block's input,
      mean over tokens; each block, by its class token where the network classifies with one, else
      by the mean over tokens; softmax.
    - anything else: the modules of the longest chain, between input and softmax. Lists and stages
      are opened into their blocks; Dropout, Identity and Flatten change no embedding and are
      skipped, as is the chain's last module where that is the network's own output.

    Otherwise `layers` names the modules whose outputs are probed between input and softmax: a list
    of dotted names, a string of comma-separated names or glob patterns ("layer[34].*"), or a
    callable that takes the model and returns names or modules. Token values of a transformer are
    pooled as above. Capture puts probes into the order in which the forward pass runs them.

    Raises ValueError for names the model lacks, patterns without a match, and repeated modules;
    TypeError for anything that is not of these kinds.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got a {type(model).__name__}.")
    model = unwrap(model)
    automatic = _automatic(model)
    if isinstance(layers, str) and layers == "auto":
        return automatic
    first, *_, softmax = automatic.probes
    pool: Pool = "flatten"
    if automatic.rule == "transformer":
        pool = _token_pool(model)
    middle = _outputs(_chosen(model, layers), pool)
    return Placement((first, *middle, softmax), "given")


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def _automatic(model: nn.Module) -> Placement:
    pool: Pool = "flatten"
    first = Probe("input", "", "input")
    bodies = list(_bodies(model))
    if modules := _first(_resnet, bodies):
        rule = "resnet"
    elif modules := _first(_vgg, bodies):
        rule = "vgg"
    elif modules := _first(_blocks, bodies):
        rule, pool = "transformer", _token_pool(model)
        # The class token is the same for every input before the first block.
        first = Probe("embedding", modules[0][0], "input", "mean")
    elif (dense := _dense(model)) is not None:
        rule, modules = "mlp", dense[:-1]
    else:
        rule, modules = "chain", _chain(bodies)
    softmax = Probe("softmax", "", "output", "softmax")
    names = [name for name, _ in modules]
    return Placement((first, *_outputs(names, pool), softmax), rule)


def _outputs(names: Iterable[str], pool: Pool) -> list[Probe]:
    reserved = ("input", "embedding", "softmax")
    return [Probe(f"{n} (module)" if n in reserved else n, n, "output", pool) for n in names]


def _bodies(model: nn.Module) -> Iterator[Named]:
    """The model, then each time the child that holds more than half of the model's weights."""
    half = _weights(model) / 2
    name, body = "", model
    while True:
        yield name, body
        heavy = [(n, c) for n, c in body.named_children() if _weights(c) > half]
        if not heavy:
            return
        name, body = _join(name, heavy[0][0]), heavy[0][1]


def _first(rule: Callable[[str, nn.Module], list[Named]], bodies: list[Named]) -> list[Named]:
    return next((modules for body in bodies if (modules := rule(*body))), [])


def _resnet(name: str, body: nn.Module) -> list[Named]:
    children = dict(body.named_children())
    if not {"conv1", "bn1", "layer1"} <= children.keys():
        return []
    stages = [n for n in children if n[:5] == "layer" and n[5:].isdigit()]
    blocks = [
        (_join(name, f"{stage}.{n}"), block)
        for stage in stages
        for n, block in children[stage].named_children()
    ]
    return [(_join(name, "bn1"), children["bn1"]), *blocks]


def _vgg(name: str, body: nn.Module) -> list[Named]:
    features = getattr(body, "features", None)
    if not isinstance(features, nn.Module):
        return []
    if not any("vgg" in base.__name__.lower() for base in type(body).__mro__):
        return []
    return [
        (_join(name, f"features.{n}"), module)
        for n, module in features.named_modules()
        if isinstance(module, nn.Conv2d)
    ]


def _dense(model: nn.Module) -> list[Named] | None:
    """The linear layers, in order of registration; None where anything else has weights."""
    dense: list[Named] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            dense.append((name, module))
        elif any(True for _ in module.parameters(recurse=False)) and not _is_elementwise(module):
            return None
    return dense or None


def _blocks(name: str, body: nn.Module) -> list[Named]:
    blocks = [(n, module) for n, module in _links(name, body) if _attends(module)]
    one_class = len({type(module) for _, module in blocks}) == 1
    convolves = any(isinstance(m, nn.Conv2d) for _, block in blocks for m in block.modules())
    return blocks if one_class and len(blocks) > 1 and not convolves else []


def _chain(bodies: list[Named]) -> list[Named]:
    chains = [list(_links(*body)) for body in bodies]
    # Two links are a backbone and its head: look inside.
    best = next((i for i, chain in enumerate(chains) if len(chain) > 2), None)
    if best is None:
        best = max(range(len(chains)), key=lambda i: len(chains[i]))
    return chains[best][:-1] if best == 0 else chains[best]


def _links(name: str, module: nn.Module) -> Iterator[Named]:
    """The children of a module in order, with lists and stages opened and no-ops left out."""
    for child_name, child in module.named_children():
        path = _join(name, child_name)
        if type(child) in (nn.Sequential, nn.ModuleList) or _is_stage(child):
            yield from _links(path, child)
        elif not _is_no_op(child):
            yield path, child


def _is_stage(module: nn.Module) -> bool:
    """Whether a module is, or has as its one such child, a run of blocks of one class."""
    runs = [m for m in (module, *module.children()) if _is_run(m)]
    return len(runs) == 1


def _is_run(module: nn.Module) -> bool:
    lists = (nn.Sequential, nn.ModuleList)
    if not isinstance(module, lists) or len(module) < 2:
        return False
    first, *rest = module
    is_block = not isinstance(first, lists) and any(True for _ in first.children())
    return is_block and all(type(other) is type(first) for other in rest)


def _is_no_op(module: nn.Module) -> bool:
    return isinstance(module, (nn.Identity, nn.Flatten)) or "Drop" in type(module).__name__


def _is_elementwise(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ or isinstance(module, nn.PReLU)


def _attends(module: nn.Module) -> bool:
    names = [f"{name} {type(m).__name__}".lower() for name, m in module.named_modules()]
    return any("attention" in name or "attn" in name for name in names)


def _token_pool(model: nn.Module) -> Pool:
    """Whether a transformer's blocks carry the class token that it classifies with."""
    tokens = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    if not tokens & {"cls_token", "class_token"}:
        return "mean"
    for module in model.modules():
        # timm: global_pool names what the head reads; class attention (CaiT) adds the token late.
        pool = getattr(module, "global_pool", None)
        if (isinstance(pool, str) and pool != "token") or "ClassAtt" in type(module).__name__:
            return "mean"
    return "token"


def _chosen(model: nn.Module, layers: Layers) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(layers, str):
        chosen: list[str] = []
        for pattern in filter(None, map(str.strip, layers.split(","))):
            chosen += _matching(model, pattern, names)
        if not chosen:
            raise ValueError("layers: expected 'auto', names or patterns, got empty text.")
        return list(dict.fromkeys(chosen))
    if callable(layers):
        items: object = layers(model)
        source = "a callable that returned"
    else:
        items, source = layers, ""
    if isinstance(items, (str, nn.Module)) or not isinstance(items, Iterable):
        source = f"{source} a {type(items).__name__}".strip()
        raise TypeError(f"layers: expected an iterable of module names or modules, got {source}.")
    name_of = {id(module): name for name, module in model.named_modules()}
    chosen = []
    for item in items:
        if isinstance(item, nn.Module):
            item = name_of.get(id(unwrap(item)), "")
            if not item:
                raise ValueError(
                    "layers: expected submodules of the model, got a module of another."
                )
        if not isinstance(item, str):
            raise TypeError(f"layers: expected module names, got a {type(item).__name__}.")
        if item not in names:
            raise _unknown(item, names)
        if item in chosen:
            raise ValueError(f"layers: expected each module once, got {item!r} twice.")
        chosen.append(item)
    return chosen


def _matching(model: nn.Module, pattern: str, names: list[str]) -> list[str]:
    if pattern in names:
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


def _join(*parts: str) -> str:
    return ".".join(filter(None, parts))
