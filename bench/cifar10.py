"""CIFAR-10 and its ResNet18, as `pdepth run` takes them; the data lies beside the repository.

    pdepth run bench/cifar10.py:resnet18 --support bench/cifar10.py:support \\
        --queries bench/cifar10.py:queries --out cifar10-depth --all-votes

    python bench/cifar10.py cifar10-depth    check 50 random queries against the definition
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import nn
from torch.utils.data import Dataset, Subset

DATA = Path(os.environ.get("PDEPTH_DATA", Path(__file__).parents[2] / "shared" / "data"))
SUPPORT, QUERIES = 10_000, 2_000


def _source() -> ModuleType:
    path = DATA / "cifar10.py"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; PDEPTH_DATA names the folder that holds it.")
    spec = importlib.util.spec_from_file_location("cifar10_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resnet18() -> nn.Module:
    """torchvision's ResNet18 with the CIFAR stem, trained."""
    model: nn.Module = _source().resnet18()
    return model


def support() -> Dataset:
    """The first 10,000 training images."""
    return Subset(_source().dataset("train"), range(SUPPORT))


def queries() -> Dataset:
    """The first 2,000 test images."""
    return Subset(_source().dataset("test"), range(QUERIES))


def check(folder: Path, asked: int = 50) -> None:
    """Recompute random queries' votes by the definition, a stretch of the support at a time."""
    from pdepth import DepthResult, definition
    from pdepth.embeddings.capture import at_rest, capture, inspect
    from pdepth.embeddings.data import Source
    from pdepth.embeddings.placement import place

    result = DepthResult.load(folder / "depth.parquet")
    model = resnet18()
    sources = [Source(support(), "support", 256), Source(queries(), "queries", 256)]
    with at_rest(model):
        layout = inspect(model, place(model), sources[0].first[0])
        own, held_out = (capture(model, layout, source) for source in sources)
    rows = np.random.default_rng(0).choice(len(result), asked, replace=False)
    labels = np.asarray(own.labels)
    differing = 0
    for number, name in enumerate(result.probes):
        wanted = definition.as_rows(held_out.embeddings[number][rows])
        distances = np.concatenate(
            [
                [definition.squared_distances(part, query) for query in wanted]
                for part in map(definition.as_rows, own.embeddings[number].split(250))
            ],
            axis=1,
        )
        near = [labels[definition.nearest(each, result.k)] for each in distances]
        counts = np.stack([np.bincount(each, minlength=10) for each in near])
        known = result.known[number, rows]
        wrong = int((definition.majority(counts)[0] != result.votes[number, rows])[known].sum())
        print(f"{name}: {known.sum()} votes, {wrong} differ", flush=True)
        differing += wrong
    raise SystemExit(f"{differing} votes differ from the definition" if differing else 0)


if __name__ == "__main__":
    check(Path(sys.argv[1]))
