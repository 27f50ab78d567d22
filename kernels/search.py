"""The votes or neighbours of queries at layers whose rows are on the device: the kernels in turn.

All layers have the same number of support rows and the same queries; their widths are any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch

from pdepth import certify
from pdepth.kernels import bounds, complete, differences, duplicates, filter, prepare, settle
from pdepth.kernels.lists import NOWHERE, Lists, capacity_for

FIRST, GROWTH = 256, 4  # the first stretch of the support, and how much longer each next one is
SCRATCH = 1 << 30  # bytes for lists and distances
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

    def at(self, part: torch.Tensor) -> Answer:
        """A copy, of some of the queries."""
        return Answer(**{name: array[part] for name, array in self.given().items()})

    def take(self, part: torch.Tensor, other: Answer, known: torch.Tensor) -> None:
        """Those of `part` that are `known` have the other's answers."""
        for name, array in other.given().items():
            if name != "wanted":
                getattr(self, name)[part[known]] = array[known]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's rows, and what is to be known of them before they are compared.

    Attributes:
        support, queries: (M, D) and (N, D), of one type or two.
        surplus: (M,) bool, rows with k + 1 equals before them: they never vote.
        centre: (D,) float64.
        scale: (1,) float64, a power of two.
        filtered: whether its values are in the range of the filters.
    """

    support: torch.Tensor
    queries: torch.Tensor
    surplus: torch.Tensor
    centre: torch.Tensor
    scale: torch.Tensor
    filtered: bool

    @property
    def width(self) -> int:
        return self.support.shape[1]

    @property
    def tile(self) -> filter.Tile | None:
        """The 16-bit filter's configuration; None for a layer that goes without it."""
        narrow = self.width <= differences.UP_TO
        wide = self.width > MOST_COLUMNS
        if narrow or wide or not self.filtered:
            return None
        return filter.tile_for(self.width, self.support.device)


class Search:
    """Layers and their queries, asked for k neighbours.

    Args:
        supports: (M, D) of each layer.
        queries: (N, D) of each layer.
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
        self.capacity = capacity_for(k)
        places = torch.arange(self.count, device=self.device)
        self.order = places * _step(self.count) % self.count
        self.positions = torch.empty_like(self.order)
        self.positions[self.order] = places
        centres = [self._centre(support) for support in supports]
        # One look from the host at all layers: what power of two brings their values into range.
        tops = [
            torch.stack(support.aminmax()).double().abs().max() + centre.abs().max()
            for support, centre in zip(supports, centres, strict=True)
        ]
        self.layers = [
            self._layer(*each)
            for each in zip(supports, queries, centres, torch.stack(tops).tolist(), strict=True)
        ]

    def answer(self, answers: Sequence[Answer]) -> None:
        """Fill the answers, one a layer."""
        everyone = torch.arange(len(self.rows), device=self.device)
        left = [everyone] * len(self.layers)
        tiles = [layer.tile for layer in self.layers]
        for tile in dict.fromkeys(tiles):
            if tile is None:
                continue
            kind = [i for i, own in enumerate(tiles) if own == tile]
            given_up = self._by_products(
                tile, [self.layers[i] for i in kind], [answers[i] for i in kind]
            )
            for i, found in zip(kind, given_up, strict=True):
                left[i] = found
        for i, layer in enumerate(self.layers):
            if layer.filtered and len(left[i]):
                left[i] = self._by_differences(layer, answers[i], left[i])
            if len(left[i]):
                self._completely(layer, answers[i], left[i])

    # ---- what is known of a layer ----

    def _centre(self, rows: torch.Tensor) -> torch.Tensor:
        """The mean of a sample of rows (D,) float64; nought for rows that 16 bits hold as they are.

        Any centre gives the same votes; a near one gives small norms and so tight bounds, which is
        why rows far larger than the others have no say in it.
        """
        if rows.dtype.itemsize < 2 or rows.dtype in (torch.float16, torch.bfloat16):
            return torch.zeros(rows.shape[1], dtype=torch.float64, device=self.device)
        sample = rows[self.order[:1024]].double()
        norms = sample.norm(dim=1)
        ordinary = (norms <= 8 * norms.median()).double()
        return (ordinary[:, None] * sample).sum(dim=0) / ordinary.sum()

    def _layer(
        self, support: torch.Tensor, queries: torch.Tensor, centre: torch.Tensor, top: float
    ) -> Layer:
        filtered = top == 0 or 2.0**-400 < top < 2.0**400
        scale = prepare.LARGEST / 2.0 ** math.frexp(top)[1] if filtered else 1.0
        return Layer(
            support,
            queries,
            duplicates.surplus(support, self.k + 1),
            centre,
            torch.tensor([scale], dtype=torch.float64, device=self.device),
            filtered,
        )

    # ---- the passes ----

    def _by_products(
        self, tile: filter.Tile, layers: Sequence[Layer], answers: Sequence[Answer]
    ) -> list[torch.Tensor]:
        """The 16-bit filter over layers of one tile; returns whom it gave up, of each layer."""
        sums = filter.sums_of(tile)
        columns = [sums.columns(layer.width) for layer in layers]
        rows = -(-self.count // tile.support) * tile.support
        most = self.scratch // (16 * self.capacity * len(layers)) // tile.queries * tile.queries
        part = min(max(tile.queries, most), -(-len(self.rows) // tile.queries) * tile.queries)
        packed_support = self._empty(rows * sum(columns), dtype=torch.float16)
        packed_queries = self._empty(part * sum(columns), dtype=torch.float16)
        half_norms, norms, residuals = self._empty(3, len(layers), rows)
        halves = self._empty(part)
        begins = [sum(columns[:i]) for i in range(len(layers))]
        table = torch.tensor(
            [
                [wide // tile.columns, part * begin, rows * begin]
                for wide, begin in zip(columns, begins, strict=True)
            ],
            device=self.device,
        )
        for i, layer in enumerate(layers):
            own = packed_support[rows * begins[i] :][: rows * columns[i]].view(rows, columns[i])
            prepare.prepare(
                layer.support, self.order, layer.centre, layer.scale, own, half_norms[i], norms[i],
                residuals[i],
            )  # fmt: skip
            half_norms[i, : self.count].masked_fill_(layer.surplus[self.order], math.inf)
        bound = torch.stack(
            [
                bounds.of_products(certify.Products(sums, layer.width, 0.0, prepare.NEGLIGIBLE))
                for layer in layers
            ]
        ).to(self.device)
        known = norms[:, : self.count].double()
        shares = residuals[:, : self.count] / known
        counted = residuals[:, : self.count] > prepare.NEGLIGIBLE
        bound[:, bounds.RELATIVE.value] = shares.where(counted, 0.0).amax(dim=1)
        bound[:, bounds.LARGEST.value] = known.amax(dim=1)

        given_up: list[list[torch.Tensor]] = [[] for _ in layers]
        for who in torch.arange(len(self.rows), device=self.device).split(part):
            lists = self._lists(len(layers), part, who)
            query_norms, query_residuals = self._empty(2, len(layers), part)
            for i, layer in enumerate(layers):
                own = packed_queries[part * begins[i] :][: part * columns[i]]
                prepare.prepare(
                    layer.queries, self.rows[who], layer.centre, layer.scale,
                    own.view(part, columns[i]), halves, query_norms[i], query_residuals[i],
                )  # fmt: skip
            lists.cuts.masked_fill_(query_norms == math.inf, -math.inf)
            beyond = bound[:, bounds.LARGEST.value, None] == math.inf  # never: a scale for all rows
            lists.cuts.masked_fill_(beyond, -math.inf)
            for first, count in stretches(self.count):
                filter.scan(
                    packed_queries, packed_support, half_norms, lists, table, tile, first=first,
                    rows=count,
                )  # fmt: skip
                lists.tighten(self.k, query_norms, query_residuals, norms, bound, differences=False)
            for i, layer in enumerate(layers):
                mine = answers[i].at(who)
                settle.settle(
                    layer.queries, self.rows[who], layer.support, self.order, self.codes, lists, i,
                    query_norms[i], query_residuals[i], norms[i], bound[i], self.k,
                    differences=False, **mine.given(),
                )  # fmt: skip
                answers[i].take(who, mine, ~lists.given_up()[i, : len(who)])
                given_up[i].append(who[lists.given_up()[i, : len(who)]])
        return [torch.cat(each) for each in given_up]

    def _by_differences(self, layer: Layer, answer: Answer, which: torch.Tensor) -> torch.Tensor:
        """The float64 filter over some of a layer's queries; returns whom it gave up."""
        bound = bounds.of_differences(certify.Differences(differences.SUMS, layer.width, 0.0)).to(
            self.device
        )
        height = differences.TILE[0]
        norms = self._empty(1, self.count)  # this bound does not ask for any
        given_up = []
        for who in which.split(max(height, self.scratch // (16 * self.capacity))):
            padded = -(-len(who) // height) * height
            lists = self._lists(1, padded, who)
            nothing = self._empty(1, padded).zero_()
            for first, count in stretches(self.count):
                differences.scan(
                    layer.queries, self.rows[who], layer.support, self.order, layer.surplus,
                    layer.scale, lists, first=first, rows=count,
                )  # fmt: skip
                lists.tighten(self.k, nothing, nothing, norms, bound[None], differences=True)
            mine = answer.at(who)
            settle.settle(
                layer.queries, self.rows[who], layer.support, self.order, self.codes, lists, 0,
                nothing[0], nothing[0], norms[0], bound, self.k, differences=True, **mine.given(),
            )  # fmt: skip
            answer.take(who, mine, ~lists.given_up()[0, : len(who)])
            given_up.append(who[lists.given_up()[0, : len(who)]])
        return torch.cat(given_up)

    def _completely(self, layer: Layer, answer: Answer, who: torch.Tensor) -> None:
        """Every distance in float64."""
        tile = self.scratch // 40  # sorting takes a distance's and a row's bytes some times over
        for part in who.split(max(1, tile // self.count)):
            distances, rows = complete.nearest(
                layer.queries, self.rows[part], layer.support, layer.surplus, self.selves[part],
                self.k, tile,
            )  # fmt: skip
            fill(answer, part, distances, rows, self.codes)

    # ---- what passes share ----

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _lists(self, layers: int, queries: int, who: torch.Tensor) -> Lists:
        """Empty ones; those beyond `who` take nothing."""
        lists = Lists(layers, queries, self.capacity, self.device)
        lists.cuts[:, len(who) :] = -math.inf
        own = self.selves[who]
        own = self.positions[own.clamp(min=0)].where(own >= 0, NOWHERE)
        lists.selves[:, : len(who)] = own.to(torch.int32)
        return lists


def fill(
    answer: Answer,
    which: torch.Tensor,
    distances: torch.Tensor,
    rows: torch.Tensor,
    codes: torch.Tensor,
) -> None:
    """The answers of the queries `which` (n,), of which all neighbours are known, (n, k) each."""
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
