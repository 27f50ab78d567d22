"""Answers that are lost and made again need not be the same, as long as votes are."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.arrays.bounds import Bounds
from pdepth.cluster import Cluster, traffic, voter, worker
from pdepth.search.bounds import bounds_of

from helpers import inline_ray
from helpers.same import same_votes


class LostAnswer(inline_ray.Ref):
    """An answer that is lost whenever it was read: each reader has it made again."""

    def __init__(self, method: Any, arguments: tuple[Any, ...]) -> None:
        self._method, self._arguments = method, arguments

    def value(self) -> Any:
        arguments = map(inline_ray.received, self._arguments)
        return inline_ray.Ref(self._method(*arguments)).value()


def answers_are_lost(actor: inline_ray.Actor, name: str) -> Any:
    method = getattr(actor._instance, name)
    return SimpleNamespace(remote=lambda *arguments: LostAnswer(method, arguments))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_bounds_that_are_others_each_time(
    workers: int, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a worker that is started again on another processor, or with other memory."""
    rng = np.random.default_rng(workers)
    open_again = []

    def other_bounds(*arguments: Any) -> Bounds:
        found = bounds_of(*arguments)
        apart = rng.exponential(rng.choice([0.01, 1, 8]), len(found.rows))
        apart *= rng.random(len(apart)) < 0.7
        return replace(found, lower=found.lower - apart, upper=found.upper + apart)

    def rest(*arguments: Any) -> Any:
        open_again.append(arguments[-1])
        return by_lists(*arguments)

    by_lists = worker.Worker.rest
    inline_ray.install(monkeypatch)
    monkeypatch.setattr(inline_ray.Actor, "__getattr__", answers_are_lost)
    monkeypatch.setattr(worker, "bounds_of", other_bounds)
    monkeypatch.setattr(worker.Worker, "rest", rest)
    monkeypatch.setattr(traffic, "BOUNDED_BYTES", 1)
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr("pdepth.search.voting.CHUNK_QUERIES", 40)
    values = rng.integers(-2, 3, (150, 6)).astype(np.float32)
    queries = None if own else values[:80] + 1
    arguments: Any = values, rng.integers(0, 4, 150), queries
    got = pdepth.probe_votes(*arguments, k=7, cluster=Cluster(workers=workers))
    same_votes(got, pdepth.probe_votes(*arguments, k=7))
    assert open_again
