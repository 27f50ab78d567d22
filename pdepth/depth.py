"""From a model and its data to prediction depths."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import nn

from pdepth import __version__
from pdepth.arrays import arguments
from pdepth.arrays.arguments import Problem
from pdepth.arrays.memory import Budget, free_on
from pdepth.backends import backend_named, triton
from pdepth.embeddings.capture import Layout, at_rest, device_of, footprint, inspect
from pdepth.embeddings.dataset import Batches, Changed
from pdepth.embeddings.placement import Layers, Placement, place, unwrap
from pdepth.embeddings.spans import Embeddings, Reading
from pdepth.io.embedding_store import (
    EmbeddingStore,
    Writer,
    fingerprint_of,
    is_store,
    open_store,
    writing,
)
from pdepth.io.journal import Journal, OtherRun
from pdepth.progress import Observer, ProbeMeter, fastest, watch
from pdepth.result import DepthResult
from pdepth.search import chunks, passing
from pdepth.search.backward import Targets, Walk

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pdepth.options import ModelOptions


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
    model: nn.Module,
    support: Any,
    queries: Any = None,
    *,
    layers: Layers = "auto",
    k: int | Sequence[int] = 30,
    early_exit: bool = True,
    metric: str = "sqeuclidean",
    weights: str = "uniform",
    temperature: float | None = None,
    reference: Any = "prediction",
    return_counts: bool = False,
    backend: str = "auto",
    device: str | torch.device | None = None,
    memory: int | str | None = None,
    batch_size: int = 256,
    num_threads: int | None = None,
    keep_embeddings: str | os.PathLike[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool | Observer = True,
) -> DepthResult | dict[int, DepthResult]:
    """The prediction depth of `queries` (N rows) under `model`, by votes of `support` (M rows).

    model: a classifier; its output is (batch, classes), alone, first in a tuple or as .logits. It
        runs in evaluation mode and comes back as it was: training flags, device, hooks.
    support, queries: a Dataset or DataLoader of (input, integer label), read in the dataset's
        order. queries=None asks for the support itself, each row left out of its own vote.
    layers: where to probe, see `pdepth.embeddings.placement.place`.
    k: neighbours that vote; of several k, one search answers all, in a dict by k.
    early_exit: search from the softmax backward and drop each row at its first disagreement; the
        depths are the same; votes are known from a row's depth on.
    metric, weights, temperature: of distances and votes, as in `pdepth.probe_votes`; "cosine" takes
        float64 copies of the embeddings.
    reference: what votes have to equal: "prediction", "label", "last_probe" or (N,) integers.
    return_counts: keep in the result which votes were tied and their margins; no early exit then.
    backend, num_threads: of the search, as in `depth_from_embeddings`.
    device: where the forward pass runs; None leaves the model where it is.
    memory: most that embeddings and search may take, in bytes or as "8GiB"; None: what is free.
        Where not all embeddings fit, the network runs again for each group of probes that does,
        from the last to the first, and over queries that have left no more. Those of a model on a
        CUDA device stay there if they fit beside the search.
    batch_size: rows per forward pass, unless a DataLoader brings its own.
    keep_embeddings: a new or empty directory, or one that was left unfinished, that keeps the
        embeddings, labels and predictions for `pdepth.open_store`; they need not fit into memory.
    run_dir: a directory for what is found on the way. After an interruption the same call goes on
        from there, and ends with the same votes.
    progress: True (standard error), False, or a callable that takes `pdepth.progress.Event`s.

    Raises ValueError and TypeError for wrong arguments, before any work where the argument alone
    shows it, MemoryError for less memory than a batch of embeddings takes, FileExistsError for a
    directory that is not to be overwritten, and OSError for a full disk. A `run_dir` of another
    model, data, k or version is a ValueError that says what has changed; one that another process
    is at work in, a BlockingIOError.
    """
    ballot = arguments.check_voting(k, weights, temperature)
    most = max(ballot.ks)
    arguments.check_choice(metric, "metric", arguments.METRICS)
    arguments.check_reference(reference)
    batch_size = arguments.check_int(batch_size, "batch_size")
    threads = arguments.check_threads(num_threads)
    backend_named(backend)
    target = named_device(device)
    budget = Budget.of(memory)
    placement = place(model, layers)
    with (
        watch(progress) as observer,
        _keeping(keep_embeddings, run_dir) as (writer, store),
        at_rest(model, target),
        ExitStack() as held,
    ):
        job = Job.of(model, placement, support, queries, batch_size, most)
        layout, sources, own = job.layout, job.sources, job.own
        arguments.check_reference(reference, sources[-1].rows)
        meta = {"model": type(unwrap(model)).__name__, "placement": placement.rule}
        network = ""  # hashing its weights takes a while, and only what is kept asks for it
        if run_dir is not None or keep_embeddings is not None:
            network = fingerprint_of(unwrap(model).state_dict())
        journal = None
        if run_dir is not None:
            about = {
                "pdepth": __version__,
                "torch": str(torch.__version__),
                "the network": network,
                "the list of probes": ", ".join(layout.names),
                "k": ", ".join(map(str, ballot.ks)),
                "metric": metric,
                "weights": " ".join(ballot.meta.values()) or weights,
                "reference": _named(reference),
                "early_exit": str(early_exit),
                "return_counts": str(return_counts),
                "the batch size": str(sources[0].batch_rows),
                "the kind of device": device_of(model).type,
                "the support's number of rows": str(sources[0].rows),
                "the number of queries": "" if own else str(sources[1].rows),
            }
            journal = held.enter_context(closing(Journal(run_dir, about)))
        home, budget = job.home(budget, backend, metric)
        embeddings = Embeddings(
            model,
            layout,
            sources,
            budget=budget,
            metric=metric,
            k=most,
            home=home,
            to_disk=keep_embeddings is not None,
            writer=writer,
            store=store,
            scratch=None if run_dir is None else Path(run_dir),
            network=network,
            meta=meta,
            observer=observer,
        )
        if embeddings.anew:
            check_least(layout, budget, metric, most)
        for source in sources:
            source.remembers = embeddings.anew or journal is not None
        with embeddings:
            limit = None
            if embeddings.anew or progress is not False:
                limit = embeddings.search_rate = product_rate(home)
            reading = _read(embeddings, sources, journal)
            labels, count = reading.labels, len(reading.predictions)
            arguments.check_k(most, len(labels[0]), leave_one_out=own)
            classes, codes = arguments.encode_labels(labels[0], len(labels[0]))
            problem = Problem(
                layers=(),
                codes=codes,
                classes=classes,
                k=most,
                exclude_self=True,
                query_rows=None,
                count=count,
                threads=threads,
                device=home,
            )
            given = Targets.of(problem, reading.predictions, labels[-1], reference)
            walk = Walk(
                len(layout.probes),
                count,
                ballot,
                backend,
                early_exit=early_exit and not return_counts,
                wanted=given.wanted,
                counting="margins" if return_counts else "",
                journal=journal,
            )
            search = ProbeMeter(observer, layout.names, layout.widths, len(labels[0]), limit)
            end = len(layout.probes)
            while end and len(walk.alive):
                if journal is not None and walk.recall(end - 1):
                    end -= 1
                    continue
                begun = passing.begun(journal, end, walk.alive)
                group = embeddings.before(end, walk.alive, begun)
                part = replace(
                    problem,
                    layers=tuple(
                        arguments.layer(*layer, metric, threads, group.memory)
                        for layer in group.layers
                    ),
                    query_rows=group.asked if own else None,
                    count=len(group.asked),
                    memory=group.memory,
                )
                if group.passing is not None:
                    passing.ask(walk, group, part, own, journal, search)
                else:
                    with search.at_work():
                        walk.ask(group.first, part, search, group.asked)
                if journal is not None:
                    journal.forget(passing.NAME)
                end = group.first
                del group, part  # before the next one's
        about_votes = ballot.meta | ({"metric": metric} if metric != "sqeuclidean" else {})
        probes = list(zip(layout.names, layout.widths, strict=True))
        results = walk.results(problem, given, probes, own, meta | about_votes)
        each = [results] if isinstance(results, DepthResult) else list(results.values())
        search.finish(_asked(each))
    return results


@dataclass(frozen=True, eq=False)
class Job:
    """A model and its data, looked at: where it is probed, and what of each row is kept.

    sources: the support, and the queries unless they are its own rows.
    """

    model: nn.Module
    layout: Layout
    sources: list[Batches]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        placement: Placement,
        support: Any,
        queries: Any,
        batch_size: int,
        k: int,
    ) -> Job:
        """Inside `at_rest`: reads the first batches, and runs a dry pass over two rows."""
        sources = [Batches(support, "support", batch_size)]
        if queries is not None:
            sources.append(Batches(queries, "queries", batch_size))
        if sources[0].rows is not None:
            arguments.check_k(k, sources[0].rows, leave_one_out=queries is None)
        layout = inspect(model, placement, sources[0].first[0])
        if queries is not None and inspect(model, placement, sources[1].first[0]) != layout:
            raise ValueError(
                "queries gives other embeddings than support: inputs of shape "
                f"{tuple(sources[1].first[0].shape[1:])} and "
                f"{tuple(sources[0].first[0].shape[1:])}; wanted inputs of one kind."
            )
        return cls(model, layout, sources)

    @property
    def own(self) -> bool:
        """Whether the support's own rows are asked."""
        return len(self.sources) == 1

    def home(self, budget: Budget, backend: str, metric: str) -> tuple[torch.device | None, Budget]:
        """Where embeddings are held, and what they may take there: the model's own CUDA device,
        if the GPU engine can work beside all of them; None stands for the host."""
        device, rows = device_of(self.model), [source.rows or 0 for source in self.sources]
        if device.type != "cuda" or backend not in ("auto", "triton") or triton.available():
            return None, budget
        work = triton.working_set(max(self.layout.widths), rows[0], rows[-1])
        taken = footprint(self.layout, sum(rows), metric)
        if 0 in rows or taken + work > triton.SHARE * free_on(device):
            return None, budget
        if budget.given:
            return (device if taken <= (budget.size or 0) else None), budget
        return device, Budget(free_on(device))


def product_rate(device: torch.device | None) -> float:
    """Operations a second of a float32 matrix product, the fastest of some: what a search without
    selection would reach; a few hundredths of a second."""
    size = 768 if device is None else 8192
    rows = torch.ones(size, size, device=device)
    return 2.0 * size**3 / fastest(lambda: (rows @ rows)[0, 0].item())


def check_least(layout: Layout, budget: Budget, metric: str, k: int) -> None:
    """Raises MemoryError where not even single rows of a probe could be streamed."""
    assert budget.size is not None
    for number, (name, width) in enumerate(zip(layout.names, layout.widths, strict=True)):
        row = footprint(layout, 1, metric, [number])
        chunks.check_memory(budget.size, name, width, row, k)


def _read(embeddings: Embeddings, sources: Sequence[Batches], journal: Journal | None) -> Reading:
    """The first pass over the data, or what an earlier run wrote down of it."""
    if journal is None:
        return embeddings.read()
    known = journal.noted("reading")
    if known is None:
        reading = embeddings.read()
        arrays = {"predictions": reading.predictions}
        for source, labels in zip(sources, reading.labels, strict=True):
            arrays[f"{source.what} labels"] = labels
            arrays[f"{source.what} checks"] = np.array(source.checks, np.int64)
        journal.note("reading", arrays)
        return reading
    for source in sources:
        try:
            source.expect(known[f"{source.what} checks"].tolist())
        except Changed as error:
            what = str(error).partition(";")[0]
            raise OtherRun(
                f"run_dir {journal.path} holds a run of other data: {what}; another directory "
                "begins anew."
            ) from None
    reading = Reading([known[f"{s.what} labels"] for s in sources], known["predictions"])
    embeddings.recall(reading)
    return reading


@contextmanager
def _keeping(
    path: str | os.PathLike[str] | None, run_dir: str | os.PathLike[str] | None
) -> Iterator[tuple[Writer | None, EmbeddingStore | None]]:
    """What writes embeddings to `path`; or, of a run that goes on, the store that is finished."""
    if path is None:
        yield None, None
    elif run_dir is not None and (Path(run_dir) / "reading.npz").exists() and is_store(path):
        yield None, open_store(path)
    else:
        with writing(path) as writer:
            yield writer, None


def _named(reference: Any) -> str:
    """A reference, or the checksum of its values."""
    if isinstance(reference, str):
        return reference
    return f"array {zlib.crc32(arguments.check_integers(reference, 'reference').tobytes()):08x}"


def _asked(results: Sequence[DepthResult]) -> list[int]:
    """Of how many examples each probe's vote was asked: as long as those of one k agreed."""
    probes = range(len(results[0].probes))
    if all(result.known.all() for result in results):
        return [len(results[0])] * len(probes)
    depth = np.min([result.depth for result in results], axis=0)
    return [int((depth <= probe + 1).sum()) for probe in probes]


def named_device(device: str | torch.device | None) -> torch.device | None:
    """A device that can be used, by its name; ValueError for another."""
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(device)!r}, which cannot be used: {reason}") from None
    return found
