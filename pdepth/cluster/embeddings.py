"""The embeddings of a network, as workers have them: the driver's side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.memory import Budget
from pdepth.cluster.keeping import SharedKeeping
from pdepth.cluster.network import (
    Checksums,
    Embedded,
    NetworkTask,
    Part,
    ShardReading,
    SpanShard,
)
from pdepth.cluster.options import Cluster
from pdepth.cluster.sending import Kept, Makers, Sent, pickled, pickled_network
from pdepth.cluster.shards import RemoteRows, RemoteSpan
from pdepth.cluster.spilling import WorkersSpill
from pdepth.cluster.voter import open_there
from pdepth.cluster.workers import Ref, Workers, connected
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Job, Reading, SpanRows, room_for
from pdepth.embeddings.dataset import Batches, DataOptions
from pdepth.embeddings.dataset import Rows as DataRows
from pdepth.embeddings.recompute import checksums_of, first_rows
from pdepth.io.embedding_store import EmbeddingStore, Origin, Writer
from pdepth.progress import Event, RowMeter
from pdepth.search.backward import OpenVoter
from pdepth.search.chunks import check_memory


@contextmanager
def embedded_on(
    cluster: str | Cluster | None,
    job: Job,
    options: DataOptions,
    backend: str,
    makers: Makers,
    spill: WorkersSpill | None = None,
) -> Iterator[ClusterEmbeddings | None]:
    """Workers that have a network, and read whole batches of its data each; None without a cluster.

    makers: of the network, support or queries that workers make themselves. spill: how they put on
    disk what does not fit.
    """
    if cluster is None:
        yield None
        return
    import torch

    batched = [_batched(reader) for reader in job.readers]
    with connected(Cluster.of(cluster)) as workers:
        workers.check_rows(batched[0][0])
        bounds = [_bounds(rows, batch_rows, len(workers)) for rows, batch_rows in batched]
        _check_least(job, bounds, workers.cluster.memory)
        task = NetworkTask(
            layout=replace(
                job.layout, caller=replace(job.layout.caller, model=torch.nn.Identity())
            ),
            model=torch.nn.Identity(),
            metric=job.metric,
            k=job.k,
            threads=torch.get_num_threads(),
            on_gpu=workers.cluster.gpus_per_worker > 0,
            backend=backend,
            num_threads=workers.cluster.cpus_per_worker,
            own_rows=job.own_rows,
            spill=spill,
        )
        shared = Kept(workers.put(_network(workers, job, task, makers), "model"))
        of_each = []
        for worker in range(len(workers)):  # a pickle at a time: it may hold the data
            parts = _parts(job, worker, bounds, options, makers)
            part = pickled(workers.cloudpickle, parts, "support and queries")
            of_each.append(Sent(shared, Kept(workers.put(part, "data"))))
            del parts, part
        job.observer(Event("note", f"cluster: starting {len(workers)} workers"))
        workers.start(backend, network=True)
        embeddings = ClusterEmbeddings(job, workers, bounds, of_each, spill)
        embeddings.check_values()
        yield embeddings
        job.observer(Event("note", f"cluster: {workers.traffic}, of {len(workers)} workers"))


class ClusterEmbeddings:
    """See `collect.Embeddings`: each worker has those of its own rows."""

    workers: Workers

    def __init__(
        self,
        job: Job,
        workers: Workers,
        bounds: list[list[int]],
        sent: list[Sent],
        spill: WorkersSpill | None = None,
    ) -> None:
        """bounds: of support and queries, where the rows of each worker begin. sent: to each."""
        self._job, self.workers, self._bounds, self._sent = job, workers, bounds, sent
        self._spill = spill
        self._keeping: SharedKeeping | None = None
        self._first: list[tuple[Kept, dict[int, int]]] = []  # of each worker, see `SpanShard`
        for side, reader in enumerate(job.readers):
            reader.elsewhere = lambda side=side: self._read_rows(side)
        self._checks: list[DataRows] = []  # of support and queries, once they were read
        self._checksums: list[Checksums] = [{} for _ in range(len(workers))]

    def __enter__(self) -> ClusterEmbeddings:
        return self

    def __exit__(self, kind: object, *error: Any) -> None:
        """Remove what was spilled; what the same call will find again stays after an error."""
        spill, workers = self._spill, self.workers
        if spill is not None and (kind is None or not spill.folder.lasts):
            workers.finish([workers[w].remove_spilled.remote(spill) for w in range(len(workers))])
            spill.folder.discard_all()  # of workers that were elsewhere before
        if self._keeping is not None and kind is not None:
            workers.close()  # before their unfinished store is removed

    def kept(
        self, target: Writer | EmbeddingStore, origin: Origin | None = None
    ) -> ClusterEmbeddings:
        """These, kept in a store that is written now, or was finished."""
        self._keeping = SharedKeeping(self._job, target, origin)
        return self

    def check_values(self) -> None:
        """Raise ValueError for a worker whose values are not those of the others and, on the same
        kind of device, of this process."""
        batch, names = first_rows(self._job), [*self._job.layout.names, "predictions"]
        workers = self.workers
        first = workers.put(batch, "support")
        of_all = workers.get(
            [workers[w].checksums.remote(sent, first) for w, sent in enumerate(self._sent)]
        )
        self._first = [(Kept(first), checksums) for checksums in of_all]
        expected = of_all[0]
        if not workers.cluster.gpus_per_worker:
            expected = checksums_of(self._job.layout, batch)
        for worker, found in enumerate(of_all):
            for number, checksum in found.items():
                if checksum != expected[number]:
                    raise ValueError(
                        f"cluster: expected the same values of the first rows everywhere, got "
                        f"others from worker {worker}, first at probe {names[number]!r}; take "
                        "machines with the same processor, GPU and torch, or name them in "
                        "Cluster(resources=...); a network that draws random numbers has others "
                        "each time."
                    )

    @property
    def open_voter(self) -> OpenVoter:
        """Who answers votes of spans that come from here."""
        return partial(open_there, self.workers)

    def rates(self) -> str:
        """How fast the slowest and the fastest worker search, in words."""
        return str(self.workers.rates)

    def read(self) -> Reading:
        workers, job = self.workers, self._job
        if self._keeping is not None:
            self._keeping.begin()
        shards = self._shards(len(job.layout.probes), np.arange(self._bounds[-1][-1]))
        coming = [workers[worker].read.remote(shard) for worker, shard in enumerate(shards)]
        readings: list[ShardReading] = [*coming]
        every = sum(bounds[-1] for bounds in self._bounds)
        meter, done = RowMeter(job.observer, "support", every), 0
        for worker, reading in workers.as_they_come(coming):
            readings[worker] = reading
            self._checksums[worker] = reading.checksums
            done += sum(len(rows.labels) for rows in reading.parts)
            meter(done, finished=done == every)
        self._remember([reading.parts for reading in readings])
        predictions = np.concatenate([reading.predictions for reading in readings])
        for note in readings[0].notes:
            job.observer(Event("note", f"worker 0 of {len(readings)}: {note}"))
        if self._keeping is not None:
            self._keeping.end(self._checks, [reading.written for reading in readings])
        return Reading([rows.labels for rows in self._checks], predictions)

    def resume(self, reading: Reading) -> None:
        self._checks = [reader.known_rows for reader in self._job.readers]

    def span(
        self,
        end: int,
        active: NDArray[np.int64],
        resumed_first: int | None = None,
    ) -> SpanRows:
        """The probes before `end` that all workers have at once; searched where they are."""
        job, workers, layout = self._job, self.workers, self._job.layout
        before = self._shards(end, active)
        answers: list[Embedded] = workers.get(
            [workers[worker].embed.remote(shard) for worker, shard in enumerate(before)]
        )
        first = max(answer.first for answer in answers)
        at_a_time = min(
            (answer.at_a_time for answer in answers if answer.at_a_time is not None), default=None
        )
        for known, answer in zip(self._checksums, answers, strict=True):
            known |= answer.checksums
        shards = self._shards(end, active, None if at_a_time is None else first)
        there = RemoteSpan(first, shards, self._bounds, active, at_a_time)

        def rows_of(number: int, side: int) -> RemoteRows:
            shape = self._bounds[side][-1], layout.widths[number]
            return RemoteRows(there, number, shape, layout.dtypes[number])

        probes = [
            (layout.names[n], rows_of(n, 0), None if job.own_rows else rows_of(n, 1))
            for n in range(first, end)
        ]
        return SpanRows(first, probes, np.arange(self._bounds[-1][-1]), None)

    def _shards(self, end: int, active: NDArray[np.int64], begin: int | None = None) -> list[Ref]:
        """What each worker is told of a span; begin: of one that passes by, its first probe."""
        workers, bounds = self.workers, self._bounds
        given = workers.cluster.memory
        budget = Budget(given, given=True) if given is not None else Budget(workers.free)
        places = np.searchsorted(active, bounds[-1])
        shards = []
        for worker in range(len(workers)):
            own = active[places[worker] : places[worker + 1]] - bounds[-1][worker]
            checks = None
            if self._checks:
                checks = [
                    DataRows(rows.labels[first:end_], rows.checksums[first:end_])
                    for rows, first, end_ in self._of_worker(worker)
                ]
            shard = SpanShard(
                self._sent[worker], end, own, len(active), budget, checks, self._checksums[worker],
                self._first[worker], None if self._keeping is None else self._keeping.store, begin,
            )  # fmt: skip
            shards.append(workers.put(shard, "queries"))
        return shards

    def _of_worker(self, worker: int) -> Iterator[tuple[DataRows, int, int]]:
        """The parts of a worker that have rows: of which data, and which of it."""
        for rows, bounds in zip(self._checks, self._bounds, strict=True):
            if bounds[worker] < bounds[worker + 1]:
                yield rows, bounds[worker], bounds[worker + 1]

    def _read_rows(self, side: int) -> DataRows:
        """Labels and checksums of the support (0) or the queries (1), read by the workers."""
        if not self._checks:
            workers = self.workers
            self._remember(
                workers.get(
                    [
                        workers[worker].read_rows.remote(sent)
                        for worker, sent in enumerate(self._sent)
                    ]
                )
            )
        return self._checks[side]

    def _remember(self, parts: list[list[DataRows]]) -> None:
        """Keep what the workers have read; parts: those of each that have rows."""
        self._checks = []
        for bounds, reader in zip(self._bounds, self._job.readers, strict=True):
            whole = DataRows(np.empty(bounds[-1], np.int64), np.empty(bounds[-1], np.uint64))
            for begin, end, of_worker in zip(bounds, bounds[1:], parts, strict=False):
                if begin < end:
                    rows = of_worker.pop(0)
                    whole.labels[begin:end] = rows.labels
                    whole.checksums[begin:end] = rows.checksums
            self._checks.append(whole)
            reader.expect(whole)


def _batched(reader: Batches) -> tuple[int, int]:
    """How many rows there are, and in a batch. Raises ValueError where they cannot be shared."""
    if reader.rows is None or reader.batch_rows is None:
        raise ValueError(
            f"{reader.what}: expected a dataset whose rows have numbers, which workers share, got "
            "a stream or whole batches; leave cluster out, or pass a Dataset with a length."
        )
    return reader.rows, reader.batch_rows


def _bounds(rows: int, batch_rows: int, count: int) -> list[int]:
    """Where the rows of each of so many workers begin, whole batches, and where the last end."""
    batches = -(-rows // batch_rows)
    return [*(batches * worker // count * batch_rows for worker in range(count)), rows]


def _check_least(job: Job, bounds: list[list[int]], memory: int | None) -> None:
    """Raise MemoryError where some worker could not search even single rows of a probe."""
    layout = job.layout
    rows = max(map(sum, zip(*map(np.diff, bounds), strict=True)))
    if memory is None or footprint(layout, rows, job.metric) <= room_for(memory):
        return
    for number, (name, width) in enumerate(zip(layout.names, layout.widths, strict=True)):
        row_bytes = footprint(layout, 1, job.metric, [number])
        check_memory(memory, name, width, row_bytes, job.k)


def _network(workers: Workers, job: Job, task: NetworkTask, makers: Makers) -> bytes:
    """The pickle of a task with its network."""
    model, cloudpickle = job.layout.caller.model, workers.cloudpickle
    if "model" in makers:
        made = replace(makers["model"], state=model.state_dict())
        return pickled(cloudpickle, replace(task, model=made), "model")
    pickled_network(cloudpickle, model)
    return pickled(cloudpickle, replace(task, model=model), "layers, pool and output")


def _parts(
    job: Job, worker: int, bounds: list[list[int]], options: DataOptions, makers: Makers
) -> list[Part]:
    """What a worker reads of support and queries; nothing of what it has no rows of."""
    parts = []
    for reader, begins in zip(job.readers, bounds, strict=True):
        begin, end = begins[worker], begins[worker + 1]
        if begin < end:
            made, source = makers.get(reader.what), reader.source
            parts.append(
                Part(
                    reader.what,
                    replace(source, dataset=None) if made else source.part(begin, end),
                    replace(options, skip_unreadable=False),
                    begin,
                    end,
                    None if reader.readable is None else reader.readable.rows[begin:end],
                    made,
                )
            )
    return parts
