"""`pdepth plan`."""

from __future__ import annotations

import typer

from pdepth.cli.options import (
    Backend,
    BatchSize,
    Device,
    ImageSize,
    Keep,
    Ks,
    Layers,
    Memory,
    Metric,
    Model,
    Queries,
    Support,
    Threads,
    Weights,
)


def plan(
    model: Model,
    weights: Weights = None,
    support: Support = None,
    queries: Queries = None,
    layers: Layers = "auto",
    k: Ks = None,
    metric: Metric = "sqeuclidean",
    batch_size: BatchSize = 256,
    device: Device = None,
    threads: Threads = None,
    backend: Backend = "auto",
    memory: Memory = None,
    keep_embeddings: Keep = None,
    image_size: ImageSize = None,
) -> None:
    """Say what a run will cost: forward passes, work, memory, disk and time on this machine.

    The network need not be trained for that: without --weights it has its initial ones.
    """
    if support is None:
        raise ValueError("--support: expected DATA, got none.")
    from pdepth import inputs
    from pdepth.report.run import RunOptions, plan_run

    network = inputs.load_model(model, weights, untrained=True)
    images = inputs.ImageOptions.for_model(network, image_size)
    options = RunOptions(
        layers=layers,
        k=tuple(k or [30]),
        metric=metric,
        backend=backend,
        device=device,
        memory=memory,
        batch_size=batch_size,
        num_threads=threads,
        keep_embeddings=keep_embeddings,
    )
    support_data = inputs.load_data(support, images)
    query_data = None if queries is None else inputs.load_data(queries, images)
    typer.echo(plan_run(network, support_data, query_data, options))
