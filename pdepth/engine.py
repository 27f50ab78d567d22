"""Votes, neighbours and depths of embeddings: the public functions over arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import streaming, validate
from pdepth.backends import Coded, Progress, backend_named
from pdepth.backends.common import UNKNOWN
from pdepth.embeddings.store import EmbeddingStore
from pdepth.result import DepthResult, Votes
from pdepth.rows import is_torch
from pdepth.sources import is_one
from pdepth.validate import Problem

_NO_CLASS = -2  # the code of a prediction that no support row has: no vote equals it


def probe_votes(
    support: Any,
    labels: Any,
    queries: Any = None,
    *,
    query_rows: Any = None,
    k: int = 30,
    metric: str = "sqeuclidean",
    exclude_self: bool = True,
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
    return_counts: bool = False,
) -> Votes:
    """The k-NN majority votes of queries at one probe or several: exactly those of the definition.

    Args:
        support: (M, D) array, or a sequence, mapping or iterator of them, one a probe, of any
            widths. NumPy or torch; float16, bfloat16, float32, float64 or integers; further
            dimensions are flattened. An iterator is read one probe at a time. For an array may
            stand the path of a file or directory of shards, see `open_source`; Arrow's fixed-size
            lists; or any `pdepth.sources.Source`: rows that are read in slices.
        labels: (M,) integers, the classes of the support.
        queries: (N, D), or one such array a probe. None: the support's own rows, each left out of
            its own vote by its row number unless `exclude_self` is false.
        query_rows: (N,) rows of the support to ask instead of all, where `queries` is None.
        k: neighbours that vote, in the order (float64 squared distance, row).
        metric: "sqeuclidean", or "cosine": rows are divided by their norms first, into float64
            copies of the arrays.
        backend: "auto", the GPU engine for a support on a CUDA device and else the CPU engine; or
            a name of `pdepth.backends()`.
        num_threads: threads of the CPU engine; None for the process's share of the cores.
        memory: bytes, or an amount such as "8GiB", that rows of sources may take while they are in
            work: a chunk of the support, the one that is read ahead, and a block of queries. None:
            half of what is free. Where reading is the limit, the logger `pdepth` says so (INFO).
        return_counts: also return how many votes each class had.

    Returns:
        Votes, in arrays of the support's kind and device.

    Raises:
        ValueError, TypeError: before any work, one sentence that names the argument; NaN in a
            source, or a file that cannot be read, when it is met.
        FileNotFoundError: a path leads nowhere.
        MemoryError: `memory` does not suffice for one row of a source.
    """
    answer = _ask(
        validate.problems(
            support,
            queries,
            labels,
            query_rows=query_rows,
            k=k,
            metric=metric,
            exclude_self=exclude_self,
            num_threads=num_threads,
            memory=memory,
        ),
        backend,
        return_counts=return_counts,
    )

    problem, coded = answer.problem, answer.coded

    def given_back(array: NDArray[Any] | None) -> Any:
        if array is not None and is_one(support):
            array = array[0]
        return _on(problem.device, array)

    return Votes(
        votes=given_back(problem.classes[coded.votes]),
        classes=_on(problem.device, problem.classes),
        tied=given_back(coded.tied),
        counts=given_back(coded.counts),
    )


def kneighbors(
    support: Any,
    queries: Any = None,
    *,
    query_rows: Any = None,
    k: int = 30,
    metric: str = "sqeuclidean",
    exclude_self: bool = True,
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
) -> tuple[Any, Any]:
    """Squared distances (N, k) float64 and rows (N, k) int64 of each query's k nearest rows.

    Sorted by (distance, row). Arguments, array kinds and errors as in `probe_votes`, for one
    array (M, D); with `metric="cosine"` the distances are those of the normalised rows.
    """
    if not is_one(support):
        raise TypeError(f"support is a {type(support).__name__}; one array is wanted.")
    (problem,) = validate.problems(
        support,
        queries,
        None,
        query_rows=query_rows,
        k=k,
        metric=metric,
        exclude_self=exclude_self,
        num_threads=num_threads,
        memory=memory,
    )
    engine = backend_named(backend, problem.device)
    if streaming.wanted_for(problem):
        distances, rows = streaming.neighbours(engine, problem)
    else:
        distances, rows = engine.neighbours(problem)
    return _on(problem.device, distances), _on(problem.device, rows)


def depth_from_votes(votes: Any, reference: Any) -> tuple[Any, Any]:
    """Depth (N,) int64 of votes (L, N) against `reference` (N,), and where it is undefined (N,).

    The depth is the start of the last unbroken run of votes that equal the reference; where the
    last vote does not, it is L and the example is undefined (arXiv 2106.09647, section 2). With
    predictions at checkpoints for votes, it is the iteration learned. Arrays of the votes' kind.

    Raises ValueError or TypeError for shapes that do not fit or votes that are not integers.
    """
    given = votes.detach().cpu().numpy() if is_torch(votes) else np.asarray(votes)
    if given.ndim != 2 or given.shape[0] == 0:
        raise ValueError(f"votes has shape {given.shape}; (probes, examples) is wanted.")
    if given.dtype.kind not in "iub":
        raise TypeError(f"votes has elements of type {given.dtype}; integers are wanted.")
    agrees = given == validate.integers(reference, "reference", given.shape[1])
    depth, undefined = _depth(agrees)
    device = votes.device if is_torch(votes) else None
    return _on(device, depth), _on(device, undefined)


def depth_from_embeddings(
    support: Any,
    labels: Any = None,
    predictions: Any = None,
    queries: Any = None,
    *,
    query_rows: Any = None,
    k: int = 30,
    early_exit: bool = True,
    exclude_self: bool = True,
    metric: str = "sqeuclidean",
    backend: str = "auto",
    num_threads: int | None = None,
    memory: int | str | None = None,
    probes: Sequence[str] | None = None,
    query_labels: Any = None,
    progress: Progress | None = None,
) -> DepthResult:
    """The prediction depth of queries whose embeddings are at hand, one array a probe.

    Arguments as in `probe_votes`, and:

    Args:
        support: or a store, `pdepth.open_store(DIR)`, alone: it has labels, predictions, queries,
            probes and query_labels of its own. Labels or predictions that are given go before.
        predictions: (N,) integers, the network's class of each query.
        early_exit: walk from the last probe backward, ask only whether each query's vote is its
            prediction, and drop it where it is not: the same depths, sooner. Votes are `known` from
            a query's depth on. An iterator is read forward and answers all votes.
        probes: names, one a probe; by default the mapping's keys, or "probe 0" and so on.
        query_labels: (N,) the queries' own labels, kept in the result; with `queries=None` they
            are those of the support.
        progress: called with (probe, fraction of it done, queries asked), some times a second.

    Raises:
        ValueError, TypeError: before any work, one sentence that names the argument.
    """
    if isinstance(support, EmbeddingStore):
        for what, given in (("queries", queries), ("probes", probes)):
            if given is not None:
                raise TypeError(
                    f"{what} is given beside a store, which has its own; None is wanted."
                )
        store, asked = support, support.asked
        support, probes = store.support.embeddings, store.probes
        labels = store.support.labels if labels is None else labels
        if store.queries is not None:
            queries = store.queries.embeddings
            query_labels = asked.labels if query_labels is None else query_labels
        if predictions is None:
            predictions = asked.predictions
            if query_rows is not None and queries is None:
                predictions = predictions[validate.rows_asked(query_rows, len(predictions))]
        meta = dict(store.meta)
    else:
        meta = {}
    for what, given in (("labels", labels), ("predictions", predictions)):
        if given is None:
            raise TypeError(f"{what} is None; integers are wanted, unless support is a store.")
    answer = _ask(
        validate.problems(
            support,
            queries,
            labels,
            names=probes,
            query_rows=query_rows,
            k=k,
            metric=metric,
            exclude_self=exclude_self,
            num_threads=num_threads,
            memory=memory,
        ),
        backend,
        predictions=predictions,
        query_labels=query_labels,
        early_exit=early_exit and not isinstance(support, Iterator),
        progress=progress,
    )
    problem, votes = answer.problem, answer.coded.votes
    given = answer.query_labels
    if given is None and queries is None:
        given = problem.classes[problem.codes]
        given = given if problem.query_rows is None else given[problem.query_rows]
    known = votes != UNKNOWN
    depth, undefined = _depth(votes == answer.wanted)
    return DepthResult(
        depth=depth,
        undefined=undefined,
        votes=np.where(known, problem.classes[votes], -1),
        known=known,
        predictions=answer.predictions,
        labels=given,
        probes=tuple(name for name, _ in answer.layers),
        k=problem.k,
        widths=tuple(width for _, width in answer.layers),
        leave_one_out=queries is None and exclude_self,
        meta=meta,
    )


@dataclass(frozen=True, eq=False)
class _Answer:
    """A call's problem (of an iterator, the first probe's), its layers' names and widths, votes."""

    problem: Problem
    layers: list[tuple[str, int]]
    coded: Coded
    predictions: NDArray[np.int64]
    wanted: NDArray[np.int32]
    query_labels: NDArray[np.int64] | None


def _ask(
    problems: Iterator[Problem],
    backend: str,
    *,
    return_counts: bool = False,
    predictions: Any = None,
    query_labels: Any = None,
    early_exit: bool = False,
    progress: Progress | None = None,
) -> _Answer:
    """Check what belongs to the queries, then have every problem answered in turn."""
    backend_named(backend)
    answer: _Answer | None = None
    parts: list[Coded] = []
    layers: list[tuple[str, int]] = []
    for problem in problems:
        if answer is None:
            predicted = np.zeros(problem.count, dtype=np.int64)
            if predictions is not None:
                predicted = validate.integers(predictions, "predictions", problem.count)
            if query_labels is not None:
                query_labels = validate.integers(query_labels, "query_labels", problem.count)
            answer = _Answer(
                replace(problem, layers=()),  # holds no array of a probe that has been answered
                layers,
                Coded(np.empty(0, np.int32)),
                predicted,
                _codes_of(predicted, problem.classes),
                query_labels,
            )
        report = None if progress is None else _shifted(progress, len(layers))
        wanted = answer.wanted if early_exit else None
        engine = backend_named(backend, problem.device)
        if streaming.wanted_for(problem):
            part = streaming.votes(engine, problem, wanted, return_counts, report)
        else:
            part = engine.votes(problem, wanted, return_counts, report)
        parts.append(part)
        layers += [(layer.name, layer.support.width) for layer in problem.layers]
    assert answer is not None  # a call without a probe is refused
    return replace(answer, coded=Coded.joined(parts))


def _shifted(progress: Progress, by: int) -> Progress:
    return lambda layer, fraction, asked: progress(layer + by, fraction, asked)


def _depth(agrees: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where the last run of True begins in each column; the number of rows where there is none."""
    run = np.logical_and.accumulate(agrees[::-1], axis=0).sum(axis=0, dtype=np.int64)
    return len(agrees) - run, run == 0


def _codes_of(labels: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int32]:
    """Each label's place in `classes`, or _NO_CLASS."""
    places = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return np.where(classes[places] == labels, places, _NO_CLASS).astype(np.int32)


def _on(device: Any, array: NDArray[Any] | None) -> Any:
    """`array` as the caller's kind: NumPy for None, or a torch tensor on that device."""
    if array is None or device is None:
        return array
    import torch

    return torch.from_numpy(array).to(device)
