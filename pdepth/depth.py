"""From a model and its data to prediction depths: inspect, plan, read, search backward, reduce."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pdepth.arrays import arguments
from pdepth.arrays.arguments import SearchOptions
from pdepth.arrays.memory import Budget
from pdepth.arrays.problem import Problem, probe_rows
from pdepth.backends import backend_named
from pdepth.cluster.embeddings import embedded_on
from pdepth.cluster.options import Cluster
from pdepth.cluster.sending import made_here
from pdepth.cluster.spilling import WorkersSpill
from pdepth.embeddings.calling import Output, at_rest, device_of, unwrap
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Embeddings, HeldEmbeddings, Job, Reading
from pdepth.embeddings.dataset import DataOptions
from pdepth.embeddings.placement import VERSION, Layers, Pools, ProbeOptions, check_layers
from pdepth.embeddings.resuming import Start
from pdepth.embeddings.spans import SpanPlanner, product_rate
from pdepth.embeddings.spilling import Spill, check_spill, choose_spill, spill_folder
from pdepth.io.embedding_store import Origin, claimed, fingerprint_of, holds_store, is_store
from pdepth.io.journal import PROBES, Journal
from pdepth.progress import Observer, ProbeMeter, watch
from pdepth.result import RELABELLED, SKIPPED, DepthResult
from pdepth.search.backward import ProbeSearch, Targets, open_here
from pdepth.search.mapping import MapTable, check_map
from pdepth.search.nearest import Labelled, NearestTable
from pdepth.votes import VotingOptions

if TYPE_CHECKING:
    import torch
    from torch import nn
    from typing_extensions import Unpack


class ModelOptions(VotingOptions, total=False):
    """Of `prediction_depth`, for the overloads of one k and of several."""

    layers: Layers
    pool: Pools
    input: bool | None
    max_width: int | None
    output: Output
    label_column: str | None
    processor: Any
    skip_unreadable: bool
    early_exit: bool
    reference: Any
    return_map: str | None
    device: str | torch.device | None
    batch_size: int
    keep_embeddings: str | os.PathLike[str] | None
    run_dir: str | os.PathLike[str] | None
    spill: str | os.PathLike[str] | None
    cluster: str | Cluster | None
    progress: bool | Observer


@overload
def prediction_depth(
    model: nn.Module,
    support: Any,
    queries: Any = None,
    *,
    k: int = 30,
    **options: Unpack[ModelOptions],
) -> DepthResult: ...


@overload
def prediction_depth(
    model: nn.Module,
    support: Any,
    queries: Any = None,
    *,
    k: Sequence[int],
    **options: Unpack[ModelOptions],
) -> dict[int, DepthResult]: ...


def prediction_depth(
    model: Any,
    support: Any,
    queries: Any = None,
    *,
    layers: Layers = "auto",
    pool: Pools = "auto",
    input: bool | None = None,
    max_width: int | None = None,
    output: Output = None,
    label_column: str | None = None,
    processor: Any = None,
    skip_unreadable: bool = False,
    k: int | Sequence[int] = 30,
    early_exit: bool = True,
    metric: str = "sqeuclidean",
    weights: str = "uniform",
    temperature: float | None = None,
    reference: Any = "prediction",
    return_counts: bool = False,
    return_neighbors: int | None = None,
    return_map: str | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
    memory: int | str | None = None,
    batch_size: int = 256,
    num_threads: int | None = None,
    keep_embeddings: str | os.PathLike[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    spill: str | os.PathLike[str] | None = None,
    cluster: str | Cluster | None = None,
    progress: bool | Observer = True,
) -> DepthResult | dict[int, DepthResult]:
    """Compute the prediction depth of `queries` (N rows) under `model`, by votes of `support` (M).

    model: a classifier; its output is (batch, classes), alone, first in a tuple or as .logits; or
        one logit for each row, of a binary classifier. It runs in evaluation mode and comes back
        as it was: training flags, device, hooks.
    support, queries: a Dataset or DataLoader, read in the dataset's order, of (input, label), or
        of dicts whose entry `label` or `labels` is the label and whose others are the network's
        arguments by name; see "Your own model" in the documentation for every form. queries=None:
        the support itself, each row left out of its own vote.
    layers: where to probe, see `pdepth.embeddings.placement.place`.
    pool: how values become vectors, for every probe or in a dict by probe: "flatten", "mean",
        "max", of tokens also "token" (the first) and "last", or a callable on values (B, ...).
        "auto": feature maps are flattened, and of tokens those are pooled that the head reads.
    input: whether the input is probe 0; None: unless it is token ids, graphs or of several lengths.
    max_width: feature maps and inputs with more values are averaged to the largest square grid
        that has no more (tokens: to equal runs).
    output: where the class scores are in what the network returns: a key, an index or a function.
    label_column: the entry of dict rows that is the label.
    processor: a tokenizer or an image processor of transformers, or a callable of its kind, for
        rows of text or images.
    skip_unreadable: leave rows that cannot be read out of support and queries, with a warning;
        they are in `DepthResult.skipped`, and `rows` has the numbers of the others. It takes one
        reading of the data more.
    k: neighbours that vote; of several k, one search answers all, in a dict by k.
    early_exit: search from the softmax backward and drop each query at its first vote that is not
        its reference; the depths are the same; votes are known from a query's depth on.
    metric, weights, temperature: of distances and votes, as in `pdepth.probe_votes`; "cosine" takes
        16 bytes a row and probe more, and float64 copies of embeddings on a CUDA device.
    reference: what votes have to equal: "prediction", "label", "last_probe" or (N,) integers.
    return_counts: keep in the result which votes were tied and their margins; no early exit then.
    return_neighbors: keep in the result so many of the nearest rows of each query, at each probe
        where it is searched, and all counts: `DepthResult.neighbors`. With a `run_dir` they are on
        its disk, else in memory.
    return_map: "pca" or "umap" (extra `umap`): keep in the result where queries and support lie at
        each probe, in two dimensions: `DepthResult.map`. Rows that are not in memory are read, or
        computed, twice more for it at each probe. Not with a cluster.
    backend, num_threads: of the search, as in `depth_from_embeddings`.
    device: where the forward pass runs; None leaves the model where it is.
    memory: most that embeddings and search may take, in bytes or as "8GiB"; None: what is free.
        Where not all embeddings fit, the network runs again for each span of probes that does, from
        the last to the first, and of the queries only over the active ones. Those of a model on a
        CUDA device stay there if they fit beside the search.
    batch_size: rows per forward pass, unless a DataLoader brings its own.
    keep_embeddings: a new or empty directory, or one that was left unfinished, that keeps the
        embeddings, labels and predictions for `pdepth.open_store`; they need not fit into memory.
    run_dir: a directory for the journal of the run. After an interruption the same call resumes
        from it, and ends with the same votes. Data that have changed since, and the code of the
        network, are noticed: see "Datasets beyond memory" in the documentation.
    spill: an existing folder for embeddings that do not fit into `memory`: they are written there
        in the one forward pass and searched from there, and removed in the end; "auto": in
        `run_dir`, or else the system's temporary folder, if the disk is faster than to compute them
        again, as measured for a moment. With a `run_dir` the same call finds them again.
    cluster: run on a Ray cluster (extra `ray`): "auto", an address or a `pdepth.cluster.Cluster`.
        Its workers run the network over some rows each, keep their embeddings, and answer for them;
        votes and depths are the same to the bit. Data are read where they are needed: datasets are
        pickled, and what they open has to be readable there. `spill` is then a folder of each
        machine, `keep_embeddings` one that all share. See "Clusters" in the documentation.
    progress: True (standard error), False, or a callable that takes `pdepth.progress.Event`s.

    Raises ValueError and TypeError for wrong arguments, before any work where the argument alone
    shows it, MemoryError for less memory than a batch of embeddings takes, FileExistsError for a
    directory that holds something else, and OSError for a full disk, which for `spill` is known
    before the work. A `run_dir` of another model, data, k or version is a ValueError that says what
    has changed; one that another process uses, a BlockingIOError.
    """
    voting = arguments.check_voting(k, weights, temperature, return_neighbors)
    options = arguments.check_search(voting, metric, True, num_threads, None)
    arguments.check_reference(reference)
    batch_size = arguments.check_int(batch_size, "batch_size")
    backend_named(backend)
    target_device, budget = check_device(device, cluster), Budget.of(memory)
    check_spill(spill, keep_embeddings, here=cluster is None)
    method = check_map(return_map, metric, cluster=cluster)
    if cluster is not None:
        cluster = Cluster.of(cluster)
        _check_alone(memory=memory)
        budget = Budget(None)  # each worker has its own
    model, support, queries, makers = made_here(cluster, model, support, queries)
    check_layers(model, layers)
    probe_options = ProbeOptions(layers, pool, input, max_width, output)
    data = DataOptions(label_column, processor, skip_unreadable)
    with (
        watch(progress) as observer,
        _kept(keep_embeddings, run_dir) as target,
        at_rest(model, target_device),
        ExitStack() as stack,
    ):
        job = Job.inspect(
            model, probe_options, support, queries,
            data=data, batch_size=batch_size, metric=metric, voting=voting, budget=budget,
            backend=backend if cluster is None else "cpu", observer=observer,
        )  # fmt: skip
        reference = _of_read_rows(reference, job)
        if not job.fits:
            check_least(job)
        rate = product_rate(job.home) if not job.fits or progress is not False else None
        taken = choose_spill(job, spill, spill_folder(spill, run_dir), rate)
        meta = job.layout.meta() | _skipped(job)
        journal, origin = None, Origin(layout=job.layout.description, meta=meta)
        if run_dir is not None or target is not None:
            origin = replace(origin, network=fingerprint_of_network(model))
        if run_dir is not None:
            about = _run_of(job, options, origin.network) | {
                "reference": _reference_name(reference),
                "early_exit": str(early_exit),
                "return_counts": str(return_counts),
                "return_neighbors": str(voting.nearest),
                "return_map": str(method),
            }
            journal = stack.enter_context(closing(Journal(run_dir, about)))
        on_disk = WorkersSpill.of(spill, run_dir, origin)
        there = stack.enter_context(embedded_on(cluster, job, data, backend, makers, on_disk))
        plan = partial(plan_embeddings, job, rate, run_dir, taken, origin, there)
        start = Start(job, origin, target, plan, stack, None if there is None else there.kept)
        embeddings, reading = start.anew() if journal is None else start.with_journal(journal)
        problem = _problem_of(job, reading, options)
        targets = Targets.of(problem, reading.predictions, reading.labels[-1], reference)
        table = NearestTable.of(voting, len(job.layout.probes), problem.num_queries, run_dir)

        search = ProbeSearch(
            len(job.layout.probes), problem.num_queries, voting, backend,
            early_exit=early_exit, target=targets.codes,
            keep="margins" if return_counts else "", journal=journal,
            table=table, maps=MapTable.of(method, problem.num_queries, journal),
            open_voter=open_here if there is None else there.open_voter,
        )  # fmt: skip
        meter = ProbeMeter(
            observer, job.layout.names, job.layout.widths, len(reading.labels[0]), rate, job.clock,
            str if there is None else there.rates,
        )  # fmt: skip
        search_backward(job, embeddings, search, problem, options, meter)
        if metric != "sqeuclidean":
            meta["metric"] = metric
        probes = list(zip(job.layout.names, job.layout.widths, strict=True))
        results = search.results(
            Labelled(problem.classes, problem.codes, metric, job.support_numbers), targets, probes,
            job.own_rows, meta | voting.meta, job.numbers, job.readers[-1].checksums,
        )  # fmt: skip
        meter.finish(_searched([results] if not isinstance(results, dict) else [*results.values()]))
    return results


def _check_alone(**options: Any) -> None:
    """Raise ValueError for what workers do not do."""
    advice = {"memory": "pass Cluster(memory_per_worker=...)"}
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected None beside cluster, got {value!r}; "
                f"{advice.get(name, 'leave one of them out')}."
            )


def plan_embeddings(
    job: Job,
    search_rate: float | None,
    run_dir: str | os.PathLike[str] | None,
    spill: Spill | None,
    origin: Origin,
    there: Embeddings | None = None,
) -> Embeddings:
    """Choose where the embeddings of a job are that are not kept: `there`, at workers, if it is
    given; else in memory, also on disk, or computed again."""
    if there is not None:
        return there
    if job.fits:
        return HeldEmbeddings(job)
    from pdepth.embeddings.recompute import RecomputedEmbeddings
    from pdepth.embeddings.spilled import SpilledEmbeddings

    for reader in job.readers:
        reader.remembers = True
    planner = SpanPlanner(job, job.rows or [], search_rate=search_rate)
    again = RecomputedEmbeddings(planner, None if run_dir is None else Path(run_dir))
    return again if spill is None else SpilledEmbeddings(job, spill, origin, again)


def search_backward(
    job: Job,
    embeddings: Embeddings,
    search: ProbeSearch,
    problem: Problem,
    options: SearchOptions,
    meter: ProbeMeter,
) -> None:
    """Search spans of probes, from the softmax to the input, as long as queries are active."""
    end = len(job.layout.probes)
    while end and len(search.active):
        if search.recall(end - 1):
            end -= 1
            continue
        span = embeddings.span(end, search.active, search.resumed_first(end))
        probes = [probe_rows(*rows, options.metric, options.num_threads) for rows in span.probes]
        of_span = replace(
            problem,
            probes=tuple(probes),
            query_rows=span.queries if job.own_rows else None,
            num_queries=len(span.queries),
            memory=span.memory,
        )
        with job.clock.running():
            search.search(of_span, span.first, span.queries, meter)
        end = span.first
        del span, probes, of_span  # before the next one's
    search.remove_lists()


def check_least(job: Job) -> None:
    """Raise MemoryError where not even single rows of a probe could be searched."""
    from pdepth.search.chunks import check_memory

    layout, memory = job.layout, job.budget.size
    assert memory is not None
    for number, (name, width) in enumerate(zip(layout.names, layout.widths, strict=True)):
        row_bytes = footprint(layout, 1, job.metric, [number])
        check_memory(memory, name, width, row_bytes, job.k)


def check_device(device: str | torch.device | None, cluster: object = None) -> torch.device | None:
    """The device of a name, and a warning where it is one of several CUDA devices by chance.

    Raises ValueError for one that cannot be used.
    """
    import torch

    if device is None:
        return None
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device: expected a device that can be used, got {str(device)!r}: {reason}"
        ) from None
    alone = checked.type == "cuda" and checked.index is None and cluster is None
    if alone and (count := torch.cuda.device_count()) > 1:
        warnings.warn(
            f"device: {count} CUDA devices are here, and 'cuda' is one of them; name it, as in "
            "'cuda:0', or pass cluster=pdepth.cluster.Cluster(gpus_per_worker=1) for all.",
            stacklevel=3,
        )
    return checked


def fingerprint_of_network(model: nn.Module) -> str:
    """The fingerprint of the network's weights; hashing them takes a while."""
    return fingerprint_of(unwrap(model).state_dict())


def _problem_of(job: Job, reading: Reading, options: SearchOptions) -> Problem:
    """The problem of a job, without rows yet."""
    labels = reading.labels[0]
    options.voting.check_rows(len(labels), leave_one_out=job.own_rows)
    classes, codes = arguments.encode_labels(labels, len(labels))
    return Problem(
        probes=(),
        codes=codes,
        classes=classes,
        k=job.k,
        exclude_self=True,
        query_rows=None,
        num_queries=len(reading.predictions),
        num_threads=options.num_threads,
        device=job.home,
    )


def _run_of(job: Job, options: SearchOptions, network: str) -> dict[str, str]:
    """What identifies a run, by names for its journal."""
    import torch

    voting, rows = options.voting, [reader.rows for reader in job.readers]
    return {
        "torch": str(torch.__version__),
        "the network": network,
        "the version of placement": str(VERSION),
        PROBES: ", ".join(job.layout.names),
        "the pooling": job.layout.description,
        "k": ", ".join(map(str, voting.ks)),
        "metric": options.metric,
        "weights": " ".join(voting.meta.values()) or voting.weights,
        "the batch size": str(job.readers[0].batch_rows),
        "the kind of device": device_of(job.model).type,
        "the support's number of rows": str(rows[0]),
        "the number of queries": "" if job.own_rows else str(rows[-1]),
    }


@contextmanager
def _kept(
    path: str | os.PathLike[str] | None, run_dir: str | os.PathLike[str] | None
) -> Iterator[Path | None]:
    """The directory that keeps embeddings, which no other process uses meanwhile."""
    if path is None:
        yield None
        return
    if run_dir is not None and Path(path).resolve() == Path(run_dir).resolve():
        raise ValueError(
            f"keep_embeddings: expected another directory than run_dir, got {path} for both."
        )
    with claimed(path) as target:
        if run_dir is None and is_store(target):
            raise holds_store(target)
        yield target


def _of_read_rows(reference: Any, job: Job) -> Any:
    """A reference; of an array for all rows of the data the entries of those that are read."""
    readable = job.readers[-1].readable
    if isinstance(reference, str) or readable is None:
        arguments.check_reference(reference, job.readers[-1].rows)
        return reference
    arguments.check_reference(reference, len(readable.rows) + len(readable.reasons))
    return arguments.check_integers(reference, "reference")[readable.rows]


def _skipped(job: Job) -> dict[str, str]:
    """What a result keeps of rows that were skipped or relabelled, see `DepthResult.skipped`."""
    return {
        f"{prefix}{reader.what}": json.dumps(entries)
        for reader in job.readers
        if (readable := reader.readable) is not None
        for prefix, entries in ((SKIPPED, readable.reasons), (RELABELLED, readable.relabelled))
        if entries
    }


def _reference_name(reference: Any) -> str:
    """A reference, or the checksum of its values."""
    if isinstance(reference, str):
        return reference
    values = arguments.check_integers(reference, "reference")
    return f"array {zlib.crc32(values.tobytes()):08x}"


def _searched(results: Sequence[DepthResult]) -> list[int]:
    """For how many examples each probe was searched, with early exit or without."""
    probes = range(len(results[0].probes))
    if all(result.known.all() for result in results):
        return [len(results[0])] * len(probes)
    depth = np.min([result.depth for result in results], axis=0)
    return [int((depth <= probe + 1).sum()) for probe in probes]
