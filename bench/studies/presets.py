"""How many prediction depths differ under the rules of other code, on CIFAR-10 and its ResNet18.

    python bench/studies/presets.py [--store DIR]    measure, store, render into docs/presets.md
    python bench/studies/presets.py --render         the page's table, as stored

2,000 training images vote; compared are the depths of 400 of them, drawn at random, and of 400 test
images. DIR keeps the embeddings, 3 GB, between calls; without it they lie in a temporary directory.
The data lies beside the repository, or where PDEPTH_DATA says. The gate: of the depths that the
presets' are compared with, the votes of 10 queries at every probe are the definition's, or the run
ends.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pdepth
from pdepth import DepthResult
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.data import real_data
from pdepth.bench.gate import definition_votes
from pdepth.bench.pages import publish
from pdepth.compat import presets
from pdepth.io.embedding_store import EmbeddingStore, is_store

NAME, STORED, PAGE = (
    "bench/studies/presets.py",
    HOME / RESULTS / "presets.json",
    Path("docs", "presets.md"),
)
SUPPORT, QUERIES, CHECKED, MEMORY = 2_000, 400, 10, "2GB"


def embeddings(path: Path) -> EmbeddingStore:
    """The store in a directory, made if there is none."""
    if not is_store(path):
        from torch.utils.data import Subset

        data = real_data()
        pdepth.prediction_depth(
            data.resnet18(),
            Subset(data.dataset("train"), range(SUPPORT)),
            Subset(data.dataset("test"), range(QUERIES)),
            keep_embeddings=path,
            memory=MEMORY,
            batch_size=64,
        )
    return pdepth.open_store(path)


def queries_of(store: EmbeddingStore) -> dict[str, dict[str, Any]]:
    """Arguments of each rule by kind of query: the support's own rows, and held-out ones."""
    assert store.queries is not None
    own = np.sort(np.random.default_rng(0).choice(SUPPORT, QUERIES, replace=False))
    return {
        "own": {"predictions": store.support.predictions[own], "query_rows": own},
        "held out": {
            "predictions": store.queries.predictions,
            "queries": store.queries.embeddings,
            "query_labels": store.queries.labels,
        },
    }


def check(store: EmbeddingStore, result: DepthResult, arguments: dict[str, Any]) -> None:
    """Compare a sample of the votes with the definition's; a difference ends the run."""
    sample = np.random.default_rng(1).choice(QUERIES, CHECKED, replace=False)
    rows = arguments["query_rows"][sample] if "query_rows" in arguments else None
    for number, (name, support) in enumerate(store.support.embeddings.items()):
        queries = support[rows] if rows is not None else arguments["queries"][name][sample]
        labels = np.asarray(store.support.labels)
        expected = definition_votes(support, labels, queries, result.k, rows)
        if (expected != result.votes[number, sample]).any():
            raise SystemExit(f"{name}: votes differ from the definition's: no number.")


def measure(folder: Path | None) -> dict[str, Any]:
    """How many depths and votes differ, and how many depths are undefined, a preset and kind.

    folder: keeps the embeddings; without one they are temporary.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return count(embeddings(folder or Path(scratch)))


def count(store: EmbeddingStore) -> dict[str, Any]:
    """`measure` of the embeddings in a store."""
    support, labels = store.support.embeddings, store.support.labels
    counted: dict[str, dict[str, list[int]]] = {name: {} for name in presets.RULES}
    for kind, arguments in queries_of(store).items():
        expected = pdepth.depth_from_embeddings(support, labels, early_exit=False, **arguments)
        check(store, expected, arguments)
        for preset in presets.RULES:
            begin = time.perf_counter()
            result = presets.depth(support, labels, preset=preset, early_exit=False, **arguments)
            counted[preset][kind] = [
                int((result.depth != expected.depth).sum()),
                int((result.votes != expected.votes).sum()),
                int(result.undefined.sum()),
                int(expected.undefined.sum()),
            ]
            seconds = time.perf_counter() - begin
            print(f"{preset}, {kind}: {counted[preset][kind]}, {seconds:.1f} s", flush=True)
    return {"counted": counted, "probes": len(store.probes), "machine": machine("numpy", "torch")}


def table(stored: dict[str, Any]) -> str:
    """A line a preset."""
    votes = stored["probes"] * QUERIES
    undefined = [stored["counted"]["aucurriculum"][kind][3] for kind in ("own", "held out")]
    lines = [
        f"ResNet18, {stored['probes']} probes, {SUPPORT:,} training images as support: depths that "
        f"differ from the definition's, in its numbering, of {QUERIES} of the support's own rows "
        f"(left out of their votes by the definition) and of {QUERIES} test images; in brackets "
        f"votes of {votes:,}. Undefined by the definition: {undefined[0]} and {undefined[1]}. "
        f"{describe(stored['machine'])}.",
        "",
        "| preset | own rows | undefined | test images | undefined |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for preset, kinds in stored["counted"].items():
        cells = [
            f"{kinds[kind][0]} ({kinds[kind][1]:,}) | {kinds[kind][2]}"
            for kind in ("own", "held out")
        ]
        lines.append(f"| `{preset}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, metavar="DIR")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    arguments = ["--render"] if options.render else []
    publish(arguments, NAME, partial(measure, options.store), table, STORED, PAGE)


if __name__ == "__main__":
    main()
