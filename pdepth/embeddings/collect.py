"""The embeddings of a job, handed out from the last span of probes to the first.

Where all fit they are captured once and held (here); a run may keep them on disk (`kept`); and
where they do not fit they are computed again for each span of probes (`recompute`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pdepth.arrays.arguments import Voting
from pdepth.arrays.memory import DEVICE_SHARE, Budget, free_on
from pdepth.backends import triton
from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import NETWORK_ERRORS, device_of
from pdepth.embeddings.capture import Captured, capture, check_memory, footprint
from pdepth.embeddings.dataset import Batches, DataOptions
from pdepth.embeddings.inspection import inspect, measured
from pdepth.embeddings.layout import Layout
from pdepth.embeddings.placement import ProbeOptions
from pdepth.progress import Event, Observer, RowMeter, SearchClock

SEARCH_BYTES = 1 << 31  # that the search may take beside embeddings, at most a quarter of all


@dataclass(frozen=True, eq=False)
class Job:
    """A network and its data, inspected: where it is probed, and what is kept of each row.

    clock: of the search, which forward passes within it stop.
    readers: the support, and the queries unless they are its own rows. k: neighbours, at most.
    home: the CUDA device that holds all embeddings, or None for the host. budget: of the home.
    """

    model: nn.Module
    layout: Layout
    readers: list[Batches]
    metric: str
    k: int
    budget: Budget
    home: torch.device | None = None
    observer: Observer = lambda event: None
    clock: SearchClock = field(default_factory=SearchClock)

    @classmethod
    def inspect(
        cls,
        model: nn.Module,
        options: ProbeOptions,
        support: Any,
        queries: Any,
        *,
        data: DataOptions,
        batch_size: int,
        metric: str,
        voting: Voting,
        budget: Budget,
        backend: str,
        observer: Observer = lambda event: None,
    ) -> Job:
        """Read the first batches and run a dry pass over two rows. Call it inside `at_rest`."""
        readers = [Batches(support, "support", batch_size, data)]
        if queries is not None:
            readers.append(Batches(queries, "queries", batch_size, data))
        if readers[0].rows is not None:
            voting.check_rows(readers[0].rows, leave_one_out=queries is None)
        varies = any(reader.varies for reader in readers)
        layout = inspect(model, options, readers[0].first.inputs, varies=varies)
        if queries is not None:
            _check_alike(layout, *(reader.first.inputs for reader in readers))
        for note in layout.notes:
            observer(Event("note", note))
        for doubt in layout.doubts:
            warnings.warn(f"model: {doubt}.", stacklevel=3)  # whoever called prediction_depth
        job = cls(model, layout, readers, metric, voting.k, budget, observer=observer)
        return job.at_home(backend)

    def at_home(self, backend: str) -> Job:
        """With the model's CUDA device as home, if the triton backend can work beside all
        embeddings there."""
        device, rows = device_of(self.model), self.rows
        if device.type != "cuda" or backend not in ("auto", "triton") or triton.unavailable():
            return self
        if rows is None:
            return self
        work = triton.working_set(max(self.layout.widths), rows[0], rows[-1])
        taken = footprint(self.layout, sum(rows), self.metric, on_device=True)
        if taken + work > DEVICE_SHARE * free_on(device):
            return self
        if self.budget.given:
            return replace(self, home=device) if taken <= (self.budget.size or 0) else self
        return replace(self, home=device, budget=Budget(free_on(device)))

    @property
    def own_rows(self) -> bool:
        """Whether the queries are the support's own rows."""
        return len(self.readers) == 1

    @property
    def rows(self) -> list[int] | None:
        """How many rows support and queries have, None where one does not know."""
        known = [reader.rows for reader in self.readers]
        return None if None in known else [rows or 0 for rows in known]

    @property
    def numbers(self) -> NDArray[np.int64] | None:
        """(N,) the queries' row numbers in their data, where some rows were skipped; else None."""
        return _numbers(self.readers[-1])

    @property
    def support_numbers(self) -> NDArray[np.int64] | None:
        """(M,) likewise of the support."""
        return _numbers(self.readers[0])

    @property
    def fits(self) -> bool:
        """Whether all embeddings fit, as far as that is known."""
        if self.home is not None or self.rows is None or self.budget.size is None:
            return True
        taken = footprint(self.layout, sum(self.rows), self.metric)
        return taken <= room_for(self.budget.size)

    def search_memory(self, recomputed: bool) -> int | None:
        """Bytes that the search may take beside the embeddings of a span; None for no limit."""
        size = self.budget.size
        if size is None or not (self.budget.given or recomputed):
            return None
        return size - room_for(size)

    def note(self, text: str) -> None:
        """A sentence for the observer."""
        self.observer(Event("note", f"embeddings: {text}"))

    def meter(self, reader: Batches, rows: int | None) -> RowMeter:
        """The observer's meter of a forward pass."""
        return RowMeter(self.observer, reader.what, rows)


@dataclass(frozen=True, eq=False)
class Reading:
    """What the first reading of support and queries gave: labels (n,) of each, predictions (N,)."""

    labels: list[NDArray[np.int64]]
    predictions: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SpanRows:
    """Probes that are searched together.

    first: the first one's number. probes: of each its name, the support's rows and the queries',
    None for the support's own; arrays or sources. queries: (n,) int64, the queries by their
    numbers. memory: bytes that the search may take; None for no limit.
    """

    first: int
    probes: list[tuple[str, Any, Any]]
    queries: NDArray[np.int64]
    memory: int | None


class Embeddings(Protocol):
    """Support and queries at every probe of a network. Use it inside `at_rest`, as a context."""

    def __enter__(self) -> Embeddings: ...
    def __exit__(self, *error: Any) -> None: ...

    def read(self) -> Reading:
        """Run the network over all rows, and keep what belongs to the first span."""

    def resume(self, reading: Reading) -> None:
        """Continue after a reading that is known; nothing is captured yet."""

    def span(
        self,
        end: int,
        active: NDArray[np.int64],
        resumed_first: int | None = None,
    ) -> SpanRows:
        """The span of probes that ends before number `end`, for the active queries.

        resumed_first: where the span of an interrupted reading began, if it is to be the same; of
        meaning only where spans are computed again.

        Raises `Changed` after `resume` if the network does not give the same bits again.
        """


class HeldEmbeddings:
    """See `Embeddings`: all of them in memory."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._captured: list[Captured] = []

    def __enter__(self) -> HeldEmbeddings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._captured.clear()

    def read(self) -> Reading:
        job = self._job
        if job.rows is not None:
            job.note(check_memory(job.layout, sum(job.rows), job.budget, job.metric, job.home))
        self._captured = capture_all(job, range(len(job.layout.probes)), job.readers)
        return reading_of(self._captured)

    def resume(self, reading: Reading) -> None: ...

    def span(
        self,
        end: int,
        active: NDArray[np.int64],
        resumed_first: int | None = None,
    ) -> SpanRows:
        job = self._job
        if not self._captured:
            self._captured = capture_all(job, range(len(job.layout.probes)), job.readers)
        values = [captured.embeddings for captured in self._captured]
        queries = np.arange(len(self._captured[-1].labels))
        return span_rows(job, range(end), values, queries, job.search_memory(recomputed=False))

    @property
    def captured(self) -> list[Captured]:
        """Of each reader, what was captured."""
        return self._captured


def capture_all(job: Job, probes: Sequence[int], readers: Sequence[Batches]) -> list[Captured]:
    """All rows of some readers at some probes, in memory."""
    results: list[Captured] = []
    for reader in readers:
        meter = job.meter(reader, reader.rows)
        before = sum(len(captured.labels) for captured in results)

        def make_room(rows: int, before: int = before) -> None:
            if job.rows is None:
                check_memory(job.layout, before + rows, job.budget, job.metric)

        results.append(
            capture(
                job.layout,
                reader,
                probes=probes,
                device=job.home,
                on_rows=meter,
                make_room=make_room,
            )
        )
        meter(len(results[-1].labels), finished=True)
    return results


def reading_of(captured: Sequence[Captured]) -> Reading:
    """The labels and predictions of what was captured."""
    return Reading([each.labels.numpy() for each in captured], captured[-1].predictions.numpy())


def span_rows(
    job: Job,
    probes: range,
    values: Sequence[Sequence[Any]],
    queries: NDArray[np.int64],
    memory: int | None,
) -> SpanRows:
    """A span whose values, of support and queries, are in the order of its probes."""
    rows = [
        (job.layout.names[number], *(side[place] for side in values), *[None] * job.own_rows)
        for place, number in enumerate(probes)
    ]
    return SpanRows(probes[0], rows, queries, memory)


def _numbers(reader: Batches) -> NDArray[np.int64] | None:
    readable = reader.readable
    return None if readable is None or not readable.reasons else readable.rows


def _check_alike(layout: Layout, support: Inputs, queries: Inputs) -> None:
    """Raise ValueError where rows of the queries have other embeddings than the support's."""
    shapes = [
        ", ".join(str(tuple(tensor.shape[1:])) for _, tensor in inputs.tensors())
        for inputs in (support, queries)
    ]
    try:
        same = measured(layout, queries).shapes == layout.shapes
    except NETWORK_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"queries: expected inputs like the support's, of shape {shapes[0]}, got inputs of "
            f"shape {shapes[1]} on which the network fails: {reason}"
        ) from error
    if not same:
        raise ValueError(
            f"queries: expected inputs like the support's, of shape {shapes[0]}, got inputs "
            f"with other embeddings, of shape {shapes[1]}."
        )


def room_for(memory: int) -> int:
    """Bytes of `memory` that embeddings may take beside the search."""
    return memory - min(SEARCH_BYTES, memory // 4)
