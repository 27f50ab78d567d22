"""The same on a real Ray: processes, an object store, and a connection."""

from __future__ import annotations

import _thread
import socket
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.arrays.arguments import Voting
from pdepth.cluster import Cluster, voter, workers
from pdepth.cluster.pricing import Sizes
from pdepth.cluster.workers import connected
from pdepth.progress import Event

from helpers.ray_clusters import worker_processes
from helpers.same import same_depths, same_votes
from helpers.spans import QUERIES as IMAGES
from helpers.spans import ROW, WIDTHS, blobs, depth, same

RNG = np.random.default_rng(0)
SUPPORT = [RNG.integers(-2, 3, (400, width)).astype(np.float32) for width in (6, 12)]
QUERIES = [RNG.integers(-2, 3, (90, width)).astype(np.float32) for width in (6, 12)]
LABELS, PREDICTIONS = RNG.integers(0, 4, 400), RNG.integers(0, 4, 400)


def test_votes_of_processes(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 14)
    arguments: Any = SUPPORT, LABELS, PREDICTIONS
    same_depths(
        pdepth.depth_from_embeddings(*arguments, k=[30, 5], cluster="auto"),
        pdepth.depth_from_embeddings(*arguments, k=[30, 5]),
    )
    options: Any = {"k": 150, "weights": "exp", "metric": "cosine", "return_counts": True}
    kept = [layer + 3 for layer in SUPPORT], LABELS, QUERIES
    same_votes(
        pdepth.probe_votes(*kept, **options, cluster=Cluster(workers=3)),
        pdepth.probe_votes(*kept, **options),
    )
    assert ray.is_initialized()  # it was before


def test_an_error_of_a_worker_is_raised_here(ray: Any, tmp_path: Any) -> None:
    values = np.ones((50, 3), np.float32)
    values[41, 1] = np.nan
    np.save(tmp_path / "rows.npy", values)
    with pytest.raises(ValueError, match="NaN or infinity in row 41"):
        pdepth.probe_votes(
            tmp_path / "rows.npy", np.zeros(50, int), k=3, cluster=Cluster(workers=2)
        )


def test_more_workers_or_gpus_than_there_are(ray: Any) -> None:
    with pytest.raises(ValueError, match="workers: expected at most 3 on a cluster of 3 CPUs"):
        pdepth.probe_votes(SUPPORT, LABELS, cluster=Cluster(workers=4))
    with pytest.raises(ValueError, match="gpus_per_worker: expected at most . GPUs?, as a mach"):
        pdepth.probe_votes(SUPPORT, LABELS, cluster=Cluster(gpus_per_worker=3))
    with pytest.raises(ValueError, match="cpus_per_worker: expected at most . CPUs?, as a mach"):
        pdepth.probe_votes(SUPPORT, LABELS, cluster=Cluster(cpus_per_worker=4))
    with pytest.raises(
        ValueError, match="memory_per_worker: expected at most .*, got 9,000,000.0 GB"
    ):
        pdepth.probe_votes(SUPPORT, LABELS, cluster=Cluster(memory_per_worker=9 * 10**15))
    with pytest.raises(ValueError, match=r"resources\['fast'\]: expected at most 0 fast, as"):
        pdepth.probe_votes(SUPPORT, LABELS, cluster=Cluster(resources={"fast": 1}))
    with pytest.raises(ValueError, match="workers: expected at most 2 on a cluster of 2 GPUs"):
        pdepth.probe_votes(SUPPORT, LABELS, cluster=Cluster(workers=3, gpus_per_worker=1))


@pytest.mark.slow
def test_each_worker_has_a_device_of_its_own(ray: Any) -> None:
    """By what Ray declares; where there is no GPU behind it, the backend is interpreted."""
    with connected(Cluster(gpus_per_worker=1)) as there:
        there.start("cpu")
        devices = [about.devices for about in there.abouts]
    assert sorted(devices) == ["0", "1"]
    few: Any = SUPPORT[0][:40], LABELS[:40], SUPPORT[0][50:53]
    got = pdepth.probe_votes(*few, k=3, cluster=Cluster(gpus_per_worker=1))
    same_votes(got, pdepth.probe_votes(*few, k=3))


@pytest.mark.slow
def test_a_dataset_of_rays(ray: Any) -> None:
    """Of which each worker fetches its own blocks."""
    ray_data = pytest.importorskip("ray.data")
    x, y = (tensor.numpy() for tensor in blobs(300).tensors)
    rows = [{"input": row, "label": int(label)} for row, label in zip(x, y, strict=True)]
    data = ray_data.from_items(rows, override_num_blocks=7)
    same(depth(data, cluster=Cluster(workers=3)), depth(rows))


@pytest.mark.slow
def test_an_interrupt_ends_the_workers(ray: Any) -> None:
    def interrupted(event: Event) -> None:
        if event.stage == "probes":
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        depth(blobs(300), cluster=Cluster(workers=2), progress=interrupted, early_exit=False)
    deadline = time.monotonic() + 10
    while worker_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker_processes() == []
    assert ray.is_initialized()


@pytest.mark.slow
def test_an_interrupt_leaves_no_unfinished_store(ray: Any, tmp_path: Path) -> None:
    """Of a worker that has written its rows, and of one that may not have yet."""

    def interrupted(event: Event) -> None:
        if event.stage == "support":
            _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        depth(
            blobs(3000), cluster=Cluster(workers=2), progress=interrupted,
            keep_embeddings=tmp_path / "kept",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_depths_of_a_network(ray: Any) -> None:
    options: Any = {"k": [3, 5], "metric": "cosine"}
    same(
        depth(blobs(300), IMAGES, **options, cluster=Cluster(workers=3)),
        depth(blobs(300), IMAGES, **options),
    )


@pytest.mark.slow
@pytest.mark.parametrize("rows", [25, 100])
def test_a_support_that_passes_by(rows: int, ray: Any) -> None:
    """For a few queries at a time at one probe, and for all at several; one list or many."""
    queries, options = blobs(20, seed=1), {"k": [3, 5], "early_exit": False}
    cluster = Cluster(workers=3, memory_per_worker=rows * ROW)
    same(
        depth(blobs(600), queries, **options, cluster=cluster),
        depth(blobs(600), queries, **options),
    )


@pytest.mark.slow
@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_memory_where_the_call_is_made(own: bool, journal: bool, ray: Any, tmp_path: Path) -> None:
    """Counted at 1, 4 and 16 times the rows: at most 64 bytes a row and 32 a query and probe, and
    no more than the plan says; tensors of the data are not among them."""
    queries = None if own else IMAGES
    peaks = []
    for rows in (1000, 4000, 16000):
        run: dict[str, Any] = {"run_dir": tmp_path / str(rows)} if journal else {}
        options: Any = {"reference": "label", "batch_size": 500, "cluster": Cluster(workers=2)}
        tracemalloc.start()
        depth(blobs(rows), queries, **options, **run)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    asked, voting = int(own) * len(WIDTHS), Voting.plain(5)
    plan = Sizes(1, int(own), WIDTHS, WIDTHS, batch=1, voting=voting, own_rows=own).driver
    for more, less, rows in ((peaks[1], peaks[0], 3000), (peaks[2], peaks[1], 12000)):
        assert (more - less) / rows <= min(64 + 32 * asked, plan), peaks


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("ray")
    monkeypatch.setattr(library, "is_initialized", lambda: False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ConnectionError, match=f"cluster: expected a Ray cluster at {address}"):
            pdepth.probe_votes(SUPPORT, LABELS, cluster=address)
    assert time.monotonic() - begin < workers.ANSWER_SECONDS


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"cluster= needs ray: pip install 'pdepth\[ray\]'"):
        pdepth.probe_votes(SUPPORT, LABELS, cluster="auto")
