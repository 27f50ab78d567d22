"""The same on a real Ray: processes, an object store, and a connection."""

from __future__ import annotations

import _thread
import socket
import time
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.cluster import Cluster, voter, workers
from pdepth.cluster.workers import connected
from pdepth.progress import Event

from helpers.ray_clusters import worker_processes
from helpers.same import same_depths, same_votes
from helpers.spans import QUERIES as IMAGES
from helpers.spans import blobs, depth, same

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
    with pytest.raises(ValueError, match="gpus_per_worker: expected at most 2, the GPUs"):
        pdepth.probe_votes(SUPPORT, LABELS, cluster=Cluster(gpus_per_worker=3))
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
def test_depths_of_a_network(ray: Any) -> None:
    options: Any = {"k": [3, 5], "metric": "cosine"}
    same(
        depth(blobs(300), IMAGES, **options, cluster=Cluster(workers=3)),
        depth(blobs(300), IMAGES, **options),
    )


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
