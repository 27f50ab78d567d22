"""Two-dimensional maps of every example at every probe, and one file that keeps them, mapped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.io.array_bundle import read_kind, write_bundle

KIND, FORMAT = "map", 1
METHODS = ("pca", "umap")
AXES = 2


@dataclass(frozen=True, eq=False)
class KeptMap:
    """Where N examples lie at L probes, in two dimensions, and M support rows beside them.

    Attributes:
        method: "pca": the two leading principal components of the probe's support; or "umap".
        probes: L names, in forward order.
        queries: (N, L, 2) float32, in the probe's unit. nan where an example was not searched;
            infinite beyond float32.
        explained: (L, 2) float64, the share of the variance of the rows that the components were
            fitted to which each axis has, the greater first. nan of UMAP, and of a probe where no
            example was searched.
        units: (L,) float64, powers of two, what a place is multiplied by for the probe's own
            measure: 1, but for float64 rows that float32 has no room for. Of UMAP 1.
        support: (M, L, 2) float32; None where the examples are the support itself. nan at a probe
            where no example was searched.
        support_labels: (M,) int64, with `support`.
        support_rows: (M,) int64, the support's row numbers in its data, where rows were skipped;
            None: 0..M-1.
    """

    method: str
    probes: tuple[str, ...]
    queries: NDArray[np.float32]
    explained: NDArray[np.float64]
    units: NDArray[np.float64]
    support: NDArray[np.float32] | None = None
    support_labels: NDArray[np.int64] | None = None
    support_rows: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        examples, probes, _ = self.queries.shape
        beside = "" if self.support is None else f", {len(self.support)} support rows"
        return f"KeptMap({self.method}, {examples} examples{beside}, {probes} probes)"

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self._arrays().values())

    @property
    def searched(self) -> NDArray[np.bool_]:
        """(L, N) bool: where an example was searched; of early exit, up to its first other vote."""
        return np.asarray(~np.isnan(self.queries[..., 0].T))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, whole or not at all, which `pdepth.open_map` maps.

        It is laid out as the file of neighbours is. The header's "about" has kind, format, method
        and probes.
        """
        about = {
            "kind": KIND,
            "format": FORMAT,
            "method": self.method,
            "probes": self.probes,
        }
        write_bundle(path, about, self._arrays())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Those that there are, by their names in the file."""
        arrays: dict[str, NDArray[Any] | None] = {
            "queries": self.queries,
            "explained": self.explained,
            "units": self.units,
            "support": self.support,
            "support labels": self.support_labels,
            "support rows": self.support_rows,
        }
        return {name: array for name, array in arrays.items() if array is not None}


def open_map(path: str | os.PathLike[str]) -> KeptMap:
    """Map the map that a run kept: `map.pdepth` in its folder, or what `KeptMap.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another file, or one that is damaged.
    """
    about, arrays = read_kind(path, KIND, FORMAT, "a map")
    return KeptMap(
        method=about["method"],
        probes=tuple(about["probes"]),
        queries=arrays["queries"],
        explained=arrays["explained"],
        units=arrays["units"] if "units" in arrays else np.ones(len(about["probes"])),
        support=arrays.get("support"),
        support_labels=arrays.get("support labels"),
        support_rows=arrays.get("support rows"),
    )


def map_nbytes(examples: int, support: int, probes: int) -> int:
    """Bytes that a map takes; support: rows that are kept beside the examples, or 0."""
    return (examples + support) * probes * AXES * np.dtype(np.float32).itemsize
