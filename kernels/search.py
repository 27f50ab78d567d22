"""The votes or neighbours of queries at layers whose rows are on the device: the kernels in turn.

All layers have the same number of support rows and the same queries; their widths are any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from pdepth import certify
from pdepth.kernels import (
    bounds,
    complete,
    differences,
    duplicates,
    filter,
    measure,
    prepare,
    settle,
)
from pdepth.kernels.lists import MOST_NEIGHBOURS, NOWHERE, Lists, capacity_for, hold_all
from pdepth.kernels.products import Products, support_chunks
from pdepth.kernels.stack import Stack, sent_once
from pdepth.kernels.support import Support, places_of

SCRATCH = 1 << 30  # bytes for lists and distances
Chunk = slice | torch.Tensor  # of the queries: side by side, or by their numbers
MOST_COLUMNS = 1 << 24  # of the filter, whose offsets within a tile have 32 bits


@dataclass(frozen=True, eq=False)
class Answer:
    """Where one layer's answers go.

    Either votes (n,) int32 with tied (n,) bool; or votes alone, which are the class target (n,)
    int32 or settle.UNKNOWN; or distances (n, k) float64 and rows (n, k) int64, in the order
    (distance, row).
    """

    target: torch.Tensor | None = None
    votes: torch.Tensor | None = None
    tied: torch.Tensor | None = None
    distances: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def arrays(self) -> dict[str, torch.Tensor]:
        """Those that are there, by name."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}

    def at(self, chunk: Chunk) -> Answer:
        """Of a chunk of the queries; a slice gives a view of them, to be filled in place."""
        return Answer(**{name: array[chunk] for name, array in self.arrays().items()})

    def update(self, chunk: Chunk, other: Answer, settled: torch.Tensor) -> None:
        """Copy the answers of `other`, which is `at(chunk)`, where `settled` (n,)."""
        if isinstance(chunk, slice):
            return
        for name, array in other.arrays().items():
            if name != "target":
                getattr(self, name)[chunk[settled]] = array[settled]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's rows: support (M, D) and queries (N, D), of one type or two."""

    support: torch.Tensor
    queries: torch.Tensor

    @property
    def width(self) -> int:
        return self.support.shape[1]


class Search:
    """The k nearest neighbours of queries, at several layers.

    The steps around the 16-bit filter stage take all its layers in one launch, or in one for each
    tile of the filter; settlement in one for each shape of `exact.SHAPES`. Layers without that
    stage, and queries that it gives up, come one layer after the other.

    Args:
        supports: (M, D) of each layer, of one type.
        queries: (N, D) of each layer, of one type, which may be another.
        rows: (n,) int64 rows of the queries: the n to answer.
        selves: (n,) int64, the support's row that a query does not take, or -1.
        codes: (M,) int32, the class of each support row.
        inner_products: neighbours are the rows of the largest ones; a distance is then a product,
            its sign turned.
        k: beyond lists.MOST_NEIGHBOURS all distances are computed in float64, and sorted.
        scratch: bytes for lists, and for all distances of some queries, at a time.
        kept: of each layer, its support as `support.pack` gives it.
    """

    rows: torch.Tensor
    selves: torch.Tensor
    codes: torch.Tensor
    k: int
    order: torch.Tensor
    positions: torch.Tensor

    def __init__(
        self,
        supports: Sequence[torch.Tensor],
        queries: Sequence[torch.Tensor],
        rows: torch.Tensor,
        selves: torch.Tensor,
        codes: torch.Tensor,
        k: int,
        scratch: int = SCRATCH,
        *,
        inner_products: bool = False,
        kept: Sequence[Support] | None = None,
    ) -> None:
        self.inner_products = inner_products
        self.rows, self.selves, self.codes, self.k = rows, selves, codes, k
        self.scratch = scratch
        self.device: torch.device = codes.device
        self.count: int = len(codes)
        self.capacity: int = capacity_for(k, self.count)
        self.order, self.positions = places_of(self.count, self.device)
        self.layers: list[Layer] = [Layer(*each) for each in zip(supports, queries, strict=True)]
        self._sent: dict[str, torch.Tensor] = {}
        by_products = [i for i, layer in enumerate(self.layers) if self._by_products(layer)]
        tiles = [filter.WHOLE] * len(by_products)
        if not hold_all(self.count):
            widths = [self.layers[i].width for i in by_products]
            tiles = filter.tiles_for(widths, len(rows), self.count, self.device)
        self._stages = []
        for tile in dict.fromkeys(tiles):
            numbers = [i for i, own in zip(by_products, tiles, strict=True) if own == tile]
            packed = None if kept is None else [kept[i] for i in numbers]
            self._stages.append(Products(self, tile, numbers, packed))

    @cached_property
    def everyone(self) -> torch.Tensor:
        """(n,) int64, the queries' numbers."""
        return torch.arange(len(self.rows), device=self.device)

    def answer(self, answers: Sequence[Answer]) -> None:
        """Fill the answers, one a layer."""
        self.finish(answers, self.launch(answers))

    def launch(self, answers: Sequence[Answer]) -> list[list[torch.Tensor]]:
        """Fill what the 16-bit filter stage answers; `finish` takes what this returns.

        The host waits for nothing. Called once more with the same answers, it launches the same
        kernels and sends nothing: a CUDA graph can hold it, and `finish` comes after the graph.
        """
        with sent_once(self._sent):
            return [
                stage.launch(self, [answers[i] for i in stage.numbers]) for stage in self._stages
            ]

    def finish(self, answers: Sequence[Answer], launched: list[list[torch.Tensor]]) -> None:
        """Read which queries were given up, and fill those of layers without that stage, too."""
        remaining: list[Chunk | None] = [slice(None)] * len(self.layers)
        known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for stage, cuts in zip(self._stages, launched, strict=True):
            given_up = self._given_up(cuts)
            for i, queries in zip(stage.numbers, given_up, strict=True):
                remaining[i] = queries
            if stage.surplus is not None and any(each is not None for each in given_up):
                assert stage.bound is not None
                known |= self._known(stage.numbers, stage.surplus, stage.bound)
        known |= self._measured([i for i, rest in enumerate(remaining) if isinstance(rest, slice)])
        for i, (layer, answer, rest) in enumerate(
            zip(self.layers, answers, remaining, strict=True)
        ):
            if rest is None:
                continue
            surplus, scale = known.get(i, (None, None))
            if surplus is not None and scale is not None and not self.inner_products:
                rest = self._by_differences(layer, answer, rest, surplus, scale)
            self._completely(layer, answer, rest, surplus)

    def _by_products(self, layer: Layer) -> bool:
        """Whether the 16-bit filter stage takes a layer; narrow ones are left to differences,
        unless lists hold all that is near."""
        least = 0 if self.inner_products or hold_all(self.count) else differences.UP_TO
        return self.k <= MOST_NEIGHBOURS and least < layer.width <= MOST_COLUMNS

    def _given_up(self, cuts: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """The queries of each layer whose cuts say so, or None; the host waits."""
        lost = np.concatenate([each.cpu().numpy() for each in cuts], axis=1) == -math.inf
        return [
            torch.from_numpy(numbers).to(self.device) if len(numbers) else None
            for numbers in map(np.flatnonzero, lost[:, : len(self.rows)])
        ]

    def _known(
        self, numbers: Sequence[int], surplus: torch.Tensor, bound: torch.Tensor
    ) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """By the layers' numbers: (M,) bool, rows that never vote, and (1,) float64, the scale."""
        scales = prepare.scales(bound[:, bounds.SPAN.value])
        return dict(zip(numbers, zip(surplus, scales.split(1), strict=True), strict=True))

    def _measured(self, numbers: Sequence[int]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """The same of layers that no other stage has measured, where lists serve."""
        if not numbers or self.k > MOST_NEIGHBOURS:
            return {}
        stack = Stack([self.layers[i].support for i in numbers])
        bound = self.empty(len(numbers), bounds.LENGTH, dtype=torch.float64).zero_()
        hashes = self.empty(len(numbers), self.count, dtype=torch.int64)
        measure.measure(stack, bound, hashes)
        return self._known(numbers, duplicates.earlier(stack, hashes) > self.k, bound)

    def _by_differences(
        self,
        layer: Layer,
        answer: Answer,
        queries: Chunk,
        surplus: torch.Tensor,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        """The float64 filter stage over some of a layer's queries; returns those it gave up."""
        bound = bounds.of_differences(certify.Differences(differences.SUMS, layer.width, 0.0)).to(
            self.device
        )
        height = differences.TILE[0]
        norms = self.empty(1, self.count)  # this bound needs none
        given_up = [self.everyone[:0]]
        for chunk in self.chunks(queries, max(height, self.scratch // (16 * self.capacity))):
            rows = self.rows[chunk]
            padded = -(-len(rows) // height) * height
            lists = self.lists(1, padded, chunk)
            nothing = self.empty(1, padded).zero_()
            for first, count in support_chunks(self.count):
                differences.scan(
                    layer.queries, rows, layer.support, self.order, surplus, scale,
                    lists, first=first, rows=count,
                )  # fmt: skip
                lists.tighten(self.k, nothing, nothing, norms, bound[None], differences=True)
            own = answer.at(chunk)
            settle.settle(
                [(layer.queries, layer.support, own.arrays())], rows, self.order, self.codes,
                lists, nothing, nothing, norms, bound[None], self.k, differences=True,
            )  # fmt: skip
            overflowed = lists.given_up()[0, : len(rows)]
            answer.update(chunk, own, ~overflowed)
            given_up.append(self.everyone[chunk][overflowed])
        return torch.cat(given_up)

    def _completely(
        self, layer: Layer, answer: Answer, queries: Chunk, surplus: torch.Tensor | None
    ) -> None:
        """Every distance in float64."""
        if surplus is None:
            surplus = self.empty(self.count, dtype=torch.bool).zero_()
        tile = self.scratch // 40  # sorting takes a distance's and a row's bytes some times over
        for chunk in self.chunks(queries, max(1, tile // self.count)):
            distances, rows = complete.nearest(
                layer.queries, self.rows[chunk], layer.support, surplus, self.selves[chunk],
                self.k, tile, inner_products=self.inner_products,
            )  # fmt: skip
            fill(answer, chunk, distances, rows, self.codes)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def chunks(self, queries: Chunk, most: int) -> Iterator[Chunk]:
        """Some of the queries, at most so many at a time."""
        if isinstance(queries, torch.Tensor):
            yield from queries.split(most) if len(queries) else ()
            return
        for first in range(0, len(self.rows), most):
            yield slice(first, min(first + most, len(self.rows)))

    def lists(self, layers: int, queries: int, chunk: Chunk) -> Lists:
        """Empty ones, of `queries` a layer; those beyond the chunk's take nothing."""
        own = self.selves[chunk]
        lists = Lists(layers, queries, self.capacity, self.device)
        lists.cuts[:, len(own) :] = -math.inf
        own = self.positions[own.clamp(min=0)].where(own >= 0, NOWHERE)
        lists.selves[:, : len(own)] = own.to(torch.int32)
        return lists


def fill(
    answer: Answer,
    chunk: Chunk,
    distances: torch.Tensor,
    rows: torch.Tensor,
    codes: torch.Tensor,
) -> None:
    """The answers of some queries, whose neighbours are known, (n, k) each."""
    if answer.distances is not None and answer.rows is not None:
        answer.distances[chunk], answer.rows[chunk] = distances, rows
    if answer.votes is None:
        return
    votes, tied = majority(codes[rows])
    if answer.tied is not None:
        answer.tied[chunk] = tied
    if answer.target is not None:
        votes = votes.where(votes == answer.target[chunk], settle.UNKNOWN.value)
    answer.votes[chunk] = votes


def majority(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The most frequent of codes (n, k) int32 in each row, of equals the smallest; and whether
    another is as frequent."""
    sorted_codes = codes.sort(dim=1).values
    place = torch.arange(codes.shape[1], device=codes.device).expand(codes.shape)
    begins = torch.ones_like(sorted_codes, dtype=torch.bool)
    begins[:, 1:] = sorted_codes[:, 1:] != sorted_codes[:, :-1]
    run = place - place.where(begins, 0).cummax(dim=1).values  # how many equals came before
    most = run == run.amax(dim=1, keepdim=True)
    first = most.to(torch.int8).argmax(dim=1, keepdim=True)
    return sorted_codes.gather(1, first)[:, 0], most.sum(dim=1) > 1


def class_counts(codes: torch.Tensor, classes: int) -> torch.Tensor:
    """(n, classes) int32: how many of the codes (n, k) int32 in each row are each class."""
    first = classes * torch.arange(len(codes), device=codes.device)
    counts = (codes + first[:, None]).flatten().bincount(minlength=len(codes) * classes)
    return counts.int().view(len(codes), classes)
