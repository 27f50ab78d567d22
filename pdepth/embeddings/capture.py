"""Forward passes that fill an embedding matrix for every probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdepth.arrays.memory import Budget, human
from pdepth.arrays.rows import NORM_BYTES
from pdepth.embeddings.batch import Batch
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.forward import check_labels, forward
from pdepth.embeddings.layout import Layout


@dataclass(frozen=True, eq=False)
class Captured:
    """Embeddings, labels and predictions of all rows of a source.

    embeddings: (n, D) of each probe, contiguous, on the device that `capture` had as argument.
    labels, predictions: (n,) int64, on the CPU.
    """

    embeddings: list[Tensor]
    labels: Tensor
    predictions: Tensor


def footprint(
    layout: Layout,
    rows: int,
    metric: str = "sqeuclidean",
    probes: Sequence[int] | None = None,
    *,
    on_device: bool = False,
) -> int:
    """Bytes that the embeddings of `rows` rows take; for "cosine" with their norms, or, on a
    device, with copies in float64.

    probes: the numbers of those that count; None for all.
    """
    norm = copy = 0
    if metric == "cosine":
        norm, copy = (0, 8) if on_device else (NORM_BYTES, 0)
    sizes = [
        width * (dtype.itemsize + copy) + norm
        for width, dtype in zip(layout.widths, layout.dtypes, strict=True)
    ]
    return rows * sum(sizes if probes is None else (sizes[probe] for probe in probes))


def check_memory(
    layout: Layout,
    rows: int,
    budget: Budget,
    metric: str = "sqeuclidean",
    home: torch.device | None = None,
) -> str:
    """The memory that embeddings take, in words; home: their device, or None for the host.

    Raises MemoryError where the budget is smaller.
    """
    bytes_needed = footprint(layout, rows, metric, on_device=home is not None)
    where = "memory" if home is None else f"the memory of {home}"
    need = f"{human(bytes_needed)} in {where} for {rows:,} rows x {len(layout.probes)} probes"
    if budget.size is None:
        return need
    if bytes_needed > budget.size:
        raise MemoryError(
            f"embeddings: expected at most the {budget}, got {need}; probe fewer layers, pass "
            "max_width=4096, say, or use fewer rows."
        )
    return f"{need} ({budget})"


def capture(
    layout: Layout,
    source: Batches,
    *,
    probes: Sequence[int] | None = None,
    receive: Callable[[int, Tensor], None] | None = None,
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
    make_room: Callable[[int], object] = lambda rows: None,
) -> Captured:
    """Run the model over all of `source`; its probes' values are copied as they arise.

    Call it inside `at_rest`. probes: the numbers of those whose values are kept; None for all.
    receive: called with the number and values (B, ...) of each of the others, where it is given.
    device: where values are kept; None for the CPU. on_rows: called with the number of rows done
    after each batch. make_room: called with the number of rows that memory is about to be taken
    for, more than once where a source does not know its length; it may raise a MemoryError.
    Raises ValueError when a row's shape differs from the layout's, or a label is not one of the
    network's classes.
    """
    rows = source.rows or 0
    make_room(rows)
    every = range(len(layout.probes))
    probes = every if probes is None else probes
    matrices = {
        probe: torch.empty(
            (rows, *layout.shapes[probe]),
            dtype=layout.dtypes[probe],
            device=device or "cpu",
        )
        for probe in probes
    }
    done = 0

    def numbered_batches() -> Iterator[tuple[int, Batch]]:
        nonlocal rows, done
        for batch in source:
            begin, done = done, done + len(batch[1])
            if source.rows is None and done > rows:
                rows = max(done, rows + rows // 2)
                make_room(rows)
                for matrix in matrices.values():
                    matrix.resize_(rows, *matrix.shape[1:])
            yield begin, batch
            on_rows(done)

    def store(probe: int, begin: int, values: Tensor) -> None:
        if probe in matrices:
            matrices[probe][begin : begin + len(values)].copy_(values)
        elif receive is not None:
            receive(probe, values)

    taken = probes if receive is None else every
    batches = forward(layout, source.what, numbered_batches(), taken, store, predict=True)
    labels, predictions = zip(*batches, strict=True)
    embeddings = [matrix[:done].reshape(done, -1) for matrix in matrices.values()]
    return Captured(embeddings, torch.cat(labels), torch.cat(predictions))


def labels_of(
    layout: Layout, source: Batches, *, on_rows: Callable[[int], None] = lambda done: None
) -> Tensor:
    """The labels (n,) int64 of all of `source`; the model does not run.

    Raises ValueError as `capture`.
    """
    parts: list[Tensor] = []
    done = 0
    for _, labels in source:
        check_labels(layout, source.what, labels)
        parts.append(labels)
        done += len(labels)
        on_rows(done)
    return torch.cat(parts)


def capture_again(
    layout: Layout,
    source: Batches,
    probes: Sequence[int],
    rows: NDArray[np.int64],
    *,
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """The values (n, D) of some probes, by their numbers, at some rows, ascending, of `source`.

    Call it inside `at_rest`. Batches are those of the first reading, so that values have the same
    bits; a batch without any of the rows is not run, and no batch beyond the last of the probes.
    Raises `dataset.Changed` where the source gives other rows than before.
    """
    matrices = {
        probe: torch.empty(
            (len(rows), *layout.shapes[probe]), dtype=layout.dtypes[probe], device=device or "cpu"
        )
        for probe in probes
    }
    size = source.batch_rows
    assert size is not None  # of a source that can be read again
    batches = np.unique(rows // size)
    last = 0

    def numbered_batches() -> Iterator[tuple[int, Batch]]:
        for begin, batch in source.again(batches.tolist()):
            yield begin, batch
            on_rows(last)

    def store(probe: int, begin: int, values: Tensor) -> None:
        nonlocal last
        first, last = np.searchsorted(rows, [begin, begin + len(values)]).tolist()
        if last - first < len(values):
            values = values[rows[first:last] - begin]
        matrices[probe][first:last].copy_(values)

    for _ in forward(layout, source.what, numbered_batches(), probes, store):
        pass
    widths = [layout.widths[probe] for probe in matrices]
    return [m.reshape(len(rows), w) for m, w in zip(matrices.values(), widths, strict=True)]
