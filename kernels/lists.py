"""Each query's list of candidates, and the cut below which a support row becomes one.

A candidate is one int64: its float32 score, mapped so that integers order as the scores do, above
its position in the packed support. A list is in no order. Programs reserve room with an atomic
counter, which may run past the list's end; `tighten` then gives the query up. Between two chunks
of the support, `tighten` lowers the cut to what the k best candidates prove and drops those above
it.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from pdepth import certify
from pdepth.kernels import bounds

NOWHERE = -1  # the position of a query that is no support row
CAPACITIES = (512, 1024, 2048)  # of lists
MOST_NEIGHBOURS = 256
HELD = 16  # entries that a thread has of a list that is tightened; of a usual one half of them


WHOLE = 1024  # rows of a support at most, for lists that hold all of them


def hold_all(rows: int) -> bool:
    """Whether lists have room for every row of such a support."""
    return rows <= WHOLE


def capacity_for(k: int, rows: int | None = None) -> int:
    """Room for all rows of a small support, or else for the candidates of a chunk that is GROWTH
    times as long as all before it."""
    least = rows if rows is not None and hold_all(rows) else 16 * k
    return next(size for size in CAPACITIES if least <= size or size == max(CAPACITIES))


def warps_for(capacity: int) -> int:
    """That go over one list."""
    return capacity // (32 * HELD)


@triton.jit
def ordered(score):
    """int32 that order as these float32 do."""
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unordered(number):
    """The float32 of these int32."""
    return (number ^ ((number >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def key_of(score, position):
    return (ordered(score).to(tl.int64) << 32) | position.to(tl.int64)


@triton.jit
def score_of(key):
    return unordered((key >> 32).to(tl.int32))


@triton.jit
def position_of(key):
    return (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def append(scores, cuts, query, position, keys, sizes, capacity):
    """Those of `scores` (Q, S) below their query's cut join its list.

    query: (Q,) rows of `keys` and `sizes`; position: of the first of S in the packed support.
    """
    count = tl.sum((scores < cuts[:, None]).to(tl.int32), axis=1)
    begin = tl.atomic_add(sizes + query, count, mask=count > 0, sem="relaxed")
    _append(scores, cuts, query, begin, position, keys, capacity)


@triton.jit
def _append(scores, cuts, query, begin, position, keys, capacity):
    """Into the places from `begin` (Q,) on, a word's bits at a time; returns where they end."""
    if scores.shape[1] > 16:
        low, high = halves(scores)
        begin = _append(low, cuts, query, begin, position, keys, capacity)
        begin = _append(high, cuts, query, begin, position + scores.shape[1] // 2, keys, capacity)
    else:
        passing = scores < cuts[:, None]
        number = tl.arange(0, scores.shape[1])
        word, bit = words_of(passing)
        places = begin[:, None] + ones(word[:, None] & (bit - 1))
        places = tl.where(passing, places, capacity)
        at = query[:, None] * capacity + places
        whose = tl.broadcast_to((position + number)[None, :], scores.shape)
        tl.store(keys + at, key_of(scores, whose), mask=places < capacity)
        begin += ones(word)
    return begin


@triton.jit
def halves(scores):
    """The first and the second half of the columns of (Q, S)."""
    return tl.split(scores.reshape([scores.shape[0], 2, scores.shape[1] // 2]).permute([0, 2, 1]))


@triton.jit
def words_of(mask):
    """A word of each row of a mask (Q, S), S <= 32, a bit a column; and each column's bit.

    How many are set before a column are the `ones` below its bit: a prefix sum would go through
    shared memory.
    """
    tl.static_assert(mask.shape[1] <= 32, "a word has 32 bits")
    number = tl.arange(0, mask.shape[1])
    bit = (tl.full([], 1, tl.uint32) << number.to(tl.uint32))[None, :]
    return tl.sum(tl.where(mask, bit, 0), axis=1), bit


@triton.jit
def ones(word):
    """How many bits of a uint32 are set."""
    word -= (word >> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def kth_score(ordered, there, k):
    """The k-th smallest of those int32 of each list (Q, 1), found bit by bit from the top."""
    sign = tl.full([], 1 << 31, tl.uint32)
    unsigned = tl.where(there, ordered.to(tl.uint32, bitcast=True) ^ sign, 0xFFFFFFFF)
    prefix = tl.zeros([ordered.shape[0], 1], tl.uint32)
    bit = sign
    for _ in range(32):
        below = tl.sum((unsigned < (prefix | bit)).to(tl.int32), axis=1)[:, None]
        prefix = tl.where(below < k, prefix | bit, prefix)
        bit = bit >> 1
    return (prefix ^ sign).to(tl.int32, bitcast=True)


@triton.jit
def _tightened(
    keys, selves, proven, query_norms, query_residuals, norms, bound, query, size, kept, inside, k,
    CAPACITY: tl.constexpr, ENTRIES: tl.constexpr, DIFFERENCES: tl.constexpr,
):  # fmt: skip
    """The cuts (Q, 1) that lists of at most ENTRIES prove, which lose what is not below; and how
    long they are then."""
    entry = tl.arange(0, ENTRIES)[None, :]
    key = tl.load(keys + query * CAPACITY + entry, mask=kept & (entry < size), other=0)
    own = tl.load(selves + query, mask=inside, other=0)
    there = kept & (entry < size) & (position_of(key) != own)
    query_norm = tl.load(query_norms + query, mask=kept, other=0).to(tl.float64)
    query_residual = tl.load(query_residuals + query, mask=kept, other=0).to(tl.float64)
    ordered = (key >> 32).to(tl.int32)
    best = kth_score(ordered, there, k)
    norm = tl.load(norms + position_of(key), mask=there, other=0)
    _, upper = bounds.lower_and_upper(
        score_of(key), norm, bound, query_norm, query_residual, DIFFERENCES
    )
    now = tl.max(tl.where(there & (ordered <= best), upper, float("-inf")), axis=1)[:, None]
    enough = tl.sum(there.to(tl.int32), axis=1)[:, None] >= k
    known = tl.load(proven + query, mask=kept, other=float("inf"))
    known = tl.where(enough, tl.minimum(known, now), known)
    tl.store(proven + query, known, mask=kept)
    cut = bounds.cut(known, bound, query_norm, query_residual, DIFFERENCES)
    stays = there & (score_of(key) < cut)
    place = tl.cumsum(stays.to(tl.int32), axis=1) - 1
    tl.store(keys + query * CAPACITY + place, key, mask=stays)
    return cut, tl.sum(stays.to(tl.int32), axis=1)[:, None]


@triton.jit(do_not_specialize=["num_queries", "support_rows", "k"])
def tighten_kernel(
    keys, sizes, cuts, proven, selves, query_norms, query_residuals, norms, bound, num_queries,
    support_rows, k, CAPACITY: tl.constexpr, WINDOW: tl.constexpr, QUERIES: tl.constexpr,
    BOUND: tl.constexpr, DIFFERENCES: tl.constexpr,
):  # fmt: skip
    layer = tl.program_id(1).to(tl.int64)
    within = (tl.program_id(0) * QUERIES + tl.arange(0, QUERIES))[:, None]
    inside = within < num_queries
    query = layer * num_queries + within
    bound += layer * BOUND
    norms += layer * support_rows
    size = tl.load(sizes + query, mask=inside, other=0)
    cut = tl.load(cuts + query, mask=inside, other=float("-inf"))
    # Where a support row is not held by 16 bits, nothing is known of it.
    most = tl.where(tl.load(bound + bounds.LARGEST) < float("inf"), CAPACITY, -1)
    kept = (cut > float("-inf")) & (size <= most)
    longest = tl.max(tl.where(kept, size, -1))
    if longest > WINDOW:
        cut, size = _tightened(
            keys, selves, proven, query_norms, query_residuals, norms, bound, query, size, kept,
            inside, k, CAPACITY, CAPACITY, DIFFERENCES,
        )  # fmt: skip
    elif longest >= 0:
        cut, size = _tightened(
            keys, selves, proven, query_norms, query_residuals, norms, bound, query, size, kept,
            inside, k, CAPACITY, WINDOW, DIFFERENCES,
        )  # fmt: skip
    tl.debug_barrier()  # every warp has read what is now overwritten
    tl.store(cuts + query, tl.where(kept, cut, float("-inf")), mask=inside)
    tl.store(sizes + query, tl.where(kept, size, 0), mask=inside)


class Lists:
    """The lists of L layers' queries, and what each query knows.

    Attributes:
        keys: (L, Q, capacity) int64.
        sizes: (L, Q) int32, candidates that were appended.
        cuts: (L, Q) float32; -inf for a query that was given up.
        proven: (L, Q) float64, at least the k-th neighbour's true score.
        selves: (L, Q) int32, the query's own position in the support, which is left out, or
            NOWHERE.
        norms, residuals: (L, Q) float32, of the packed queries, where these are packed.
    """

    keys: torch.Tensor
    proven: torch.Tensor
    sizes: torch.Tensor
    selves: torch.Tensor
    cuts: torch.Tensor
    norms: torch.Tensor
    residuals: torch.Tensor

    def __init__(self, layers: int, queries: int, capacity: int, device: torch.device) -> None:
        self._allocate(layers, queries, capacity, device)
        self.sizes.fill_(0)
        self.cuts.fill_(float("inf"))
        self.proven.fill_(float("inf"))
        self.selves.fill_(NOWHERE)

    def _allocate(self, layers: int, queries: int, capacity: int, device: torch.device) -> None:
        def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.keys = empty(layers, queries, capacity, dtype=torch.int64)
        self.proven = empty(layers, queries, dtype=torch.float64)
        self.sizes, self.selves = empty(2, layers, queries, dtype=torch.int32)
        self.cuts, self.norms, self.residuals = empty(3, layers, queries, dtype=torch.float32)

    @classmethod
    def unset(cls, layers: int, queries: int, capacity: int, device: torch.device) -> Lists:
        """Lists whose queries `prepare` has yet to fill in."""
        lists = cls.__new__(cls)
        lists._allocate(layers, queries, capacity, device)
        return lists

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def given_up(self) -> torch.Tensor:
        """(L, Q) bool."""
        return self.cuts == float("-inf")

    def tighten(
        self,
        k: int,
        query_norms: torch.Tensor,
        query_residuals: torch.Tensor,
        norms: torch.Tensor,
        bound: torch.Tensor,
        *,
        differences: bool,
    ) -> None:
        """Lower the cuts to what the lists prove, and drop what they leave out.

        Args:
            query_norms, query_residuals: (L, Q) float32.
            norms: (L, S) float32, of the packed support.
            bound: (L, bounds.LENGTH) float64.
        """
        layers, queries, capacity = self.keys.shape
        together = 1 if self.keys.is_cuda else 16  # the interpreter pays for each program
        tighten_kernel[(triton.cdiv(queries, together), layers)](
            self.keys, self.sizes, self.cuts, self.proven, self.selves, query_norms,
            query_residuals, norms, bound, queries, norms.shape[1], k, CAPACITY=capacity,
            WINDOW=capacity // 2, QUERIES=together, BOUND=bounds.LENGTH, DIFFERENCES=differences,
            num_warps=warps_for(capacity), enable_fp_fusion=False,
        )  # fmt: skip


def scores_of(keys: torch.Tensor) -> torch.Tensor:
    """float64, of int64 keys of any shape: `score_of` in plain torch."""
    ordered = keys >> 32
    bits = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(torch.int32)
    return bits.view(torch.float32).double()


def tighten_reference(
    scores: torch.Tensor,
    norms: torch.Tensor,
    bound: certify.Products | certify.InnerProducts,
    query_norm: float,
    query_residual: float,
    largest: float,
    k: int,
) -> float:
    """The cut of one list with float32 `scores` (n,) of rows with `norms` (n,), n >= k."""
    among = scores <= scores.sort().values[k - 1]
    query = np.float64(query_norm), np.float64(query_residual)
    _, upper = bound.bounds(scores[among].double().numpy(), *query, norms[among].double().numpy())
    return bound.cut(query_norm, query_residual, float(upper.max()), largest)
