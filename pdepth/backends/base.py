"""What a backend is: it opens problems, and answers queries at their probes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.bounds import Bounds
from pdepth.arrays.encoded import EncodedVotes, Neighbors
from pdepth.arrays.problem import Problem
from pdepth.arrays.rows import Rows
from pdepth.progress import ProbeProgress


class Session(Protocol):
    """A problem at work. What one answer can leave to the next, such as rows on a device, lives
    here. Queries are given by their numbers among the problem's, ascending; None for all."""

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64] | None = None,
        target: NDArray[np.int32] | None = None,
        *,
        counts: bool = False,
        nearest: int = 0,
    ) -> EncodedVotes:
        """Votes (L, n) of the queries at some probes.

        With `target` (n,), votes that equal it, and `UNKNOWN` for all others: this takes less proof
        than the vote itself. counts: also how many votes each class had, which goes with no target.
        nearest: with counts, also so many of the nearest rows, at most k, as `neighbors` has them.
        """

    def neighbors(
        self,
        probe: int,
        queries: NDArray[np.int64] | None = None,
        within: NDArray[np.float64] | None = None,
    ) -> Neighbors:
        """The k nearest support rows of the queries at one probe; see `Problem.metric`.

        within: (n,) squared distances, or None: rows beyond them may be left out, and are NaN and
        -1; NaN for any distance.
        """

    def bounds(self, probe: int, width: int) -> Bounds:
        """Rows of which the k nearest of each query are at one probe, by bounds of distances.

        width: of a query's list, about; k rows need no more.
        """


class Opener(Protocol):
    """Whatever opens problems."""

    def session(
        self, problem: Problem, progress: ProbeProgress | None = None
    ) -> AbstractContextManager[Session]:
        """Open a problem; that of a backend, one whose rows are all in memory."""


class Backend(Opener, Protocol):
    """A module of `pdepth.backends`."""

    def unavailable(self) -> str | None:
        """Why the backend cannot be used here; None where it can."""

    def hold(
        self, rows: Rows, metric: str, memory: int, before: Any = None, packing: Any = None
    ) -> tuple[Rows, Any]:
        """A support that is searched again and again: its rows where the backend wants them, and
        `ProbeRows.packed`.

        metric: of `Problem`. memory: bytes that may be packed. before: what it keeps of the first
        of these rows. packing: what it had packed of these, as a file kept it.
        """
