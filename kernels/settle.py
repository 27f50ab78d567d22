"""From a query's candidates to its vote: what the bounds decide, and float64 where they do not."""

from __future__ import annotations

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

NOT_ASKED = tl.constexpr(-1)  # as a vote: it is not the wanted class
BLOCK = 8  # candidates compared with all others at a time


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


@triton.jit(
    do_not_specialize=["query_stride", "support_stride", "count", "terms", "k"],
    do_not_specialize_on_alignment=[
        *("query_rows", "codes", "wanted", "votes", "tied", "distances", "rows"),
    ],
)
def settle_kernel(
    queries, query_stride, query_rows, support, support_stride, order, codes, leaves, count, terms,
    keys, sizes, cuts, query_norms, query_residuals, norms, bound, k, wanted, votes, tied,
    distances, rows, CAPACITY: tl.constexpr, BLOCK: tl.constexpr, DIFFERENCES: tl.constexpr,
    ONE: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, LANES: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """ONE: is the vote the wanted class? ROWS: the neighbours themselves, not votes."""
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
                asked = tl.load(wanted + query)
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
                    tl.store(votes + query, tl.where(never, NOT_ASKED, asked))
            else:
                best = tl.max(tl.where(near, least, -1), axis=0)
                winner = tl.min(tl.where(near & (least == best), code, 0x7FFFFFFF), axis=0)
                decided = best > tl.max(tl.where(near & (code != winner), most, -1), axis=0)
                if decided:
                    tl.store(votes + query, winner)
                    tl.store(tied + query, False)
        if not decided:
            x = queries + tl.load(query_rows + query) * query_stride
            distance = tl.full([CAPACITY], float("inf"), tl.float64)
            for block in range(0, size, PAIRS):
                place = block + tl.arange(0, PAIRS)
                asked_for = tl.gather(possible.to(tl.int32), place, 0) > 0
                if tl.max(asked_for.to(tl.int32), axis=0) > 0:
                    y = support + tl.gather(row, place, 0) * support_stride
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
                tl.store(distances + at, distance, mask=chosen)
                tl.store(rows + at, row, mask=chosen)
            else:
                given = tl.zeros([CAPACITY], tl.int32)
                for block in range(0, size, BLOCK):
                    given += _votes_of(code, chosen, block, BLOCK)
                given = tl.where(chosen, given, -1)
                top = chosen & (given == tl.max(given, axis=0))
                first = tl.min(tl.where(top, code, 0x7FFFFFFF), axis=0)
                if ONE:
                    tl.store(
                        votes + query, tl.where(first == tl.load(wanted + query), first, NOT_ASKED)
                    )
                else:
                    tl.store(votes + query, first)
                    rivals = top & (code != first)
                    tl.store(tied + query, tl.max(rivals.to(tl.int32), axis=0) > 0)


def settle(
    queries: torch.Tensor,
    query_rows: torch.Tensor,
    support: torch.Tensor,
    order: torch.Tensor,
    codes: torch.Tensor,
    lists: Lists,
    layer: int,
    query_norms: torch.Tensor,
    query_residuals: torch.Tensor,
    norms: torch.Tensor,
    bound: torch.Tensor,
    k: int,
    *,
    differences: bool,
    wanted: torch.Tensor | None = None,
    votes: torch.Tensor | None = None,
    tied: torch.Tensor | None = None,
    distances: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> None:
    """The votes of one layer's queries, where its lists are whole; the others are left.

    Args:
        queries, query_rows: (N, D), and (n,) int64 rows of it.
        support, order: (M, D), and (M,) int64, the row at each position.
        codes: (M,) int32, the classes of the support's rows.
        query_norms, query_residuals, norms, bound: of this layer, as `Lists.tighten` takes them.
        wanted: (n,) int32; the vote is then this class or NOT_ASKED.
        votes, tied: (n,) int32 and bool.
        distances, rows: (n, k) float64 and int64, the neighbours in order; then no votes.
    """
    by = fold(support.shape[1], support.device)
    warps = max(by.warps, CAPACITIES[lists.capacity])
    nothing = lists.sizes  # stands for what is not asked; never read or written
    settle_kernel[(len(query_rows),)](
        queries, queries.stride(0), query_rows, support, support.stride(0), order, codes, by.leaves,
        by.count, by.terms, lists.keys[layer], lists.sizes[layer], lists.cuts[layer], query_norms,
        query_residuals, norms, bound, k,
        *(nothing if each is None else each for each in (wanted, votes, tied, distances, rows)),
        CAPACITY=lists.capacity, BLOCK=BLOCK, DIFFERENCES=differences, ONE=wanted is not None,
        ROWS=rows is not None, PAIRS=by.pairs, LANES=by.lanes, DEPTH=by.depth,
        num_warps=warps, maxnreg=REGISTERS[warps], enable_fp_fusion=False,
    )  # fmt: skip
