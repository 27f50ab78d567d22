"""Digits with labels that are wrong: predicting from a middle probe.

    python bench/studies/noise.py             measure, store, render into docs/analysis.md
    python bench/studies/noise.py --render    the page's tables, as stored

The demo's network and its moved digits. Of 1,297 images, by a shuffle of the seed, 1,097 train the
network and vote, 200 choose the probe; of both kinds a share has one of the nine other classes for
its label, drawn once. Accuracy is that on the last 500 images, whose labels are right. EPOCHS are
enough for the network to learn most wrong labels by heart; nothing else was chosen by its outcome.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from pdepth import demo, prediction_depth, probe_votes
from pdepth.analysis.middle import MiddleProbeClassifier
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.pages import publish
from pdepth.io.embedding_store import open_store

NAME, STORED, PAGE = (
    "bench/studies/noise.py",
    HOME / RESULTS / "noise.json",
    Path("docs", "analysis.md"),
)
SEEDS, SHARES, EPOCHS, K = range(5), (0.0, 0.2, 0.4), 60, 30
CHOOSING = 200
T95 = 2.776  # of Student's distribution with len(SEEDS) - 1 degrees of freedom
PACKAGES = ("scikit-learn", "numpy", "torch")
TRAIN, NETWORK = "network, on its own training labels", "network"
BEST, MIX = "`MiddleProbeClassifier`, best", "`MiddleProbeClassifier`, mix"
LAST = "k-NN at the last hidden layer"


def planted(labels: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The labels, a share of them changed to another class."""
    noisy = labels.astype(np.int64)
    wrong = rng.permutation(len(noisy))[: round(share * len(noisy))]
    noisy[wrong] = (noisy[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return noisy


def one_run(share: float, seed: int, folder: Path) -> dict[str, Any]:
    """Accuracies, and the probes chosen."""
    x, truth = demo.moved_digits().tensors
    rng = np.random.default_rng([seed, round(100 * share)])
    order = rng.permutation(demo.SUPPORT)
    splits = {
        "support": order[CHOOSING:],
        "choosing": order[:CHOOSING],
        "test": np.arange(demo.SUPPORT, len(x)),
    }
    labels = {
        name: truth[rows].numpy() if name == "test" else planted(truth[rows].numpy(), share, rng)
        for name, rows in splits.items()
    }
    data = {n: TensorDataset(x[rows], torch.from_numpy(labels[n])) for n, rows in splits.items()}
    model = demo.train(data["support"], seed, EPOCHS)
    embeddings: dict[str, list[Any]] = {}
    accuracy = {}
    for name in ("choosing", "test"):
        prediction_depth(
            model,
            data["support"],
            data[name],
            layers=demo.LAYERS,
            keep_embeddings=folder / f"{share}-{seed}-{name}",
            progress=False,
        )
        store = open_store(folder / f"{share}-{seed}-{name}")
        embeddings["support"] = [np.array(rows) for rows in store.support.embeddings.values()]
        embeddings[name] = [np.array(rows) for rows in store.asked.embeddings.values()]
        if name == "test":
            accuracy[NETWORK] = float((store.asked.predictions == labels[name]).mean())
            accuracy[TRAIN] = float((store.support.predictions == labels["support"]).mean())
    probes = {}
    for name, mode in ((BEST, "best"), (MIX, "mix")):
        middle = MiddleProbeClassifier(K, mode=mode)
        middle.fit(
            embeddings["support"], labels["support"], embeddings["choosing"], labels["choosing"]
        )
        accuracy[name] = middle.score(embeddings["test"], labels["test"])
        probes[name] = [middle.probes_.start, middle.probes_.stop - 1]
    support, test = (embeddings[name][-2] for name in ("support", "test"))
    last = probe_votes(support, labels["support"], test, k=K).votes
    accuracy[LAST] = float((last == labels["test"]).mean())
    return {"share": share, "seed": seed, "accuracy": accuracy, "probes": probes}


def measure() -> dict[str, Any]:
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for share in SHARES:
            for seed in SEEDS:
                runs.append(one_run(share, seed, Path(folder)))
                print(json.dumps(runs[-1]), flush=True)
    return {"machine": machine(*PACKAGES), "epochs": EPOCHS, "k": K, "runs": runs}


def interval(values: list[float]) -> str:
    """The mean in per cent, and half of its 95 % interval."""
    half = T95 * stdev(values) / len(values) ** 0.5
    return f"{100 * mean(values):.1f} ± {100 * half:.1f}"


def rows_of(runs: list[dict[str, Any]], shares: list[float]) -> list[str]:
    by_share = {share: [run for run in runs if run["share"] == share] for share in shares}
    return [
        f"| {name} | "
        + " | ".join(
            interval([run["accuracy"][name] for run in by_share[share]]) for share in shares
        )
        + " |"
        for name in by_share[shares[-1]][0]["accuracy"]
    ]


def table(stored: dict[str, Any]) -> str:
    runs = stored["runs"]
    shares = sorted({run["share"] for run in runs})
    head = "| % | " + " | ".join(f"{100 * share:.0f} % wrong" for share in shares) + " |"
    differences = [
        f"| {name} less the network | "
        + " | ".join(
            interval(
                [
                    run["accuracy"][name] - run["accuracy"][NETWORK]
                    for run in runs
                    if run["share"] == share
                ]
            )
            for share in shares
        )
        + " |"
        for name in (BEST, MIX)
    ]
    picked = "; ".join(
        f"{100 * share:.0f} % wrong: "
        + ", ".join(str(run["probes"][BEST][0]) for run in runs if run["share"] == share)
        for share in shares
    )
    return "\n".join(
        [
            f"Accuracy on 500 images with right labels (the second line: on the wrong and right "
            f"labels of training), mean of {len(SEEDS)} seeds with its 95 % interval; k = "
            f"{stored['k']}, {stored['epochs']} epochs. {describe(stored['machine'])}.",
            "",
            head,
            f"| --- |{' ---: |' * len(shares)}",
            *rows_of(runs, shares),
            *differences,
            "",
            "The best probe, of 0 (the input) to 5 (the softmax), a seed each: " + picked + ".",
        ]
    )


if __name__ == "__main__":
    publish(sys.argv[1:], NAME, measure, table, STORED, PAGE)
