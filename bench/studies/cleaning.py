"""Training labels cleaned, and a network trained again: what `pdepth.label_issues` is worth.

    python bench/studies/cleaning.py             what is not stored yet: measure, store, render
    python bench/studies/cleaning.py --render    the table of docs/cleaning.md, as stored

The first 5,000 training images of CIFAR-10 with wrong labels, and the network, as in
bench/studies/label_issues.py. The network that has fitted the wrong labels is asked for label
errors; what is flagged by default is dropped, or given the suggested label, and another network is
trained on the outcome in the same way, from other weights. Beside it as many rows at random are
dropped, and as many by an oracle that knows the wrong labels (all of them, then others at random,
where more are flagged than are wrong). Accuracy is that on all 10,000 test images.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

import pdepth
from pdepth.analysis.label_errors import LabelIssues
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import real_data
from pdepth.bench.pages import load, render, save
from pdepth.bench.studies import label_issues as planting

NAME, STORED = "bench/studies/cleaning.py", HOME / RESULTS / "cleaning.json"
PAGE = Path("docs", "cleaning.md")
SHARE, SEEDS = 0.2, planting.SEEDS
GIVEN = "labels as given"
DROPPED, RELABELLED = "flagged rows dropped", "flagged rows relabelled as suggested"
RANDOM, ORACLE = "as many dropped at random", "as many dropped by an oracle"

Labels = NDArray[np.int64]
Cleaned = tuple[Labels, Labels]  # numbers of the rows that stay, and their labels


def cleanings(issues: LabelIssues, truth: Labels, rng: np.random.Generator) -> dict[str, Cleaned]:
    """What each way leaves of the data."""
    labels, flagged = issues.label, np.flatnonzero(issues.is_issue)
    every = np.arange(len(labels))
    shuffled = rng.permutation(every)
    wrong = labels != truth
    known = np.concatenate([shuffled[wrong[shuffled]], shuffled[~wrong[shuffled]]])[: len(flagged)]

    def without(rows: Labels) -> Cleaned:
        left = np.setdiff1d(every, rows)
        return left, labels[left]

    return {
        DROPPED: without(flagged),
        RELABELLED: (every, np.where(issues.is_issue, issues.suggested, labels)),
        RANDOM: without(rng.permutation(every)[: len(flagged)]),
        ORACLE: without(known),
    }


@torch.no_grad()
def accuracy(model: torch.nn.Module) -> float:
    """The share of CIFAR-10's test images whose label the network gives."""
    images, labels = real_data().dataset("test")[:]
    outputs = torch.cat([model(rows).argmax(1) for rows in images.split(500)])
    return float((outputs == torch.as_tensor(labels)).double().mean())


def issues_of(model: torch.nn.Module, data: TensorDataset) -> LabelIssues:
    """Label errors among the rows that a network was trained on."""
    layers = planting.LAYERS[planting.CIFAR10]
    result = pdepth.prediction_depth(
        model, data, layers=layers, early_exit=False, return_neighbors=1, progress=False
    )
    return pdepth.label_issues(result)


def measured(seed: int) -> dict[str, Any]:
    """A seed's accuracies by way to clean."""
    begin = time.process_time()
    cell = planting.Cell(planting.CIFAR10, planting.UNIFORM, SHARE, seed)
    images, truth = planting.images_of(planting.CIFAR10)
    labels = planting.planted(truth, cell)

    def trained_on(rows: Labels, given: Labels, seed: int) -> tuple[torch.nn.Module, TensorDataset]:
        data = TensorDataset(images[torch.from_numpy(rows)], torch.from_numpy(given))
        return planting.trained(replace(cell, seed=seed), data), data

    model, data = trained_on(np.arange(len(labels)), labels, seed)
    issues, wrong = issues_of(model, data), labels != truth
    reached = {GIVEN: accuracy(model)}
    for name, (rows, given) in cleanings(issues, truth, np.random.default_rng(seed)).items():
        reached[name] = accuracy(trained_on(rows, given, seed + SEEDS)[0])
        print(seed, name, reached[name], flush=True)
    return {
        "seed": seed,
        "flagged": int(issues.is_issue.sum()),
        "wrong": int(wrong.sum()),
        "flagged_wrong": int(wrong[issues.is_issue].sum()),
        "seconds": round(time.process_time() - begin),
        "accuracy": reached,
    }


def table(stored: dict[str, Any]) -> str:
    """A line a way: the accuracy, and its difference from that with the labels as given."""
    runs = stored["runs"]
    flagged, wrong, hit = (
        mean(run[key] for run in runs) for key in ("flagged", "wrong", "flagged_wrong")
    )
    lines = [
        f"Mean of {SEEDS} seeds with its 95 % interval, in brackets how many there are, if not "
        f"{SEEDS}. Of {planting.IMAGES:,} labels {wrong:,.0f} are "
        f"wrong; {flagged:,.0f} are flagged, of which {hit:,.0f} are wrong. "
        f"{describe(stored['machine'])}.",
        "",
        "| trained on | test accuracy, % | less that of labels as given |",
        "| --- | ---: | ---: |",
    ]
    for name in runs[0]["accuracy"]:
        reached = [run["accuracy"][name] for run in runs]
        gained = [run["accuracy"][name] - run["accuracy"][GIVEN] for run in runs]
        more = "" if name == GIVEN else planting.entry(gained)
        lines.append(f"| {name} | {planting.entry(reached)} | {more} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--render"]):
        raise SystemExit(f"{NAME}: expected no argument or --render, got {' '.join(arguments)}.")
    stored = load(STORED) if STORED.exists() else {"runs": []}
    known = {run["seed"]: run for run in stored["runs"]}
    for seed in range(SEEDS) if not arguments else ():
        known[seed] = known.get(seed) or measured(seed)
        runs = [known[each] for each in sorted(known)]
        save({"machine": machine(*planting.PACKAGES), "runs": runs}, STORED)
    render(NAME, table(load(STORED)), PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
