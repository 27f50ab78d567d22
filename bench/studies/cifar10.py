"""The main job on real data: CIFAR-10 under its ResNet18, 10,000 support and 2,000 test images.

    pdepth run bench/studies/cifar10.py:resnet18 --support bench/studies/cifar10.py:support \\
        --queries bench/studies/cifar10.py:queries --all-votes --batch-size 64 --out cifar10-depth

    python bench/studies/cifar10.py             measure that, check it, store it and render its table
    python bench/studies/cifar10.py --render    the table of docs/benchmarks.md from the stored result

The data lies beside the repository, or where PDEPTH_DATA says. The gate: the votes of 50 random
queries at every probe are compared with the definition's, and a difference ends the run.
"""

from __future__ import annotations

import json
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
from pdepth.bench.common import HOME, RESULTS, definition_votes, machine, real_data, render, where
from pdepth.embeddings.capture import at_rest, capture, inspect
from pdepth.embeddings.dataset import Batches
from pdepth.embeddings.placement import place
from pdepth.io.atomic import replacing

NAME, STORED = "bench/studies/cifar10.py", HOME / RESULTS / "cifar10.json"
FILE = Path(__file__).resolve()
SUPPORT, QUERIES = 10_000, 2_000


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


def check(result: DepthResult, asked: int = 50) -> int:
    """Recompute random queries' votes by the definition, a stretch of the support at a time.

    Returns how many were compared; the batches are those of the run, so that the embeddings have
    the same bits.
    """
    model = resnet18()
    sources = [Batches(support(), "support", 64), Batches(queries(), "queries", 64)]
    with at_rest(model):
        layout = inspect(model, place(model), sources[0].first[0])
        own, held_out = (capture(model, layout, source) for source in sources)
    rows = np.random.default_rng(0).choice(len(result), asked, replace=False)
    labels = np.asarray(own.labels)
    for number, name in enumerate(result.probes):
        wanted = definition_votes(
            own.embeddings[number], labels, held_out.embeddings[number][rows], result.k
        )
        differing = int((wanted != result.votes[number, rows]).sum())
        print(f"{name}: {asked} votes checked, {differing} differ", flush=True)
        if differing:
            raise SystemExit("The votes differ from the definition's: no number.")
    return asked * len(result.probes)


def table(stored: dict[str, Any]) -> str:
    lines = [
        f"{SUPPORT:,} support and {QUERIES:,} test images, ResNet18, k = 30, all votes: "
        f"{stored['seconds']:.0f} s from start to end, peak memory "
        f"{stored['peak_bytes'] / 1e9:.1f} GB, of which {stored['embedding_bytes'] / 1e9:.1f} GB "
        f"are the embeddings; {stored['checked']} votes compared with the definition, 0 differ; "
        f"{where(stored['machine'])}.",
        "",
        "| probe | width | k-NN accuracy | examples that settle here |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, width, accuracy, settled in stored["probes"]:
        lines.append(f"| {name} | {width:,} | {accuracy:.1%} | {settled} |")
    return "\n".join([*lines, f"| undefined | | | {stored['undefined']} |"])


def main() -> None:
    if sys.argv[1:] != ["--render"]:
        with tempfile.TemporaryDirectory() as out:
            stored = run(out)
            result = DepthResult.load(Path(out) / "depth.parquet")
        assert result.widths is not None
        settled = result.settled().tolist()
        stored |= {
            "embedding_bytes": 4 * sum(result.widths) * (SUPPORT + QUERIES),
            "probes": list(
                zip(
                    result.probes,
                    result.widths,
                    result.probe_accuracy().tolist(),
                    settled,
                    strict=False,  # the last of `settled` are the undefined
                )
            ),
            "undefined": settled[-1],
            "checked": check(result),
            "machine": machine("numpy", "torch", "torchvision"),
        }
        with replacing(STORED) as temporary:
            temporary.write_text(json.dumps(stored, indent=1) + "\n")
    render(NAME, table(json.loads(STORED.read_text())))


if __name__ == "__main__":
    main()
