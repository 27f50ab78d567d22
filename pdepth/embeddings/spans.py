"""Which probes are searched together where not all embeddings fit, and how their values come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.memory import LIST_BYTES, MERGE_BYTES, readings
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Job, room_for

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
        passes_by: whether a support may be "shared", for queries that are all known before.
    """

    job: Job
    rows: Sequence[int]
    forward_rate: float | None = None
    search_rate: float | None = None
    passes_by: bool = True

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
        while self.passes_by and shared and self.chunk_rows(range(shared - 1, end), queries) > 0:
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
        job, count = self.job, 1
        support, queries = self.rows[0], self.rows[-1]
        if span.way == "streamed" and job.budget.size is not None:
            row_bytes = footprint(job.layout, 1, job.metric, [span.first])
            count = readings(job.budget.size, queries, row_bytes, job.k)
        return count * support + (0 if job.own_rows and span.way == "held" else queries)

    def chunk_rows(self, probes: range, queries: int) -> int:
        """Rows of the support, whole batches, beside so many queries at these probes; or 0."""
        job = self.job
        assert job.budget.size is not None
        room, batch = room_for(job.budget.size), job.readers[0].batch_rows or 1
        row = footprint(job.layout, 1, job.metric, probes)
        lists = (LIST_BYTES * len(probes) + MERGE_BYTES) * (job.k + 1)
        taken = queries * (row + lists)
        return 0 if taken > QUERY_SHARE * room else int((room - taken) // row // batch) * batch

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
        operations = 2.0 * queries * self.job.layout.widths[probe]  # for each row of the support
        return operations / self.search_rate <= 1 / self.forward_rate
