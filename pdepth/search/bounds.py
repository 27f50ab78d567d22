"""Votes that bounds prove, of a support in parts: see `pdepth.certify` for what they prove.

Each part lists the rows that may be among its k nearest, by bounds of their distances: the k
nearest of the whole support are among those of its parts. The lists merge, and where what is
certain does not decide a vote, the distances are asked for that decide most. What they leave open
is for a search of the k nearest rows themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import _native
from pdepth.arrays.bounds import LEFT_OUT, Bounds
from pdepth.arrays.encoded import EncodedVotes
from pdepth.arrays.problem import Problem
from pdepth.arrays.rows import Rows
from pdepth.arrays.sources import Stored
from pdepth.backends import cpu
from pdepth.backends.base import Opener
from pdepth.native import check_headroom
from pdepth.search.topk import Part


def bounds_of(
    part: Part, problem: Problem, backend: Opener, queries: Rows, left_out: Any, width: int
) -> Bounds:
    """The candidates of a part, by their rows in the support. width: of a list, at most.

    left_out: (n,) the support row that each query is, or None; see `topk.RunningTopK`.
    """
    inside, searched = part.problem(problem, queries, left_out)
    with backend.session(searched) as session:
        found = session.bounds(0, width)
    found = merged([found], searched, max(width, searched.k))
    rows = found.rows
    rows[rows >= 0] += part.begin
    if inside:
        rows[rows == left_out[found.queries]] = LEFT_OUT
    return found


def merged(parts: Sequence[Bounds], problem: Problem, width: int) -> Bounds:
    """The candidates of several parts together. Of a query that has more than `width`, none: it
    will be open."""
    check_headroom()
    arrays = [part.arrays for part in parts]
    return Bounds(
        *_native.merge_lists(arrays, k=problem.k, width=width, threads=problem.num_threads)
    )


@dataclass(frozen=True, eq=False)
class Proof:
    """Votes (1, n) of queries, but for those that are open.

    open: (m,) the others, by their numbers. lists: of those. asked: for each of their candidates,
    whether its distance is asked for.
    """

    votes: EncodedVotes
    open: NDArray[np.int64]
    lists: Bounds
    asked: NDArray[np.bool_]

    @classmethod
    def of(cls, bounds: Bounds, problem: Problem, ask: int) -> Proof:
        """What lists of a whole support prove. ask: for how many distances of an open query, about;
        0 for all that its vote may depend on."""
        n = len(bounds)
        votes, tied, left = np.empty(n, np.int32), np.empty(n, np.bool_), np.empty(n, np.bool_)
        check_headroom()
        lists, asked = _native.prove_votes(
            bounds.arrays, codes=problem.codes, classes=len(problem.classes), k=problem.k,
            asked=ask, votes=votes, tied=tied, open=left, threads=problem.num_threads,
        )  # fmt: skip
        encoded = EncodedVotes(votes[None], tied[None])
        return cls(encoded, np.flatnonzero(left), Bounds(*lists), asked.astype(np.bool_))

    @property
    def wanted(self) -> Wanted:
        """The distances that are asked for."""
        return Wanted(self.open[self.lists.queries[self.asked]], self.lists.rows[self.asked])

    def with_distances(self, settled: Sequence[Settled], problem: Problem, ask: int) -> Proof:
        """What is proven when the distances that were asked for are known; ask: see `of`.

        Distances that another proof has asked for are left aside: one that is made again, in place
        of a lost one, may have other bounds.
        """
        lower, upper = self.lists.lower.copy(), self.lists.upper.copy()
        asked, wanted = np.flatnonzero(self.asked), self.wanted
        for each in settled:
            if each.answers(wanted):
                places = asked[each.places]
                lower[places] = upper[places] = each.distances
        more = Proof.of(replace(self.lists, lower=lower, upper=upper), problem, ask)
        votes = self.votes.with_those_of(self.open, more.votes)
        return replace(more, votes=votes, open=self.open[more.open])


@dataclass(frozen=True, eq=False)
class Wanted:
    """Pairs whose distances are asked for: numbers (n,) of queries, rows (n,) of the support."""

    queries: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        return self.queries.nbytes + self.rows.nbytes

    def at(self, places: NDArray[np.intp]) -> Wanted:
        """Some of them."""
        return Wanted(self.queries[places], self.rows[places])

    def distances(self, part: Part, queries: Rows, num_threads: int) -> Settled:
        """Those of rows of a part."""
        end = part.begin + len(part.rows)
        places = np.flatnonzero((self.rows >= part.begin) & (self.rows < end))
        if not len(places):
            return Settled(places, self.at(places), np.empty(0))
        held, rows = part.rows, self.rows[places] - part.begin
        if isinstance(held, Stored):  # since they were searched
            numbers, rows = np.unique(rows, return_inverse=True)
            held = held[numbers]
        found = cpu.distances(held, queries, (self.queries[places], rows), num_threads)
        return Settled(places, self.at(places), found)


@dataclass(frozen=True, eq=False)
class Settled:
    """Some of the distances (n,) that are asked for, with their pairs, and the places (n,) of these
    among all that are."""

    places: NDArray[np.intp]
    pairs: Wanted
    distances: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + self.pairs.nbytes + self.distances.nbytes

    def answers(self, wanted: Wanted) -> bool:
        """Whether these are what was asked for."""
        if len(self.places) and self.places[-1] >= len(wanted.rows):
            return False
        there = wanted.at(self.places)
        same_queries = np.array_equal(there.queries, self.pairs.queries)
        return same_queries and np.array_equal(there.rows, self.pairs.rows)
