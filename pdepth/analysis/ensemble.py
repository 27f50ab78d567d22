"""Ensembles of networks: how many gave each depth and class, in the support and held out.

Source: Baldock, Maennel and Neyshabur, arXiv 2106.09647, who train 250 networks of a kind, each on
a random 90 % of a dataset, so that an example is in the support of most and held out from some.

    ensemble = Ensemble(labels)
    for number in range(20):
        ...  # train on `support`, the rows that are not in `held_out_rows`
        member = Member.from_results(support_result, held_out_result, held_out_rows, name=number)
        ensemble.add(member)
    ensemble.to_pandas()  # one example per row

Only whole numbers are kept of each example: how many networks gave it each depth and each class,
separately for the networks that had it in their support and those that it was held out from. So
sums are exact, ensembles that are computed apart can be added in any order with the same result,
and memory does not grow with the number of networks (apart from their names, which prevent counting
one twice). From these counts follow:

    depth         mean over networks; an undefined depth counts as L
    consensus     class that most of the networks give that the example is held out from; the
                  smallest of several
    consistency   share of those networks that give the consensus ("consensus-consistency")
    accuracy      share of networks that give the label
    entropy       of the classes that those networks give, in nats

Where no network of a kind covers an example, its value is NaN and its count 0.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.checks import check_shape, check_unique
from pdepth.arrays import arguments
from pdepth.io import tables
from pdepth.result import DepthResult

__all__ = ["Ensemble", "Member", "entropy"]

FORMAT = 1  # of the Parquet file; raised when an older pdepth could not read it
SUPPORT, HELD_OUT = 0, 1  # the first axis of all counts
KINDS = ("support", "held_out")


@dataclass(frozen=True, eq=False)
class Member:
    """Depths and predictions of one network for N examples, in their common order.

    Attributes:
        depth: (N,) int64, 0..L; L where undefined.
        predictions: (N,) int64.
        held_out: (N,) bool, whether the network was trained without the example.
        layers: L.
        name: distinguishes the network from others.
        labels: (N,) int64, the labels that it was trained and measured with, or None.
        rows: (N,) int64, the examples' row numbers in their data, where others were left out; None:
            all, in the data's order.
    """

    depth: NDArray[np.int64]
    predictions: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    layers: int
    name: Hashable
    labels: NDArray[np.int64] | None = None
    rows: NDArray[np.int64] | None = None

    @classmethod
    def from_results(
        cls, support: DepthResult, held_out: DepthResult, held_out_rows: Any, name: Hashable
    ) -> Member:
        """Combine two results of a network: of its support, and of the rows held out from it.

        Args:
            support: each row left out of its own vote, in the order of the dataset.
            held_out: in the order of `held_out_rows`.
            held_out_rows: distinct rows of the dataset.
            name: distinguishes the network from others.
        """
        skipped = sum(len(of) for result in (support, held_out) for of in result.skipped.values())
        if skipped:
            raise ValueError(
                "support, held_out: expected results of all their rows, got some without "
                f"{skipped:,} that were skipped; use pdepth.analysis.networks.measure with "
                "skip_unreadable=True."
            )
        rows = arguments.check_integers(
            held_out_rows, "held_out_rows", len(held_out), booleans=False
        )
        n = len(support) + len(held_out)
        is_held_out = np.zeros(n, bool)
        if len(rows) and not 0 <= rows.min() <= rows.max() < n:
            raise ValueError(
                f"held_out_rows: expected rows from 0 to {n - 1}, got {rows.min()} to {rows.max()}."
            )
        is_held_out[rows] = True
        check_unique(rows, "held_out_rows")
        if not support.leave_one_out or held_out.leave_one_out:
            raise ValueError(
                "support, held_out: expected a result of the support itself and one of other "
                f"rows, got leave_one_out={support.leave_one_out} and {held_out.leave_one_out}."
            )
        if support.probes != held_out.probes:
            raise ValueError(
                f"held_out: expected the probes of support, {list(support.probes)}, got "
                f"{list(held_out.probes)}."
            )

        def combine(name: str) -> NDArray[np.int64]:
            values = np.empty(n, np.int64)
            values[~is_held_out], values[rows] = getattr(support, name), getattr(held_out, name)
            return values

        labelled = support.labels is not None and held_out.labels is not None
        return cls(
            combine("depth"),
            combine("predictions"),
            is_held_out,
            len(support.probes),
            name,
            combine("labels") if labelled else None,
        )

    @classmethod
    def of(
        cls, support: DepthResult, held_out: DepthResult, held_out_rows: Any, name: Hashable
    ) -> Member:
        """Deprecated name of `from_results`."""
        warnings.warn(
            "Member.of is deprecated; use Member.from_results.", DeprecationWarning, stacklevel=2
        )
        return cls.from_results(support, held_out, held_out_rows, name)


class Ensemble:
    """Counts, over networks, of the depths and classes that each gave N examples.

    Args:
        labels: (N,) integers, the given classes.
        ids: (N,) distinct integers or strings that name the examples; None for their rows.

    Attributes:
        labels, ids: as given.
        names: of the networks, in the order in which they were added.
        meta: free text by name (model, data, setting), kept in the file.
        layers: L, the number of probes; 0 before the first network.
        classes: (C,) every class given or predicted, ascending.
        depths: (2, N, L + 1) int32, networks that gave each depth: in the support, held out.
        predicted: (2, N, C) int32, networks that gave each class: in the support, held out.
    """

    layers: int
    depths: NDArray[np.int32]
    predicted: NDArray[np.int32]

    def __init__(self, labels: Any, *, ids: Any = None) -> None:
        self.labels: NDArray[np.int64] = arguments.check_integers(labels, "labels")
        n = len(self.labels)
        if n == 0:
            raise ValueError("labels: expected at least one example, got none.")
        self.ids: NDArray[np.int64] = np.arange(n) if ids is None else _check_ids(ids, n)
        check_unique(self.ids, "ids")
        self.names: tuple[Hashable, ...] = ()
        self.meta: dict[str, str] = {}
        self.layers = 0
        self.classes: NDArray[np.int64] = np.unique(self.labels)
        self.depths = np.zeros((2, n, 1), np.int32)
        self.predicted = np.zeros((2, n, len(self.classes)), np.int32)

    def __len__(self) -> int:
        """Number of networks."""
        return len(self.names)

    def __repr__(self) -> str:
        never = int((self.counts[HELD_OUT] == 0).sum())
        return (
            f"Ensemble({len(self)} networks, {len(self.labels)} examples, {never} never held out)"
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """Networks (2, N) that had each example in their support, and that it was held out from."""
        counts: NDArray[np.int64] = self.depths.sum(axis=2, dtype=np.int64)
        return counts

    def add(self, member: Member, *, ids: Any = None) -> None:
        """Add one network; wrong arguments are refused before anything is counted.

        Args:
            member: in the order of the ensemble's examples.
            ids: (N,) of the member's examples, to verify that order; None for its `rows`.

        Raises:
            ValueError: a name that is there already, another number of probes or examples, other
                labels, or different ids.
        """
        n = len(self.labels)
        if ids is None:
            ids = member.rows
        if ids is not None:
            self._check_same_ids(_check_ids(ids, n))
        depth = arguments.check_integers(member.depth, "depth", n)
        predictions = arguments.check_integers(member.predictions, "predictions", n)
        kind = arguments.check_integers(member.held_out, "held_out", n)
        self._check_new_names([member.name])
        layers = arguments.check_int(member.layers, "layers")
        self._check_same_layers(layers)
        if not 0 <= depth.min() <= depth.max() <= layers:
            raise ValueError(
                f"depth: expected values from 0 to {layers}, got {depth.min()} to {depth.max()}."
            )
        if kind.min() < 0 or kind.max() > 1:
            raise ValueError(f"held_out: expected booleans, got {kind.max()}.")
        if member.labels is not None:
            self._check_same_labels(arguments.check_integers(member.labels, "labels", n))
        self._grow(layers, predictions)
        rows = np.arange(n)
        self.depths[kind, rows, depth] += 1
        self.predicted[kind, rows, np.searchsorted(self.classes, predictions)] += 1
        self.names += (member.name,)

    def __add__(self, other: Ensemble) -> Ensemble:
        """The networks of both; apart from the order of names, the same in either order.

        `meta` keeps the entries that both share.
        """
        if not isinstance(other, Ensemble):
            return NotImplemented
        self.check_same_examples(other)
        self._check_new_names(other.names)
        total = Ensemble(self.labels, ids=self.ids)
        total._grow(max(self.layers, other.layers), np.union1d(self.classes, other.classes))
        for term in (self, other):
            total.depths[:, :, : term.layers + 1] += term.depths
            total.predicted[:, :, np.searchsorted(total.classes, term.classes)] += term.predicted
        total.names = (*self.names, *other.names)
        total.meta = dict(self.meta.items() & other.meta.items())
        return total

    def check_networks(self) -> None:
        """Raise ValueError for fewer than two networks."""
        if len(self) < 2:
            raise ValueError(f"ensemble: expected at least two networks, got {len(self)}.")

    def check_same_examples(self, other: Ensemble) -> None:
        """Raise ValueError where the other has other examples, labels or numbers of probes."""
        if len(other.labels) != len(self.labels):
            raise ValueError(
                f"ensembles: expected the same examples, got {len(self.labels)} and "
                f"{len(other.labels)} of them."
            )
        self._check_same_ids(other.ids)
        self._check_same_labels(other.labels)
        if other.layers:
            self._check_same_layers(other.layers)

    def mean_depth(self) -> NDArray[np.float64]:
        """Mean depths (2, N) in the support and held out; NaN where there is none.

        Each is one division of two whole numbers.
        """
        return _quotient(self.depths @ np.arange(self.layers + 1), self.counts)

    def examples(self) -> tables.Columns:
        """Columns of one entry per example, each with a mask of missing entries or None.

        Columns: id, label; support_networks, held_out_networks (counts); support_depth,
        held_out_depth; support_undefined, held_out_undefined (counts of networks);
        support_accuracy, held_out_accuracy; consensus, consistency, entropy, of the networks that
        an example was held out from. The module's docstring defines them.

        Raises:
            ValueError: fewer than two networks.
        """
        self.check_networks()
        n = len(self.labels)
        counts, depth = self.counts, self.mean_depth()
        right = self.predicted[:, np.arange(n), np.searchsorted(self.classes, self.labels)]
        columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {
            "id": (self.ids, None),
            "label": (self.labels, None),
        }
        for name, by_kind in (
            ("networks", counts),
            ("depth", depth),
            ("undefined", self.depths[:, :, -1].astype(np.int64)),
            ("accuracy", _quotient(right, counts)),
        ):
            columns |= {
                f"{kind}_{name}": (values, None)
                for kind, values in zip(KINDS, by_kind, strict=True)
            }
        predicted = self.predicted[HELD_OUT]
        never = counts[HELD_OUT] == 0
        columns["consensus"] = (np.where(never, -1, self.classes[predicted.argmax(axis=1)]), never)
        columns["consistency"] = (_quotient(predicted.max(axis=1), counts[HELD_OUT]), None)
        columns["entropy"] = (entropy(predicted), None)
        return columns

    def to_pandas(self) -> Any:
        """`examples` as a pandas DataFrame; consensus has the nullable type Int64."""
        return tables.frame(self.examples(), "Ensemble.to_pandas")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one Parquet file, whole or not at all: the counts, and from two networks on
        `examples`.

        Needs the extra `tables`.
        """
        columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {
            "id": (self.ids, None),
            "label": (self.labels, None),
        }
        if len(self) > 1:
            columns |= self.examples()
        for name, by_kind in (("depths", self.depths), ("predicted", self.predicted)):
            columns |= {
                f"{kind}_{name}": (counts, None)
                for kind, counts in zip(KINDS, by_kind, strict=True)
            }
        about = {
            "kind": "Ensemble",
            "format": FORMAT,
            "layers": self.layers,
            "classes": self.classes.tolist(),
            "meta": self.meta,
            "networks": [name.item() if hasattr(name, "item") else name for name in self.names],
        }
        tables.write(columns, about, path, "Ensemble.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ensemble:
        """Read what `save` wrote, including the counts. Names are then integers or strings.

        Raises:
            FileNotFoundError, ValueError: as `DepthResult.load`.
        """
        table, about = tables.read(path, "Ensemble", FORMAT)
        ensemble = cls(tables.column(table, "label"), ids=tables.column(table, "id"))
        ensemble.names, ensemble.layers = tuple(about["networks"]), about["layers"]
        ensemble.meta = about["meta"]
        ensemble.classes = np.array(about["classes"], np.int64)
        ensemble.depths, ensemble.predicted = (
            np.stack([tables.column(table, f"{kind}_{name}") for kind in KINDS])
            for name in ("depths", "predicted")
        )
        return ensemble

    def _grow(self, layers: int, classes: NDArray[np.int64]) -> None:
        """Make room for depths 0..layers and for classes that no network has given yet."""
        if not self.layers:
            self.layers = layers
            self.depths = np.zeros((*self.depths.shape[:2], layers + 1), np.int32)
        union = np.union1d(self.classes, classes)
        if len(union) > len(self.classes):
            wider = np.zeros((*self.predicted.shape[:2], len(union)), np.int32)
            wider[:, :, np.searchsorted(union, self.classes)] = self.predicted
            self.classes, self.predicted = union, wider

    def _check_same_layers(self, layers: int) -> None:
        if self.layers not in (0, layers):
            raise ValueError(
                f"layers: expected {self.layers} probes as of the networks before, got {layers}."
            )

    def _check_same_ids(self, ids: NDArray[Any]) -> None:
        different = np.flatnonzero(ids != self.ids)
        if not len(different):
            return
        row = int(different[0])
        same_set = set(ids.tolist()) == set(self.ids.tolist())
        what = "the examples in the ensemble's order" if same_set else "the ensemble's examples"
        raise ValueError(f"ids: expected {what}, {self.ids[row]!s} in row {row}, got {ids[row]!s}.")

    def _check_same_labels(self, labels: NDArray[np.int64]) -> None:
        different = np.flatnonzero(labels != self.labels)
        if len(different):
            row = int(different[0])
            raise ValueError(
                f"labels: expected the ensemble's labels, {self.labels[row]} in row {row}, got "
                f"{labels[row]}; {len(different)} rows differ."
            )

    def _check_new_names(self, names: Sequence[Hashable]) -> None:
        twice = set(self.names) & set(names)
        if twice:
            raise ValueError(
                f"name: expected a network that is not in the ensemble, got {min(map(str, twice))}."
            )


def entropy(counts: Any) -> NDArray[np.float64]:
    """Entropy (...) of classes counted (..., C), in nats; NaN where nothing was counted."""
    array = np.asarray(counts)
    total = array.sum(axis=-1, keepdims=True)
    shares = _quotient(array, np.broadcast_to(total, array.shape))
    sums: NDArray[np.float64] = (shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return -sums + 0.0  # no negative zero


def _quotient(parts: NDArray[Any], totals: NDArray[Any]) -> NDArray[np.float64]:
    """Quotients, NaN where the total is 0."""
    quotients: NDArray[np.float64] = np.divide(
        parts, totals, out=np.full(np.shape(parts), np.nan), where=np.asarray(totals) > 0
    )
    return quotients


def _check_ids(ids: Any, count: int) -> NDArray[Any]:
    array = check_shape(ids, "ids", (count,))
    if array.dtype.kind not in "iuUO":
        raise TypeError(f"ids: expected integers or strings, got elements of type {array.dtype}.")
    return array.astype(str) if array.dtype.kind in "UO" else array.astype(np.int64)
