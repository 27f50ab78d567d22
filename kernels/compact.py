"""Which queries a layer leaves: their votes are written down, and they alone go on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK, WARPS = 2048, 8  # queries at a time


@triton.jit(do_not_specialize=["asked"], do_not_specialize_on_alignment=["votes"])
def compact_kernel(found, wanted, who, votes, left, count, asked, BLOCK: tl.constexpr):
    """One program: the order of the queries stays, and there are few of them beside the search."""
    kept = 0
    for begin in range(0, asked, BLOCK):
        place = begin + tl.arange(0, BLOCK)
        there = place < asked
        query = tl.load(who + place, mask=there, other=0)
        vote = tl.load(found + place, mask=there, other=0)
        stays = there & (vote == tl.load(wanted + place, mask=there, other=0))
        tl.store(votes + query, vote, mask=there)
        number = tl.cumsum(stays.to(tl.int32), axis=0)
        tl.store(left + (kept + number - 1), query, mask=stays)
        kept += tl.max(number, axis=0)
    tl.store(count, kept)


def compact(
    found: torch.Tensor, wanted: torch.Tensor, who: torch.Tensor, votes: torch.Tensor
) -> torch.Tensor:
    """Those of the queries `who` (n,) int64 whose vote is the wanted class, in their order.

    Args:
        found, wanted: (n,) int32.
        votes: (N,) int32, to hold what was found at `who`.
    """
    left, count = torch.empty_like(who), torch.empty(1, dtype=torch.int64, device=who.device)
    compact_kernel[(1,)](
        found, wanted, who, votes, left, count, len(who), BLOCK=BLOCK, num_warps=WARPS,
        enable_fp_fusion=False,
    )  # fmt: skip
    return left[: int(count)]  # the one number that a layer is waited for


def compact_reference(
    found: torch.Tensor, wanted: torch.Tensor, who: torch.Tensor, votes: torch.Tensor
) -> torch.Tensor:
    """`compact` in plain torch."""
    votes[who] = found
    return who[found == wanted]
