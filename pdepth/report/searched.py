"""One search for the rows of an explanation, where a run kept neither neighbours nor embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition, inputs
from pdepth.io.embedding_store import is_store
from pdepth.io.neighbor_file import KeptNeighbors
from pdepth.native import default_arithmetic
from pdepth.report.explanation import AGAIN, check_unchanged, examples_of, some_of
from pdepth.report.record import RunRecord
from pdepth.report.run import RunOptions, plan_run
from pdepth.result import DepthResult
from pdepth.search.nearest import ranked
from pdepth.search.voting import count_votes

Named = tuple[Any, str | None, str | None]
"""Model, support and queries as the caller names them, None for the record's."""


def store_of_run(result: DepthResult) -> Path | None:
    """The store of embeddings that a run has kept, if it is still there."""
    record = RunRecord.of_meta(result.meta)
    kept = None if record is None else (record.options or {}).get("keep_embeddings")
    return Path(kept) if kept is not None and is_store(Path(kept)) else None


def searched_again(
    result: DepthResult, rows: Any, k: int, named: Named, say: Callable[[str], None]
) -> DepthResult:
    """The result of some rows, with all votes and neighbours, by network and data opened again.

    Values of a forward pass in other batches may differ in their last bits, and votes with them.
    """
    record = RunRecord.of_meta(result.meta)
    if record is None:
        raise ValueError(
            "source: expected a run that kept neighbours, a store or a record, got one without; "
            f"{AGAIN}."
        )
    examples = examples_of(result, rows)
    chosen = some_of(result, examples)
    try:
        network, opened = record.open(*named)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} Pass --model, --support or --queries to say where it is now (model=, "
            "support=, queries= in Python)."
        ) from None
    from pdepth.depth import prediction_depth

    data = opened.support if result.leave_one_out else opened.queries
    asked = _rows_of(data, chosen.row_numbers)
    own = examples if result.leave_one_out else None
    nearest = result.k + 1 if own is not None else k
    options = record.run_options(
        k=(result.k,), early_exit=False, keep_embeddings=None, skip_unreadable=False,
        label_column=opened.label_column, processor=opened.processor, return_neighbors=nearest,
    )  # fmt: skip
    options = _skipping(options, result)
    say(str(plan_run(network, opened.support, asked, options)))
    found = prediction_depth(network, opened.support, asked, progress=False, **options.of_depth())
    assert isinstance(found, DepthResult)
    check_unchanged(found, chosen, "the network or its data")
    kept = found.neighbors
    assert kept is not None
    if own is not None:
        kept = without(kept, own, options)
    return replace(chosen, votes=kept.votes(), known=kept.searched, neighbors=first(kept, k))


def _rows_of(data: Any, numbers: NDArray[np.int64]) -> Any:
    """Some rows of a dataset by their numbers, which decisions leave as they are."""
    from torch.utils.data import Subset

    dataset = inputs.unwrap_loader(data)
    rows = dataset.rows if isinstance(dataset, inputs.DecidedRows) else None
    if rows is not None:
        return Subset(dataset, np.searchsorted(rows, numbers).tolist())
    if not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"source: expected data whose rows can be read by their number, got a stream; {AGAIN}."
        )
    return Subset(dataset, numbers.tolist())


def _skipping(options: RunOptions, result: DepthResult) -> RunOptions:
    """Rows of the support that could not be read are skipped once more."""
    return replace(options, skip_unreadable=True) if result.skipped.get("support") else options


def first(kept: KeptNeighbors, k: int) -> KeptNeighbors:
    """With k of the neighbours."""
    return replace(kept, rows=kept.rows[..., :k], distances=kept.distances[..., :k])


@default_arithmetic()
def without(kept: KeptNeighbors, own: NDArray[np.int64], options: RunOptions) -> KeptNeighbors:
    """Lists of k + 1 neighbours without the rows (n,) that examples are, and their votes anew."""
    mask = kept.rows == own[None, :, None]
    mask[..., -1] |= ~mask.any(axis=-1)  # another row of the same values is in its place
    shape = (*kept.rows.shape[:-1], kept.rows.shape[-1] - 1)
    rows, distances = kept.rows[~mask].reshape(shape), kept.distances[~mask].reshape(shape)
    classes, counts = [], []
    for near, far in zip(rows, distances, strict=True):
        weights = None
        if options.weights != "uniform":
            scores = -2 * far if kept.metric == "inner_product" else far
            temperature = options.temperature or definition.TEMPERATURE
            weights = definition.vote_weights(scores, options.weights, temperature)
        counted = count_votes(
            kept.codes, near.astype(np.int64), len(kept.classes), [kept.k], weights, counts=True
        )
        of_probe = ranked(counted.counts[0], kept.k)
        classes.append(of_probe[0])
        counts.append(of_probe[1])
    return replace(
        kept, rows=rows, distances=distances, ranked=np.stack(classes), counts=np.stack(counts)
    )
