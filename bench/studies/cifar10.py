"""A whole job on real data: CIFAR-10 under its ResNet18, 10,000 support and 2,000 test images.

    pdepth run bench/studies/cifar10.py:resnet18 --support bench/studies/cifar10.py:support \\
        --queries bench/studies/cifar10.py:queries --all-votes --batch-size 64 --out cifar10-depth

    python bench/studies/cifar10.py             time that, check it, store it, render its table
    python bench/studies/cifar10.py --render    the table of docs/benchmarks.md, as stored

The data lies beside the repository, or where PDEPTH_DATA says. The gate: the votes of 50 random
queries at every probe are compared with the definition's, and a difference ends the run.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Dataset, Subset

from pdepth import DepthResult
from pdepth.bench.common import HOME, PAGE, RESULTS, describe, machine
from pdepth.bench.data import real_data
from pdepth.bench.gate import definition_votes
from pdepth.bench.pages import publish
from pdepth.embeddings.calling import at_rest
from pdepth.embeddings.capture import capture
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.inspection import inspect
from pdepth.embeddings.placement import ProbeOptions

NAME, STORED = "bench/studies/cifar10.py", HOME / RESULTS / "cifar10.json"
FILE = Path(__file__).resolve()
SUPPORT, QUERIES, CHECKED = 10_000, 2_000, 50


def resnet18() -> nn.Module:
    """torchvision's ResNet18 with the CIFAR stem, trained."""
    model: nn.Module = real_data().resnet18()
    return model


def support() -> Dataset[Any]:
    """The first 10,000 training images."""
    return Subset(real_data().dataset("train"), range(SUPPORT))


def queries() -> Dataset[Any]:
    """The first 2,000 test images."""
    return Subset(real_data().dataset("test"), range(QUERIES))


def run(out: str) -> dict[str, Any]:
    """`pdepth run` in a process of its own: seconds, and bytes of memory at its peak."""
    begin = time.perf_counter()
    options = f"--support {FILE}:support --queries {FILE}:queries --all-votes --batch-size 64"
    command = ["-m", "pdepth", "run", f"{FILE}:resnet18", *options.split(), "--out", out]
    subprocess.run([sys.executable, *command], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - begin, "peak_bytes": peak}


def check(result: DepthResult) -> int:
    """Compare random queries' votes with the definition's; returns how many, or ends the run.

    The batches are those of the run, so that the embeddings have the same bits.
    """
    model = resnet18()
    sources = [Batches(support(), "support", 64), Batches(queries(), "queries", 64)]
    with at_rest(model):
        layout = inspect(model, ProbeOptions(), sources[0].first.inputs)
        own, held_out = (capture(layout, source) for source in sources)
    rows = np.random.default_rng(0).choice(len(result), CHECKED, replace=False)
    labels = np.asarray(own.labels)
    for number, name in enumerate(result.probes):
        expected = definition_votes(
            own.embeddings[number], labels, held_out.embeddings[number][rows], result.k
        )
        differing = int((expected != result.votes[number, rows]).sum())
        print(f"{name}: {CHECKED} votes compared, {differing} differ", flush=True)
        if differing:
            raise SystemExit("The votes differ from the definition's: no number.")
    return CHECKED * len(result.probes)


def measure() -> dict[str, Any]:
    """The run, what it found, and how many of its votes were compared."""
    with tempfile.TemporaryDirectory() as out:
        record = run(out)
        result = DepthResult.load(Path(out) / "depth.parquet")
    assert result.widths is not None
    *settled, undefined = result.settled().tolist()
    columns = result.probes, result.widths, result.probe_accuracy().tolist(), settled
    return record | {
        "embedding_bytes": 4 * sum(result.widths) * (SUPPORT + QUERIES),
        "probes": list(zip(*columns, strict=True)),
        "undefined": undefined,
        "checked": check(result),
        "machine": machine("numpy", "torch", "torchvision"),
    }


def table(stored: dict[str, Any]) -> str:
    """A sentence on the run, and its probes."""
    lines = [
        f"{SUPPORT:,} support and {QUERIES:,} test images, ResNet18, k = 30, all votes: "
        f"{stored['seconds']:.0f} s from start to end, peak memory "
        f"{stored['peak_bytes'] / 1e9:.1f} GB, of which {stored['embedding_bytes'] / 1e9:.1f} GB "
        f"are the embeddings; {stored['checked']} votes compared with the definition, 0 differ; "
        f"{describe(stored['machine'])}.",
        "",
        "| probe | width | k-NN accuracy | examples that settle here |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, width, accuracy, settled in stored["probes"]:
        lines.append(f"| {name} | {width:,} | {100 * accuracy:.1f} % | {settled} |")
    return "\n".join([*lines, f"| undefined | | | {stored['undefined']} |"])


if __name__ == "__main__":
    publish(sys.argv[1:], NAME, measure, table, STORED, PAGE)
