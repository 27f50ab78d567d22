"""What a job will cost on a cluster: from counted bytes and measured rates, no cluster at hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pdepth.arrays.arguments import Voting
from pdepth.arrays.memory import Budget, human
from pdepth.cluster.calibration import WorkerRates
from pdepth.cluster.options import IN_FLIGHT
from pdepth.cluster.traffic import (
    DISTANCE_BYTES,
    ROW_BYTES,
    Asked,
    Traffic,
    foreseen,
    list_bytes,
)
from pdepth.cluster.voter import CHUNK_BYTES, MERGED_BYTES
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Job
from pdepth.embeddings.spans import Span, SpanPlanner
from pdepth.progress import format_seconds
from pdepth.search.voting import CHUNK_QUERIES

BITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def parse_bandwidth(text: str) -> float:
    """Bytes a second of bits such as "200Gb" or "25 Gb/s". Raises ValueError for another form."""
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([kmgt]?)b(?:it)?(?:/s|ps)?\s*", text.lower())
    if not match or not float(match[1]):
        raise ValueError(
            f"bandwidth: expected bits a second of a machine's link, such as '200Gb', got {text!r}."
        )
    return float(match[1]) * BITS[match[2]] / 8


DRIVER_ROW, DRIVER_QUERY, DRIVER_VOTE = 48, 40, 26  # bytes of a row, of a query, and at each probe


@dataclass(frozen=True)
class Measured:
    """How fast one worker is.

    forward: seconds in which it would read all rows and run the network over them. rates: of its
    search.
    """

    forward: float
    rates: WorkerRates


@dataclass(frozen=True)
class ClusterPlan:
    """The bill of a job on a cluster: an upper bound, which early exit makes less.

    Attributes:
        workers: that share the rows of the support.
        traffic: bytes between processes.
        memory: bytes of a worker's embeddings, beside the model, its batch and the search.
        passes: of the network over a worker's rows, while all queries are active: more than one
            where `memory_per_worker` does not hold all. spilled: bytes that it puts on its disk
            instead.
        driver: bytes of the process that makes the call, beside the model and the data.
        store: bytes of Ray's object store: the chunks that are in flight, and their lists; where a
            support passes by, all queries that it does so for, and their lists at those probes.
        forward_seconds, search_seconds: of one worker; None where nothing was measured.
        travel_seconds: of the queries through the link of one worker, which the search overlaps
            with; None without a bandwidth.
    """

    workers: int
    traffic: Traffic
    memory: int
    store: int
    passes: int = 1
    spilled: int = 0
    driver: int = 0
    forward_seconds: float | None = None
    search_seconds: float | None = None
    travel_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """Of all: while one chunk travels, another is searched, and the slower of both decides."""
        if self.forward_seconds is None or self.search_seconds is None:
            return None
        return self.forward_seconds + max(self.search_seconds, self.travel_seconds or 0.0)

    def __str__(self) -> str:
        lines = {
            "workers": f"{self.workers}, {human(self.memory)} of embeddings each",
            "travels": f"{self.traffic}; of the support to be searched nothing",
            "store": f"{human(self.store)} of Ray's object store at a time",
            "driver": f"{human(self.driver)} beside model and data, where the call is made",
        }
        if self.passes > 1:
            lines["forward"] = f"{self.passes} passes over each worker's rows"
        if self.spilled:
            lines["disk"] = f"{human(self.spilled)} of each worker"
        if self.forward_seconds is not None and self.search_seconds is not None:
            lines["a worker"] = (
                f"{format_seconds(self.forward_seconds)} of forward passes, "
                f"{format_seconds(self.search_seconds)} of search"
            )
        if self.travel_seconds is not None:
            lines["link"] = f"{format_seconds(self.travel_seconds)} of each worker's"
        if self.seconds is not None:
            lines["in all"] = f"{format_seconds(self.seconds)} at most"
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


@dataclass(frozen=True)
class Sizes:
    """Of a job: rows of support and queries, widths and bytes of a row's embedding at each probe,
    the rows of a batch, and how many queries are searched at each probe (all of them, before one
    knows)."""

    support: int
    queries: int
    widths: Sequence[int]
    row_bytes: Sequence[int]
    batch: int
    voting: Voting
    own_rows: bool
    metric: str = "sqeuclidean"
    active: Sequence[int] = field(default=())

    @classmethod
    def of(cls, job: Job, voting: Voting) -> Sizes:
        """Of a job whose rows are known."""
        layout, rows = job.layout, job.rows or []
        return cls(
            support=rows[0],
            queries=rows[-1],
            widths=layout.widths,
            row_bytes=[footprint(layout, 1, job.metric, [n]) for n in range(len(layout.probes))],
            batch=job.readers[0].batch_rows or 1,
            voting=voting,
            own_rows=job.own_rows,
            metric=job.metric,
        )

    @property
    def asked(self) -> Asked:
        active = self.active or [self.queries] * len(self.row_bytes)
        return Asked(active, self.row_bytes, self.voting, self.own_rows, metric=self.metric)

    @property
    def driver(self) -> int:
        """Bytes where the call is made: labels, checksums and predictions, and votes."""
        votes = DRIVER_VOTE * len(self.row_bytes) * len(self.voting.ks)
        return DRIVER_ROW * self.support + (DRIVER_QUERY + votes) * self.queries


@dataclass(frozen=True)
class Room:
    """What a worker has for the embeddings of a job.

    memory: bytes, or None for as much as they take. spills: whether a disk takes what does not fit.
    forward_rate, search_rate: see `SpanPlanner`.
    """

    job: Job
    memory: int | None = None
    spills: bool = False
    forward_rate: float | None = None
    search_rate: float | None = None

    def planner(self, rows: Sequence[int], asked: int) -> SpanPlanner:
        """Of a worker with so many rows of support and queries. asked: queries of all."""
        job = replace(self.job, budget=Budget(self.memory, given=True), home=None)
        return SpanPlanner(job, rows, self.forward_rate, self.search_rate, asked)


@dataclass(frozen=True)
class Way:
    """How a worker comes to its embeddings while all queries are active.

    spans: of probes, from the last to the first. at_a_time: of each, for how many queries the
    support passes by. passes: of the network over the support. spilled: bytes.
    """

    spans: Sequence[Span]
    at_a_time: Sequence[int]
    passes: int = 1
    spilled: int = 0

    @classmethod
    def of(cls, sizes: Sizes, rows: Sequence[int], room: Room | None) -> Way:
        """rows: of support and queries, of one worker."""
        end = len(sizes.row_bytes)
        held = cls([Span(0, end, "held")], [sizes.queries])
        if room is None or room.memory is None:
            return held
        planner = room.planner(rows, sizes.queries)
        if room.spills:
            first = planner.held_first(end, rows[-1])
            return replace(held, spilled=sum(rows) * sum(sizes.row_bytes[:first]))
        spans, at_a_time, passes = planner.all(), [], 0
        for span in spans:
            streamed = span.way == "streamed"
            passes += planner.readings(span)
            if sizes.own_rows and streamed:  # the queries' own, and at first their predictions
                passes += 2 if span.end == end else 1
            most = planner.streamed(span.first)[0] if streamed else sizes.queries
            at_a_time.append(min(most, sizes.queries))
        return cls(spans, at_a_time, passes)

    @property
    def passing(self) -> set[int]:
        """The probes whose support passes by."""
        spans = [span for span in self.spans if span.way != "held"]
        return {probe for span in spans for probe in range(span.first, span.end)}


def price(
    sizes: Sizes,
    workers: int,
    measured: Measured | None = None,
    bandwidth: float | None = None,
    in_flight: int = IN_FLIGHT,
    room: Room | None = None,
) -> ClusterPlan:
    """The bill of a job. measured: on the machine of one worker. bandwidth: bytes a second.

    Shards are whole batches: the largest of them decides.
    """
    largest, having = _largest(sizes.support, sizes.batch, workers)
    own_queries, _ = _largest(sizes.queries, sizes.batch, workers)
    rows = [largest] if sizes.own_rows else [largest, own_queries]
    share, way = largest / sizes.support, Way.of(sizes, rows, room)
    traffic = foreseen(replace(sizes.asked, passing=way.passing), having)
    plan = ClusterPlan(
        workers=workers,
        traffic=traffic,
        memory=sum(rows) * sum(sizes.row_bytes),
        store=_store(sizes, way, having, in_flight),
        passes=way.passes,
        spilled=way.spilled,
        driver=sizes.driver,
        travel_seconds=None if bandwidth is None else traffic.queries / having / bandwidth,
    )
    if measured is None:
        return plan
    return replace(
        plan,
        forward_seconds=way.passes * share * measured.forward,
        search_seconds=_search(sizes, largest, having, measured.rates),
    )


def _largest(rows: int, batch: int, workers: int) -> tuple[int, int]:
    """The rows of the largest shard, and how many workers have some."""
    batches = -(-rows // batch)
    return min(rows, -(-batches // workers) * batch), min(workers, batches)


def _store(sizes: Sizes, way: Way, workers: int, in_flight: int) -> int:
    """Bytes of Ray's object store, at most: chunks in flight and their lists; or all queries of a
    pass, their lists as they merge, and those of all that have passed."""
    most = 0
    for span, at_a_time in zip(way.spans, way.at_a_time, strict=True):
        rows, k = sizes.row_bytes[span.first : span.end], sizes.voting.k
        if span.way == "held":
            for row_bytes in rows:
                step = max(CHUNK_QUERIES, CHUNK_BYTES // (row_bytes + MERGED_BYTES * k))
                lists = list_bytes(row_bytes, sizes.voting, sizes.metric) * workers
                most = max(most, in_flight * min(sizes.queries, step) * (row_bytes + lists))
        else:
            lists = len(rows) * k * (DISTANCE_BYTES + ROW_BYTES)
            merging = at_a_time * (sum(rows) + (2 * workers - 1) * lists)
            most = max(most, merging + sizes.queries * lists)
    return most


def _search(sizes: Sizes, rows: int, workers: int, rates: WorkerRates) -> float:
    """Seconds of a worker that searches so many rows; all merge lists and send queries by turns."""
    asked, seconds = sizes.asked, 0.0
    for active, width, row_bytes in zip(asked.active, sizes.widths, asked.row_bytes, strict=True):
        seconds += active * rates.lists(width, rows)
        together = (workers - 1) * rates.merge + rates.votes + row_bytes * rates.byte
        seconds += active * together / workers
    return seconds
