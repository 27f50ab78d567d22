"""Where the probes of a network are, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdepth.embeddings.capture import at_rest, inspect
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.placement import place

if TYPE_CHECKING:
    from torch import nn

    from pdepth.embeddings.placement import Layers
    from pdepth.inputs import Data


@dataclass(frozen=True)
class ProbeRow:
    """One probe.

    Attributes:
        name: as in results. module: its dotted name, "" for the network itself.
        point: "input" or "output" of the module. pool: how a row's value becomes a vector.
        shape: of a row's value; None where no data was read.
    """

    name: str
    module: str
    point: str
    pool: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class ProbeTable:
    """The probes of a network, in forward order, and the name of the rule that placed them."""

    rows: list[ProbeRow]
    rule: str


def describe_probes(
    model: nn.Module, layers: Layers = "auto", data: Data | None = None
) -> ProbeTable:
    """Say where the probes of a network are placed.

    Args:
        model, layers: as in `pdepth.prediction_depth`.
        data: a dataset; with it, two of its rows run through the network, which confirms the
            probes and gives their shapes.

    Raises:
        ValueError: as `pdepth.prediction_depth` for `layers`, and for data that does not fit.
    """
    placement = place(model, layers)
    probes = placement.probes
    shapes: list[tuple[int, ...] | None] = [None] * len(probes)
    if data is not None:
        with at_rest(model, None):
            layout = inspect(model, placement, Batches(data, "support", batch_size=2).first[0])
        probes, shapes = layout.probes, list(layout.shapes)
    rows = [
        ProbeRow(probe.name, probe.module, probe.at, probe.pool, shape)
        for probe, shape in zip(probes, shapes, strict=True)
    ]
    return ProbeTable(rows, placement.rule)
