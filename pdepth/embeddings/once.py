"""One forward pass, called as its user calls it: the values of every row at every probe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import at_rest
from pdepth.embeddings.forward import Forward
from pdepth.embeddings.inspection import narrower, placed, with_grids
from pdepth.embeddings.layout import Layout
from pdepth.embeddings.placement import Probe, ProbeOptions, check_layers
from pdepth.embeddings.pooling import averaged


@dataclass(frozen=True, eq=False)
class Once:
    """What one forward pass over R rows gave, where the network is.

    layout: without shapes. embeddings: (R, D) of each probe. scores: (R, C); the largest is the
    network's class.
    """

    layout: Layout
    embeddings: list[Tensor]
    scores: Tensor


def run_once(model: nn.Module, options: ProbeOptions, inputs: Inputs) -> Once:
    """Run a network on inputs of as many rows as it returns class scores, none of which is cut off.

    It runs once to see where it is probed, once more where its tokens are pooled as its head reads
    them, and once for the values. Raises as `inspection.inspect`, and ValueError for a probe that
    has not a row for each of the class scores'.
    """
    check_layers(model, options.layers)
    with at_rest(model):
        layout, inputs = placed(model, options, inputs)
        probes: list[Probe] = list(layout.probes)
        values: dict[int, Tensor] = {}

        def keep(number: int, value: Tensor) -> None:
            if options.max_width is not None:
                # Each as it comes: that of a whole feature map may be large.
                probe = narrower(probes[number], tuple(value.shape[1:]), options.max_width)
                probes[number] = probe
                if probe.grid is not None:
                    value = averaged(value, probe.grid, probe.tokens)
            values[number] = _dense(value).detach().flatten(1).clone()

        scores = Forward(layout, range(len(probes)), keep).run(inputs)
    assert scores is not None
    if options.max_width is not None:
        layout = with_grids(layout, probes, options.max_width)
    return Once(layout, [values[number] for number in range(len(probes))], scores)


def _dense(value: Tensor) -> Tensor:
    return value if value.layout == torch.strided else value.to_dense()
