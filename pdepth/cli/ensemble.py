"""`pdepth ensemble`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pdepth.arrays import arguments
from pdepth.cli.options import (
    AsImageFolder,
    BatchSize,
    Classes,
    CpusPerWorker,
    Device,
    Ema,
    GpusPerWorker,
    ImageSize,
    Input,
    LabelColumn,
    Layers,
    MaxWidth,
    Memory,
    MemoryPerWorker,
    OnCluster,
    Output,
    Overwrite,
    Pool,
    Quiet,
    SkipUnreadable,
    Spill,
    Threads,
    Workers,
    parse_cluster,
    parse_output,
    parse_pools,
)
from pdepth.cli.output import print_cost, print_skipped, print_written
from pdepth.optional import require
from pdepth.report.opening import DataSpecs, open_data

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from pdepth.analysis.ensemble import Ensemble, Member
    from pdepth.analysis.ensemble_file import EnsembleSettings, NetworkSource
    from pdepth.analysis.groups import Groups
    from pdepth.embeddings import placement


def ensemble(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path(
        "pdepth-ensemble"
    ),
    networks: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    first: Annotated[
        int, typer.Option(min=0, help="Number of the first, to share a job between machines.")
    ] = 0,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="As in pdepth run; default: scikit-learn's digits, moved."
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Called with a training set and a seed; returns the trained network.",
        ),
    ] = None,
    read: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Called without arguments; yields (network, rows it was held out from), or with "
            "--model (path of its checkpoint, rows).",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The network of --read's checkpoints, as in pdepth run."
        ),
    ] = None,
    ema: Ema = False,
    label_column: LabelColumn = None,
    classes: Classes = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Add up these ensemble.parquet, more than one."),
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of rows held out from a network.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and training.")] = 0,
    layers: Layers = "auto",
    pool: Pool = None,
    input: Input = None,
    max_width: MaxWidth = None,
    output: Output = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Neighbours that vote.")] = 30,
    batch_size: BatchSize = 256,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    spill: Spill = None,
    image_size: ImageSize = None,
    as_imagefolder: AsImageFolder = False,
    skip_unreadable: SkipUnreadable = False,
    cluster: OnCluster = None,
    workers: Workers = None,
    cpus: CpusPerWorker = 1,
    gpus: GpusPerWorker = 0.0,
    memory_per_worker: MemoryPerWorker = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train or read many networks on random splits, and add up their results for each example.

    Writes ensemble.parquet (counts, mean depths in the support and held out, consensus,
    consistency, accuracy, entropy) and groups.png to --out. The file is written anew after each
    network: the same command resumes after the last, and a larger --networks adds more. The setting
    of arXiv 2106.09647 is --networks 250 --held-out 0.1 -k 30.

    \b
    Examples:
      pdepth ensemble --out many-digits
      pdepth ensemble --data imagefolder:all --train nets.py:train --networks 250 --out depths
      pdepth ensemble --data nets.py:data --read nets.py:networks --out depths
      pdepth ensemble --data csv:all.csv --read runs.py:checkpoints --model hf:bert --out depths
      pdepth ensemble --merge a/ensemble.parquet --merge b/ensemble.parquet --out both
    """
    _check_combination(data, train, read, merge)
    if (model is not None or ema) and (read is None or model is None):
        raise ValueError(
            "--model and --ema: expected together with --read, and --ema with --model."
        )
    if not merge and first == 0 and networks < 2:
        raise ValueError(f"--networks: expected an integer >= 2, got {networks}.")
    arguments.check_int(k, "--k")
    for module in ("pyarrow", *(() if data or merge else ("torch", "sklearn"))):
        require(module, "pdepth ensemble", "demo")
    start = time.monotonic()
    from pdepth import demo
    from pdepth.analysis.ensemble_file import EnsembleSettings
    from pdepth.report import folder

    dataset: Any = None
    skipped: dict[str, Mapping[int, str]] = {}
    if merge:
        result = _merge(merge, out, overwrite)
    else:
        folder.check_out(out, (), others=folder.RUN_TABLES)
        settings = EnsembleSettings(
            data or demo.DATA, layers, k, train, held_out, seed, read, model, ema, label_column,
            parse_pools(pool), input, max_width, parse_output(output), image_size, as_imagefolder,
            skip_unreadable,
        )  # fmt: skip
        result, dataset, skipped = _grow(
            settings,
            range(first, first + networks),
            out / folder.ENSEMBLE,
            data=data,
            classes=classes,
            overwrite=overwrite,
            quiet=quiet,
            batch_size=batch_size,
            device=device,
            num_threads=threads,
            memory=memory,
            spill=spill,
            cluster=parse_cluster(cluster, workers, cpus, gpus, memory_per_worker),
        )
    groups = _find_groups(result, quiet)
    written = [out / folder.ENSEMBLE, *folder.write_skipped(skipped, out)]
    written += _draw_groups(result, groups, dataset, out)
    if not quiet:
        _print_ensemble(result, groups)
        print_skipped(skipped)
        print_cost(start)
        print_written(written)


def _merge(files: list[Path], out: Path, overwrite: bool) -> Ensemble:
    """Add up ensembles, and write their sum."""
    from pdepth.analysis.ensemble_file import file_locked, merge_ensembles
    from pdepth.report import folder

    names = folder.ENSEMBLE, folder.GROUPS_PICTURE
    folder.check_out(out, names, overwrite=overwrite, others=folder.RUN_TABLES)
    result = merge_ensembles(files)
    out.mkdir(parents=True, exist_ok=True)
    with file_locked(out / folder.ENSEMBLE):
        folder.check_out(out, (folder.ENSEMBLE,), overwrite=overwrite)
        result.save(out / folder.ENSEMBLE)
    return result


def _grow(
    settings: EnsembleSettings,
    numbers: range,
    path: Path,
    *,
    data: str | None,
    classes: Path | None,
    overwrite: bool,
    quiet: bool,
    **options: Any,
) -> tuple[Ensemble, Any, dict[str, Mapping[int, str]]]:
    """Measure the networks that a file lacks.

    Returns:
        The ensemble; its dataset; and why rows of that were skipped.
    """
    from pdepth import demo, inputs
    from pdepth.analysis.ensemble_file import add_networks, resume_ensemble
    from pdepth.analysis.networks import readable_rows

    before = resume_ensemble(path, settings.meta(), overwrite=overwrite)
    layers: placement.Layers = settings.layers
    network = rows = None
    skipped: dict[str, Mapping[int, str]] = {}
    if data is None:
        dataset = demo.moved_digits()
        layers = demo.LAYERS if layers == "auto" else layers
    else:
        if settings.model is not None:
            network = inputs.load_model(settings.model, untrained=True)
        specs = DataSpecs(
            data,
            label_column=settings.label_column,
            image_size=settings.image_size,
            as_imagefolder=settings.as_imagefolder,
            classes=classes,
        )
        opened = open_data(specs, settings.model, network)
        dataset = inputs.unwrap_loader(opened.support)
        options["label_column"], options["processor"] = opened.label_column, opened.processor
    if settings.skip_unreadable:
        readable = readable_rows(dataset, **options)
        rows, skipped = readable.rows, {"data": readable.reasons}
    result = add_networks(
        before,
        _network_source(settings, dataset, numbers, network, rows),
        dataset,
        numbers,
        path,
        settings.meta(),
        on_member=None if quiet else _print_member,
        overwrite=overwrite,
        rows=rows,
        k=settings.k,
        layers=layers,
        pool=settings.pool,
        input=settings.input,
        max_width=settings.max_width,
        output=settings.output,
        progress=False,
        **options,
    )
    return result, dataset, skipped


def _check_combination(
    data: str | None, train: str | None, read: str | None, merge: list[Path] | None
) -> None:
    """Raise ValueError for options that exclude each other."""
    if merge and (data or train or read):
        raise ValueError("--merge: expected no --data, --train or --read beside it, got one.")
    if train and read:
        raise ValueError("--train and --read: expected one of them, got both.")
    if (data is None) != (train is None and read is None):
        raise ValueError("--data: expected together with --train or --read, got one alone.")
    if merge and len(merge) < 2:
        raise ValueError(f"--merge: expected two files or more, got {merge[0]} alone.")


def _network_source(
    settings: EnsembleSettings,
    dataset: Any,
    numbers: range,
    network: nn.Module | None,
    rows: NDArray[np.int64] | None,
) -> NetworkSource:
    """The function that yields the missing networks: read, or trained on some of the `rows`."""
    from pdepth import demo, inputs
    from pdepth.analysis.ensemble_file import read_networks
    from pdepth.analysis.networks import train_all

    if settings.read is not None:
        pairs = partial(inputs.call_function, settings.read, "--read")
        return partial(read_networks, pairs, numbers, model=network, ema=settings.ema)
    train = settings.train
    function = demo.train if train is None else inputs.load_function(train, "--train")
    return partial(
        train_all, function, dataset, held_out=settings.held_out, seed=settings.seed, rows=rows
    )


def _find_groups(result: Ensemble, quiet: bool) -> Groups | None:
    """The groups by quantiles; None, and a line, where depths are too alike for that."""
    from pdepth.analysis.groups import groups_or_reason

    if len(result) < 2:
        return None
    groups, reason = groups_or_reason(result)
    if reason and not quiet:
        typer.echo(f"No groups: {reason}", err=True)
    return groups


def _draw_groups(result: Ensemble, groups: Groups | None, dataset: Any, out: Path) -> list[Path]:
    from pdepth import inputs
    from pdepth.report.folder import write_groups
    from pdepth.report.pictures import result_images

    if len(result) < 2:
        return []
    images = None if dataset is None else result_images(result, dataset)
    names = None if dataset is None else inputs.class_names(dataset)
    return write_groups(result, groups, out, images, names)


def _print_member(member: Member) -> None:
    assert member.labels is not None
    accuracy = (member.predictions == member.labels)[member.held_out].mean()
    typer.echo(
        f"Network {member.name}: right on {100 * accuracy:.1f} % of "
        f"{member.held_out.sum():,} held out.",
        err=True,
    )


def _print_ensemble(result: Ensemble, groups: Groups | None) -> None:
    from rich.console import Console

    from pdepth.report.terminal import print_ensemble

    if len(result) > 1:
        print_ensemble(result, groups, Console())
