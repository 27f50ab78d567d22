"""The votes or neighbours of queries at layers whose rows are on the device: the kernels in turn.

All layers have the same number of support rows and the same queries; their widths are any.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise

import torch

from pdepth import certify
from pdepth.kernels import (
    bounds,
    centre,
    complete,
    differences,
    duplicates,
    filter,
    prepare,
    settle,
)
from pdepth.kernels.bundles import Bundles, bytes_of
from pdepth.kernels.lists import MOST_NEIGHBOURS, NOWHERE, Lists, capacity_for
from pdepth.kernels.stack import Stack, on_device

FIRST, GROWTH = 256, 4  # rows of the support's first chunk, and how much longer each next one is
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
    """One layer's rows, and what is measured of them before they are compared.

    Attributes:
        support, queries: (M, D) and (N, D), of one type or two.
        surplus: (M,) bool, rows with k + 1 equals before them: they never vote.
        scale: (1,) float64, a power of two.
        filtered: whether the filter stages serve: their lists hold k, and its values are in range.
    """

    support: torch.Tensor
    queries: torch.Tensor
    surplus: torch.Tensor
    scale: torch.Tensor
    filtered: bool

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
    """

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
    ) -> None:
        self.inner_products = inner_products
        self.rows, self.selves, self.codes, self.k = rows, selves, codes, k
        self.scratch = scratch
        self.device = codes.device
        self.count = len(codes)
        self.everyone = torch.arange(len(rows), device=self.device)
        self.capacity = capacity_for(k)
        places = torch.arange(self.count, device=self.device)
        self.order = places * _step(self.count) % self.count
        self.positions = torch.empty_like(self.order)
        self.positions[self.order] = places
        self.supports = Stack(supports)
        shared = all(map(operator.is_, supports, queries))
        self.queries = self.supports if shared else Stack(queries)
        surplus, largest = duplicates.surplus(self.supports, k + 1)
        # Of the packed support, where rows lie in the order of their positions.
        self.left_out = surplus[:, self.order]
        self.begins = [0, *accumulate(self.supports.widths)][:-1]  # of each layer's centre
        self.centres = centre.centres(
            self.supports, self.order, on_device(self.begins, self.device)
        )
        # The host waits once, for all layers: which power of two brings their values into range?
        # A centre is among the values, so that none is farther from it than twice the largest.
        farthest = 2 if centre.moves(self.supports.any.dtype) else 1
        known = [farthest * top for top in largest.tolist()]
        filtered = [
            k <= MOST_NEIGHBOURS and (top == 0 or 2.0**-400 < top < 2.0**400) for top in known
        ]
        scales = [
            prepare.LARGEST / 2.0 ** math.frexp(top)[1] if inside else 1.0
            for top, inside in zip(known, filtered, strict=True)
        ]
        self.scales = on_device(scales, self.device, torch.float64)
        self.layers = [
            Layer(*each)
            for each in zip(supports, queries, surplus, self.scales.split(1), filtered, strict=True)
        ]

    def answer(self, answers: Sequence[Answer]) -> None:
        """Fill the answers, one a layer."""
        remaining: list[Chunk] = [slice(None)] * len(self.layers)
        by_products = [i for i, layer in enumerate(self.layers) if self._by_products(layer)]
        tiles = filter.tiles_for(
            [self.layers[i].width for i in by_products], len(self.rows), self.count, self.device
        )
        for tile in dict.fromkeys(tiles):
            numbers = [i for i, own in zip(by_products, tiles, strict=True) if own == tile]
            stage = _Products(self, tile, numbers)
            given_up = stage.answer([answers[i] for i in numbers])
            for i, queries in zip(numbers, given_up, strict=True):
                remaining[i] = queries
            del stage  # before the next has its own memory
        for layer, answer, rest in zip(self.layers, answers, remaining, strict=True):
            by_differences = layer.filtered and not self.inner_products
            left = self._by_differences(layer, answer, rest) if by_differences else rest
            self._completely(layer, answer, left)

    def _by_products(self, layer: Layer) -> bool:
        """Whether the 16-bit filter stage takes a layer; narrow ones are left to differences."""
        least = 0 if self.inner_products else differences.UP_TO
        return layer.filtered and least < layer.width <= MOST_COLUMNS

    def _by_differences(self, layer: Layer, answer: Answer, queries: Chunk) -> torch.Tensor:
        """The float64 filter stage over some of a layer's queries; returns those it gave up."""
        if isinstance(queries, torch.Tensor) and not len(queries):
            return queries
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
                    layer.queries, rows, layer.support, self.order, layer.surplus, layer.scale,
                    lists, first=first, rows=count,
                )  # fmt: skip
                lists.tighten(self.k, nothing, nothing, norms, bound[None], differences=True)
            own = answer.at(chunk)
            settle.settle(
                [(layer.queries, layer.support, own.arrays())], rows, self.order, self.codes,
                lists, nothing, nothing, norms, bound[None], layer.scale, self.k, differences=True,
            )  # fmt: skip
            overflowed = lists.given_up()[0, : len(rows)]
            answer.update(chunk, own, ~overflowed)
            given_up.append(self.everyone[chunk][overflowed])
        return torch.cat(given_up)

    def _completely(self, layer: Layer, answer: Answer, queries: Chunk) -> None:
        """Every distance in float64."""
        tile = self.scratch // 40  # sorting takes a distance's and a row's bytes some times over
        for chunk in self.chunks(queries, max(1, tile // self.count)):
            distances, rows = complete.nearest(
                layer.queries, self.rows[chunk], layer.support, layer.surplus, self.selves[chunk],
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


class _Products:
    """The 16-bit filter stage over the layers of a search that share a tile.

    Holds the packed support of all of them, and a chunk of the queries at a time.
    """

    def __init__(self, search: Search, tile: filter.Tile, numbers: Sequence[int]) -> None:
        self.search, self.tile = search, tile
        self.layers = [search.layers[i] for i in numbers]
        self.sums = filter.sums_of(tile)
        layers, device = len(numbers), search.device
        columns = [self.sums.columns(layer.width) for layer in self.layers]
        rows = -(-search.count // tile.support) * tile.support
        self.most = self._queries_at_a_time()
        self.packed_support = search.empty(rows * sum(columns), dtype=torch.float16)
        self.packed_queries = search.empty(self.most * sum(columns), dtype=torch.float16)
        self.half_norms, self.norms, residuals = search.empty(3, layers, rows)
        self.query_halves, self.query_norms, self.query_residuals = search.empty(
            3, layers, self.most
        )
        begins = [0, *accumulate(columns)]
        places = list(zip(columns, begins, [search.begins[i] for i in numbers], strict=False))
        self.table, of_support, self.of_queries = on_device(
            [
                [[wide // tile.columns, self.most * at, rows * at] for wide, at, _ in places],
                [[wide // prepare.BLOCK, rows * at, middle] for wide, at, middle in places],
                [[wide // prepare.BLOCK, self.most * at, middle] for wide, at, middle in places],
            ],
            device,
        )
        supports = search.supports.select(numbers)
        shared = search.queries is search.supports
        self.queries = supports if shared else search.queries.select(numbers)
        self.which = on_device(numbers, device)
        self.scales = search.scales[self.which]
        prepare.prepare(
            supports, search.order, of_support, search.centres, self.scales, self.packed_support,
            self.half_norms, self.norms, residuals, inner_products=search.inner_products,
        )  # fmt: skip
        self.half_norms[:, : search.count].masked_fill_(search.left_out[self.which], math.inf)
        self.bound = self._bounds(residuals)

    def _queries_at_a_time(self) -> int:
        """A multiple of the tile's, whose lists fit: chunks as equal as may be."""
        count, height = len(self.search.rows), self.tile.queries
        size = bytes_of(self.search.capacity, self.tile.bundle) * len(self.layers)
        most = max(height, self.search.scratch // size) // height * height
        chunks = -(-count // most)
        return -(-count // (chunks * height)) * height

    def _bounds(self, residuals: torch.Tensor) -> torch.Tensor:
        """(L, bounds.LENGTH) float64, from what was measured while the support was packed."""
        products = [
            certify.Products(self.sums, layer.width, 0.0, prepare.NEGLIGIBLE)
            for layer in self.layers
        ]
        bound = on_device(torch.stack([*map(bounds.of_products, products)]), self.search.device)
        norms = self.norms[:, : self.search.count].double()
        residuals = residuals[:, : self.search.count]
        shares = (residuals / norms).where(residuals > prepare.NEGLIGIBLE, 0.0)
        bound[:, bounds.RELATIVE.value] = shares.amax(dim=1)
        bound[:, bounds.LARGEST.value] = norms.amax(dim=1)
        if self.search.inner_products:
            parts = self.search.centres.split(self.search.supports.widths)
            lengths = torch.stack([part.norm() for part in parts])[self.which]
            bound[:, bounds.CENTRE.value] = prepare.ROUNDED_UP.value * self.scales * lengths
        return bound

    def answer(self, answers: Sequence[Answer]) -> list[torch.Tensor]:
        """Fill the answers; returns the queries that the stage gave up, of each layer."""
        search, given_up = self.search, []
        for chunk in search.chunks(slice(None), self.most):
            rows = search.rows[chunk]
            lists = self._candidates(chunk, rows)
            settle.settle(
                [
                    (layer.queries, layer.support, answer.at(chunk).arrays())
                    for layer, answer in zip(self.layers, answers, strict=True)
                ],
                rows, search.order, search.codes, lists, self.query_norms, self.query_residuals,
                self.norms, self.bound, self.scales, search.k, differences=False,
                inner_products=search.inner_products,
            )  # fmt: skip
            given_up.append(lists.given_up()[:, : len(rows)])
            del lists  # before the next chunk has its own
        layer_of, queries = torch.cat(given_up, dim=1).nonzero(as_tuple=True)
        counts = [0] * len(self.layers)
        if len(queries):
            counts = layer_of.bincount(minlength=len(self.layers)).tolist()
        return list(queries.split(counts))

    def _candidates(self, chunk: Chunk, rows: torch.Tensor) -> Lists:
        """The lists of a chunk of queries, after all of the support."""
        search, tile = self.search, self.tile
        lists = search.lists(len(self.layers), self.most, chunk)
        bundles = Bundles(lists, tile.bundle) if tile.bundle > 1 else None
        prepare.prepare(
            self.queries, rows, self.of_queries, search.centres, self.scales, self.packed_queries,
            self.query_halves, self.query_norms, self.query_residuals,
        )  # fmt: skip
        lists.cuts.masked_fill_(self.query_norms == math.inf, -math.inf)
        # Never: there is a scale for all rows.
        beyond = self.bound[:, bounds.LARGEST.value, None] == math.inf
        lists.cuts.masked_fill_(beyond, -math.inf)
        for first, count in support_chunks(search.count):
            filter.scan(
                self.packed_queries, self.packed_support, self.half_norms, lists, bundles,
                self.table, tile, first=first, rows=count,
            )  # fmt: skip
            lists.tighten(
                search.k, self.query_norms, self.query_residuals, self.norms, self.bound,
                differences=False,
            )  # fmt: skip
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


def support_chunks(rows: int) -> list[tuple[int, int]]:
    """First position and length of each chunk of the support, after which cuts are lowered."""
    ends = [0, min(FIRST, rows)]
    while ends[-1] < rows:
        ends.append(min(ends[-1] * GROWTH, rows))
    return [(first, end - first) for first, end in pairwise(ends)]


def _step(rows: int) -> int:
    """Positions take the rows this far apart, wrapping around: it shares no factor with `rows`."""
    step = int(0.6180339887498949 * rows) | 1
    while math.gcd(step, rows) != 1:
        step += 1
    return step
