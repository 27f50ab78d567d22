"""Depths under a network by workers equal those of one process, bit for bit."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from pdepth.arrays.problem import Problem
from pdepth.arrays.rows import Rows
from pdepth.cluster import Cluster, embeddings, traffic, voter
from pdepth.cluster.network import NetworkShard
from pdepth.cluster.worker import Worker
from pdepth.embeddings.recompute import RecomputedEmbeddings
from pdepth.progress import Event

from helpers import inline_ray
from helpers.networks import Stream
from helpers.spans import (
    QUERIES,
    ROW,
    SUPPORT,
    CountingNetwork,
    Noisy,
    depth,
    network,
    option_sets,
    same,
)

OPTIONS = option_sets(31)


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    inline_ray.install(monkeypatch, 16)
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr("pdepth.search.voting.CHUNK_QUERIES", 7)


@pytest.mark.slow_if(workers=[1, 3, 4, 7])
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7, 13])
@pytest.mark.parametrize("queries", [None, QUERIES], ids=["own", "queries"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_sharding(options: dict[str, Any], queries: Any, workers: int) -> None:
    """10 and 5 batches: of 13 workers some have no rows, of 7 some have fewer than k."""
    expected = depth(queries=queries, **options)
    same(depth(queries=queries, **options, cluster=Cluster(workers=workers)), expected)


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("queries", [None, QUERIES], ids=["own", "queries"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_votes_that_bounds_prove(
    options: dict[str, Any], queries: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows as narrow as these, too; in lists that hold all candidates, or hardly any."""
    expected = depth(queries=queries, **options)
    monkeypatch.setattr(traffic, "BOUNDED_BYTES", 1)
    for candidates in (traffic.most_candidates, lambda row_bytes, k: 1):
        monkeypatch.setattr(traffic, "most_candidates", candidates)
        same(depth(queries=queries, **options, cluster=Cluster(workers=workers)), expected)


@pytest.mark.slow_if(rows=[8])
@pytest.mark.parametrize("rows", [8, 20, 40, 400])
@pytest.mark.parametrize("queries", [None, QUERIES], ids=["own", "queries"])
def test_any_memory_of_the_workers(queries: Any, rows: int) -> None:
    """All, some or none of the probes of a worker's 80 rows fit."""
    cluster = Cluster(workers=2, memory_per_worker=rows * ROW)
    same(depth(queries=queries, cluster=cluster), depth(queries=queries))


@pytest.mark.parametrize("rows", [8, 20])
def test_a_worker_none_of_whose_queries_are_active(rows: int) -> None:
    """After the first probe; what it has of the support does not fit."""
    reference = [0] * 32 + [99] * 38  # the second worker's
    options: dict[str, Any] = {"queries": QUERIES, "reference": reference}
    cluster = Cluster(workers=2, memory_per_worker=rows * ROW)
    same(depth(**options, cluster=cluster), depth(**options))


def test_what_workers_make_themselves(tmp_path: Path) -> None:
    """A network and data of functions; of the network, with the weights that it has here."""
    (tmp_path / "made.py").write_text(
        "from helpers.spans import *\n\n\ndef net():\n    return CountingNetwork()\n\n\n"
        "def support():\n    return blobs(150)\n\n\ndef queries():\n    return blobs(70, seed=1)\n"
    )
    made = {name: f"{tmp_path / 'made.py'}:{name}" for name in ("net", "support", "queries")}
    options: dict[str, Any] = {"layers": "net.*", "cluster": Cluster(workers=3)}
    got = depth(made["support"], made["queries"], made["net"], **options)
    same(got, depth(SUPPORT, QUERIES, CountingNetwork(), layers="net.*"))


def test_what_cannot_be_pickled_is_named() -> None:
    model = network()
    model[3].handle = (number for number in range(3))  # type: ignore[assignment]
    sentence = r"model: 3.handle: expected what can be pickled .*; pass 'file.py:function'"
    with pytest.raises(TypeError, match=sentence):
        depth(model=model, cluster=Cluster(workers=2))


def test_a_stream_has_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error before Ray starts."""
    monkeypatch.setattr(embeddings, "connected", None)
    with pytest.raises(ValueError, match="support: expected a dataset whose rows have numbers"):
        depth(Stream(list(SUPPORT)), cluster=Cluster(workers=2))


def test_memory_is_that_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="memory: expected None beside cluster"):
        depth(cluster=Cluster(workers=2), memory="1GB")
    monkeypatch.setattr(Worker, "about", lambda *_: pytest.fail("a worker was asked"))
    with pytest.raises(MemoryError, match="memory: expected at least .* for input, of width 6, go"):
        depth(k=31, cluster=Cluster(workers=2, memory_per_worker="2kB"))


def test_a_worker_with_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [dict.fromkeys(range(6), number) for number in range(2)]
    monkeypatch.setattr(Worker, "checksums", lambda worker, *_: answers[worker._number])
    with pytest.raises(ValueError, match="expected the same values of the first rows everywhere"):
        depth(cluster=Cluster(workers=2))


def test_rows_that_cannot_be_read_are_left_out() -> None:
    data = HalfRead(SUPPORT)
    with pytest.warns(UserWarning, match="skipped 2 of 150 rows"):
        expected = depth(data, skip_unreadable=True)
    with pytest.warns(UserWarning, match="skipped 2 of 150 rows"):
        got = depth(data, skip_unreadable=True, cluster=Cluster(workers=3))
    same(got, expected)
    assert got.skipped == expected.skipped


class HalfRead(Dataset[Any]):
    """Two rows of it cannot be read."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Any:
        if row in (17, 90):
            raise OSError("broken")
        return self.data[row]


def test_a_run_is_resumed_with_any_number_of_workers(tmp_path: Path) -> None:
    """And without a cluster: what a journal has does not depend on it."""

    class Stopped(Exception): ...

    def stop(event: Event) -> None:
        if event.stage == "probes" and event.text == "2":
            raise Stopped

    for queries in (None, QUERIES):
        run_dir, expected = tmp_path / f"run {queries is None}", depth(queries=queries)
        for _ in range(2):
            with pytest.raises(Stopped):
                depth(queries=queries, run_dir=run_dir, cluster=Cluster(workers=2), progress=stop)
        copy = shutil.copytree(run_dir, tmp_path / f"copy {queries is None}")
        same(depth(queries=queries, run_dir=run_dir, cluster=Cluster(workers=3)), expected)
        same(depth(queries=queries, run_dir=copy), expected)


def test_data_that_change_between_two_readings() -> None:
    with pytest.raises(ValueError, match="expected the same values at each reading"):
        depth(Noisy(SUPPORT), cluster=Cluster(workers=2))


class Restarted:
    """A worker that has died after its n-th answer, and was started again by then."""

    def __init__(self, after: int, network: Any = None) -> None:
        self.left, self.network = after, network

    def __call__(self, worker: Worker, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            inline_ray.die(worker)


@pytest.mark.slow_if(rows=[40])
@pytest.mark.slow_if(called=["lists", "distances"])
@pytest.mark.parametrize("queries", [None, QUERIES], ids=["own", "queries"])
@pytest.mark.parametrize("rows", [None, 40])
@pytest.mark.parametrize("called", ["lists", "bounds", "distances"])
def test_a_worker_that_was_started_again(
    called: str, rows: int | None, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its answers: it embeds its rows again, and the same call goes on."""
    monkeypatch.setattr(traffic, "BOUNDED_BYTES", 1 << 30 if called == "lists" else 1)
    cluster = Cluster(workers=2, memory_per_worker=rows and rows * ROW)
    expected, answered = depth(queries=queries, early_exit=False), getattr(Worker, called)
    for after in range(1, 40, 4):
        died = Restarted(after)

        def answer(worker: Worker, *arguments: Any, died: Restarted = died) -> Any:
            died(worker)
            return answered(worker, *arguments)

        monkeypatch.setattr(Worker, called, answer)
        same(depth(queries=queries, early_exit=False, cluster=cluster), expected)
        assert died.left < 1


@pytest.mark.parametrize(("called", "after"), [("lists", 5), ("read", 1)])
def test_a_worker_whose_values_differ_after_it_was_started_again(
    called: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, make, died = getattr(Worker, called), NetworkShard.__init__, Restarted(after)

    def answer(worker: Worker, *arguments: Any) -> Any:
        died(worker)
        return answered(worker, *arguments)

    def made(shard: NetworkShard, *arguments: Any) -> None:
        make(shard, *arguments)
        if died.left < 1:
            next(shard._model.parameters()).data += 1e-3

    monkeypatch.setattr(Worker, called, answer)
    monkeypatch.setattr(NetworkShard, "__init__", made)
    sentence = "worker 0, which was started again: expected the same values of the first rows, got"
    with pytest.raises(ValueError, match=sentence):
        depth(cluster=Cluster(workers=2))


def test_gradients_are_as_they_were() -> None:
    depth(cluster=Cluster(workers=2))
    assert torch.is_grad_enabled()


def test_rows_that_were_searched_are_let_go_before_others_are_embedded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a worker has those of a probe beside the next span, and more than its memory."""
    searched: list[weakref.ref[Any]] = []
    there: list[bool] = []
    held, span = Worker._held, RecomputedEmbeddings.span

    def searches(worker: Worker, rows: Rows, problem: Problem) -> Any:
        searched.append(weakref.ref(rows.array))
        return held(worker, rows, problem)

    def embeds(embeddings: RecomputedEmbeddings, *arguments: Any) -> Any:
        there.extend(rows() is not None for rows in searched)
        return span(embeddings, *arguments)

    monkeypatch.setattr(Worker, "_held", searches)
    monkeypatch.setattr(RecomputedEmbeddings, "span", embeds)
    depth(early_exit=False, cluster=Cluster(workers=1, memory_per_worker=100 * ROW))
    assert there
    assert not any(there)
