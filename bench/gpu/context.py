"""What the parts of bench/gpu share: device, sizes, rows, the time that is left, times taken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest import mock

import torch

from pdepth.bench.suite.shapes import CLASSES, K
from pdepth.kernels import lists
from pdepth.kernels.search import Answer, Search

ROUNDS = 5
LIMIT = 400  # seconds, after which a long part begins nothing new
SMALL_ROWS = lists.WHOLE
Say = Callable[[str], None]


@dataclass
class Bench:
    """The device, the sizes, and the results of a part.

    Attributes:
        tiny: whether sizes are those that an interpreter manages.
        say: prints a line.
        keep: writes the results so far, in case the part does not come to its end.
        results: by name; of a run that is resumed, those that it had.
        differing: layers or votes that differ.
        stubbed: whether kernels do nothing, so that no answer means anything.
        left: the seconds that the run may still take.
        left_out: what there was no time for.
        seed: of random problems.
        oracles: processes that compute what is expected; 0: none but this one.
        every: one in so many of the problems of `equality`.
    """

    device: torch.device
    tiny: bool
    say: Say
    keep: Callable[[], None] = lambda: None
    results: dict[str, Any] = field(default_factory=dict)
    differing: int = 0
    stubbed: bool = False
    left: Callable[[], float] = lambda: math.inf
    left_out: list[str] = field(default_factory=list)
    seed: int = 0
    oracles: int = 0
    every: int = 1

    def leave_out(self, what: str) -> None:
        """Say that there is too little time for something, and note it for the end."""
        self.left_out.append(what)
        self.say(f"{what}: left out, with {max(0.0, self.left()):.0f} s left")

    def size(self, rows: int) -> int:
        return min(rows, 150 if rows > 1000 else 60) if self.tiny else rows

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any]) -> float:
        self.wait()
        begin = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begin

    def normal(self, rows: int, width: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(rows, width, generator=generator, device=self.device)

    def rows_of(
        self, kind: str, rows: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Support and queries (rows, width) each, and labels (rows,) int32 of the support.

        "normal" has nothing to do with its labels, so that most votes have to be settled; "classes"
        are clusters behind a ReLU, as trained layers have them.
        """
        generator = torch.Generator(self.device).manual_seed(2)
        labels, own = torch.randint(
            0, CLASSES, (2, rows), generator=generator, device=self.device, dtype=torch.int32
        )
        support, queries = self.normal(rows, width), self.normal(rows, width, 1)
        if kind == "classes":
            centres = self.normal(CLASSES, width, 3)
            support = support.add_(centres[labels.long()]).relu_()
            queries = queries.add_(centres[own.long()]).relu_()
        return support, queries, labels

    def interleaved(
        self, calls: dict[str, Callable[[], Any]], rounds: int = ROUNDS
    ) -> dict[str, Any]:
        """Medians over rounds in which each call has its turn; an error in a call's place."""
        times: dict[str, list[float]] = {}
        errors: dict[str, str] = {}
        for number in range(1 + (1 if self.tiny else rounds)):
            for name, call in calls.items():
                if name in errors:
                    continue
                try:
                    taken = self.seconds(call)
                except Exception as error:
                    errors[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                    continue
                if number:  # the first compiles and warms
                    times.setdefault(name, []).append(taken)
        return {**{name: median(each) for name, each in times.items()}, **errors}


@contextmanager
def small_supports() -> Iterator[None]:
    """Supports up to SMALL_ROWS are small, as they are but in a tiny run, where they stand for
    large ones."""
    with mock.patch.object(lists, "WHOLE", SMALL_ROWS):
        yield


def search(
    support: torch.Tensor,
    queries: torch.Tensor,
    labels: torch.Tensor,
    target: torch.Tensor | None = None,
) -> torch.Tensor:
    """Votes (N,) int32 of a layer's rows that are on the device.

    target: (N,) int32, predictions: then, as depth asks, no more than whether each one is the vote;
    settle.UNKNOWN where it is not.
    """
    votes = torch.empty(len(queries), dtype=torch.int32, device=support.device)
    tied = torch.empty(len(queries), dtype=torch.bool, device=support.device)
    rows = torch.arange(len(queries), device=support.device)
    search = Search([support], [queries], rows, rows.new_full(rows.shape, -1), labels, K)
    answer = Answer(votes=votes, tied=tied)
    search.answer([answer if target is None else Answer(votes=votes, target=target)])
    return votes
