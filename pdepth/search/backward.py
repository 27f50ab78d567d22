"""The loop over probes: from the last to the first, with the queries whose votes still match.

This is the one place where early exit is decided. A backend answers queries at probes; here a query
is active as long as its votes equal its target, and is dropped at its first other vote.

A search with early exit calls the backend for each probe. One call for all of them, which dropped
queries itself, was 0.1 to 0.3 ms a probe faster (two threads, AVX2): 5 to 15 % for 1,000 rows and
200 queries at 11 probes of width 64, and not to be told from noise from 10,000 rows on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.arguments import Voting
from pdepth.arrays.convert import to_device
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes
from pdepth.arrays.problem import Problem
from pdepth.backends import Backend, Session, backend_named
from pdepth.io.journal import Journal
from pdepth.progress import ChunkProgress, ProbeProgress
from pdepth.result import DepthResult, Votes, depth_of, margins
from pdepth.search.chunks import ChunkedSession, KeptLists
from pdepth.search.mapping import MapTable
from pdepth.search.nearest import Arrays, Labelled, NearestTable, nearest_of
from pdepth.search.reader import Reader
from pdepth.search.voting import only_target, search_votes

NO_CLASS = -2  # the code of a label that no support row has: no vote equals it
QUERY_CHUNK = 1 << 14  # queries whose votes are in one file of a journal
NEAREST = "nearest-{:03}-{:05}"  # in a journal: what is kept of a query chunk at a probe


@dataclass(frozen=True, eq=False)
class Targets:
    """What the votes of N queries have to equal, checked.

    values: (N,) the reference, where it is neither the prediction nor a vote. codes: (N,) the
    classes' codes; None where the reference is the last probe's vote.
    """

    predictions: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    reference: str
    values: NDArray[np.int64] | None
    codes: NDArray[np.int32] | None

    @classmethod
    def of(cls, problem: Problem, predictions: Any, labels: Any, reference: Any) -> Targets:
        """For a problem's queries; the labels of support rows are known."""
        count = problem.num_queries
        predictions = arguments.check_integers(predictions, "predictions", count)
        if labels is not None:
            labels = arguments.check_integers(labels, "query_labels", count)
        elif problem.own_rows:
            labels = problem.classes[problem.codes]
            labels = labels if problem.query_rows is None else labels[problem.query_rows]
        reference = arguments.check_reference(reference, count)
        if not isinstance(reference, str):
            name, values = "array", reference
        else:
            name, values = reference, labels if reference == "label" else None
        if name == "label" and labels is None:
            raise ValueError(
                "query_labels: expected (N,) integers for reference='label', got None."
            )
        codes = None
        if name != "last_probe":
            expected = predictions if values is None else values
            places, known = arguments.codes_of(expected, problem.classes)
            codes = np.where(known, places, NO_CLASS).astype(np.int32)
        return cls(predictions, labels, name, values, codes)


class Voter(Protocol):
    """Whatever answers votes of a problem that is open: a backend's session, or a cluster."""

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64],
        targets: NDArray[np.int32] | None,
        *,
        counts: bool,
        progress: ChunkProgress | None,
    ) -> list[EncodedVotes]:
        """The votes (L, n) of each k at some probes; with targets (K, n), those that equal them.

        queries: by their numbers among the problem's, ascending. counts: of all classes, too; with
        a voting that asks for the nearest rows, those come with the first k's votes.
        """


OpenVoter = Callable[
    [Problem, Voting, str, ChunkProgress | None, KeptLists | None], AbstractContextManager[Voter]
]
"""Opens a problem; of the backend of that name, and with the running lists that a journal keeps."""


class SessionVoter:
    """See `Voter`: by a session of a backend."""

    def __init__(self, session: Session, problem: Problem, voting: Voting) -> None:
        self._session, self._problem, self._voting = session, problem, voting

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64],
        targets: NDArray[np.int32] | None,
        *,
        counts: bool,
        progress: ChunkProgress | None,
    ) -> list[EncodedVotes]:
        session, problem = self._session, self._problem
        with problem.watched(probes):
            if not self._voting.is_plain:
                (probe,) = probes
                return search_votes(
                    session, problem, self._voting, probe, queries, targets, counts=counts,
                    progress=progress,
                )  # fmt: skip
            whole = len(queries) == problem.num_queries
            target = None if targets is None else targets[0]
            return [
                session.votes(
                    probes, None if whole else queries, target, counts=counts,
                    nearest=self._voting.nearest,
                )
            ]  # fmt: skip


@contextmanager
def open_here(
    problem: Problem,
    voting: Voting,
    backend: str,
    progress: ChunkProgress | None,
    kept: KeptLists | None,
) -> Iterator[Voter]:
    """See `OpenVoter`: in this process."""
    chosen = backend_named(backend, problem.device)
    with open_session(problem, chosen, progress, kept) as session:
        yield SessionVoter(session, problem, voting)


class Found(NamedTuple):
    """What some queries' search gave: the votes of each k, and what is kept of their neighbours."""

    votes: list[EncodedVotes]
    nearest: Arrays | None = None


class ProbeSearch:
    """The votes of N queries at L probes, as far as they were searched.

    Attributes:
        votes: of each k, the votes at all probes (L, N).
        active: (n,) int64, the queries that the next probe is searched for.
    """

    active: NDArray[np.int64]

    def __init__(
        self,
        probes: int,
        queries: int,
        voting: Voting,
        backend: str,
        *,
        early_exit: bool = False,
        target: NDArray[np.int32] | None = None,
        keep: str = "",
        journal: Journal | None = None,
        table: NearestTable | None = None,
        maps: MapTable | None = None,
        open_voter: OpenVoter = open_here,
    ) -> None:
        """probes: of an iterator, its first problem's. early_exit: search from the last probe to
        the first, and only whether votes equal the codes `target` (N,), or the last probe's
        votes where it is None; not with `keep`. keep: "counts", "margins" or neither. journal:
        keeps votes as they come, and has those of an interrupted run. table: takes the nearest rows
        and all counts, where the voting asks for them; without it they stay with the votes, of
        "counts". maps: of the queries that each probe is searched for. open_voter: who answers.
        """
        self._shape, self._open_voter = (probes, queries), open_voter
        self._voting, self._backend = voting, backend
        self._early_exit = early_exit and not keep  # counts are of all votes
        self._keep, self._journal, self._table, self._maps = keep, journal, table, maps
        self._targets = None if target is None else np.stack([target] * len(voting.ks))
        self._matching = np.ones((len(voting.ks), queries), np.bool_)
        self._products = False  # known from the first problem on
        self.votes: list[EncodedVotes] = []
        self.active = np.arange(queries)

    def search(
        self,
        problem: Problem,
        first: int = 0,
        queries: NDArray[np.int64] | None = None,
        progress: ProbeProgress | None = None,
    ) -> None:
        """Search the probes of a problem, the first of which has number `first`.

        queries: (n,) the problem's queries by their numbers here, ascending; None for all.
        """
        report = None if progress is None else ChunkProgress(progress, first)
        self._products = problem.metric == "inner_product"
        kept = None
        if self._journal is not None:
            end = first + len(problem.probes)
            kept = KeptLists(self._journal, first, end, self.active)
        with self._open_voter(problem, self._voting, self._backend, report, kept) as voter:
            for probes in self._steps(len(problem.probes)):
                if len(self.active):
                    places = self.active
                    if queries is not None:
                        places = np.searchsorted(queries, self.active)
                    self._map(problem, first, probes, places)
                    self._search(voter, first, probes, places, report)

    def remove_lists(self) -> None:
        """Remove the running lists of the last reading from the journal: all is searched."""
        if self._journal is not None:
            self._journal.remove(KeptLists.NAME)

    def _steps(self, probes: int) -> Iterator[Sequence[int]]:
        """The probes in the order of their search, together where a backend may have them so.

        Alone, the counts of one probe are held at a time, and a journal has it when it is done.
        """
        if self._early_exit:
            yield from ([probe] for probe in reversed(range(probes)))
        elif (
            self._journal is None
            and self._table is None
            and self._keep != "margins"
            and self._voting.is_plain
        ):
            yield range(probes)
        else:
            yield from ([probe] for probe in range(probes))

    def _map(
        self, problem: Problem, first: int, probes: Sequence[int], places: NDArray[np.int64]
    ) -> None:
        """Map the active queries at some probes, if that is asked for."""
        if self._maps is None:
            return
        opener = partial(open_session, backend=backend_named(self._backend, problem.device))
        with problem.watched(probes):
            for probe in probes:
                self._maps.take(problem, probe, first + probe, places, self.active, opener)

    def _search(
        self,
        voter: Voter,
        first: int,
        probes: Sequence[int],
        places: NDArray[np.int64],
        report: ChunkProgress | None,
    ) -> None:
        """Search some probes for the active queries, and drop those whose votes differ.

        places: of the active queries among the problem's.
        """
        done = 0
        for chunk in self._query_chunks():
            active = self.active[chunk]
            found = self._known(first + probes[0], active)
            if found is None:
                if report is not None:
                    report.total, report.done = len(self.active), done
                found = self._found(voter, probes, places[chunk], active, report)
                self._write(first + probes[0], active, found)
            self._put(first + probes[0], active, found)
            done += len(active)
        if self._early_exit:
            self._drop(first + probes[0])

    def _found(
        self,
        voter: Voter,
        probes: Sequence[int],
        places: NDArray[np.int64],
        active: NDArray[np.int64],
        report: ChunkProgress | None,
    ) -> Found:
        """The votes of each k; places: of the active queries among the problem's."""
        targets = None
        if self._early_exit and self._targets is not None:
            targets = np.where(self._matching, self._targets, NO_CLASS)[:, active]
        kept = self._voting.nearest > 0  # with counts, of which no target spares any
        votes = voter.votes(
            probes, places, None if kept else targets, counts=bool(self._keep) or kept,
            progress=report,
        )  # fmt: skip
        if kept and self._products:
            votes[0] = votes[0].of_products()
        nearest = None
        if self._table is not None:
            nearest = nearest_of(votes, self._voting)
            votes = [replace(v, distances=None, rows=None) for v in votes]
            if targets is not None:
                return Found([*map(only_target, votes, targets)], nearest)
        if self._keep == "margins":
            votes = [replace(v, counts=None, margins=margins(v.counts)) for v in votes]
        elif self._keep != "counts":
            votes = [replace(v, counts=None) for v in votes]
        return Found(votes, nearest)

    def _query_chunks(self) -> list[slice | NDArray[np.intp]]:
        """Places among the active: all, or of those that a journal keeps in one file."""
        if self._journal is None:
            return [slice(None)]
        begins = np.flatnonzero(np.diff(self.active // QUERY_CHUNK, prepend=-1))
        return list(np.split(np.arange(len(self.active)), begins[1:]))

    def _write(self, probe: int, active: NDArray[np.int64], found: Found) -> None:
        """Have the journal keep what was found; votes are last, so that they do not stand alone."""
        if self._journal is None:
            return
        chunk = int(active[0]) // QUERY_CHUNK
        if found.nearest is not None:
            arrays = {"queries": active, **found.nearest}
            self._journal.write(NEAREST.format(probe, chunk), arrays)
        self._journal.write_votes(probe, chunk, active, found.votes)

    def _known(self, probe: int, active: NDArray[np.int64]) -> Found | None:
        """What the journal has of these queries."""
        if self._journal is None:
            return None
        chunk = int(active[0]) // QUERY_CHUNK
        votes = self._journal.read_votes(probe, chunk, active)
        if votes is None or self._table is None:
            return votes if votes is None else Found(votes)
        nearest = self._journal.read(NEAREST.format(probe, chunk))
        if nearest is None or not np.array_equal(nearest.pop("queries"), active):
            return None
        return Found(votes, nearest)

    def recall(self, probe: int) -> bool:
        """Take one probe's votes from the journal, if it has those of all active queries, and the
        map if there is to be one."""
        if self._maps is not None and not self._maps.recall(probe, self.active):
            return False
        known = []
        for chunk in self._query_chunks():
            found = self._known(probe, self.active[chunk])
            if found is None:
                return False
            known.append((self.active[chunk], found))
        for active, found in known:
            self._put(probe, active, found)
        if self._early_exit:
            self._drop(probe)
        return True

    def resumed_first(self, end: int) -> int | None:
        """The first of the probes that were read together when the run was interrupted, if they are
        those before `end`."""
        if self._journal is None:
            return None
        return KeptLists.first_probe(self._journal, end, self.active)

    def _put(self, first: int, queries: NDArray[np.int64], found: Found) -> None:
        votes = found.votes
        if self._table is not None and found.nearest is not None:
            self._table.put(first, queries, found.nearest)
        if not self.votes:
            if len(queries) == self._shape[1] and len(votes[0].votes) == self._shape[0]:
                self.votes = votes
                return
            self.votes = [of_k.unknown_like(*self._shape) for of_k in votes]
        more = first + len(votes[0].votes) - len(self.votes[0].votes)
        if more > 0:  # an iterator does not tell how many probes there will be
            count = self._shape[1]
            self.votes = [
                EncodedVotes.concatenated([v, v.unknown_like(more, count)]) for v in self.votes
            ]
        for whole, part in zip(self.votes, votes, strict=True):
            whole.put(first, queries, part)

    def _drop(self, probe: int) -> None:
        """Queries whose votes at a probe are not their targets are active no longer."""
        votes = np.stack([of_k.votes[probe] for of_k in self.votes])
        if self._targets is None:
            self._targets = votes
        self._matching &= votes == self._targets
        self.active = np.flatnonzero(self._matching.any(axis=0))

    def tables(
        self, classes: NDArray[np.int64], device: Any, *, single: bool
    ) -> Votes | dict[int, Votes]:
        """All votes in arrays of a torch device, or NumPy's; for several k, a dict of them by k.

        single: of one probe, whose arrays come alone.
        """

        def put(array: NDArray[Any] | None) -> Any:
            return to_device(array[0] if single and array is not None else array, device)

        nearest = put(self.votes[0].distances), put(self.votes[0].rows)  # of all k

        results = {
            k: Votes(
                votes=put(classes[encoded.votes]),
                classes=to_device(classes, device),
                tied=put(encoded.tied),
                counts=put(encoded.counts),
                distances=nearest[0],
                rows=nearest[1],
            )
            for k, encoded in zip(self._voting.ks, self.votes, strict=True)
        }
        return results if self._voting.several else results[self._voting.ks[0]]

    def results(
        self,
        support: Labelled,
        targets: Targets,
        probes: Sequence[tuple[str, int]],
        leave_one_out: bool,
        meta: dict[str, str],
        rows: NDArray[np.int64] | None = None,
        checksums: NDArray[np.uint64] | None = None,
    ) -> DepthResult | dict[int, DepthResult]:
        """The depths; for several k, a dict of them by k. probes: names and widths."""
        results, classes, table = {}, support.classes, self._table
        names = tuple([name for name, _ in probes])
        kept_map = None
        if self._maps is not None:
            kept_map = self._maps.kept(names, classes[support.codes], support.row_numbers)
        for k, encoded in zip(self._voting.ks, self.votes, strict=True):
            codes: NDArray[np.int32] = encoded.votes[-1] if targets.codes is None else targets.codes
            known = encoded.votes != UNKNOWN
            depth, undefined = depth_of(encoded.votes == codes)
            last = targets.reference == "last_probe"
            results[k] = DepthResult(
                depth=depth,
                undefined=undefined,
                votes=np.where(known, classes[encoded.votes], -1),
                known=known,
                predictions=targets.predictions,
                labels=targets.labels,
                probes=names,
                k=k,
                widths=tuple([width for _, width in probes]),
                leave_one_out=leave_one_out,
                reference=targets.reference,
                reference_values=classes[codes] if last else targets.values,
                tied=encoded.tied if self._keep else None,
                margins=encoded.margins,
                meta=dict(meta),
                rows=rows,
                checksums=checksums,
                neighbors=None if table is None else table.kept(k, names, support),
                map=kept_map,
            )
        return results if self._voting.several else results[self._voting.ks[0]]


@contextmanager
def open_session(
    problem: Problem,
    backend: Backend,
    progress: ProbeProgress | None = None,
    kept: KeptLists | None = None,
) -> Iterator[Session]:
    """The backend's session of a problem; or one that reads the problem's rows for the backend.

    kept: the running lists of a shared reading, for a search that resumes.
    """
    if problem.in_memory:
        with backend.session(problem, progress) as session:
            yield session
    else:
        with Reader() as reader:
            yield ChunkedSession(problem, backend, reader, progress, kept)
