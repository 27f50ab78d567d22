"""The paper's correlations of depth, computed on two data sets and three networks.

    python bench/studies/findings.py             measure, store, render into docs/analysis.md
    python bench/studies/findings.py --render    the page's tables and pictures, as stored

Each line is a rank correlation, its p-value, and whether the sign is the paper's with p < 0.05.
scikit-learn's digits: the demo's network, and an MLP whose training is recorded; CIFAR-10 under its
ResNet18, where the data is (see bench/studies/cifar10.py), with predictions along its training.
"""

from __future__ import annotations

import math
import sys
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
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import DATA, real_data
from pdepth.bench.pages import load, publish
from pdepth.demo import BATCH, RATE, train_demo
from pdepth.report.figures.network import plot_against_depth
from pdepth.report.figures.training import plot_over_training

NAME, STORED, PAGE = (
    "bench/studies/findings.py",
    HOME / RESULTS / "findings.json",
    Path("docs/analysis.md"),
)
HIDDEN, WIDTH = 6, 64  # of the MLP
RECORDED = (0, 5, 10, 20, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280)  # steps; 21 an epoch
SUPPORT, QUERIES = 2_000, 1_000  # of CIFAR-10
SIGNIFICANT = 0.05
CLAIMS = {  # measure: the claim of the paper, and the sign of its correlation with depth
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
    """An MLP that learns the demo's training images, recorded on those held out."""
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
        for step in range(1, RECORDED[-1] + 1):
            x, y = next(batches)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step in RECORDED:
                recorder.record(model, step)
    torch.set_num_threads(threads)
    training = recorder.training()
    measures = outputs(model, queries, input_margins=True).measures()
    measures["step_learned"] = learned(training).step
    return against_depth(training.depths[RECORDED[-1]], measures), over_training(training)


def _batches(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            yield x[rows], y[rows]


def cifar10() -> AgainstDepth:
    data = real_data()
    support, test = (data.dataset(split) for split in ("train", "test"))
    return of_resnet18(Subset(support, range(SUPPORT)), test, QUERIES)


def of_resnet18(support: Any, test: Any, count: int) -> AgainstDepth:
    """Of the first test images, whose predictions along the training are stored with the data."""
    stored = np.load(DATA / "resnet18-cifar10-checkpoints.npz")
    labels, predictions = test.tensors[1][:count], stored["test"][:, :count]
    training = Training.from_predictions(predictions, labels, steps=stored["steps"])
    extra = {"step_learned": learned(training).step}
    queries = Subset(test, range(count))
    return _against(real_data().resnet18(), support, queries, extra, memory="2GiB")


def _against(
    model: nn.Module, support: Any, queries: Any, extra: dict[str, Any], **options: Any
) -> AgainstDepth:
    result: DepthResult = pdepth.prediction_depth(
        model, support, queries, early_exit=False, progress=False, batch_size=64, **options
    )
    measures = outputs(model, queries, input_margins=True, batch_size=64).measures()
    return against_depth(result, measures | extra)


def measure() -> dict[str, Any]:
    against = {CNN: demo()}
    against[MLP], over = mlp()
    if (DATA / "cifar10.py").is_file():
        against[RESNET] = cifar10()
    else:
        print(f"CIFAR-10 is left out: there is none in {DATA}.", flush=True)
    first = spearman(np.arange(1, len(over.probes)), over.converged()[1:])  # the input is constant
    return {
        "machine": machine("numpy", "torch", "torchvision", "scikit-learn"),
        "against": {name: _plain(asdict(result)) for name, result in against.items()},
        "over_training": _plain(asdict(over)),
        "early_first": _plain(asdict(first)),
    }


def _plain(value: Any) -> Any:
    """A value for JSON, which has neither arrays nor nan and infinity (None)."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def restored(kind: Any, stored: dict[str, Any]) -> Any:
    """The dataclass `kind` from its stored fields; None is read as nan."""
    fields = dict(stored)
    if kind is AgainstDepth:
        fields["mean"] = {name: np.array(row, float) for name, row in stored["mean"].items()}
        fields["trend"] = {name: Correlation(**row) for name, row in stored["trend"].items()}
        fields["depth"], fields["count"] = np.array(stored["depth"]), np.array(stored["count"])
        return kind(**fields | {"probes": tuple(stored["probes"])})
    arrays = {name: np.array(row, float) for name, row in stored.items() if name != "probes"}
    steps = np.array(stored["steps"])
    return kind(**arrays | {"probes": tuple(stored["probes"]), "steps": steps})


def early_kept(over: dict[str, Any]) -> Correlation:
    """Correlation of a probe's place with the share of its votes that are already the last ones.

    The share is the mean over the steps before the last; the input is left out.
    """
    kept = np.array(over["kept"], float)[:-1, 1:].mean(axis=0)
    return spearman(np.arange(len(kept)), kept)


def row(network: str, finding: str, sign: int, correlation: dict[str, Any]) -> str:
    """A line of the table: the correlation, its p-value, and whether the claim holds."""
    r, n = correlation["statistic"], correlation["n"]
    # Student's t gives 0 for a perfect order of any length; there are n! orders.
    p = max(correlation["p_value"], 2 * math.exp(-math.lgamma(n + 1)))
    holds = "yes" if r * sign > 0 and p < SIGNIFICANT else "**no**"
    shown = f"{p:.1g}" if p >= 1e-300 else "< 1e-300"
    return f"| {network} | {finding} | {r:.2f} | {shown} | {n:,} | {holds} |"


def table(stored: dict[str, Any]) -> str:
    text = [
        f"Rank correlations with the depth of held-out examples, undefined ones as the deepest; "
        f"k = 30. Holds: the paper's sign, and p < {SIGNIFICANT}. {describe(stored['machine'])}.",
        "",
        "| network | finding | Spearman | p | n | holds |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for network, result in stored["against"].items():
        text += [row(network, *CLAIMS[name], trend) for name, trend in result["trend"].items()]
        if network == MLP:
            text.append(row(network, FIRST, 1, stored["early_first"]))
            text.append(row(network, KEPT, -1, asdict(early_kept(stored["over_training"]))))
    for network, result in stored["against"].items():
        mean = result["mean"]
        text += ["", f"Means by depth, {network}:", ""]
        text.append(f"| settles at | examples | {' | '.join(n.replace('_', ' ') for n in mean)} |")
        text.append(f"| --- | ---: |{' ---: |' * len(mean)}")
        for number, probe in enumerate(result["probes"]):
            if count := result["count"][number]:
                shown = [_number(name, mean[name][number]) for name in mean]
                text.append(f"| {probe} | {count} | {' | '.join(shown)} |")
    return "\n".join(text)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if name in ("accuracy", "confidence") else f"{value:.3g}"


def main() -> None:
    publish(sys.argv[1:], NAME, measure, table, STORED, PAGE)
    stored = load(STORED)
    against = restored(AgainstDepth, stored["against"][CNN])
    plot_against_depth(against, HOME / PAGE.parent / "against-depth.png")
    over = restored(OverTraining, stored["over_training"])
    plot_over_training(over, HOME / PAGE.parent / "over-training.png")


if __name__ == "__main__":
    main()
