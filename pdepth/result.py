"""Votes, and the prediction depths that follow from them: what pdepth returns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.rows import is_torch
from pdepth.io import tables
from pdepth.io.map_file import KeptMap
from pdepth.io.neighbor_file import KeptNeighbors
from pdepth.native import default_arithmetic

FORMAT = 1  # of the Parquet file; raised when an older pdepth could not read it
SKIPPED = "skipped "  # before support or queries, in meta: reasons by row, as JSON
RELABELLED = "relabelled "  # likewise: new labels by row
AGAINST = {  # a result's `reference` in words
    "prediction": "the network",
    "label": "the label",
    "last_probe": "the last probe",
    "array": "the reference",
}


@dataclass(frozen=True, eq=False)
class Votes:
    """The k-NN majority votes of one embedding or of several.

    Attributes:
        votes: (N,) for one array of embeddings, (L, N) for L of them; class labels, as integers.
        classes: (C,) the distinct labels of the support, ascending.
        tied: bool, shaped like `votes`: the winner shared the top count and won as the smallest.
        counts: (N, C) or (L, N, C): how many of the k neighbours had each class, or the float64 sum
            of their weights; None without return_counts and return_neighbors.
        distances, rows: (N, K) or (L, N, K), the first columns of what `pdepth.kneighbors` returns;
            None without return_neighbors.
    """

    votes: Any
    classes: Any
    tied: Any
    counts: Any = None
    distances: Any = None
    rows: Any = None

    @property
    def margins(self) -> Any:
        """Most votes minus second most, shaped like `votes`, of the type of `counts`; 0 is a tie.

        Raises:
            ValueError: there are no counts.
        """
        if self.counts is None:
            raise ValueError(
                "margins: expected votes with counts, got none; pass return_counts=True."
            )
        return margins(self.counts)


@default_arithmetic()
def margins(counts: Any) -> Any:
    """Most minus second most (...) of counts (..., C), NumPy or torch; of one class, all it has."""
    if counts.shape[-1] == 1:
        return counts[..., 0]
    if is_torch(counts):
        top = counts.topk(2, dim=-1).values
        return top[..., 0] - top[..., 1]
    top = np.partition(counts, -2, axis=-1)
    return top[..., -1] - top[..., -2]


def depth_of(
    agrees: NDArray[np.bool_], stable: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Depth (N,) of agreement (L, N) with a reference, and where it is undefined (N,).

    The depth is where the last unbroken run of agreement begins, L where the last probe disagrees
    (arXiv 2106.09647, section 2). With `stable`, it is where the first run of so many probes
    begins, or of all that are left: L of them are the depth as above.
    """
    probes = len(agrees)
    if stable is None:
        run = np.logical_and.accumulate(agrees[::-1], axis=0).sum(axis=0, dtype=np.int64)
        return probes - run, run == 0
    first, run = np.full(agrees.shape[1], probes), np.zeros(agrees.shape[1], np.int64)
    for probe in reversed(range(probes)):
        run = np.where(agrees[probe], run + 1, 0)
        first[run >= min(stable, probes - probe)] = probe
    return first, first == probes


@dataclass(frozen=True, eq=False)
class DepthResult:
    """The prediction depth of N examples under L probes, and the votes that it rests on.

    Attributes:
        depth: (N,) int64, 0..L; L where `undefined`.
        undefined: (N,) bool, the last probe disagrees with the reference.
        votes: (L, N) int64 class labels; -1 where not `known`.
        known: (L, N) bool; after early exit, from an example's depth on. -1 can be a class: mask
            with this.
        predictions: (N,) int64, the network's classes.
        labels: (N,) int64, the examples' own classes, or None.
        probes: L distinct names, in forward order.
        k: neighbours per vote.
        widths: L embedding widths, or None.
        leave_one_out: the examples are the support itself, each left out of its own vote.
        reference: what votes were compared with: "prediction", "label", "last_probe" or "array".
        reference_values: (N,) int64, its classes; None where they are the predictions.
        tied: (L, N) bool, the vote was a tie; None without return_counts.
        margins: (L, N) most votes minus second most, int32, or float64 where votes have weights;
            None without return_counts.
        meta: free text by name (model, data, version; metric and weights other than the default).
        rows: (N,) int64, the examples' row numbers in their data, where others were skipped; None:
            0..N-1.
        checksums: (N,) uint64, of the examples' inputs as the network got them; None where they
            were not taken: without a `run_dir` or a store.
        neighbors: the nearest support rows at each probe and all counts; None without
            return_neighbors. `save` leaves them out: they have a file of their own.
        map: where the examples lie at each probe, in two dimensions; None without return_map. It
            has a file of its own, too.

    Raises:
        ValueError: shapes that do not fit together, or a probe name used twice.
    """

    depth: NDArray[np.int64]
    undefined: NDArray[np.bool_]
    votes: NDArray[np.int64]
    known: NDArray[np.bool_]
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    probes: tuple[str, ...]
    k: int
    widths: tuple[int, ...] | None = None
    leave_one_out: bool = False
    reference: str = "prediction"
    reference_values: NDArray[np.int64] | None = None
    tied: NDArray[np.bool_] | None = None
    margins: NDArray[Any] | None = None
    meta: dict[str, str] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None
    checksums: NDArray[np.uint64] | None = None
    neighbors: KeptNeighbors | None = None
    map: KeptMap | None = None

    def __post_init__(self) -> None:
        n, probes = len(self.depth), len(self.probes)
        shapes = {
            "undefined": (n,),
            "votes": (probes, n),
            "known": (probes, n),
            "predictions": (n,),
            "labels": (n,),
            "widths": (probes,),
            "reference_values": (n,),
            "tied": (probes, n),
            "margins": (probes, n),
            "rows": (n,),
            "checksums": (n,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(
                    f"{name}: expected shape {shape} for {n} examples and {probes} probes, got "
                    f"{np.shape(value)}."
                )
        if self.neighbors is not None and self.neighbors.rows.shape[:2] != (probes, n):
            raise ValueError(
                f"neighbors: expected those of {n} examples and {probes} probes, got "
                f"{self.neighbors!r}."
            )
        if self.map is not None and self.map.queries.shape[:2] != (n, probes):
            raise ValueError(
                f"map: expected that of {n} examples and {probes} probes, got {self.map!r}."
            )
        if len(set(self.probes)) != probes:
            twice = next(p for p in self.probes if self.probes.count(p) > 1)
            raise ValueError(f"probes: expected distinct names, got {twice!r} twice.")

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def targets(self) -> NDArray[np.int64]:
        """(N,) the classes that votes are compared with."""
        return self.predictions if self.reference_values is None else self.reference_values

    def __repr__(self) -> str:
        kind = "leave-one-out" if self.leave_one_out else "held-out"
        return (
            f"DepthResult({len(self)} {kind} examples, {len(self.probes)} probes, k={self.k}, "
            f"{int(self.undefined.sum())} undefined)"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: where examples settle, probe by probe."""
        settled, accuracy = self.settled(), np.full(len(self.probes), np.nan)
        if self.labels is not None and len(self):
            accuracy = self.probe_accuracy()
        rows = []
        for name, share, count in zip(
            [*self.probes, "undefined"], [*accuracy, np.nan], settled.tolist(), strict=True
        ):
            width = 100 * count / max(1, settled.max())
            known = "" if np.isnan(share) else f"{100 * share:.1f} %"
            rows.append(
                f"<tr><th>{escape(name)}</th><td>{known}</td>"
                f"<td>{count:,}</td><td><div style='width:{width:.0f}px;height:.8em;"
                "background:#0072B2'></div></td></tr>"
            )
        head = "".join(f"<th>{text}</th>" for text in ("probe", "k-NN accuracy", "settle here", ""))
        return (
            f"<table><caption>{escape(repr(self))}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """(N,) the examples' row numbers in their data."""
        return np.arange(len(self)) if self.rows is None else self.rows

    @property
    def skipped(self) -> dict[str, dict[int, str]]:
        """Why rows were skipped, by their numbers, of "support" and of "queries".

        Without those of which none was skipped. Own rows of the support are of "support".
        """
        return {
            name.removeprefix(SKIPPED): {int(row): why for row, why in json.loads(text).items()}
            for name, text in self.meta.items()
            if name.startswith(SKIPPED)
        }

    @property
    def relabelled(self) -> dict[str, dict[int, int]]:
        """The labels that `pdepth.apply_decisions` has put in place of the data's own, by row
        numbers, of "support" and of "queries". Own rows of the support are of "support"."""
        return {
            name.removeprefix(RELABELLED): {int(row): new for row, new in json.loads(text).items()}
            for name, text in self.meta.items()
            if name.startswith(RELABELLED)
        }

    def complete(self) -> NDArray[np.bool_]:
        """(L,) bool: the probes that have a known vote for every example."""
        return np.asarray(self.known.all(axis=1), bool)

    def probe_accuracy(self) -> NDArray[np.float64]:
        """(L,) float64: the share of each probe's votes that equal the label.

        nan where not every vote is known: after early exit an early probe's known votes are those
        of the examples whose later probes all agreed with the network, a biased sample.

        Raises:
            ValueError: the result has no labels.
        """
        if self.labels is None:
            raise ValueError(
                "labels: expected (N,) integers in the result for probe_accuracy(), got None."
            )
        shares = (self.votes == self.labels).mean(axis=1)
        return np.where(self.complete(), shares, np.nan)

    def stable_depth(self, stable: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The first probe (N,) whose vote and the next ones, `stable` in all, equal the reference.

        Near the end it is all votes that are left, so that `stable=L` is `depth`; L where there is
        no such probe, which the second array (N,) marks.

        Raises:
            ValueError: not every vote is known: early exit knows the last run alone.
        """
        arguments.check_int(stable, "stable")
        if not self.known.all():
            raise ValueError(
                "stable: expected a result in which every vote is known, got one with early exit, "
                "which knows each example's last run alone; pass early_exit=False."
            )
        return depth_of(self.votes == self.targets, stable)

    def settled(self) -> NDArray[np.int64]:
        """(L + 1,) int64: how many examples have depth 0..L-1; the last entry, the undefined."""
        return np.bincount(self.depth, minlength=len(self.probes) + 1)

    def normalised(self) -> NDArray[np.float64]:
        """(N,) float64: depth / L, comparable between networks; 1 where undefined."""
        return self.depth / len(self.probes)

    def to_pandas(self) -> Any:
        """A pandas DataFrame, one example a row: the columns that `save` writes.

        Columns with unknown entries are of the nullable type Int64. Needs the extra `tables`.
        """
        return tables.frame(self._columns(), "DepthResult.to_pandas")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one Parquet file, whole or not at all.

        Columns: row, label, prediction, depth, undefined, and `vote_<probe>` for each probe (null
        where not known); where the result has them, `reference`, `tied_<probe>` and
        `margin_<probe>`. The rest of the result is JSON in the schema's metadata, under `pdepth`.
        Needs the extra `tables`.
        """
        about = {
            "format": FORMAT,
            "probes": self.probes,
            "k": self.k,
            "widths": self.widths,
            "leave_one_out": self.leave_one_out,
            "labelled": self.labels is not None,
            "reference": self.reference,
            "meta": self.meta,
        }
        tables.write(self._columns(), about, path, "DepthResult.save")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DepthResult:
        """Read what `save` wrote. Needs the extra `tables`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a Parquet file, or one that pdepth did not write.
        """
        table, about = tables.read(path, "DepthResult", FORMAT)
        column = partial(tables.column, table)
        probes, n, rows = tuple(about["probes"]), table.num_rows, column("row")
        votes, known = np.empty((len(probes), n), np.int64), np.empty((len(probes), n), bool)
        for number, probe in enumerate(probes):
            vote = table[_vote_column(probe)]
            votes[number] = vote.fill_null(-1).to_numpy()
            known[number] = vote.is_valid().to_numpy()

        def of_probes(column_of: Callable[[str], str]) -> NDArray[Any] | None:
            if not probes or column_of(probes[0]) not in table.column_names:
                return None
            return np.stack([column(column_of(probe)) for probe in probes])

        return cls(
            depth=column("depth"),
            undefined=column("undefined"),
            votes=votes,
            known=known,
            predictions=column("prediction"),
            labels=column("label") if about["labelled"] else None,
            probes=probes,
            k=about["k"],
            widths=None if about["widths"] is None else tuple(about["widths"]),
            leave_one_out=about["leave_one_out"],
            reference=about.get("reference", "prediction"),
            reference_values=column("reference") if "reference" in table.column_names else None,
            tied=of_probes(_tied_column),
            margins=of_probes(_margin_column),
            meta=about["meta"],
            rows=None if np.array_equal(rows, np.arange(n)) else rows,
            checksums=column("checksum") if "checksum" in table.column_names else None,
        )

    def _columns(self) -> tables.Columns:
        n = len(self)
        unlabelled = (np.full(n, -1, np.int64), np.ones(n, bool))
        columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {
            "row": (self.row_numbers, None),
            "label": unlabelled if self.labels is None else (self.labels, None),
            "prediction": (self.predictions, None),
            "depth": (self.depth, None),
            "undefined": (self.undefined, None),
        }
        if self.checksums is not None:
            columns["checksum"] = (self.checksums, None)
        if self.reference_values is not None:
            columns["reference"] = (self.reference_values, None)
        for probe, votes, known in zip(self.probes, self.votes, self.known, strict=True):
            columns[_vote_column(probe)] = (votes, ~known)
        for name_of, values in ((_tied_column, self.tied), (_margin_column, self.margins)):
            if values is not None:
                columns |= {name_of(p): (v, None) for p, v in zip(self.probes, values, strict=True)}
        return columns


def _vote_column(probe: str) -> str:
    return f"vote_{probe}"


def _tied_column(probe: str) -> str:
    return f"tied_{probe}"


def _margin_column(probe: str) -> str:
    return f"margin_{probe}"
