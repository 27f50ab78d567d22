"""What a job will cost, before it starts: passes, work, memory, disk, and time as measured here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.arrays import arguments
from pdepth.arrays.arguments import SearchOptions, Voting
from pdepth.arrays.memory import Budget, human
from pdepth.backends import backend_named, cpu, triton
from pdepth.cluster.calibration import measured_rates, row_seconds
from pdepth.cluster.options import Cluster
from pdepth.cluster.pricing import ClusterPlan, Measured, Room, Sizes, parse_bandwidth, price
from pdepth.depth import check_device, check_least
from pdepth.embeddings.calling import Output, at_rest
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Job
from pdepth.embeddings.dataset import DataOptions
from pdepth.embeddings.inspection import narrowed
from pdepth.embeddings.placement import Layers, Pools, ProbeOptions, check_layers
from pdepth.embeddings.spans import Span, SpanPlanner, product_rate
from pdepth.embeddings.spilling import (
    Spill,
    check_spill,
    priced,
    row_seconds_of,
    spill_folder,
)
from pdepth.io.map_file import map_nbytes
from pdepth.io.neighbor_file import neighbors_nbytes
from pdepth.progress import fastest, format_seconds
from pdepth.search.mapping import check_map, fit_nbytes
from pdepth.votes import probe_votes

if TYPE_CHECKING:
    import torch
    from torch import nn

MEASURED_BYTES = 1 << 25  # of rows that the search is measured on
MEASURED_ROWS, MEASURED_QUERIES = 8192, 1024  # at most
MEASURED_WIDTHS = (16, 256, 4096)  # up to the widest probe's
LARGE_FLOP, LONG_SECONDS = 1e14, 3600.0  # from where on a plan names `max_width`
NARROWER_WIDTHS = (16384, 4096, 1024)  # the widest that helps


@dataclass(frozen=True)
class Narrower:
    """What a job would need with `max_width`: bytes of all embeddings, FLOP of the search."""

    max_width: int
    embeddings: int
    flop: float

    def __str__(self) -> str:
        return (
            f"max_width={self.max_width} would need {human(self.embeddings)} and {_flop(self.flop)}"
        )


@dataclass(frozen=True)
class Plan:
    """The bill of a job: an upper bound, which early exit makes less.

    Attributes:
        probes: names, in forward order. widths: of their embeddings.
        support: rows that vote. queries: rows that are asked; None: the support's own.
        passes: the probes that are searched together, from the last to the first; for each but
            the first the network runs again.
        forwarded: rows that run through the network, those of all passes.
        flop: of the search, two for each product.
        embeddings: bytes of all embeddings.
        memory: bytes of the host that embeddings and search take, beside the model, the data and
            one batch of the forward pass.
        device_memory: bytes of embeddings and search on a GPU.
        written, read: bytes of embeddings to and from the disk.
        forward_seconds, search_seconds: from the first batch and the kernel, measured; None where
            nothing was.
        narrower: what the job would need with `max_width`, where embeddings do not fit into the
            memory, or the search takes over an hour (not measured: 100 TFLOP), and feature maps can
            be averaged; else None.
        notes: sentences on what is left out or averaged.
        spill: what does not fit into memory on disk, taken or not: its bytes, and what it saves;
            None where all fits, or is kept.
        cluster: the same job on workers; None where none were asked for.
        neighbors: bytes of the nearest rows and counts that are kept: of memory, or of the disk in
            a run's directory.
        map: bytes of the map that is kept.
    """

    probes: tuple[str, ...]
    widths: tuple[int, ...]
    support: int
    queries: int | None
    passes: tuple[tuple[str, ...], ...]
    forwarded: int
    flop: float
    embeddings: int
    memory: int
    device_memory: int
    written: int
    read: int
    forward_seconds: float | None
    search_seconds: float | None
    narrower: Narrower | None = None
    notes: tuple[str, ...] = ()
    spill: Spill | None = None
    cluster: ClusterPlan | None = None
    neighbors: int = 0
    map: int = 0

    @property
    def seconds(self) -> float | None:
        """Of all work; of the disk's, where embeddings are spilled."""
        if self.forward_seconds is None or self.search_seconds is None:
            return None
        return self.forward_seconds + self.search_seconds + (self._disk_seconds or 0.0)

    @property
    def _disk_seconds(self) -> float | None:
        """Of writing and reading what is spilled; None where nothing is, or was not measured."""
        return self.spill.disk_seconds if self.spill is not None and self.spill.taken else None

    def __str__(self) -> str:
        asked = "each left out of its own vote"
        if self.queries is not None:
            asked = f"{self.queries:,} queries"
        lines = {
            "probes": f"{len(self.probes)}, widths {_listed(self.widths)}",
            "rows": f"{self.support:,} of support, {asked}",
            "forward": f"{self.forwarded:,} rows in {_counted(len(self.passes), 'pass', 'passes')}",
            "search": f"{_flop(self.flop)} at most",
            "embeddings": human(self.embeddings),
            "memory": f"{human(self.memory)} beside model and data",
        }
        if self.device_memory:
            lines["GPU memory"] = human(self.device_memory)
        if self.written:
            lines["disk"] = f"{human(self.written)} written, {human(self.read)} read"
            if self._disk_seconds is not None:
                lines["disk"] += f", {format_seconds(self._disk_seconds)}"
        if self.neighbors:
            lines["neighbours"] = f"{human(self.neighbors)} of nearest rows and counts"
        if self.map:
            lines["map"] = f"{human(self.map)} of places in two dimensions"
        if self.seconds is not None:
            lines["forward"] += f", {format_seconds(self.forward_seconds or 0.0)}"
            lines["search"] += f", {format_seconds(self.search_seconds or 0.0)}"
            lines["time"] = f"{format_seconds(self.seconds)} at most, as measured here"
        if self.notes:
            lines["note"] = "; ".join(self.notes)
        if self.spill is not None:
            lines["spill"] = str(self.spill)
        if self.narrower is not None:
            lines["narrower"] = str(self.narrower)
        text = "\n".join(f"{name:<11} {text}" for name, text in lines.items())
        return text if self.cluster is None else f"{text}\n\non a cluster\n{self.cluster}"


def plan(
    model: nn.Module,
    support: Any,
    queries: Any = None,
    *,
    layers: Layers = "auto",
    pool: Pools = "auto",
    input: bool | None = None,
    max_width: int | None = None,
    output: Output = None,
    label_column: str | None = None,
    processor: Any = None,
    skip_unreadable: bool = False,
    k: int | Sequence[int] = 30,
    return_neighbors: int | None = None,
    return_map: str | None = None,
    metric: str = "sqeuclidean",
    backend: str = "auto",
    device: str | torch.device | None = None,
    memory: int | str | None = None,
    batch_size: int = 256,
    num_threads: int | None = None,
    keep_embeddings: str | os.PathLike[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    spill: str | os.PathLike[str] | None = None,
    measure: bool = True,
    cluster: Cluster | None = None,
    bandwidth: str | None = None,
    rows: int | None = None,
) -> Plan:
    """What `prediction_depth` with these arguments will cost.

    Where that is beyond the machine, it says what `max_width` would make of it; where embeddings do
    not fit into memory, what disk in place of further forward passes costs and saves, and whether
    `spill` takes it. Reads the first batch of each dataset, and with skip_unreadable all of it;
    measure: runs the batch once more and the kernel on a few thousand random rows, and writes and
    reads 64 MiB where embeddings may go, for some seconds, to know this machine's speed.

    cluster: `pdepth.cluster.Cluster(workers=...)`: also what the job would take there, of which no
    cluster needs to exist: bytes between its workers are counted, and times are those of workers
    like this machine. bandwidth: of each worker's link, such as "200Gb" a second. rows: plan for a
    support of so many rows like these.

    Raises as `prediction_depth` before its work; ValueError for a dataset that does not say how
    many rows it has.
    """
    voting = arguments.check_voting(k, return_neighbors=return_neighbors)
    options = arguments.check_search(voting, metric, True, num_threads, None)
    batch_size = arguments.check_int(batch_size, "batch_size")
    backend_named(backend)
    target_device, budget = check_device(device), Budget.of(memory)
    check_layers(model, layers)
    check_spill(spill, keep_embeddings, here=cluster is None)
    check_map(return_map, metric, cluster=cluster)
    speed = _check_cluster(cluster, bandwidth)
    probe_options = ProbeOptions(layers, pool, input, max_width, output)
    with at_rest(model, target_device):
        job = Job.inspect(
            model, probe_options, support, queries,
            data=DataOptions(label_column, processor, skip_unreadable), batch_size=batch_size,
            metric=metric, voting=voting, budget=budget, backend=backend,
        )  # fmt: skip
        if rows is not None:
            job.readers[0].rows = arguments.check_int(rows, "rows")
        for reader in job.readers:
            if reader.rows is None:
                raise ValueError(
                    f"{reader.what}: expected data that knows how many rows it has, got "
                    "a stream; a plan needs the number."
                )
        kept = keep_embeddings is not None
        if not job.fits:
            check_least(job)
        rates = None
        if measure:
            rates = Rates(
                forward=row_seconds_of(job),
                search=_search_rates(job, backend, options.num_threads),
                product=product_rate(job.home),
            )
        cost = None
        if not kept and not job.fits:
            times = (None, None) if rates is None else (rates.forward, rates.product)
            cost = priced(job, spill, spill_folder(spill, run_dir), *times)
        bill = _bill(job, kept, cost, options.num_threads, rates)
        bill = _with_neighbors(bill, voting, in_memory=run_dir is None)
        bill = _with_map(bill, return_map, held=kept or job.fits or bill.written > 0)
        if max_width is None and _beyond(bill, fits=kept or job.fits):
            bill = replace(bill, narrower=_narrower(job, bill))
        if cluster is not None:
            there = replace(options, num_threads=cluster.cpus_per_worker)
            fast = _measured_worker(job, there, backend, rates)
            assert cluster.workers is not None
            room = Room(job, cluster.memory, spills=spill is not None)
            if rates is not None:
                forward, search = 1 / rates.forward[-1], rates.product
                room = replace(room, forward_rate=forward, search_rate=search)
            sizes, in_flight = Sizes.of(job, voting), cluster.chunks_in_flight
            on_workers = price(sizes, cluster.workers, fast, speed, in_flight, room)
            bill = replace(bill, cluster=on_workers)
    return bill


def _with_neighbors(bill: Plan, voting: Voting, in_memory: bool) -> Plan:
    """The bill with what is kept of neighbours. The last probe tells how many classes there are."""
    if not voting.nearest:
        return bill
    rows = bill.support if bill.queries is None else bill.queries
    size = neighbors_nbytes(voting, rows, len(bill.probes), bill.widths[-1])
    return replace(bill, neighbors=size, memory=bill.memory + (size if in_memory else 0))


def _with_map(bill: Plan, method: str | None, held: bool) -> Plan:
    """The bill with a map. held: whether embeddings are in memory or on disk, not computed again.

    Else the network runs twice more over the rows of each probe: components are fitted, and rows
    projected. UMAP also searches the support's own neighbours, and the queries' once more.
    """
    if method is None:
        return bill
    rows = bill.support if bill.queries is None else bill.queries
    beside = 0 if bill.queries is None else bill.support
    size = map_nbytes(rows, beside, len(bill.probes))
    work = max(fit_nbytes(bill.support, width) for width in bill.widths)
    bill = replace(bill, map=size, memory=bill.memory + size + work)
    again = more = 1.0
    if not held:
        again += len(bill.probes) * (2 * bill.support + (bill.queries or 0)) / bill.forwarded
    if method == "umap":
        more += 1 if bill.queries is None else 1 + bill.support / bill.queries
    forward, search = bill.forward_seconds, bill.search_seconds
    return replace(
        bill, forwarded=round(bill.forwarded * again), flop=bill.flop * more,
        forward_seconds=None if forward is None else forward * again,
        search_seconds=None if search is None else search * more,
    )  # fmt: skip


def _check_cluster(cluster: Cluster | None, bandwidth: str | None) -> float | None:
    """Bytes a second of a worker's link. Raises ValueError for what cannot be planned."""
    if cluster is None and bandwidth is not None:
        raise ValueError(
            f"bandwidth: expected None without cluster, got {bandwidth!r}; pass "
            "cluster=Cluster(workers=64), or --cluster --workers 64."
        )
    if cluster is not None and cluster.workers is None:
        raise ValueError(
            "workers: expected a number of workers to plan for, got None; pass "
            "Cluster(workers=64), or --workers 64."
        )
    return None if bandwidth is None else parse_bandwidth(bandwidth)


def _measured_worker(
    job: Job, options: SearchOptions, backend: str, rates: Rates | None
) -> Measured | None:
    """How fast this machine is as a worker; None where nothing is to be measured."""
    if rates is None:
        return None
    import torch

    rows = sum((job.rows or [])[: len(job.readers)])
    found = measured_rates(_measured_widths(job), options, backend, job.home)
    return Measured(rows * row_seconds(job, torch.get_num_threads()), found)


def _beyond(bill: Plan, fits: bool) -> bool:
    """Whether a job is more than one would start without a thought."""
    if bill.search_seconds is None:
        return not fits or bill.flop > LARGE_FLOP
    return not fits or bill.search_seconds > LONG_SECONDS


def _narrower(job: Job, bill: Plan) -> Narrower | None:
    """The job with the largest `max_width` that is not beyond the machine, or with the smallest.

    None where averaging does not make it less. Call it inside `at_rest`.
    """
    rows, first = job.rows or [], job.readers[0].first.inputs
    found: Narrower | None = None
    for width in NARROWER_WIDTHS:
        layout = narrowed(job.layout, first, width)
        share = sum(layout.widths) / sum(job.layout.widths)
        if share == 1:
            continue
        found = Narrower(width, footprint(layout, sum(rows)), bill.flop * share)
        smaller = replace(job, layout=layout)
        seconds = None if bill.search_seconds is None else bill.search_seconds * share
        less = replace(bill, flop=found.flop, search_seconds=seconds)
        if not _beyond(less, fits=smaller.fits):
            break
    return found


@dataclass(frozen=True)
class Rates:
    """How fast this machine is: seconds that a row's forward pass takes until each probe, and in a
    second the floating-point operations of the search by width, and of a float32 matrix product."""

    forward: list[float]
    search: list[tuple[int, float]]
    product: float


def _bill(job: Job, kept: bool, spill: Spill | None, num_threads: int, rates: Rates | None) -> Plan:
    """The plan's numbers. kept: whether embeddings go to disk. spill: how some do, or would."""
    layout, budget, rows = job.layout, job.budget, job.rows or []
    support, queries = rows[0], rows[-1]
    planner = SpanPlanner(job, rows)
    if rates is not None:
        planner.forward_rate, planner.search_rate = 1 / rates.forward[-1], rates.product
    once = kept or (spill is not None and spill.taken)
    spans = [Span(0, len(layout.probes), "held")] if once else planner.all()
    recomputed = not once and not job.fits
    taken = [
        footprint(
            layout, sum(rows), job.metric, range(s.first, s.end), on_device=job.home is not None
        )
        for s in spans
    ]
    work = cpu.working_set(max(layout.widths), support, num_threads, job.search_memory(recomputed))
    memory, on_device = max(taken) + work, 0
    if recomputed and budget.size is not None:
        # What does not fit is searched in chunks, within the whole budget.
        memory = max(
            size + work if span.way == "held" else budget.size
            for span, size in zip(spans, taken, strict=True)
        )
    if once:
        memory = work if job.fits or budget.size is None else budget.size
    if job.home is not None:
        on_device = max(taken) + triton.working_set(max(layout.widths), support, queries)
        memory = 0
    forwarded = sum(planner.forwarded(span) for span in spans)
    flop = [2.0 * queries * support * width for width in layout.widths]
    forward_seconds = search_seconds = None
    if rates is not None:
        forward_seconds = forwarded * rates.forward[-1]
        search_seconds = sum(
            operations / _at(width, rates.search)
            for operations, width in zip(flop, layout.widths, strict=True)
        )
    total = footprint(layout, sum(rows))
    written, read = (total, total) if kept else (0, 0)
    if spill is not None and spill.taken:
        written, read = spill.written, spill.read
    return Plan(
        probes=layout.names,
        widths=layout.widths,
        support=support,
        queries=None if job.own_rows else queries,
        passes=tuple(layout.names[span.first : span.end] for span in spans),
        forwarded=forwarded,
        flop=sum(flop),
        embeddings=total,
        memory=memory,
        device_memory=on_device,
        written=written,
        read=read,
        forward_seconds=forward_seconds,
        search_seconds=search_seconds,
        notes=layout.notes,
        spill=spill,
    )


def _search_rates(job: Job, backend: str, num_threads: int) -> list[tuple[int, float]]:
    """Operations a second of the search at some widths, on random rows of the probes' type."""
    import torch

    rng, rates = np.random.default_rng(0), []
    for width in _measured_widths(job):
        rows = max(min(MEASURED_ROWS, MEASURED_BYTES // (4 * width)), 2 * job.k + 2)
        values = torch.from_numpy(rng.standard_normal((rows, width), dtype=np.float32))
        support = values if job.home is None else values.to(job.home)
        queries, labels = support[:MEASURED_QUERIES] + 1, np.arange(rows) % 10
        search = partial(
            probe_votes, support, labels, queries, k=job.k, backend=backend, num_threads=num_threads
        )
        rates.append((width, 2.0 * rows * len(queries) * width / fastest(search)))
    return rates


def _measured_widths(job: Job) -> list[int]:
    """Ascending, up to the widest probe's."""
    widest = max(job.layout.widths)
    return [w for w in MEASURED_WIDTHS if w < widest] + [min(widest, 2 * MEASURED_WIDTHS[-1])]


def _at(width: int, rates: list[tuple[int, float]]) -> float:
    """The rate at a width: between those measured, by logarithms."""
    widths, values = np.log([each for each, _ in rates]), np.log([each for _, each in rates])
    return math.exp(float(np.interp(math.log(width), widths, values)))


def _flop(count: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if count < 999.5:
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    return f"{count:,.3g} PFLOP"


def _counted(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _listed(widths: Sequence[int]) -> str:
    """Widths in forward order, runs of equal ones together: "3072; 65536 x3; 10"."""
    runs: list[list[int]] = []
    for width in widths:
        if runs and runs[-1][0] == width:
            runs[-1][1] += 1
        else:
            runs.append([width, 1])
    return "; ".join(f"{width}" + (f" x{count}" if count > 1 else "") for width, count in runs)
