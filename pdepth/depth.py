"""From a model and its data to prediction depths."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import nn

from pdepth import validate
from pdepth.backends import backend_named, triton
from pdepth.embeddings.capture import (
    Captured,
    Layout,
    at_rest,
    capture,
    check_memory,
    device_of,
    footprint,
    inspect,
)
from pdepth.embeddings.data import Source
from pdepth.embeddings.memory import Budget, free_on, human
from pdepth.embeddings.placement import Layers, place, unwrap
from pdepth.embeddings.store import Fingerprint, fingerprint_of, writing
from pdepth.engine import depth_from_embeddings
from pdepth.progress import Event, Observer, ProbeMeter, RowMeter, watch
from pdepth.result import DepthResult

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
    memory: most that the embeddings may take, in bytes or as "8GiB"; None: what is free. Those of
        a model on a CUDA device stay there if they fit beside the work of the GPU engine.
    batch_size: rows per forward pass, unless a DataLoader brings its own.
    keep_embeddings: a new or empty directory, or one that was left unfinished, that keeps the
        embeddings, labels and predictions for `pdepth.open_store`.
    progress: True (standard error), False, or a callable that takes `pdepth.progress.Event`s.

    Raises ValueError and TypeError for wrong arguments, before any work where the argument alone
    shows it, MemoryError when the embeddings would not fit, FileExistsError for a directory that
    is not to be overwritten, and OSError for a full disk.
    """
    most = max(validate.ballot(k, weights, temperature).ks)
    validate.one_of(metric, "metric", validate.METRICS)
    validate.reference(reference)
    batch_size = validate.whole(batch_size, "batch_size")
    if num_threads is not None:
        validate.whole(num_threads, "num_threads")
    backend_named(backend)
    target = _device(device)
    placement = place(model, layers)
    keeping = nullcontext(None) if keep_embeddings is None else writing(keep_embeddings)
    with watch(progress) as observer, keeping as writer:
        fingerprints = [Fingerprint() for _ in (support, queries)]
        told = [_nothing if writer is None else each for each in fingerprints]
        source = Source(support, "support", batch_size, told[0])
        asked = None if queries is None else Source(queries, "queries", batch_size, told[1])
        validate.reference(reference, (asked or source).rows)
        if source.rows is not None:
            validate.enough_rows(most, source.rows, leave_one_out=asked is None)
        budget = Budget.of(memory)
        with at_rest(model, target):
            layout = inspect(model, placement, source.first[0])
            if asked and inspect(model, placement, asked.first[0]) != layout:
                raise ValueError(
                    "queries gives other embeddings than support: inputs of shape "
                    f"{tuple(asked.first[0].shape[1:])} and {tuple(source.first[0].shape[1:])}; "
                    "wanted inputs of one kind."
                )
            sources = [source] if asked is None else [source, asked]
            expected = sum(s.rows or 0 for s in sources)
            home = None
            if all(s.rows for s in sources):
                home = _home(
                    device_of(model), layout, [s.rows or 0 for s in sources], backend, metric
                )
            where = "memory"
            if home is not None:
                where = f"the memory of {home}"
                budget = budget if budget.given else Budget(free_on(home))
            if expected:
                observer(Event("note", check_memory(layout, expected, budget, metric, where)))
            captured: list[Captured] = []
            for each in sources:
                meter = RowMeter(observer, each.what, each.rows)
                held = sum(len(c.labels) for c in captured)
                captured.append(
                    capture(
                        model,
                        layout,
                        each,
                        device=home,
                        on_rows=meter,
                        make_room=partial(_make_room, layout, budget, held, metric),
                    )
                )
                meter(len(captured[-1].labels), finished=True)
        rows = len(captured[0].labels)
        validate.enough_rows(most, rows, leave_one_out=asked is None)
        meta = {"model": type(unwrap(model)).__name__, "placement": placement.rule}
        if writer is not None:
            kept = 0
            for each, got, told_of in zip(sources, captured, fingerprints, strict=False):
                embeddings = dict(zip(layout.names, got.embeddings, strict=True))
                kept += writer.add(
                    each.what, embeddings, got.labels, got.predictions, told_of.hexdigest()
                )
            writer.finish(layout.names, fingerprint_of(unwrap(model).state_dict()), meta)
            observer(Event("note", f"embeddings: {human(kept)} kept in {writer.path}"))
        search = ProbeMeter(observer, layout.names, layout.widths, rows)
        found = depth_from_embeddings(
            captured[0].embeddings,
            captured[0].labels,
            captured[-1].predictions,
            None if asked is None else captured[1].embeddings,
            k=k,
            early_exit=early_exit,
            metric=metric,
            weights=weights,
            temperature=temperature,
            reference=reference,
            return_counts=return_counts,
            backend=backend,
            num_threads=num_threads,
            probes=layout.names,
            query_labels=captured[-1].labels,
            progress=search,
        )
        results = [found] if isinstance(found, DepthResult) else list(found.values())
        search.finish(_asked(results))
    results = [dataclasses.replace(each, meta=each.meta | meta) for each in results]
    return results[0] if isinstance(found, DepthResult) else {each.k: each for each in results}


def _asked(results: Sequence[DepthResult]) -> list[int]:
    """Of how many examples each probe's vote was asked: as long as those of one k agreed."""
    probes = range(len(results[0].probes))
    if all(result.known.all() for result in results):
        return [len(results[0])] * len(probes)
    depth = np.min([result.depth for result in results], axis=0)
    return [int((depth <= probe + 1).sum()) for probe in probes]


def _home(
    device: torch.device, layout: Layout, rows: Sequence[int], backend: str, metric: str
) -> torch.device | None:
    """The model's own device, where the GPU engine can work beside all embeddings; None: the host.

    rows: of the support, and of the queries if they are others.
    """
    if device.type != "cuda" or backend not in ("auto", "triton") or triton.available():
        return None
    work = triton.working_set(max(layout.widths), rows[0], rows[-1])
    fits = footprint(layout, sum(rows), metric) + work <= triton.SHARE * free_on(device)
    return device if fits else None


def _nothing(batch: object) -> None:
    """Nobody asks for a fingerprint."""


def _make_room(layout: Layout, budget: Budget, held: int, metric: str, rows: int) -> None:
    check_memory(layout, held + rows, budget, metric)


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(device)!r}, which cannot be used: {reason}") from None
    return found
