"""The GPU engine: the same votes from Triton's kernels, on the device where the arrays are."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.backends.common import UNKNOWN, Coded, Progress
from pdepth.rows import Rows
from pdepth.validate import Layer, Problem

if TYPE_CHECKING:
    import torch

    from pdepth.kernels.search import Answer

CAPABILITY = (8, 0)
SHARE, APART = 0.8, 1 << 30  # of the device's free memory, less the lists and the like
PACKED = 1 << 17  # queries that are packed at a time, at most
WIDER = {"uint16": "int32", "uint32": "int64", "uint64": "float64"}  # what the kernels read
INTERPRET = "TRITON_INTERPRET"


def available() -> str | None:
    """Why this engine cannot be used here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton."
    if interpreted():
        return None
    import torch

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
) -> Coded:
    """All votes; or with `wanted` (N,) only those that equal it from there to the last probe."""
    call = _Call(problem, progress)
    with call.on_device():
        if wanted is not None:
            return Coded(call.depth_only(call.put(wanted)).cpu().numpy())
        return call.counted() if return_counts else call.all_votes()


def neighbours(
    problem: Problem, progress: Progress | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared distances (N, k) and rows (N, k), in the order (distance, row)."""
    call = _Call(problem, progress)
    with call.on_device():
        distances, rows = call.neighbours(0)
        return distances.cpu().numpy(), rows.cpu().numpy()


class _Call:
    """A problem on the device."""

    def __init__(self, problem: Problem, progress: Progress | None) -> None:
        import torch

        from pdepth.kernels.lists import MOST_NEIGHBOURS

        if problem.k > MOST_NEIGHBOURS:
            raise ValueError(
                f"k is {problem.k}; backend='triton' takes at most {MOST_NEIGHBOURS} neighbours, "
                "and backend='cpu' any number."
            )
        self.problem, self.k, self.progress = problem, problem.k, progress
        self.device = _device(problem)
        with self.on_device():
            self.budget = _free(self.device)
            self.codes = self.put(problem.codes)
            self.everyone = torch.arange(problem.count, device=self.device)
            asked = problem.query_rows
            self.query_rows = self.everyone if asked is None else self.put(asked)

    def on_device(self) -> AbstractContextManager[Any]:
        """Kernels and memory are those of this device."""
        import torch

        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def empty(self, *shape: int, dtype: str) -> torch.Tensor:
        import torch

        return torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)

    # ---- what is asked ----

    def all_votes(self) -> Coded:
        from pdepth.kernels.search import Answer

        shape = (len(self.problem.layers), len(self.everyone))
        votes, tied = self.empty(*shape, dtype="int32"), self.empty(*shape, dtype="bool")
        answers = [Answer(votes=v, tied=t) for v, t in zip(votes, tied, strict=True)]
        self.ask(range(len(answers)), self.everyone, answers)
        return Coded(votes.cpu().numpy(), tied.cpu().numpy())

    def counted(self) -> Coded:
        """All votes, and how many each class had."""
        from pdepth.kernels.search import majority

        parts = []
        for number in range(len(self.problem.layers)):
            codes = self.codes[self.neighbours(number)[1]]
            counts = self.empty(len(codes), len(self.problem.classes), dtype="int32").zero_()
            counts.scatter_add_(1, codes.long(), counts.new_ones(codes.shape))
            parts.append(Coded(*(each[None].cpu().numpy() for each in (*majority(codes), counts))))
        return Coded.joined(parts)

    def depth_only(self, wanted: torch.Tensor) -> torch.Tensor:
        """(L, N) int32: the wanted class as long as every later vote is it, else UNKNOWN."""
        from pdepth.kernels.search import Answer

        votes = self.empty(len(self.problem.layers), len(wanted), dtype="int32").fill_(UNKNOWN)
        who = self.everyone
        for number in reversed(range(len(votes))):
            if not len(who):
                break
            found = self.empty(len(who), dtype="int32")
            self.ask([number], who, [Answer(wanted=wanted[who], votes=found)])
            votes[number, who] = found
            who = who[found == wanted[who]]
        return votes

    def neighbours(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, k) float64 distances and (N, k) int64 rows of all queries at a layer."""
        from pdepth.kernels.search import Answer

        shape = (len(self.everyone), self.k)
        distances, rows = self.empty(*shape, dtype="float64"), self.empty(*shape, dtype="int64")
        self.ask([number], self.everyone, [Answer(distances=distances, rows=rows)])
        return distances, rows

    # ---- how it is answered ----

    def ask(self, numbers: Sequence[int], who: torch.Tensor, answers: Sequence[Answer]) -> None:
        """The queries `who` (n,) at some layers, into answers of (n, ...) each."""
        from pdepth.kernels.search import Search

        rows = self.query_rows[who]
        leaves_out = self.problem.layers[0].queries is None and self.problem.exclude_self
        selves = rows if leaves_out else rows.new_full(rows.shape, -1)
        given = dict(zip(numbers, answers, strict=True))
        for group in self._groups(numbers):
            layers = [self.problem.layers[number] for number in group]
            for number in group:
                self._report(number, 0.0, who)
            if sum(map(self._size, layers)) > self.budget:
                self._in_chunks(layers[0], rows, selves, given[group[0]])
            else:
                supports = [_tensor(layer.support, self.device) for layer in layers]
                queries = [
                    support if layer.queries is None else _tensor(layer.queries, self.device)
                    for layer, support in zip(layers, supports, strict=True)
                ]
                search = Search(supports, queries, rows, selves, self.codes, self.k)
                search.answer([given[number] for number in group])
                del supports, queries, search  # before the next group's
            for number in group:
                self._report(number, 1.0, who)

    def _report(self, number: int, fraction: float, who: torch.Tensor) -> None:
        if self.progress is not None:
            self.progress(number, fraction, len(who))

    def _groups(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Layers that go through the kernels together; one beyond the memory goes alone."""
        group: list[int] = []
        taken = 0
        for number in numbers:
            size = self._size(self.problem.layers[number])
            if group and taken + size > self.budget:
                yield group
                group, taken = [], 0
            group.append(number)
            taken += size
        yield group

    def _size(self, layer: Layer) -> int:
        """Bytes of a layer on the device: packed, and its values unless they are there."""
        columns = -(-layer.support.width // 256) * 256
        packed = 2 * columns * (len(layer.support) + min(len(self.everyone), PACKED))
        both = [layer.support] if layer.queries is None else [layer.support, layer.queries]
        return packed + sum(_moved(each) * len(each) for each in both)

    def _in_chunks(
        self, layer: Layer, rows: torch.Tensor, selves: torch.Tensor, answer: Answer
    ) -> None:
        """A support that the device cannot hold: the nearest of each chunk, merged."""
        import torch

        from pdepth.kernels.search import Answer, Search, fill

        support, queries = layer.support, layer.support if layer.queries is None else layer.queries
        columns = -(-support.width // 256) * 256
        part = max(1, self.budget // 4 // (2 * columns + _moved(queries)))
        chunk = max(2 * (self.k + 1), self.budget // 2 // (2 * columns + _moved(support)))
        chunks = -(-len(support) // min(chunk, len(support)))
        bounds = [len(support) * number // chunks for number in range(chunks + 1)]
        for places in torch.split(torch.arange(len(rows), device=self.device), part):
            mine = rows[places]
            if _moved(queries):
                asked = _tensor(queries[mine.cpu().numpy()], self.device)
                mine = torch.arange(len(places), device=self.device)
            else:
                asked = queries.array
            kept: tuple[torch.Tensor, torch.Tensor] | None = None
            for first, last in pairwise(bounds):
                own = selves[places] - first
                own = own.where((own >= 0) & (own < last - first), -1)
                distances = self.empty(len(places), self.k, dtype="float64")
                found = self.empty(len(places), self.k, dtype="int64")
                held = _tensor(support[first:last], self.device)
                search = Search([held], [asked], mine, own, self.codes[first:last], self.k)
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


def _device(problem: Problem) -> torch.device:
    import torch

    if interpreted():
        return torch.device("cpu")
    given = problem.device
    return given if given is not None and given.type == "cuda" else torch.device("cuda")


def _free(device: torch.device) -> int:
    """Bytes that a call may take."""
    import torch

    if device.type != "cuda":
        return 1 << 31
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1 << 26, int(SHARE * (free + unused)) - APART)


def _moved(rows: Rows) -> int:
    """Bytes of a row that has to be copied to the device; 0 where it can be read as it is."""
    import torch

    if rows.on_device and rows.type not in WIDER:
        return 0
    return rows.width * int(getattr(torch, WIDER.get(rows.type, rows.type)).itemsize)


def _tensor(rows: Rows, device: torch.device) -> torch.Tensor:
    """Rows on the device, in a type that the kernels read."""
    import torch

    array = rows.array
    if isinstance(array, np.ndarray):
        if array.strides[0] < 0 or array.strides[0] % array.itemsize:
            array = np.ascontiguousarray(array)  # torch has no such rows
        if rows.type == "bfloat16":
            array = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            array = torch.from_numpy(array)
    tensor: torch.Tensor = array.to(device)
    return tensor.to(getattr(torch, WIDER[rows.type])) if rows.type in WIDER else tensor
