"""`pdepth.label_issues`: likely label errors of a run, a store, a result or votes."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pdepth import inputs
from pdepth.analysis.label_errors import LabelIssues, check_threshold, find_issues
from pdepth.analysis.vote_counts import check_counts
from pdepth.arrays import arguments
from pdepth.arrays.convert import to_numpy
from pdepth.io.embedding_store import EmbeddingStore, is_store, open_store
from pdepth.io.neighbor_file import KeptNeighbors
from pdepth.report.explain import read_run
from pdepth.report.pictures import class_names_of, named_data, open_data
from pdepth.report.record import RunRecord
from pdepth.report.searched import store_of_run
from pdepth.result import DepthResult, Votes
from pdepth.votes import probe_votes

FOLDER = "imagefolder:"  # of DATA whose rows are files


def label_issues(
    source: Any,
    labels: Any = None,
    *,
    threshold: float | None = None,
    store: str | os.PathLike[str] | EmbeddingStore | None = None,
    data: str | None = None,
    k: int = 30,
    metric: str = "sqeuclidean",
    num_threads: int | None = None,
    memory: int | str | None = None,
) -> LabelIssues:
    """Rank labels by how far the votes of all probes are against them.

    Args:
        source: a run's folder or a Parquet file in it, with its neighbours or its store; a store of
            embeddings, or its folder; a DepthResult; or Votes with counts, of several probes.
        labels: (N,) integers, of Votes; of anything else in place of its own.
        threshold: the score from which on a label is an issue; None for
            `pdepth.analysis.label_errors.THRESHOLD`.
        store: of a result, the embeddings that its run kept (`keep_embeddings`), from which votes
            are cast, where it did not keep the neighbours of all rows at all probes. None: where
            the run's record says that they are.
        data: DATA as in `pdepth.inputs.load_data`, whose rows are files; None: the folder of
            images that the run read, if it did.
        k, metric: of votes cast from a store alone; a result has its own.
        num_threads, memory: of votes cast from a store, as in `pdepth.probe_votes`.

    Raises:
        ValueError: no labels; a result without neighbours or a store; a store or data of other
            rows. FileNotFoundError: nothing at a path.
    """
    limit = check_threshold(threshold)
    if isinstance(source, str | os.PathLike):
        source = opened_run(Path(source))
    search = {"num_threads": num_threads, "memory": memory}
    if isinstance(source, DepthResult):
        return _of_result(source, labels, limit, _store_of(source, store), data, search)
    for name, value in (("store", store), ("data", data)):
        if value is not None:
            raise TypeError(f"{name}: expected None beside a {type(source).__name__}, got {value}.")
    if isinstance(source, EmbeddingStore):
        labels = source.asked.labels if labels is None else labels
        return _of_store(source, source.support.labels, labels, limit, k=k, metric=metric, **search)
    if not isinstance(source, Votes):
        raise TypeError(
            "source: expected a run's folder, a store, a DepthResult or Votes, got "
            f"{type(source).__name__}."
        )
    if labels is None:
        raise TypeError("labels: expected (N,) integers beside Votes, got None.")
    counts = to_numpy(check_counts(source))
    return find_issues(counts if counts.ndim == 3 else counts[None], source.classes, labels, limit)


def _of_store(
    store: EmbeddingStore, support_labels: Any, labels: Any, threshold: float, **search: Any
) -> LabelIssues:
    """Of a store's queries, or else of its own rows, whose votes are cast probe by probe.

    support_labels: (M,). labels: (N,) of the rows asked. search: options of `pdepth.probe_votes`.
    """
    queries = None if store.queries is None else store.queries.embeddings

    def counts() -> Iterator[Any]:
        for probe in store.probes:
            store.check(probe)
            asked = None if queries is None else queries[probe]
            support = store.support.embeddings[probe]
            yield probe_votes(support, support_labels, asked, return_counts=True, **search).counts

    return find_issues(counts(), np.unique(support_labels), labels, threshold)


def _of_result(
    result: DepthResult,
    labels: Any,
    threshold: float,
    store: EmbeddingStore | None,
    data: str | None,
    search: Mapping[str, Any],
) -> LabelIssues:
    own = result.labels
    if labels is not None:
        own = arguments.check_integers(labels, "labels", len(result))
    if own is None:
        raise ValueError("label_issues: expected a result with labels, got one without.")
    found = issues_of_kept(result, threshold) if labels is None else None
    if found is None:
        if store is None:
            raise ValueError(
                "label_issues: expected a run that kept its embeddings, or all its neighbours, to "
                f"count votes from, got neither; {_again(result)}."
            )
        metric = result.meta.get("metric", "sqeuclidean")
        voting = own if result.leave_one_out else store.support.labels
        found = _of_store(store, voting, own, threshold, k=result.k, metric=metric, **search)
    names = class_names_of(result)
    paths = _paths_of(result, names, data)
    return replace(found, rows=result.row_numbers, paths=paths, class_names=names)


def issues_of_kept(result: DepthResult, threshold: float | None = None) -> LabelIssues | None:
    """By the votes of kept neighbours; None where not all whole votes were counted, as with early
    exit and weights, or where there are no labels."""
    kept = result.neighbors
    if result.labels is None or kept is None or not _has_all(kept):
        return None
    counts = (kept.class_counts(probes=[probe])[0] for probe in range(len(kept.probes)))
    return find_issues(counts, kept.classes, result.labels, threshold)


def opened_run(path: Path) -> Any:
    """What lies at a path: a store, or the result of a run, of several k that of the largest."""
    return open_store(path) if is_store(path) else read_run(path)


def _has_all(kept: KeptNeighbors) -> bool:
    """Whether all whole votes were counted."""
    return kept.counts.dtype.kind in "iu" and bool(kept.searched.all())


def _store_of(
    result: DepthResult, store: str | os.PathLike[str] | EmbeddingStore | None
) -> EmbeddingStore | None:
    """The store that is passed, or else the one that a run's record names, if it is there.

    Raises ValueError where its rows are not those of the result.
    """
    if store is None:
        store = store_of_run(result)
        if store is None:
            return None
    opened = store if isinstance(store, EmbeddingStore) else open_store(store)
    rows = opened.asked
    if (opened.queries is None) != result.leave_one_out or opened.probes != result.probes:
        raise ValueError(f"store: expected the embeddings of this run, got {opened}.")
    for name, ours, theirs in (
        ("labels", result.labels, rows.labels),
        ("predictions", result.predictions, rows.predictions),
        ("inputs", result.checksums, rows.checksums),
    ):
        if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
            raise ValueError(
                f"store: expected the {name} of this run in {opened.path}, got others."
            )
    return opened


def _again(result: DepthResult) -> str:
    """What keeps what is missing: the command of a run, or the argument of a call."""
    if "model" not in result.meta or "support" not in result.meta:
        return "pass keep_embeddings=DIR to prediction_depth, and store=DIR here"
    words = ["pdepth", "run", result.meta["model"], "--support", result.meta["support"]]
    record = RunRecord.of_meta(result.meta)
    if record is not None and record.weights is not None:
        words += ["--weights", record.weights]
    if result.meta.get("queries"):
        words += ["--queries", result.meta["queries"]]
    words += ["-k", str(result.k), "--keep-embeddings", "DIR", "--out", "NEW"]
    return f"run {shlex.join(words)} with the other options of the first run"


def _paths_of(
    result: DepthResult, names: Sequence[str] | None, data: str | None
) -> list[str] | None:
    """The files of a result's examples: of `data`, or of the folder of images that it names.

    A folder that has changed since is no reason to fail: a warning says so.
    """
    spec = data or named_data(result) or ""
    if data is None and not spec.startswith(FOLDER):
        return None
    try:
        paths = inputs.row_paths(open_data(spec, names, result, "data"))
    except (ValueError, OSError, ImportError) as error:
        if data is not None:
            raise
        advice = " Pass data= (--data) to say where they are now."
        if isinstance(error, ImportError):
            advice = ""
        warnings.warn(f"label_issues: no paths: {error}{advice}", stacklevel=3)
        return None
    if paths is None:
        if data is not None:
            raise ValueError(f"data: expected rows that are files, got none in {data}.")
        return None
    return [paths[row] for row in result.row_numbers]
