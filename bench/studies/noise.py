"""Digits with labels that are wrong: predicting from a middle probe, and finding the wrong ones.

    python bench/studies/noise.py             measures; stored, and rendered into docs/analysis.md
    python bench/studies/noise.py --render    the page's tables from the stored result

The demo's network and its moved digits. Of 1,297 images, by a shuffle of the seed, 1,097 train the
network and vote, 200 choose the probe; of both kinds a share has one of the nine other classes for
its label, drawn once. The last 500 images, labels right, are what accuracy is told of. EPOCHS are
enough for the network to learn most wrong labels by heart; nothing else was chosen by its outcome.

cleanlab ranks by `get_label_quality_scores` (its default, self-confidence) of probabilities that
it is given: as its tutorials do, those of a logistic regression, cross-validated, on features that
are scaled to unit variance; here on the last hidden layer, and on all probes side by side.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from pdepth import demo, prediction_depth, probe_votes
from pdepth.analysis.middle import MiddleProbeClassifier, mislabelled, precision_recall
from pdepth.bench.common import HOME, RESULTS, machine, publish, where
from pdepth.io.embedding_store import open_store

NAME, STORED, PAGE = (
    "bench/studies/noise.py",
    HOME / RESULTS / "noise.json",
    Path("docs", "analysis.md"),
)
SEEDS, SHARES, EPOCHS, K = range(5), (0.0, 0.2, 0.4), 60, 30
CHOOSING = 200
T95 = 2.776  # of Student's distribution with len(SEEDS) - 1 degrees of freedom
PACKAGES = ("cleanlab", "scikit-learn", "numpy", "torch")
TRAIN, NETWORK = "network, on its own training labels", "network"
BEST, MIX = "`MiddleProbeClassifier`, best", "`MiddleProbeClassifier`, mix"
LAST = "k-NN at the last hidden layer"


def planted(labels: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The labels, of which a share is another class."""
    given = labels.astype(np.int64)
    wrong = rng.permutation(len(given))[: round(share * len(given))]
    given[wrong] = (given[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return given


def one_run(share: float, seed: int, folder: Path) -> dict[str, Any]:
    """Accuracies, the probes chosen, and average precisions."""
    x, truth = demo.moved_digits().tensors
    rng = np.random.default_rng([seed, round(100 * share)])
    order = rng.permutation(demo.SUPPORT)
    parts = {
        "support": order[CHOOSING:],
        "choosing": order[:CHOOSING],
        "test": np.arange(demo.SUPPORT, len(x)),
    }
    labels = {
        name: truth[rows].numpy() if name == "test" else planted(truth[rows].numpy(), share, rng)
        for name, rows in parts.items()
    }
    data = {n: TensorDataset(x[rows], torch.from_numpy(labels[n])) for n, rows in parts.items()}
    model = demo.train(data["support"], seed, EPOCHS)
    kept: dict[str, list[Any]] = {}
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
        kept["support"] = [np.array(each) for each in store.support.embeddings.values()]
        kept[name] = [np.array(each) for each in store.asked.embeddings.values()]
        if name == "test":
            accuracy[NETWORK] = float((store.asked.predictions == labels[name]).mean())
            accuracy[TRAIN] = float((store.support.predictions == labels["support"]).mean())
    probes = {}
    for name, mode in ((BEST, "best"), (MIX, "mix")):
        middle = MiddleProbeClassifier(K, mode=mode)
        middle.fit(kept["support"], labels["support"], kept["choosing"], labels["choosing"])
        accuracy[name] = middle.score(kept["test"], labels["test"])
        probes[name] = [middle.probes_.start, middle.probes_.stop - 1]
    last = probe_votes(kept["support"][-2], labels["support"], kept["test"][-2], k=K).votes
    accuracy[LAST] = float((last == labels["test"]).mean())
    found = {"share": share, "seed": seed, "accuracy": accuracy, "probes": probes, "average": {}}
    wrong = labels["support"] != truth[parts["support"]].numpy()
    if wrong.any():
        scores = suspicions(kept["support"], labels["support"], probes[BEST][0]) | theirs(
            kept["support"], labels["support"], seed
        )
        found["average"] = {
            name: precision_recall(each, wrong).average for name, each in scores.items()
        }
    return found


def suspicions(support: list[Any], labels: NDArray[Any], chosen: int) -> dict[str, Any]:
    """Ours, of votes that leave each row out."""
    votes = probe_votes(support, labels, k=K, return_counts=True)
    found = mislabelled(votes, labels)
    return {
        "neighbours of all probes against the label": found.against,
        "depth against the label": found.depth,
        "the mean of both": found.both,
        "neighbours of the chosen probe against the label": 1
        - votes.counts[chosen][np.arange(len(labels)), np.searchsorted(votes.classes, labels)] / K,
    }


def theirs(support: list[Any], labels: NDArray[Any], seed: int) -> dict[str, Any]:
    """cleanlab's, the greatest the most suspicious."""
    if importlib.util.find_spec("cleanlab") is None:
        return {}
    rank = importlib.import_module("cleanlab.rank")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    flat = [each.reshape(len(each), -1) for each in support]
    features = {"the last hidden layer": flat[-2], "all probes": np.concatenate(flat, axis=1)}
    found = {}
    for name, rows in features.items():
        shares = cross_val_predict(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            rows,
            labels,
            cv=StratifiedKFold(5, shuffle=True, random_state=seed),
            method="predict_proba",
        )
        found[f"cleanlab on {name}"] = -rank.get_label_quality_scores(labels, shares)
    return found


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


def rows_of(runs: list[dict[str, Any]], what: str, shares: list[float]) -> list[str]:
    by_share = {share: [run for run in runs if run["share"] == share] for share in shares}
    return [
        f"| {name} | "
        + " | ".join(interval([run[what][name] for run in by_share[share]]) for share in shares)
        + " |"
        for name in by_share[shares[-1]][0][what]
    ]


def table(stored: dict[str, Any]) -> str:
    runs = stored["runs"]
    shares = sorted({run["share"] for run in runs})
    noisy = [share for share in shares if share]
    heads = [
        "| % | " + " | ".join(f"{100 * share:.0f} % wrong" for share in of) + " |\n"
        f"| --- |{' ---: |' * len(of)}"
        for of in (shares, noisy)
    ]
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
            f"{stored['k']}, {stored['epochs']} epochs. {where(stored['machine'])}.",
            "",
            heads[0],
            *rows_of(runs, "accuracy", shares),
            *differences,
            "",
            "The best probe, of 0 (the input) to 5 (the softmax), a seed each: " + picked + ".",
            "",
            "Average precision of finding the wrong labels among 1,097, likewise; by chance it is "
            "the share of the wrong.",
            "",
            heads[1],
            *rows_of(runs, "average", noisy),
        ]
    )


if __name__ == "__main__":
    publish(NAME, measure, table, STORED, PAGE)
