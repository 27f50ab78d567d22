"""What a call is told of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdepth.arrays import arguments
from pdepth.arrays.memory import parse_bytes
from pdepth.optional import require

AUTO = "auto"
LEAST_IN_FLIGHT = 2  # one that is searched while the lists of the one before are merged
IN_FLIGHT = 4  # with fewer, workers wait for each other's answers where votes are proven


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what of it a call takes.

    Attributes:
        address: of the cluster, "host:port"; "auto": that of the environment (RAY_ADDRESS), or
            one that runs on this machine, or a local Ray that is started for the call. A Ray that
            is already initialised in this process is used in any case, and left running.
        workers: processes that share the support's rows; None: as many as there is room for,
            each on one machine.
        cpus_per_worker: threads of the search in each.
        gpus_per_worker: GPUs of each; with 1, networks and the triton backend run there.
        memory_per_worker: bytes that each may take for rows in work, or an amount such as "8GiB";
            Ray sets so much of its memory aside.
        resources: custom resources of Ray that each worker takes, by name.
        runtime_env: of Ray's workers, as `ray.init` takes it.
        chunks_in_flight: query chunks, of 64 MB or 256 queries, that are in Ray's object
            store at a time, 2 or more; with fewer than 4 workers stand still at times. Where
            `memory_per_worker` does not hold a worker's rows, all queries that these pass by for
            are there, as `pdepth.plan` says.
    """

    address: str = AUTO
    workers: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0
    memory_per_worker: int | str | None = None
    resources: Mapping[str, float] | None = None
    runtime_env: Mapping[str, Any] | None = None
    chunks_in_flight: int = IN_FLIGHT

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not self.address:
            raise TypeError(f"address: expected 'auto' or 'host:port', got {self.address!r}.")
        if self.workers is not None:
            arguments.check_int(self.workers, "workers")
        arguments.check_int(self.cpus_per_worker, "cpus_per_worker")
        arguments.check_int(self.chunks_in_flight, "chunks_in_flight", LEAST_IN_FLIGHT)
        gpus = self.gpus_per_worker
        if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus < 1e6:
            raise ValueError(f"gpus_per_worker: expected a number >= 0, got {gpus!r}.")
        if self.memory_per_worker is not None:
            parse_bytes(self.memory_per_worker, "memory_per_worker")
        if self.resources is not None and not isinstance(self.resources, Mapping):
            raise TypeError(
                f"resources: expected numbers by name, got a {type(self.resources).__name__}."
            )

    @classmethod
    def of(cls, cluster: str | Cluster) -> Cluster:
        """What the argument `cluster` of a call stands for: an address, "auto" or options.

        Raises TypeError for anything else, and ImportError where Ray is missing.
        """
        require("ray", "cluster=", "ray")
        if isinstance(cluster, Cluster):
            return cluster
        if isinstance(cluster, str) and cluster:
            return cls(cluster)
        raise TypeError(
            "cluster: expected 'auto', an address or a pdepth.cluster.Cluster, got "
            f"{cluster!r:.60}."
        )

    @property
    def memory(self) -> int | None:
        """Bytes of a worker; None where the caller set no limit."""
        return None if self.memory_per_worker is None else parse_bytes(self.memory_per_worker)
