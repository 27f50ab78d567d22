"""Options and arguments that several commands take, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pdepth.cluster.options import Cluster

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="torchvision:NAME, timm:NAME, hf:DIR or path/to/file.py:function."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="State dict or checkpoint (.pt, .pth, .ckpt, .bin, .safetensors), an index of shards "
        "(.json), or a folder of them.",
    ),
]
Ema = Annotated[
    bool, typer.Option("--ema", help="Take the averaged weights (EMA) of a checkpoint.")
]
Results = Annotated[
    Path,
    typer.Argument(
        metavar="RESULTS",
        help="The --out of pdepth run, ensemble or demo, or one Parquet file in it.",
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Where the pictures are, as in pdepth run; default: where the run read them.",
    ),
]
SupportImages = Annotated[
    str | None,
    typer.Option(
        "--support",
        metavar="DATA",
        help="Likewise of neighbours, of held-out examples.",
    ),
]
Thumbnails = Annotated[
    str,
    typer.Option(help="sample: some are in the page; all: the rest in a folder beside it; none."),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of the labels.", show_default="label, or labels"),
]
Support = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="The training set, whose rows vote: imagefolder:DIR, parquet:FILE (columns image, "
        "img or text, label; or a folder of shards, or a pattern), csv:FILE and jsonl:FILE (text, "
        "label), dataset:DIR (saved by datasets), npz:FILE (x, y) or path/to/file.py:function.",
    ),
]
Queries = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Rows whose depth is measured; default: the support's own, each left out of its vote.",
    ),
]
Layers = Annotated[
    str,
    typer.Option(metavar="NAMES", help="Modules to probe: auto, names with commas, or a pattern."),
]
Pool = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[PROBE=]HOW",
        help="How values become vectors: flatten, mean, max, of tokens also token or last; more "
        "than once for single probes or patterns, 'layer4.*=mean'.",
        show_default="feature maps flattened, tokens as the network's head reads them",
    ),
]
Input = Annotated[
    bool | None,
    typer.Option(
        "--input/--no-input",
        help="Whether the network's input is the first probe.",
        show_default="unless it is token ids, graphs or of several lengths",
    ),
]
MaxWidth = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="WIDTH",
        help="Average feature maps and inputs with more values, to the largest square grid that "
        "has no more (tokens: to equal runs).",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="KEY|INDEX",
        help="Where the class scores are in what the network returns, where that is not clear.",
    ),
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
Metric = Annotated[
    str,
    typer.Option(help="sqeuclidean, cosine, or inner_product: the largest products, on the CPU."),
]
BatchSize = Annotated[int, typer.Option(help="Rows per forward pass.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: where the network is.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the search.")]
Backend = Annotated[str, typer.Option(help="Backend of the search: auto, cpu, triton, reference.")]
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
KeepNeighbors = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="K",
        help="Keep so many of each row's nearest support rows at each probe, and all counts of its "
        "neighbours' classes, for pdepth explain; 8, say.",
    ),
]
KeepMap = Annotated[
    str | None,
    typer.Option(
        metavar="pca|umap",
        help="Keep where support and queries lie at each probe, in two dimensions: two principal "
        "components, or UMAP (extra umap), which takes far longer.",
    ),
]
Spill = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|auto",
        help="Write embeddings that do not fit into memory to this folder while the run lasts, in "
        "place of computing them again; auto: if that takes less time here.",
        show_default="computed again",
    ),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Resize the shorter side to this and crop the centre.")
]
AsImageFolder = Annotated[
    bool,
    typer.Option(
        "--as-imagefolder",
        help="Read imagefolder:DIR exactly as torchvision's ImageFolder: hidden files and folders "
        "are taken, EXIF does not turn images, greys of 16 bits saturate.",
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable",
        help="Leave rows that cannot be read out of support and queries, and list them in "
        "skipped.csv; it takes one reading more.",
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Names of the classes in the order of their numbers, one a line or a JSON list; "
        "labels that are names are numbered so.",
    ),
]
OnCluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Work on a Ray cluster, host:port; auto: that of RAY_ADDRESS or of this machine, or "
        "a local one.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of --cluster: processes that share the rows.",
        show_default="all that fit; of a plan none",
    ),
]
CpusPerWorker = Annotated[
    int, typer.Option("--cpus", min=1, help="Of --cluster: threads of each worker's search.")
]
GpusPerWorker = Annotated[
    float, typer.Option("--gpus", min=0.0, help="Of --cluster: GPUs of each worker.")
]
MemoryPerWorker = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Of --cluster: memory of each worker, such as 8GB."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results in --out.")]


def parse_cluster(
    address: str | None, workers: int | None, cpus: int, gpus: float, memory: str | None
) -> Cluster | None:
    """Read --cluster and the options of its workers; None without any of them."""
    if address is None:
        given = {"--workers": workers, "--memory-per-worker": memory, "--gpus": gpus or None}
        for option, value in (given | {"--cpus": cpus if cpus > 1 else None}).items():
            if value is not None:
                raise ValueError(f"{option}: expected together with --cluster, got alone.")
        return None
    return Cluster(address, workers, cpus, gpus, memory)


def parse_pools(texts: list[str] | None) -> str | dict[str, str]:
    """Read --pool: one way for all probes, or a dict by probe; "auto" for none."""
    texts = texts or []
    named = dict(text.rsplit("=", 1) for text in texts if "=" in text)
    if not named and len(texts) < 2:
        return texts[0] if texts else "auto"
    if len(named) < len(texts):
        raise ValueError(
            "--pool: expected one way for all probes, or PROBE=HOW each once, got "
            f"{' and '.join(texts)}."
        )
    return named


def parse_output(text: str | None) -> str | int | None:
    """Read --output: an index where it is a number, else a key."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return text


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read numbers with commas; None for None. `option` is named in the error."""
    if text is None:
        return None
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise ValueError(
            f"{option}: expected numbers with commas (0.5,0.5,0.5), got {text!r}."
        ) from None
