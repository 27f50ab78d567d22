"""Bytes that are counted are those that a plan foresees for the same active queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.arrays.arguments import Voting, check_voting
from pdepth.cluster import Cluster, traffic, voter
from pdepth.cluster.traffic import Asked, Rates, Traffic, Work
from pdepth.cluster.worker import Worker
from pdepth.depth import _searched

from helpers import inline_ray
from helpers.spans import QUERIES, SUPPORT, WIDTHS, depth


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Traffic]:
    """The traffic of each call, once it has ended."""
    inline_ray.install(monkeypatch)
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr("pdepth.search.voting.CHUNK_QUERIES", 7)
    return inline_ray.traffic_of_calls(monkeypatch)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("queries", [None, QUERIES], ids=["own", "queries"])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("early_exit", [True, False])
def test_of_a_network(
    early_exit: bool, metric: str, queries: Any, count: int, counted: list[Traffic]
) -> None:
    options: Any = {"early_exit": early_exit, "metric": metric}
    result = depth(SUPPORT, queries, k=5, **options, cluster=Cluster(workers=count))
    active = _searched([result])
    assert early_exit == (min(active) < len(result))
    # Without counts the votes of early exit come with their ties, as all others.
    norms = 16 if metric == "cosine" else 0
    row_bytes = [4 * width + norms for width in WIDTHS]
    asked = Asked(active, row_bytes, Voting.plain(5), queries is None)
    assert counted == [traffic.foreseen(asked, count)]
    assert counted[0].support == 0


def test_of_arrays(counted: list[Traffic]) -> None:
    rng = np.random.default_rng(0)
    support = [rng.standard_normal((90, width), np.float32) for width in (3, 8)]
    queries = [rng.standard_normal((40, width), np.float32) for width in (3, 8)]
    pdepth.probe_votes(support, np.arange(90) % 3, queries, k=[4, 9], cluster=Cluster(workers=3))
    asked = Asked([40, 40], [12, 32], check_voting([4, 9]), own_rows=False, held=False)
    expected = traffic.foreseen(asked, 3)
    expected.support = sum(layer.nbytes for layer in support)
    assert counted == [expected]
    assert expected.queries == 3 * sum(layer.nbytes for layer in queries)


@pytest.mark.parametrize(
    "options", [{"metric": "inner_product"}, {"weights": "exp"}, {"k": [3, 9]}], ids=str
)
def test_lists_of_wide_rows_that_are_not_bounds(
    options: dict[str, Any], counted: list[Traffic]
) -> None:
    """Where votes are not proven by bounds lists are foreseen to the byte."""
    values, options = (
        np.random.default_rng(0).standard_normal((300, 130), np.float32),
        {"k": 9} | options,
    )
    pdepth.probe_votes(
        values, np.arange(300) % 3, values[:90], **options, cluster=Cluster(workers=3)
    )
    voting = check_voting(options["k"], options.get("weights", "uniform"))
    metric = options.get("metric", "sqeuclidean")
    asked = Asked([90], [4 * 130], voting, own_rows=False, held=False, metric=metric)
    assert counted[0].lists == traffic.foreseen(asked, 3).lists == 90 * 9 * 16 * 2


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("own", [True, False])
def test_lists_of_bounds_are_no_longer_than_foreseen(
    own: bool, count: int, counted: list[Traffic]
) -> None:
    """Which depends on the rows; all else is as foreseen."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300, 130), np.float32)
    labels, queries = np.arange(300) % 3, None if own else values[:90] + values[90:180]
    pdepth.probe_votes(values, labels, queries, k=9, cluster=Cluster(workers=count))
    asked = Asked([300 if own else 90], [4 * 130], Voting.plain(9), own, held=own)
    expected = traffic.foreseen(asked, count)
    assert counted[0].lists <= expected.lists
    assert (counted[0].lists > 0) == (count > 1)
    expected.support, expected.lists = values.nbytes, counted[0].lists
    assert counted == [expected]


def test_rates_name_the_slowest_worker() -> None:
    rates = Rates()
    rates.add([Work(0, 1.0, 4e9, 0), Work(1, 2.0, 2e9, 0), Work(0, 0.0, 0.0, 5)])
    assert rates.by_worker == {0: 4e9, 1: 1e9}
    assert str(rates) == "worker 1 1 and worker 0 4 GFLOP/s of 2 workers"


def test_progress_shows_rates_of_workers() -> None:
    details: list[str] = []
    depth(cluster=Cluster(workers=2), progress=lambda event: details.append(event.detail))
    assert any("GFLOP/s of 2 workers" in detail for detail in details)


@pytest.mark.parametrize("in_flight", [2, 3])
def test_chunks_in_flight(in_flight: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more are made than are said, from the first on."""
    begun = ended = most = 0
    queries, received = Worker.queries, voter.ClusterVoter._received

    def counted_queries(*arguments: Any) -> Any:
        nonlocal begun, most
        begun += 1
        most = max(most, begun - ended)
        return queries(*arguments)

    def counted_received(*arguments: Any) -> Any:
        nonlocal ended
        ended += 1
        return received(*arguments)

    monkeypatch.setattr(Worker, "queries", counted_queries)
    monkeypatch.setattr(voter.ClusterVoter, "_received", counted_received)
    depth(cluster=Cluster(workers=2, chunks_in_flight=in_flight), early_exit=False)
    assert (most, begun > 20) == (in_flight, True)
