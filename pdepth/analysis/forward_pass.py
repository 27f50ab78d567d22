"""Depth from one forward pass that the user calls: nodes of a graph, networks without batches.

forward_pass = pdepth.capture(network, features, adjacency)
result = forward_pass.depth(labels, support=train_mask, queries=test_mask)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.result import DepthResult
from pdepth.votes import depth_from_embeddings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pdepth.embeddings.calling import Output
    from pdepth.embeddings.placement import Layers, Pools

__all__ = ["ForwardPass", "capture"]

Rows = NDArray[np.int64]
PER_EXAMPLE = ("depth", "undefined", "predictions", "labels", "reference_values")
PER_VOTE = ("votes", "known", "tied", "margins")  # (L, N)


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """What a network computed for R rows, at its L probes.

    Attributes:
        embeddings: by probe, in forward order, (R, D) in the network's precision, on its device.
        predictions: (R,) int64 NumPy, the network's classes.
        scores: (R, C) the class scores, as the network gave them; of a binary classifier with one
            logit z, (0, z).
        meta: free text by name (model, placement), which results keep.
    """

    embeddings: dict[str, Tensor]
    predictions: Rows
    scores: Tensor
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def probes(self) -> tuple[str, ...]:
        """L names, in forward order."""
        return tuple(self.embeddings)

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        return f"ForwardPass({len(self)} rows, {len(self.probes)} probes)"

    def depth(
        self, labels: Any, support: Any = None, queries: Any = None, **options: Any
    ) -> DepthResult | dict[int, DepthResult]:
        """Compute the prediction depth of some rows, by votes of others.

        Args:
            labels: (R,) integers, the classes of all rows; those of rows that are neither support
                nor queries are not looked at.
            support: the rows that vote: a mask (R,) of booleans, or row numbers in any order; None
                for all.
            queries: the rows whose depth is computed, likewise; None for the support's own. A query
                that is a row of the support is left out of its own vote.
            options: of `pdepth.depth_from_embeddings`: k, metric, weights, reference, ...; an
                array as `reference` is that of the queries.

        Returns:
            DepthResult, queries in their order: by row of a mask, or as their numbers are; for
            several k, a dict of them by k.

        Raises:
            ValueError, TypeError: a mask of another shape, rows that are not there or, of the
                support, twice; labels that are no classes of the network; and what
                `depth_from_embeddings` raises.
        """
        for name in ("query_rows", "query_labels", "probes"):
            if name in options:
                raise TypeError(f"{name}: expected none, as the forward pass has its own.")
        checked = arguments.check_integers(labels, "labels", len(self))
        voting = _rows(support, "support", len(self))
        if len(np.unique(voting)) < len(voting):
            twice = np.flatnonzero(np.bincount(voting) > 1)[0]
            raise ValueError(f"support: expected each row once, got row {twice} twice.")
        measured = voting if queries is None else _rows(queries, "queries", len(self))
        voting = np.sort(voting)  # equally near rows vote in the order of their numbers
        for name, rows in (("support", voting), ("queries", measured)):
            self._check_labels(checked, rows, name)
        place = np.full(len(self), -1)
        place[voting] = np.arange(len(voting))
        own = place[measured] >= 0
        if not options.get("exclude_self", True):
            own[:] = False  # then a row of the support is a query as any other
        reference = options.pop("reference", "prediction")
        votes_of = self._taken(voting)
        parts = []
        for inside in (True, False):
            at = np.flatnonzero(own == inside)
            if not len(at):
                continue
            of_part = reference
            if not isinstance(reference, str):
                of_part = arguments.check_integers(reference, "reference", len(measured))[at]
            rows = measured[at]
            which: dict[str, Any] = {"query_rows": place[rows]}
            if not inside:
                which = {"queries": self._taken(rows), "query_labels": checked[rows]}
            result = depth_from_embeddings(
                votes_of,
                checked[voting],
                self.predictions[rows],
                reference=of_part,
                **which,
                **options,
            )
            parts.append((at, result))
        if isinstance(parts[0][1], DepthResult):
            return self._joined(parts)
        return {k: self._joined([(at, by_k[k]) for at, by_k in parts]) for k in parts[0][1]}

    def _check_labels(self, labels: Rows, rows: Rows, name: str) -> None:
        """Raise ValueError for labels of some rows that are no classes of the network."""
        classes = self.scores.shape[1]
        unknown = rows[(labels[rows] < 0) | (labels[rows] >= classes)]
        if len(unknown):
            raise ValueError(
                f"labels: expected integers from 0 to {classes - 1} for rows of {name}, the "
                f"network's {classes} classes, got {labels[unknown[0]]} in row {unknown[0]}; leave "
                f"it out of {name}."
            )

    def _taken(self, rows: Rows) -> dict[str, Tensor]:
        """The embeddings of some rows."""
        import torch

        if np.array_equal(rows, np.arange(len(self))):
            return self.embeddings
        numbers = torch.from_numpy(rows)
        return {name: v[numbers.to(v.device)] for name, v in self.embeddings.items()}

    def _joined(self, parts: list[tuple[Rows, DepthResult]]) -> DepthResult:
        """One result of parts, each with the places of its examples in the whole."""
        first = parts[0][1]
        if len(parts) == 1:
            return replace(first, meta=self.meta | first.meta)
        order = np.argsort(np.concatenate([at for at, _ in parts]))
        whole: dict[str, Any] = {}
        for name in (*PER_EXAMPLE, *PER_VOTE):
            values = [getattr(result, name) for _, result in parts]
            if values[0] is not None:
                whole[name] = np.concatenate(values, axis=-1)[..., order]
        inside = f"{len(first)} of {len(order)} are support, each left out of its own vote"
        meta = self.meta | first.meta | {"rows": inside}
        return replace(first, **whole, leave_one_out=False, meta=meta)


def capture(
    network: nn.Module,
    /,
    *args: Any,
    layers: Layers = "auto",
    pool: Pools = "auto",
    input: bool | None = None,
    max_width: int | None = None,
    output: Output = None,
    **kwargs: Any,
) -> ForwardPass:
    """Run a network once, as you call it, and keep what every row is at its probes.

    For networks that no DataLoader can feed: one that classifies the nodes of a graph, say, whose
    rows depend on each other. Rows are those of the class scores that the network returns.

    Args:
        network: as in `pdepth.prediction_depth`: it runs in evaluation mode and comes back as it
            was. args, kwargs: what it is called with. An argument that has one of the names below
            is passed by position.
        layers, pool, input, max_width, output: as in `pdepth.prediction_depth`. A square or sparse
            matrix beside other values says how rows are connected, and is no part of the input.

    Raises:
        ValueError, TypeError: as `pdepth.prediction_depth`, for a network that cannot be probed.
    """
    from pdepth.embeddings.batch import Inputs
    from pdepth.embeddings.once import run_once
    from pdepth.embeddings.placement import ProbeOptions

    options = ProbeOptions(layers, pool, input, max_width, output)
    once = run_once(network, options, Inputs(args, kwargs, None, whole=True))
    for doubt in once.layout.doubts:
        warnings.warn(f"network: {doubt}.", stacklevel=2)
    return ForwardPass(
        embeddings=dict(zip(once.layout.names, once.embeddings, strict=True)),
        predictions=to_numpy(once.scores.argmax(dim=1)),
        scores=once.scores,
        meta=once.layout.meta(),
    )


def _rows(chosen: Any, name: str, count: int) -> Rows:
    """The numbers of the rows that a mask or row numbers choose; None for all."""
    if chosen is None:
        return np.arange(count)
    array = np.asarray(to_numpy(chosen))
    if array.dtype == bool:
        if array.shape != (count,):
            hint = ", of several masks one, mask[:, 0]" if array.shape[:1] == (count,) else ""
            raise ValueError(
                f"{name}: expected a mask of shape ({count},), one entry for each row of the "
                f"forward pass{hint}, got shape {array.shape}."
            )
        array = np.flatnonzero(array)
    numbers = arguments.check_integers(array, name, booleans=False)
    if not len(numbers):
        raise ValueError(f"{name}: expected at least one row, got none.")
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if len(outside):
        raise ValueError(f"{name}: expected rows from 0 to {count - 1}, got {outside[0]}.")
    return numbers
