"""Cases of real layers: the embeddings that studies/networks.py keeps, one layer a case."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

import pdepth
from pdepth.bench.cases.catalogue import VOTES, Case, whole_votes
from pdepth.bench.cases.tasks import Sizes, Task
from pdepth.bench.data import CACHE
from pdepth.bench.studies.networks import MODELS
from pdepth.bench.suite.shapes import K


def of_layer(store: Path, probe: str, sizes: Sizes) -> Task:
    """The first rows of a probe's support and queries, read into memory."""
    kept = pdepth.open_store(store)
    assert kept.queries is not None
    support, queries = (
        np.array(part.embeddings[probe][: most // sizes.divisor])
        for part, most in ((kept.support, sizes.support), (kept.queries, sizes.queries))
    )
    return Task(support, np.array(kept.support.labels[: len(support)]), queries, K)


def layers(folder: Path = CACHE) -> tuple[list[Case], list[str]]:
    """A case a probe of each network whose embeddings are there; a sentence for each other one."""
    cases, missing = [], []
    for name in MODELS:
        store = folder / name / "store"
        if not (store / "manifest.json").is_file():
            missing.append(
                f"{name}'s layers are left out: {store} holds no embeddings; "
                f"`python bench/studies/networks.py {name}` makes them."
            )
            continue
        for probe in pdepth.open_store(store).probes:
            task = partial(of_layer, store, probe)
            cases.append(Case(name, probe, task, whole_votes(), VOTES))
    return cases, missing
