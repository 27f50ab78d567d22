"""Scores that join the lists by bundles: of support rows that lie a fraction of a tile apart.

A bundle is compared by its least score. Where that is below the query's cut, all its scores are
written down, and `unpack` moves those below the cut to the query's list: the same rows that would
have joined it one by one, for a third of the instructions a score. The members of a bundle are
scores that, on Hopper, one thread holds after the product, so that finding the least moves nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth.kernels.lists import Lists, halves, key_of, ones, words_of

BLOCK = 64  # bundles of a query at a time


@triton.jit
def _least(scores, BUNDLES: tl.constexpr):
    """(Q, BUNDLES) of scores (Q, S): the least of those that lie BUNDLES apart."""
    least = scores
    if scores.shape[1] > BUNDLES:
        low, high = halves(scores)
        least = tl.minimum(_least(low, BUNDLES), _least(high, BUNDLES))
    return least


@triton.jit
def _write(scores, at, mask, BUNDLES: tl.constexpr):
    """Members (Q, BUNDLE * BUNDLES) of bundles, two by two, to `at` (Q, BUNDLES) and after it."""
    low, high = halves(scores)
    if low.shape[1] > BUNDLES:
        _write(low, at, mask, BUNDLES)
        _write(high, at + low.shape[1] // BUNDLES // 2, mask, BUNDLES)
    else:
        first = low.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
        second = high.to(tl.int32, bitcast=True).to(tl.int64) << 32
        tl.store(at, first | second, mask=mask)


@triton.jit
def append_bundles(
    scores, cuts, query, position, firsts, members, counts, capacity, BUNDLE: tl.constexpr
):
    """Bundles of `scores` (Q, S) whose least is below their query's cut.

    query: (Q,) rows of `firsts`, `members` and `counts`; position: of the first of S in the packed
    support.
    """
    BUNDLES: tl.constexpr = scores.shape[1] // BUNDLE
    passing = _least(scores, BUNDLES) < cuts[:, None]
    word, bit = words_of(passing)
    count = ones(word)
    begin = tl.atomic_add(counts + query, count, mask=count > 0, sem="relaxed")
    places = begin[:, None] + ones(word[:, None] & (bit - 1))
    passing = passing & (places < capacity)
    at = query[:, None] * capacity + places
    first = tl.broadcast_to((position + tl.arange(0, BUNDLES))[None, :], at.shape)
    tl.store(firsts + at, first, mask=passing)
    _write(scores, members + at * (BUNDLE // 2), passing, BUNDLES)


@triton.jit(do_not_specialize=["num_queries", "apart"])
def unpack_kernel(
    firsts, members, counts, cuts, keys, sizes, num_queries, apart, CAPACITY: tl.constexpr,
    BUNDLE: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    query = (tl.program_id(0).to(tl.int64) * QUERIES + tl.arange(0, QUERIES))[:, None]
    inside = query < num_queries
    count = tl.load(counts + query, mask=inside, other=0)
    size = tl.load(sizes + query, mask=inside, other=0)
    cut = tl.load(cuts + query, mask=inside, other=float("-inf"))
    number = tl.arange(0, BLOCK * BUNDLE)[None, :]
    for block in range(0, tl.minimum(tl.max(count), CAPACITY), BLOCK):
        bundle = block + number // BUNDLE
        there = bundle < tl.minimum(count, CAPACITY)
        at = query * CAPACITY + bundle
        score = tl.load(members + at * BUNDLE + number % BUNDLE, mask=there, other=float("inf"))
        row = tl.load(firsts + at, mask=there, other=0) + number % BUNDLE * apart
        passing = there & (score < cut)
        place = size + tl.cumsum(passing.to(tl.int32), axis=1) - 1
        to = keys + query * CAPACITY + place
        tl.store(to, key_of(score, row), mask=passing & (place < CAPACITY))
        size += tl.sum(passing.to(tl.int32), axis=1)[:, None]
    # Bundles without a place: the list is as if it had overflowed.
    tl.store(sizes + query, tl.where(count > CAPACITY, CAPACITY + 1, size), mask=inside)
    tl.store(counts + query, 0, mask=inside)


def bytes_of(capacity: int, size: int) -> int:
    """Of a query's list, and of its bundles if they have more than one row."""
    bundled = 4 + 4 * size if size > 1 else 0
    return capacity * (8 + bundled)


class Bundles:
    """Bundles of rows that passed the cuts of L layers' queries, until they are unpacked.

    Attributes:
        firsts: (L, Q, capacity) int32, the position of a bundle's first row in the packed support.
        members: (L, Q, capacity, size) float32, the scores of its rows.
        counts: (L, Q) int32, bundles that were appended, which may be more than there is room for.
    """

    def __init__(self, lists: Lists, size: int) -> None:
        shape, device = lists.keys.shape, lists.keys.device
        self.firsts: torch.Tensor = torch.empty(shape, dtype=torch.int32, device=device)
        self.members: torch.Tensor = torch.empty((*shape, size), dtype=torch.float32, device=device)
        self.counts: torch.Tensor = torch.zeros(shape[:2], dtype=torch.int32, device=device)

    def unpack(self, lists: Lists, apart: int) -> None:
        """Move to the lists what is below their cuts; the bundles are none then.

        Args:
            apart: positions from a row of a bundle to the next.
        """
        capacity, size = self.members.shape[2:]
        queries = self.counts.numel()
        together = 1 if self.counts.is_cuda else 16  # the interpreter pays for each program
        unpack_kernel[(triton.cdiv(queries, together),)](
            self.firsts, self.members, self.counts, lists.cuts, lists.keys, lists.sizes, queries,
            apart, CAPACITY=capacity, BUNDLE=size, BLOCK=BLOCK, QUERIES=together, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
