"""Which probes are searched together where not all embeddings fit, and how their values come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pdepth.arrays.memory import LIST_BYTES, MERGE_BYTES, PACKED_BYTES, beside, readings
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Job, room_for
from pdepth.progress import fastest

QUERY_SHARE = 0.75  # of the room for embeddings that queries may take, where a support streams by


@dataclass(frozen=True)
class Span:
    """Probes from `first` to before `end`, which are searched together, and their values' way.

    "held": support and queries are in memory; "shared": the queries are, and the support's values
    at all of the probes come by in chunks, from one forward pass; "streamed": one probe, computed
    as it is searched.
    """

    first: int
    end: int
    way: Literal["held", "shared", "streamed"]


@dataclass
class SpanPlanner:
    """Chooses spans, from the last probe to the first, that fit into a job's budget.

    Attributes:
        rows: of support and queries. forward_rate, search_rate: rows a second of the forward pass,
            and operations a second of the search, about; None as long as they are not known.
        asked: of one worker of several, how many queries are active in all: its part of the support
            passes by for them, while it holds its own. None where there are no others.
    """

    job: Job
    rows: Sequence[int]
    forward_rate: float | None = None
    search_rate: float | None = None
    asked: int | None = None

    def all(self) -> list[Span]:
        """The spans as long as all queries are active."""
        end = len(self.job.layout.probes)
        if self.job.fits:
            return [Span(0, end, "held")]
        spans = []
        while end:
            spans.append(self.before(end))
            end = spans[-1].first
        return spans

    def before(
        self,
        end: int,
        active: NDArray[np.int64] | None = None,
        resumed_first: int | None = None,
    ) -> Span:
        """The longest span before `end` that fits, for the active queries; None for all."""
        queries = self.rows[-1] if active is None else len(active)
        if resumed_first is not None and self.chunk_rows(range(resumed_first, end), queries) > 0:
            return Span(resumed_first, end, "shared")
        held, shared = self.held_first(end, queries), end
        while shared and self.chunk_rows(range(shared - 1, end), queries) > 0:
            if shared < end and not self._worth_joining(shared - 1, queries):
                break
            shared -= 1
        if shared < held:
            return Span(shared, end, "shared")
        return Span(held, end, "held") if held < end else Span(end - 1, end, "streamed")

    def held_first(self, end: int, queries: int) -> int:
        """The first of the probes before `end` that can be held together; `end` where none can."""
        held = end
        while held and self._fits(range(held - 1, end), queries):
            held -= 1
        return held

    def forwarded(self, span: Span) -> int:
        """Rows that run through the network for a span while all queries are active."""
        own_are_there = self.job.own_rows and span.way == "held"
        return self.readings(span) * self.rows[0] + (0 if own_are_there else self.rows[-1])

    def readings(self, span: Span) -> int:
        """How often the support is computed for a span while all queries are active."""
        job, asked = self.job, self.rows[-1] if self.asked is None else self.asked
        if span.way != "streamed" or job.budget.size is None:
            return 1
        if self.asked is not None:
            return -(-asked // self.streamed(span.first)[0])
        row_bytes = footprint(job.layout, 1, job.metric, [span.first])
        return readings(job.budget.size, asked, row_bytes, job.k)

    @property
    def passes_by(self) -> bool:
        """Whether there is a support: a worker may have queries alone."""
        return self.job.readers[0].what == "support"

    def chunk_rows(self, probes: range, queries: int) -> int:
        """Rows of the support, whole batches, beside the queries at these probes; or 0. queries:
        how many of its own are active."""
        job = self.job
        assert job.budget.size is not None
        room, batch = room_for(job.budget.size), job.readers[0].batch_rows or 1
        row = footprint(job.layout, 1, job.metric, probes)
        lists = (LIST_BYTES * len(probes) + MERGE_BYTES) * (job.k + 1)
        taken = queries * (row + lists)
        if self.asked is not None:  # its own, and those of all as they came
            taken = queries * row + self.asked * (row + lists)
        if taken > QUERY_SHARE * room or not self.passes_by:
            return 0
        return int((room - taken) // row // batch) * batch

    def streamed(self, probe: int) -> tuple[int, int]:
        """Of a probe that does not fit: the queries for which the support passes by at a time, and
        how many of its rows, whole batches, are in work beside them."""
        job = self.job
        assert job.budget.size is not None
        row, batch = footprint(job.layout, 1, job.metric, [probe]), job.readers[0].batch_rows or 1
        queries, left = beside(job.budget.size, row, job.k)
        if queries > batch:  # of whole batches none is computed twice
            queries = queries // batch * batch
        rows = left // (row + PACKED_BYTES * job.layout.widths[probe])
        return queries, max(1, rows // batch) * batch

    def _fits(self, probes: range, queries: int) -> bool:
        """Whether support and queries can be held at these probes."""
        job = self.job
        assert job.budget.size is not None
        rows = sum(self.rows) if job.own_rows else self.rows[0] + queries
        return footprint(job.layout, rows, job.metric, probes) <= room_for(job.budget.size)

    def _worth_joining(self, probe: int, queries: int) -> bool:
        """Whether one more probe, searched for all of the queries, costs less than a forward pass
        of its own, for which fewer would be active."""
        if self.forward_rate is None or self.search_rate is None:
            return True
        queries = queries if self.asked is None else self.asked
        operations = 2.0 * queries * self.job.layout.widths[probe]  # for each row of the support
        return operations / self.search_rate <= 1 / self.forward_rate


def product_rate(device: torch.device | None) -> float:
    """Measure the operations a second of a float32 matrix product, which a search without selection
    would reach; it takes a few hundredths of a second."""
    size = 768 if device is None else 8192
    rows = torch.ones(size, size, device=device or "cpu")
    return 2.0 * size**3 / fastest(lambda: (rows @ rows)[0, 0].item())
