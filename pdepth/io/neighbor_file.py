"""The nearest rows of every example at every probe, and one file that keeps them, mapped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Voting
from pdepth.io.array_bundle import read_kind, write_bundle

KIND, FORMAT = "neighbors", 1
RANKED, COUNTS = "ranked k{}", "counts k{}"  # arrays of each k


@dataclass(frozen=True, eq=False)
class KeptNeighbors:
    """The nearest support rows of N examples at L probes, and how all k neighbours voted.

    Attributes:
        k: neighbours that voted.
        probes: L names, in forward order.
        distances: (L, N, K) float64, as `pdepth.kneighbors` returns them: squared distances, or
            with `metric="inner_product"` products. nan where an example was not searched.
        rows: (L, N, K) int32, rows of the support in the order (distance, row); -1 where an example
            was not searched.
        ranked: (L, N, W) classes as positions in `classes`, those with most of the k votes first,
            of equals the smaller class; W is the smaller of k and C. The first is the vote.
        counts: (L, N, W) the votes of those classes: integers, or float64 sums of weights. All 0
            where an example was not searched.
        classes: (C,) int64 the distinct labels of the support, ascending.
        codes: (M,) int32 each support row's label as its position in `classes`.
        metric: of distances.
        row_numbers: (M,) int64, the support's row numbers in its data, where rows were skipped;
            None: 0..M-1.
    """

    k: int
    probes: tuple[str, ...]
    distances: NDArray[np.float64]
    rows: NDArray[np.int32]
    ranked: NDArray[Any]
    counts: NDArray[Any]
    classes: NDArray[np.int64]
    codes: NDArray[np.int32]
    metric: str = "sqeuclidean"
    row_numbers: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        probes, examples, nearest = self.rows.shape
        return (
            f"KeptNeighbors({nearest} of k={self.k}, {examples} examples, {probes} probes, "
            f"{len(self.codes)} support rows)"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.distances, self.rows, self.ranked, self.counts, self.classes, self.codes)
        return sum(array.nbytes for array in arrays)

    @property
    def searched(self) -> NDArray[np.bool_]:
        """(L, N) bool: where an example was searched; of early exit, up to its first other vote."""
        return np.asarray(self.rows[..., 0] >= 0)

    def votes(self) -> NDArray[np.int64]:
        """(L, N) int64 class labels; -1 where not `searched`."""
        return np.where(self.searched, self.classes[self.ranked[..., 0]], -1)

    def margins(self) -> NDArray[Any]:
        """(L, N) most votes minus second most, of the type of the counts; 0 where not `searched`.

        Counts of one byte give int32, as `DepthResult.margins` has them.
        """
        kind = np.float64 if self.counts.dtype.kind == "f" else np.int32
        first = self.counts[..., 0].astype(kind)
        if self.counts.shape[-1] == 1:
            return first
        margins: NDArray[Any] = first - self.counts[..., 1].astype(kind)
        return margins

    def class_counts(self, examples: Any = slice(None), probes: Any = slice(None)) -> NDArray[Any]:
        """(l, n, C): how many of the k neighbours of some examples had each class at some probes,
        or the sums of their weights; of type int32 or float64."""
        ranked, counts = (each[probes][:, examples] for each in (self.ranked, self.counts))
        kind = np.float64 if counts.dtype.kind == "f" else np.int32
        dense = np.zeros((*counts.shape[:-1], len(self.classes)), kind)
        np.put_along_axis(dense, ranked.astype(np.int64), counts.astype(kind), axis=-1)
        return dense

    def labels_of(self, rows: Any) -> NDArray[np.int64]:
        """The labels of support rows, shaped like them."""
        labels: NDArray[np.int64] = self.classes[self.codes[rows]]
        return labels

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, whole or not at all, which `pdepth.open_neighbors` maps."""
        save_neighbors({self.k: self}, path)


def save_neighbors(by_k: Mapping[int, KeptNeighbors], path: str | os.PathLike[str]) -> None:
    """Write what one search kept for each k: rows and distances, which they share, are there once.

    The file: 14 bytes "pdepth arrays\\n"; the length of a header, 8 bytes, and its CRC-32, 4 bytes,
    little-endian; the header, which is JSON; and the arrays, in C order, each from a multiple of 64
    bytes on. The header's "about" has kind, format, probes, k, metric; its "arrays" name dtype,
    shape, place behind the header and CRC-32 of each.
    """
    first = next(iter(by_k.values()))
    arrays: dict[str, NDArray[Any]] = {
        "distances": first.distances,
        "rows": first.rows,
        "classes": first.classes,
        "codes": first.codes,
    }
    if first.row_numbers is not None:
        arrays["row numbers"] = first.row_numbers
    for k, of_k in by_k.items():
        arrays[RANKED.format(k)], arrays[COUNTS.format(k)] = of_k.ranked, of_k.counts
    about = {
        "kind": KIND,
        "format": FORMAT,
        "probes": first.probes,
        "k": list(by_k),
        "metric": first.metric,
    }
    write_bundle(path, about, arrays)


def open_neighbors(path: str | os.PathLike[str], k: int | None = None) -> KeptNeighbors:
    """Map the neighbours that a run kept: `neighbors.pdepth` in its folder, or what `save` wrote.

    Args:
        path: of the file.
        k: of a file for several k, which one; None for the largest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another file, one that is damaged, or one without this k.
    """
    about, arrays = read_kind(path, KIND, FORMAT, "neighbours")
    chosen = max(about["k"]) if k is None else k
    if chosen not in about["k"]:
        kept = ", ".join(map(str, about["k"]))
        raise ValueError(f"k: expected one that {path} has ({kept}), got {k}.")
    return KeptNeighbors(
        k=chosen,
        probes=tuple(about["probes"]),
        distances=arrays["distances"],
        rows=arrays["rows"],
        ranked=arrays[RANKED.format(chosen)],
        counts=arrays[COUNTS.format(chosen)],
        classes=arrays["classes"],
        codes=arrays["codes"],
        metric=about["metric"],
        row_numbers=arrays.get("row numbers"),
    )


def neighbors_nbytes(voting: Voting, examples: int, probes: int, classes: int) -> int:
    """Bytes that the neighbours of so many examples take, but for the support's labels."""
    each = voting.nearest * (8 + 4)
    for k in voting.ks:
        of_class = rank_type(classes).itemsize + count_type(k, voting).itemsize
        each += min(k, classes) * of_class
    return examples * probes * each


def rank_type(classes: int) -> np.dtype[Any]:
    """The smallest type for positions of classes."""
    return np.min_scalar_type(max(0, classes - 1))


def count_type(k: int, voting: Voting) -> np.dtype[Any]:
    """The smallest type for votes of k neighbours; of weights float64."""
    return np.min_scalar_type(k) if voting.weights == "uniform" else np.dtype(np.float64)
