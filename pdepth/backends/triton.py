"""The GPU backend: the same votes from Triton's kernels, on the device where the arrays are."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.bounds import Bounds
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Neighbors
from pdepth.arrays.problem import ProbeRows, Problem
from pdepth.arrays.rows import Rows
from pdepth.progress import ProbeProgress

if TYPE_CHECKING:
    import torch

    from pdepth.kernels.search import Answer, Search

CAPABILITY = (8, 0)
INTERPRET = "TRITON_INTERPRET"


def unavailable() -> str | None:
    """Why this backend cannot be used here, or None."""
    for library in ("triton", "torch"):
        if importlib.util.find_spec(library) is None:
            return f"{library} is not installed: pip install 'pdepth[gpu]'."
    if interpreted():
        return _not_interpreted()
    import torch

    if torch.version.hip is not None:
        return "expected torch built for CUDA, got ROCm; backend='cpu' takes its arrays too."
    if not torch.cuda.is_available():
        return "torch sees no CUDA device."
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        actual, expected = (".".join(map(str, pair)) for pair in (capability, CAPABILITY))
        return (
            f"expected a CUDA device of compute capability {expected} or more, got {actual}; "
            "backend='cpu' takes its arrays too."
        )
    return None


def _not_interpreted() -> str | None:
    """Why kernels cannot be interpreted, or None: NumPy 2.4 refuses what Triton 3.6 asks of it."""
    import triton

    pair = triton.__version__, np.__version__
    old, new = (tuple(map(int, version.split(".")[:2])) for version in pair)
    if old >= (3, 7) or new < (2, 4):
        return None
    return (
        f"Triton {pair[0]} does not interpret kernels with NumPy {pair[1]}; "
        "pip install 'triton>=3.7', or 'numpy<2.4'."
    )


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, one program after the other, for tests."""
    return os.environ.get(INTERPRET, "0") not in ("", "0")


def hold(
    rows: Rows, metric: str, memory: int, before: Any = None, packing: Any = None
) -> tuple[Rows, Any]:
    """The rows, copied to the device once, and what is packed of them there."""
    from pdepth.backends.packed import PackedSupport
    from pdepth.backends.transfer import as_tensor

    packed = PackedSupport(memory, inner_products=metric == "inner_product")
    if rows.on_device or interpreted():
        return rows, packed
    rows = rows.divided()
    return Rows(as_tensor(rows).to("cuda"), rows.type), packed


@contextmanager
def session(problem: Problem, progress: ProbeProgress | None = None) -> Iterator[TritonSession]:
    """Open a problem on its device, whose memory and kernels are the current ones."""
    import torch

    device = _device(problem)
    opened = None
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        try:
            opened = TritonSession(problem, device, progress)
            yield opened
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            raise MemoryError(
                f"{device} has too little free memory for the answers of "
                f"{problem.num_queries:,} queries."
            ) from error
        finally:
            if opened is not None:
                opened.close()


def working_set(width: int, support: int, queries: int) -> int:
    """Bytes that a probe whose rows are on the device takes beside them, at most."""
    from pdepth.backends import room

    return room.working_set(width, support, queries)


class TritonSession:
    """See `base.Session`. Rows of the host are copied once an answer, those of the probes that are
    likely to come next while the kernels work."""

    def __init__(
        self, problem: Problem, device: torch.device, progress: ProbeProgress | None
    ) -> None:
        from pdepth.backends.room import Room
        from pdepth.backends.transfer import Transfer

        self._problem, self._device, self._progress = problem, device, progress
        self._room = Room(problem, device)
        self._copies = Transfer(device)
        self._codes = self._put(problem.codes)
        self._inner_products = problem.metric == "inner_product"

    def close(self) -> None:
        """Let go of copies that are under way."""
        self._copies.close()

    def votes(
        self,
        probes: Sequence[int],
        queries: NDArray[np.int64] | None = None,
        target: NDArray[np.int32] | None = None,
        *,
        counts: bool = False,
        nearest: int = 0,
    ) -> EncodedVotes:
        """All probes in one launch a step, as far as they fit; with counts one after the other."""
        from pdepth.kernels.search import Answer

        if counts:
            return EncodedVotes.concatenated(
                [self._counted(probe, queries, nearest) for probe in probes]
            )
        pairs, rows = self._chosen(probes, queries)
        votes = self._empty(len(probes), len(rows), dtype="int32")
        if target is None:
            tied = self._empty(*votes.shape, dtype="bool")
            answers = [Answer(votes=v, tied=t) for v, t in zip(votes, tied, strict=True)]
            self._answer(probes, pairs, rows, answers)
            return EncodedVotes(votes.cpu().numpy(), tied.cpu().numpy())
        targets = self._put(target)
        # A hint: the earlier probes usually come next, with fewer queries.
        earlier = self._problem.probes[: min(probes)][::-1]
        then = [ProbeRows(pair.name, pair.support, None) for pair in earlier]
        answers = [Answer(target=targets, votes=v) for v in votes]
        self._answer(probes, pairs, rows, answers, then)
        return EncodedVotes(votes.where(votes == targets, UNKNOWN).cpu().numpy())

    def neighbors(
        self,
        probe: int,
        queries: NDArray[np.int64] | None = None,
        within: NDArray[np.float64] | None = None,
    ) -> Neighbors:
        """All k, however far."""
        distances, rows = self._neighbors(probe, queries)
        return distances.cpu().numpy(), rows.cpu().numpy()

    def bounds(self, probe: int, width: int) -> Bounds:
        """The k nearest rows themselves."""
        return Bounds.exact(self.neighbors(probe))

    def _counted(self, probe: int, queries: NDArray[np.int64] | None, nearest: int) -> EncodedVotes:
        """A probe's votes, how many each class had, and the nearest rows."""
        from pdepth.kernels.search import class_counts, majority

        neighbors = self._neighbors(probe, queries)
        codes = self._codes[neighbors[1]]
        counts = class_counts(codes, len(self._problem.classes))
        votes = EncodedVotes(*(a[None].cpu().numpy() for a in (*majority(codes), counts)))
        if not nearest:
            return votes
        distances, rows = (each[:, :nearest].cpu().numpy() for each in neighbors)
        return votes.with_nearest((distances, rows), nearest)

    def _neighbors(
        self, probe: int, queries: NDArray[np.int64] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, k) float64 distances and (n, k) int64 rows at a probe."""
        from pdepth.kernels.search import Answer

        pairs, numbers = self._chosen([probe], queries)
        shape = (len(numbers), self._problem.k)
        distances, rows = self._empty(*shape, dtype="float64"), self._empty(*shape, dtype="int64")
        self._answer([probe], pairs, numbers, [Answer(distances=distances, rows=rows)])
        return distances, rows

    def _answer(
        self,
        probes: Sequence[int],
        pairs: Sequence[ProbeRows],
        rows: torch.Tensor,
        answers: Sequence[Answer],
        then: Sequence[ProbeRows] = (),
    ) -> None:
        """The queries in `rows` (n,) of some probes' `pairs`, into answers of (n, ...) each.

        then: rows that are likely to be searched next.
        """
        leaves_out = self._problem.own_rows and self._problem.exclude_self
        selves = rows if leaves_out else rows.new_full(rows.shape, -1)
        done = 0
        while done < len(pairs):
            end = done + self._room.fitting(pairs[done:], len(rows))
            for probe in probes[done:end]:
                self._report(probe, 0.0, rows)
            out_of_memory = False
            try:
                if self._room.holds(pairs[done], len(rows)):
                    following = [*pairs[end:], *then]
                    # No name holds it: its memory is free before the next try.
                    self._search(pairs[done:end], rows, selves, following).answer(answers[done:end])
                else:
                    self._in_chunks(pairs[done], rows, selves, answers[done])
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                out_of_memory = True
            if out_of_memory:  # the error is gone, and with its frames the rows that they held
                self._shrink()
                continue
            for probe in probes[done:end]:
                self._report(probe, 1.0, rows)
            done = end

    def _search(
        self,
        pairs: Sequence[ProbeRows],
        rows: torch.Tensor,
        selves: torch.Tensor,
        then: Sequence[ProbeRows],
    ) -> Search:
        """Probes that fit together; those after them that fit beside are copied meanwhile."""
        from pdepth.kernels.lists import MOST_NEIGHBOURS
        from pdepth.kernels.search import Search

        supports = [self._copies.take(pair.support) for pair in pairs]
        queries = [
            support if pair.queries is None else self._copies.take(pair.queries)
            for pair, support in zip(pairs, supports, strict=True)
        ]
        taken = sum(self._room.size(pair, len(rows)) for pair in pairs)
        for pair in then:
            taken += self._room.size(pair, len(rows))
            if taken > self._room.rows:
                break
            for side in (pair.support, pair.queries):
                if side is not None:
                    self._copies.expect(side)
        kept = None
        if self._problem.k <= MOST_NEIGHBOURS and all(pair.packed is not None for pair in pairs):
            found = [pair.packed.of(rows) for pair, rows in zip(pairs, supports, strict=True)]
            kept = found if all(each is not None for each in found) else None
        return Search(
            supports, queries, rows, selves, self._codes, self._problem.k, self._room.scratch,
            inner_products=self._inner_products, kept=kept,
        )  # fmt: skip

    def _in_chunks(
        self, pair: ProbeRows, rows: torch.Tensor, selves: torch.Tensor, answer: Answer
    ) -> None:
        """A support that the device cannot hold: the nearest of each chunk, merged."""
        import torch

        from pdepth.backends.transfer import row_bytes_on_device
        from pdepth.kernels.search import fill

        support = pair.support
        queries = support if pair.queries is None else pair.queries
        chunk, query_chunk = self._room.chunks(pair)
        count = -(-len(support) // min(chunk, len(support)))
        bounds = [len(support) * number // count for number in range(count + 1)]
        for places in torch.split(torch.arange(len(rows), device=self._device), query_chunk):
            numbers = rows[places]
            if row_bytes_on_device(queries):
                asked = self._copies.take(queries[numbers.cpu().numpy()])
                numbers = torch.arange(len(places), device=self._device)
            else:
                asked = queries.array
            nearest = self._nearest_in_chunks(pair, bounds, asked, numbers, selves[places])
            fill(answer, places, *nearest, self._codes)

    def _nearest_in_chunks(
        self,
        pair: ProbeRows,
        bounds: Sequence[int],
        queries: torch.Tensor,
        numbers: torch.Tensor,
        selves: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest rows of some queries, the next chunk copied while one is searched."""
        import torch

        from pdepth.kernels.search import Answer, Search

        k = self._problem.k
        spans = list(pairwise(bounds))
        chunks = [pair.support[first:last] for first, last in spans]
        kept: tuple[torch.Tensor, torch.Tensor] | None = None
        for (first, last), chunk, following in zip(spans, chunks, [*chunks[1:], None], strict=True):
            own = selves - first
            own = own.where((own >= 0) & (own < last - first), -1)
            distances = self._empty(len(numbers), k, dtype="float64")
            rows = self._empty(len(numbers), k, dtype="int64")
            held, codes = self._copies.take(chunk), self._codes[first:last]
            if following is not None:
                self._copies.expect(following)
            search = Search(
                [held], [queries], numbers, own, codes, k, self._room.scratch,
                inner_products=self._inner_products,
            )  # fmt: skip
            search.answer([Answer(distances=distances, rows=rows)])
            rows += first
            if kept is not None:
                # Chunks come in ascending order: a stable sort leaves rows of a tie in theirs.
                distances, order = torch.cat([kept[0], distances], 1).sort(dim=1, stable=True)
                rows = torch.cat([kept[1], rows], dim=1).gather(1, order)
            kept = distances[:, :k], rows[:, :k]
            del held, search
        assert kept is not None
        return kept

    def _shrink(self) -> None:
        """Go on with half the memory, since the device has less than it said."""
        import torch

        self._copies.drop()
        torch.cuda.empty_cache()
        self._room.halve()

    def _chosen(
        self, probes: Sequence[int], queries: NDArray[np.int64] | None
    ) -> tuple[list[ProbeRows], torch.Tensor]:
        """The rows of some probes, and (n,) int64 on the device: where each query is among them.

        Of queries in the host's memory only those that are asked are copied to the device.
        """
        import torch

        from pdepth.backends.transfer import row_bytes_on_device

        pairs = [self._problem.probes[probe] for probe in probes]
        numbers = self._problem.row_numbers(queries)
        if numbers is None:
            return pairs, torch.arange(self._problem.num_queries, device=self._device)
        some = any(p.queries is not None and len(numbers) < len(p.queries) for p in pairs)
        if not some or not any(p.queries and row_bytes_on_device(p.queries) for p in pairs):
            return pairs, self._put(numbers)
        pairs = [replace(p, queries=p.queries and p.queries[numbers]) for p in pairs]
        return pairs, torch.arange(len(numbers), device=self._device)

    def _put(self, array: NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _empty(self, *shape: int, dtype: str) -> torch.Tensor:
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=self._device)

    def _report(self, probe: int, fraction: float, rows: torch.Tensor) -> None:
        if self._progress is not None:
            self._progress(probe, fraction, len(rows))


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether the device has no more memory: torch's error, or CUDA's and Triton's message."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def _device(problem: Problem) -> torch.device:
    import torch

    if interpreted():
        return torch.device("cpu")
    device = problem.device
    return device if device is not None and device.type == "cuda" else torch.device("cuda")
