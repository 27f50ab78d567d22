"""A Ray cluster of several nodes on this machine's loopback, whose parts can be killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
NODE: dict[str, Any] = {"node_ip_address": LOOPBACK, "object_store_memory": 80 << 20}


@contextmanager
def local_cluster(nodes: int, cpus: int) -> Iterator[Any]:
    """`ray.cluster_utils.Cluster` with a head without CPUs; this process is connected to it."""
    import ray
    from ray._private import services
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would put the address of a network's interface in place of the loopback's.
    services.get_node_ip_address = lambda *_: LOOPBACK
    cluster = Cluster(
        initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=cpus, **NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def worker_processes() -> list[int]:
    """The processes of workers below this one that have started, by their numbers."""
    parents, workers = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
            if (entry / "cmdline").read_bytes().startswith(b"ray::Worker"):
                workers.append(int(entry.name))
        except OSError:  # it has ended meanwhile
            continue

    def is_below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == os.getpid() or (parent > 1 and is_below(parent))

    return [worker for worker in workers if is_below(worker)]


def kill_a_worker(rng: random.Random) -> None:
    if workers := worker_processes():  # else all is done
        os.kill(rng.choice(workers), signal.SIGKILL)


@contextmanager
def disturbed(disturb: Callable[[], object], after: float) -> Iterator[None]:
    """Do something so many seconds after the first worker has started."""
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            while not worker_processes():
                time.sleep(0.02)
            time.sleep(after)
            disturb()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not errors, errors
