"""Real layers: four networks trained on CIFAR-10 for minutes, and their embeddings in a store.

    python bench/studies/networks.py                 every network: train, keep, store, render
    python bench/studies/networks.py MLP ViT         some of them
    python bench/studies/networks.py ResNet18 --kept as the data folder has it, trained for longer
    python bench/studies/networks.py --tiny          seconds; printed, and not stored
    python bench/studies/networks.py --render        the table of docs/cases.md, as stored

`--seconds` is how long each trains, ten minutes: processor time over threads, so that a busy
machine trains no less. `--support` and `--queries` are how many training and test images are
embedded. Weights and embeddings go to the folder `CACHE` of data.py, or to `--into DIR`: of
ResNet18 and VGG16 10,000 + 2,000 images take 15 and 13 GB. What is there is not made anew, unless
`--again`; weights alone are used again. The rate follows the clock, and products are bfloat16 where
the processor has them, so that two runs give two networks. The data lies beside the repository, or
where PDEPTH_DATA says; without it there is nothing to train on, which a sentence says.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

import pdepth
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import CACHE, real_data
from pdepth.bench.pages import load, render, save
from pdepth.bench.suite.shapes import CLASSES, NETWORKS
from pdepth.native import default_threads

NAME, STORED = "bench/studies/networks.py", HOME / RESULTS / "networks.json"
PAGE = Path("docs", "cases.md")
PACKAGES = "numpy", "torch", "torchvision"
WEIGHTS, BATCH, WARMING = "weights.pt", 128, 0.2
MEMORY = "2GiB"  # of embeddings in work, while the store grows


def resnet18() -> nn.Module:
    """torchvision's ResNet18 with the CIFAR stem: 3 x 3, stride 1, no pooling."""
    from torchvision.models.resnet import BasicBlock, ResNet

    model: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return model


def vgg16() -> nn.Module:
    """torchvision's VGG16 with batch normalisation and, as usual on CIFAR, one dense layer."""
    from torchvision.models.vgg import VGG, cfgs, make_layers

    model: nn.Module = VGG(make_layers(cfgs["D"], batch_norm=True), num_classes=CLASSES)
    model.avgpool = nn.Identity()
    model.classifier = nn.Linear(512, CLASSES)
    return model


def mlp() -> nn.Module:
    """Dense layers of the suite's widths, each with batch normalisation and a ReLU."""
    *sizes, classes = NETWORKS["MLP"]
    blocks = [
        nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)
    ]
    return nn.Sequential(nn.Flatten(), *blocks, nn.Linear(sizes[-1], classes))


def vit() -> nn.Module:
    """torchvision's VisionTransformer: patches of 4 x 4, six blocks of width 192, three heads."""
    from torchvision.models import VisionTransformer

    model: nn.Module = VisionTransformer(32, 4, 6, 3, 192, 384, num_classes=CLASSES)
    return model


@dataclass(frozen=True)
class Network:
    """A network, and its largest rate under AdamW."""

    make: Callable[[], nn.Module]
    rate: float


MODELS = {
    "ResNet18": Network(resnet18, 4e-3),
    "VGG16": Network(vgg16, 2e-3),
    "MLP": Network(mlp, 1e-3),
    "ViT": Network(vit, 1e-3),
}


def batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end: shifted by up to four pixels, and half of them mirrored."""
    while True:
        for rows in torch.randperm(len(images)).split(BATCH):
            padded = nn.functional.pad(images[rows], (4, 4, 4, 4))
            top, left = torch.randint(0, 9, (2,)).tolist()
            crops = padded[:, :, top : top + 32, left : left + 32]
            mirrored = torch.rand(len(rows)) < 0.5
            crops[mirrored] = crops[mirrored].flip(-1)
            yield crops, labels[rows]


def train(model: nn.Module, data: TensorDataset, rate: float, seconds: float) -> int:
    """Train for so long, the rate up and down again by the clock; return how many images it saw."""
    torch.set_num_threads(default_threads())
    model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    threads, begin, seen = torch.get_num_threads(), time.process_time(), 0
    for images, labels in batches(*data.tensors):
        done = (time.process_time() - begin) / threads / seconds
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * max(1e-3, min(done / WARMING, (1 - done) / (1 - WARMING)))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=native):
            loss = loss_of(model(images.contiguous(memory_format=torch.channels_last)), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += len(labels)
    model.eval().to(memory_format=torch.contiguous_format)
    return seen


def trained(name: str, data: TensorDataset, seconds: float | None, folder: Path) -> dict[str, Any]:
    """The state of a trained network, and how it was trained: from its file, or made now.

    seconds: None: ResNet18's is the data folder's.
    """
    file = folder / WEIGHTS
    if seconds is None:
        training = {"seconds": None, "seen": None}
        torch.save({"state": real_data().resnet18().state_dict(), "training": training}, file)
    elif not file.exists():
        torch.manual_seed(0)
        model = MODELS[name].make()
        seen = train(model, data, MODELS[name].rate, seconds)
        record = {"seconds": seconds, "seen": seen}
        torch.save({"state": model.state_dict(), "training": record}, file)
    kept: dict[str, Any] = torch.load(file, weights_only=True)
    return kept


def measure(
    name: str, data: TensorDataset, seconds: float | None, rows: list[Subset[Any]], folder: Path
) -> dict[str, Any]:
    """Train a network and keep its embeddings, unless they are there.

    Args:
        name: of MODELS.
        data, seconds: what it is trained on, and for how long; see `trained`.
        rows: support and queries, which are embedded.
        folder: for its weights and its store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = trained(name, data, seconds, folder)
    model = MODELS[name].make()
    model.load_state_dict(kept["state"])
    if not (folder / "store" / "manifest.json").is_file():
        pdepth.prediction_depth(
            model.eval(), *rows, memory=MEMORY, keep_embeddings=folder / "store", progress=False
        )
    store = pdepth.open_store(folder / "store")
    assert store.queries is not None
    parts = {"support": store.support, "queries": store.queries}
    about: dict[str, Any] = kept["training"]
    return about | {
        "network": name,
        "parameters": sum(each.numel() for each in model.parameters()),
        "probes": store.probes,
        "widths": [store.support.embeddings[probe].shape[1] for probe in store.probes],
        "rows": {part: len(values.labels) for part, values in parts.items()},
        "accuracy": {
            part: float(np.mean(values.labels == values.predictions))
            for part, values in parts.items()
        },
        "machine": machine(*PACKAGES),
    }


def invented(rows: int) -> TensorDataset:
    """Images of a colour a class: for those who have no data, and only to try the script."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randn(CLASSES, 3, 1, 1, generator=generator)
    labels = torch.arange(rows) % CLASSES
    return TensorDataset(
        colours[labels] + torch.randn(rows, 3, 32, 32, generator=generator), labels
    )


def table(stored: dict[str, Any]) -> str:
    """A line a network."""
    lines = [
        "| network | parameters | probes | widths | trained | accuracy, training / test images |",
        "| --- | ---: | ---: | --- | --- | ---: |",
    ]
    for record in stored["networks"]:
        runs = [(width, len(list(run))) for width, run in groupby(record["widths"])]
        widths = ", ".join(f"{width:,}{f' x{n}' if n > 1 else ''}" for width, n in runs)
        accuracy, rows = record["accuracy"], record["rows"]
        training = "as the data folder has it"
        if record["seconds"] is not None:
            training = f"{record['seconds']:.0f} s, {record['seen']:,} images"
        right = " / ".join(
            f"{100 * accuracy[part]:.1f} % of {rows[part]:,}" for part in ("support", "queries")
        )
        lines.append(
            f"| {record['network']} | {record['parameters'] / 1e6:.1f} M | "
            f"{len(record['widths'])} | {widths} | {training} | {right} |"
        )
    notes = dict.fromkeys(describe(record["machine"]) for record in stored["networks"])
    return "\n".join([*lines, "", *(f"{note}." for note in notes)])


def store(record: dict[str, Any]) -> None:
    """Put a network's record in the place of its earlier one."""
    earlier = load(STORED)["networks"] if STORED.exists() else []
    by_name = {each["network"]: each for each in [*earlier, record]}
    save({"networks": [by_name[name] for name in MODELS if name in by_name]}, STORED)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", choices=[*MODELS, []], metavar="NETWORK", default=[])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--support", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--into", type=Path, default=CACHE, metavar="DIR")
    for flag in ("--kept", "--again"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args(arguments)
    if options.kept and options.networks != ["ResNet18"]:
        parser.error("--kept: expected with ResNet18 alone, of which the data folder has weights.")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.render:
        render(NAME, table(load(STORED)), PAGE)
        return
    if options.tiny:
        options.seconds, options.support, options.queries = 0.5, 40, 20
        sets = invented(options.support), invented(options.queries)
    else:
        try:
            data = real_data()
        except FileNotFoundError as error:
            raise SystemExit(f"The networks are left out. {error}") from None
        sets = data.dataset("train"), data.dataset("test")
    rows = [
        Subset(images, range(n))
        for images, n in zip(sets, (options.support, options.queries), strict=True)
    ]
    for name in options.networks or MODELS:
        folder = options.into / name
        if options.again:
            shutil.rmtree(folder, ignore_errors=True)
        record = measure(name, sets[0], None if options.kept else options.seconds, rows, folder)
        print(table({"networks": [record]}), flush=True)
        if not options.tiny:
            store(record)
    if not options.tiny:
        render(NAME, table(load(STORED)), PAGE)


if __name__ == "__main__":
    main()
