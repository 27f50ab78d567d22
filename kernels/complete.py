"""Every distance in float64, for queries that no filter can serve: exact ties without end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pdepth.kernels import MOST_PROGRAMS
from pdepth.kernels.exact import distances as exact_distances
from pdepth.kernels.exact import fold, halvings

WARPS = 4  # of a program
REGISTERS = 128  # of a thread: left to itself, the assembler takes fewer and spills some


@triton.jit(
    do_not_specialize=["query_stride", "support_stride", "first", "rows", "width", "halvings"],
    do_not_specialize_on_alignment=["query_rows", "left_out", "selves"],
)
def distances_kernel(
    queries, query_stride, query_rows, support, support_stride, left_out, selves, first, rows,
    width, halvings, distances,
    PAIRS: tl.constexpr, LANES: tl.constexpr, HALVINGS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    row = first + place.to(tl.int64)
    there = place < rows
    x = queries + tl.load(query_rows + query) * query_stride
    y = support + row * support_stride
    distance = exact_distances(x, y, there, width, halvings, LANES, HALVINGS, INNER)
    barred = (tl.load(left_out + row, mask=there, other=0) != 0) | (row == tl.load(selves + query))
    distance = tl.where(barred, float("nan"), distance)
    tl.store(distances + query * rows + place, distance, mask=there)


def _pairs(width: int) -> int:
    """Support rows of a program."""
    return WARPS * fold(width).pairs


def distances(
    queries: torch.Tensor,
    query_rows: torch.Tensor,
    support: torch.Tensor,
    left_out: torch.Tensor,
    selves: torch.Tensor,
    first: int,
    rows: int,
    *,
    inner_products: bool = False,
) -> torch.Tensor:
    """(n, rows) float64, to the support rows from `first` on; NaN where one must not be taken.

    Args:
        queries, query_rows: (N, D), and (n,) int64 rows of it.
        support: (M, D).
        left_out: (M,) bool, rows that no query takes.
        selves: (n,) int64, a row that this query does not take, or -1.
    """
    width = support.shape[1]
    by, pairs = fold(width), _pairs(width)
    result = torch.empty((len(query_rows), rows), dtype=torch.float64, device=support.device)
    distances_kernel[(len(query_rows), triton.cdiv(rows, pairs))](
        queries, queries.stride(0), query_rows, support, support.stride(0), left_out, selves, first,
        rows, width, halvings(width), result, PAIRS=pairs, LANES=by.lanes, HALVINGS=by.halvings,
        INNER=inner_products, num_warps=WARPS, maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip
    return result


def nearest(
    queries: torch.Tensor,
    query_rows: torch.Tensor,
    support: torch.Tensor,
    left_out: torch.Tensor,
    selves: torch.Tensor,
    k: int,
    tile: int,
    *,
    inner_products: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances (n, k) float64, see `exact.distances`, and rows (n, k) int64, in their order.

    Arguments as of `distances`; `tile` is how many of them are held at a time.
    """
    most = MOST_PROGRAMS * _pairs(support.shape[1])
    step = min(max(k, tile // len(query_rows)), most)
    kept = rows = None
    for first in range(0, len(support), step):
        count = min(step, len(support) - first)
        now = distances(
            queries, query_rows, support, left_out, selves, first, count,
            inner_products=inner_products,
        )  # fmt: skip
        here = torch.arange(first, first + count, device=support.device).expand(len(now), -1)
        if kept is not None and rows is not None:
            now, here = torch.cat([kept, now], dim=1), torch.cat([rows, here], dim=1)
        # Rows come in ascending order, so that a stable sort leaves those of a tie in theirs.
        now, places = now.sort(dim=1, stable=True)
        kept, rows = now[:, :k], here.gather(1, places[:, :k])
    assert kept is not None
    assert rows is not None
    return kept, rows


def distances_reference(queries: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """(N, M) float64 in plain torch, summed in the definition's order."""
    difference = support.double()[None] - queries.double()[:, None]
    terms = difference * difference
    while (width := terms.shape[2]) > 1:
        half = width // 2
        terms = torch.cat(
            [terms[..., :half] + terms[..., width - half :], terms[..., half : width - half]], dim=2
        )
    return terms[..., 0]
