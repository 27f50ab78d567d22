"""Plans for clusters: bytes and shares, and what the command says."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth.arrays.arguments import Voting
from pdepth.cluster import Cluster
from pdepth.cluster.calibration import WorkerRates
from pdepth.cluster.pricing import (
    DRIVER_QUERY,
    DRIVER_ROW,
    DRIVER_VOTE,
    Measured,
    Sizes,
    parse_bandwidth,
    price,
)
from pdepth.cluster.traffic import foreseen
from pdepth.cluster.worker import Worker
from pdepth.embeddings import capture
from pdepth.io.array_files import PieceWriter

from helpers import inline_ray
from helpers.commands import invoke, refusal
from helpers.spans import BATCH, QUERIES, ROW, SUPPORT, depth, network


@pytest.mark.parametrize(
    ("text", "expected"), [("200Gb", 25e9), ("8 Mb/s", 1e6), ("1.6kbps", 200.0), ("8b", 1.0)]
)
def test_bandwidth(text: str, expected: float) -> None:
    assert parse_bandwidth(text) == expected


@pytest.mark.parametrize("text", ["", "200", "0Gb", "200GB/h", "fast"])
def test_no_bandwidth(text: str) -> None:
    with pytest.raises(ValueError, match="bandwidth: expected bits a second"):
        parse_bandwidth(text)


def test_shares_are_whole_batches() -> None:
    sizes = Sizes(100, 100, [10, 2], [40, 8], batch=30, voting=Voting.plain(5), own_rows=True)
    # Of an element of a pair 1 ms at width 2, and 3 ms at 10; 5 and 7 s of a query beside.
    rates = WorkerRates([2, 10], [0.002, 0.03], [5.0, 7.0], merge=0.5, votes=0.25, byte=0.001)
    for workers, largest in ((1, 100), (2, 60), (3, 60), (4, 30), (7, 30)):
        plan = price(sizes, workers, Measured(10.0, rates), bandwidth=1e3)
        assert plan.memory == largest * 48
        assert plan.forward_seconds == pytest.approx(largest / 10)
        having = min(workers, 4)
        assert plan.traffic == foreseen(sizes.asked, having)
        lists = 100 * (largest * 0.032 + 12)
        assert plan.search_seconds == pytest.approx(
            lists + 100 * (2 * (0.5 * (having - 1) + 0.25) + 48 * 0.001) / having
        )
        assert plan.driver == 100 * (DRIVER_ROW + DRIVER_QUERY + 2 * DRIVER_VOTE)
        # The queries of 100 rows, with their numbers, to all workers but the one that has them.
        assert plan.traffic.queries == 100 * (48 + 16) * (having - 1)
        assert plan.travel_seconds == pytest.approx(plan.traffic.queries / having / 1e3)


@pytest.mark.parametrize("queries", [None, QUERIES])
def test_plan_of_a_network(queries: Any) -> None:
    plan = pdepth.plan(
        network(), SUPPORT, queries, batch_size=BATCH, k=5, cluster=Cluster(workers=2),
        bandwidth="1Gb", rows=16 * BATCH,
    )  # fmt: skip
    there = plan.cluster
    assert there is not None
    assert plan.support == 16 * BATCH
    assert there.memory == (8 * BATCH + (0 if queries is None else 3 * BATCH)) * ROW
    assert there.seconds is not None
    assert (there.forward_seconds or 0) > 0
    assert "on a cluster\nworkers     2, " in str(plan)
    assert "of the support to be searched nothing" in str(plan)


@pytest.mark.parametrize("rows", [None, 150, 180, 250, 600])
@pytest.mark.parametrize("queries", [None, QUERIES], ids=["own", "queries"])
def test_passes_of_a_memory(
    queries: Any, rows: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a worker makes over its support, some probes at a time, and what it spills."""
    monkeypatch.setattr("pdepth.search.voting.CHUNK_QUERIES", 16)
    monkeypatch.setattr("pdepth.cluster.pricing.CHUNK_QUERIES", 16)
    for module in ("voter", "pricing"):
        monkeypatch.setattr(f"pdepth.cluster.{module}.CHUNK_BYTES", 1 << 10)
    inline_ray.install(monkeypatch)
    forwarded, written, forward = 0, 0, capture.forward
    write = PieceWriter.write

    def counted(layout: Any, what: str, batches: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal forwarded
        for begin, batch in batches:
            forwarded += len(batch.labels) * (what == "support")
            yield from forward(layout, what, [(begin, batch)], *arguments, **options)

    def counted_bytes(writer: PieceWriter, block: Any) -> None:
        nonlocal written
        written += len(block)
        write(writer, block)

    monkeypatch.setattr(capture, "forward", counted)
    cluster = Cluster(workers=1, memory_per_worker=rows and rows * ROW)
    options: dict[str, Any] = {"k": 5, "batch_size": BATCH, "cluster": cluster}
    depth(SUPPORT, queries, early_exit=False, cluster=cluster)
    there = pdepth.plan(network(), SUPPORT, queries, **options, measure=False).cluster
    assert there is not None
    assert there.passes == forwarded / len(SUPPORT)
    monkeypatch.setattr(PieceWriter, "write", counted_bytes)
    forwarded = 0
    depth(SUPPORT, queries, early_exit=False, spill=tmp_path, cluster=cluster)
    options["spill"] = tmp_path
    there = pdepth.plan(network(), SUPPORT, queries, **options, measure=False).cluster
    assert there is not None
    assert there.passes == forwarded / len(SUPPORT) == 1
    assert (there.spilled > 0) == (there.memory > (rows or 10**9) * ROW * 3 // 4)
    assert there.spilled <= written <= there.spilled + 10_000  # headers, labels and checksums


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processor_time_is_what_workers_take(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 30 %, without early exit; a worker's own, and not that of Ray."""
    inline_ray.install(monkeypatch)
    torch.manual_seed(0)
    sizes = (128, *[256] * 3)
    layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(sizes)]
    model = nn.Sequential(*[module for layer in layers for module in layer], nn.Linear(256, 10))
    support, queries = (
        TensorDataset(torch.randn(rows, 128), torch.arange(rows) % 10) for rows in (16000, 4000)
    )
    cluster = Cluster(workers=workers)
    taken = 0.0
    proving = ("bounds", "merged_bounds", "proof", "wanted", "distances", "proof_by_distances")
    for name in ("read", "queries", "lists", "merged", "votes", *proving):
        method = getattr(Worker, name)

        def timed(*arguments: Any, method: Any = method, **options: Any) -> Any:
            nonlocal taken
            begin = time.process_time()
            try:
                return method(*arguments, **options)
            finally:
                taken += time.process_time() - begin

        monkeypatch.setattr(Worker, name, timed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratios = []
        for _ in range(3):  # others may work beside these
            taken = 0.0
            pdepth.prediction_depth(
                model, support, queries, early_exit=False, progress=False, cluster=cluster
            )
            measured = taken
            there = pdepth.plan(model, support, queries, cluster=cluster).cluster
            assert there is not None
            ratios.append(workers * (there.seconds or 0.0) / measured)
    finally:
        torch.set_num_threads(threads)
    assert 0.7 < sorted(ratios)[1] < 1.3, ratios


def test_how_many_workers() -> None:
    with pytest.raises(ValueError, match="workers: expected a number of workers to plan for"):
        pdepth.plan(network(), SUPPORT, measure=False, k=5, cluster=Cluster())


def test_a_bandwidth_of_no_cluster() -> None:
    with pytest.raises(ValueError, match="bandwidth: expected None without cluster, got '10Gb'"):
        pdepth.plan(network(), SUPPORT, measure=False, k=5, bandwidth="10Gb")
    for wrong in ("fast", "0Gb"):
        with pytest.raises(ValueError, match="bandwidth: expected bits a second"):
            pdepth.plan(network(), [], k=5, cluster=Cluster(workers=2), bandwidth=wrong)


def test_command(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\n\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(),"
        " torch.nn.Linear(8, 3))\n"
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(90) % 3)
    data = f"npz:{tmp_path / 'data.npz'}"
    arguments = [f"{tmp_path / 'nets.py'}:net", "--support", data, "-k", "5"]
    more = ["--cluster", "--workers", "64", "--gpus", "1", "--bandwidth", "200Gb"]
    done = invoke("plan", *arguments, "--rows", "1281167", *more)
    assert done.exit_code == 0, done.output
    for words in ("1,281,167 of support", "on a cluster\nworkers     64", "of each worker's"):
        assert words in done.stdout
    alone = refusal("plan", *arguments, "--workers", "64")
    assert "--workers: expected together with --cluster, got alone." in alone
