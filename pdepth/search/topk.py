"""Running lists of the k nearest rows, merged in the order (distance, row)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.encoded import Neighbors
from pdepth.arrays.problem import ProbeRows, Problem
from pdepth.arrays.rows import Rows
from pdepth.backends.base import Opener
from pdepth.native import default_arithmetic


@dataclass(frozen=True, eq=False)
class Part:
    """Some of a support's rows at a probe, the first of which has number `begin` in it.

    packed: what the backend keeps of them, see `ProbeRows`.
    """

    name: str
    rows: Rows
    begin: int
    packed: Any = None

    def problem(
        self, problem: Problem, queries: Rows, left_out: NDArray[np.int64] | None
    ) -> tuple[bool, Problem]:
        """The search of these rows alone, for one neighbour more where queries are among them, and
        are to be left out; and whether they are. left_out: see `RunningTopK`."""
        end = self.begin + len(self.rows)
        inside = left_out is not None and bool(((left_out >= self.begin) & (left_out < end)).any())
        return inside, replace(
            problem,
            probes=(ProbeRows(self.name, self.rows, queries, self.packed),),
            codes=np.zeros(len(self.rows), np.int32),
            k=min(problem.k + inside, len(self.rows)),
            query_rows=None,
            exclude_self=False,
            num_queries=len(queries),
        )


class RunningTopK:
    """The nearest support rows of some queries so far, as a support comes in chunks."""

    def __init__(
        self, problem: Problem, backend: Opener, queries: int, left_out: NDArray[np.int64] | None
    ) -> None:
        """left_out: (n,) the support row that each query is, if it is left out of its own lists."""
        self._problem, self._backend, self._left_out = problem, backend, left_out
        shape = queries, problem.k
        self.lists: Neighbors = np.full(shape, np.nan), np.full(shape, -1)

    def take(self, chunk: Part, queries: Rows) -> None:
        """Merge what is near in a chunk.

        Only what may be nearer than the lists' last rows is settled; a later row is behind an
        earlier one of the same distance.
        """
        left_out = self._left_out
        inside, problem = chunk.problem(self._problem, queries, left_out)
        with self._backend.session(problem) as session:
            distances, rows = session.neighbors(0, None, self.lists[0][:, -1].copy())
        rows[rows >= 0] += chunk.begin
        if inside and left_out is not None:
            distances[rows == left_out[:, None]] = np.nan
        merge(self.lists, (distances, rows))


@default_arithmetic()
def merge(running: Neighbors, chunk: Neighbors) -> None:
    """Put into the running lists (n, k) the lists (n, any) of a later chunk.

    A later row is behind an earlier one of the same distance, and a stable sort leaves it there.
    What has no distance (NaN) is behind all that have one, be it infinite.
    """
    listed = (chunk[1] >= 0).any(axis=1)
    closer = listed & ~(chunk[0][:, 0] >= running[0][:, -1])
    distances, rows = (
        np.hstack([old[closer], new[closer]]) for old, new in zip(running, chunk, strict=True)
    )
    order = distances.argsort(axis=1, kind="stable")[:, : running[0].shape[1]]
    for lists, both in zip(running, (distances, rows), strict=True):
        lists[closer] = np.take_along_axis(both, order, axis=1)
