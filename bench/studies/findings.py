"""What the paper says that depth goes with, asked of two data sets and three networks.

    python bench/studies/findings.py             measures; stored, and rendered into docs/analysis.md
    python bench/studies/findings.py --render    the page's tables and pictures from the stored result

Each line is a rank correlation, its p-value, and whether the sign is the paper's with p < 0.05.
scikit-learn's digits: the demo's network, and an MLP whose training is recorded; CIFAR-10 under its
ResNet18, where the data is (see bench/studies/cifar10.py), with predictions along its training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

import pdepth
from pdepth import DepthResult
from pdepth.analysis.network import AgainstDepth, against_depth
from pdepth.analysis.outputs import outputs
from pdepth.analysis.ranks import Correlation, spearman
from pdepth.analysis.training import OverTraining, Recorder, Training, learned, over_training
from pdepth.bench.common import DATA, HOME, RESULTS, machine, publish, real_data, where
from pdepth.demo import BATCH, RATE, train_demo
from pdepth.report.figures.network import plot_against_depth
from pdepth.report.figures.training import plot_over_training

NAME, STORED, PAGE = (
    "bench/studies/findings.py",
    HOME / RESULTS / "findings.json",
    Path("docs/analysis.md"),
)
HIDDEN, WIDTH = 6, 64  # of the MLP
NOTED = (0, 5, 10, 20, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280)  # steps; 21 an epoch
SUPPORT, QUERIES = 2_000, 1_000  # of CIFAR-10
SURE = 0.05
WORDS = {  # a measure, what the paper says of it, and its sign against depth
    "accuracy": ("accuracy falls with depth", -1),
    "confidence": ("confidence falls with depth", -1),
    "entropy": ("entropy grows with depth", 1),
    "output_margin": ("output margins grow as depth falls", -1),
    "input_margin": ("input margins grow as depth falls", -1),
    "step_learned": ("what is learned earlier has smaller depth", 1),
}
CNN, MLP, RESNET = "digits, the demo's CNN", "digits, an MLP", "CIFAR-10, ResNet18"
FIRST = "early probes converge first"
KEPT = "early probes' votes are sooner their last (looked at afterwards)"


def demo() -> AgainstDepth:
    model, support, queries = train_demo()
    return _against(model, support, queries, {})


def mlp() -> tuple[AgainstDepth, OverTraining]:
    """Trained on the demo's images, and recorded on those held out."""
    _, support, queries = train_demo()
    widths = [support.tensors[0][0].numel(), *[WIDTH] * HIDDEN]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(WIDTH, 10))
        recorder = Recorder(queries, support=support, depth_every=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        batches = _batches(*support.tensors)
        recorder.record(model, 0)
        for step in range(1, NOTED[-1] + 1):
            x, y = next(batches)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step in NOTED:
                recorder.record(model, step)
    torch.set_num_threads(threads)
    training, said = recorder.training(), outputs(model, queries, input_margins=True)
    own = {"step_learned": learned(training).step}
    found = against_depth(training.depths[NOTED[-1]], said.measures() | own)
    return found, over_training(training)


def _batches(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            yield x[rows], y[rows]


def cifar10() -> AgainstDepth:
    data = real_data()
    support, test = (data.dataset(split) for split in ("train", "test"))
    return of_resnet18(Subset(support, range(SUPPORT)), test, QUERIES)


def of_resnet18(support: Any, test: Any, count: int) -> AgainstDepth:
    """The first images of the test set, whose predictions along the training are stored."""
    stored = np.load(DATA / "resnet18-cifar10-checkpoints.npz")
    labels, predictions = test.tensors[1][:count], stored["test"][:, :count]
    training = Training.from_predictions(predictions, labels, steps=stored["steps"])
    own = {"step_learned": learned(training).step}
    queries = Subset(test, range(count))
    return _against(real_data().resnet18(), support, queries, own, memory="2GiB")


def _against(
    model: nn.Module, support: Any, queries: Any, own: dict[str, Any], **options: Any
) -> AgainstDepth:
    result: DepthResult = pdepth.prediction_depth(
        model, support, queries, early_exit=False, progress=False, batch_size=64, **options
    )
    said = outputs(model, queries, input_margins=True, batch_size=64)
    return against_depth(result, said.measures() | own)


def measure() -> dict[str, Any]:
    against = {CNN: demo()}
    against[MLP], over = mlp()
    if (DATA / "cifar10.py").is_file():
        against[RESNET] = cifar10()
    else:
        print(f"There is no CIFAR-10 in {DATA}: left out.", flush=True)
    first = spearman(np.arange(1, len(over.probes)), over.converged()[1:])  # the input is constant
    return {
        "machine": machine("numpy", "torch", "torchvision", "scikit-learn"),
        "against": {name: _plain(asdict(each)) for name, each in against.items()},
        "over_training": _plain(asdict(over)),
        "early_first": _plain(asdict(first)),
    }


def _plain(value: Any) -> Any:
    """As JSON has it, which knows neither arrays nor nan and infinity."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def restored(kind: Any, stored: dict[str, Any]) -> Any:
    """What `_plain` was made of; what it could not hold is nan."""
    given = dict(stored)
    if kind is AgainstDepth:
        given["mean"] = {name: np.array(each, float) for name, each in stored["mean"].items()}
        given["trend"] = {name: Correlation(**each) for name, each in stored["trend"].items()}
        given["depth"], given["count"] = np.array(stored["depth"]), np.array(stored["count"])
        return kind(**given | {"probes": tuple(stored["probes"])})
    arrays = {name: np.array(each, float) for name, each in stored.items() if name != "probes"}
    steps = np.array(stored["steps"])
    return kind(**arrays | {"probes": tuple(stored["probes"]), "steps": steps})


def early_kept(over: dict[str, Any]) -> Correlation:
    """Of each probe but the input, its place, and the mean over the steps before the last of the
    share of its votes that are those of the last."""
    kept = np.array(over["kept"], float)[:-1, 1:].mean(axis=0)
    return spearman(np.arange(len(kept)), kept)


def row(network: str, finding: str, sign: int, found: dict[str, Any]) -> str:
    r, n = found["statistic"], found["n"]
    # Student's t gives nought for a perfect order of however few; there are n! orders.
    p = max(found["p_value"], 2 * math.exp(-math.lgamma(n + 1)))
    holds = "yes" if r * sign > 0 and p < SURE else "**no**"
    shown = f"{p:.1g}" if p >= 1e-300 else "< 1e-300"
    return f"| {network} | {finding} | {r:.2f} | {shown} | {n:,} | {holds} |"


def table(stored: dict[str, Any]) -> str:
    text = [
        f"Rank correlations with the depth of held-out examples, undefined ones as the deepest; "
        f"k = 30. Holds: the paper's sign, and p < {SURE}. {where(stored['machine'])}.",
        "",
        "| network | finding | Spearman | p | n | holds |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for network, each in stored["against"].items():
        text += [row(network, *WORDS[name], found) for name, found in each["trend"].items()]
        if network == MLP:
            text.append(row(network, FIRST, 1, stored["early_first"]))
            text.append(row(network, KEPT, -1, asdict(early_kept(stored["over_training"]))))
    for network, each in stored["against"].items():
        mean = each["mean"]
        text += ["", f"Means by depth, {network}:", ""]
        text.append(f"| settles at | examples | {' | '.join(n.replace('_', ' ') for n in mean)} |")
        text.append(f"| --- | ---: |{' ---: |' * len(mean)}")
        for number, probe in enumerate(each["probes"]):
            if count := each["count"][number]:
                shown = [_number(name, mean[name][number]) for name in mean]
                text.append(f"| {probe} | {count} | {' | '.join(shown)} |")
    return "\n".join(text)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if name in ("accuracy", "confidence") else f"{value:.3g}"


def main() -> None:
    publish(NAME, measure, table, STORED, PAGE)
    stored = json.loads(STORED.read_text())
    against = restored(AgainstDepth, stored["against"][CNN])
    plot_against_depth(against, HOME / PAGE.parent / "against-depth.png")
    over = restored(OverTraining, stored["over_training"])
    plot_over_training(over, HOME / PAGE.parent / "over-training.png")


if __name__ == "__main__":
    main()
