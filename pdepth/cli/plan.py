"""`pdepth plan`."""

from __future__ import annotations

import typer

from pdepth.cli.opening import DataSpecs, open_data
from pdepth.cli.options import (
    AsImageFolder,
    Backend,
    BatchSize,
    Classes,
    Device,
    Ema,
    ImageSize,
    Input,
    Keep,
    Ks,
    LabelColumn,
    Layers,
    MaxWidth,
    Memory,
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
    parse_output,
    parse_pools,
)


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
    spill: Spill = None,
    image_size: ImageSize = None,
    as_imagefolder: AsImageFolder = False,
    skip_unreadable: SkipUnreadable = False,
) -> None:
    """Say what a run will cost: forward passes, work, memory, disk and time on this machine.

    The network need not be trained for that: without --weights it has its initial ones.
    """
    if support is None:
        raise ValueError("--support: expected DATA, got none.")
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
        spill=spill,
        label_column=opened.label_column,
        processor=opened.processor,
        skip_unreadable=skip_unreadable,
    )
    typer.echo(plan_run(network, opened.support, opened.queries, options))
