"""`pdepth run`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pdepth import __version__
from pdepth.arrays import arguments
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
    OnCluster,
    Output,
    Overwrite,
    Pool,
    Queries,
    Quiet,
    SkipUnreadable,
    Spill,
    Support,
    Threads,
    Weights,
    Workers,
    parse_cluster,
    parse_numbers,
    parse_output,
    parse_pools,
)
from pdepth.cli.output import print_cost, print_results, print_skipped, print_written
from pdepth.optional import require
from pdepth.report.opening import DataSpecs, OpenedData, open_data
from pdepth.search.mapping import check_map

if TYPE_CHECKING:
    from torch import nn

    from pdepth.embeddings.placement import ProbeOptions
    from pdepth.report.probes import ProbeTable
    from pdepth.report.run import Run


def run(
    model: Model,
    weights: Weights = None,
    ema: Ema = False,
    support: Support = None,
    queries: Queries = None,
    label_column: LabelColumn = None,
    classes: Classes = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the results.")] = None,
    layers: Layers = "auto",
    pool: Pool = None,
    input: Input = None,
    max_width: MaxWidth = None,
    output: Output = None,
    k: Ks = None,
    metric: Metric = "sqeuclidean",
    vote_weights: Annotated[
        str, typer.Option(help="Weight of a neighbour's vote: uniform, distance or exp.")
    ] = "uniform",
    temperature: Annotated[
        float | None, typer.Option(help="Of --vote-weights exp.", show_default="0.07")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="What votes have to equal: prediction, label or last_probe.")
    ] = "prediction",
    batch_size: BatchSize = 256,
    device: Device = None,
    threads: Threads = None,
    backend: Backend = "auto",
    memory: Memory = None,
    keep_embeddings: Keep = None,
    keep_neighbors: KeepNeighbors = None,
    keep_map: KeepMap = None,
    spill: Spill = None,
    early_exit: Annotated[
        bool,
        typer.Option(
            "--early-exit/--all-votes",
            help="Skip votes that no depth depends on, or compute every row's vote at every probe.",
        ),
    ] = True,
    image_size: ImageSize = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Of pixels in 0..1, with commas (one number: grey); default: a timm model's own, "
            "else ImageNet's. Data from a .py file is not normalised; images for hf:DIR are by its "
            "processor.",
        ),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="NUMBERS", help="As --mean.")] = None,
    as_imagefolder: AsImageFolder = False,
    skip_unreadable: SkipUnreadable = False,
    decisions: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Leave out and relabel rows as decided on a report's page, or by pdepth "
            "label-issues: of the queries, where the file is of them, else of the support; more "
            "than once, in their order.",
        ),
    ] = None,
    check_inputs: Annotated[
        bool,
        typer.Option(
            "--check-inputs/--no-check-inputs",
            help="Compare all inputs with those that decisions are about, or labels alone: of data "
            "that is transformed in another way now.",
        ),
    ] = True,
    cluster: OnCluster = None,
    workers: Workers = None,
    cpus: CpusPerWorker = 1,
    gpus: GpusPerWorker = 0.0,
    memory_per_worker: MemoryPerWorker = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the run will cost, and stop.")
    ] = False,
    show_probes: Annotated[
        bool, typer.Option("--show-probes", help="Print where the probes are placed, and stop.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure the prediction depth of a dataset under a trained network.

    Writes depth.parquet and depth.png to --out; of several k, depth-k5.parquet and so on, and
    depth-by-k.png; with --keep-neighbors also neighbors.pdepth, with --keep-map map.pdepth. The
    same command resumes a run that was interrupted.

    \b
    Examples:
      pdepth run torchvision:resnet18 --weights net.pt --support imagefolder:train --out depths
      pdepth run timm:vit_tiny_patch16_224 --weights vit.safetensors --support parquet:train.parquet
          --queries parquet:test.parquet --all-votes --out depths
      pdepth run nets.py:mlp --support npz:digits.npz --layers 'blocks.*' --out depths
      pdepth run nets.py:mlp --support npz:digits.npz -k 5 -k 10 -k 30 --out depths
      pdepth run nets.py:mlp --support npz:digits.npz --vote-weights exp --metric cosine --out out
      pdepth run hf:finetuned --support csv:train.csv --queries csv:test.csv --out depths
      pdepth run nets.py:mlp --support npz:digits.npz --decisions decisions.json --out cleaned
      pdepth run torchvision:vgg16 --show-probes
    """
    ks = tuple(k or [30])
    _check_choices(metric, vote_weights, reference)
    arguments.check_voting(list(ks), vote_weights, temperature, keep_neighbors)
    _check_decisions(decisions, check_inputs)
    if not show_probes:
        _check_folder(support, out, overwrite, dry_run)
    check_map(keep_map, metric, cluster=cluster, name="--keep-map")
    there = parse_cluster(cluster, workers, cpus, gpus, memory_per_worker)
    mean_std = parse_numbers("--mean", mean), parse_numbers("--std", std)
    start = time.monotonic()
    from pdepth import inputs
    from pdepth.report import pictures
    from pdepth.report.decisions import decide, describe_decisions
    from pdepth.report.record import RunRecord
    from pdepth.report.run import RunOptions, plan_run, run_to_folder

    specs = DataSpecs(
        support, queries, label_column, image_size, *mean_std, as_imagefolder, classes
    )
    network = inputs.load_model(model, weights, untrained=show_probes, ema=ema)
    opened = open_data(specs, model, network)
    opened = decide(opened, decisions or (), batch_size=batch_size, check_inputs=check_inputs)
    for what in describe_decisions(opened):
        typer.echo(what, err=True)
    options = RunOptions(
        layers=layers,
        pool=parse_pools(pool),
        input=input,
        max_width=max_width,
        output=parse_output(output),
        k=ks,
        metric=metric,
        weights=vote_weights,
        temperature=temperature,
        reference=reference,
        early_exit=early_exit,
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
    if show_probes:
        _print_probes(_describe_probes(network, options.of_probes(), opened))
        return
    assert support is not None
    assert opened.support is not None
    if dry_run:
        typer.echo(plan_run(network, opened.support, opened.queries, options, out))
        return
    assert out is not None
    record = RunRecord.of(model, weights, ema, specs, opened, options, decisions or ())
    finished = run_to_folder(
        network,
        opened.support,
        opened.queries,
        out,
        options,
        meta={
            "model": model,
            "support": inputs.absolute_spec(support),
            "queries": inputs.absolute_spec(queries) if queries else "",
            "pdepth": __version__,
            **record.to_meta(),
            **pictures.image_meta(opened.support, opened.images, label_column, opened.class_names),
        },
        class_names=opened.class_names,
        overwrite=overwrite,
        progress=not quiet,
    )
    if not quiet:
        _print_run(finished, start)


def _check_choices(metric: str, vote_weights: str, reference: str) -> None:
    """Raise ValueError for a word that an option does not know."""
    arguments.check_choice(metric, "--metric", arguments.METRICS)
    arguments.check_choice(vote_weights, "--vote-weights", arguments.WEIGHTS)
    arguments.check_choice(reference, "--reference", arguments.REFERENCES)


def _check_decisions(files: list[Path] | None, check_inputs: bool) -> None:
    if not (check_inputs or files):
        raise ValueError("--no-check-inputs: expected --decisions with it, got none.")


def _check_folder(support: str | None, out: Path | None, overwrite: bool, dry_run: bool) -> None:
    """Raise, before anything is loaded, where a run could not write its results."""
    if support is None or (out is None and not dry_run):
        raise ValueError("--support and --out: expected DATA and DIR, got none (or --show-probes).")
    if out is not None and not dry_run:
        from pdepth.report.folder import ENSEMBLE, check_out, run_names

        check_out(out, run_names(), overwrite=overwrite, others=(ENSEMBLE,))
    require("pyarrow", "pdepth run", "tables")


def _describe_probes(network: nn.Module, options: ProbeOptions, opened: OpenedData) -> ProbeTable:
    from pdepth.embeddings.dataset import DataOptions
    from pdepth.report.probes import describe_probes

    data_options = DataOptions(opened.label_column, opened.processor)
    return describe_probes(network, options, opened.support, data_options=data_options)


UNBOUNDED = 400  # columns of a file or a pipe


def _print_probes(table: ProbeTable) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    columns = Table("probe", "module", "taken", "as", box=SIMPLE_HEAD, pad_edge=False)
    columns.add_column("shape")
    for row in table.rows:
        shape = " x ".join(map(str, row.shape))
        columns.add_row(row.name, row.module or "(the network)", row.point, row.pool, shape)
    console = Console()
    if not console.is_terminal:
        console = Console(width=UNBOUNDED)  # names are to be copied whole
    console.print(columns)
    for note in table.notes:
        typer.echo(f"{note[0].upper()}{note[1:]}.")
    typer.echo(f"{len(table.rows)} probes, placed by the rule {table.rule!r}.")


def _print_run(finished: Run, start: float) -> None:
    from rich.console import Console

    from pdepth.report.terminal import print_by_k

    print_results(finished.results.values())
    print_skipped(next(iter(finished.results.values())).skipped)
    if len(finished.results) > 1:
        console = Console()
        print_by_k(finished.results, console)
        console.print()
    print_cost(start)
    print_written(finished.written)
    if finished.written[-1].suffix != ".png":
        typer.echo("No picture: it needs matplotlib (pip install 'pdepth[plot]').")
