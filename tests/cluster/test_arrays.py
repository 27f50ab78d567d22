"""Votes and depths of arrays by workers equal those of one process, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.cluster import Cluster, traffic, voter, worker
from pdepth.cluster.workers import connected

from helpers import inline_ray
from helpers.cases import KINDS, case, cast
from helpers.same import same_depths, same_votes
from helpers.torch_or_skip import torch

SHARDINGS = (1, 2, 3, 4, 7)


@pytest.fixture(params=[True, False], ids=["bounds", "lists"])
def bounded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of any width are proven by bounds, or none."""
    monkeypatch.setattr(traffic, "BOUNDED_BYTES", 1 if request.param else 1 << 30)


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    inline_ray.install(monkeypatch)
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr("pdepth.search.voting.CHUNK_QUERIES", 7)


@pytest.mark.slow_if(workers=[1, 3, 4])
@pytest.mark.parametrize("workers", SHARDINGS)
@pytest.mark.parametrize("seed", range(2 * len(KINDS)))
def test_every_kind_of_rows(seed: int, workers: int, bounded: None) -> None:
    """Ties, duplicates, infinite distances, all types, queries of all forms."""
    problem = case(seed)
    arrays = problem.support, problem.labels, problem.queries
    cluster = Cluster(workers=min(workers, len(problem.support)))
    for counts in (False, True):
        expected = pdepth.probe_votes(*arrays, **problem.options, return_counts=counts)
        got = pdepth.probe_votes(*arrays, **problem.options, return_counts=counts, cluster=cluster)
        same_votes(got, expected)


OPTIONS: tuple[dict[str, Any], ...] = (
    {"k": 9},
    {"k": [3, 20, 1]},
    {"k": 9, "metric": "cosine"},
    {"k": [9, 4], "metric": "inner_product"},
    {"k": 9, "weights": "distance"},
    {"k": [9, 2], "weights": "exp", "metric": "inner_product"},
    {"k": 9, "backend": "reference"},
    {"k": 9, "exclude_self": False},
)
WIDTHS = (5, 16, 3)


def layers(rows: int, seed: int) -> list[Any]:
    """Small whole numbers, which tie exactly, a third of them twice; none of zeros."""
    rng = np.random.default_rng(seed)
    probes = []
    for width in WIDTHS:
        values = rng.integers(-2, 3, (rows, width)).astype(np.float32)
        values[:, 0] += 4
        values[rng.integers(0, rows, rows // 3)] = values[0]
        probes.append(values)
    return probes


@pytest.mark.slow_if(workers=[1, 3, 4])
@pytest.mark.parametrize("workers", SHARDINGS)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option(options: dict[str, Any], own: bool, workers: int, bounded: None) -> None:
    rng = np.random.default_rng(1)
    support, labels = layers(60, 2), rng.integers(0, 4, 60)  # shards of fewer rows than k
    queries = None if own else layers(43, 3)
    predictions = rng.integers(0, 4, 60 if own else 43)
    cluster = Cluster(workers=workers)
    for counts in (False, True):
        expected = pdepth.probe_votes(support, labels, queries, **options, return_counts=counts)
        got = pdepth.probe_votes(
            support, labels, queries, **options, return_counts=counts, cluster=cluster
        )
        same_votes(got, expected)
    for more in ({}, {"early_exit": False}, {"return_counts": True}, {"reference": "last_probe"}):
        arguments = support, labels, predictions, queries
        alone = pdepth.depth_from_embeddings(*arguments, **options, **more)
        same_depths(
            pdepth.depth_from_embeddings(*arguments, **options, **more, cluster=cluster), alone
        )


def test_query_rows_in_any_order_and_twice() -> None:
    support, labels = layers(60, 4), np.arange(60) % 3
    options: dict[str, Any] = {"query_rows": [50, 3, 3, 20, 0, 59, 20], "k": 5}
    same_votes(
        pdepth.probe_votes(support, labels, **options, cluster=Cluster(workers=4)),
        pdepth.probe_votes(support, labels, **options),
    )
    predictions = [0, 1, 0, 2, 0, 2, 1]
    same_depths(
        pdepth.depth_from_embeddings(
            support, labels, predictions, **options, cluster=Cluster(workers=3)
        ),
        pdepth.depth_from_embeddings(support, labels, predictions, **options),
    )


def test_an_iterator_and_tensors() -> None:
    support = [torch.from_numpy(layer).to(torch.bfloat16) for layer in layers(60, 5)]
    labels = torch.arange(60) % 3
    expected = pdepth.probe_votes(iter(support), labels, k=5)
    got = pdepth.probe_votes(iter(support), labels, k=5, cluster=Cluster(workers=3))
    assert isinstance(got.votes, torch.Tensor)
    same_votes(got, expected)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("own", [True, False])
def test_files_are_read_by_the_workers(metric: str, own: bool, tmp_path: Path) -> None:
    """Shards of files, whose parts do not begin where those of the workers do."""
    rng = np.random.default_rng(6)
    values, others = rng.standard_normal((700, 24)), rng.standard_normal((90, 24))
    (tmp_path / "support").mkdir()
    for number, begin in enumerate(range(0, 700, 150)):
        part = values[begin : begin + 150].astype(np.float32)
        np.save(tmp_path / f"support/rows_{number}.npy", part)
    np.save(tmp_path / "queries.npy", cast(others, "float32"))
    labels = rng.integers(0, 5, 700)
    arguments: Any = tmp_path / "support", labels, None if own else tmp_path / "queries.npy"
    expected = pdepth.probe_votes(*arguments, metric=metric, k=9)
    for memory in (None, 60_000):  # of one chunk, and of many
        cluster = Cluster(workers=3, memory_per_worker=memory)
        same_votes(
            pdepth.probe_votes(*arguments, metric=metric, k=9, memory=memory, cluster=cluster),
            expected,
        )


def test_what_is_not_finite_is_named_by_its_row(tmp_path: Path) -> None:
    values = np.ones((50, 3), np.float32)
    values[41, 1] = np.nan
    np.save(tmp_path / "rows.npy", values)
    with pytest.raises(ValueError, match="NaN or infinity in row 41"):
        pdepth.probe_votes(
            tmp_path / "rows.npy", np.zeros(50, int), k=3, cluster=Cluster(workers=4)
        )


def test_fewer_rows_than_workers() -> None:
    with pytest.raises(ValueError, match="workers: expected at most 5, the rows of the support"):
        pdepth.probe_votes(np.eye(5), np.arange(5), k=2, cluster=Cluster(workers=7))
    found = pdepth.probe_votes(np.eye(5), np.arange(5), k=2, cluster="auto")  # on 7 or more
    assert (found.votes == pdepth.probe_votes(np.eye(5), np.arange(5), k=2).votes).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 6}, "k: expected"),
        ({"labels": [0, 1]}, "labels: expected"),
        ({"queries": np.ones((3, 4))}, "queries"),
        ({"queries": np.full((3, 5), np.nan)}, "queries.*NaN"),
        ({"query_rows": [9]}, "query_rows: expected"),
    ],
    ids=lambda wrong: "" if isinstance(wrong, str) else next(iter(wrong)),
)
def test_wrong_arguments_are_errors_before_ray_starts(
    wrong: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(cluster: Cluster) -> Any:
        raise AssertionError("Ray would have started.")

    monkeypatch.setattr(voter, "connected", connected)
    arguments: dict[str, Any] = {"support": np.eye(5), "labels": np.arange(5), "k": 2} | wrong
    with pytest.raises(ValueError, match=message):
        pdepth.probe_votes(**arguments, cluster="auto")
    with pytest.raises(ValueError, match=message):
        pdepth.depth_from_embeddings(
            **arguments, predictions=np.zeros(len(arguments.get("queries", np.eye(5))), int),
            cluster="auto",
        )  # fmt: skip


class Unsendable:
    shape, dtype = (50, 3), np.dtype("float32")

    def __init__(self) -> None:
        self.rows = (np.zeros(3) for _ in range(50))

    def __getitem__(self, rows: slice) -> Any: ...


def test_a_source_that_cannot_be_sent() -> None:
    with pytest.raises(TypeError, match=r"support \(probe 0\): expected what can be sent to work"):
        pdepth.probe_votes(Unsendable(), np.zeros(50, int), k=3, cluster=Cluster(workers=2))


def test_a_file_that_a_worker_cannot_read(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((50, 3)))
    source = pdepth.open_source(tmp_path / "rows.npy")
    (tmp_path / "rows.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"worker 0 on .*rows.npy'; what a call names by"):
        pdepth.probe_votes(source, np.zeros(50, int), k=3, cluster=Cluster(workers=2))


@pytest.mark.parametrize("name", ["pdepth", "Python"])
def test_a_worker_of_another_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    about = worker.About({"pdepth": "0", "Python": "0"}, "a host", None)
    here = worker.About.here(network=False)
    others = {**here.versions, name: about.versions[name]}
    monkeypatch.setattr(worker.Worker, "about", lambda *_: worker.About(others, "a host", None))
    sentence = (
        f"cluster: expected {name} {here.versions[name]} as here in worker 0 on a host, got 0"
    )
    with pytest.raises(ValueError, match=sentence):
        pdepth.probe_votes(np.eye(9), np.arange(9), k=2, cluster=Cluster(workers=2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workers": 4, "cpus_per_worker": 2}, "at most 3 on a cluster of 8 CPUs, got 4; each"),
        ({"cpus_per_worker": 4}, "at most 1 on a cluster of 8 CPUs, got 2; each takes 4 CPUs of"),
        ({"memory_per_worker": "2TB"}, "memory_per_worker: expected at most .* of memory, as a"),
        ({"resources": {"big": 1}}, r"resources\['big'\]: expected at most 0 big, as a machine"),
    ],
)
def test_workers_for_which_no_node_has_room(
    options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two nodes have together is not for one worker."""
    inline_ray.install(monkeypatch, 5, 3)
    with pytest.raises(ValueError, match=sentence):
        pdepth.probe_votes(
            np.eye(9), np.arange(9), k=2, cluster=Cluster(**{"workers": 2, **options})
        )


def test_as_many_workers_as_nodes_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inline_ray.install(monkeypatch, 5, 3, 1)
    with connected(Cluster(cpus_per_worker=2)) as there:
        assert len(there) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"address": ""}, "address: expected 'auto' or 'host:port'"),
        ({"workers": 0}, "workers: expected an integer >= 1"),
        ({"cpus_per_worker": 1.5}, "cpus_per_worker: expected an integer"),
        ({"gpus_per_worker": -1}, "gpus_per_worker: expected a number >= 0"),
        ({"memory_per_worker": "much"}, "memory_per_worker: expected bytes or an amount"),
        ({"chunks_in_flight": 1}, "chunks_in_flight: expected an integer >= 2"),
    ],
)
def test_wrong_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        Cluster(**options)


def test_no_cluster() -> None:
    with pytest.raises(TypeError, match="cluster: expected 'auto', an address or a pdepth.cluster"):
        pdepth.probe_votes(np.eye(9), np.arange(9), k=2, cluster=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_shards_at_urls(scheme: str, tmp_path: Path) -> None:
    core = pytest.importorskip("fsspec.core")
    rng = np.random.default_rng(7)
    values, labels = rng.standard_normal((90, 6), np.float32), rng.integers(0, 3, 90)
    system, path = core.url_to_fs(f"{scheme}://{tmp_path}/rows")
    system.makedirs(path, exist_ok=True)
    for number in (2, 10, 1):
        with system.open(f"{path}/rows_{number}.npy", "wb") as file:
            np.save(file, values[{1: slice(30), 2: slice(30, 70), 10: slice(70, 90)}[number]])
    for cluster in (None, Cluster(workers=4)):
        with pytest.warns(UserWarning, match="shards are read in natural order"):
            got = pdepth.probe_votes(f"{scheme}://{tmp_path}/rows", labels, k=5, cluster=cluster)
        same_votes(got, pdepth.probe_votes(values, labels, k=5))
    with pytest.raises(FileNotFoundError, match="There is no file or directory .*://"):
        pdepth.open_source(f"{scheme}://{tmp_path}/none")


def test_a_url_that_nothing_opens() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(ValueError, match="nowhere://rows: expected a URL that fsspec can open"):
        pdepth.open_source("nowhere://rows")


def test_parquet_is_opened_by_the_workers(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    values, labels = np.random.default_rng(8).standard_normal((90, 6)), np.arange(90) % 3
    column = arrow.FixedSizeListArray.from_arrays(values.ravel(), 6)
    parquet.write_table(arrow.table({"rows": column}), tmp_path / "rows.parquet")
    got = pdepth.probe_votes(tmp_path / "rows.parquet", labels, k=5, cluster=Cluster(workers=3))
    same_votes(got, pdepth.probe_votes(values, labels, k=5))
