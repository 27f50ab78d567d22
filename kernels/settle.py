"""From a query's candidates to its vote: what the bounds decide, and float64 where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl

from pdepth.kernels import bounds
from pdepth.kernels.exact import distances, fold
from pdepth.kernels.lists import (
    CAPACITIES,
    REGISTERS,
    Lists,
    position_of,
    score_of,
)
from pdepth.kernels.stack import on_device

UNKNOWN = tl.constexpr(-1)  # as a vote: some class other than the target
BLOCK = 8  # candidates compared with all others at a time
# Of a layer in the table: its place among the lists; address and stride of queries and of support;
# its fold's leaves, their count and its terms; and the addresses of these.
ANSWERS = ("target", "votes", "tied", "distances", "rows")
FIELDS = tl.constexpr(8 + len(ANSWERS))
TARGET, VOTES, TIED, DISTANCES, NEIGHBOURS = (tl.constexpr(8 + i) for i in range(len(ANSWERS)))
NO_CLASS = tl.constexpr(0x7FFFFFFF)  # beyond any class


@triton.jit
def _count(mask):
    return tl.sum(mask.to(tl.int32), axis=0)


@triton.jit
def _any(mask):
    return tl.max(mask.to(tl.int32), axis=0) > 0


@triton.jit
def _kth_smallest(values, there, size, k, BLOCK: tl.constexpr):
    """Of the `size` float64 values that are `there`, the first ones, at least k."""
    no_more = tl.zeros(values.shape, tl.int32)
    for block in range(0, size, BLOCK):
        other = block + tl.arange(0, BLOCK)
        before = tl.gather(values, other, 0)[:, None] <= values[None, :]
        no_more += _count(before & (other < size)[:, None])
    return tl.min(tl.where(there & (no_more >= k), values, float("inf")), axis=0)


@triton.jit
def _near_and_certain(lower, upper, there, size, k, BLOCK: tl.constexpr):
    """Which candidates may be among the k nearest, and which of them surely are."""
    # The k-th neighbour is at most this far; nothing that surely is farther can be one.
    farthest = _kth_smallest(upper, there, size, k, BLOCK)
    near = there & (lower <= farthest)
    # With k others surely or possibly nearer than this, one below it is surely among the k.
    other = tl.full([], float("inf"), tl.float64)
    if size > k:
        other = _kth_smallest(lower, there, size, k + 1, BLOCK)
    return near, near & (upper < other)


@triton.jit
def _votes_of(code, mask, size, BLOCK: tl.constexpr):
    """How many of the candidates in `mask` have each candidate's class."""
    votes = tl.zeros(code.shape, tl.int32)
    for block in range(0, size, BLOCK):
        other = block + tl.arange(0, BLOCK)
        same = tl.gather(code, other, 0)[:, None] == code[None, :]
        votes += _count(same & (tl.gather(mask.to(tl.int32), other, 0) > 0)[:, None])
    return votes


@triton.jit
def _answers(fields, number: tl.constexpr, kind: tl.constexpr):
    """Where a layer's answers of one kind are, or its targets; looked up at each use, so that no
    register holds it meanwhile."""
    return tl.load(fields + number).to(tl.pointer_type(kind))


@triton.jit
def _decide_target(code, near, least, most, fields, query):
    """Whether the bounds on each class's votes tell if the target wins; its vote is then stored."""
    target = tl.load(_answers(fields, TARGET, tl.int32) + query)
    own = near & (code == target)
    others = near & (code != target)
    own_least = tl.max(tl.where(own, least, 0), axis=0)
    own_most = tl.max(tl.where(own, most, 0), axis=0)
    # Of equal counts the smaller class is ahead.
    never = _any(others & (least + (code < target).to(tl.int32) > own_most))
    perhaps_not = _any(others & (own_least + (target < code).to(tl.int32) <= most))
    decided = never | (perhaps_not == 0)
    if decided:
        tl.store(_answers(fields, VOTES, tl.int32) + query, tl.where(never, UNKNOWN, target))
    return decided


@triton.jit
def _decide_winner(code, near, least, most, fields, query):
    """Whether the bounds on each class's votes give one that wins alone; it is then stored."""
    best = tl.max(tl.where(near, least, -1), axis=0)
    winner = tl.min(tl.where(near & (least == best), code, NO_CLASS), axis=0)
    decided = best > tl.max(tl.where(near & (code != winner), most, -1), axis=0)
    if decided:
        tl.store(_answers(fields, VOTES, tl.int32) + query, winner)
        tl.store(_answers(fields, TIED, tl.int8) + query, 0)
    return decided


@triton.jit
def _replace_by_distances(
    slots, total, query_row, queries, support, fields,
    PAIRS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """The first `total` of `slots` (int64) hold rows of the support, and then the bits of the
    distances from the query to them; see `exact.distances`."""
    x = tl.load(fields + 1).to(queries.dtype) + query_row * tl.load(fields + 2)
    rows = tl.load(fields + 3).to(support.dtype)
    stride = tl.load(fields + 4)
    leaves = tl.load(fields + 5).to(tl.pointer_type(tl.int32))
    count = tl.load(fields + 6).to(tl.int32)
    terms = tl.load(fields + 7).to(tl.int32)
    for block in range(0, total, PAIRS):
        slot = block + tl.arange(0, PAIRS)
        there = slot < total
        y = rows + tl.load(slots + slot, mask=there, other=0) * stride
        distance = distances(x, y, there, leaves, count, terms, PAIRS, LANES, DEPTH, INNER)
        tl.debug_barrier()  # every warp has read its rows
        tl.store(slots + slot, distance.to(tl.int64, bitcast=True), mask=there)
    tl.debug_barrier()


@triton.jit
def _rank(distance, row, possible, size, BLOCK: tl.constexpr):
    """How many of the possible candidates come before each, in the order (distance, row)."""
    rank = tl.zeros(row.shape, tl.int32)
    for block in range(0, size, BLOCK):
        other = block + tl.arange(0, BLOCK)
        its = tl.gather(distance, other, 0)[:, None]
        its_row = tl.gather(row, other, 0)[:, None]
        before = (its < distance[None, :]) | ((its == distance[None, :]) & (its_row < row[None, :]))
        rank += _count(before & (tl.gather(possible.to(tl.int32), other, 0) > 0)[:, None])
    return rank


@triton.jit
def _store_vote(code, chosen, size, fields, query, ONE: tl.constexpr, BLOCK: tl.constexpr):
    """The vote of the `chosen` candidates, the k nearest."""
    votes = tl.where(chosen, _votes_of(code, chosen, size, BLOCK), -1)
    top = chosen & (votes == tl.max(votes, axis=0))
    first = tl.min(tl.where(top, code, NO_CLASS), axis=0)
    if ONE:
        target = tl.load(_answers(fields, TARGET, tl.int32) + query)
        vote = tl.where(first == target, first, UNKNOWN)
        tl.store(_answers(fields, VOTES, tl.int32) + query, vote)
    else:
        tl.store(_answers(fields, VOTES, tl.int32) + query, first)
        tied = _any(top & (code != first)).to(tl.int8)
        tl.store(_answers(fields, TIED, tl.int8) + query, tied)


@triton.jit(
    do_not_specialize=["padded", "support_rows", "k"],
    do_not_specialize_on_alignment=["queries", "support", "query_rows", "codes"],
)
def settle_kernel(
    queries, support, table, query_rows, order, codes, keys, sizes, cuts, query_norms,
    query_residuals, norms, bound, padded, support_rows, k, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr, DIFFERENCES: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr,
    PAIRS: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, BOUND: tl.constexpr,
    INNER: tl.constexpr,
):  # fmt: skip
    """ONE: is the vote the target? ROWS: the neighbours themselves, not votes. INNER: of the
    largest inner products."""
    fields = table + tl.program_id(1) * FIELDS
    layer = tl.load(fields)
    query = tl.program_id(0).to(tl.int64)
    number = layer * padded + query
    keys += number * CAPACITY
    size = tl.load(sizes + number)
    cut = tl.load(cuts + number)
    # A cut beyond float32 leaves out what it should not; with fewer than k something is wrong.
    whole = (cut > float("-inf")) & (cut < float("inf")) & (size >= k)
    if not whole:
        tl.store(cuts + number, float("-inf"))  # slowly rather than wrongly
    else:
        entry = tl.arange(0, CAPACITY)
        there = entry < size
        key = tl.load(keys + entry, mask=there, other=0)
        row = tl.load(order + position_of(key), mask=there, other=0).to(tl.int32)
        norm = tl.load(norms + layer * support_rows + position_of(key), mask=there, other=0)
        lower, upper = bounds.lower_and_upper(
            score_of(key), norm, bound + layer * BOUND,
            tl.load(query_norms + number).to(tl.float64),
            tl.load(query_residuals + number).to(tl.float64), DIFFERENCES,
        )  # fmt: skip
        near, certain = _near_and_certain(lower, upper, there, size, k, BLOCK)
        if ROWS:
            certain = certain & (entry < 0)
        possible = near & (certain == 0)
        open = k - _count(certain)
        decided = False
        if not ROWS:
            code = tl.load(codes + row, mask=there, other=-1)
            # Of each candidate's class, how many votes it surely has and how many it may have.
            surely = _votes_of(code, certain, size, BLOCK)
            perhaps = _votes_of(code, possible, size, BLOCK)
            least = surely + tl.maximum(open - (_count(possible) - perhaps), 0)
            most = surely + tl.minimum(perhaps, open)
            if ONE:
                decided = _decide_target(code, near, least, most, fields, query)
            else:
                decided = _decide_winner(code, near, least, most, fields, query)
        if not decided:
            # The list is read and serves for what no register has room for meanwhile.
            slot = tl.cumsum(possible.to(tl.int32), axis=0) - 1
            tl.debug_barrier()
            tl.store(keys + slot, row.to(tl.int64), mask=possible)
            tl.debug_barrier()
            _replace_by_distances(
                keys, _count(possible), tl.load(query_rows + query), queries, support, fields,
                PAIRS, LANES, DEPTH, INNER,
            )  # fmt: skip
            bits = tl.load(keys + slot, mask=possible, other=0)
            distance = tl.where(possible, bits.to(tl.float64, bitcast=True), float("inf"))
            rank = _rank(distance, row, possible, size, BLOCK)
            chosen = certain | (possible & (rank < open))
            if ROWS:
                at = query * k + rank
                tl.store(_answers(fields, DISTANCES, tl.float64) + at, distance, mask=chosen)
                tl.store(_answers(fields, NEIGHBOURS, tl.int64) + at, row, mask=chosen)
            else:
                code = tl.load(codes + row, mask=there, other=-1)
                _store_vote(code, chosen, size, fields, query, ONE, BLOCK)


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
    inner_products: bool = False,
) -> None:
    """The votes of the layers' queries, where lists are whole, whose keys are then lost; the others
    are left.

    Args:
        layers: queries (N, D), support (M, D) and answers of each. Answers are alike in all layers:
            target (n,) int32 with votes (n,) int32, which are then this class or UNKNOWN; or
            votes with tied (n,) bool; or distances (n, k) float64 with rows (n, k) int64, the
            neighbours in order; of inner products, with their sign turned, for distances.
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
        addresses = [answers[name].data_ptr() if name in answers else 0 for name in ANSWERS]
        tables.setdefault((by.pairs, by.lanes, by.depth), []).append(
            [
                number, queries.data_ptr(), queries.stride(0), support.data_ptr(),
                support.stride(0), by.leaves.data_ptr(), by.count, by.terms, *addresses,
            ]
        )  # fmt: skip
    queries, support, answers = layers[0]
    warps = CAPACITIES[lists.capacity]
    for (pairs, lanes, depth), rows in tables.items():
        table = on_device(rows, support.device)
        settle_kernel[(len(query_rows), len(rows))](
            queries, support, table, query_rows, order, codes, lists.keys, lists.sizes, lists.cuts,
            query_norms, query_residuals, norms, bound, lists.keys.shape[1], norms.shape[1], k,
            CAPACITY=lists.capacity, BLOCK=BLOCK, DIFFERENCES=differences, ONE="target" in answers,
            ROWS="rows" in answers, PAIRS=pairs, LANES=lanes, DEPTH=depth, BOUND=bounds.LENGTH,
            INNER=inner_products, num_warps=warps, maxnreg=REGISTERS[warps], enable_fp_fusion=False,
        )  # fmt: skip
