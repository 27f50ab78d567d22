"""What a search on a cluster sends and does: counted as it runs, and foreseen for a plan."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from pdepth.arrays.arguments import Voting
from pdepth.arrays.encoded import EncodedVotes
from pdepth.arrays.memory import human

DISTANCE_BYTES, ROW_BYTES = 8, 8  # of a neighbour in a list
NUMBER_BYTES = 8  # of a query, where it is left out of its own list
VOTE_BYTES = 4 + 1  # of a query and k: the class, and whether it was tied
# Rows of so many bytes, whose distances take longer than bounds of them take to be sent, are
# listed by bounds: so many a neighbour, at most, and no more than take some times a row's bytes.
BOUNDED_BYTES = 384
CANDIDATES, BYTES_OF_CANDIDATE = 10, 16
BOUNDS_BYTES = 8 + 8 + 8  # of a candidate: lower, upper, row
WANTED_BYTES = 8 + 8  # of one whose distance is asked for: query, row
SETTLED_BYTES = 8 + WANTED_BYTES + 8  # of the answer: place, what was asked for, distance


@dataclass(frozen=True)
class Work:
    """What one worker did of a query chunk.

    seconds, operations: of the search, two for each product. received: bytes that came to it.
    """

    worker: int
    seconds: float
    operations: float
    received: int


@dataclass
class Traffic:
    """Bytes that go from one process to another.

    queries: rows that are asked for, once for each worker that they go to. lists: of neighbours, or
    of rows that may be, to be merged, and distances of these. votes: to the process that made the
    call. support: rows of arrays, once to the worker that keeps them; rows of the support that
    travel to be searched are none.
    """

    queries: int = 0
    lists: int = 0
    votes: int = 0
    support: int = 0

    def add(self, work: Sequence[Work], holder: int | None) -> None:
        """What came to workers for a query chunk. holder: the one that had it, if one did."""
        for each in work:
            if each.operations and each.worker != holder:
                self.queries += each.received
            elif not each.operations:
                self.lists += each.received

    def add_votes(self, votes: Sequence[EncodedVotes]) -> None:
        """What came to the process that made the call."""
        self.votes += sum(array.nbytes for of_k in votes for _, array in of_k.arrays())

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return (
            f"{human(self.queries)} of queries, {human(self.lists)} of lists and "
            f"{human(self.votes)} of votes between processes"
        )


@dataclass(frozen=True)
class Asked:
    """The queries of a search, of which traffic follows.

    active: how many are searched at each probe. row_bytes: of one there. own_rows: whether they are
    the support's, left out of their own lists. held: whether workers have them, and not the process
    that made the call. passing: the probes whose support passes by, for lists of the nearest rows.
    """

    active: Sequence[int]
    row_bytes: Sequence[int]
    voting: Voting
    own_rows: bool
    held: bool = True
    metric: str = "sqeuclidean"
    passing: Collection[int] = ()


def foreseen(asked: Asked, workers: int) -> Traffic:
    """What `workers` with rows of the support will send; without counts of votes.

    Of lists of bounds the most, but for queries that are searched again: how long they are depends
    on the rows.
    """
    traffic = Traffic()
    receivers = workers - asked.held
    for probe, (active, row_bytes) in enumerate(zip(asked.active, asked.row_bytes, strict=True)):
        each = row_bytes + (NUMBER_BYTES if asked.own_rows else 0)
        traffic.queries += active * each * receivers
        lists = asked.voting.k * (DISTANCE_BYTES + ROW_BYTES)
        if probe not in asked.passing:
            lists = list_bytes(row_bytes, asked.voting, asked.metric)
        traffic.lists += active * lists * (workers - 1)
        nearest = asked.voting.nearest * (DISTANCE_BYTES + ROW_BYTES)
        traffic.votes += active * (VOTE_BYTES * len(asked.voting.ks) + nearest)
    return traffic


def most_candidates(row_bytes: int, k: int) -> int:
    """Of a query, in a list of bounds; 0 for rows that are too narrow for them."""
    if row_bytes < BOUNDED_BYTES:
        return 0
    return max(2 * k, min(CANDIDATES * k, row_bytes // BYTES_OF_CANDIDATE))


def candidates_for(row_bytes: int, voting: Voting, metric: str) -> int:
    """Of a query, at most, in a list of bounds that votes are proven by; 0 where lists are of the
    k nearest rows. Of counts, and where rows are kept, they always are."""
    if not voting.is_plain or voting.nearest or metric == "inner_product":
        return 0
    return most_candidates(row_bytes, voting.k)


def list_bytes(row_bytes: int, voting: Voting, metric: str) -> int:
    """Of a query's list: of the nearest rows; at most, of bounds, and the distances asked for."""
    candidates = candidates_for(row_bytes, voting, metric)
    if not candidates:
        return voting.k * (DISTANCE_BYTES + ROW_BYTES)
    return candidates * (BOUNDS_BYTES + WANTED_BYTES + SETTLED_BYTES) + 2 * NUMBER_BYTES


class Rates:
    """How fast workers were, so far."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._operations: dict[int, float] = {}

    def add(self, work: Sequence[Work]) -> None:
        for each in work:
            self._seconds[each.worker] = self._seconds.get(each.worker, 0.0) + each.seconds
            self._operations[each.worker] = self._operations.get(each.worker, 0.0) + each.operations

    @property
    def by_worker(self) -> dict[int, float]:
        """Operations a second of each worker that has searched."""
        return {
            worker: self._operations[worker] / seconds
            for worker, seconds in sorted(self._seconds.items())
            if seconds
        }

    def __str__(self) -> str:
        """The slowest worker beside the fastest, for the display of progress."""
        rates = self.by_worker
        if len(rates) < 2:
            return ""
        slowest, fastest = (choose(rates, key=lambda w: rates[w]) for choose in (min, max))
        return (
            f"worker {slowest} {rates[slowest] / 1e9:.3g} and worker {fastest} "
            f"{rates[fastest] / 1e9:.3g} GFLOP/s of {len(rates)} workers"
        )
