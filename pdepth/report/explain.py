"""Open what an explanation is of: a result, a store, or a run's directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ensemble import Ensemble
from pdepth.arrays import arguments
from pdepth.io.embedding_store import EmbeddingStore, open_store
from pdepth.io.map_file import open_map
from pdepth.io.neighbor_file import KeptNeighbors, open_neighbors
from pdepth.report.explanation import (
    AGAIN,
    NEAREST,
    Explanation,
    asked_rows,
    check_unchanged,
    examples_of,
    explain_result,
    some_of,
)
from pdepth.report.folder import MAP, NEIGHBORS, TABLE, Results, read_results, read_runs
from pdepth.result import DepthResult
from pdepth.votes import depth_from_embeddings

if TYPE_CHECKING:
    from torch import nn

VOTING = 30  # neighbours that vote, of a store


def explain(
    source: Any,
    rows: Any,
    *,
    k: int = NEAREST,
    voting: int = VOTING,
    model: str | nn.Module | None = None,
    support: str | None = None,
    queries: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Explanation:
    """Explain some examples: at every probe the nearest support rows, and how all k voted.

    Args:
        source: a run's directory or one of its tables; a store, `pdepth.open_store(DIR)`; or a
            result with `neighbors`. Of a run with neighbours these are read; of one with a store
            its embeddings are searched for the asked rows; else network and data are opened
            again, as the run's record says, and searched once for all asked rows.
        rows: row numbers of the examples in their data, one or several.
        k: nearest rows of each probe; fewer where fewer were kept.
        voting: of a store, neighbours that vote.
        model, support, queries: of a run's directory, where network and data are now; Python code
            runs only where it is named here.
        say: called with sentences on the way: the plan of a search, before it starts.

    Raises:
        ValueError: rows that are not there; a run that changed since, or cannot be opened again.
        FileNotFoundError: data, weights or a directory that is no longer there.
        TypeError: another source.
    """
    arguments.check_int(k, "k")
    if isinstance(source, DepthResult):
        return explain_result(source, rows, k)
    if isinstance(source, EmbeddingStore):
        return Explanation(of_store(source, rows, k=k, voting=voting))
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "source: expected a run's directory, a store or a DepthResult, got a "
            f"{type(source).__name__}."
        )
    result = read_run(Path(source))
    if result.neighbors is not None:
        return explain_result(result, rows, k)
    from pdepth.report.searched import searched_again, store_of_run

    store = store_of_run(result)
    if store is not None:
        return Explanation(_of_runs_store(open_store(store), result, rows, k))
    return Explanation(searched_again(result, rows, k, (model, support, queries), say))


def read_largest(path: Path) -> DepthResult:
    """A run's result, of several k the largest, without what it kept beside its table.

    Raises ValueError for an ensemble, and what `read_results` raises.
    """
    results = read_runs(path)
    return results[max(results)]


def read_run(path: Path) -> DepthResult:
    """A run's result, of several k the largest, with the neighbours and the map that it kept.

    Raises ValueError for those of another run, and what `read_largest`, `open_neighbors` and
    `open_map` raise.
    """
    return _with_kept(read_largest(path), path)


def read_shown(path: Path) -> Results:
    """What `read_results` reads, of one network's largest k with what the run kept beside it.

    Raises as `read_results` and `read_run`.
    """
    results = read_results(path)
    if isinstance(results, Ensemble):
        return results
    if isinstance(results, DepthResult):
        return _with_kept(results, path)
    largest = max(results)
    return {**results, largest: _with_kept(results[largest], path)}


def _with_kept(result: DepthResult, path: Path) -> DepthResult:
    """A run's result with the neighbours and the map beside it, if there are any."""
    file = beside(path, NEIGHBORS)
    if file.is_file():
        kept = open_neighbors(file, result.k)
        _check_of_result(kept, result, file)
        result = replace(result, neighbors=kept)
    file = beside(path, MAP)
    if not file.is_file():
        return result
    found = open_map(file)
    same = found.probes == result.probes and found.queries.shape[0] == len(result)
    if not same or (result.known & ~found.searched).any():
        raise ValueError(
            f"{file}: expected the map of the results beside it, got that of another run; run it "
            "again with --keep-map."
        )
    return replace(result, map=found)


def beside(path: Path, name: str) -> Path:
    """Where a kept file of a run's directory or table is; support.parquet has its own."""
    if path.is_dir():
        return path / name
    if path.name == TABLE or path.name.startswith("depth-k"):
        return path.with_name(name)
    return path.with_name(f"{path.stem}-{name}")


def _check_of_result(kept: KeptNeighbors, result: DepthResult, file: Path) -> None:
    """Raise ValueError for neighbours of other votes than the result's."""
    same = kept.probes == result.probes and kept.rows.shape[1] == len(result)
    if not same or (result.known & (kept.votes() != result.votes)).any():
        raise ValueError(
            f"{file}: expected the neighbours of the results beside it, got those of another run; "
            f"{AGAIN}."
        )


def of_store(
    store: EmbeddingStore,
    rows: Any,
    *,
    k: int,
    voting: int,
    places: NDArray[np.int64] | None = None,
    **options: Any,
) -> DepthResult:
    """The result of some rows, with all votes and neighbours, by a store's embeddings.

    rows: their numbers. places: among the store's rows; None where these are the same.
    """
    asked = asked_rows(rows)
    count, most = len(store.asked.labels), len(store.support.labels) - (store.queries is None)
    places = asked if places is None else places
    if places.min() < 0 or places.max() >= count:
        outside = asked[(places < 0) | (places >= count)][0]
        raise ValueError(f"rows: expected rows from 0 to {count - 1}, got {outside}.")
    options |= {"k": min(voting, most), "return_neighbors": min(k, most), "early_exit": False}
    result: DepthResult
    if store.queries is None:
        result = depth_from_embeddings(store, query_rows=places, **options)
    else:
        for probe in store.probes:
            store.check(probe)
        of_queries = store.queries
        result = depth_from_embeddings(
            store.support.embeddings,
            store.support.labels,
            of_queries.predictions[places],
            {probe: of_queries.embeddings[probe][places] for probe in store.probes},
            query_labels=of_queries.labels[places],
            **options,
        )
    return replace(result, rows=asked)


def _of_runs_store(store: EmbeddingStore, result: DepthResult, rows: Any, k: int) -> DepthResult:
    """As `of_store`, of the store that a run has kept."""
    examples = examples_of(result, rows)
    chosen = some_of(result, examples)
    if store.probes != result.probes or len(store.asked.labels) != len(result):
        raise ValueError(
            f"{store.path}: expected the store of this run, with {len(result)} examples and "
            f"{len(result.probes)} probes, got {store!r}; {AGAIN}."
        )
    meta = result.meta
    temperature = meta.get("temperature")
    found = of_store(
        store, chosen.row_numbers, k=k, voting=result.k, places=examples,
        metric=meta.get("metric", "sqeuclidean"), weights=meta.get("weights", "uniform"),
        temperature=None if temperature is None else float(temperature),
    )  # fmt: skip
    if store.asked.checksums is not None:
        found = replace(found, checksums=store.asked.checksums[examples])
    check_unchanged(found, chosen, str(store.path))
    kept = found.neighbors
    assert kept is not None
    kept = replace(kept, row_numbers=_support_numbers(result, len(kept.codes)))
    return replace(chosen, votes=found.votes, known=found.known, neighbors=kept)


def _support_numbers(result: DepthResult, count: int) -> NDArray[np.int64] | None:
    """The row numbers of the support in its data, where some of its rows were skipped."""
    skipped = list(result.skipped.get("support", ()))
    return np.setdiff1d(np.arange(count + len(skipped)), skipped) if skipped else None
