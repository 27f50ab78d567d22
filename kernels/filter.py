"""Scores of queries against the support in 16 bits: products by the matrix units, no matrix kept.

score = |y|^2 / 2 - x.y, in float32 sums of float16 products. Those below a query's cut join its
list, one by one or by bundles: no score leaves the registers unless it or its bundle is below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
import triton
import triton.language as tl

from pdepth import certify
from pdepth.kernels.bundles import Bundles, append_bundles
from pdepth.kernels.lists import Lists, append

FIELDS = tl.constexpr(3)  # of a layer in the table: blocks of columns, offsets of its packed rows
BESIDE = tl.constexpr(8)  # query tiles that run beside each other, for reuse in the second cache

# The matrix units sum 16 products and what came before in one step: aligned to the largest and cut
# off, and so is their sum; each of the 18 is off by at most two roundings.
TRUNCATED = 2 * 18 / 16


@dataclass(frozen=True)
class Tile:
    """One configuration of the filter.

    Attributes:
        queries, support: rows of a tile.
        columns: at a time; of a narrow layer all of them, so that its queries stay where they are.
        section: columns that are summed apart, a multiple of `columns`; 0 for narrow layers.
        descriptors: whether tiles are loaded by tensor descriptors, of one layer a launch whose
            columns are one section.
        bundle: scores that join the lists together, a power of two; 1: each by itself.
    """

    queries: int
    support: int
    columns: int
    section: int
    warps: int
    stages: int
    bundle: int = 8
    descriptors: bool = False


WIDE = Tile(queries=128, support=128, columns=64, section=1024, warps=8, stages=3)
# Half as many bytes a product as WIDE, in registers for which only Hopper's products leave room.
LARGE = Tile(128, 256, columns=64, section=4096, warps=8, stages=3, descriptors=True)
NARROW = tuple(
    Tile(queries, support=64, columns=columns, section=0, warps=warps, stages=2)
    for queries, columns, warps in ((128, 64, 4), (128, 128, 8), (64, 256, 4))
)
TILES = (*NARROW, LARGE, WIDE)
WHOLE = replace(WIDE, bundle=1)  # of supports whose rows all join the lists, in one launch


def tile_for(width: int, device: torch.device) -> Tile:
    """The configuration for layers of that width."""
    fitting = NARROW if _shared_memory(device) >= 128 * 1024 else NARROW[:-1]
    wide = LARGE if width <= LARGE.section and _has_descriptors(device) else WIDE
    return next((tile for tile in fitting if width <= tile.columns), wide)


def tiles_for(widths: Sequence[int], queries: int, rows: int, device: torch.device) -> list[Tile]:
    """The configurations of layers that are searched together.

    Each width has its best where each fills the device; else one takes all, in one launch.
    """
    tiles = [tile_for(width, device) for width in widths]
    for tile in dict.fromkeys(tiles):
        items = -(-queries // tile.queries) * -(-rows // tile.support) * tiles.count(tile)
        if items < programs(device):
            return [WIDE if len(set(tiles)) > 1 else tile] * len(tiles)
    return tiles


@lru_cache
def _has_descriptors(device: torch.device) -> bool:
    """Whether the device loads tiles by tensor descriptors, and multiplies them from there."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


@lru_cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a program may have; 99 KB on some devices."""
    if device.type != "cuda":
        return 1 << 20
    properties: Any = torch.cuda.get_device_properties(device)  # some torch's stubs lack the field
    return int(properties.shared_memory_per_block_optin)


def sums_of(tile: Tile) -> certify.FilterStage:
    """How the filter sums: sections of columns apart, then their sums."""
    section = tile.section or tile.columns
    return certify.FilterStage(
        name="float16",
        multiple=1,
        step=tile.columns,
        section=section,
        chain=math.ceil(TRUNCATED * section),
        norms_first=False,
        rate=TRUNCATED,
    )


@triton.jit
def _tile_of(item, query_tiles, support_tiles):
    """The layer of an item and its tiles; up to BESIDE query tiles go over the support together."""
    layer = item // (query_tiles * support_tiles)
    within = item % (query_tiles * support_tiles)
    first = within // (BESIDE * support_tiles) * BESIDE
    size = tl.minimum(query_tiles - first, BESIDE)
    within %= BESIDE * support_tiles
    return layer.to(tl.int64), first + within % size, within // size


@triton.jit(
    do_not_specialize=[
        *("items", "query_tiles", "support_tiles", "first_tile", "support_rows", "span"),
    ]
)
def filter_kernel(
    packed_queries, packed_support, half_norms, cuts, entries, members, counts, table, items,
    query_tiles, support_tiles, first_tile, support_rows, span, CAPACITY: tl.constexpr,
    TILE_Q: tl.constexpr, TILE_S: tl.constexpr, TILE_D: tl.constexpr, SECTION: tl.constexpr,
    BUNDLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """An item is a tile of queries and `span` tiles of the support.

    DESCRIPTORS: of one layer, whose columns are one section.
    entries, members, counts: `Bundles`' own, with two members a word; or the keys and sizes of
    `Lists`, and no members.
    """
    spans = (support_tiles + span - 1) // span
    column = tl.arange(0, TILE_D)
    if DESCRIPTORS:
        columns = tl.load(table).to(tl.int32) * TILE_D
        queries = tl.make_tensor_descriptor(
            packed_queries + tl.multiple_of(tl.load(table + 1), TILE_D),
            [query_tiles * TILE_Q, columns], [columns, 1], [TILE_Q, TILE_D],
        )  # fmt: skip
        support = tl.make_tensor_descriptor(
            packed_support + tl.multiple_of(tl.load(table + 2), TILE_D),
            [support_rows, columns], [columns, 1], [TILE_S, TILE_D],
        )  # fmt: skip
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        layer, query_tile, number = _tile_of(item, query_tiles, spans)
        blocks = tl.load(table + layer * FIELDS).to(tl.int32)
        width = blocks * TILE_D
        lists = (layer * query_tiles + query_tile) * TILE_Q
        place = tl.arange(0, TILE_Q)
        # Addresses are one of 64 bits and, from there on, 32 bits each.
        x = packed_queries + tl.multiple_of(tl.load(table + layer * FIELDS + 1), TILE_D)
        x += (query_tile * TILE_Q).to(tl.int64) * width
        y = packed_support + tl.multiple_of(tl.load(table + layer * FIELDS + 2), TILE_D)
        if SECTION == 0:
            rows = tl.load(x + place[:, None] * TILE_D + column[None, :])
        cut = tl.load(cuts + lists + place)
        first = number * span
        for tile in range(first, tl.minimum(first + span, support_tiles)):
            begin = (first_tile + tile) * TILE_S
            row = tl.arange(0, TILE_S)
            others = y + begin.to(tl.int64) * width
            if SECTION == 0:
                turned = tl.load(others + row[None, :] * TILE_D + column[:, None])
                sums = tl.dot(rows, turned, out_dtype=tl.float32)
            elif DESCRIPTORS:
                sums = tl.zeros([TILE_Q, TILE_S], tl.float32)
                for block in range(blocks):
                    sums = tl.dot(
                        queries.load([query_tile * TILE_Q, block * TILE_D]),
                        support.load([begin, block * TILE_D]).T,
                        sums,
                        out_dtype=tl.float32,
                    )
            else:
                sums = tl.zeros([TILE_Q, TILE_S], tl.float32)
                for section in range(0, blocks, SECTION // TILE_D):
                    section_sums = tl.zeros([TILE_Q, TILE_S], tl.float32)
                    for block in range(section, tl.minimum(blocks, section + SECTION // TILE_D)):
                        at = block * TILE_D + column
                        section_sums = tl.dot(
                            tl.load(x + (place[:, None] * width + at[None, :])),
                            tl.load(others + (row[None, :] * width + at[:, None])),
                            section_sums,
                            out_dtype=tl.float32,
                        )
                    sums += section_sums
            halves = tl.load(half_norms + layer * support_rows + begin + row)
            scores = halves[None, :] - sums
            if BUNDLE == 1:
                append(
                    scores, cut, place, begin, entries + lists * CAPACITY, counts + lists, CAPACITY
                )
            else:
                append_bundles(
                    scores, cut, place, begin, entries + lists * CAPACITY,
                    members + lists * CAPACITY * (BUNDLE // 2), counts + lists, CAPACITY, BUNDLE,
                )  # fmt: skip


def scan(
    packed_queries: torch.Tensor,
    packed_support: torch.Tensor,
    half_norms: torch.Tensor,
    lists: Lists,
    bundles: Bundles | None,
    table: torch.Tensor,
    tile: Tile,
    *,
    first: int,
    rows: int,
) -> None:
    """Score the packed support rows `first` to `first + rows` against all queries of L layers.

    Args:
        packed_queries, packed_support: flat float16; each layer's rows, (Q, columns) and
            (S, columns), begin at the table's offsets.
        half_norms: (L, S) float32.
        lists: of Q queries, a multiple of the tile's.
        bundles: none of them yet, of the tile's size; None where that is 1.
        table: (L, FIELDS) int64.
        first, rows: a multiple of the tile's rows; the last tile is padded.
    """
    if bundles is None:
        to = lists.keys, lists.keys, lists.sizes
    else:
        to = bundles.firsts, bundles.members.view(torch.int64), bundles.counts
    arrays: tuple[torch.Tensor, ...] = (half_norms, lists.cuts, *to, table)
    layers = [arrays]
    if tile.descriptors:
        layers = [tuple(each[i : i + 1] for each in arrays) for i in range(len(table))]
    for own in layers:
        # In a context of its own: the allocator of the caller's launches stays.
        copy_context().run(_launch, (packed_queries, packed_support, *own), tile, first, rows)
    if bundles is not None:
        bundles.unpack(lists, tile.support // tile.bundle)


def _launch(arrays: tuple[torch.Tensor, ...], tile: Tile, first: int, rows: int) -> None:
    """The kernel with its first arguments, of all layers or of one."""
    _, _, half_norms, _, entries, *_ = arrays
    layers, queries, capacity = entries.shape
    query_tiles, support_tiles = queries // tile.queries, -(-rows // tile.support)
    span = _span(layers * query_tiles, support_tiles, tile)
    items = layers * query_tiles * -(-support_tiles // span)
    if tile.descriptors:
        triton.set_allocator(partial(_bytes_on, entries.device))
    filter_kernel[(min(items, programs(entries.device)),)](
        *arrays, items, query_tiles, support_tiles, first // tile.support, half_norms.shape[1],
        span, CAPACITY=capacity, TILE_Q=tile.queries, TILE_S=tile.support, TILE_D=tile.columns,
        SECTION=tile.section, BUNDLE=tile.bundle, DESCRIPTORS=tile.descriptors,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=False,
    )  # fmt: skip


def _bytes_on(device: torch.device, size: int, alignment: int, stream: int | None) -> torch.Tensor:
    """Where Triton puts descriptors; torch aligns to 512 bytes."""
    return torch.empty(size, dtype=torch.int8, device=device)


def _span(query_tiles: int, support_tiles: int, tile: Tile) -> int:
    """Tiles of the support that a program takes before it looks for other queries.

    A narrow layer's queries are loaded once for all of them; enough items for every program come
    first.
    """
    if tile.section:
        return 1
    return max(1, min(16, query_tiles * support_tiles // 1024))


@lru_cache
def programs(device: torch.device) -> int:
    """As many as run at once, and some: each takes items until all are done."""
    if device.type != "cuda":
        return 1 << 20
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count


def scan_reference(
    queries: torch.Tensor, support: torch.Tensor, half_norms: torch.Tensor
) -> torch.Tensor:
    """The scores (Q, S) that no kernel writes down, in float64 from the packed rows."""
    return half_norms.double() - queries.double() @ support.double().T
