"""The command line: `pdepth demo`, `run`, `ensemble`, `report`, `plan` and `bench`.

What takes long to import (torch, rich's tables) is imported inside the commands, so that
`pdepth --help` answers at once.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pdepth import __version__, native
from pdepth.arrays import arguments
from pdepth.optional import require
from pdepth.report.folder import (
    BY_K,
    ENSEMBLE,
    GROUPS_PICTURE,
    OF_K,
    PICTURE,
    SUPPORT_TABLE,
    TABLE,
    UNFINISHED,
)

if TYPE_CHECKING:
    from torch import nn

    from pdepth.result import DepthResult

REPORT = "report.html"
SAID = (ValueError, TypeError, ImportError, MemoryError, OSError)  # errors that can be one sentence
DIFFERS, USAGE, INTERRUPTED, UNREAD = 1, 2, 130, 141  # the last two: 128 and the signal's number

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="torchvision:NAME, timm:NAME or path/to/file.py:function."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="State dict: .pt, .pth or .safetensors."),
]
Support = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="The training set, whose rows vote: imagefolder:DIR, parquet:FILE (columns image, "
        "label), npz:FILE (x, y) or path/to/file.py:function.",
    ),
]
Queries = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Rows whose depth is asked; without it, the support's own, each left out.",
    ),
]
Names = Annotated[
    str,
    typer.Option(metavar="NAMES", help="Modules to probe: auto, names with commas, or a pattern."),
]
Ks = Annotated[
    list[int] | None,
    typer.Option(
        "--k",
        "-k",
        help="Neighbours that vote; more than once, for several k from one search.",
        show_default="30",
    ),
]
Metric = Annotated[str, typer.Option(help="sqeuclidean or cosine.")]
BatchSize = Annotated[int, typer.Option(help="Rows per forward pass.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ...; without it, where the model is.")
]
Threads = Annotated[int | None, typer.Option(help="Threads of the CPU.")]
Backend = Annotated[str, typer.Option(help="Engine of the search.")]
Memory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Memory for embeddings, such as 8GB.")
]
Keep = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keep embeddings, labels and predictions here, for pdepth.open_store(DIR); a finished "
        "store is never replaced.",
    ),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize the shorter side to this and cut out the middle.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results in --out.")]


def main() -> None:
    """The entry point `pdepth`."""
    with _sentences():
        app()


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pdepth {__version__}")
        raise typer.Exit


@app.callback()
def _pdepth(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_version, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Exact prediction depth: from which layer on does a network's answer stand?"""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("pdepth-demo"),
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train and measure a small network in seconds.

    It learns scikit-learn's digits: 1,797 real images, each moved to a random place.
    Writes depth.parquet and depth.png (500 held-out images) and support.parquet (the 1,297
    training images, each left out of its own vote).

    Example: pdepth demo --out digits
    """
    with _sentences():
        _check_out(out, (TABLE, PICTURE, SUPPORT_TABLE), overwrite)
        for module in ("matplotlib", "pyarrow", "sklearn"):
            require(module, "The demo", "demo")
        start = time.monotonic()
        from pdepth.demo import run_demo

        found = run_demo(progress=not quiet)
        written = _write(found.held_out, out, found.images)
        found.support.save(out / SUPPORT_TABLE)
        if not quiet:
            _show([found.support, found.held_out], start)
            typer.echo(f"Wrote {', '.join(map(str, [*written, out / SUPPORT_TABLE]))}.")


@app.command()
def run(
    model: Model,
    weights: Weights = None,
    support: Support = None,
    queries: Queries = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the results.")] = None,
    layers: Names = "auto",
    k: Ks = None,
    metric: Metric = "sqeuclidean",
    vote_weights: Annotated[
        str, typer.Option(help="What a neighbour's vote weighs: uniform, distance or exp.")
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
    early_exit: Annotated[
        bool,
        typer.Option(
            "--early-exit/--all-votes",
            help="Skip votes that no depth depends on, or ask every probe about every row.",
        ),
    ] = True,
    image_size: ImageSize = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Of pixels in 0..1, with commas (one number: grey); ImageNet's, or timm's own. "
            "Data from a .py file is taken as it is.",
        ),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="NUMBERS", help="Likewise.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the job will cost, and stop.")
    ] = False,
    show_probes: Annotated[
        bool, typer.Option("--show-probes", help="Print where the probes go and stop.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure the prediction depth of a dataset under a trained model.

    Writes depth.parquet and depth.png to --out; of several k, depth-k5.parquet and so on, and
    depth-by-k.png. A run that was interrupted goes on when the same command is given again.

    \b
    Examples:
      pdepth run torchvision:resnet18 --weights net.pt --support imagefolder:train --out depths
      pdepth run timm:vit_tiny_patch16_224 --weights vit.safetensors --support parquet:train.parquet
          --queries parquet:test.parquet --all-votes --out depths
      pdepth run nets.py:mlp --support npz:digits.npz --layers 'blocks.*' --out depths
      pdepth run nets.py:mlp --support npz:digits.npz -k 5 -k 10 -k 30 --out depths
      pdepth run nets.py:mlp --support npz:digits.npz --vote-weights exp --metric cosine --out out
      pdepth run torchvision:vgg16 --show-probes
    """
    with _sentences():
        ks = k or [30]
        arguments.check_choice(metric, "--metric", arguments.METRICS)
        arguments.check_choice(vote_weights, "--vote-weights", arguments.WEIGHTS)
        arguments.check_choice(reference, "--reference", arguments.REFERENCES)
        arguments.check_voting(ks, vote_weights, temperature)
        if not show_probes:
            if support is None or (out is None and not dry_run):
                raise ValueError("--support DATA and --out DIR are needed (or --show-probes).")
            if out is not None and not dry_run:
                _check_out(out, _names(ks), overwrite)
            require("pyarrow", "pdepth run", "tables")
        sizes = _numbers("--mean", mean), _numbers("--std", std)
        start = time.monotonic()

        from pdepth import inputs
        from pdepth.report.pictures import noted

        net = inputs.load_model(model, weights, untrained=show_probes)
        options = inputs.ImageOptions.for_model(net, image_size, *sizes)
        voters = None if support is None else inputs.load_data(support, options)
        if show_probes:
            _show_probes(net, layers, voters)
            return
        assert voters is not None
        from pdepth.depth import prediction_depth
        from pdepth.io.journal import OtherRun

        asked = None if queries is None else inputs.load_data(queries, options)
        if asked is not None:
            inputs.check_same_classes(voters, asked)
        shared: dict[str, Any] = {
            "layers": layers,
            "k": ks if len(ks) > 1 else ks[0],
            "metric": metric,
            "backend": backend,
            "device": device,
            "memory": memory,
            "batch_size": batch_size,
            "num_threads": threads,
            "keep_embeddings": keep_embeddings,
        }
        if dry_run:
            from pdepth.planning import plan

            typer.echo(plan(net, voters, asked, **shared))
            return
        assert out is not None
        with _going_on(out) as run_dir:
            ask: Callable[[], Any] = partial(
                prediction_depth,
                net,
                voters,
                asked,
                early_exit=early_exit,
                weights=vote_weights,
                temperature=temperature,
                reference=reference,
                run_dir=run_dir,
                progress=not quiet,
                **shared,
            )
            try:
                found = ask()
            except OtherRun as error:
                if not overwrite:
                    raise OtherRun(f"{error} --overwrite does so here.") from None
                shutil.rmtree(run_dir)
                found = ask()
            about = {
                "model": model,
                "support": inputs.absolute(support or ""),
                "queries": inputs.absolute(queries) if queries else "",
                "pdepth": __version__,
                **noted(voters, options),
            }
            results = {
                of: replace(result, meta={**result.meta, **about})
                for of, result in (found if isinstance(found, dict) else {ks[0]: found}).items()
            }
            if len(results) > 1:
                written = _write_by_k(results, out)
            else:
                shown = voters if asked is None else asked
                names = inputs.class_names(voters) or inputs.class_names(shown)
                (result,) = results.values()
                written = _write(result, out, inputs.pictures(shown, len(result)), names)
        if not quiet:
            _show(list(results.values()), start, by_k=len(ks) > 1)
            typer.echo(f"Wrote {', '.join(map(str, written))}.")
            if written[-1].suffix != ".png":
                typer.echo("No picture: it needs matplotlib (pip install 'pdepth[plot]').")


@app.command()
def ensemble(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path(
        "pdepth-ensemble"
    ),
    networks: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    first: Annotated[
        int, typer.Option(min=0, help="Number of the first: machines share a job so.")
    ] = 0,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="As in pdepth run; without it, scikit-learn's digits, moved."
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
            help="Called without arguments; yields (network, rows it was held out from).",
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Add up these ensemble.parquet, more than one."),
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of rows held out from a network.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and training.")] = 0,
    layers: Names = "auto",
    k: Annotated[int, typer.Option("--k", "-k", help="Neighbours that vote.")] = 30,
    batch_size: BatchSize = 256,
    device: Device = None,
    threads: Threads = None,
    memory: Memory = None,
    image_size: ImageSize = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train or read many networks on random splits, and add up what they say of each example.

    Writes ensemble.parquet (counts, mean depths in the support and held out, consensus,
    consistency, accuracy, entropy) and groups.png to --out. The file is written anew after each
    network: the same command goes on after the last, and a larger --networks adds more. The setting
    of arXiv 2106.09647 is --networks 250 --held-out 0.1 -k 30.

    \b
    Examples:
      pdepth ensemble --out digits
      pdepth ensemble --data imagefolder:all --train nets.py:train --networks 250 --out depths
      pdepth ensemble --data nets.py:data --read nets.py:networks --out depths
      pdepth ensemble --merge a/ensemble.parquet --merge b/ensemble.parquet --out both
    """
    with _sentences():
        if merge and (data or train or read):
            raise ValueError("--merge adds up files; --data, --train and --read do not go with it.")
        if train and read:
            raise ValueError("--train and --read are both given; one of them is wanted.")
        if (data is None) != (train is None and read is None):
            raise ValueError("--data goes with --train or --read, and each of these with --data.")
        if merge and len(merge) < 2:
            raise ValueError(f"--merge names one file, {merge[0]}; at least two are wanted.")
        if not merge and first == 0 and networks < 2:
            raise ValueError(f"--networks is {networks}; at least two are wanted.")
        arguments.check_int(k, "--k")
        for module in ("pyarrow", *(() if data or merge else ("sklearn",))):
            require(module, "pdepth ensemble", "demo")
        start = time.monotonic()
        from pdepth import inputs
        from pdepth.analysis import gathering
        from pdepth.analysis.ensemble import Ensemble, Member
        from pdepth.analysis.groups import groups_or_reason

        path, rows = out / ENSEMBLE, None
        if merge:
            _check_out(out, (ENSEMBLE, GROUPS_PICTURE), overwrite)
            found = Ensemble.load(merge[0])
            for other in merge[1:]:
                found += Ensemble.load(other)
            out.mkdir(parents=True, exist_ok=True)
            found.save(path)
        else:
            _check_out(out, (), overwrite)
            setting = gathering.Setting(data, train, read, held_out, seed, layers, k)
            before = gathering.begun(path, setting, overwrite)
            rows = gathering.rows_of(setting, image_size)

            def say(member: Member) -> None:
                if not quiet:
                    right = (member.predictions == member.labels)[member.held_out].mean()
                    of = f"{100 * right:.1f} % of {member.held_out.sum():,} held out"
                    typer.echo(f"Network {member.name}: right on {of}.", err=True)

            found = gathering.gather(
                setting,
                rows,
                range(first, first + networks),
                path,
                before,
                say,
                batch_size=batch_size,
                device=device,
                num_threads=threads,
                memory=memory,
                progress=False,
            )
        written = [path]
        if len(found) > 1:
            shown = None if rows is None else inputs.pictures(rows, len(found.labels))
            names = None if rows is None else inputs.class_names(rows)
            corners, reason = groups_or_reason(found)
            if reason and not quiet:
                typer.echo(f"No groups: {reason}", err=True)
            (out / GROUPS_PICTURE).unlink(missing_ok=True)  # it would be of fewer networks
            if corners is not None and importlib.util.find_spec("matplotlib") is not None:
                from pdepth.report.figures.groups import plot_groups

                plot_groups(found, corners, out / GROUPS_PICTURE, shown, names)
                written.append(out / GROUPS_PICTURE)
        if not quiet:
            from rich.console import Console

            from pdepth.progress import clock
            from pdepth.report.terminal import print_ensemble

            if len(found) > 1:
                print_ensemble(found, corners, Console())
            typer.echo(f"{clock(time.monotonic() - start)}{_peak_memory()}.")
            typer.echo(f"Wrote {', '.join(map(str, written))}.")


@app.command()
def report(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS",
            help="The --out of pdepth run, ensemble or demo, or one Parquet file in it.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page; without it, report.html in RESULTS."),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Where the pictures are, as in pdepth run; without it, where they were.",
        ),
    ] = None,
    thumbnails: Annotated[
        str,
        typer.Option(
            help="sample: some are in the page; all: the rest in a folder beside it; none."
        ),
    ] = "sample",
    pdf: Annotated[
        bool,
        typer.Option("--pdf", help="Also each picture as a PDF for papers, in a folder beside it."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier page and what is beside it.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write what was found as one HTML page, with plots, pictures and a table.

    The page opens from the disk, in any browser and without a network. A filter by class, depth,
    group, correctness and words drives all that is on it, and what is filtered downloads as CSV.
    Pictures are those of the data that was asked. Data that is Python code is not run by itself:
    --images nets.py:data says that it may.

    \b
    Examples:
      pdepth demo --out digits && pdepth report digits
      pdepth report depths --thumbnails all --pdf
      pdepth report depths/depth-k5.parquet --images imagefolder:test --out five.html
    """
    with _sentences():
        from pdepth.report.folder import read_results

        for module in ("pyarrow", "plotly", *(("matplotlib",) if pdf else ())):
            require(module, "pdepth report", "report")
        found = read_results(results)
        from pdepth.report.figures import pdf as figures
        from pdepth.report.html import page
        from pdepth.report.html import thumbnails as small
        from pdepth.report.pictures import pictures_of

        arguments.check_choice(thumbnails, "--thumbnails", small.KINDS)
        path = out or (results if results.is_dir() else results.parent) / REPORT
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already; pass --overwrite.")
        pictures = pictures_of(found, images)
        if pdf:
            figures.folder_of(path)
        shown = page.write(
            found,
            path,
            images=pictures.images,
            class_names=pictures.names,
            thumbnails=thumbnails,
            note=pictures.note,
        )
        beside = [path.with_name(shown.folder)] if shown.folder else []
        if pdf:
            beside.append(figures.write(found, path, pictures.images, pictures.names))
        for folder_of in (small.folder_of, figures.folder_of):  # an earlier page's
            with suppress(FileExistsError):  # which is not all ours
                if overwrite and (old := folder_of(path)) not in beside:
                    shutil.rmtree(old, ignore_errors=True)
        written = [f"{path} ({path.stat().st_size / 1e6:.1f} MB)", *map(str, beside)]
        if not quiet:
            if pictures.note:
                typer.echo(pictures.note, err=True)
            if bad := len(shown.unreadable):
                typer.echo(f"{bad:,} of {shown.tried:,} pictures cannot be read.", err=True)
            typer.echo(f"Wrote {', '.join(written)}.")


@app.command()
def plan(
    model: Model,
    weights: Weights = None,
    support: Support = None,
    queries: Queries = None,
    layers: Names = "auto",
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
    """Say what a run will cost: passes, work, memory, disk and time, as measured on this machine.

    The network need not be trained for that: without --weights it is as it is made.
    """
    with _sentences():
        if support is None:
            raise ValueError("--support DATA is needed.")
        from pdepth import inputs
        from pdepth.planning import plan as planned

        net = inputs.load_model(model, weights, untrained=True)
        options = inputs.ImageOptions.for_model(net, image_size)
        found = planned(
            net,
            inputs.load_data(support, options),
            None if queries is None else inputs.load_data(queries, options),
            layers=layers,
            k=k or 30,
            metric=metric,
            backend=backend,
            device=device,
            memory=memory,
            batch_size=batch_size,
            num_threads=threads,
            keep_embeddings=keep_embeddings,
        )
        typer.echo(found)


@app.command()
def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small shapes, three rounds, under two minutes.")
    ] = False,
    shape: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Of shapes, such as '*x 512'.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Of engines beside pdepth's fastest, such as faiss."),
    ] = None,
    own: Annotated[
        str | None,
        typer.Option("--with", metavar="FILE.py:CLASS", help="Measure your own engine too."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Of each shape, 5; ten times as many of one that is brief."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the results here, for pytest-benchmark."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Print shapes and engines and stop.")
    ] = False,
    render: Annotated[
        bool,
        typer.Option("--render", help="Write tables and picture of the stored results, and stop."),
    ] = False,
    reference: Annotated[
        bool,
        typer.Option("--reference", help="Check this pdepth against the reference set and stop."),
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Check another implementation's answers and stop."),
    ] = None,
) -> None:
    """Measure pdepth, its peers and this machine's limits, side by side.

    Each number has passed its gate: votes are compared with the float64 definition first. A run of
    all shapes and engines stores its results and renders them, in a checkout into
    docs/benchmarks.md, else into ./pdepth-bench; interrupted, it goes on after its last whole
    shape. Any other run prints them. --check and --reference end with 1 if anything differs.

    \b
    Examples:
      pdepth bench --quick
      pdepth bench --shape '10,000 x 10,000 x 64' --engine faiss --json now.json
      pdepth bench --check mine.npz
    """
    with _sentences():
        alone = [render, reference, check is not None]
        chosen = [quick, shape, engine, own, rounds, json]
        if sum([show, *alone]) > 1 or (any(alone) and any(chosen)):
            raise ValueError("--render, --reference and --check are wanted alone, or none of them.")
        if os.environ.get(native.SIMD):
            raise ValueError(
                f"{native.SIMD} is set; pdepth bench takes every level of this machine: unset it, "
                "and choose with --engine."
            )
        if reference or check is not None:
            _check_reference(check)
            return
        from pdepth.bench.suite import engines, shapes
        from pdepth.bench.suite import render as report

        if render:
            typer.echo(report.publish(report.load()))
            return
        asked = shapes.pick(shape, quick)
        found, missing = engines.pick(engine, own)
        for module in () if show else ("pytest_benchmark", "matplotlib"):
            require(module, "pdepth bench", "bench")
        for sentence in missing:
            typer.echo(sentence, err=True)
        if show:
            typer.echo("\n".join([*(each.name for each in asked), "", *(e.name for e in found)]))
            return
        from pdepth.bench import common
        from pdepth.bench.suite import measure

        whole = not (quick or shape or engine or own)
        if json is not None and not json.absolute().parent.is_dir():
            raise ValueError(f"--json is {json}; there is no folder {json.absolute().parent}.")
        suite = measure.Suite(
            asked,
            found,
            rounds=rounds or (3 if quick else 5),
            patience=8 if quick else 100,
            fresh=not quick,
            report=lambda text: typer.echo(text, err=True),
        )
        if whole:
            unfinished = common.HOME / report.UNFINISHED
            results = measure.run(suite, unfinished)
            written = [report.publish(results)]
            unfinished.unlink()
        else:
            results, written = measure.run(suite), []
        if json is not None:
            report.save(results, json)
            written.append(f"Wrote {json}.")
        typer.echo("\n".join([report.lines(results), *written]))


def _check_reference(file: Path | None) -> None:
    """Print what differs, of `file` or of pdepth itself; exit with 1 if anything does."""
    from pdepth.bench.suite import check

    all_right = True
    for right, lines in check.check_pdepth() if file is None else [check.check_file(file)]:
        typer.echo(lines)
        all_right = all_right and right
    if not all_right:
        raise typer.Exit(DIFFERS)


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn the user's errors into one line and an exit code; bugs keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader has gone (`| head`); nothing is left to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(UNREAD) from None
    except SAID as error:
        if not _meant(error):
            raise
        text = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            text = f"{error.filename}: {error.strerror}."
        text = " ".join(text.split()) or f"{type(error).__name__}."
        print(f"Error: {text}", file=sys.stderr)
        raise SystemExit(USAGE) from None


def _meant(error: BaseException) -> bool:
    """Whether an error is a sentence of pdepth's own, and no bug in a model or a library."""
    if not isinstance(error, ValueError | TypeError):
        return True
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return str(innermost.f_globals.get("__name__", "")).split(".")[0] == "pdepth"


@contextmanager
def _going_on(out: Path) -> Iterator[Path]:
    """The folder of --out that holds how far a run has come; it stays when the run is cut short.

    A wrong argument or wrong data leaves nothing that was not there before.
    """
    run_dir, made = out / UNFINISHED, not out.exists()
    begun = not run_dir.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield run_dir
    except (ValueError, TypeError):
        if begun:
            shutil.rmtree(run_dir, ignore_errors=True)
        if made:
            with suppress(OSError):
                out.rmdir()
        raise
    except KeyboardInterrupt:
        if (run_dir / "reading.npz").exists():  # a first pass that is cut short begins anew
            print("The same command goes on from here.", file=sys.stderr)
        raise
    shutil.rmtree(run_dir, ignore_errors=True)


def _check_out(out: Path, names: tuple[str, ...], overwrite: bool) -> None:
    """Raise, before any work, where the results could not be written. Leaves nothing behind."""
    held = [name for name in names if (out / name).exists()]
    # Results beside an unfinished run are its own: it was cut short while it wrote them.
    if held and not overwrite and not (out / UNFINISHED).exists():
        raise FileExistsError(f"--out {out} already holds {', '.join(held)}; pass --overwrite.")
    nearest = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"--out {out}: {nearest} is a file, not a folder.")
    try:  # permissions alone do not tell: file systems have rules of their own
        os.rmdir(tempfile.mkdtemp(dir=nearest, prefix=".pdepth-"))
    except OSError:
        raise PermissionError(f"--out {out}: the folder {nearest} is not writable.") from None


def _write(
    result: DepthResult, out: Path, images: Any = None, class_names: Any = None
) -> list[Path]:
    """Write depth.parquet, and depth.png where matplotlib is there; return what was written."""
    out.mkdir(parents=True, exist_ok=True)
    result.save(out / TABLE)
    return [out / TABLE, *_draw(result, out / PICTURE, images, class_names)]


def _write_by_k(results: dict[int, DepthResult], out: Path) -> list[Path]:
    """Write a table a k, and one picture of all; return what was written."""
    out.mkdir(parents=True, exist_ok=True)
    *tables, picture = (out / name for name in _names(list(results)))
    for result, table in zip(results.values(), tables, strict=True):
        result.save(table)
    return [*tables, *_draw(results, picture)]


def _names(ks: list[int]) -> tuple[str, ...]:
    """The files that a run writes, the picture last."""
    return (TABLE, PICTURE) if len(ks) == 1 else (*(OF_K.format(k) for k in ks), BY_K)


def _draw(
    result: DepthResult | dict[int, DepthResult],
    picture: Path,
    images: Any = None,
    class_names: Any = None,
) -> list[Path]:
    if importlib.util.find_spec("matplotlib") is None:
        picture.unlink(missing_ok=True)  # one of older results must not stay beside new ones
        return []
    from pdepth.report.figures.depth import plot

    plot(result, picture, images, class_names)
    return [picture]


def _show(results: list[DepthResult], start: float, *, by_k: bool = False) -> None:
    """Print each result; and, where they are of several k, what depends on it."""
    from rich.console import Console

    from pdepth.progress import clock
    from pdepth.report.terminal import print_by_k, print_summary

    console = Console()
    for result in results:
        print_summary(result, console)
        console.print()
    if by_k:
        print_by_k({result.k: result for result in results}, console)
        console.print()
    typer.echo(f"{clock(time.monotonic() - start)}{_peak_memory()}.")


def _show_probes(model: nn.Module, layers: Any, data: Any) -> None:
    """Print the probes; with data, those that a forward pass of it confirms, and their shapes."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from pdepth.embeddings.capture import at_rest, inspect
    from pdepth.embeddings.dataset import Batches
    from pdepth.embeddings.placement import place

    placement = place(model, layers)
    table = Table("probe", "module", "taken", "as", box=SIMPLE_HEAD, pad_edge=False)
    probes = placement.probes
    shapes: list[tuple[str, ...]] = [()] * len(probes)
    if data is not None:
        with at_rest(model, None):
            layout = inspect(model, placement, Batches(data, "support", batch_size=2).first[0])
        probes, shapes = layout.probes, [(" x ".join(map(str, s)),) for s in layout.shapes]
        table.add_column("shape")
    for probe, shape in zip(probes, shapes, strict=True):
        table.add_row(probe.name, probe.module or "(the network)", probe.at, probe.pool, *shape)
    Console().print(table)
    typer.echo(f"{len(probes)} probes, placed by the rule {placement.rule!r}.")


def _peak_memory() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f", peak memory {peak / 1e9:.1f} GB"


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r} is not numbers with commas (0.5,0.5,0.5).") from None
