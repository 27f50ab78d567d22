"""Ray: how a call comes to its workers, and lets them go."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pdepth.arrays.memory import human
from pdepth.cluster.options import AUTO, Cluster
from pdepth.cluster.sending import LONGEST_REASON, Kept
from pdepth.cluster.traffic import Rates, Traffic
from pdepth.cluster.worker import About, Worker, in_task
from pdepth.optional import require

log: logging.Logger = logging.getLogger("pdepth")
Ref = Any
"""A value in Ray's object store, or one that will be there."""
ANSWER_SECONDS = 15.0  # in which a cluster has to answer at its address
RETRIES = 10  # of one call, each after its worker died; then it is the call that ends workers
LAST_SECONDS = 10.0  # that workers have to remove what they leave on disks
PATIENCE = 30.0  # seconds of waiting before somebody looks why
USAGE = "RAY_USAGE_STATS_ENABLED"


class Workers:
    """The workers of a call, by their numbers, and the object store that they share.

    abouts: of each. free: bytes of memory that each finds free for itself; None where the system
    does not tell.
    traffic, rates: of all searches so far.
    """

    cluster: Cluster
    traffic: Traffic
    rates: Rates

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        self._ray, self.cluster = ray, cluster
        self.free: int | None = None
        self._count, self._actors = _count(ray, cluster), list[Any]()
        self.abouts: list[About] = []
        self.traffic, self.rates = Traffic(), Rates()

    def each(self, call: bytes, items: Sequence[Any], threads: int) -> Iterator[Any]:
        """The answers of a call to each of some items, by tasks of their own, in their order.

        call: the pickle of a function of one item. threads: of torch. A task that died is done
        again; no more of them than workers are there at a time.
        """
        task = self._ray.remote(in_task).options(
            **self._needs, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        sent, coming = Kept(self.put(call, "networks")), deque[Ref]()
        left = deque(items)
        try:
            while left or coming:
                while left and len(coming) < len(self):
                    coming.append(task.remote(sent, left.popleft(), threads))
                yield self.get(coming[0])
                coming.popleft()
        finally:
            for ref in coming:  # of a caller that has stopped
                self._ray.cancel(ref, force=True)

    @property
    def _needs(self) -> dict[str, Any]:
        """What a worker takes of the cluster, in Ray's words."""
        cluster = self.cluster
        return {
            "num_cpus": cluster.cpus_per_worker,
            "num_gpus": cluster.gpus_per_worker,
            "memory": cluster.memory,
            "resources": dict(cluster.resources or {}),
            "runtime_env": dict(cluster.runtime_env or {}) or None,
        }

    def check_rows(self, rows: int) -> None:
        """Raise ValueError for fewer rows of the support than workers were asked for; of those
        that nobody counted some may have none."""
        if rows < (self.cluster.workers or 0):
            raise ValueError(
                f"workers: expected at most {rows}, the rows of the support, got {len(self)}."
            )

    def start(self, backend: str, network: bool = False) -> None:
        """Start them, and know their memory. network: whether one will run there.

        Raises ValueError for a worker of another pdepth, Python or torch.
        """
        cluster = self.cluster
        if backend == "auto" and cluster.gpus_per_worker:
            backend = "triton"
        actor = self._ray.remote(Worker).options(
            **self._needs,
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
        self._actors = [actor.remote(number, backend) for number in range(len(self))]
        self._check(network)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Any:
        """A worker: its methods have `remote`, which gives a reference."""
        return self._actors[number]

    @property
    def cloudpickle(self) -> Any:
        """Ray's own, by which code of scripts and users' files goes along."""
        return self._ray.cloudpickle

    def put(self, value: Any, what: str) -> Ref:
        """Into the object store, once for all workers.

        Raises TypeError for what cannot be sent; `what` is the subject of the sentence.
        """
        try:
            return self._ray.put(value)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            raise TypeError(
                f"{what}: expected what can be sent to workers, got what cannot be pickled "
                f"({reason}); pass a path that they can open."
            ) from error

    def get(self, refs: Ref) -> Any:
        """The value of a reference, or those of a list; an error of a worker's is raised here."""
        waiting = refs if isinstance(refs, list) else [refs]
        while waiting:
            waiting = self._wait(waiting, len(waiting))[1]
        try:
            return self._ray.get(refs)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayActorError as error:
            raise RuntimeError(
                f"cluster: a worker ended {RETRIES + 1} times in the same call: "
                f"{' '.join(str(error).split())}"
            ) from error

    def _check(self, network: bool) -> None:
        here = About.here(network)
        self.abouts = self.get([actor.about.remote(network) for actor in self._actors])
        for number, about in enumerate(self.abouts):
            for name, version in about.versions.items():
                if version != here.versions[name]:
                    raise ValueError(
                        f"cluster: expected {name} {here.versions[name]} as here in worker "
                        f"{number} on {about.host}, got {version}; install the same on all "
                        "machines, or name it in runtime_env."
                    )
        on_host = Counter(about.host for about in self.abouts)
        shares = [
            about.free // on_host[about.host] for about in self.abouts if about.free is not None
        ]
        self.free = min(shares) if shares else None

    def arrivals(self, refs: Sequence[Ref]) -> Iterator[Ref]:
        """References as their values are there; these stay where they are."""
        waiting = list(refs)
        while waiting:
            ready, waiting = self._wait(waiting, 1, fetch=False)
            yield from ready

    def as_they_come(self, refs: Sequence[Ref]) -> Iterator[tuple[int, Any]]:
        """The values of references, each with its place among them, in the order of arrival."""
        places = {ref: place for place, ref in enumerate(refs)}
        for ref in self.arrivals(refs):
            yield places[ref], self.get(ref)

    def _wait(self, refs: list[Ref], count: int, fetch: bool = True) -> tuple[list[Ref], list[Ref]]:
        """The references whose values are there, of so many if it takes no time, and the others.
        fetch: whether the values are to come to this machine."""
        ready, waiting = self._ray.wait(
            refs, num_returns=count, timeout=PATIENCE, fetch_local=fetch
        )
        if len(ready) < count:
            self._tell_what_is_missing()
        return ready, waiting

    def _tell_what_is_missing(self) -> None:
        """Where a cluster has lost so much that not all workers can run, or others work on it."""
        most, _ = _room(self._ray, _taken(self.cluster))
        if most < len(self):
            log.warning(
                "The Ray cluster has room for %d workers of %d: those that do not run wait for a "
                "machine.",
                *(most, len(self)),
            )
        elif not self.abouts:
            log.warning("The Ray cluster has no room yet for all %d workers: waiting.", len(self))

    def finish(self, refs: Sequence[Ref]) -> None:
        """Wait for what workers do last, but not for long: they may be at work, or gone."""
        self._ray.wait(list(refs), num_returns=len(refs), timeout=LAST_SECONDS)

    def close(self) -> None:
        """End the workers, which frees what they hold."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []


@contextmanager
def connected(cluster: Cluster) -> Iterator[Workers]:
    """Workers to be started: on the Ray that is initialised, or on one that is for as long."""
    ray = require("ray", "cluster=", "ray")
    started = not ray.is_initialized()
    if started:
        _connect(ray, cluster)
    try:
        workers = Workers(ray, cluster)
        try:
            yield workers
        finally:
            workers.close()
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, cluster: Cluster) -> None:
    """Connect to the cluster, or start a local Ray. Raises ConnectionError where none answers."""
    address = os.environ.get("RAY_ADDRESS", "") if cluster.address == AUTO else cluster.address
    if address:
        _check_answers(address)
    with _usage_reports_off():
        try:
            ray.init(address or None, include_dashboard=None if address else False,
                     logging_level="WARNING")  # fmt: skip
        except (ConnectionError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            if address:
                reason += "; where `ray start` spoke of a token, set RAY_AUTH_MODE=token here, too."
            raise ConnectionError(f"cluster: {address or 'a local Ray'}: {reason}") from error


def _check_answers(address: str) -> None:
    """Raise ConnectionError, soon, where nobody listens."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"cluster: expected 'auto' or 'host:port', got {address!r}.")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectionError(
            f"cluster: expected a Ray cluster at {address}, got no answer ({error}); pass the "
            "host:port that `ray start --head` printed, or cluster='auto'."
        ) from None


@contextmanager
def _usage_reports_off() -> Iterator[None]:
    """While Ray starts, unless the user said whether it reports usage."""
    if USAGE in os.environ or Path("~/.ray/config.json").expanduser().exists():
        yield
        return
    os.environ[USAGE] = "0"
    try:
        yield
    finally:
        del os.environ[USAGE]


def _count(ray: Any, cluster: Cluster) -> int:
    """How many workers there will be. Raises ValueError for more than there is room for."""
    taken, nodes = _taken(cluster), _nodes(ray)
    for option, (name, amount) in taken.items():
        most_of_one = max((node.get(name, 0) for node in nodes), default=0)
        if amount > most_of_one:
            raise ValueError(
                f"{option}: expected at most {_amount(name, most_of_one)}, as a machine of the "
                f"cluster has, got {_amount(name, amount)}."
            )
    most, least = _room(ray, taken)
    if most < (cluster.workers or 1):
        what = _amount(least, sum(node.get(least, 0) for node in nodes))
        raise ValueError(
            f"workers: expected at most {most} on a cluster of {what}, got {cluster.workers or 1}"
            f"; each takes {' and '.join(_amount(*each) for each in taken.values())} of one node."
        )
    return cluster.workers or most


def _nodes(ray: Any) -> list[dict[str, float]]:
    """What each machine of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _taken(cluster: Cluster) -> dict[str, tuple[str, float]]:
    """By option, the name of a resource of Ray's and how much of it each worker takes."""
    taken = {
        "cpus_per_worker": ("CPU", cluster.cpus_per_worker),
        "gpus_per_worker": ("GPU", cluster.gpus_per_worker),
        "memory_per_worker": ("memory", cluster.memory or 0),
    }
    for name, amount in (cluster.resources or {}).items():
        taken[f"resources[{name!r}]"] = name, amount
    return {option: each for option, each in taken.items() if each[1]}


def _room(ray: Any, taken: dict[str, tuple[str, float]]) -> tuple[int, str]:
    """For how many workers there is room, each on one machine, and of which resource least."""
    rooms = [
        {name: int(node.get(name, 0) / amount) for name, amount in taken.values()}
        for node in _nodes(ray)
    ]
    least = min(rooms[0], key=lambda name: sum(room[name] for room in rooms)) if rooms else "CPU"
    return sum(min(room.values()) for room in rooms), least


def _amount(resource: str, amount: float) -> str:
    """So much of a resource of Ray's, in words."""
    if resource == "memory":
        return f"{human(int(amount))} of memory"
    plural = "s" if resource in ("CPU", "GPU") and amount != 1 else ""
    return f"{amount:g} {resource}{plural}"
