"""Planted wrong labels, found again: `pdepth.label_issues` beside cleanlab's scores and others.

    python bench/studies/label_issues.py                      every cell that is not stored yet
    python bench/studies/label_issues.py digits               those of one kind of data
    python bench/studies/label_issues.py cifar10 --seconds N  within N seconds of processor time; 0:
                                                              of what networks gave already
    python bench/studies/label_issues.py --again              scores anew, of what networks gave
    python bench/studies/label_issues.py --render             the page's tables, as stored

A cell is one network: data, a kind of noise, a seed. Each is stored when it is found, and what its
networks gave is kept in the folder of `bench.data.CACHE`, so that an interrupted study goes on, and
a changed score is measured without training again.

Digits: the demo's network and its 1,297 moved digits. CIFAR-10: the first 5,000 training images and
a convolutional network of four layers. Both are trained until they give nearly all labels that they
are trained on, the wrong ones too. Uniform noise: a share of the labels is changed to one of the
other classes; pair-flips: to the next class.

What cleanlab ranks by is out of sample: probabilities of three networks of the same kind, each
trained on two thirds and asked about the rest; and, as in its tutorials, those of a cross-validated
logistic regression on the last hidden layer of the network itself. Its k-NN score is Datalab's, of
features: those of the last hidden layer, k = 10. SimiFeat-like votes are of the 10 nearest by
cosine there (Zhu et al., arXiv 2110.06283). The confidence margin is the probability of the label
less the largest other one, out of sample. All are asked about the rows that the network was trained
on. The score's rule and its threshold were chosen on digits, those of seed 0 for the threshold.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.utils.data import TensorDataset

from pdepth import demo, depth_from_votes, kneighbors, prediction_depth
from pdepth.analysis.label_errors import find_issues
from pdepth.analysis.middle import precision_recall
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import CACHE, real_data
from pdepth.bench.pages import load, render, save
from pdepth.io.atomic import replacing
from pdepth.io.embedding_store import open_store

NAME, STORED = "bench/studies/label_issues.py", HOME / RESULTS / "label_issues.json"
PAGE = Path("docs", "analysis.md")
KEPT: Path = CACHE.parent / "label-issues"  # what networks gave, a file a cell
PACKAGES = ("cleanlab", "scikit-learn", "numpy", "torch")
SEEDS, FOLDS, K = 3, 3, 30
DIGITS, CIFAR10 = "digits", "cifar10"
UNIFORM, PAIRS = "uniform", "pair-flips"
EPOCHS = {DIGITS: 60, CIFAR10: 30}
IMAGES, BATCH, RATE = 5_000, 64, 3e-3  # of CIFAR-10


@dataclass(frozen=True)
class Cell:
    """One network: its data, a share of wrong labels, how they are drawn, and the seed of all."""

    data: str
    noise: str
    share: float
    seed: int

    @property
    def file(self) -> Path:
        return KEPT / f"{self.data}-{self.noise}-{round(100 * self.share)}-{self.seed}.npz"


def cells() -> Iterator[Cell]:
    """All, the cheap and the telling ones first."""
    shares = {DIGITS: (0.2, 0.1, 0.05, 0.4), CIFAR10: (0.2, 0.1, 0.4)}
    for data in (DIGITS, CIFAR10):
        kinds = [
            (UNIFORM, shares[data][0]),
            (PAIRS, 0.2),
            *((UNIFORM, s) for s in shares[data][1:]),
        ]
        for noise, share in kinds:
            for seed in range(SEEDS):
                yield Cell(data, noise, share, seed)


def planted(truth: NDArray[np.int64], cell: Cell) -> NDArray[np.int64]:
    """The labels, a share of them changed."""
    rng = np.random.default_rng([cell.seed, round(100 * cell.share)])
    labels = truth.copy()
    wrong = rng.permutation(len(labels))[: round(cell.share * len(labels))]
    labels[wrong] += rng.integers(1, 10, len(wrong)) if cell.noise == UNIFORM else 1
    noisy: NDArray[np.int64] = labels % 10
    return noisy


@cache
def images_of(data: str) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Images and their right labels."""
    if data == DIGITS:
        x, truth = (each[: demo.SUPPORT] for each in demo.moved_digits().tensors)
    else:
        x, truth = (each.clone() for each in real_data().dataset("train")[:IMAGES])
    return x, np.asarray(truth, np.int64)


def small_network() -> nn.Module:
    """Four convolutions and two dense layers, for images of 3 x 32 x 32."""

    def block(channels: int, out: int, stride: int = 1, *more: nn.Module) -> nn.Module:
        convolution = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(), *more)

    dense = nn.Sequential(nn.Flatten(), nn.Linear(96 * 4 * 4, 128), nn.ReLU())
    return nn.Sequential(
        OrderedDict(
            conv1=block(3, 32, 2),
            conv2=block(32, 48, 1, nn.MaxPool2d(2)),
            conv3=block(48, 64),
            conv4=block(64, 96, 1, nn.MaxPool2d(2)),
            dense=dense,
            classes=nn.Linear(128, 10),
        )
    )


LAYERS: dict[str, tuple[str, ...]] = {
    DIGITS: demo.LAYERS,
    CIFAR10: ("conv1", "conv2", "conv3", "conv4", "dense"),
}


def trained(cell: Cell, data: TensorDataset) -> nn.Module:
    """A network that gives nearly all labels that it is trained on."""
    if cell.data == DIGITS:
        return demo.train(data, cell.seed, EPOCHS[DIGITS])
    torch.manual_seed(cell.seed)
    model, (x, y) = small_network().to(memory_format=torch.channels_last), data.tensors
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    steps = EPOCHS[CIFAR10] * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(EPOCHS[CIFAR10]):
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            optimizer.zero_grad()
            inputs = x[rows].contiguous(memory_format=torch.channels_last)
            nn.functional.cross_entropy(model(inputs), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def probabilities(model: nn.Module, x: torch.Tensor) -> NDArray[np.float64]:
    return torch.cat([model(rows).softmax(1) for rows in x.split(500)]).double().numpy()


def observed(cell: Cell) -> dict[str, NDArray[Any]]:
    """What a cell's networks give: made once, and kept.

    labels, truth, predictions (N,); neighbors (L, N, K) int32, the nearest other rows at each
    probe; hidden (N, D), the last hidden layer; held_out (N, 10), probabilities out of sample.
    """
    if cell.file.exists():
        with np.load(cell.file) as kept:
            return dict(kept)
    begin = time.process_time()
    x, truth = images_of(cell.data)
    labels = planted(truth, cell)
    data = TensorDataset(x, torch.from_numpy(labels))
    model = trained(cell, data)
    with tempfile.TemporaryDirectory() as folder:
        result = prediction_depth(
            model, data, layers=LAYERS[cell.data], keep_embeddings=Path(folder) / "kept",
            progress=False,
        )  # fmt: skip
        layers = open_store(Path(folder) / "kept").support.embeddings
        neighbors = [kneighbors(rows, k=K)[1].astype(np.int32) for rows in layers.values()]
        hidden = np.array(layers["dense"], np.float32)
    held_out = np.empty((len(labels), 10))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=cell.seed)
    for rows, others in folds.split(labels, labels):
        part = TensorDataset(*data[torch.from_numpy(rows)])
        held_out[others] = probabilities(trained(cell, part), x[others])
    found: dict[str, Any] = {
        "labels": labels,
        "truth": truth,
        "predictions": result.predictions,
        "neighbors": np.stack(neighbors),
        "hidden": hidden,
        "held_out": held_out,
        "seconds": np.array(time.process_time() - begin),
    }
    KEPT.mkdir(parents=True, exist_ok=True)
    with replacing(cell.file) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **found)
    return found


OURS = "`pdepth.label_issues`"
FORMER, DEPTH = "depth and neighbours against the label, the former score", "depth alone"
CLEANLAB = "cleanlab, self-confidence out of sample"
LOGISTIC = "cleanlab, logistic regression on the last hidden layer"
KNN, SIMIFEAT = "cleanlab, k-NN of the last hidden layer", "SimiFeat-like votes"
MARGIN = "confidence margin out of sample"
SHORT = {FORMER: "the former score", CLEANLAB: "cleanlab, self-confidence"}
MEASURES = {"average": "average precision", "planted": "precision at the planted number"}
T95 = 4.303  # of Student's distribution with SEEDS - 1 degrees of freedom


def counts_of(neighbors: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Votes (L, N, 10) of neighbours (L, N, K)."""
    return np.stack(
        [(labels[neighbors] == label).sum(axis=2) for label in range(10)], axis=2
    ).astype(np.int32)


def out_of_sample(probabilities: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability of each label less the largest other one."""
    others, rows = probabilities.copy(), np.arange(len(labels))
    others[rows, labels] = -1
    margin: NDArray[np.float64] = probabilities[rows, labels] - others.max(axis=1)
    return margin


def scores_of(found: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Each score (N,), the greatest the likeliest error."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels, hidden = found["labels"], found["hidden"].astype(np.float64)
    rows, counts = np.arange(len(labels)), counts_of(found["neighbors"], labels)
    votes = counts.argmax(axis=2)
    depth = depth_from_votes(votes, labels)[0] / len(votes)
    against = 1 - counts[:, rows, labels].mean(axis=0) / K
    nearest = kneighbors(hidden, k=10, metric="cosine")[1]
    knn = KNeighborsClassifier(11).fit(hidden, labels).predict_proba(hidden)  # as Datalab has it
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    regression = cross_val_predict(model, hidden, labels, cv=folds, method="predict_proba")
    return {
        OURS: find_issues(counts, range(10), labels).score,
        FORMER: (against + depth) / 2,
        DEPTH: depth,
        CLEANLAB: -get_label_quality_scores(labels, found["held_out"]),
        LOGISTIC: -get_label_quality_scores(labels, regression),
        KNN: -get_label_quality_scores(labels, knn),
        SIMIFEAT: 1 - (labels[nearest] == labels[:, None]).mean(axis=1),
        MARGIN: -out_of_sample(found["held_out"], labels),
    }


def at_planted(score: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """The share of wrong labels among as many of the first as there are, equals in any order."""
    planted = int(wrong.sum())
    limit = np.sort(score)[-planted]
    above, equal = score > limit, score == limit
    rest = planted - int(above.sum())
    return float((wrong[above].sum() + rest * wrong[equal].mean()) / planted)


def decisions(found: dict[str, NDArray[Any]], wrong: NDArray[np.bool_]) -> dict[str, Any]:
    """Precision and recall of what is flagged without a threshold being passed."""
    from cleanlab.filter import find_label_issues

    counts = counts_of(found["neighbors"], found["labels"])
    flagged = {
        OURS: find_issues(counts, range(10), found["labels"]).is_issue,
        CLEANLAB: find_label_issues(found["labels"], found["held_out"], n_jobs=1),
    }
    return {
        name: {
            "flagged": int(flags.sum()),
            "precision": float(wrong[flags].mean()) if flags.any() else 0.0,
            "recall": float(flags[wrong].mean()),
        }
        for name, flags in flagged.items()
    }


def measured(cell: Cell) -> dict[str, Any]:
    """A cell's numbers."""
    found = observed(cell)
    labels, truth = found["labels"], found["truth"]
    wrong = labels != truth
    issues = find_issues(counts_of(found["neighbors"], labels), range(10), labels)
    return asdict(cell) | {
        "seconds": round(float(found["seconds"])),
        "fitted": float((found["predictions"] == labels).mean()),
        "out_of_sample": float((found["held_out"].argmax(axis=1) == truth).mean()),
        "suggested": float((issues.suggested == truth)[wrong].mean()),
        "scores": {
            name: {
                "average": precision_recall(score, wrong).average,
                "planted": at_planted(score, wrong),
            }
            for name, score in scores_of(found).items()
        },
        "decisions": decisions(found, wrong),
        "machine": machine(*PACKAGES),
    }


Value = Callable[[dict[str, Any]], float]


def at(*keys: str) -> Value:
    """An entry of a cell's record."""

    def value(record: dict[str, Any]) -> float:
        found: Any = record
        for key in keys:
            found = found[key]
        return float(found)

    return value


def less(one: Value, other: Value) -> Value:
    return lambda record: one(record) - other(record)


def lines_of_table() -> Iterator[tuple[str, Value | None]]:
    """Each line's name and its number of a cell; a heading has none."""
    for measure, title in MEASURES.items():
        yield f"*{title}*", None
        for name in (OURS, FORMER, DEPTH, CLEANLAB, LOGISTIC, KNN, SIMIFEAT, MARGIN):
            yield name, at("scores", name, measure)
        for name in (FORMER, CLEANLAB):
            ours, theirs = (at("scores", each, measure) for each in (OURS, name))
            yield f"{OURS} less {SHORT[name]}", less(ours, theirs)
    yield "*what is flagged by default*", None
    for name in (OURS, CLEANLAB):
        for what in ("precision", "recall"):
            yield f"{name}: {what}", at("decisions", name, what)
    yield "*the network*", None
    yield "gives the label that it was trained on", at("fitted")
    yield "is right out of sample", at("out_of_sample")
    yield "the label suggested for a wrong one is right", at("suggested")


def entry(values: list[float]) -> str:
    """The mean in per cent, with half of its 95 % interval where there are all seeds."""
    if len(values) < SEEDS:
        return f"{100 * mean(values):.1f} ({len(values)})"
    return f"{100 * mean(values):.1f} ± {100 * T95 * stdev(values) / SEEDS**0.5:.1f}"


def stored_cells(stored: dict[str, Any]) -> dict[Cell, dict[str, Any]]:
    names = [field.name for field in fields(Cell)]
    return {Cell(*(each[name] for name in names)): each for each in stored["cells"]}


def table(stored: dict[str, Any]) -> str:
    """A column a kind of noise, a line a score; then what is missing."""
    kept = stored_cells(stored)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for cell in cells():
        head = f"{cell.data}, {100 * cell.share:.0f} % {cell.noise}"
        kinds.setdefault(head, []).extend([kept[cell]] if cell in kept else [])
    missing = [f"{SEEDS - len(found)} of {head}" for head, found in kinds.items()]
    columns = {head: found for head, found in kinds.items() if found}
    machines = dict.fromkeys(describe(cell["machine"]) for cell in stored["cells"])
    lines = [
        f"Mean of {SEEDS} seeds with its 95 % interval, in brackets how many seeds there are, if "
        f"not {SEEDS}; k = {K}. {'; '.join(machines)}.",
        "",
        f"| % | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for name, value in lines_of_table():
        entries = [entry([value(c) for c in found]) if value else "" for found in columns.values()]
        lines.append(f"| {name} | {' | '.join(entries)} |")
    seconds = sum(each["seconds"] for each in stored["cells"])
    lines += ["", f"Networks and votes took {seconds / 60:.0f} min of processor time."]
    if missing := [each for each in missing if not each.startswith("0 ")]:
        lines.append(f"Not measured yet: {'; '.join(missing)}.")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", choices=[DIGITS, CIFAR10, []], default=[])
    parser.add_argument("--seconds", type=float, default=3 * 3600)
    for flag in ("--again", "--render"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args(arguments)
    stored = load(STORED) if STORED.exists() else {"cells": []}
    kept, begin = stored_cells(stored), time.process_time()
    for cell in cells() if not options.render else ():
        wanted = not options.data or cell.data in options.data
        anew = options.again and cell.file.exists()
        if not wanted or (cell in kept and not anew):
            continue
        if not cell.file.exists() and time.process_time() - begin >= options.seconds:
            continue
        kept[cell] = measured(cell)
        records = [kept[each] for each in cells() if each in kept]
        save({"cells": records}, STORED)
        print(json.dumps(kept[cell]), flush=True)
    render(NAME, table(load(STORED)), PAGE)


if __name__ == "__main__":
    main()
