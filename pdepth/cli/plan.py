"""`pdepth plan`."""

from __future__ import annotations

from typing import Annotated

import typer

from pdepth.cli.options import (
    AsImageFolder,
    Backend,
    BatchSize,
    Classes,
    CpusPerWorker,
    Device,
    Ema,
    GpusPerWorker,
    ImageSize,
    Input,
    Keep,
    KeepMap,
    KeepNeighbors,
    Ks,
    LabelColumn,
    Layers,
    MaxWidth,
    Memory,
    MemoryPerWorker,
    Metric,
    Model,
    Output,
    Pool,
    Queries,
    SkipUnreadable,
    Spill,
    Support,
    Threads,
    Weights,
    Workers,
    parse_cluster,
    parse_output,
    parse_pools,
)
from pdepth.report.opening import DataSpecs, open_data


def plan(
    model: Model,
    weights: Weights = None,
    ema: Ema = False,
    support: Support = None,
    queries: Queries = None,
    label_column: LabelColumn = None,
    classes: Classes = None,
    layers: Layers = "auto",
    pool: Pool = None,
    input: Input = None,
    max_width: MaxWidth = None,
    output: Output = None,
    k: Ks = None,
    metric: Metric = "sqeuclidean",
    batch_size: BatchSize = 256,
    device: Device = None,
    threads: Threads = None,
    backend: Backend = "auto",
    memory: Memory = None,
    keep_embeddings: Keep = None,
    keep_neighbors: KeepNeighbors = None,
    keep_map: KeepMap = None,
    spill: Spill = None,
    image_size: ImageSize = None,
    as_imagefolder: AsImageFolder = False,
    skip_unreadable: SkipUnreadable = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Also on workers, each like this machine.")
    ] = False,
    workers: Workers = None,
    cpus: CpusPerWorker = 1,
    gpus: GpusPerWorker = 0.0,
    memory_per_worker: MemoryPerWorker = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(metavar="BITS", help="Of --cluster: a worker's link, 200Gb a second, say."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Plan for a support of so many rows like these.")
    ] = None,
) -> None:
    """Say what a run will cost: forward passes, work, memory, disk and time on this machine.

    The network need not be trained for that: without --weights it has its initial ones. With
    --cluster, bytes between workers, their memory and time; no cluster is needed for that:

    \b
      pdepth plan torchvision:resnet50 --support imagefolder:some --rows 1281167 --cluster
          --workers 64 --gpus 1 --bandwidth 200Gb
    """
    if support is None:
        raise ValueError("--support: expected DATA, got none.")
    there = parse_cluster("auto" if cluster else None, workers, cpus, gpus, memory_per_worker)
    from pdepth import inputs
    from pdepth.report.run import RunOptions, plan_run

    specs = DataSpecs(
        support,
        queries,
        label_column,
        image_size,
        as_imagefolder=as_imagefolder,
        classes=classes,
    )
    network = inputs.load_model(model, weights, untrained=True, ema=ema)
    opened = open_data(specs, model, network)
    options = RunOptions(
        layers=layers,
        pool=parse_pools(pool),
        input=input,
        max_width=max_width,
        output=parse_output(output),
        k=tuple(k or [30]),
        metric=metric,
        backend=backend,
        device=device,
        memory=memory,
        batch_size=batch_size,
        num_threads=threads,
        keep_embeddings=keep_embeddings,
        return_neighbors=keep_neighbors,
        return_map=keep_map,
        spill=spill,
        label_column=opened.label_column,
        processor=opened.processor,
        skip_unreadable=skip_unreadable,
        cluster=there,
    )
    plan_ = plan_run(
        network, opened.support, opened.queries, options, bandwidth=bandwidth, rows=rows
    )
    typer.echo(plan_)
