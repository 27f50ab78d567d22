"""Ray without processes: what the room `cluster` asks of it, at once, in the caller's process.

Values are pickled as they go to the object store, and come back read-only, as Ray's do. Many
shardings are compared in the time that Ray takes to start.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pdepth.cluster import options, sending, workers
from pdepth.cluster.traffic import Traffic

MEMORY = 1e12  # bytes of each node


class Ref:
    """A value in the store: its pickle, and arrays whose memory is not to be written to."""

    def __init__(self, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        self._pickle = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        self._buffers = [bytes(buffer.raw()) for buffer in buffers]

    def value(self) -> Any:
        return pickle.loads(self._pickle, buffers=self._buffers)


def received(value: Any) -> Any:
    """What an actor gets as an argument."""
    return (value if isinstance(value, Ref) else Ref(value)).value()


class Actor:
    def __init__(self, instance: Any) -> None:
        self._instance = instance

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._instance, name)

        def remote(*arguments: Any) -> Ref:
            return Ref(method(*map(received, arguments)))

        def options(num_returns: int) -> Any:
            """Whose answers are so many values, each with a reference."""

            def several(*arguments: Any) -> list[Ref]:
                values = method(*map(received, arguments))
                assert len(values) == num_returns
                return [Ref(value) for value in values]

            return SimpleNamespace(remote=remote if num_returns == 1 else several)

        return SimpleNamespace(remote=remote, options=options)


class InlineRay:
    """A cluster of nodes with so many CPUs each."""

    exceptions = SimpleNamespace(
        RayTaskError=type("RayTaskError", (Exception,), {}),
        RayActorError=type("RayActorError", (Exception,), {}),
    )

    cloudpickle = SimpleNamespace(dumps=pickle.dumps, register_pickle_by_value=lambda module: None)

    def __init__(self, *cpus: int) -> None:
        self._cpus = cpus

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(sum(self._cpus))}

    def nodes(self) -> list[dict[str, Any]]:
        of_each = [{"CPU": float(cpus), "memory": MEMORY} for cpus in self._cpus]
        lost = {"Alive": False, "Resources": {}}
        return [lost, *({"Alive": True, "Resources": resources} for resources in of_each)]

    def remote(self, kind: Any) -> Any:
        """An actor's class, or the function of a task."""
        if not isinstance(kind, type):
            called = SimpleNamespace(remote=lambda *sent: Ref(kind(*map(received, sent))))
            return SimpleNamespace(options=lambda **_: called)

        def options(**_: Any) -> Any:
            return SimpleNamespace(remote=lambda *sent: Actor(kind(*map(received, sent))))

        return SimpleNamespace(options=options)

    def put(self, value: Any) -> Ref:
        return Ref(value)

    def get(self, refs: Any) -> Any:
        return [ref.value() for ref in refs] if isinstance(refs, list) else refs.value()

    def wait(self, refs: list[Ref], **_: Any) -> tuple[list[Ref], list[Ref]]:
        return refs, []

    def cancel(self, ref: Ref, force: bool) -> None: ...

    def kill(self, actor: Actor) -> None:
        die(actor._instance)


def die(worker: Any) -> None:
    """What the death of a worker's process leaves, as far as that can be within one."""
    if worker._network is not None:
        worker._network._stack.__exit__(SystemExit, SystemExit(), None)
        worker._network = None


def install(monkeypatch: Any, *cpus: int) -> None:
    """In place of Ray, while a test lasts. cpus: of each node; one of 8 where it is not said."""
    for module in (options, sending, workers):
        monkeypatch.setattr(module, "require", lambda *_: InlineRay(*(cpus or (8,))))


def traffic_of_calls(monkeypatch: Any) -> list[Traffic]:
    """The traffic of each call, once it has ended."""
    found: list[Traffic] = []
    close = workers.Workers.close

    def closed(self: workers.Workers) -> None:
        found.append(self.traffic)
        close(self)

    monkeypatch.setattr(workers.Workers, "close", closed)
    return found
