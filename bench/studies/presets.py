"""How many prediction depths differ under the rules of other code, on CIFAR-10 and its ResNet18.

    python bench/studies/presets.py [--store DIR]    measures; stored, and rendered into docs/presets.md
    python bench/studies/presets.py --render         the page's table from the stored result

2,000 training images vote; counted are the depths of 400 of them, drawn at random, and of 400 test
images. DIR keeps the embeddings, 3 GB, between calls; without it they lie in a temporary directory.
The data lies beside the repository, or where PDEPTH_DATA says. The gate: of those depths that the
presets' are compared with, the votes of 10 queries at every probe are the definition's, or the run
ends.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

import pdepth
from pdepth import DepthResult
from pdepth.bench.common import HOME, RESULTS, definition_votes, machine, real_data, render, where
from pdepth.compat import presets
from pdepth.io.atomic import replacing
from pdepth.io.embedding_store import EmbeddingStore, is_store

NAME, STORED, PAGE = (
    "bench/studies/presets.py",
    HOME / RESULTS / "presets.json",
    Path("docs", "presets.md"),
)
SUPPORT, QUERIES, CHECKED, MEMORY = 2_000, 400, 10, "2GB"


def embeddings(path: Path) -> EmbeddingStore:
    """The store in a directory, made if it is not there."""
    if not is_store(path):
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


def asked(store: EmbeddingStore) -> dict[str, dict[str, Any]]:
    """What is asked of each rule, by what it is called: the support's own rows, and held-out."""
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


def check(store: EmbeddingStore, result: DepthResult, given: dict[str, Any]) -> None:
    """Compare some of the votes with the definition's, or end the run."""
    some = np.random.default_rng(1).choice(QUERIES, CHECKED, replace=False)
    rows = given["query_rows"][some] if "query_rows" in given else None
    for number, (name, support) in enumerate(store.support.embeddings.items()):
        queries = support[rows] if rows is not None else given["queries"][name][some]
        labels = np.asarray(store.support.labels)
        wanted = definition_votes(support, labels, queries, result.k, rows)
        if (wanted != result.votes[number, some]).any():
            raise SystemExit(f"{name}: votes differ from the definition's: no number.")


def measure(store: EmbeddingStore) -> dict[str, Any]:
    ways = asked(store)
    support, labels = store.support.embeddings, store.support.labels
    counted: dict[str, dict[str, list[int]]] = {name: {} for name in presets.RULES}
    for way, given in ways.items():
        wanted = pdepth.depth_from_embeddings(support, labels, early_exit=False, **given)
        check(store, wanted, given)
        for preset in presets.RULES:
            begin = time.perf_counter()
            found = presets.depth(support, labels, preset=preset, early_exit=False, **given)
            counted[preset][way] = [
                int((found.depth != wanted.depth).sum()),
                int((found.votes != wanted.votes).sum()),
                int(found.undefined.sum()),
                int(wanted.undefined.sum()),
            ]
            seconds = time.perf_counter() - begin
            print(f"{preset}, {way}: {counted[preset][way]}, {seconds:.1f} s", flush=True)
    return {"counted": counted, "probes": len(store.probes), "machine": machine("numpy", "torch")}


def table(stored: dict[str, Any]) -> str:
    votes = stored["probes"] * QUERIES
    undefined = [stored["counted"]["aucurriculum"][way][3] for way in ("own", "held out")]
    lines = [
        f"ResNet18, {stored['probes']} probes, {SUPPORT:,} training images as support: depths that "
        f"differ from the definition's, in its numbering, of {QUERIES} of the support's own rows "
        f"(left out of their votes by the definition) and of {QUERIES} test images; in brackets "
        f"votes of {votes:,}. Undefined by the definition: {undefined[0]} and {undefined[1]}. "
        f"{where(stored['machine'])}.",
        "",
        "| preset | own rows | undefined | test images | undefined |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for preset, ways in stored["counted"].items():
        cells = [
            f"{ways[way][0]} ({ways[way][1]:,}) | {ways[way][2]}" for way in ("own", "held out")
        ]
        lines.append(f"| `{preset}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    options = sys.argv[1:]
    if options != ["--render"]:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(options[1] if options[:1] == ["--store"] else scratch)
            stored = measure(embeddings(path))
        with replacing(STORED) as temporary:
            temporary.write_text(json.dumps(stored, indent=1) + "\n")
    render(NAME, table(json.loads(STORED.read_text())), PAGE)


if __name__ == "__main__":
    main()
