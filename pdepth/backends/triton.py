"""The GPU engine: the same votes from Triton's kernels, on the device where the arrays are."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate, pairwise, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Layer, Problem
from pdepth.arrays.encoded import UNKNOWN, EncodedVotes, Progress
from pdepth.arrays.memory import free_on, human

if TYPE_CHECKING:
    import torch

    from pdepth.kernels.search import Answer, Search

CAPABILITY = (8, 0)
SHARE = 0.8  # of the device's free memory
TILE = 128  # rows of a tile of the filter, the least that it takes
INTERPRET = "TRITON_INTERPRET"


def available() -> str | None:
    """Why this engine cannot be used here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton."
    if interpreted():
        return None
    import torch

    if torch.version.hip is not None:
        return "torch is built for ROCm, and CUDA is wanted; backend='cpu' takes its arrays too."
    if not torch.cuda.is_available():
        return "torch sees no CUDA device."
    capability = torch.cuda.get_device_capability()
    if capability < CAPABILITY:
        found, wanted = (".".join(map(str, each)) for each in (capability, CAPABILITY))
        return (
            f"the CUDA device has compute capability {found}, and {wanted} is wanted; "
            "backend='cpu' takes its arrays too."
        )
    return None


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, one program after the other, for tests."""
    return os.environ.get(INTERPRET, "0") not in ("", "0")


def votes(
    problem: Problem,
    wanted: NDArray[np.int32] | None,
    return_counts: bool,
    progress: Progress | None,
) -> EncodedVotes:
    """All votes; or with `wanted` (N,) only those that equal it from there to the last probe."""
    with _on_device(problem, progress) as call:
        if wanted is not None:
            return EncodedVotes(call.depth_only(call.put(wanted)).cpu().numpy())
        return call.counted() if return_counts else call.all_votes()


def neighbors(
    problem: Problem, progress: Progress | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared distances (N, k) and rows (N, k), in the order (distance, row)."""
    with _on_device(problem, progress) as call:
        distances, rows = call.neighbors(0)
        return distances.cpu().numpy(), rows.cpu().numpy()


@contextmanager
def _on_device(problem: Problem, progress: Progress | None) -> Iterator[_Call]:
    """A problem on its device, whose memory and kernels are the current ones."""
    import torch

    from pdepth.kernels.lists import MOST_NEIGHBOURS

    if problem.k > MOST_NEIGHBOURS:
        raise ValueError(
            f"k is {problem.k}; backend='triton' takes at most {MOST_NEIGHBOURS} neighbours, "
            "and backend='cpu' any number."
        )
    device = _device(problem)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        call = _Call(problem, device, progress)
        try:
            yield call
        except RuntimeError as error:
            if not _ran_out(error):
                raise
            raise MemoryError(
                f"{device} has too little free memory for the answers of {problem.count:,} queries."
            ) from error
        finally:
            call.copies.close()


class _Call:
    """A problem on the device.

    Attributes:
        room: bytes that the call may take; halved each time the device turns out to have less.
        copies: of the rows that are not there.
    """

    def __init__(self, problem: Problem, device: torch.device, progress: Progress | None) -> None:
        import torch

        from pdepth.backends.transfer import Transfer

        self.problem, self.k, self.progress, self.device = problem, problem.k, progress, device
        self.room = problem.memory or _free(device)
        self.check_room()
        self.copies = Transfer(device)
        self.codes = self.put(problem.codes)
        self.everyone = torch.arange(problem.count, device=device)
        asked = problem.query_rows
        self.query_rows = self.everyone if asked is None else self.put(asked)

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def empty(self, *shape: int, dtype: str) -> torch.Tensor:
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)

    # ---- what is asked ----

    def all_votes(self) -> EncodedVotes:
        from pdepth.kernels.search import Answer

        shape = (len(self.problem.layers), len(self.everyone))
        votes, tied = self.empty(*shape, dtype="int32"), self.empty(*shape, dtype="bool")
        answers = [Answer(votes=v, tied=t) for v, t in zip(votes, tied, strict=True)]
        self.ask(range(len(answers)), self.everyone, answers)
        return EncodedVotes(votes.cpu().numpy(), tied.cpu().numpy())

    def counted(self) -> EncodedVotes:
        """All votes, and how many each class had."""
        from pdepth.kernels.search import majority

        parts = []
        for number in range(len(self.problem.layers)):
            codes = self.codes[self.neighbors(number)[1]]
            counts = self.empty(len(codes), len(self.problem.classes), dtype="int32").zero_()
            counts.scatter_add_(1, codes.long(), counts.new_ones(codes.shape))
            parts.append(
                EncodedVotes(*(each[None].cpu().numpy() for each in (*majority(codes), counts)))
            )
        return EncodedVotes.joined(parts)

    def depth_only(self, wanted: torch.Tensor) -> torch.Tensor:
        """(L, N) int32: the wanted class as long as every later vote is it, else UNKNOWN."""
        from pdepth.kernels.compact import compact
        from pdepth.kernels.search import Answer

        votes = self.empty(len(self.problem.layers), len(wanted), dtype="int32").fill_(UNKNOWN)
        who = self.everyone
        for number in reversed(range(len(votes))):
            found = self.empty(len(who), dtype="int32")
            theirs = wanted[who]
            self.ask([number], who, [Answer(wanted=theirs, votes=found)], range(number)[::-1])
            who = compact(found, theirs, who, votes[number])
            if not len(who):
                break
        return votes

    def neighbors(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, k) float64 distances and (N, k) int64 rows of all queries at a layer."""
        from pdepth.kernels.search import Answer

        shape = (len(self.everyone), self.k)
        distances, rows = self.empty(*shape, dtype="float64"), self.empty(*shape, dtype="int64")
        self.ask([number], self.everyone, [Answer(distances=distances, rows=rows)])
        return distances, rows

    # ---- how it is answered ----

    def ask(
        self,
        numbers: Sequence[int],
        who: torch.Tensor,
        answers: Sequence[Answer],
        then: Sequence[int] = (),
    ) -> None:
        """The queries `who` (n,) at some layers, into answers of (n, ...) each.

        `then`: layers that are likely to be asked next.
        """
        rows = self.query_rows[who]
        leaves_out = self.problem.layers[0].queries is None and self.problem.exclude_self
        selves = rows if leaves_out else rows.new_full(rows.shape, -1)
        left, answered = list(numbers), list(answers)
        while left:
            group = self._group(left)
            for number in group:
                self._report(number, 0.0, who)
            ran_out = False
            try:
                if self._size(group[0]) > self.budget:
                    self._in_chunks(self.problem.layers[group[0]], rows, selves, answered[0])
                else:
                    following = [*left[len(group) :], *then]
                    self._search(group, rows, selves, following).answer(answered[: len(group)])
            except RuntimeError as error:
                if not _ran_out(error):
                    raise
                ran_out = True
            if ran_out:  # the error is gone, and with its frames the rows that they held
                self._shrink()
                continue
            for number in group:
                self._report(number, 1.0, who)
            left, answered = left[len(group) :], answered[len(group) :]

    def _search(
        self, group: Sequence[int], rows: torch.Tensor, selves: torch.Tensor, then: Sequence[int]
    ) -> Search:
        """Layers that fit into the memory; of those after them, what fits beside is on its way."""
        from pdepth.kernels.search import Search

        layers = [self.problem.layers[number] for number in group]
        supports = [self.copies.take(layer.support) for layer in layers]
        queries = [
            support if layer.queries is None else self.copies.take(layer.queries)
            for layer, support in zip(layers, supports, strict=True)
        ]
        taken = sum(map(self._size, group))
        for number in then:
            taken += self._size(number)
            if taken > self.budget:
                break
            layer = self.problem.layers[number]
            for each in (layer.support, layer.queries):
                if each is not None:
                    self.copies.expect(each)
        return Search(supports, queries, rows, selves, self.codes, self.k, self.scratch)

    def _report(self, number: int, fraction: float, who: torch.Tensor) -> None:
        if self.progress is not None:
            self.progress(number, fraction, len(who))

    def _in_chunks(
        self, layer: Layer, rows: torch.Tensor, selves: torch.Tensor, answer: Answer
    ) -> None:
        """A support that the device cannot hold: the nearest of each chunk, merged."""
        import torch

        from pdepth.backends.transfer import moved
        from pdepth.kernels.search import Answer, Search, fill

        support, queries = layer.support, layer.support if layer.queries is None else layer.queries
        packed = 2 * _columns(support.width)
        part = max(1, self.budget // 4 // (packed + moved(queries)))
        # One chunk is at work, and the rows of the next are on their way.
        chunk = max(2 * (self.k + 1), self.budget // 2 // (packed + 2 * moved(support)))
        count = -(-len(support) // min(chunk, len(support)))
        bounds = list(pairwise(len(support) * number // count for number in range(count + 1)))
        for places in torch.split(torch.arange(len(rows), device=self.device), part):
            mine = rows[places]
            if moved(queries):
                asked = self.copies.take(queries[mine.cpu().numpy()])
                mine = torch.arange(len(places), device=self.device)
            else:
                asked = queries.array
            chunks = [support[first:last] for first, last in bounds]
            kept: tuple[torch.Tensor, torch.Tensor] | None = None
            for (first, last), here, following in zip(
                bounds, chunks, [*chunks[1:], None], strict=True
            ):
                own = selves[places] - first
                own = own.where((own >= 0) & (own < last - first), -1)
                distances = self.empty(len(places), self.k, dtype="float64")
                found = self.empty(len(places), self.k, dtype="int64")
                held, codes = self.copies.take(here), self.codes[first:last]
                if following is not None:
                    self.copies.expect(following)
                search = Search([held], [asked], mine, own, codes, self.k, self.scratch)
                search.answer([Answer(distances=distances, rows=found)])
                found += first
                if kept is not None:
                    # Chunks come in ascending order: a stable sort leaves rows of a tie in theirs.
                    distances, order = torch.cat([kept[0], distances], 1).sort(dim=1, stable=True)
                    found = torch.cat([kept[1], found], dim=1).gather(1, order)
                kept = distances[:, : self.k], found[:, : self.k]
                del held, search
            assert kept is not None
            fill(answer, places, *kept, self.codes)

    # ---- what fits ----

    @property
    def scratch(self) -> int:
        """Bytes for lists and distances."""
        from pdepth.kernels.search import SCRATCH

        return min(int(SCRATCH), self.room // 4)

    @property
    def budget(self) -> int:
        """Bytes for rows, as they came and packed."""
        return self.room - self.scratch

    def _group(self, numbers: Sequence[int]) -> list[int]:
        """The first of some layers, of one type, as many as fit together; one beyond the memory
        goes alone."""
        sizes = list(accumulate(map(self._size, numbers)))
        # Where not all fit, the next are copied beside those that are at work.
        limit = self.budget if sizes[-1] <= self.budget else self.budget // 2
        layers = [self.problem.layers[number] for number in numbers]
        types = [(each.support.type, each.queries and each.queries.type) for each in layers]
        alike = len(list(takewhile(lambda each: each == types[0], types)))
        tiles = self.scratch // (TILE * _listed(self.k))  # each layer has one at least
        most = min(alike, tiles, sum(size <= limit for size in sizes))
        return list(numbers[: max(1, most)])

    def _size(self, number: int) -> int:
        """Bytes of a layer on the device: packed, and its values unless they are there."""
        from pdepth.backends.transfer import moved

        layer = self.problem.layers[number]
        packed = _packed(layer.support.width, len(layer.support), len(self.everyone))
        both = [layer.support] if layer.queries is None else [layer.support, layer.queries]
        return packed + sum(moved(each) * len(each) for each in both)

    def _shrink(self) -> None:
        """Go on with half the memory, since the device has less than it said."""
        import torch

        self.copies.drop()
        torch.cuda.empty_cache()
        self.room //= 2
        self.check_room()

    def check_room(self) -> None:
        """Raises MemoryError where the room is not even that of a tile of every layer."""
        for layer in self.problem.layers:
            least = least_room(layer, self.k)
            if self.room < least:
                raise MemoryError(
                    f"{self.device} has room for {human(self.room)}, and one tile of {layer.name} "
                    f"takes {human(least)}; backend='cpu' works in the host's memory."
                )


def _ran_out(error: RuntimeError) -> bool:
    """Whether the device has no more memory: torch's error, or the words of CUDA's and Triton's."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def least_room(layer: Layer, k: int) -> int:
    """Bytes that a call takes at least: those of a tile."""
    from pdepth.backends.transfer import moved

    rows = max(TILE, 2 * (k + 1))
    both = moved(layer.support) + (moved(layer.queries) if layer.queries else 0)
    return 4 * rows * (_listed(k) + 4 * _columns(layer.support.width) + both)


def _listed(k: int) -> int:
    """Bytes of a query's list, and of the groups that join it."""
    from pdepth.kernels.filter import WIDE
    from pdepth.kernels.groups import bytes_of
    from pdepth.kernels.lists import capacity_for

    return int(bytes_of(capacity_for(k), WIDE.group))


def working_set(width: int, support: int, queries: int) -> int:
    """Bytes that a layer of so many rows on the device takes beside them, at most."""
    from pdepth.kernels.search import SCRATCH

    return _packed(width, support, queries) + int(SCRATCH)


def _packed(width: int, support: int, queries: int) -> int:
    from pdepth.kernels.search import SCRATCH

    return 2 * _columns(width) * (support + min(queries, int(SCRATCH) // _listed(1)))


def _columns(width: int) -> int:
    """Columns of a packed row, at most."""
    return -(-width // 256) * 256


def _device(problem: Problem) -> torch.device:
    import torch

    if interpreted():
        return torch.device("cpu")
    given = problem.device
    return given if given is not None and given.type == "cuda" else torch.device("cuda")


def _free(device: torch.device) -> int:
    """Bytes that a call may take."""
    return int(SHARE * free_on(device)) if device.type == "cuda" else 1 << 31
