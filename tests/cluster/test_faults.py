"""Workers, nodes and drivers that are killed at random moments: the same bits in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.cluster import Cluster, voter

from helpers.ray_clusters import NODE, disturbed, kill_a_worker, local_cluster
from helpers.same import same_depths
from helpers.spans import QUERIES, ROW, blobs, depth, same

pytestmark = pytest.mark.slow
MOMENTS = range(10)
RNG = np.random.default_rng(0)
LAYERS = [RNG.integers(-2, 3, (4000, width)).astype(np.float32) for width in (16, 32, 48)]
LABELS, PREDICTIONS = RNG.integers(0, 4, 4000), RNG.integers(0, 4, 4000)
SUPPORT, FEW = blobs(600), blobs(20, seed=1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes, on each of which both workers have room."""
    pytest.importorskip("ray")
    with local_cluster(nodes=2, cpus=2) as cluster:
        yield cluster


def of_arrays(**options: Any) -> Any:
    arguments: Any = LAYERS, LABELS, PREDICTIONS
    return pdepth.depth_from_embeddings(*arguments, k=[9, 3], early_exit=False, **options)


def of_network(queries: Any = QUERIES, **options: Any) -> Any:
    return depth(SUPPORT, queries, k=[3, 5], **options)


def disturbed_run(kind: str, folder: Path, disturb: Callable[[], object], moment: int) -> None:
    """A run whose workers lose something at a random moment has the bits of one process, and
    leaves on the disk what it is to leave."""
    workers, after = Cluster(workers=2), random.Random(moment).uniform(0, 2)
    queries = QUERIES
    if kind == "passing":  # by few queries, of most probes
        workers, queries = replace(workers, memory_per_worker=100 * ROW), FEW
    if kind == "arrays":
        with disturbed(disturb, after):
            got = of_arrays(cluster=workers)
        same_depths(got, of_arrays())
        return
    options: dict[str, Any] = {}
    if kind == "spilled":  # half of it
        workers, options = replace(workers, memory_per_worker=200 * ROW), {"spill": folder}
    if kind == "kept":
        options = {"keep_embeddings": folder / "kept"}
    with disturbed(disturb, after):
        got = of_network(queries, cluster=workers, **options)
    same(got, of_network(queries))
    if kind == "kept":
        pdepth.open_store(folder / "kept").verify()
    else:
        assert os.listdir(folder) == []


KINDS = ("arrays", "network", "spilled", "kept", "passing")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_killed(
    kind: str, moment: int, nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 14)
    rng = random.Random(moment)
    disturbed_run(kind, tmp_path, lambda: kill_a_worker(rng), moment)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_node_that_is_killed(
    moment: int, nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 14)

    def kill() -> None:
        nodes.remove_node(random.Random(moment).choice([*nodes.worker_nodes]), False)

    try:
        disturbed_run(KINDS[moment % len(KINDS)], tmp_path, kill, moment)
    finally:
        nodes.add_node(num_cpus=2, **NODE)


DRIVER = """
import sys
from ray._private import services
services.get_node_ip_address = lambda *_: "127.0.0.1"
from helpers.spans import QUERIES, ROW, blobs, depth
from pdepth.cluster import Cluster, voter
from pdepth.search import backward, voting

voter.CHUNK_BYTES, backward.QUERY_CHUNK, voting.CHUNK_QUERIES = 1 << 12, 16, 8
memory, spill = (200 * ROW, sys.argv[3]) if sys.argv[3:] else (None, None)
cluster = Cluster(sys.argv[1], workers=2, memory_per_worker=memory)
depth(blobs(600), QUERIES, k=[3, 5], run_dir=sys.argv[2], spill=spill, cluster=cluster)
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_driver_that_is_killed(moment: int, nodes: Any, tmp_path: Path) -> None:
    """The same call goes on, from what the journal and, of every second, the disk has."""
    spilled, options = tmp_path / "spilled", dict[str, Any]()
    spilled.mkdir()
    if moment % 2:
        options = {"spill": spilled}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, nodes.address, str(tmp_path / "run")]
    command += [str(spilled)] if options else []
    driver = subprocess.Popen(command, env=environment)
    while driver.poll() is None and not (tmp_path / "run").exists():
        time.sleep(0.02)
    time.sleep(random.Random(moment).uniform(0, 1))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    cluster = Cluster(workers=2, memory_per_worker=200 * ROW if options else None)
    same(of_network(run_dir=tmp_path / "run", cluster=cluster, **options), of_network())
    assert os.listdir(spilled) == []
