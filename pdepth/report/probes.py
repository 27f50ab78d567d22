"""Where the probes of a network are, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pdepth.embeddings.calling import at_rest
from pdepth.embeddings.dataset import Batches, DataOptions
from pdepth.embeddings.example import example_inputs
from pdepth.embeddings.inspection import inspect
from pdepth.embeddings.layout import pooling_text
from pdepth.embeddings.placement import ProbeOptions, check_layers

SAMPLE_ROWS = 4

if TYPE_CHECKING:
    from torch import nn

    from pdepth.inputs import Data


@dataclass(frozen=True)
class ProbeRow:
    """One probe.

    Attributes:
        name: as in results. module: its dotted name, "" for the network itself.
        point: "input" or "output" of the module. pool: how a row's value becomes a vector.
        shape: of a row's value.
    """

    name: str
    module: str
    point: str
    pool: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ProbeTable:
    """The probes of a network, in forward order, and the name of the rule that placed them.

    notes: sentences on what was left out or averaged, and on what is doubtful.
    """

    rows: list[ProbeRow]
    rule: str
    notes: tuple[str, ...] = ()


def describe_probes(
    model: nn.Module,
    options: ProbeOptions | None = None,
    data: Data | None = None,
    *,
    data_options: DataOptions | None = None,
) -> ProbeTable:
    """Say where the probes of a network are placed.

    Args:
        model: as in `pdepth.prediction_depth`.
        options: of the probes; None for the automatic ones.
        data: a dataset, of which a few rows run through the network; None for random rows, where
            the network says which size it takes.
        data_options: how its rows are read.

    Raises:
        ValueError: as `pdepth.prediction_depth` for `layers`, and for data that does not fit.
    """
    options = options or ProbeOptions()
    check_layers(model, options.layers)
    with at_rest(model):
        if data is None:
            first, varies = example_inputs(model), False
        else:
            batches = Batches(data, "support", SAMPLE_ROWS, data_options or DataOptions())
            first, varies = batches.first.inputs, batches.varies
        layout = inspect(model, options, first, varies=varies)
    rows = [
        ProbeRow(probe.name, probe.module, probe.at, pooling_text(probe, layout.mask), shape)
        for probe, shape in zip(layout.probes, layout.shapes, strict=True)
    ]
    return ProbeTable(rows, layout.rule, (*layout.notes, *layout.doubts))
