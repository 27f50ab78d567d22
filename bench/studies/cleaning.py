"""Training labels cleaned, and a network trained again: what `pdepth.label_issues` is worth.

    python bench/studies/cleaning.py             what is not stored yet: measure, store, render
    python bench/studies/cleaning.py --render    the table of docs/cleaning.md, as stored

The first 5,000 training images of CIFAR-10 with wrong labels, and the network, as in
bench/studies/label_issues.py. A network that has fitted the wrong labels is asked for label errors;
what it flags by default is dropped or given the suggested label, and a new network is trained on
the outcome in the same way, from other weights. Beside it as many rows at random are dropped, and
as many by an oracle that knows the wrong labels (all of them, then others at random, where more are
flagged than are wrong). Accuracy is that on all 10,000 test images, whose labels are as they come.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from pdepth.analysis.label_errors import LabelIssues, find_issues
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import real_data
from pdepth.bench.pages import load, render, save
from pdepth.bench.studies import label_issues as planting

NAME, STORED = "bench/studies/cleaning.py", HOME / RESULTS / "cleaning.json"
PAGE = Path("docs", "cleaning.md")
SHARE, SEEDS = 0.2, planting.SEEDS
GIVEN, RIGHT = "labels as given", "labels all right"
DROPPED, RELABELLED = "flagged rows dropped", "flagged rows relabelled as suggested"
RANDOM = "as many dropped at random"
ORACLE, MENDED = "as many dropped by an oracle", "as many relabelled by an oracle"

Labels = NDArray[np.int64]
Cleaned = tuple[NDArray[np.int64], Labels]  # rows that stay, and their labels


def cleanings(
    issues: LabelIssues, truth: Labels, rng: np.random.Generator
) -> dict[str, Callable[[], Cleaned]]:
    """Each way to clean, and what is left by it."""
    labels, flagged = issues.label, np.flatnonzero(issues.is_issue)
    every = np.arange(len(labels))
    shuffled = rng.permutation(every)
    wrong = labels != truth
    known = np.concatenate([shuffled[wrong[shuffled]], shuffled[~wrong[shuffled]]])[: len(flagged)]

    def without(rows: NDArray[np.int64]) -> Cleaned:
        left = np.setdiff1d(every, rows)
        return left, labels[left]

    def changed(rows: NDArray[np.int64], to: Labels) -> Cleaned:
        mended = labels.copy()
        mended[rows] = to[rows]
        return every, mended

    return {
        GIVEN: lambda: (every, labels),
        DROPPED: lambda: without(flagged),
        RELABELLED: lambda: changed(flagged, issues.suggested),
        RANDOM: lambda: without(rng.permutation(every)[: len(flagged)]),
        ORACLE: lambda: without(known),
        MENDED: lambda: changed(known, truth),
        RIGHT: lambda: (every, truth),
    }


@torch.no_grad()
def accuracy(model: torch.nn.Module) -> float:
    """The share of CIFAR-10's test images whose label the network gives."""
    images, labels = real_data().dataset("test")[:]
    outputs = torch.cat([model(rows).argmax(1) for rows in images.split(500)])
    return float((outputs == torch.as_tensor(labels)).double().mean())


def measured(seed: int, known: dict[str, Any]) -> dict[str, Any]:
    """A seed's accuracies by way; those that are `known` stay."""
    cell = planting.Cell(planting.CIFAR10, planting.UNIFORM, SHARE, seed)
    found = planting.observed(cell)
    labels, truth = found["labels"], found["truth"]
    issues = find_issues(planting.counts_of(found["neighbors"], labels), range(10), labels)
    wrong = labels != truth
    record = known or {
        "seed": seed,
        "flagged": int(issues.is_issue.sum()),
        "wrong": int(wrong.sum()),
        "flagged_wrong": int(wrong[issues.is_issue].sum()),
        "seconds": 0,
        "accuracy": {},
    }
    images, _ = planting.images_of(planting.CIFAR10)
    again = planting.Cell(cell.data, cell.noise, cell.share, seed + SEEDS)  # other weights
    for name, clean in cleanings(issues, truth, np.random.default_rng(seed)).items():
        if name in record["accuracy"]:
            continue
        begin = time.process_time()
        rows, given = clean()
        model = planting.trained(
            again, TensorDataset(images[torch.from_numpy(rows)], torch.from_numpy(given))
        )
        record["accuracy"][name] = accuracy(model)
        record["seconds"] += round(time.process_time() - begin)
        print(seed, name, record["accuracy"][name], flush=True)
    return record


def interval(values: list[float]) -> str:
    """The mean in per cent, and half of its 95 % interval."""
    half = planting.T95 * stdev(values) / len(values) ** 0.5
    return f"{100 * mean(values):.1f} ± {100 * half:.1f}"


def table(stored: dict[str, Any]) -> str:
    """A line a way: the accuracy, and its difference from that with the labels as given."""
    runs = stored["runs"]
    flagged, wrong, hit = (
        mean(run[key] for run in runs) for key in ("flagged", "wrong", "flagged_wrong")
    )
    lines = [
        f"Mean of {len(runs)} seeds with its 95 % interval. Of {planting.IMAGES:,} labels "
        f"{wrong:,.0f} are wrong; {flagged:,.0f} are flagged, of which {hit:,.0f} are wrong. "
        f"{describe(stored['machine'])}.",
        "",
        "| trained on | test accuracy, % | less that of labels as given |",
        "| --- | ---: | ---: |",
    ]
    for name in runs[0]["accuracy"]:
        reached = [run["accuracy"][name] for run in runs]
        gained = [run["accuracy"][name] - run["accuracy"][GIVEN] for run in runs]
        lines.append(
            f"| {name} | {interval(reached)} | {'' if name == GIVEN else interval(gained)} |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--render"]):
        raise SystemExit(f"{NAME}: expected no argument or --render, got {' '.join(arguments)}.")
    stored = load(STORED) if STORED.exists() else {"runs": []}
    known = {run["seed"]: run for run in stored["runs"]}
    for seed in range(SEEDS) if not arguments else ():
        known[seed] = measured(seed, known.get(seed, {}))
        runs = [known[each] for each in sorted(known)]
        save({"machine": machine(*planting.PACKAGES), "runs": runs}, STORED)
    render(NAME, table(load(STORED)), PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
