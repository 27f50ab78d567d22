"""The 16-bit filter stage over layers that share a launch: from their rows to lists and answers.

Lists of a small support hold all of its rows: five launches, which a CUDA graph can hold. Those of
others take what is below their cuts, chunk by chunk of the support.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from pdepth.kernels import bounds, filter, prepare, settle, support
from pdepth.kernels.bundles import Bundles, bytes_of
from pdepth.kernels.lists import Lists, hold_all
from pdepth.kernels.stack import Stack, fields, on_device

if TYPE_CHECKING:
    from pdepth.kernels.search import Answer, Search

FIRST, GROWTH = 256, 4  # rows of the support's first chunk, and how much longer each next one is


class Products:
    """Some layers of a search, with all that is sent to the device for them.

    Attributes:
        numbers: of the layers.
        surplus: (L, M) bool, rows that never vote; None where lists hold all rows.
        bound: (L, bounds.LENGTH) float64. Both are those of the last launch.
    """

    numbers: Sequence[int]

    def __init__(
        self,
        search: Search,
        tile: filter.Tile,
        numbers: Sequence[int],
        kept: Sequence[support.Support] | None = None,
    ) -> None:
        """kept: the layers' supports, if they are packed already."""
        self._tile, self.numbers = tile, numbers  # the search holds this, and not the reverse
        self.surplus: torch.Tensor | None = None
        self.bound: torch.Tensor | None = None
        self._layers = [search.layers[i] for i in numbers]
        self._kept = support.together(kept) if kept else None
        self._most = self._queries_at_a_time(search)
        sums = filter.sums_of(tile)
        if self._kept is None:
            self._columns = tuple(sums.columns(layer.width) for layer in self._layers)
            self._padded = -(-search.count // tile.support) * tile.support
            rows = support.begins_of(self._columns, self._padded)
            queries = support.begins_of(
                self._columns, self._most, self._padded * sum(self._columns)
            )
        else:
            self._columns, rows = self._kept.columns, self._kept.begins
            queries = support.begins_of(self._columns, self._most)
        widths = [layer.width for layer in self._layers]
        middles = support.begins_of(widths, 1)
        blocks = [wide // prepare.BLOCK for wide in self._columns]
        constants = [bounds.constants(sums, wide, prepare.NEGLIGIBLE) for wide in self._columns]
        per_layer = [
            [
                [wide // tile.columns, *begins]
                for wide, *begins in zip(self._columns, queries, rows, strict=True)
            ],
            fields([layer.support for layer in self._layers]),
            fields([layer.queries for layer in self._layers]),
            [list(each) for each in zip(blocks, rows, middles, strict=True)],
            [list(each) for each in zip(blocks, queries, middles, strict=True)],
            np.array(constants).view(np.int64).tolist(),
        ]
        # Of each table that prepares the support the next is that of the queries.
        self._table, self._rows, _, self._places, _, self._constants = on_device(
            per_layer, search.device
        )

    def _queries_at_a_time(self, search: Search) -> int:
        """A multiple of the tile's, whose lists fit: chunks as equal as may be."""
        count, height = len(search.rows), self._tile.queries
        size = bytes_of(search.capacity, self._tile.bundle) * len(self._layers)
        most = max(height, search.scratch // size) // height * height
        chunks = -(-count // most)
        return -(-count // (chunks * height)) * height

    def launch(self, search: Search, answers: Sequence[Answer]) -> list[torch.Tensor]:
        """Fill the answers; returns (L, Q) float32 of each chunk of the queries, -inf for those
        that the stage gave up. Nothing is read back; tables are sent the first time alone."""
        held = self._kept or support.measured(
            Stack([layer.support for layer in self._layers], self._rows), self._places,
            self._columns, self._padded, self._most,
        )  # fmt: skip
        packed_queries = held.packed.rows
        if self._kept is not None:
            size = self._most * sum(self._columns)
            packed_queries = search.empty(size, dtype=torch.float16)
        self.bound = held.packed.bound
        self.surplus = held.surplus(search.k)
        half_norms = held.packed.half_norms
        cuts: list[torch.Tensor] = []
        for chunk in search.chunks(slice(None), self._most):
            whole = chunk == slice(0, len(search.rows))
            rows, selves = (each if whole else each[chunk] for each in (search.rows, search.selves))
            lists = Lists.unset(len(self._layers), self._most, search.capacity, search.device)
            queries = prepare.Queries(
                rows, selves, search.positions, packed_queries, lists, self._constants
            )
            self._prepare(search, held.packed, queries, support=not cuts and self._kept is None)
            if not cuts and self.surplus is not None:
                half_norms = half_norms.clone()
                left_out = self.surplus[:, search.order]
                half_norms[:, : search.count].masked_fill_(left_out, math.inf)
            self._fill(search, lists, held.packed, half_norms, packed_queries)
            settle.settle(
                [
                    (layer.queries, layer.support, (answer if whole else answer.at(chunk)).arrays())
                    for layer, answer in zip(self._layers, answers, strict=True)
                ],
                rows, search.order, search.codes, lists, lists.norms, lists.residuals,
                held.packed.norms, held.packed.bound, search.k, differences=False,
                inner_products=search.inner_products,
            )  # fmt: skip
            cuts.append(lists.cuts)
            del lists, queries  # before the next chunk has its own
        return cuts

    def _prepare(
        self, search: Search, packed: prepare.Packed, queries: prepare.Queries, *, support: bool
    ) -> None:
        """Pack the queries, and the support with them in one launch if their types allow it."""
        first = self._layers[0]
        sides = {"queries": first.queries}
        if support:
            alike = first.support.dtype == first.queries.dtype
            sides = {"both": first.queries} if alike else {"support": first.support} | sides
        for what, rows in sides.items():
            prepare.prepare(
                Stack([rows], self._rows), self._places, search.order, packed, queries, what,
                inner_products=search.inner_products,
            )  # fmt: skip

    def _fill(
        self,
        search: Search,
        lists: Lists,
        packed: prepare.Packed,
        half_norms: torch.Tensor,
        packed_queries: torch.Tensor,
    ) -> None:
        """The lists of a chunk of queries, after all of the support."""
        tile = self._tile
        bundles = Bundles(lists, tile.bundle) if tile.bundle > 1 else None
        for first, count in support_chunks(search.count):
            filter.scan(
                packed_queries, packed.rows, half_norms, lists, bundles, self._table, tile,
                first=first, rows=count,
            )  # fmt: skip
            lists.tighten(
                search.k, lists.norms, lists.residuals, packed.norms, packed.bound,
                differences=False,
            )  # fmt: skip


def support_chunks(rows: int) -> list[tuple[int, int]]:
    """First position and length of each chunk of the support, after which cuts are lowered; one,
    where lists hold all rows."""
    ends = [0, rows if hold_all(rows) else min(FIRST, rows)]
    while ends[-1] < rows:
        ends.append(min(ends[-1] * GROWTH, rows))
    return [(first, end - first) for first, end in pairwise(ends)]
