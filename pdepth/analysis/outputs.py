"""What a network's own output says of each example: confidence, entropy, margins.

`outputs(model, data)` runs it once over the data; the functions below take logits at hand. These
are the measures that the paper sets beside depth (Baldock, Maennel, Neyshabur, arXiv 2106.09647).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdepth.arrays import arguments
from pdepth.arrays.rows import rows_of
from pdepth.embeddings.capture import Layout, at_rest, check_labels, inspect, scores
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.placement import place
from pdepth.result import margins

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gave for N examples, in the data's order.

    Attributes:
        logits: (N, C) float64; of a network that gives probabilities, their logarithms, whose
            differences are those of logits; nought counts as the smallest normal number.
        labels: (N,) int64.
        input_margin: (N,) float64, see `input_margin`; None unless asked.
    """

    logits: Float
    labels: NDArray[np.int64]
    input_margin: Float | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """(N,) the class with the largest logit; of equals the smallest."""
        found: NDArray[np.int64] = self.logits.argmax(axis=1)
        return found

    @property
    def label_probability(self) -> Float:
        """(N,) float64, the softmax's entry of the label."""
        found: Float = softmax(self.logits)[np.arange(len(self)), self.labels]
        return found

    def measures(self) -> dict[str, Float]:
        """confidence, entropy, output_margin and, if asked, input_margin: (N,) float64 each."""
        found = {
            "confidence": confidence(self.logits),
            "entropy": entropy(self.logits),
            "output_margin": output_margin(self.logits),
        }
        return found if self.input_margin is None else found | {"input_margin": self.input_margin}


def outputs(
    model: nn.Module,
    data: Any,
    *,
    input_margins: bool = False,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> Outputs:
    """Run a model once over a Dataset or DataLoader of (input, integer label).

    As `pdepth.prediction_depth` runs it: in evaluation mode, in the dataset's order, and everything
    is put back. input_margins adds a backward pass a batch. Raises what `pdepth.prediction_depth`
    raises for such models and data, and ValueError for a label that is no class of the network.
    """
    batch_size = arguments.check_int(batch_size, "batch_size")
    target = None if device is None else torch.device(device)
    with at_rest(model, target):
        source = Batches(data, "data", batch_size)
        layout = inspect(model, place(model, []), source.first[0])
        logits, labels, near = [], [], []
        for inputs, own in source:
            check_labels(layout, "data", own)
            batch, margin = _margins(model, layout, inputs, input_margins)
            logits.append(batch)
            labels.append(own.numpy())
            near.append(margin)
    near_all = np.concatenate(near) if input_margins else None
    return Outputs(np.concatenate(logits), np.concatenate(labels), near_all)


def softmax(logits: Any) -> Float:
    """(N, C) float64, exp(z) / sum exp(z) of logits (N, C), the largest subtracted before."""
    shares: Float = np.exp(_log_softmax(logits))
    return shares


def confidence(logits: Any) -> Float:
    """(N,) float64, the softmax's largest entry."""
    found: Float = softmax(logits).max(axis=1)
    return found


def entropy(logits: Any) -> Float:
    """(N,) float64, -sum p log p of the softmax, in nats: 0 to log C."""
    logs = _log_softmax(logits)
    shares = np.exp(logs)
    found: Float = -np.where(shares > 0, shares * np.where(shares > 0, logs, 0), 0).sum(axis=1)
    return found


def output_margin(logits: Any) -> Float:
    """(N,) float64, the largest logit less the second largest; 0 is a tie.

    The paper's output margin (arXiv 2106.09647); always of the prediction, right or wrong.
    """
    found: Float = margins(_logits(logits))
    return found


def input_margin(model: nn.Module, inputs: Tensor) -> Float:
    """How far, to first order, each input (B, ...) is from where its prediction changes: (B,).

    With i the class of the largest logit z and j that of the second largest,

        (z_i - z_j) / || grad_x (z_i - z_j) ||_2

    which is the distance, in the input's own units, to the plane where the two meet if z is
    continued linearly from x: exact for a linear network. Elsayed et al., arXiv 1803.05598, give
    this quotient for a pair of classes; DeepFool (Moosavi-Dezfooli, Fawzi, Frossard, arXiv
    1511.04599) takes the least over all j, which is at most this, and goes on from there. One
    backward pass answers for the whole batch, since rows do not meet in evaluation mode.

    float64; infinite where the gradient is nought and the logits differ, 0 where they are equal.
    Raises ValueError for inputs that are not floating point, and for outputs that are not (batch,
    classes).
    """
    with at_rest(model):
        layout = inspect(model, place(model, []), inputs)
        found = _margins(model, layout, inputs, True)[1]
        assert found is not None
        return found


def _margins(model: nn.Module, layout: Layout, inputs: Tensor, wanted: bool) -> tuple[Float, Float]:
    """Logits (B, C) of a batch and, if wanted, its input margins (B,), else none (0,)."""
    if wanted and not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        raise ValueError(f"inputs have type {kind}; input margins want floating point.")
    with torch.set_grad_enabled(wanted):
        asked = inputs.detach().clone().requires_grad_() if wanted else inputs
        found = scores(model, layout, asked)
        # In 16 bits a gap would be rounded away; the logarithms of probabilities are logits.
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        least = torch.finfo(found.dtype).tiny
        logits = found.clamp_min(least).log() if layout.probabilities else found
        if not wanted:
            return logits.double().cpu().numpy(), np.empty(0)
        top = logits.topk(2, dim=1).values
        gaps = top[:, 0] - top[:, 1]
        (slopes,) = torch.autograd.grad(gaps.sum(), asked)
    norms = slopes.double().flatten(1).norm(dim=1).cpu().numpy()
    gap = gaps.detach().double().cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.where(gap == 0, 0, gap / norms)
    return logits.detach().double().cpu().numpy(), near


def _logits(given: Any) -> Float:
    logits = rows_of(given, "logits").widened()
    if given.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits has shape {tuple(given.shape)}; (N, 2 or more) is wanted.")
    return logits


def _log_softmax(given: Any) -> Float:
    logits = _logits(given)
    shifted: Float = logits - logits.max(axis=1, keepdims=True)
    found: Float = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
