"""Measures of a network's own outputs: confidence, entropy, margins.

`outputs(model, data)` runs the network once over the data; the other functions take logits. These
are the measures that the paper relates to depth (Baldock, Maennel, Neyshabur, arXiv 2106.09647).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.rows import rows_of
from pdepth.optional import require
from pdepth.result import margins

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pdepth.embeddings.batch import Inputs
    from pdepth.embeddings.calling import Output
    from pdepth.embeddings.layout import Layout

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of a network for N examples, in the data's order.

    Attributes:
        logits: (N, C) float64; for a network that returns probabilities, their logarithms, whose
            differences are those of logits; 0 counts as the smallest normal number.
        labels: (N,) int64.
        input_margin: (N,) float64, see `input_margin`; None unless requested.
    """

    logits: Float
    labels: NDArray[np.int64]
    input_margin: Float | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """(N,) the class with the largest logit; the smallest class of several."""
        classes: NDArray[np.int64] = self.logits.argmax(axis=1)
        return classes

    @property
    def label_probability(self) -> Float:
        """(N,) float64, the softmax probability of the label."""
        probability: Float = softmax(self.logits)[np.arange(len(self)), self.labels]
        return probability

    def measures(self) -> dict[str, Float]:
        """confidence, entropy, output_margin and, if requested, input_margin: (N,) float64 each."""
        measures = {
            "confidence": confidence(self.logits),
            "entropy": entropy(self.logits),
            "output_margin": output_margin(self.logits),
        }
        if self.input_margin is not None:
            measures["input_margin"] = self.input_margin
        return measures


def outputs(
    model: nn.Module,
    data: Any,
    *,
    input_margins: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    output: Output = None,
    label_column: str | None = None,
    processor: Any = None,
) -> Outputs:
    """Run a model once over a Dataset or DataLoader, as `pdepth.prediction_depth` takes it.

    The model runs as in `pdepth.prediction_depth`: in evaluation mode, in the dataset's order, and
    its state is restored.

    Args:
        input_margins: also compute input margins, by one backward pass per batch.
        batch_size: rows per forward pass.
        device: where to run; None for where the model is.
        output, label_column, processor: as in `pdepth.prediction_depth`.

    Raises:
        ValueError: a label that is no class of the network; and, with other exceptions, what
            `pdepth.prediction_depth` raises for such models and data.
    """
    torch = require("torch", "A network", "torch")
    from pdepth.embeddings.calling import at_rest
    from pdepth.embeddings.dataset import Batches, DataOptions
    from pdepth.embeddings.forward import check_labels
    from pdepth.embeddings.inspection import inspect
    from pdepth.embeddings.placement import ProbeOptions

    batch_size = arguments.check_int(batch_size, "batch_size")
    model_device = None if device is None else torch.device(device)
    with at_rest(model, model_device):
        source = Batches(data, "data", batch_size, DataOptions(label_column, processor))
        layout = inspect(model, ProbeOptions(layers=[], output=output), source.first.inputs)
        logits, labels, margins_by_batch = [], [], []
        for inputs, batch_labels in source:
            check_labels(layout, "data", batch_labels)
            batch_logits, batch_margins = _logits_and_margins(layout, inputs, input_margins)
            logits.append(batch_logits)
            labels.append(batch_labels.numpy())
            margins_by_batch.append(batch_margins)
    input_margin = np.concatenate(margins_by_batch) if input_margins else None
    return Outputs(np.concatenate(logits), np.concatenate(labels), input_margin)


def softmax(logits: Any) -> Float:
    """Softmax exp(z) / sum exp(z) of logits (N, C), float64; the largest is subtracted before."""
    shares: Float = np.exp(_log_softmax(logits))
    return shares


def confidence(logits: Any) -> Float:
    """Largest softmax probability (N,), float64."""
    largest: Float = softmax(logits).max(axis=1)
    return largest


def entropy(logits: Any) -> Float:
    """Entropy of the softmax, -sum p log p, (N,) float64 in nats: 0 to log C."""
    logs = _log_softmax(logits)
    shares = np.exp(logs)
    terms: Float = np.where(shares > 0, shares * np.where(shares > 0, logs, 0), 0)
    sums: Float = terms.sum(axis=1)
    return -sums


def output_margin(logits: Any) -> Float:
    """Largest logit minus the second largest, (N,) float64; 0 is a tie.

    The paper's output margin (arXiv 2106.09647); always of the prediction, right or wrong.
    """
    gaps: Float = margins(_check_logits(logits))
    return gaps


def input_margin(model: nn.Module, inputs: Any, *, output: Output = None) -> Float:
    """Distance (B,) float64, to first order, of each input to where its prediction changes.

    With i the class of the largest logit z and j that of the second largest,

        (z_i - z_j) / || grad_x (z_i - z_j) ||_2

    which is the distance, in units of the input, to the plane where the two logits are equal if z
    is continued linearly from x: exact for a linear network. Elsayed et al., arXiv 1803.05598, give
    this quotient for a pair of classes; DeepFool (Moosavi-Dezfooli, Fawzi, Frossard, arXiv
    1511.04599) takes the least over all j, which is at most this, and iterates. One backward pass
    serves the whole batch, since in evaluation mode a row's output depends on its input alone.

    Infinite where the gradient is 0 and the logits differ; 0 where they are equal.

    Args:
        inputs: (B, ...) tensor; a tuple or dict of several, which the network takes by place or by
            name, and whose gradients are taken together.
        output: where the logits are, as in `pdepth.prediction_depth`.

    Raises:
        ValueError: inputs that are not floating point, or outputs that are not (batch, classes).
    """
    from pdepth.embeddings.batch import Inputs
    from pdepth.embeddings.calling import at_rest
    from pdepth.embeddings.inspection import inspect
    from pdepth.embeddings.placement import ProbeOptions

    with at_rest(model):
        rows = next((len(tensor) for _, tensor in Inputs.of(inputs, None).tensors()), None)
        batch = Inputs.of(inputs, rows)
        layout = inspect(model, ProbeOptions(layers=[], output=output), batch)
        return _logits_and_margins(layout, batch, True)[1]


def _logits_and_margins(layout: Layout, inputs: Inputs, input_margins: bool) -> tuple[Float, Float]:
    """Logits (B, C) of a batch, and its input margins (B,), empty (0,) unless requested."""
    import torch

    from pdepth.embeddings.calling import differentiable
    from pdepth.embeddings.forward import scores

    values = [tensor for _, tensor in layout.caller.followed(inputs)]
    if input_margins and not all(tensor.is_floating_point() for tensor in values):
        kind = str(values[0].dtype).removeprefix("torch.")
        raise ValueError(f"inputs: expected floating point for input margins, got {kind}.")
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        if not any(tensor is value for value in values):
            return tensor
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    with differentiable(layout.caller.model) if input_margins else nullcontext():
        raw = scores(layout, inputs.map(leaf) if input_margins else inputs)
        # In 16 bits a gap would be rounded away; the logarithms of probabilities are logits.
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        smallest = torch.finfo(raw.dtype).tiny
        logits = raw.clamp_min(smallest).log() if layout.probabilities else raw
        if not input_margins:
            return logits.double().cpu().numpy(), np.empty(0)
        top = logits.topk(2, dim=1).values
        gaps = top[:, 0] - top[:, 1]
        slopes = torch.autograd.grad(gaps.sum(), leaves)
    flat = [slope.double().flatten(1) for slope in slopes]
    norms = torch.cat(flat, dim=1).norm(dim=1).cpu().numpy()
    gap = gaps.detach().double().cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = np.where(gap == 0, 0, gap / norms)
    return logits.detach().double().cpu().numpy(), quotients


def _check_logits(logits: Any) -> Float:
    """Logits (N, 2 or more) widened to float64."""
    wide: Float = rows_of(logits, "logits").widened()
    if logits.ndim != 2 or wide.shape[1] < 2:
        raise ValueError(f"logits: expected shape (N, 2 or more), got {tuple(logits.shape)}.")
    return wide


def _log_softmax(logits: Any) -> Float:
    wide = _check_logits(logits)
    shifted: Float = wide - wide.max(axis=1, keepdims=True)
    logs: Float = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
