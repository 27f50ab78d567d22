"""What a job will cost on a cluster: from counted bytes and measured rates, no cluster at hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pdepth.arrays.arguments import Voting
from pdepth.arrays.memory import human, readings
from pdepth.cluster.calibration import WorkerRates
from pdepth.cluster.options import IN_FLIGHT
from pdepth.cluster.traffic import Asked, Traffic, foreseen, list_bytes
from pdepth.cluster.voter import CHUNK_BYTES, MERGED_BYTES
from pdepth.embeddings.collect import room_for
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
        store: bytes of Ray's object store: the chunks that are in flight, and their lists.
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
    """What a worker has for embeddings. memory: bytes, or None for as much as it takes. spills:
    whether a disk takes what does not fit."""

    memory: int | None = None
    spills: bool = False


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
    batches = -(-sizes.support // sizes.batch)
    largest = min(sizes.support, -(-batches // workers) * sizes.batch)
    having = min(workers, batches)
    share = largest / sizes.support
    traffic = foreseen(sizes.asked, having)
    own_queries = 0 if sizes.own_rows else -(-sizes.queries // workers)
    k, chunks, counts = sizes.voting.k, [], []
    for row_bytes in sizes.row_bytes:
        step = max(CHUNK_QUERIES, CHUNK_BYTES // (row_bytes + MERGED_BYTES * k))
        lists = list_bytes(row_bytes, sizes.voting, sizes.metric) * having
        chunks.append(min(sizes.queries, step) * (row_bytes + lists))
        counts.append((having * -(-sizes.queries // (having * step)), min(step, sizes.queries)))
    passes, spilled = _passes(sizes, largest + own_queries, counts, room or Room())
    plan = ClusterPlan(
        workers=workers,
        traffic=traffic,
        memory=(largest + own_queries) * sum(sizes.row_bytes),
        store=in_flight * max(chunks),
        passes=passes,
        spilled=spilled,
        driver=sizes.driver,
        travel_seconds=None if bandwidth is None else traffic.queries / having / bandwidth,
    )
    if measured is None:
        return plan
    return replace(
        plan,
        forward_seconds=passes * share * measured.forward,
        search_seconds=_search(sizes, largest, having, measured.rates),
    )


def _passes(
    sizes: Sizes, rows: int, chunks: Sequence[tuple[int, int]], room: Room
) -> tuple[int, int]:
    """How often a worker's network runs over its rows, and bytes that it spills.

    chunks: of queries, at each probe, and the rows of one; a probe that does not fit is computed
    for each, and as often as memory asks for.
    """
    if room.memory is None:
        return 1, 0
    end = first = len(sizes.row_bytes)
    passes = 0
    while end:
        while first and rows * sum(sizes.row_bytes[first - 1 : end]) <= room_for(room.memory):
            first -= 1
        if room.spills:
            return 1, rows * sum(sizes.row_bytes[:first])
        if first < end:
            passes += 1
        else:
            count, queries = chunks[end - 1]
            once = readings(room.memory, queries, sizes.row_bytes[end - 1], sizes.voting.k)
            passes += count * once + sizes.own_rows  # the queries' own
        end = first = min(first, end - 1)
    return passes, 0


def _search(sizes: Sizes, rows: int, workers: int, rates: WorkerRates) -> float:
    """Seconds of a worker that searches so many rows; all merge lists and send queries by turns."""
    asked, seconds = sizes.asked, 0.0
    for active, width, row_bytes in zip(asked.active, sizes.widths, asked.row_bytes, strict=True):
        seconds += active * rates.lists(width, rows)
        together = (workers - 1) * rates.merge + rates.votes + row_bytes * rates.byte
        seconds += active * together / workers
    return seconds
