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
from pdepth.kernels.groups import Groups, bytes_of
from pdepth.kernels.lists import NOWHERE, Lists, capacity_for
from pdepth.kernels.stack import Stack, on_device

FIRST, GROWTH = 256, 4  # the first stretch of the support, and how much longer each next one is
SCRATCH = 1 << 30  # bytes for lists and distances
Part = slice | torch.Tensor  # of the queries: side by side, or by their numbers
MOST_COLUMNS = 1 << 24  # of the filter, whose offsets within a tile have 32 bits


@dataclass(frozen=True, eq=False)
class Answer:
    """What is asked of one layer's queries, to be filled.

    Either votes (n,) int32 with tied (n,) bool; or votes alone, which are the class wanted (n,)
    int32 or settle.NOT_ASKED; or distances (n, k) float64 and rows (n, k) int64, in the order
    (distance, row).
    """

    wanted: torch.Tensor | None = None
    votes: torch.Tensor | None = None
    tied: torch.Tensor | None = None
    distances: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def given(self) -> dict[str, torch.Tensor]:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    def at(self, part: Part) -> Answer:
        """Of some of the queries; a slice gives a view of them, to be filled in place."""
        return Answer(**{name: array[part] for name, array in self.given().items()})

    def take(self, part: Part, other: Answer, known: torch.Tensor) -> None:
        """Those of `part` that are `known` (n,) have the answers of `other`, its own `at`."""
        if isinstance(part, slice):
            return
        for name, array in other.given().items():
            if name != "wanted":
                getattr(self, name)[part[known]] = array[known]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's rows, and what is to be known of them before they are compared.

    Attributes:
        support, queries: (M, D) and (N, D), of one type or two.
        surplus: (M,) bool, rows with k + 1 equals before them: they never vote.
        scale: (1,) float64, a power of two.
        filtered: whether its values are in the range of the filters.
    """

    support: torch.Tensor
    queries: torch.Tensor
    surplus: torch.Tensor
    scale: torch.Tensor
    filtered: bool

    @property
    def width(self) -> int:
        return self.support.shape[1]

    @property
    def by_products(self) -> bool:
        """Whether the 16-bit filter takes it."""
        return self.filtered and differences.UP_TO < self.width <= MOST_COLUMNS


class Search:
    """Layers and their queries, asked for k neighbours.

    The steps around the 16-bit filter take all its layers in one launch, or in one for each tile
    of the filter; settlement in one for each shape of `exact.SHAPES`. Layers without that filter,
    and queries that it gives up, come one layer after the other.

    Args:
        supports: (M, D) of each layer, of one type.
        queries: (N, D) of each layer, of one type, which may be another.
        rows: (n,) int64, those of the queries that are asked.
        selves: (n,) int64, the support's row that a query does not take, or -1.
        codes: (M,) int32, the class of each support row.
        k: at most lists.MOST_NEIGHBOURS.
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
    ) -> None:
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
        # One look from the host at all layers: what power of two brings their values into range.
        # A centre is among the values, so that none is farther from it than twice the largest.
        farthest = 2 if centre.moves(self.supports.any.dtype) else 1
        known = [farthest * top for top in largest.tolist()]
        filtered = [top == 0 or 2.0**-400 < top < 2.0**400 for top in known]
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
        left: list[Part] = [slice(None)] * len(self.layers)
        by_products = [i for i, layer in enumerate(self.layers) if layer.by_products]
        tiles = filter.tiles_for(
            [self.layers[i].width for i in by_products], len(self.rows), self.count, self.device
        )
        for tile in dict.fromkeys(tiles):
            kind = [i for i, own in zip(by_products, tiles, strict=True) if own == tile]
            given_up = self._by_products(tile, kind, [answers[i] for i in kind])
            for i, found in zip(kind, given_up, strict=True):
                left[i] = found
        for layer, answer, part in zip(self.layers, answers, left, strict=True):
            who = self._by_differences(layer, answer, part) if layer.filtered else part
            self._completely(layer, answer, who)

    # ---- the passes ----

    def _by_products(
        self, tile: filter.Tile, kind: Sequence[int], answers: Sequence[Answer]
    ) -> list[torch.Tensor]:
        """The 16-bit filter over the layers `kind`; returns whom it gave up, of each."""
        layers = [self.layers[i] for i in kind]
        sums = filter.sums_of(tile)
        columns = [sums.columns(layer.width) for layer in layers]
        rows = -(-self.count // tile.support) * tile.support
        most = max(
            tile.queries, self.scratch // (bytes_of(self.capacity, tile.group) * len(layers))
        )
        parts = -(-len(self.rows) // (most // tile.queries * tile.queries))
        part = -(-len(self.rows) // (parts * tile.queries)) * tile.queries
        packed_support = self._empty(rows * sum(columns), dtype=torch.float16)
        packed_queries = self._empty(part * sum(columns), dtype=torch.float16)
        half_norms, norms, residuals = self._empty(3, len(layers), rows)
        halves, query_norms, query_residuals = self._empty(3, len(layers), part)
        places = list(
            zip(columns, [0, *accumulate(columns)], [self.begins[i] for i in kind], strict=False)
        )
        table, of_support, of_queries = on_device(
            [
                [[wide // tile.columns, part * begin, rows * begin] for wide, begin, _ in places],
                [[wide // prepare.BLOCK, rows * begin, middle] for wide, begin, middle in places],
                [[wide // prepare.BLOCK, part * begin, middle] for wide, begin, middle in places],
            ],
            self.device,
        )
        supports = self.supports.some(kind)
        queries = supports if self.queries is self.supports else self.queries.some(kind)
        which = on_device(kind, self.device)
        scales = self.scales[which]
        prepare.prepare(
            supports, self.order, of_support, self.centres, scales, packed_support,
            half_norms, norms, residuals,
        )  # fmt: skip
        half_norms[:, : self.count].masked_fill_(self.left_out[which], math.inf)
        bound = on_device(
            torch.stack(
                [
                    bounds.of_products(certify.Products(sums, layer.width, 0.0, prepare.NEGLIGIBLE))
                    for layer in layers
                ]
            ),
            self.device,
        )
        known = norms[:, : self.count].double()
        shares = residuals[:, : self.count] / known
        counted = residuals[:, : self.count] > prepare.NEGLIGIBLE
        bound[:, bounds.RELATIVE.value] = shares.where(counted, 0.0).amax(dim=1)
        bound[:, bounds.LARGEST.value] = known.amax(dim=1)

        given_up = []
        for asked in self._parts(slice(None), part):
            rows_asked = self.rows[asked]
            lists = self._lists(len(layers), part, asked)
            groups = Groups(lists, tile.group) if tile.group > 1 else None
            prepare.prepare(
                queries, rows_asked, of_queries, self.centres, scales, packed_queries, halves,
                query_norms, query_residuals,
            )  # fmt: skip
            lists.cuts.masked_fill_(query_norms == math.inf, -math.inf)
            beyond = bound[:, bounds.LARGEST.value, None] == math.inf  # never: a scale for all rows
            lists.cuts.masked_fill_(beyond, -math.inf)
            for first, count in stretches(self.count):
                filter.scan(
                    packed_queries, packed_support, half_norms, lists, groups, table, tile,
                    first=first, rows=count,
                )  # fmt: skip
                lists.tighten(self.k, query_norms, query_residuals, norms, bound, differences=False)
            settle.settle(
                [
                    (layer.queries, layer.support, answer.at(asked).given())
                    for layer, answer in zip(layers, answers, strict=True)
                ],
                rows_asked, self.order, self.codes, lists, query_norms, query_residuals, norms,
                bound, self.k, differences=False,
            )  # fmt: skip
            given_up.append(lists.given_up()[:, : len(rows_asked)])
            del lists, groups  # before the next part has its own
        layer_of, whom = torch.cat(given_up, dim=1).nonzero(as_tuple=True)
        counts = [0] * len(layers)
        if len(whom):
            counts = layer_of.bincount(minlength=len(layers)).tolist()
        return list(whom.split(counts))

    def _by_differences(self, layer: Layer, answer: Answer, which: Part) -> torch.Tensor:
        """The float64 filter over some of a layer's queries; returns whom it gave up."""
        if isinstance(which, torch.Tensor) and not len(which):
            return which
        bound = bounds.of_differences(certify.Differences(differences.SUMS, layer.width, 0.0)).to(
            self.device
        )
        height = differences.TILE[0]
        norms = self._empty(1, self.count)  # this bound does not ask for any
        given_up = [self.everyone[:0]]
        for asked in self._parts(which, max(height, self.scratch // (16 * self.capacity))):
            rows_asked = self.rows[asked]
            padded = -(-len(rows_asked) // height) * height
            lists = self._lists(1, padded, asked)
            nothing = self._empty(1, padded).zero_()
            for first, count in stretches(self.count):
                differences.scan(
                    layer.queries, rows_asked, layer.support, self.order, layer.surplus,
                    layer.scale, lists, first=first, rows=count,
                )  # fmt: skip
                lists.tighten(self.k, nothing, nothing, norms, bound[None], differences=True)
            mine = answer.at(asked)
            settle.settle(
                [(layer.queries, layer.support, mine.given())], rows_asked, self.order, self.codes,
                lists, nothing, nothing, norms, bound[None], self.k, differences=True,
            )  # fmt: skip
            left = lists.given_up()[0, : len(rows_asked)]
            answer.take(asked, mine, ~left)
            given_up.append(self.everyone[asked][left])
        return torch.cat(given_up)

    def _completely(self, layer: Layer, answer: Answer, which: Part) -> None:
        """Every distance in float64."""
        tile = self.scratch // 40  # sorting takes a distance's and a row's bytes some times over
        for asked in self._parts(which, max(1, tile // self.count)):
            distances, rows = complete.nearest(
                layer.queries, self.rows[asked], layer.support, layer.surplus, self.selves[asked],
                self.k, tile,
            )  # fmt: skip
            fill(answer, asked, distances, rows, self.codes)

    # ---- what passes share ----

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _parts(self, which: Part, most: int) -> Iterator[Part]:
        """Some of the queries, at most so many at a time."""
        if isinstance(which, torch.Tensor):
            yield from which.split(most) if len(which) else ()
            return
        for first in range(0, len(self.rows), most):
            yield slice(first, min(first + most, len(self.rows)))

    def _lists(self, layers: int, queries: int, asked: Part) -> Lists:
        """Empty ones; those beyond the queries that are asked take nothing."""
        own = self.selves[asked]
        lists = Lists(layers, queries, self.capacity, self.device)
        lists.cuts[:, len(own) :] = -math.inf
        own = self.positions[own.clamp(min=0)].where(own >= 0, NOWHERE)
        lists.selves[:, : len(own)] = own.to(torch.int32)
        return lists


def fill(
    answer: Answer,
    which: Part,
    distances: torch.Tensor,
    rows: torch.Tensor,
    codes: torch.Tensor,
) -> None:
    """The answers of some queries, of which all neighbours are known, (n, k) each."""
    if answer.distances is not None and answer.rows is not None:
        answer.distances[which], answer.rows[which] = distances, rows
    if answer.votes is None:
        return
    votes, tied = majority(codes[rows])
    if answer.tied is not None:
        answer.tied[which] = tied
    if answer.wanted is not None:
        votes = votes.where(votes == answer.wanted[which], settle.NOT_ASKED.value)
    answer.votes[which] = votes


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


def stretches(rows: int) -> list[tuple[int, int]]:
    """First position and length of each stretch of the support, after which cuts are lowered."""
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
