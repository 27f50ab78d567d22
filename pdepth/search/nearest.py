"""What a search keeps of every example at every probe: its nearest rows, and all counts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Voting
from pdepth.arrays.encoded import EncodedVotes
from pdepth.io.atomic import disk
from pdepth.io.neighbor_file import COUNTS, RANKED, KeptNeighbors, count_type, rank_type
from pdepth.native import default_arithmetic

BLOCK = 1 << 12  # queries whose classes are ranked at a time

Arrays = Mapping[str, NDArray[Any]]
"""By name, (n, ...) of some queries at one probe: distances, rows, and of each k classes and their
counts, as `KeptNeighbors` has them."""


class Labelled(NamedTuple):
    """A support's labels, and how its neighbours were found; see `KeptNeighbors`."""

    classes: NDArray[np.int64]
    codes: NDArray[np.int32]
    metric: str
    row_numbers: NDArray[np.int64] | None = None


def nearest_of(votes: Sequence[EncodedVotes], voting: Voting) -> Arrays:
    """What is kept of the votes (1, n) of each k at one probe."""
    first = votes[0]
    assert first.distances is not None
    assert first.rows is not None
    arrays: dict[str, NDArray[Any]] = {
        "distances": first.distances[0],
        "rows": first.rows[0].astype(np.int32),
    }
    for k, of_k in zip(voting.ks, votes, strict=True):
        assert of_k.counts is not None
        dense = of_k.counts[0]
        parts = [ranked(dense[begin : begin + BLOCK], k) for begin in range(0, len(dense), BLOCK)]
        classes, counts = map(np.concatenate, zip(*parts, strict=True))
        arrays[RANKED.format(k)] = classes
        arrays[COUNTS.format(k)] = counts.astype(count_type(k, voting))
    return arrays


@default_arithmetic()
def ranked(counts: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The classes with most of the votes (n, C), of equals the smaller first, and their votes.

    Both (n, W), where W is the smaller of k and C: no more classes have votes.
    """
    classes = counts.shape[1]
    width = min(k, classes)
    if counts.dtype.kind == "f":
        order = np.argsort(-counts, axis=1, kind="stable")[:, :width]
        return order.astype(rank_type(classes)), np.take_along_axis(counts, order, axis=1)
    keys = np.arange(classes) - counts.astype(np.int64) * classes  # ascending in the wanted order
    if width < classes:
        keys = np.partition(keys, width - 1, axis=1)[:, :width]
    keys.sort(axis=1)
    return (keys % classes).astype(rank_type(classes)), -(keys // classes)


class NearestTable:
    """The arrays of all N queries at all L probes, as they come."""

    def __init__(
        self, probes: int, queries: int, folder: str | os.PathLike[str] | None = None
    ) -> None:
        """probes: of an iterator, as many as are known. folder: where they are, in files without
        names that end with them; None for memory."""
        self._shape = probes, queries
        self._folder = None if folder is None else Path(folder)
        self._arrays: dict[str, NDArray[Any]] = {}

    def put(self, probe: int, queries: NDArray[np.int64], part: Arrays) -> None:
        """Take those of some queries at a probe."""
        for name, array in part.items():
            if name not in self._arrays:
                self._arrays[name] = self._empty(name, self._shape[0], array)
            if (lacking := probe + 1 - len(self._arrays[name])) > 0:
                more = self._empty(name, lacking, array)
                self._arrays[name] = np.concatenate([self._arrays[name], more])
            self._arrays[name][probe, queries] = array

    @classmethod
    def of(
        cls, voting: Voting, probes: int, queries: int, folder: str | os.PathLike[str] | None = None
    ) -> NearestTable | None:
        """A table, if the voting asks for the nearest rows; see `__init__`."""
        return cls(probes, queries, folder) if voting.nearest else None

    def kept(self, k: int, probes: tuple[str, ...], support: Labelled) -> KeptNeighbors:
        """Those of one k."""
        arrays = self._arrays
        return KeptNeighbors(
            k=k,
            probes=probes,
            distances=arrays["distances"],
            rows=arrays["rows"],
            ranked=arrays[RANKED.format(k)],
            counts=arrays[COUNTS.format(k)],
            classes=support.classes,
            codes=support.codes,
            metric=support.metric,
            row_numbers=support.row_numbers,
        )

    def _empty(self, name: str, probes: int, like: NDArray[Any]) -> NDArray[Any]:
        """The array of probes where nothing was searched yet."""
        shape = (probes, self._shape[1], *like.shape[1:])
        array = np.empty(shape, like.dtype) if self._folder is None else self._mapped(shape, like)
        array[...] = {"distances": np.nan, "rows": -1}.get(name, 0)
        return array

    def _mapped(self, shape: tuple[int, ...], like: NDArray[Any]) -> NDArray[Any]:
        assert self._folder is not None
        size = max(1, int(np.prod(shape)) * like.itemsize)
        full = disk(self._folder, "the votes so far are kept, and the same call resumes from them")
        path = self._folder / f".neighbors.{secrets.token_hex(4)}.tmp"  # see `remove_leftovers`
        try:
            with full, path.open("w+b") as file:
                if hasattr(os, "posix_fallocate"):  # else a full disk would be a crash, later
                    os.posix_fallocate(file.fileno(), 0, size)
                array: NDArray[Any] = np.memmap(file, like.dtype, "r+", shape=shape)
        finally:
            path.unlink(missing_ok=True)
        return array
