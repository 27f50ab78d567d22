"""The compiled backend: distance, selection, certificate and vote in one C++ kernel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import _native, native
from pdepth.arrays.bounds import Bounds
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Neighbors
from pdepth.arrays.problem import Problem
from pdepth.arrays.rows import Rows
from pdepth.progress import ProbeProgress

HELD_BYTES = 3 << 29
"""Of one probe's packed support, held at a time; a larger one is packed in chunks."""
WIDEST_LEAVES = 320  # columns of rows that may be searched in leaves; their values take room too
QUERY_BYTES = 4 << 20, 256 << 20  # of packed queries and their lists: at least, and at most
FIRST_STAGE: str | None = None
"""Name of the filter stage that layers begin with; None: a rule chooses. Changes no vote."""
LEAST_BYTES = 1 << 20  # that are not halved once more when memory runs out
PAIRS: bool | None = None
"""Whether rows that ask for themselves serve each other, pair by pair; None: where it pays."""
_ANSWERS = dict.fromkeys(
    ("target", "votes", "tied", "counts", "distances", "rows", "upper", "within"), None
)


def working_set(width: int, rows: int, num_threads: int, memory: int | None) -> int:
    """Bytes that a search takes beside the rows, at most: the packed support that is held, the
    queries of a tile and their lists, an order of the rows, and some doubles a thread."""
    held = _held_bytes(memory)
    queries = min(QUERY_BYTES[1], max(QUERY_BYTES[0], held))
    of_row = 8 * (width + 8) if width <= WIDEST_LEAVES else 0  # of leaves
    packed = min(held, max(of_row, 4 * (width + 32)) * (rows + 64))
    return packed + queries + 64 * rows + num_threads * (16 * width + (1 << 20))


def unavailable() -> str | None:
    """None: the portable level runs on any machine."""
    return None


def hold(
    rows: Rows, metric: str, memory: int, before: Any = None, packing: Any = None
) -> tuple[Rows, Any]:
    """A support that keeps what is packed of it."""
    host = rows.on_host()
    borrowed, norms = (host.array, host.type), host.norms
    if packing is not None and packing["level"] == native.simd_level():
        return host, _native.Support.restored(
            borrowed, metric=metric, kept_bytes=memory, packing=packing, norms=norms
        )
    if before is None:
        return host, _native.Support(borrowed, metric=metric, kept_bytes=memory, norms=norms)
    return host, before.followed_by(borrowed, norms)


def session(
    problem: Problem, progress: ProbeProgress | None = None
) -> AbstractContextManager[CpuSession]:
    """Open a problem; only the bytes that are packed at a time stay between its answers."""
    return nullcontext(CpuSession(problem, progress))


class CpuSession:
    """See `base.Session`."""

    def __init__(self, problem: Problem, progress: ProbeProgress | None) -> None:
        self._problem, self._progress = problem, progress
        self._held = _held_bytes(problem.memory)
        self._last: tuple[int, _native.Support] | None = None

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64] | None = None,
        target: NDArray[np.int32] | None = None,
        *,
        counts: bool = False,
        nearest: int = 0,
    ) -> EncodedVotes:
        """All probes in one native call."""
        shape = (len(probes), self._problem.num_queries if queries is None else len(queries))
        answer = EncodedVotes(
            votes=np.full(shape, UNKNOWN, np.int32),
            tied=None if target is not None else np.empty(shape, np.bool_),
            counts=np.empty((*shape, len(self._problem.classes)), np.int32) if counts else None,
            distances=np.empty((*shape, nearest)) if nearest else None,
            rows=np.empty((*shape, nearest), np.int64) if nearest else None,
        )
        self._run(probes, queries, target=target, **dict(answer.arrays()))
        return answer

    def neighbors(
        self,
        probe: int,
        queries: NDArray[np.int64] | None = None,
        within: NDArray[np.float64] | None = None,
    ) -> Neighbors:
        shape = (
            self._problem.num_queries if queries is None else len(queries),
            self._problem.k,
        )
        if within is None:
            distances, rows = np.empty(shape), np.empty(shape, np.int64)
        else:  # what is left out keeps its value
            distances, rows = np.full(shape, np.nan), np.full(shape, -1)
        self._run([probe], queries, distances=distances, rows=rows, within=within)
        return distances, rows

    def bounds(self, probe: int, width: int) -> Bounds:
        """Distances are computed until so many candidates are left."""
        queries = self._problem.num_queries
        width = max(width, self._problem.k)
        lower, upper = np.empty((queries, width)), np.empty((queries, width))
        rows = np.empty((queries, width), np.int64)
        self._run([probe], None, distances=lower, upper=upper, rows=rows)
        return Bounds.padded(lower, upper, rows)

    def _run(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64] | None,
        **answers: NDArray[Any] | None,
    ) -> None:
        problem, progress = self._problem, self._progress
        call: dict[str, Any] = {
            "layers": [
                (self._support(probe), *_borrowed(problem.probes[probe].queries))
                for probe in probes
            ],
            "codes": problem.codes,
            "classes": len(problem.classes),
            "k": problem.k,
            "exclude_self": problem.exclude_self,
            "query_rows": problem.row_numbers(queries),
            "queries": problem.num_queries if queries is None else len(queries),
            "level": native.simd_level(),
            "first_stage": FIRST_STAGE,
            "threads": problem.num_threads,
            "progress": progress and (lambda at, *rest: progress(probes[at], *rest)),
        }
        while True:
            native.check_headroom()
            try:
                _native.run(**call, **_ANSWERS | answers, held_bytes=self._held, pairs=PAIRS)
                return
            except MemoryError:
                # The same votes in smaller chunks, as long as these are larger than some pages.
                if self._held < LEAST_BYTES:
                    raise
                self._held //= 2

    def _support(self, probe: int) -> _native.Support:
        """A probe's support; one that is searched again after itself keeps what is packed."""
        rows = self._problem.probes[probe]
        if rows.packed is not None:
            packed: _native.Support = rows.packed
            return packed
        if self._last is not None and self._last[0] == probe:
            self._last[1].keep(self._held)
        else:
            borrowed, norms = _borrowed(rows.support)
            assert borrowed is not None
            support = _native.Support(
                borrowed, metric=self._problem.metric, kept_bytes=0, norms=norms
            )
            self._last = probe, support
        return self._last[1]


def distances(
    support: Rows,
    queries: Rows,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    num_threads: int,
) -> NDArray[np.float64]:
    """The squared distances of pairs, numbers (n,) of queries and (n,) of support rows."""
    answer = np.empty(len(pairs[0]))
    native.check_headroom()
    (rows, norms), (asked, of_asked) = _borrowed(support), _borrowed(queries)
    assert rows is not None
    assert asked is not None
    _native.settle_pairs(
        rows, norms, asked, of_asked, query_rows=pairs[0], rows=pairs[1], distances=answer,
        level=native.simd_level(), threads=num_threads,
    )  # fmt: skip
    return answer


def _held_bytes(memory: int | None) -> int:
    return HELD_BYTES if memory is None else min(HELD_BYTES, memory // 4)


def _borrowed(
    rows: Rows | None,
) -> tuple[tuple[NDArray[Any], str] | None, NDArray[np.float64] | None]:
    """Rows as the native call takes them: an array on the host and its type, and the norms."""
    if rows is None:
        return None, None
    return ((rows.on_host().array if rows.on_device else rows.array), rows.type), rows.norms
