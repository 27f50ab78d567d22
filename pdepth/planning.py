"""What a job will cost, before it starts: passes, work, memory, disk, and time as measured here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pdepth.arrays import arguments
from pdepth.arrays.memory import Budget, human
from pdepth.backends import backend_named, cpu, triton
from pdepth.depth import Job, check_least, named_device, product_rate
from pdepth.embeddings.capture import at_rest, footprint, forward
from pdepth.embeddings.placement import Layers, place
from pdepth.embeddings.spans import Embeddings
from pdepth.progress import clock, fastest
from pdepth.search import chunks
from pdepth.votes import probe_votes

SAMPLE = 1 << 25  # bytes of rows that the kernel is measured on
ROWS, ASKED = 8192, 1024  # of them, at most
WIDTHS = (16, 256, 4096)  # at which it is measured, up to the widest probe's


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

    @property
    def seconds(self) -> float | None:
        """Of all work."""
        if self.forward_seconds is None or self.search_seconds is None:
            return None
        return self.forward_seconds + self.search_seconds

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
        if self.seconds is not None:
            lines["forward"] += f", {clock(self.forward_seconds or 0.0)}"
            lines["search"] += f", {clock(self.search_seconds or 0.0)}"
            lines["time"] = f"{clock(self.seconds)} at most, as measured here"
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


def plan(
    model: nn.Module,
    support: Any,
    queries: Any = None,
    *,
    layers: Layers = "auto",
    k: int | Sequence[int] = 30,
    metric: str = "sqeuclidean",
    backend: str = "auto",
    device: str | torch.device | None = None,
    memory: int | str | None = None,
    batch_size: int = 256,
    num_threads: int | None = None,
    keep_embeddings: str | os.PathLike[str] | None = None,
    measure: bool = True,
) -> Plan:
    """What `prediction_depth` with these arguments will cost.

    Reads the first batch of each dataset; measure: runs it once more and the kernel on a few
    thousand random rows, for some seconds, to know this machine's speed.

    Raises as `prediction_depth` before its work; ValueError for a dataset that does not say how
    many rows it has.
    """
    ballot = arguments.check_voting(k, "uniform", None)
    most = max(ballot.ks)
    arguments.check_choice(metric, "metric", arguments.METRICS)
    batch_size = arguments.check_int(batch_size, "batch_size")
    threads = arguments.check_threads(num_threads)
    backend_named(backend)
    target, budget, placement = named_device(device), Budget.of(memory), place(model, layers)
    with at_rest(model, target):
        job = Job.of(model, placement, support, queries, batch_size, most)
        for source in job.sources:
            if source.rows is None:
                raise ValueError(
                    f"{source.what} does not say how many rows it has; a plan wants to know."
                )
        home, budget = job.home(budget, backend, metric)
        embeddings = Embeddings(
            model,
            job.layout,
            job.sources,
            budget=budget,
            metric=metric,
            k=most,
            home=home,
            to_disk=keep_embeddings is not None,
        )
        if embeddings.anew:
            check_least(job.layout, budget, metric, most)
        rates = None
        if measure:
            rates = _rows_a_second(job), _flop_a_second(job, home, backend, num_threads, most)
            embeddings.forward_rate, embeddings.search_rate = rates[0], product_rate(home)
    kept = keep_embeddings is not None
    return bill(job, embeddings, budget, home, metric, threads, most, kept, rates)


def bill(
    job: Job,
    embeddings: Embeddings,
    budget: Budget,
    home: torch.device | None,
    metric: str,
    threads: int,
    k: int,
    kept: bool,
    rates: tuple[float, list[tuple[int, float]]] | None,
) -> Plan:
    """The plan's numbers. rates: rows a second of the forward pass, and FLOP/s by width."""
    layout, rows = job.layout, [source.rows or 0 for source in job.sources]
    groups = embeddings.groups()
    asked = rows[-1]
    flop = [2.0 * asked * rows[0] * width for width in layout.widths]
    taken = [footprint(layout, sum(rows), metric, range(g.first, g.end)) for g in groups]
    total = footprint(layout, sum(rows))
    work = cpu.working_set(max(layout.widths), rows[0], threads, embeddings.search_memory)
    memory, on_device = max(taken) + work, 0
    if embeddings.anew and budget.size is not None:
        # What does not fit passes by, or is streamed, within the whole budget.
        memory = max(
            each + work if group.way == "held" else budget.size
            for group, each in zip(groups, taken, strict=True)
        )
    if kept:
        memory = work
    if home is not None:
        on_device = max(taken) + triton.working_set(max(layout.widths), rows[0], asked)
        memory = 0
    forwarded = 0
    for group in groups:
        again = 1
        if group.way == "streamed" and budget.size is not None:
            row = footprint(layout, 1, metric, [group.first])
            again = chunks.readings(budget.size, asked, row, k)
        forwarded += again * rows[0] + (0 if job.own and group.way == "held" else asked)
    forward_seconds = search_seconds = None
    if rates is not None:
        rate, by_width = rates
        forward_seconds = forwarded / rate
        search_seconds = sum(
            each / _at(width, by_width) for each, width in zip(flop, layout.widths, strict=True)
        )
    return Plan(
        probes=layout.names,
        widths=layout.widths,
        support=rows[0],
        queries=None if job.own else asked,
        passes=tuple(layout.names[group.first : group.end] for group in groups),
        forwarded=forwarded,
        flop=sum(flop),
        embeddings=total,
        memory=memory,
        device_memory=on_device,
        written=total if kept else 0,
        read=total if kept else 0,
        forward_seconds=forward_seconds,
        search_seconds=search_seconds,
    )


# ---- this machine ----


def _rows_a_second(job: Job) -> float:
    """Of the forward pass, every probe copied, over the first batch."""
    inputs, labels = job.sources[0].first
    held: dict[int, torch.Tensor] = {}

    def put(number: int, begin: int, values: torch.Tensor) -> None:
        held[number] = values.to("cpu", copy=True)

    def once() -> None:
        every = range(len(job.layout.probes))
        for _ in forward(
            job.model, job.layout, "support", [(0, (inputs, labels))], every, put, predict=True
        ):
            pass

    return len(labels) / fastest(once)


def _flop_a_second(
    job: Job, home: torch.device | None, backend: str, num_threads: int | None, k: int
) -> list[tuple[int, float]]:
    """Of the search at some widths, on random rows of the probes' type."""
    rng, found = np.random.default_rng(0), []
    widest = max(job.layout.widths)
    for width in [each for each in WIDTHS if each < widest] + [min(widest, 2 * WIDTHS[-1])]:
        rows = max(min(ROWS, SAMPLE // (4 * width)), 2 * k + 2)
        values = torch.from_numpy(rng.standard_normal((rows, width), dtype=np.float32))
        support = values if home is None else values.to(home)
        queries, labels = support[:ASKED] + 1, np.arange(rows) % 10
        search = partial(
            probe_votes, support, labels, queries, k=k, backend=backend, num_threads=num_threads
        )
        found.append((width, 2.0 * rows * len(queries) * width / fastest(search)))
    return found


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
