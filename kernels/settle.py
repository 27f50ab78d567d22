"""From a query's candidates to its vote: what the bounds decide, and float64 where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl

from pdepth.kernels import bounds
from pdepth.kernels.exact import fold, squared_distances
from pdepth.kernels.lists import (
    CAPACITIES,
    REGISTERS,
    Lists,
    position_of,
    score_of,
)
from pdepth.kernels.stack import on_device

NOT_ASKED = tl.constexpr(-1)  # as a vote: it is not the wanted class
BLOCK = 8  # candidates compared with all others at a time
# Of a layer in the table: its place among the lists; address and stride of queries and of support;
# its fold's leaves, their count and its terms; and the addresses of these.
ASKED = ("wanted", "votes", "tied", "distances", "rows")
FIELDS = tl.constexpr(8 + len(ASKED))
WANTED, VOTES, TIED, DISTANCES, NEIGHBOURS = (tl.constexpr(8 + i) for i in range(len(ASKED)))


@triton.jit
def _kth_smallest(values, there, size, k, BLOCK: tl.constexpr):
    """Of the `size` float64 values that are `there`, the first ones, at least k."""
    no_more = tl.zeros(values.shape, tl.int32)
    for block in range(0, size, BLOCK):
        other = block + tl.arange(0, BLOCK)
        before = tl.gather(values, other, 0)[:, None] <= values[None, :]
        no_more += tl.sum((before & (other < size)[:, None]).to(tl.int32), axis=0)
    return tl.min(tl.where(there & (no_more >= k), values, float("inf")), axis=0)


@triton.jit
def _votes_of(code, mine, block, BLOCK: tl.constexpr):
    """How many of the candidates `block` .. + BLOCK that are `mine` have each candidate's class."""
    other = block + tl.arange(0, BLOCK)
    same = tl.gather(code, other, 0)[:, None] == code[None, :]
    counted = same & (tl.gather(mine.to(tl.int32), other, 0) > 0)[:, None]
    return tl.sum(counted.to(tl.int32), axis=0)


@triton.jit
def _answers(fields, number: tl.constexpr, kind: tl.constexpr):
    """Where a layer's answers of one kind are, or what was asked; looked up at each use, so that no
    register holds it meanwhile."""
    return tl.load(fields + number).to(tl.pointer_type(kind))


@triton.jit(
    do_not_specialize=["padded", "support_rows", "k"],
    do_not_specialize_on_alignment=["queries", "support", "query_rows", "codes"],
)
def settle_kernel(
    queries, support, table, query_rows, order, codes, keys, sizes, cuts, query_norms,
    query_residuals, norms, bound, padded, support_rows, k, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr, DIFFERENCES: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr,
    PAIRS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, BOUND: tl.constexpr,
):  # fmt: skip
    """ONE: is the vote the wanted class? ROWS: the neighbours themselves, not votes."""
    fields = table + tl.program_id(1) * FIELDS
    layer = tl.load(fields)
    keys += layer * padded * CAPACITY
    sizes += layer * padded
    cuts += layer * padded
    query_norms += layer * padded
    query_residuals += layer * padded
    norms += layer * support_rows
    bound += layer * BOUND
    query = tl.program_id(0).to(tl.int64)
    size = tl.load(sizes + query)
    cut = tl.load(cuts + query)
    # A cut beyond float32 leaves out what it should not; with fewer than k something is wrong.
    whole = (cut > float("-inf")) & (cut < float("inf")) & (size >= k)
    if not whole:
        tl.store(cuts + query, float("-inf"))  # slowly rather than wrongly
    else:
        entry = tl.arange(0, CAPACITY)
        there = entry < size
        key = tl.load(keys + query * CAPACITY + entry, mask=there, other=0)
        row = tl.load(order + position_of(key), mask=there, other=0)
        code = tl.load(codes + row, mask=there, other=-1)
        norm = tl.load(norms + position_of(key), mask=there, other=0)
        query_norm = tl.load(query_norms + query).to(tl.float64)
        query_residual = tl.load(query_residuals + query).to(tl.float64)
        lower, upper = bounds.lower_and_upper(
            score_of(key), norm, bound, query_norm, query_residual, DIFFERENCES
        )
        # The k-th neighbour is at most this far; nothing that surely is farther can be one.
        farthest = _kth_smallest(upper, there, size, k, BLOCK)
        near = there & (lower <= farthest)
        # With k others surely or possibly nearer than this, one below it is surely among the k.
        other = tl.full([], float("inf"), tl.float64)
        if size > k:
            other = _kth_smallest(lower, there, size, k + 1, BLOCK)
        certain = near & (upper < other)
        if ROWS:
            certain = certain & (entry < 0)
        possible = near & (certain == 0)
        total = tl.sum(possible.to(tl.int32), axis=0)
        open = k - tl.sum(certain.to(tl.int32), axis=0)

        decided = False
        if not ROWS:
            # Of each candidate's class, how many votes it surely has and how many it may have.
            surely = tl.zeros([CAPACITY], tl.int32)
            perhaps = tl.zeros([CAPACITY], tl.int32)
            for block in range(0, size, BLOCK):
                surely += _votes_of(code, certain, block, BLOCK)
                perhaps += _votes_of(code, possible, block, BLOCK)
            least = surely + tl.maximum(open - (total - perhaps), 0)
            most = surely + tl.minimum(perhaps, open)
            if ONE:
                asked = tl.load(_answers(fields, WANTED, tl.int32) + query)
                own = near & (code == asked)
                others = near & (code != asked)
                own_least = tl.max(tl.where(own, least, 0), axis=0)
                own_most = tl.max(tl.where(own, most, 0), axis=0)
                # Of equal counts the smaller class is ahead.
                ahead = others & (least + (code < asked).to(tl.int32) > own_most)
                level = others & (own_least + (asked < code).to(tl.int32) <= most)
                never = tl.max(ahead.to(tl.int32), axis=0) > 0
                decided = never | (tl.max(level.to(tl.int32), axis=0) == 0)
                if decided:
                    tl.store(
                        _answers(fields, VOTES, tl.int32) + query, tl.where(never, NOT_ASKED, asked)
                    )
            else:
                best = tl.max(tl.where(near, least, -1), axis=0)
                winner = tl.min(tl.where(near & (least == best), code, 0x7FFFFFFF), axis=0)
                decided = best > tl.max(tl.where(near & (code != winner), most, -1), axis=0)
                if decided:
                    tl.store(_answers(fields, VOTES, tl.int32) + query, winner)
                    tl.store(_answers(fields, TIED, tl.int8) + query, 0)
        if not decided:
            x = tl.load(fields + 1).to(queries.dtype)
            x += tl.load(query_rows + query) * tl.load(fields + 2)
            rows = tl.load(fields + 3).to(support.dtype)
            support_stride = tl.load(fields + 4)
            leaves = tl.load(fields + 5).to(tl.pointer_type(tl.int32))
            count = tl.load(fields + 6).to(tl.int32)
            terms = tl.load(fields + 7).to(tl.int32)
            distance = tl.full([CAPACITY], float("inf"), tl.float64)
            for block in range(0, size, PAIRS):
                place = block + tl.arange(0, PAIRS)
                asked_for = tl.gather(possible.to(tl.int32), place, 0) > 0
                if tl.max(asked_for.to(tl.int32), axis=0) > 0:
                    y = rows + tl.gather(row, place, 0) * support_stride
                    found = squared_distances(
                        x, y, asked_for, leaves, count, terms, PAIRS, LANES, DEPTH
                    )
                    within = entry - block
                    here = (within >= 0) & (within < PAIRS)
                    found = tl.gather(found, tl.where(here, within, 0), 0)
                    distance = tl.where(here & possible, found, distance)
            rank = tl.zeros([CAPACITY], tl.int32)
            for block in range(0, size, BLOCK):
                place = block + tl.arange(0, BLOCK)
                its = tl.gather(distance, place, 0)[:, None]
                its_row = tl.gather(row, place, 0)[:, None]
                before = (its < distance[None, :]) | (
                    (its == distance[None, :]) & (its_row < row[None, :])
                )
                counts = (tl.gather(possible.to(tl.int32), place, 0) > 0)[:, None]
                rank += tl.sum((before & counts).to(tl.int32), axis=0)
            chosen = certain | (possible & (rank < open))
            if ROWS:
                at = query * k + rank
                tl.store(_answers(fields, DISTANCES, tl.float64) + at, distance, mask=chosen)
                tl.store(_answers(fields, NEIGHBOURS, tl.int64) + at, row, mask=chosen)
            else:
                given = tl.zeros([CAPACITY], tl.int32)
                for block in range(0, size, BLOCK):
                    given += _votes_of(code, chosen, block, BLOCK)
                given = tl.where(chosen, given, -1)
                top = chosen & (given == tl.max(given, axis=0))
                first = tl.min(tl.where(top, code, 0x7FFFFFFF), axis=0)
                if ONE:
                    asked = tl.load(_answers(fields, WANTED, tl.int32) + query)
                    vote = tl.where(first == asked, first, NOT_ASKED)
                    tl.store(_answers(fields, VOTES, tl.int32) + query, vote)
                else:
                    tl.store(_answers(fields, VOTES, tl.int32) + query, first)
                    rivals = top & (code != first)
                    tied = tl.max(rivals.to(tl.int32), axis=0).to(tl.int8)
                    tl.store(_answers(fields, TIED, tl.int8) + query, tied)


def settle(
    layers: Sequence[tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]],
    query_rows: torch.Tensor,
    order: torch.Tensor,
    codes: torch.Tensor,
    lists: Lists,
    query_norms: torch.Tensor,
    query_residuals: torch.Tensor,
    norms: torch.Tensor,
    bound: torch.Tensor,
    k: int,
    *,
    differences: bool,
) -> None:
    """The votes of the layers' queries, where lists are whole; the others are left.

    Args:
        layers: queries (N, D), support (M, D) and answers of each. Answers are alike in all layers:
            wanted (n,) int32 with votes (n,) int32, which are then this class or NOT_ASKED; or
            votes with tied (n,) bool; or distances (n, k) float64 with rows (n, k) int64, the
            neighbours in order.
        query_rows: (n,) int64 rows of the queries.
        order: (M,) int64, the support's row at each position.
        codes: (M,) int32, the classes of the support's rows.
        query_norms, query_residuals, norms, bound: as `Lists.tighten` takes them.
    """
    tables: dict[tuple[int, ...], list[list[int]]] = {}
    folds = [
        fold(support.shape[1], support.device) for _, support, _ in layers
    ]  # held till launched
    for number, ((queries, support, answers), by) in enumerate(zip(layers, folds, strict=True)):
        addresses = [answers[name].data_ptr() if name in answers else 0 for name in ASKED]
        tables.setdefault((by.pairs, by.lanes, by.depth, by.warps), []).append(
            [
                number, queries.data_ptr(), queries.stride(0), support.data_ptr(),
                support.stride(0), by.leaves.data_ptr(), by.count, by.terms, *addresses,
            ]
        )  # fmt: skip
    queries, support, answers = layers[0]
    for (pairs, lanes, depth, least), rows in tables.items():
        table = on_device(rows, support.device)
        warps = max(least, CAPACITIES[lists.capacity])
        settle_kernel[(len(query_rows), len(rows))](
            queries, support, table, query_rows, order, codes, lists.keys, lists.sizes, lists.cuts,
            query_norms, query_residuals, norms, bound, lists.keys.shape[1], norms.shape[1], k,
            CAPACITY=lists.capacity, BLOCK=BLOCK, DIFFERENCES=differences, ONE="wanted" in answers,
            ROWS="rows" in answers, PAIRS=pairs, LANES=lanes, DEPTH=depth, BOUND=bounds.LENGTH,
            num_warps=warps, maxnreg=REGISTERS[warps], enable_fp_fusion=False,
        )  # fmt: skip
