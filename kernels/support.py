"""The support of some layers as the filter takes it: measured, then packed, and perhaps kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from pdepth.kernels import bounds, duplicates, measure, prepare
from pdepth.kernels.lists import CAPACITIES, Lists, hold_all
from pdepth.kernels.stack import Stack, fields, on_device

PADDED = 256  # rows of a tile of the filter divide it
NARROW = (64, 128, 256)  # columns of a tile that holds all of a layer's


def places_of(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(M,) int64 each: the support's row at each position of the packed rows, and each row's
    position.

    Rows are visited in a scattered order, so that sorted data prove as much as shuffled; where
    lists hold all of them the order is their own.
    """
    places = torch.arange(count, device=device)
    if hold_all(count):
        return places, places
    order = places * measure.step_of(count) % count
    return order, torch.empty_like(order).scatter_(0, order, places)


@dataclass(frozen=True, eq=False)
class Support:
    """Rows of L layers.

    Attributes:
        packed: what the kernels read.
        columns: of the packed rows of each layer.
        begins: where each layer's begin, from `packed.rows` on.
        earlier: (L, M) int64, how many earlier rows each equals; None where lists hold all rows.
    """

    packed: prepare.Packed
    columns: tuple[int, ...]
    begins: tuple[int, ...]
    earlier: torch.Tensor | None
    parts: tuple[torch.Tensor, ...] = ()  # what `begins` reach into beside `packed.rows`

    @property
    def nbytes(self) -> int:
        packed = self.packed
        arrays = (packed.rows, packed.half_norms, packed.norms, packed.centres, self.earlier)
        return sum(each.nbytes for each in arrays if each is not None)

    def surplus(self, k: int) -> torch.Tensor | None:
        """(L, M) bool, rows with more than k equals before them, which never vote."""
        return None if self.earlier is None else self.earlier > k


def measured(
    stack: Stack,
    places: torch.Tensor,
    columns: Sequence[int],
    padded: int,
    beside: int = 0,
    *,
    centred: bool = True,
) -> Support:
    """Room for rows that are yet to be packed, with all that comes before.

    Args:
        stack: (M, D) of each layer.
        places: as `prepare.prepare` takes them, of these rows.
        padded: rows of each layer.
        beside: rows of each layer for which there is room after them.
        centred: False: rows are not moved, whatever their type.
    """
    layers, count, device = len(stack), len(stack.any), stack.any.device
    centres = hashes = None
    if centred and measure.moves(stack.any.dtype):
        centres = torch.empty(sum(stack.widths), dtype=torch.float64, device=device)
    if not hold_all(count):
        hashes = torch.empty((layers, count), dtype=torch.int64, device=device)
    bound = torch.zeros((layers, bounds.LENGTH), dtype=torch.float64, device=device)
    measure.measure(stack, bound, hashes, places, centres)
    rows = torch.empty((padded + beside) * sum(columns), dtype=torch.float16, device=device)
    half_norms, norms = torch.empty((2, layers, padded), dtype=torch.float32, device=device)
    return Support(
        prepare.Packed(rows, half_norms, norms, bound, centres),
        tuple(columns),
        begins_of(columns, padded),
        None if hashes is None else duplicates.earlier(stack, hashes),
    )


def begins_of(columns: Sequence[int], padded: int, first: int = 0) -> tuple[int, ...]:
    """Where each layer's packed rows begin, one after the other."""
    return tuple(first + padded * before for before in accumulate(columns[:-1], initial=0))


def pack(rows: torch.Tensor, *, inner_products: bool = False, centred: bool = True) -> Support:
    """One layer's rows (M, D), packed for any tile and any k."""
    (count, width), device = rows.shape, rows.device
    columns = next(
        (size for size in NARROW if width <= size), -(-width // prepare.BLOCK) * prepare.BLOCK
    )
    padded = -(-count // PADDED) * PADDED
    table, places = on_device([fields([rows]), [[columns // prepare.BLOCK, 0, 0]]], device)
    stack = Stack([rows], table)
    support = measured(stack, places, [columns], padded, centred=centred)
    order, positions = places_of(count, device)
    nobody = prepare.Queries(
        order[:0], order[:0], positions, support.packed.rows,
        Lists.unset(1, 0, min(CAPACITIES), device), places,
    )  # fmt: skip
    prepare.prepare(
        stack, places, order, support.packed, nobody, "support", inner_products=inner_products
    )
    return support


def together(parts: Sequence[Support]) -> Support:
    """Layers that were kept one by one; their bounds are copied, which a search completes."""
    packed = [each.packed for each in parts]
    first = packed[0].rows
    centres = None
    if packed[0].centres is not None:
        centres = torch.cat([each.centres for each in packed if each.centres is not None])
    earlier = [each.earlier for each in parts if each.earlier is not None]
    return Support(
        prepare.Packed(
            first,
            torch.cat([each.half_norms for each in packed]),
            torch.cat([each.norms for each in packed]),
            torch.cat([each.bound for each in packed]),
            centres,
        ),
        tuple(each.columns[0] for each in parts),
        tuple((each.rows.data_ptr() - first.data_ptr()) // first.itemsize for each in packed),
        torch.cat(earlier) if earlier else None,
        tuple(each.rows for each in packed),
    )
