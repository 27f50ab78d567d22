"""The definition itself as a backend: float64 NumPy, for checking the others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition
from pdepth.arrays.bounds import Bounds
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Neighbors
from pdepth.arrays.problem import Problem
from pdepth.arrays.rows import Rows
from pdepth.native import default_arithmetic
from pdepth.progress import ProbeProgress


def unavailable() -> str | None:
    """None: it needs nothing but NumPy."""
    return None


def hold(
    rows: Rows, metric: str, memory: int, before: Any = None, packing: Any = None
) -> tuple[Rows, Any]:
    """Nothing is kept but the rows."""
    return rows, None


def session(
    problem: Problem, progress: ProbeProgress | None = None
) -> AbstractContextManager[ReferenceSession]:
    """Open a problem; nothing stays between its answers."""
    return nullcontext(ReferenceSession(problem, progress))


class ReferenceSession:
    """See `base.Session`."""

    def __init__(self, problem: Problem, progress: ProbeProgress | None) -> None:
        self._problem, self._progress = problem, progress

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64] | None = None,
        target: NDArray[np.int32] | None = None,
        *,
        counts: bool = False,
        nearest: int = 0,
    ) -> EncodedVotes:
        tables = [self._table(probe, queries) for probe in probes]
        votes = np.stack([table.votes for table in tables]).astype(np.int32)
        if target is not None:
            return EncodedVotes(np.where(votes == target, votes, UNKNOWN).astype(np.int32))
        answer = EncodedVotes(
            votes=votes,
            tied=np.stack([table.tied for table in tables]),
            counts=np.stack([table.counts for table in tables]).astype(np.int32)
            if counts
            else None,
        )
        if not nearest:
            return answer
        lists = [self.neighbors(probe, queries) for probe in probes]
        distances, rows = (np.stack(each)[..., :nearest] for each in zip(*lists, strict=True))
        return replace(answer, distances=distances, rows=rows)

    @default_arithmetic()
    def neighbors(
        self,
        probe: int,
        queries: NDArray[np.int64] | None = None,
        within: NDArray[np.float64] | None = None,
    ) -> Neighbors:
        """All k, however far."""
        support, asked, options = self._arguments(probe, queries)
        distances, rows = definition.kneighbors(support, asked, **options)
        return (-distances if self._problem.metric == "inner_product" else distances), rows

    def bounds(self, probe: int, width: int) -> Bounds:
        """The k nearest rows themselves."""
        return Bounds.exact(self.neighbors(probe))

    @default_arithmetic()
    def _table(self, probe: int, queries: NDArray[np.int64] | None) -> definition.VoteTable:
        support, asked, options = self._arguments(probe, queries)
        return definition.probe_votes(support, self._problem.codes, asked, **options)

    def _arguments(
        self, probe: int, queries: NDArray[np.int64] | None
    ) -> tuple[Any, Any, dict[str, Any]]:
        problem = self._problem
        rows, numbers = problem.probes[probe], problem.row_numbers(queries)
        if self._progress is not None:
            count = problem.num_queries if queries is None else len(queries)
            self._progress(probe, 0.0, count)
        options = {
            "k": problem.k, "exclude_self": problem.exclude_self, "metric": problem.metric,
        }  # fmt: skip
        if rows.queries is None:
            return rows.support.widened(), None, options | {"query_rows": numbers}
        asked = rows.queries.widened()
        return rows.support.widened(), asked if numbers is None else asked[numbers], options
