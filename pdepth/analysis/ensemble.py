"""Many networks: what each says of the same examples, in the support and held out, added up.

Source: Baldock, Maennel and Neyshabur, arXiv 2106.09647, who train 250 networks of a kind, each on
a random 90 % of a dataset, so that an example is in the support of most and held out from some.

    ensemble = Ensemble(labels)
    for number in range(20):
        ...  # train on `support`, the rows that are not in `held_out_rows`
        ensemble.add(Member.of(support_result, held_out_result, held_out_rows, name=number))
    ensemble.to_pandas()  # one example a row

What is kept of each example are whole numbers: how many networks gave it each depth and each class,
apart for those that had it in their support and those that it was held out from. So sums are exact,
parts that are computed apart are added in any order with one result, and memory does not depend on
the number of networks (but for their names, by which none is counted twice). From these:

    depth         the mean over networks; an undefined one counts as L
    consensus     the class that most of the networks it is held out from give; of equals, the
                  smallest
    consistency   the share of those networks that give it ("consensus-consistency")
    accuracy      the share of networks that give the label
    entropy       of the classes that those networks give, in nats

An example that no network, or none of a kind, was asked about has NaN there, and a count of 0.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.io import tables
from pdepth.result import DepthResult

__all__ = ["Ensemble", "Member", "entropy"]

FORMAT = 1  # of the Parquet file; raised when an older pdepth could not read it
SUPPORT, HELD_OUT = 0, 1  # the first axis of all counts
KINDS = ("support", "held_out")


@dataclass(frozen=True, eq=False)
class Member:
    """What one network says of N examples, in their common order.

    Attributes:
        depth: (N,) int64, 0..L; L where undefined.
        predictions: (N,) int64.
        held_out: (N,) bool, the network was not trained on them.
        layers: L.
        name: tells it from others.
        labels: (N,) int64, those it was trained and asked with, or None.
    """

    depth: NDArray[np.int64]
    predictions: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    layers: int
    name: Hashable
    labels: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls, support: DepthResult, held_out: DepthResult, held_out_rows: Any, name: Hashable
    ) -> Member:
        """Of a network's two results: of its support, and of the rows it was held out from.

        Args:
            support: each row left out of its own vote, in the order of the dataset.
            held_out: in the order of `held_out_rows`.
            held_out_rows: their distinct rows in the dataset.
            name: tells the network from others.
        """
        rows = arguments.check_integers(
            held_out_rows, "held_out_rows", len(held_out), booleans=False
        )
        n = len(support) + len(held_out)
        out = np.zeros(n, bool)
        if len(rows) and not 0 <= rows.min() <= rows.max() < n:
            raise ValueError(
                f"held_out_rows reach from {rows.min()} to {rows.max()}; rows from 0 to {n - 1} "
                "are wanted."
            )
        out[rows] = True
        if out.sum() < len(rows):
            raise ValueError("held_out_rows holds a row twice; distinct rows are wanted.")
        if not support.leave_one_out or held_out.leave_one_out:
            raise ValueError(
                "support is to be a result of the support itself, and held_out of other rows."
            )
        if support.probes != held_out.probes:
            raise ValueError(
                f"support has the probes {list(support.probes)} and held_out "
                f"{list(held_out.probes)}; the same are wanted."
            )

        def together(of: str) -> NDArray[np.int64]:
            both = np.empty(n, np.int64)
            both[~out], both[rows] = getattr(support, of), getattr(held_out, of)
            return both

        labelled = support.labels is not None and held_out.labels is not None
        return cls(
            together("depth"),
            together("predictions"),
            out,
            len(support.probes),
            name,
            together("labels") if labelled else None,
        )


class Ensemble:
    """Sums over networks of what each says of N examples.

    Args:
        labels: (N,) integers, the given classes.
        ids: (N,) distinct integers or strings that name the examples; None for their rows.

    Attributes:
        labels, ids: as given.
        names: of the networks, in the order in which they came.
        meta: free text by name (model, data, setting), kept in its file.
        layers: L, the number of probes; 0 before the first network.
        classes: (C,) every class given or predicted, ascending.
        depths: (2, N, L + 1) int32, how many networks gave each depth: in the support, held out.
        predicted: (2, N, C) int32, how many gave each class, likewise.
    """

    def __init__(self, labels: Any, *, ids: Any = None) -> None:
        self.labels = arguments.check_integers(labels, "labels")
        n = len(self.labels)
        if n == 0:
            raise ValueError("labels is empty; at least one example is wanted.")
        self.ids = np.arange(n) if ids is None else _ids(ids, n)
        if len(np.unique(self.ids)) < n:
            raise ValueError("ids names an example twice; distinct ids are wanted.")
        self.names: tuple[Hashable, ...] = ()
        self.meta: dict[str, str] = {}
        self.layers = 0
        self.classes: NDArray[np.int64] = np.unique(self.labels)
        self.depths = np.zeros((2, n, 1), np.int32)
        self.predicted = np.zeros((2, n, len(self.classes)), np.int32)

    def __len__(self) -> int:
        """How many networks."""
        return len(self.names)

    def __repr__(self) -> str:
        never = int((self.counts[HELD_OUT] == 0).sum())
        return (
            f"Ensemble({len(self)} networks, {len(self.labels)} examples, {never} never held out)"
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """(2, N): how many networks had each example in their support, and held out."""
        found: NDArray[np.int64] = self.depths.sum(axis=2, dtype=np.int64)
        return found

    def add(self, member: Member, *, ids: Any = None) -> None:
        """Count one network; wrong arguments are met before anything is counted.

        Args:
            member: what it says, in the order of the ensemble's examples.
            ids: (N,) of the member's examples, to make sure of that order.

        Raises:
            ValueError: a name that is there, another number of probes or examples, other labels,
                ids that differ.
        """
        n = len(self.labels)
        if ids is not None:
            self._same_ids(_ids(ids, n))
        depth = arguments.check_integers(member.depth, "depth", n)
        predictions = arguments.check_integers(member.predictions, "predictions", n)
        kind = arguments.check_integers(member.held_out, "held_out", n)
        self._distinct([member.name])
        layers = arguments.check_int(member.layers, "layers")
        self._same_layers(layers)
        if not 0 <= depth.min() <= depth.max() <= layers:
            raise ValueError(
                f"depth reaches from {depth.min()} to {depth.max()}; 0 to {layers} is wanted."
            )
        if kind.min() < 0 or kind.max() > 1:
            raise ValueError(f"held_out holds {kind.max()}; true or false is wanted.")
        if member.labels is not None:
            self._same_labels(arguments.check_integers(member.labels, "labels", n))
        self._shape_for(layers, predictions)
        rows = np.arange(n)
        self.depths[kind, rows, depth] += 1
        self.predicted[kind, rows, np.searchsorted(self.classes, predictions)] += 1
        self.names += (member.name,)

    def __add__(self, other: Ensemble) -> Ensemble:
        """Both together: the same in either order, but for that of names; meta they share."""
        if not isinstance(other, Ensemble):
            return NotImplemented
        self.same_examples(other)
        self._distinct(other.names)
        found = Ensemble(self.labels, ids=self.ids)
        found._shape_for(max(self.layers, other.layers), np.union1d(self.classes, other.classes))
        for part in (self, other):
            found.depths[:, :, : part.layers + 1] += part.depths
            found.predicted[:, :, np.searchsorted(found.classes, part.classes)] += part.predicted
        found.names = (*self.names, *other.names)
        found.meta = dict(self.meta.items() & other.meta.items())
        return found

    def enough(self) -> None:
        """Raise ValueError for fewer than two networks."""
        if len(self) < 2:
            raise ValueError(f"The ensemble has networks: {len(self)}; at least two are wanted.")

    def same_examples(self, other: Ensemble) -> None:
        """Raise ValueError where the other is of other examples, labels or numbers of probes."""
        if len(other.labels) != len(self.labels):
            raise ValueError(
                f"ensembles of {len(self.labels)} and {len(other.labels)} examples; the same "
                "examples are wanted."
            )
        self._same_ids(other.ids)
        self._same_labels(other.labels)
        if other.layers:
            self._same_layers(other.layers)

    def mean_depth(self) -> NDArray[np.float64]:
        """(2, N) in the support and held out: one division of two whole numbers; NaN of none."""
        return _share(self.depths @ np.arange(self.layers + 1), self.counts)

    def examples(self) -> tables.Columns:
        """One example a row, by column, and which consensus is missing; see the module's head.

        Columns: id, label; support_networks, held_out_networks (counts); support_depth,
        held_out_depth; support_undefined, held_out_undefined (counts of networks);
        support_accuracy, held_out_accuracy; consensus, consistency, entropy, of the networks that
        an example was held out from.

        Raises:
            ValueError: fewer than two networks.
        """
        self.enough()
        n = len(self.labels)
        counts, depth = self.counts, self.mean_depth()
        right = self.predicted[:, np.arange(n), np.searchsorted(self.classes, self.labels)]
        accuracy = _share(right, counts)
        columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {
            "id": (self.ids, None),
            "label": (self.labels, None),
        }
        for name, of in (
            ("networks", counts),
            ("depth", depth),
            ("undefined", self.depths[:, :, -1].astype(np.int64)),
            ("accuracy", accuracy),
        ):
            columns |= {
                f"{kind}_{name}": (each, None) for kind, each in zip(KINDS, of, strict=True)
            }
        said = self.predicted[HELD_OUT]
        never = counts[HELD_OUT] == 0
        columns["consensus"] = (np.where(never, -1, self.classes[said.argmax(axis=1)]), never)
        columns["consistency"] = (_share(said.max(axis=1), counts[HELD_OUT]), None)
        columns["entropy"] = (entropy(said), None)
        return columns

    def to_pandas(self) -> Any:
        """`examples` as a pandas DataFrame; consensus is of the nullable type Int64."""
        return tables.frame(self.examples(), "Ensemble.to_pandas")

    def save(self, path: str | os.PathLike[str]) -> None:
        """One Parquet file, whole or not at all: the counts, and of two networks on `examples`.

        Needs the extra `tables`.
        """
        columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {
            "id": (self.ids, None),
            "label": (self.labels, None),
        }
        if len(self) > 1:
            columns |= self.examples()
        for name, counts in (("depths", self.depths), ("predicted", self.predicted)):
            columns |= {
                f"{kind}_{name}": (each, None) for kind, each in zip(KINDS, counts, strict=True)
            }
        about = {
            "kind": "Ensemble",
            "format": FORMAT,
            "layers": self.layers,
            "classes": self.classes.tolist(),
            "meta": self.meta,
            "networks": [each.item() if hasattr(each, "item") else each for each in self.names],
        }
        tables.write(columns, about, path, "Ensemble.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ensemble:
        """Read what `save` wrote, counts and all. Names are whole numbers or strings then.

        Raises FileNotFoundError and ValueError as `DepthResult.load`.
        """
        table, about = tables.read(path, "Ensemble", FORMAT)
        found = cls(tables.column(table, "label"), ids=tables.column(table, "id"))
        found.names, found.layers = tuple(about["networks"]), about["layers"]
        found.meta = about["meta"]
        found.classes = np.array(about["classes"], np.int64)
        found.depths, found.predicted = (
            np.stack([tables.column(table, f"{kind}_{name}") for kind in KINDS])
            for name in ("depths", "predicted")
        )
        return found

    def _shape_for(self, layers: int, classes: NDArray[np.int64]) -> None:
        """Make room for depths 0..layers, and for classes that none has given yet."""
        if not self.layers:
            self.layers = layers
            self.depths = np.zeros((*self.depths.shape[:2], layers + 1), np.int32)
        together = np.union1d(self.classes, classes)
        if len(together) > len(self.classes):
            wider = np.zeros((*self.predicted.shape[:2], len(together)), np.int32)
            wider[:, :, np.searchsorted(together, self.classes)] = self.predicted
            self.classes, self.predicted = together, wider

    def _same_layers(self, layers: int) -> None:
        if self.layers not in (0, layers):
            raise ValueError(
                f"a network has {layers} probes and those before {self.layers}; as many are wanted."
            )

    def _same_ids(self, ids: NDArray[Any]) -> None:
        differ = np.flatnonzero(ids != self.ids)
        if not len(differ):
            return
        row = int(differ[0])
        both = f"row {row} is {ids[row]!s} and {self.ids[row]!s} in the ensemble"
        if set(ids.tolist()) == set(self.ids.tolist()):
            raise ValueError(f"ids has the examples in another order: {both}.")
        raise ValueError(f"ids names other examples: {both}.")

    def _same_labels(self, labels: NDArray[np.int64]) -> None:
        differ = np.flatnonzero(labels != self.labels)
        if len(differ):
            row = int(differ[0])
            raise ValueError(
                f"labels differ in {len(differ)} rows: row {row} has {labels[row]}, and "
                f"{self.labels[row]} in the ensemble."
            )

    def _distinct(self, names: Sequence[Hashable]) -> None:
        twice = set(self.names) & set(names)
        if twice:
            raise ValueError(f"network {min(map(str, twice))} is in the ensemble already.")


def entropy(counts: Any) -> NDArray[np.float64]:
    """Of classes counted (..., C), in nats (...); NaN where nothing was counted."""
    given = np.asarray(counts)
    total = given.sum(axis=-1, keepdims=True)
    shares = _share(given, np.broadcast_to(total, given.shape))
    found: NDArray[np.float64] = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return found + 0.0  # no negative zero


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Quotients, NaN where nothing was counted."""
    found: NDArray[np.float64] = np.divide(
        part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0
    )
    return found


def _ids(ids: Any, count: int) -> NDArray[Any]:
    given = np.asarray(ids)
    if given.shape != (count,):
        raise ValueError(f"ids has shape {given.shape}; ({count},) is wanted.")
    if given.dtype.kind not in "iuUO":
        raise TypeError(f"ids has elements of type {given.dtype}; integers or text are wanted.")
    return given.astype(str) if given.dtype.kind in "UO" else given.astype(np.int64)
