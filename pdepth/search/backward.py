"""Votes of queries at groups of probes, one group after the other; and the depths they make.

Backward, from the last group to the first, a query is asked as long as its votes are the wanted
ones. What a group's rows are made of, and how long they live, is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.arguments import Problem, Voting
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Engine
from pdepth.backends import Progress, backend_named
from pdepth.io.journal import Journal
from pdepth.result import DepthResult, margins
from pdepth.search import chunks, voting

NO_CLASS = -2  # the code of what no support row has: no vote equals it
BLOCK = 1 << 14  # queries whose votes are kept in a journal together


@dataclass(frozen=True, eq=False)
class Targets:
    """What belongs to the queries, checked.

    values: (N,) what votes are compared with, where that is neither the prediction nor a vote.
    wanted: (N,) its codes; None where it is the last probe's vote.
    """

    predictions: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    reference: str
    values: NDArray[np.int64] | None
    wanted: NDArray[np.int32] | None

    @classmethod
    def of(cls, problem: Problem, predictions: Any, labels: Any, reference: Any) -> Targets:
        """Of a problem's queries; where they are its own rows, their labels are known."""
        predicted = arguments.check_integers(predictions, "predictions", problem.count)
        if labels is not None:
            labels = arguments.check_integers(labels, "query_labels", problem.count)
        elif problem.layers[0].queries is None:
            labels = problem.classes[problem.codes]
            labels = labels if problem.query_rows is None else labels[problem.query_rows]
        asked = arguments.check_reference(reference, problem.count)
        name = asked if isinstance(asked, str) else "array"
        if name == "label" and labels is None:
            raise ValueError(
                "reference is 'label' and query_labels is None; (N,) integers are wanted."
            )
        values: NDArray[np.int64] | None = None if isinstance(asked, str) else asked
        if name == "label":
            values = labels
        wanted = None
        if name != "last_probe":
            wanted = _codes_of(predicted if values is None else values, problem.classes)
        return cls(predicted, labels, name, values, wanted)


class Walk:
    """The votes of N queries at L probes, as far as they have been asked.

    Attributes:
        found: of each k of the ballot, what was found at all probes (L, N).
        alive: (n,) int64, the queries that the next group is asked about.
    """

    def __init__(
        self,
        probes: int,
        queries: int,
        ballot: Voting,
        backend: str,
        *,
        early_exit: bool = False,
        wanted: NDArray[np.int32] | None = None,
        counting: str = "",
        journal: Journal | None = None,
    ) -> None:
        """probes: 0 where that is not known. early_exit: groups come from the last to the first,
        and are asked only whether votes are the `wanted` codes (N,); without these, the last
        probe's own votes. counting: "counts" or "margins" to keep them, or neither. journal: keeps
        votes as they come, and knows some.
        """
        self._shape = probes, queries
        self._ballot, self._backend = ballot, backend
        self._early_exit, self._counting, self._journal = early_exit, counting, journal
        self._wanted = None if wanted is None else np.stack([wanted] * len(ballot.ks))
        self._going = np.ones((len(ballot.ks), queries), np.bool_)
        self.found: list[EncodedVotes] = []
        self.alive = np.arange(queries)

    def ask(
        self,
        first: int,
        problem: Problem,
        progress: Progress | None = None,
        given: NDArray[np.int64] | None = None,
        engine: Engine | None = None,
    ) -> None:
        """The probes from number `first` on, which are the problem's layers, about the alive.

        given: (n,) the problem's queries by their numbers, ascending; None for the alive. engine:
        what answers; None for the backend.
        """
        engine = engine or self.engine_for(problem)
        given = self.alive if given is None else given
        for number, part in self._parts(problem):
            if not len(self.alive):
                return
            report = None if progress is None else _shifted(progress, first + number)
            places = np.searchsorted(given, self.alive)
            for some in self._blocks():
                found = self._answer(first + number, part, engine, some, places, report)
                self._put(first + number, self.alive[some], found)
            if self._early_exit:
                self._leave(first + number)

    def engine_for(self, problem: Problem) -> Engine:
        """The backend, or one around it that reads the problem's rows."""
        return chunks.engine_for(problem, backend_named(self._backend, problem.device))

    def _parts(self, problem: Problem) -> Iterator[tuple[int, Problem]]:
        """The layers, in the order in which they are asked, together if an engine may have them so.

        Alone, one layer's counts are held at a time, and a journal knows it when it is done.
        """
        layers = problem.layers
        together = self._journal is None and self._counting != "margins"
        if self._early_exit and together and self._wanted is None:
            yield len(layers) - 1, replace(problem, layers=layers[-1:])
            layers = layers[:-1]
        if together:
            if layers:
                yield 0, replace(problem, layers=layers)
            return
        numbers = range(len(layers))
        for number in reversed(numbers) if self._early_exit else numbers:
            yield number, replace(problem, layers=layers[number : number + 1])

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        """Places among the alive: all, or of those that a journal keeps together."""
        if self._journal is None:
            yield np.arange(len(self.alive))
            return
        begins = np.flatnonzero(np.diff(self.alive // BLOCK, prepend=-1))
        yield from np.split(np.arange(len(self.alive)), begins[1:])

    def _answer(
        self,
        number: int,
        part: Problem,
        engine: Engine,
        some: NDArray[np.int64],
        places: NDArray[np.int64],
        progress: Progress | None,
    ) -> list[EncodedVotes]:
        """What some of the alive vote, of each k; places: of the alive in the problem."""
        who = self.alive[some]
        if (known := self._known(number, who)) is not None:
            return known
        wanted = None
        if self._early_exit and self._wanted is not None:
            wanted = np.where(self._going, self._wanted, NO_CLASS)[:, who]
        if len(some) < part.count:
            part = voting.asked(part, part.layers[0], places[some])
        counting = bool(self._counting)
        found = voting.votes(part, self._ballot, engine, wanted, counting, progress)
        if self._counting == "margins":
            found = [replace(each, counts=None, margins=margins(each.counts)) for each in found]
        if self._journal is not None:
            self._journal.keep(number, int(who[0]) // BLOCK, who, found)
        return found

    def _known(self, number: int, who: NDArray[np.int64]) -> list[EncodedVotes] | None:
        if self._journal is None:
            return None
        return self._journal.votes(number, int(who[0]) // BLOCK, who)

    def recall(self, number: int) -> bool:
        """One probe's votes from the journal, if it knows those of all the alive."""
        known = []
        for some in self._blocks():
            found = self._known(number, self.alive[some])
            if found is None:
                return False
            known.append((self.alive[some], found))
        for who, found in known:
            self._put(number, who, found)
        if self._early_exit:
            self._leave(number)
        return True

    def _put(self, first: int, who: NDArray[np.int64], found: list[EncodedVotes]) -> None:
        if not self.found:
            self.found = [each.spread(*self._shape) for each in found]
        more = first + len(found[0].votes) - len(self.found[0].votes)
        if more > 0:  # of an iterator nobody knows how many there will be
            queries = self._shape[1]
            self.found = [EncodedVotes.joined([e, e.spread(more, queries)]) for e in self.found]
        for whole, part in zip(self.found, found, strict=True):
            whole.put(first, who, part)

    def _leave(self, first: int) -> None:
        """Those whose votes there are not the wanted ones are asked no more."""
        votes = np.stack([each.votes[first] for each in self.found])
        if self._wanted is None:
            self._wanted = votes
        self._going &= votes == self._wanted
        self.alive = np.flatnonzero(self._going.any(axis=0))

    def results(
        self,
        problem: Problem,
        given: Targets,
        probes: Sequence[tuple[str, int]],
        leave_one_out: bool,
        meta: dict[str, str],
    ) -> DepthResult | dict[int, DepthResult]:
        """The depths; for several k, a dict of them by k. probes: names and widths."""
        results = {}
        for k, coded in zip(self._ballot.ks, self.found, strict=True):
            wanted: NDArray[np.int32] = coded.votes[-1] if given.wanted is None else given.wanted
            known = coded.votes != UNKNOWN
            depth, undefined = suffix(coded.votes == wanted)
            last = given.reference == "last_probe"
            results[k] = DepthResult(
                depth=depth,
                undefined=undefined,
                votes=np.where(known, problem.classes[coded.votes], -1),
                known=known,
                predictions=given.predictions,
                labels=given.labels,
                probes=tuple(name for name, _ in probes),
                k=k,
                widths=tuple(width for _, width in probes),
                leave_one_out=leave_one_out,
                reference=given.reference,
                reference_values=problem.classes[wanted] if last else given.values,
                tied=coded.tied if self._counting else None,
                margins=coded.margins,
                meta=dict(meta),
            )
        return results if self._ballot.several else results[self._ballot.ks[0]]


def suffix(agrees: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where the last run of True begins in each column, len(agrees) where there is none; whether
    there is none."""
    run = np.logical_and.accumulate(agrees[::-1], axis=0).sum(axis=0, dtype=np.int64)
    return len(agrees) - run, run == 0


def _shifted(progress: Progress, by: int) -> Progress:
    return lambda layer, fraction, asked: progress(layer + by, fraction, asked)


def _codes_of(labels: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int32]:
    """Each label's place in `classes`, or NO_CLASS."""
    places = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[places] == labels, places, NO_CLASS).astype(np.int32)
