"""Workers, nodes and drivers that are killed at random moments: the same bits in the end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.cluster import Cluster, voter

from helpers.ray_clusters import NODE, disturbed, kill_a_worker, local_cluster
from helpers.same import same_depths
from helpers.spans import QUERIES, blobs, depth, same

pytestmark = pytest.mark.slow
MOMENTS = range(10)
RNG = np.random.default_rng(0)
LAYERS = [RNG.integers(-2, 3, (4000, width)).astype(np.float32) for width in (16, 32, 48)]
LABELS, PREDICTIONS = RNG.integers(0, 4, 4000), RNG.integers(0, 4, 4000)
SUPPORT = blobs(600)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes, on each of which both workers have room."""
    pytest.importorskip("ray")
    with local_cluster(nodes=2, cpus=2) as cluster:
        yield cluster


def of_arrays(**options: Any) -> Any:
    arguments: Any = LAYERS, LABELS, PREDICTIONS
    return pdepth.depth_from_embeddings(*arguments, k=[9, 3], early_exit=False, **options)


def of_network(**options: Any) -> Any:
    return depth(SUPPORT, QUERIES, k=[3, 5], **options)


CALLS = {"arrays": (of_arrays, same_depths), "network": (of_network, same)}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", CALLS)
def test_a_worker_that_is_killed(
    kind: str, moment: int, nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 14)
    call, compare = CALLS[kind]
    rng = random.Random(moment)
    with disturbed(lambda: kill_a_worker(rng), after=0.2 * moment):
        got = call(cluster=Cluster(workers=2))
    compare(got, call())


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_node_that_is_killed(moment: int, nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 14)
    call, compare = CALLS[list(CALLS)[moment % 2]]

    def kill() -> None:
        nodes.remove_node(random.Random(moment).choice([*nodes.worker_nodes]), False)

    with disturbed(kill, after=0.2 * moment):
        got = call(cluster=Cluster(workers=2))
    nodes.add_node(num_cpus=2, **NODE)
    compare(got, call())


DRIVER = """
import sys
from ray._private import services
services.get_node_ip_address = lambda *_: "127.0.0.1"
from helpers.spans import QUERIES, blobs, depth
from pdepth.cluster import Cluster, voter
from pdepth.search import backward, voting

voter.CHUNK_BYTES, backward.QUERY_CHUNK, voting.CHUNK_QUERIES = 1 << 12, 16, 8
depth(blobs(600), QUERIES, k=[3, 5], run_dir=sys.argv[2], cluster=Cluster(sys.argv[1], workers=2))
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_driver_that_is_killed(moment: int, nodes: Any, tmp_path: Path) -> None:
    """The same call goes on, from what the journal has."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, nodes.address, str(tmp_path / "run")]
    driver = subprocess.Popen(command, env=environment)
    while driver.poll() is None and not (tmp_path / "run").exists():
        time.sleep(0.02)
    time.sleep(0.1 * moment)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    same(of_network(run_dir=tmp_path / "run", cluster=Cluster(workers=2)), of_network())
