"""One call of a network: its arguments from a batch, its class scores from what it returns."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pdepth.embeddings.batch import Inputs
from pdepth.inputs.networks import network_of

Output = str | int | Callable[[Any], Tensor] | None
Form = Literal["logits", "probabilities", "logit", "probability"]
SIGMOIDS = frozenset(("sigmoid", "sigmoid_", "exp", "exp_", "hardsigmoid", "hardsigmoid_"))
# What a network raises on rows that it does not take.
NETWORK_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Caller:
    """How a network is called.

    Attributes:
        model: the network, without wrappers.
        output: where the class scores are in what it returns: a key, an index, or a function of
            it; None for the usual places.
        channels_last: images lie channels last in memory, which is faster on a CPU.
        casts: floating inputs are given in the precision of the network's weights.
    """

    model: nn.Module
    output: Output = None
    channels_last: bool = False
    casts: bool = True

    def __call__(self, inputs: Inputs) -> Any:
        """Run the network on copies of the inputs, moved to its device and, where it needs that,
        to its precision; what it writes to its inputs reaches nobody else."""
        return self.run(self.moved(inputs))

    def run(self, inputs: Inputs) -> Any:
        """Run the network on inputs that were `moved`."""
        accepted = self.accepted(inputs.kwargs)
        if inputs.kwargs and not accepted and not inputs.args:
            return self.model(dict(inputs.kwargs))  # a network that takes the dict itself
        return self.model(*inputs.args, **accepted)

    def moved(self, inputs: Inputs) -> Inputs:
        """Copies of the inputs, where and as the network takes them."""
        home = next((t for t in _tensors(self.model) if t.is_floating_point()), None)

        def move(tensor: Tensor) -> Tensor:
            if tensor.layout != torch.strided:
                return tensor if home is None else tensor.to(home.device)
            images = self.channels_last and tensor.ndim == 4
            layout = torch.channels_last if images else torch.preserve_format
            if home is None:
                return tensor.clone(memory_format=layout)
            dtype = home.dtype if self.casts and tensor.is_floating_point() else tensor.dtype
            return tensor.to(home.device, dtype, copy=True, memory_format=layout)

        return inputs.map(move)

    def parameter_names(self, inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the inputs by the name that the network's `forward` has for it."""
        try:
            names = list(inspect.signature(self.model.forward).parameters)
        except (TypeError, ValueError):
            names = []
        for name, tensor in inputs.tensors():
            first, dot, rest = name.partition(".")
            if first.isdigit() and int(first) < len(names):
                first = names[int(first)]
            yield f"{first}{dot}{rest}", tensor

    def followed(self, inputs: Inputs) -> list[tuple[str, Tensor]]:
        """The tensors that hold a row's values: floating ones, or else integers; no masks.

        None that is sparse, beside others; and of a call whose rows depend on each other, none that
        says how, such as an adjacency matrix.
        """
        every = list(self.parameter_names(inputs))
        related = inputs.whole or inputs.graph is not None
        named = [(n, t) for n, t in every if not _says_which(n, t, related)] or every
        values = [(n, t) for n, t in named if t.is_floating_point() or t.is_complex()]
        values = [(n, t) for n, t in values if t.layout == torch.strided] or values[:1]
        if inputs.whole:
            values = [(n, t) for n, t in values if not _is_square(t)] or values[:1]
        return values or [(n, t) for n, t in named if t.dtype != torch.bool] or named

    def scores(self, output: Any, rows: int | None) -> Tensor:
        """The class scores (rows, C) in what the network returned; one logit z as (0, z).

        rows: None for as many as there are. Raises ValueError for anything else.
        """
        scores = self.raw_scores(output)
        kind = type(scores).__name__
        if isinstance(scores, Tensor):
            kind = f"shape {tuple(scores.shape)}" + (f" for {rows} rows" if rows else "")
            if rows is None or (scores.ndim and len(scores) == rows):
                if scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1):
                    one = scores.reshape(-1, 1)
                    return torch.cat([torch.zeros_like(one), one], dim=1)
                if scores.ndim == 2 and scores.shape[1] > 1:
                    return scores
        raise ValueError(
            "model: expected class scores (batch, classes), or one logit for each row (batch,), "
            f"alone, first in a tuple, or as .logits, got {kind}; pass output=lambda returned: "
            "..., which returns the class scores."
        )

    def single(self, output: Any) -> bool:
        """Whether the network returned one logit for each row."""
        scores = self.raw_scores(output)
        return isinstance(scores, Tensor) and (scores.ndim == 1 or scores.shape[1:] == (1,))

    def raw_scores(self, output: Any) -> Any:
        """The class scores in what the network returned, as it computed them."""
        if callable(self.output):
            return self.output(output)
        if self.output is not None:
            try:
                return output[self.output]
            except (KeyError, IndexError, TypeError, AttributeError):
                held = list(output) if isinstance(output, Mapping) else type(output).__name__
                raise ValueError(
                    f"output: expected a key or an index of what the network returns, got "
                    f"{self.output!r}, and it returns {held}."
                ) from None
        if isinstance(output, Mapping) and "logits" in output:
            return output["logits"]
        if hasattr(output, "logits"):
            return output.logits
        if isinstance(output, tuple | list):
            # A loss may come first, a number without rows.
            values = [v for v in output if not (isinstance(v, Tensor) and v.ndim == 0)]
            return values[0] if values else output
        return output

    def accepted(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name that `forward` takes, as a data loader may bring more."""
        try:
            parameters = inspect.signature(self.model.forward).parameters.values()
        except (TypeError, ValueError):
            return dict(kwargs)
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return dict(kwargs)
        names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
        return {name: value for name, value in kwargs.items() if name in names}


def call(run: Callable[[Inputs], Any], inputs: Inputs) -> Any:
    """Run a network; its own error becomes a sentence, with the error as its cause."""
    try:
        return run(inputs)
    except torch.OutOfMemoryError:
        raise
    except NETWORK_ERRORS as error:
        named = ", ".join(
            f"{name} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
            for name, t in inputs.tensors()
        )
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"model: expected a network that runs on the data, which gives it {named}; got "
            f"{type(error).__name__}: {reason}"
        ) from error


def form_of(caller: Caller, output: Any, last_operations: frozenset[str]) -> Form:
    """What the class scores are: logits or probabilities, of all classes or of the second of two.

    last_operations: those between the last layer's weights and the scores. Raises ValueError for
    the logarithm of one probability.
    """
    scores = caller.scores(output, None)
    if caller.single(output):
        one = scores[:, 1]
        if "log_sigmoid_forward" in last_operations:
            raise ValueError(
                "model: expected class scores, one logit or one probability for each row, got the "
                "logarithm of one probability; pass output=lambda returned: returned.exp()."
            )
        inside = bool(((one >= 0) & (one <= 1)).all())
        return "probability" if inside and last_operations & SIGMOIDS else "logit"
    tolerance = 1e-2 if scores.dtype.itemsize < 4 else 1e-4
    off = (scores.double().sum(dim=1) - 1).abs()
    summed = bool((scores >= 0).all() and (off < tolerance).all())
    return "probabilities" if summed else "logits"


def must_cast(caller: Caller, inputs: Inputs) -> bool:
    """Whether a network runs on floating inputs in the precision of its weights alone.

    One that converts them itself is given them as they are.
    """
    homes = {tensor.dtype for tensor in _tensors(caller.model) if tensor.is_floating_point()}
    dtypes = {tensor.dtype for _, tensor in inputs.tensors() if tensor.is_floating_point()}
    if not homes or len(homes | dtypes) == 1:
        return True
    try:
        replace(caller, casts=False)(inputs)
    except Exception:  # of mixed types, mostly; other faults show again
        return True
    return False


def as_classes(scores: Tensor, form: Form) -> Tensor:
    """Scores (B, C) whose largest is the prediction; of one probability p, (1 - p, p)."""
    if form == "probability":
        return torch.stack([1 - scores[:, 1], scores[:, 1]], dim=1)
    return scores


def probabilities(scores: Tensor, form: Form) -> Tensor:
    """The softmax probabilities (B, C) of the scores of `as_classes`."""
    if form in ("probabilities", "probability"):
        return scores
    # 16 bits round confident rows to the same probability; neighbours need them apart.
    return scores.softmax(dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))


def runs_channels_last(caller: Caller, inputs: Inputs) -> bool:
    """Whether the model convolves float32 on a CPU, and runs on images that lie channels last."""
    model = caller.model
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    images = any(tensor.ndim == 4 for _, tensor in inputs.tensors())
    if not images or device_of(model).type != "cpu":
        return False
    if not any(module.weight.dtype == torch.float32 for module in convolutions):
        return False
    try:
        replace(caller, channels_last=True)(inputs)
    except Exception:  # of a view(), say, that needs another order; other faults show again
        return False
    return True


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU for one without."""
    first = next(_tensors(unwrap(model)), None)
    return torch.device("cpu") if first is None else first.device


def unwrap(model: Any) -> nn.Module:
    """The module inside torch.compile, DataParallel, DistributedDataParallel and skorch's nets.

    Raises TypeError for what holds no module, and ValueError for a net that is not fitted.
    """
    model = network_of(model)
    while True:
        if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            module: nn.Module = model
            return module


@contextmanager
def at_rest(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients and plain eager execution, on `device` if one is given.

    On leaving, however that happens, every submodule has its training flag back and the model is
    where it was. Flags are set directly: train() may be overridden, and eval() may have effects.
    Raises ValueError when a model spread over several devices is asked to move.
    """
    model = unwrap(model)
    flags = [(module, module.training) for module in model.modules()]
    homes = {tensor.device for tensor in _tensors(model)}
    fused = torch.backends.mha.get_fastpath_enabled()
    if device is not None and len(homes) > 1:
        raise ValueError(
            "device: expected None for a model that is spread over "
            f"{', '.join(sorted(map(str, homes)))}, got {str(device)!r}."
        )
    try:
        if device is not None:
            model.to(device)
        for module, _ in flags:
            module.training = False
        torch.backends.mha.set_fastpath_enabled(False)  # it runs no module within an encoder layer
        # Not inference_mode: what a model caches or initialises under it could never be trained
        # with again.
        with _eager(), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in flags:
            module.training = training
        if device is not None and homes:
            model.to(homes.pop())


def _eager() -> AbstractContextManager[Any]:
    """Plain execution of what was compiled: code from before the hooks came would not run them.

    torch.compile imports torch._dynamo, which takes two seconds that others need not spend.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Gradients of values, and none of weights."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _says_which(name: str, tensor: Tensor, related: bool) -> bool:
    """Whether a tensor, by its name and type, says which values count, and has none itself.

    related: rows depend on each other, as the nodes of a graph do.
    """
    words = set(re.split(r"[._\d]+", name.lower()))
    whole = tensor.dtype == torch.bool or not tensor.is_floating_point()
    if words & {"mask", "masks"}:
        return (
            bool(words & {"attention", "attn", "padding", "pad", "key"})
            or whole
            or tensor.ndim == 2
        )
    if words & {"length", "lengths", "len", "lens"}:
        return whole and tensor.ndim == 1
    if "position" in words and "ids" in words:
        return True
    return related and bool(words & {"edge", "adj", "adjacency", "ptr", "batch"})


def _is_square(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
