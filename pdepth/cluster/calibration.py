"""How fast a worker is, measured here by what it does: its own methods, on random rows.

However workers find lists, merge them and count votes, these seconds are those of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pdepth.arrays.arguments import SearchOptions, encode_labels
from pdepth.arrays.convert import to_device
from pdepth.arrays.problem import Problem, probe_rows, searched_metric
from pdepth.cluster.shards import ShardRows
from pdepth.cluster.traffic import candidates_for
from pdepth.cluster.voter import ASKED
from pdepth.cluster.worker import BoundLists, Worker
from pdepth.embeddings.calling import device_of
from pdepth.embeddings.capture import capture_again
from pdepth.embeddings.collect import Job

if TYPE_CHECKING:
    import torch

MEASURED_BYTES = 1 << 26  # of the longer shard's rows
MEASURED_ROWS, MEASURED_QUERIES = 16384, 512  # at most
RUNS = 5
SHORTER = 8  # times, of the other shard
COPIES = 3  # of a query's row: out of its shard, into the object store, and out of it


@dataclass(frozen=True)
class WorkerRates:
    """Seconds of processor time of one worker.

    widths: of embeddings, ascending, at which it was measured. pair: by width, of a query and a row
    of the support. query: by width, of a query whatever the rows are. merge: of two lists of a
    query. votes: of a query. byte: of a query's row on its way.
    """

    widths: Sequence[int]
    pair: Sequence[float]
    query: Sequence[float]
    merge: float
    votes: float
    byte: float

    def lists(self, width: int, rows: int) -> float:
        """Of one query's list of a shard's rows."""
        at = [math.log(each) for each in self.widths]
        place = math.log(width)
        by_element = np.interp(
            place, at, [p / w for p, w in zip(self.pair, self.widths, strict=True)]
        )
        return float(by_element) * width * rows + float(np.interp(place, at, self.query))


def measured_rates(
    widths: Sequence[int], options: SearchOptions, backend: str, device: torch.device | None
) -> WorkerRates:
    """Those of this machine, on random rows. widths: ascending. device: that has the rows."""
    if device is not None and backend == "auto":
        backend = "triton"  # as of a worker with a GPU
    pair, query = [], []
    for width in widths:
        rows = max(
            min(MEASURED_ROWS, MEASURED_BYTES // (4 * width)), 2 * SHORTER * options.voting.k
        )
        calls = [
            _lists_of(Worker(number, backend), width, count, options, device)
            for number, count in enumerate((rows // SHORTER, rows))
        ]
        seconds = [each / MEASURED_QUERIES for each in _fastest(calls, options.num_threads, device)]
        each = max(seconds[1] - seconds[0], 0.1 * seconds[1]) / (rows - rows // SHORTER)
        pair.append(each)
        query.append(max(seconds[1] - each * rows, 0.0))
    worker, widest = Worker(0, backend), widths[-1]
    merge, votes = (
        _seconds_of_proof(worker, widest, options)
        if _candidates(widest, options)
        else _seconds_of_votes(worker, options)
    )
    return WorkerRates(widths, pair, query, merge, votes, _seconds_of_byte())


def row_seconds(job: Job, num_threads: int) -> float:
    """In which a worker reads a row and runs the network over it. num_threads: of torch."""
    reader = job.readers[0]
    rows = np.arange(len(reader.first.labels))
    every = range(len(job.layout.probes))
    (seconds,) = _fastest(
        [lambda: capture_again(job.layout, reader, every, rows)], num_threads, device_of(job.model)
    )
    return seconds / len(rows)


def _lists_of(
    worker: Worker, width: int, rows: int, options: SearchOptions, device: torch.device | None
) -> Callable[[], object]:
    """Finds the lists of `MEASURED_QUERIES` queries in a shard, which the worker keeps."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows + MEASURED_QUERIES, width), dtype=np.float32)
    support = to_device(values[:rows], device)
    probe = probe_rows("measured", support, values[rows:], options.metric, options.num_threads)
    shard, queries = ShardRows(probe.name, probe.support, 0), probe.queries
    assert queries is not None
    problem = _problem(rows, options)
    if candidates := _candidates(width, options):
        return lambda: worker.bounds(problem, shard, 0, queries, None, candidates)
    return lambda: worker.lists(problem, shard, 0, queries, None)


def _candidates(width: int, options: SearchOptions) -> int:
    return candidates_for(4 * width, options.voting, options.metric)


def _seconds_of_proof(worker: Worker, width: int, options: SearchOptions) -> tuple[float, float]:
    """Of a query: to merge two lists of bounds, and to prove the vote by one."""
    rows, candidates = MEASURED_ROWS // SHORTER, _candidates(width, options)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows + MEASURED_QUERIES, width), dtype=np.float32)
    probe = probe_rows("measured", values[:rows], values[rows:], options.metric)
    problem, queries = _problem(rows, options), probe.queries
    assert queries is not None
    first, later = (
        ShardRows(probe.name, probe.support[begin : begin + rows // 2], begin)
        for begin in (0, rows // 2)
    )
    earlier, following = (
        worker.bounds(problem, shard, 0, queries, None, candidates) for shard in (first, later)
    )

    def merged() -> BoundLists:
        return worker.merged_bounds(problem, earlier, following, candidates)

    lists = merged()

    def proven() -> None:
        proof = worker.proof(problem, lists, ASKED[0])
        for ask in (*ASKED[1:], 0):
            wanted = worker.wanted(proof)
            found = [
                worker.distances(problem, shard, 0, queries, wanted, 0) for shard in (first, later)
            ]
            proof = worker.proof_by_distances(problem, proof, ask, *found)

    merge, prove = _fastest([merged, proven], options.num_threads)
    return merge / MEASURED_QUERIES, prove / MEASURED_QUERIES


def _seconds_of_votes(worker: Worker, options: SearchOptions) -> tuple[float, float]:
    """Of a query: to merge two lists, and to count the votes of one."""
    rows = 4 * options.voting.k
    problem = _problem(rows, options)
    probe = probe_rows("measured", np.arange(rows)[:, None] * 1.0, np.ones((MEASURED_QUERIES, 1)))
    assert probe.queries is not None
    first, later = (
        worker.lists(problem, ShardRows(probe.name, probe.support, begin), 0, probe.queries, None)
        for begin in (0, rows)
    )
    votes = replace(problem, codes=np.tile(problem.codes, 2))
    merge, count = _fastest(
        [
            lambda: worker.merged(first, later),
            lambda: worker.votes(votes, first, options.voting, counts=False),
        ],
        options.num_threads,
    )
    return merge / MEASURED_QUERIES, count / MEASURED_QUERIES


def _seconds_of_byte() -> float:
    block = np.ones(MEASURED_BYTES // 8)
    begin = time.process_time()
    for _ in range(COPIES):
        block = block.copy()
    return (time.process_time() - begin) / block.nbytes


def _problem(rows: int, options: SearchOptions) -> Problem:
    """What a worker is sent of one: all but the rows."""
    classes, codes = encode_labels(np.arange(rows) % 10, rows)
    return Problem(
        probes=(), codes=codes, classes=classes, k=options.voting.k, exclude_self=True,
        query_rows=None, num_queries=MEASURED_QUERIES, num_threads=options.num_threads,
        metric=searched_metric(options.metric),
    )  # fmt: skip


def _fastest(
    calls: Sequence[Callable[[], object]],
    num_threads: int,
    device: torch.device | None = None,
) -> list[float]:
    """Seconds of each call's fastest run, by turns: of the processor, where one thread works, since
    others may work beside it."""
    clock = time.process_time
    if num_threads > 1 or (device is not None and device.type != "cpu"):
        clock = time.perf_counter
    seconds = []
    for run in range(1 + RUNS):
        for call in calls:
            begin = clock()
            call()
            if run:  # after one that warms up
                seconds.append(clock() - begin)
    return [min(seconds[number :: len(calls)]) for number in range(len(calls))]
