"""Workers whose rows do not fit: the support passes by for many queries and probes at once."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth.cluster import Cluster, pricing, voter
from pdepth.cluster.network import NetworkShard
from pdepth.cluster.pricing import ClusterPlan
from pdepth.cluster.traffic import Traffic
from pdepth.cluster.worker import Worker
from pdepth.embeddings import capture
from pdepth.embeddings.recompute import SharedForward
from pdepth.progress import Event
from pdepth.search import voting

from helpers import inline_ray
from helpers.spans import BATCH, ROW, K, blobs, depth, network, option_sets, same

SUPPORT, FEW, MANY = blobs(320), blobs(12, seed=1), blobs(40, seed=1)
OPTIONS = option_sets(17)


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    inline_ray.install(monkeypatch, 16)
    in_chunks_of(8, monkeypatch)


def in_chunks_of(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many queries in each chunk."""
    for module in (voter, pricing):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    for module in (voting, pricing):
        monkeypatch.setattr(module, "CHUNK_QUERIES", queries)


def within(rows: int, workers: int) -> Cluster:
    """Workers with the memory of so many rows at all probes."""
    return Cluster(workers=workers, memory_per_worker=rows * ROW)


def planned(support: Any, queries: Any, rows: int, workers: int) -> ClusterPlan:
    """The plan of all votes."""
    plan = pdepth.plan(
        network(), support, queries, batch_size=BATCH, k=K, measure=False,
        cluster=within(rows, workers),
    )  # fmt: skip
    assert plan.cluster is not None
    return plan.cluster


Pass = tuple[int, int, int]
"""A worker's number, and how many probes and query chunks it was for."""
Forwarded = list[int]
"""Rows of each batch of the support that ran through a network."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    """Those that workers make."""
    made: list[Pass] = []
    passed = Worker.passed

    def counted(worker: Worker, *arguments: Any) -> Any:
        probes, chunks = arguments[2], arguments[4:]
        made.append((worker._number, len(probes), len(chunks) // len(probes)))
        return passed(worker, *arguments)

    monkeypatch.setattr(Worker, "passed", counted)
    return made


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Traffic]:
    """The traffic of each call, once it has ended."""
    return inline_ray.traffic_of_calls(monkeypatch)


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> Forwarded:
    """What runs, but for the first rows of a network that is looked at."""
    rows: Forwarded = []
    forward = capture.forward

    def counted(layout: Any, what: str, batches: Any, *arguments: Any, **options: Any) -> Any:
        for begin, batch in batches:
            if what == "support":
                rows.append(len(batch.labels))
            yield from forward(layout, what, [(begin, batch)], *arguments, **options)

    monkeypatch.setattr(capture, "forward", counted)
    return rows


# By the queries and the memory, in rows at all probes: of most probes the support passes by for all
# of a few queries at once; by a few at a time; and some are held.
CASES: dict[str, tuple[Any, Any, int]] = {
    "all at once": (SUPPORT, FEW, 60),
    "all ways": (SUPPORT, FEW, 40),
    "few at a time": (SUPPORT, MANY, 80),
    "own rows": (blobs(96), None, 17),
}


@pytest.mark.slow_if(count=[1, 3])
@pytest.mark.slow_if(case=["all ways", "few at a time"], options=OPTIONS[1:])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_sharding(case: str, options: dict[str, Any], count: int, passes: list[Pass]) -> None:
    support, queries, rows = CASES[case]
    got = depth(support, queries, **options, cluster=within(rows, count))
    same(got, depth(support, queries, **options))
    assert passes


def test_own_rows_of_which_few_are_active(passes: list[Pass]) -> None:
    """After the first probe: the support passes by for these, at several probes."""
    reference = np.full(len(SUPPORT), 99)
    reference[[3, 4, 90, 170, 171, 172, 300]] = SUPPORT[[3, 4, 90, 170, 171, 172, 300]][1]
    for count in (1, 2, 3):
        passes.clear()
        got = depth(SUPPORT, reference=reference, cluster=within(60, count))
        same(got, depth(SUPPORT, reference=reference))
        assert max(probes for _, probes, _ in passes) > 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("own", [True, False])
def test_ties_across_shards(own: bool, count: int, passes: list[Pass]) -> None:
    """Each row is there five times, with other labels: the lower row is the nearer."""
    x, _ = blobs(60).tensors
    support = TensorDataset(x.repeat(5, 1), torch.arange(300) // 7 % 3)
    if own:
        support = TensorDataset(*support[:96])
    queries, rows = (None, 17) if own else (TensorDataset(*support[:24]), 60)
    options: dict[str, Any] = {"k": [4, 9], "return_counts": True}
    got = depth(support, queries, **options, cluster=within(rows, count))
    expected = depth(support, queries, **options)
    same(got, expected)
    assert expected[4].tied.any()
    assert passes


@pytest.mark.slow_if(own=[True], count=[7])
@pytest.mark.parametrize("count", [7, 13])
@pytest.mark.parametrize("own", [True, False])
def test_shards_with_fewer_rows_than_k_and_without(
    own: bool, count: int, passes: list[Pass]
) -> None:
    """Of 10 batches of 16 rows; a worker without a support has queries, or not even these."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 3))
    arguments: Any = blobs(150), None if own else MANY, model
    options: dict[str, Any] = {"k": 17, "early_exit": False}
    cluster = Cluster(workers=count, memory_per_worker="14kB")
    same(depth(*arguments, **options, cluster=cluster), depth(*arguments, **options))
    assert passes


def test_a_worker_that_holds_its_rows_beside_one_that_does_not(
    forwarded: Forwarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three batches one has one and the other two, which it computes for a few queries at a
    time."""
    passed, ran = Worker.passed, set[tuple[int, int]]()

    def counted(worker: Worker, *arguments: Any) -> Any:
        before = sum(forwarded)
        answer = passed(worker, *arguments)
        ran.add((worker._number, sum(forwarded) - before))
        return answer

    monkeypatch.setattr(Worker, "passed", counted)
    cluster = Cluster(workers=2, memory_per_worker="10kB")
    got = depth(blobs(48), MANY, early_exit=False, cluster=cluster)
    same(got, depth(blobs(48), MANY, early_exit=False))
    assert ran == {(0, 0), (1, 32)}


@pytest.mark.slow_if(count=[1], rows=[80])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("queries", "rows"), [(FEW, 60), (FEW, 40), (MANY, 80), (None, 80), (FEW, 100)]
)
def test_the_plan(
    queries: Any, rows: int, count: int, forwarded: Forwarded, counted: list[Traffic],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """How often workers run over their rows, and what travels, are what is planned."""
    in_chunks_of(BATCH, monkeypatch)
    depth(SUPPORT, queries, early_exit=False, cluster=within(rows, count))
    plan = planned(SUPPORT, queries, rows, count)
    assert plan.passes == sum(forwarded) / len(SUPPORT)
    assert (plan.passes == 1) == (rows == 100)
    assert [plan.traffic] == counted


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_what_the_object_store_holds(
    case: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries and lists, no more at a time than is planned."""
    there = most = 0
    original = inline_ray.Actor.__getattr__

    def let_go(size: int) -> None:
        nonlocal there
        there -= size

    def held(ref: inline_ray.Ref) -> inline_ray.Ref:
        nonlocal there, most
        there += (size := sum(map(len, ref._buffers)))
        most = max(most, there)
        weakref.finalize(ref, let_go, size)
        return ref

    def getattr_of(actor: inline_ray.Actor, name: str) -> Any:
        method = original(actor, name)
        if name not in ("queries", "passed", "merged", "lists", "bounds", "merged_bounds"):
            return method
        return SimpleNamespace(
            remote=lambda *arguments: held(method.remote(*arguments)),
            options=lambda num_returns: SimpleNamespace(
                remote=lambda *arguments: (
                    held(found)
                    if isinstance(
                        found := method.options(num_returns=num_returns).remote(*arguments),
                        inline_ray.Ref,
                    )
                    else [*map(held, found)]
                )
            ),
        )

    monkeypatch.setattr(inline_ray.Actor, "__getattr__", getattr_of)
    support, queries, rows = CASES[case]
    depth(support, queries, early_exit=False, cluster=within(rows, count))
    plan = planned(support, queries, rows, count)
    assert 0 < most <= plan.store


@pytest.mark.slow_if(after=[1, 7])
@pytest.mark.parametrize("case", ["all at once", "few at a time", "own rows"])
@pytest.mark.parametrize("after", [1, 2, 7])
def test_a_worker_that_dies_in_the_middle_of_a_pass(
    after: int, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again, and makes its part of the pass again, with the same bits."""
    died = []
    read, passed = SharedForward.read, Worker.passed

    class Died(BaseException): ...

    def read_until(*arguments: Any) -> Any:
        died.append(len(died) == after)
        if died[-1]:
            raise Died
        return read(*arguments)

    def passed_again(worker: Worker, *arguments: Any) -> Any:
        try:
            return passed(worker, *arguments)
        except Died:
            inline_ray.die(worker)
            return passed(worker, *arguments)

    monkeypatch.setattr(SharedForward, "read", read_until)
    monkeypatch.setattr(Worker, "passed", passed_again)
    support, queries, rows = CASES[case]
    got = depth(support, queries, early_exit=False, cluster=within(rows, 2))
    same(got, depth(support, queries, early_exit=False))
    assert any(died)


def test_a_worker_whose_values_differ_after_it_died_in_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed, make, started = Worker.passed, NetworkShard.__init__, [0]

    def made(shard: NetworkShard, *arguments: Any) -> None:
        make(shard, *arguments)
        started[0] += 1
        if started[0] > 2:
            next(shard._model.parameters()).data += 1e-3

    def passed_again(worker: Worker, *arguments: Any) -> Any:
        inline_ray.die(worker)
        return passed(worker, *arguments)

    monkeypatch.setattr(NetworkShard, "__init__", made)
    monkeypatch.setattr(Worker, "passed", passed_again)
    sentence = "which was started again: expected the same values of the first rows, got others"
    with pytest.raises(ValueError, match=sentence):
        depth(SUPPORT, FEW, cluster=within(60, 2))


@pytest.mark.parametrize(("queries", "rows"), [(FEW, 60), (MANY, 80)])
def test_a_run_that_goes_on(
    queries: Any, rows: int, tmp_path: Path, passes: list[Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other workers, from votes that a journal keeps of a few queries at a time."""
    monkeypatch.setattr("pdepth.search.backward.QUERY_CHUNK", 16)

    class Stopped(Exception): ...

    def stop(event: Event) -> None:
        if event.stage == "probes" and event.text == "2":
            raise Stopped

    expected = depth(SUPPORT, queries)
    with pytest.raises(Stopped):
        depth(SUPPORT, queries, run_dir=tmp_path / "run", cluster=within(rows, 2), progress=stop)
    assert passes
    same(depth(SUPPORT, queries, run_dir=tmp_path / "run", cluster=within(rows, 3)), expected)


def test_progress(passes: list[Pass]) -> None:
    """Each worker's end of a pass is reported, for all probes of it."""
    events: list[Event] = []
    options: dict[str, Any] = {"cluster": within(60, 3), "progress": events.append}
    depth(SUPPORT, FEW, **options, early_exit=False)
    done = [event.done for event in events if event.stage == "probes"]
    assert done == sorted(done)
    assert len(set(done)) >= len(passes)
