"""From a query's candidates to its vote: what the bounds decide, and distances where they do not.

A usual list takes one warp, which holds four of its candidates a thread. Their bounds part them
into neighbours for certain and possible ones. Where the vote hangs on those, wide rows that lie
around the border are rescored, which mostly decides; what then is still possible has the
definition's own distances computed. The list, which has been read, holds rows and their distances
meanwhile, so that no register does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl

from pdepth.kernels import bounds, exact, rescore
from pdepth.kernels.exact import UNROLLED, distances
from pdepth.kernels.lists import (
    Lists,
    kth_score,
    ordered,
    position_of,
    score_of,
    unordered,
    warps_for,
)
from pdepth.kernels.stack import on_device

UNKNOWN = tl.constexpr(-1)  # as a vote: some class other than the target
BLOCK = 8  # distances compared with all others at a time
# Of a layer in the table: its place among the lists; address and stride of queries and of support;
# its width and the halvings of its fold; and the addresses of its answers.
ANSWERS = ("target", "votes", "tied", "distances", "rows")
FIELDS = tl.constexpr(7 + len(ANSWERS))
TARGET, VOTES, TIED, DISTANCES, NEIGHBOURS = (tl.constexpr(7 + i) for i in range(len(ANSWERS)))
NO_CLASS = tl.constexpr(0x7FFFFFFF)  # beyond any class
NO_CODE = tl.constexpr(0xFFFFFFFF)  # beyond any score's


@triton.jit
def _count(mask):
    return tl.sum(mask.to(tl.int32), axis=0)


@triton.jit
def _codes(values):
    """uint32 that order as these float32 do."""
    return ordered(values).to(tl.uint32, bitcast=True) ^ tl.full([], 1 << 31, tl.uint32)


@triton.jit
def _value(code):
    """The float32 of a code."""
    return unordered((code ^ tl.full([], 1 << 31, tl.uint32)).to(tl.int32, bitcast=True))


@triton.jit
def _border(lower, upper, there, k):
    """Codes of the k-th smallest upper bound, and of the (k+1)-th smallest lower one, NO_CODE
    where there is none; found bit by bit from the top."""
    most = tl.where(there, _codes(upper), NO_CODE)
    least = tl.where(there, _codes(lower), NO_CODE)
    bit = tl.full([], 1 << 31, tl.uint32)
    farthest, other = tl.zeros([], tl.uint32), tl.zeros([], tl.uint32)
    for _ in range(32):
        # Two numbers below 2^16 in one sum.
        below = (most < (farthest | bit)).to(tl.int32)
        below += (least < (other | bit)).to(tl.int32) << 16
        total = tl.sum(below, axis=0)
        farthest = tl.where((total & 0xFFFF) < k, farthest | bit, farthest)
        other = tl.where((total >> 16) <= k, other | bit, other)
        bit = bit >> 1
    # The k-th neighbour is no farther than `farthest`, so what surely is cannot be one. With k
    # others surely or possibly nearer than `other`, what surely is below it is among the k.
    near = there & (least <= farthest)
    return near, near & (most < other), farthest, other


@triton.jit
def _answers(fields, number: tl.constexpr, kind: tl.constexpr):
    """Where a layer's answers of one kind are, or its targets; looked up at each use, so that no
    register holds it meanwhile."""
    return tl.load(fields + number).to(tl.pointer_type(kind))


@triton.jit
def _votes_of(own, weight, number, total, open):
    """How many votes a class has for certain, and how many it may have."""
    votes = tl.sum(tl.where(own == number, weight, 0), axis=0)
    surely = votes & 0xFFFF
    perhaps = votes >> 16
    return surely + tl.maximum(open - (total - perhaps), 0), surely + tl.minimum(perhaps, open)


@triton.jit
def _standing(own, weight, total, open):
    """The class that surely has most votes, of equals the smallest, how many these are, and the
    most that any other may have; class by class, since few are among a query's candidates."""
    winner = tl.full([], NO_CLASS, tl.int32)
    best = tl.full([], -1, tl.int32)
    # The most that a class may have, whose, and the second most.
    first, whose, second = best, winner, best
    number = tl.min(own, axis=0)
    while number < NO_CLASS:
        least, most = _votes_of(own, weight, number, total, open)
        winner = tl.where(least > best, number, winner)
        best = tl.maximum(best, least)
        second = tl.maximum(second, tl.minimum(first, most))
        whose = tl.where(most > first, number, whose)
        first = tl.maximum(first, most)
        number = tl.min(tl.where(own > number, own, NO_CLASS), axis=0)
    return winner, best, tl.where(whose == winner, second, first)


@triton.jit
def _decide_target(own, weight, total, open, fields, query):
    """Whether the bounds on each class's votes tell if the target wins; its vote is then stored."""
    target = tl.load(_answers(fields, TARGET, tl.int32) + query)
    own_least, own_most = _votes_of(own, weight, target, total, open)
    never, perhaps_not = 0, 0
    number = tl.min(own, axis=0)
    while number < NO_CLASS:
        least, most = _votes_of(own, weight, number, total, open)
        # Of equal counts the smaller class is ahead.
        ahead = (number < target).to(tl.int32)
        behind = (target < number).to(tl.int32)
        never |= ((number != target) & (least + ahead > own_most)).to(tl.int32)
        perhaps_not |= ((number != target) & (own_least + behind <= most)).to(tl.int32)
        number = tl.min(tl.where(own > number, own, NO_CLASS), axis=0)
    decided = (never > 0) | (perhaps_not == 0)
    if decided:
        tl.store(_answers(fields, VOTES, tl.int32) + query, tl.where(never > 0, UNKNOWN, target))
    return decided


@triton.jit
def _decide_winner(own, weight, total, open, fields, query):
    """Whether the bounds on each class's votes give one that wins alone; it is then stored."""
    winner, best, rival = _standing(own, weight, total, open)
    decided = best > rival
    if decided:
        tl.store(_answers(fields, VOTES, tl.int32) + query, winner)
        tl.store(_answers(fields, TIED, tl.int8) + query, 0)
    return decided


@triton.jit
def _decide(row, certain, possible, k, codes, fields, query, ONE: tl.constexpr):
    """Whether the vote is the same whichever of the possible candidates complete the k; it is then
    stored."""
    near = certain | possible
    total = _count(possible)
    open = k - _count(certain)
    own = tl.load(codes + row, mask=near, other=NO_CLASS)
    weight = certain.to(tl.int32) | (possible.to(tl.int32) << 16)
    if ONE:
        decided = _decide_target(own, weight, total, open, fields, query)
    else:
        decided = _decide_winner(own, weight, total, open, fields, query)
    return decided


@triton.jit
def _found(keys, slot, mask, CAPACITY: tl.constexpr):
    """The distances that were stored for a list's slots."""
    bits = tl.load(keys + CAPACITY // 2 + slot, mask=mask, other=0)
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def _query(fields, query_rows, queries, query):
    """Where a query's row of a layer begins."""
    row = tl.load(query_rows + query)
    return tl.load(fields + 1).to(queries.dtype) + row * tl.load(fields + 2)


@triton.jit
def _rescored(
    keys, chosen, row, lower, upper, query_rows, queries, support, fields, bound, query_norm,
    query, CAPACITY: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """The bounds, of chosen candidates by float32 distances; the list holds rows, and these."""
    slot = tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    total = _count(chosen)
    tl.debug_barrier()  # every warp has read what is now overwritten
    tl.store(keys + slot, row.to(tl.int64), mask=chosen)
    tl.debug_barrier()
    x = _query(fields, query_rows, queries, query)
    rows = tl.load(fields + 3).to(support.dtype)
    stride = tl.load(fields + 4)
    width = tl.load(fields + 5).to(tl.int32)
    LONG: tl.constexpr = max(
        queries.dtype.element_ty.primitive_bitwidth, support.dtype.element_ty.primitive_bitwidth
    )
    PAIRS: tl.constexpr = rescore.PAIRS * WARPS // (2 if LONG > 32 else 1)
    for block in range(0, total, PAIRS):
        number = block + tl.arange(0, PAIRS)
        there = number < total
        y = rows + tl.load(keys + number, mask=there, other=0) * stride
        distance = rescore.distances(x, y, there, width, PAIRS, rescore.LANES)
        to = keys + CAPACITY // 2 + number
        tl.store(to, distance.to(tl.int64, bitcast=True), mask=there)
    tl.debug_barrier()
    distance = _found(keys, slot, chosen, CAPACITY)
    scale = tl.load(bound + bounds.SCALE)
    norm = tl.load(query_norm).to(tl.float64)
    least, most = rescore.lower_and_upper(distance, width, scale, norm)
    known = chosen & (distance < float("inf"))
    lower = tl.where(known, -bounds.above(-least), lower)
    return lower, tl.where(known, bounds.above(most), upper)


@triton.jit
def _candidates(
    keys, first, size, norms, bound, query_norm, query_residual, ENTRIES: tl.constexpr,
    DIFFERENCES: tl.constexpr,
):  # fmt: skip
    """Keys of a list from the `first` on, which of them are there, and float32 bounds of their
    true scores; `query_norm` and `query_residual` are addresses."""
    entry = first + tl.arange(0, ENTRIES)
    there = entry < size
    key = tl.load(keys + entry, mask=there, other=0)
    norm = tl.load(norms + position_of(key), mask=there, other=0)
    lower, upper = bounds.lower_and_upper(
        score_of(key), norm, bound, tl.load(query_norm).to(tl.float64),
        tl.load(query_residual).to(tl.float64), DIFFERENCES,
    )  # fmt: skip
    return key, there, -bounds.above(-lower), bounds.above(upper)


@triton.jit
def _shortened(
    keys, size, norms, bound, query_norm, query_residual, k, CAPACITY: tl.constexpr,
    WINDOW: tl.constexpr, DIFFERENCES: tl.constexpr,
):  # fmt: skip
    """How long a list is without those that the k of least scores prove not to be neighbours."""
    entry = tl.arange(0, CAPACITY)
    every = tl.load(keys + entry, mask=entry < size, other=0) >> 32
    best = kth_score(every.to(tl.int32)[None, :], (entry < size)[None, :], k)
    best = tl.max(tl.max(best, axis=1), axis=0)
    proven = tl.full([], float("-inf"), tl.float32)
    for first in range(0, size, WINDOW):
        key, there, _, upper = _candidates(
            keys, first, size, norms, bound, query_norm, query_residual, WINDOW, DIFFERENCES
        )
        among = there & ((key >> 32).to(tl.int32) <= best)
        proven = tl.maximum(proven, tl.max(tl.where(among, upper, float("-inf")), axis=0))
    length = tl.full([], 0, tl.int32)
    for first in range(0, size, WINDOW):
        key, there, lower, _ = _candidates(
            keys, first, size, norms, bound, query_norm, query_residual, WINDOW, DIFFERENCES
        )
        near = there & (lower <= proven)
        tl.debug_barrier()  # every warp has read what is now overwritten
        to = keys + length + tl.cumsum(near.to(tl.int32), axis=0) - 1
        tl.store(to, key, mask=near)
        length += _count(near)
    tl.debug_barrier()
    return length


@triton.jit
def _parted(
    keys, size, order, codes, norms, bound, query_norm, query_residual, query_rows, queries,
    support, fields, query, k, ENTRIES: tl.constexpr, CAPACITY: tl.constexpr,
    DIFFERENCES: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr, RESCORED: tl.constexpr,
    WARPS: tl.constexpr,
):  # fmt: skip
    """Of a list of at most ENTRIES: whether its vote is known, which is then stored; and of its
    rows those that are certain and those that are near, how many of each. If it is not known these
    are left at its beginning, the certain ones first."""
    entry = tl.arange(0, ENTRIES)
    key, there, lower, upper = _candidates(
        keys, 0, size, norms, bound, query_norm, query_residual, ENTRIES, DIFFERENCES
    )
    row = tl.load(order + position_of(key), mask=there, other=0).to(tl.int32)
    near = there
    certain = entry < 0
    scored = entry < 0
    decided = size < 0
    going = size > 0
    while going:
        near, certain, farthest, other = _border(lower, upper, there, k)
        going = size < 0
        if ROWS:
            certain = certain & (entry < 0)
        else:
            possible = near & (certain == 0)
            decided = _decide(row, certain, possible, k, codes, fields, query, ONE)
            if RESCORED:
                waiting = possible & (scored == 0)
                going = (decided == 0) & (_count(waiting) > 0)
                if going:
                    if _count(scored) == 0:
                        apart = rescore.spread(tl.load(query_norm).to(tl.float64))
                        lower = -bounds.above(apart - lower.to(tl.float64))
                    # Those that reach the border: when it is known, few of the rest are open.
                    middle = 0.5 * _value(farthest) + 0.5 * _value(other)
                    chosen = waiting & (lower <= middle) & (middle <= upper)
                    if _count(chosen) == 0:
                        chosen = waiting
                    lower, upper = _rescored(
                        keys, chosen, row, lower, upper, query_rows, queries, support, fields,
                        bound, query_norm, query, CAPACITY, WARPS,
                    )  # fmt: skip
                    scored = scored | chosen
    count = _count(near)
    sure = _count(certain)
    if decided == 0:
        both = certain.to(tl.int32) | ((near & (certain == 0)).to(tl.int32) << 16)
        before = tl.cumsum(both, axis=0) - both
        slot = tl.where(certain, before & 0xFFFF, sure + (before >> 16))
        tl.debug_barrier()  # every warp has read what is now overwritten
        tl.store(keys + slot, row.to(tl.int64), mask=near)
    return decided, sure, count


@triton.jit
def _measured(
    keys, sure, count, query_rows, queries, support, fields, query, CAPACITY: tl.constexpr,
    PAIRS: tl.constexpr, LANES: tl.constexpr, HALVINGS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """The definition's distances to the rows at `sure` to `count` of a list, in its second half."""
    x = _query(fields, query_rows, queries, query)
    rows = tl.load(fields + 3).to(support.dtype)
    stride = tl.load(fields + 4)
    width = tl.load(fields + 5).to(tl.int32)
    halvings = tl.load(fields + 6).to(tl.int32)
    for block in range(sure, count, PAIRS):
        slot = block + tl.arange(0, PAIRS)
        there = slot < count
        y = rows + tl.load(keys + slot, mask=there, other=0) * stride
        distance = distances(x, y, there, width, halvings, LANES, HALVINGS, INNER)
        to = keys + CAPACITY // 2 + slot
        tl.store(to, distance.to(tl.int64, bitcast=True), mask=there)


@triton.jit
def _chosen(
    keys, sure, count, codes, fields, query, k, ENTRIES: tl.constexpr, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The answer by the certain rows, `sure` many, and the first of the others, up to `count`, in
    the order (distance, row)."""
    slot = tl.arange(0, ENTRIES)
    possible = (slot >= sure) & (slot < count)
    row = tl.load(keys + slot, mask=slot < count, other=0)
    distance = _found(keys, slot, possible, CAPACITY)
    rank = tl.zeros(slot.shape, tl.int32)
    for block in range(sure, count, BLOCK):
        other = (block + tl.arange(0, BLOCK))[:, None]
        its_row = tl.load(keys + other, mask=other < count, other=0)
        its = _found(keys, other, other < count, CAPACITY)
        tied = (its == distance[None, :]) & (its_row < row[None, :])
        rank += _count((other < count) & ((its < distance[None, :]) | tied))
    chosen = (slot < sure) | (possible & (rank < k - sure))
    if ROWS:
        at = query * k + rank
        tl.store(_answers(fields, DISTANCES, tl.float64) + at, distance, mask=chosen)
        tl.store(_answers(fields, NEIGHBOURS, tl.int64) + at, row, mask=chosen)
    else:
        own = tl.load(codes + row, mask=chosen, other=NO_CLASS)
        winner, votes, rival = _standing(own, chosen.to(tl.int32), 0, 0)
        if ONE:
            target = tl.load(_answers(fields, TARGET, tl.int32) + query)
            winner = tl.where(winner == target, winner, UNKNOWN)
        else:
            tl.store(_answers(fields, TIED, tl.int8) + query, (votes == rival).to(tl.int8))
        tl.store(_answers(fields, VOTES, tl.int32) + query, winner)


@triton.jit(
    do_not_specialize=["padded", "support_rows", "k"],
    do_not_specialize_on_alignment=["queries", "support", "query_rows", "codes"],
)
def settle_kernel(
    queries, support, table, query_rows, order, codes, keys, sizes, cuts, query_norms,
    query_residuals, norms, bound, padded, support_rows, k, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr, DIFFERENCES: tl.constexpr, ONE: tl.constexpr, ROWS: tl.constexpr,
    PAIRS: tl.constexpr, LANES: tl.constexpr, HALVINGS: tl.constexpr, BOUND: tl.constexpr,
    INNER: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """ONE: is the vote the target? ROWS: the neighbours themselves, not votes. INNER: of the
    largest inner products."""
    # Narrow rows take no longer in float64; and a score may be as good as a distance in float32.
    RESCORED: tl.constexpr = HALVINGS > UNROLLED and not (DIFFERENCES or ROWS or INNER)
    fields = table + tl.program_id(1) * FIELDS
    layer = tl.load(fields)
    query = tl.program_id(0).to(tl.int64)
    number = layer * padded + query
    keys += number * CAPACITY
    norms += layer * support_rows
    bound += layer * BOUND
    size = tl.load(sizes + number)
    cut = tl.load(cuts + number)
    # A cut beyond float32 leaves out what it should not; with fewer than k something is wrong.
    whole = (cut > float("-inf")) & (cut < float("inf")) & (size >= k)
    decided = size < 0
    sure = tl.full([], 0, tl.int32)
    count = tl.full([], CAPACITY, tl.int32)
    query_norm, query_residual = query_norms + number, query_residuals + number
    if whole:
        if size > CAPACITY // 4:
            size = _shortened(
                keys, size, norms, bound, query_norm, query_residual, k, CAPACITY, CAPACITY // 4,
                DIFFERENCES,
            )  # fmt: skip
        if size <= CAPACITY // 4:
            decided, sure, count = _parted(
                keys, size, order, codes, norms, bound, query_norm, query_residual,
                query_rows, queries, support, fields, query, k, CAPACITY // 4, CAPACITY,
                DIFFERENCES, ONE, ROWS, RESCORED, WARPS,
            )  # fmt: skip
        elif size <= CAPACITY // 2:
            decided, sure, count = _parted(
                keys, size, order, codes, norms, bound, query_norm, query_residual,
                query_rows, queries, support, fields, query, k, CAPACITY // 2, CAPACITY,
                DIFFERENCES, ONE, ROWS, False, WARPS,
            )  # fmt: skip
    if decided == 0:
        if count > CAPACITY // 2:
            tl.store(cuts + number, float("-inf"))  # slowly rather than wrongly
        else:
            tl.debug_barrier()
            _measured(
                keys, sure, count, query_rows, queries, support, fields, query, CAPACITY,
                PAIRS * WARPS, LANES, HALVINGS, INNER,
            )  # fmt: skip
            tl.debug_barrier()
            if count <= CAPACITY // 4:
                _chosen(
                    keys, sure, count, codes, fields, query, k, CAPACITY // 4, CAPACITY, BLOCK, ONE,
                    ROWS,
                )  # fmt: skip
            else:
                _chosen(
                    keys, sure, count, codes, fields, query, k, CAPACITY // 2, CAPACITY, BLOCK, ONE,
                    ROWS,
                )  # fmt: skip


def registers_for(warps: int, by: exact.Fold) -> int:
    """Of a thread, at most: few enough for fifteen warps, and no promised Triton spills."""
    return 168 if warps > 1 else {8: 128, 2: 136, 1: 168}[by.pairs]


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
    are left, and those with more near candidates than half of a list, which are given up.

    Args:
        layers: queries (N, D), support (M, D) and answers of each. Answers are alike in all layers:
            target (n,) int32 with votes (n,) int32, which are then this class or UNKNOWN; or
            votes with tied (n,) bool; or distances (n, k) float64 with rows (n, k) int64, the
            neighbours in order; of inner products, with their sign turned, for distances.
        query_rows: (n,) int64 rows of the queries.
        order: (M,) int64, the support's row at each position.
        codes: (M,) int32, the classes of the support's rows.
        query_norms, query_residuals, norms, bound: as `Lists.tighten` takes them; those of products
            are of rows that were multiplied by SCALE.
    """
    tables: dict[exact.Fold, list[list[int]]] = {}
    for number, (queries, support, answers) in enumerate(layers):
        addresses = [answers[name].data_ptr() if name in answers else 0 for name in ANSWERS]
        width = support.shape[1]
        tables.setdefault(exact.fold(width), []).append(
            [
                number, queries.data_ptr(), queries.stride(0), support.data_ptr(),
                support.stride(0), width, exact.halvings(width), *addresses,
            ]
        )  # fmt: skip
    queries, support, answers = layers[0]
    warps = warps_for(lists.capacity)
    for by, rows in tables.items():
        table = on_device(rows, support.device)
        settle_kernel[(len(query_rows), len(rows))](
            queries, support, table, query_rows, order, codes, lists.keys, lists.sizes, lists.cuts,
            query_norms, query_residuals, norms, bound, lists.keys.shape[1],
            norms.shape[1], k, CAPACITY=lists.capacity, BLOCK=BLOCK, DIFFERENCES=differences,
            ONE="target" in answers, ROWS="rows" in answers, PAIRS=by.pairs, LANES=by.lanes,
            HALVINGS=by.halvings, BOUND=bounds.LENGTH, INNER=inner_products, WARPS=warps,
            num_warps=warps, maxnreg=registers_for(warps, by), enable_fp_fusion=False,
        )  # fmt: skip
