"""One process of a cluster: the rows of the support that it keeps, and what it answers of them.

Ray starts a worker that died again, and repeats its calls: so that each call brings what it needs,
and a worker keeps nothing that it could not make again. Nothing here knows Ray.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Voting
from pdepth.arrays.bounds import Bounds
from pdepth.arrays.encoded import EncodedVotes, Neighbors
from pdepth.arrays.memory import free_bytes
from pdepth.arrays.problem import Problem
from pdepth.arrays.rows import Rows
from pdepth.arrays.sources import Stored, reading_of
from pdepth.backends import Backend, Session, backend_named, cpu
from pdepth.cluster.sending import Kept, Sent, opened
from pdepth.cluster.shards import ShardRows
from pdepth.cluster.traffic import Work
from pdepth.progress import ProbeProgress
from pdepth.search.backward import open_session
from pdepth.search.bounds import Proof, Settled, Wanted, bounds_of, merged
from pdepth.search.chunks import together
from pdepth.search.topk import Part, RunningTopK, merge
from pdepth.search.voting import votes_of_neighbors

if TYPE_CHECKING:
    from pdepth.cluster.network import Embedded, NetworkShard, ShardReading, SpanShard
    from pdepth.cluster.spilling import WorkersSpill
    from pdepth.embeddings.batch import Batch
    from pdepth.embeddings.dataset import Rows as DataRows


Found = TypeVar("Found")


@dataclass(frozen=True)
class About:
    """A process, and where it runs.

    versions: by name, of what has to be the same in all of them. host: its name. free: bytes of
    memory that are free there; None where the system does not tell. devices: the GPUs that it may
    use, as CUDA_VISIBLE_DEVICES has them.
    """

    versions: dict[str, str]
    host: str
    free: int | None
    devices: str = ""

    @classmethod
    def here(cls, network: bool) -> About:
        """network: whether one runs here."""
        versions = {"pdepth": version("pdepth"), "Python": platform.python_version()}
        if network:
            import torch

            versions["torch"] = str(torch.__version__)
            versions["torch's level"] = torch.backends.cpu.get_cpu_capability()
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return cls(versions, platform.node(), free_bytes(), devices)


@dataclass(frozen=True, eq=False)
class Done(Generic[Found]):
    """What was found for some queries in some shards, and the work that it took."""

    found: Found
    work: tuple[Work, ...]


Lists = Done[Neighbors]
"""The nearest rows."""
BoundLists = Done[Bounds]
"""Rows that may be the nearest."""
Proven = Done[Proof]
"""Votes by lists of the whole support."""
Distances = Done[Settled]
"""Distances that were asked for, and what came to the worker that has the rows."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The votes (1, n) of each k of some queries, and what was done for them.

    open: (m,) those whose votes are not among them, by their numbers.
    """

    votes: list[EncodedVotes]
    open: NDArray[np.int64]
    work: tuple[Work, ...]


class Worker:
    """See the module. What is in an answer follows from its arguments, whatever was asked before;
    bounds alone may be others when they are made again, and are as right.

    What may fail does so in an answer, and not as the worker starts, where Ray would try again.
    """

    def __init__(self, number: int, backend: str) -> None:
        """number: among the workers. backend: of the search, by its name."""
        self._number, self._backend_name = number, backend
        self._network: NetworkShard | None = None
        self._last: tuple[Rows, Rows, Any] | None = None  # what was searched last, and is kept

    def about(self, network: bool) -> About:
        """What is compared before any work; network: whether one will run."""
        return About.here(network)

    def network(self, sent: Sent) -> NetworkShard:
        """What this worker embeds; opened when it is first asked."""
        if self._network is None:
            from pdepth.cluster.network import NetworkShard

            task, parts = opened(sent.task.value()), opened(sent.parts.value())
            self._network = NetworkShard(self._number, task, parts)
        return self._network

    def close(self) -> None:
        """Drop the network."""
        if self._network is not None:
            self._network.close()
            self._network = None

    def remove_spilled(self, spill: WorkersSpill) -> None:
        """Drop the network, and what this machine's disk has of the call, but for what other
        workers still hold there."""
        self.close()
        spill.folder.discard_all()

    def checksums(self, sent: Sent, batch: Batch) -> dict[int, int]:
        """See `NetworkShard`."""
        with self._named():
            return self.network(sent).checksums(batch)

    def read_rows(self, sent: Sent) -> list[DataRows]:
        """See `NetworkShard`."""
        with self._named():
            return self.network(sent).read_rows()

    def read(self, shard: SpanShard) -> ShardReading:
        """See `NetworkShard`."""
        self._last = None
        with self._named():
            return self.network(shard.sent).read(shard)

    def embed(self, shard: SpanShard) -> Embedded:
        """See `NetworkShard`."""
        self._last = None  # before there are others beside it
        with self._named():
            return self.network(shard.sent).embed(shard)

    def queries(self, shard: ShardRows | SpanShard, probe: int, numbers: NDArray[np.int64]) -> Rows:
        """Some rows at a probe, by their numbers among all queries, ascending: for all shards."""
        with self._named():
            if isinstance(shard, ShardRows):
                return shard.rows[numbers - shard.first].on_host()
            return self.network(shard.sent).queries(shard, probe, numbers)

    def lists(
        self,
        problem: Problem,
        shard: ShardRows | SpanShard,
        probe: int,
        queries: Rows,
        left_out: NDArray[np.int64] | None,
    ) -> Lists:
        """The k nearest rows of a shard (n, k), by their numbers in the support; of fewer rows,
        NaN and -1 behind them.

        left_out: (n,) the support's row that each query is, where it is left out of its own list.
        """
        with self._named():
            part, problem = self._part(problem, shard, probe)
            begin = time.perf_counter()
            running = RunningTopK(problem, AnyRows(self._backend), len(queries), left_out)
            running.take(part, queries)
        return Lists(running.lists, (self._searched(begin, part, queries, left_out),))

    def passed(
        self,
        problem: Problem,
        shard: SpanShard,
        probes: Sequence[int],
        left_out: Sequence[NDArray[np.int64]] | None,
        *queries: Rows,
    ) -> list[Lists] | Lists:
        """The `lists` of query chunks at some probes of a network, whose support is computed once
        for all of them; one alone is not in a list, as Ray has it.

        left_out: of each chunk. queries: of the first probe each chunk, then of the next.
        """
        with self._named():
            network, backend = self.network(shard.sent), AnyRows(self._backend)
            chunks, found = len(queries) // len(probes), dict[int, list[ChunkLists]]()
            for rows in network.passing(shard, probes):
                for probe in rows:
                    of_probe = replace(problem, memory=network.memory(shard, probe))
                    begin = chunks * probes.index(probe)
                    found[probe] = [
                        ChunkLists(of_probe, backend, queries[begin + chunk], out)
                        for chunk, out in zip(range(chunks), left_out or repeat(None), strict=False)
                    ]
                for probe, part in self._parts(problem, rows):
                    for lists in found[probe]:
                        lists.take(part)
                    del part
        done = [
            lists.done(self._number, counted=probe == probes[0])
            for probe in probes
            for lists in found[probe]
        ]
        return done if len(done) > 1 else done[0]

    def bounds(
        self,
        problem: Problem,
        shard: ShardRows | SpanShard,
        probe: int,
        queries: Rows,
        left_out: NDArray[np.int64] | None,
        width: int,
    ) -> BoundLists:
        """The rows of a shard of which its k nearest are, at most `width` of each query."""
        with self._named():
            part, problem = self._part(problem, shard, probe)
            begin = time.perf_counter()
            backend = AnyRows(self._backend)
            found = bounds_of(part, problem, backend, queries, left_out, width)
        return BoundLists(found, (self._searched(begin, part, queries, left_out),))

    def merged_bounds(
        self, problem: Problem, earlier: BoundLists, later: BoundLists, width: int
    ) -> BoundLists:
        """Those of two shards; one list is this worker's own, and the other came to it."""
        found = merged([earlier.found, later.found], problem, width)
        other = later if earlier.work[-1].worker == self._number else earlier
        work = Work(self._number, 0.0, 0.0, other.found.nbytes)
        return BoundLists(found, (*earlier.work, *later.work, work))

    def proof(self, problem: Problem, lists: BoundLists, ask: int) -> Proven:
        """The votes that lists of the whole support prove; ask: see `Proof.of`."""
        return Proven(Proof.of(lists.found, problem, ask), lists.work)

    def wanted(self, proven: Proven) -> Wanted:
        """The distances that are asked for, and nothing else that would travel."""
        return proven.found.wanted

    def distances(
        self,
        problem: Problem,
        shard: ShardRows | SpanShard,
        probe: int,
        queries: Rows,
        wanted: Wanted,
        asking: int,
    ) -> Distances:
        """Those of rows of a shard that the worker of that number asks for."""
        with self._named():
            part, problem = self._part(problem, shard, probe)
            settled = wanted.distances(part, queries, problem.num_threads)
        received = 0 if asking == self._number else wanted.nbytes
        return Distances(settled, (Work(self._number, 0.0, 0.0, received),))

    def proof_by_distances(
        self, problem: Problem, proven: Proven, ask: int, *found: Distances
    ) -> Proven:
        """The votes that are proven when these are known."""
        came = sum(each.found.nbytes for each in found if each.work[-1].worker != self._number)
        proof = proven.found.with_distances([each.found for each in found], problem, ask)
        work = *proven.work, *(of_one for each in found for of_one in each.work)
        return Proven(proof, (*work, Work(self._number, 0.0, 0.0, came)))

    def proven_votes(self, proven: Proven) -> Answer:
        """The votes that are proven."""
        return Answer([proven.found.votes], proven.found.open, proven.work)

    def rest(
        self,
        problem: Problem,
        shard: ShardRows | SpanShard,
        probe: int,
        queries: Rows,
        left_out: NDArray[np.int64] | None,
        numbers: NDArray[np.int64],
    ) -> Lists:
        """The lists of the queries of these numbers alone."""
        of_rest = None if left_out is None else left_out[numbers]
        return self.lists(problem, shard, probe, queries[numbers], of_rest)

    def _part(
        self, problem: Problem, shard: ShardRows | SpanShard, probe: int
    ) -> tuple[Part, Problem]:
        """The rows of a shard as they are searched, and the memory for it in the problem."""
        if not isinstance(shard, ShardRows):
            network = self.network(shard.sent)
            problem = replace(problem, memory=network.memory(shard, probe))
            shard = network.support(shard, probe)
        rows, packed = self._held(shard.rows, problem)
        return Part(shard.name, rows, shard.first, packed), problem

    def _parts(self, problem: Problem, rows: dict[int, ShardRows]) -> Iterator[tuple[int, Part]]:
        """The rows of a shard at probes that are read together, or at one, as they are searched."""
        (probe, first), *_ = rows.items()
        reading = reading_of(first.rows)
        if reading is None:
            held, packed = self._held(first.rows, problem)
            yield probe, Part(first.name, held, first.first, packed)
            return
        stored = [each.rows for each in rows.values() if isinstance(each.rows, Stored)]
        for which, chunks in together(reading, stored):
            for chunk, (number, each) in zip(chunks, rows.items(), strict=True):
                yield number, Part(each.name, chunk, each.first + which.start)
                del chunk

    def _searched(
        self, begin: float, part: Part, queries: Rows, left_out: NDArray[np.int64] | None
    ) -> Work:
        seconds = time.perf_counter() - begin
        operations = 2.0 * len(queries) * len(part.rows) * part.rows.width
        received = queries.nbytes + (0 if left_out is None else left_out.nbytes)
        return Work(self._number, seconds, operations, received)

    def merged(self, lists: Lists, later: Lists) -> Lists:
        """The k nearest of two lists, of which the second is of later rows; one is this worker's
        own, and the other came to it."""
        running = lists.found[0].copy(), lists.found[1].copy()  # Ray's memory is read-only
        merge(running, later.found)
        received = sum(array.nbytes for array in later.found)
        work = (*lists.work, *later.work, Work(self._number, 0.0, 0.0, received))
        return Lists(running, work)

    def votes(
        self,
        problem: Problem,
        lists: Lists,
        voting: Voting,
        counts: bool,
        places: NDArray[np.intp] | None = None,
    ) -> Answer:
        """The votes by lists of the whole support. places: of those queries that are asked for."""
        distances, rows = lists.found
        if places is not None:
            distances, rows = distances[places], rows[places]
        votes = votes_of_neighbors((distances, rows), problem, voting, counts=counts)
        return Answer(votes, np.empty(0, np.int64), lists.work)

    def work(self, lists: Lists) -> tuple[Work, ...]:
        """What lists took, once they have met; and nothing else that would travel."""
        return lists.work

    @property
    def _backend(self) -> Backend:
        """The backend, looked up where its errors reach the caller."""
        return backend_named(self._backend_name)

    def _held(self, rows: Rows, problem: Problem) -> tuple[Rows, Any]:
        """Rows as the backend keeps them from chunk to chunk, and what it packs of them."""
        if isinstance(rows, Stored):
            return rows, None
        if self._last is None or _place(self._last[0]) != _place(rows):
            memory = cpu.HELD_BYTES if problem.memory is None else problem.memory // 4
            self._last = None
            held = self._backend.hold(rows, problem.metric, min(cpu.HELD_BYTES, memory))
            self._last = rows, *held  # the rows themselves: nothing else comes to their place
        return self._last[1:]

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say which worker it is that cannot read."""
        try:
            yield
        except OSError as error:
            where = f"worker {self._number} on {platform.node()}: {error}"
            if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
                advice = "what a call names by its path has to be readable on all machines."
                where = f"{where.rstrip('.')}; {advice}"
            raise type(error)(where) from None
        except ImportError as error:
            raise ImportError(f"worker {self._number} on {platform.node()}: {error}") from None


class ChunkLists:
    """The lists of a query chunk at a probe, as a support passes by."""

    def __init__(
        self, problem: Problem, backend: AnyRows, queries: Rows, left_out: NDArray[np.int64] | None
    ) -> None:
        self._queries, self._left_out = queries, left_out
        self._running = RunningTopK(problem, backend, len(queries), left_out)
        self._seconds = self._operations = 0.0

    def take(self, part: Part) -> None:
        """Search some more rows."""
        begin = time.perf_counter()
        self._running.take(part, self._queries)
        self._seconds += time.perf_counter() - begin
        self._operations += 2.0 * len(self._queries) * len(part.rows) * part.rows.width

    def done(self, worker: int, counted: bool) -> Lists:
        """Of a worker; counted: whether the numbers in `left_out` came for this probe."""
        received = self._queries.nbytes
        if counted and self._left_out is not None:
            received += self._left_out.nbytes
        work = Work(worker, self._seconds, self._operations, received)
        return Lists(self._running.lists, (work,))


class AnyRows:
    """A backend that also searches rows that are not in memory, which it reads in chunks."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def session(
        self, problem: Problem, progress: ProbeProgress | None = None
    ) -> AbstractContextManager[Session]:
        return open_session(problem, self._backend, progress)


def _place(rows: Rows) -> tuple[Any, ...]:
    """Where rows are in memory, and how: the same array comes from the object store each time."""
    array = rows.array
    begin = array.data_ptr() if rows.on_device else array.ctypes.data
    return begin, tuple(array.shape), rows.type


def in_task(call: Kept, item: Any, threads: int) -> Any:
    """The answer of a pickled function to an item, with so many threads of torch."""
    import torch

    torch.set_num_threads(threads)
    return opened(call.value())(item)
