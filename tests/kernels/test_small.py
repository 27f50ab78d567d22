"""Small supports, whose lists hold all rows: few launches, which a CUDA graph can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import pdepth
from pdepth import definition
from pdepth.backends import triton as backend

from helpers.cases import activations, first_difference
from helpers.device import DEVICE, numbers, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)
if not backend.interpreted():
    pytest.skip("launches are seen where they are interpreted", allow_module_level=True)

from pdepth.backends import packed, transfer
from pdepth.kernels import filter, lists, search

from helpers.captured import operations

LAUNCHES = ["measure", "prepare", "filter", "tighten", "settle"]


def layers_of(*widths: int, rows: int = 60) -> list[torch.Tensor]:
    rng = np.random.default_rng(1)
    return [on_device(activations(rng, rows, width).astype("f4")) for width in widths]


class Job:
    """A search of some rows of a support at its layers, and where its votes go."""

    def __init__(self, layers: list[torch.Tensor], asked: int, **options: Any) -> None:
        self.layers, self.rows = layers, numbers(asked) % len(layers[0])
        self.labels = np.random.default_rng(2).integers(0, 4, len(layers[0]))
        codes = on_device(self.labels.astype("i4"))
        self.votes = torch.full((len(layers), asked), -7, dtype=torch.int32, device=DEVICE)
        self.tied = torch.zeros((len(layers), asked), dtype=torch.bool, device=DEVICE)
        self.answers = [
            search.Answer(votes=votes, tied=tied)
            for votes, tied in zip(self.votes, self.tied, strict=True)
        ]
        self.search = search.Search(layers, layers, self.rows, self.rows, codes, 5, **options)

    def check(self) -> None:
        """That its votes are those of the definition."""
        asked = self.rows.cpu().numpy()
        for layer, votes, tied in zip(self.layers, self.votes, self.tied, strict=True):
            wanted = definition.probe_votes(layer.cpu(), self.labels, query_rows=asked, k=5)
            assert first_difference(votes.cpu(), wanted.votes) is None
            assert first_difference(tied.cpu(), wanted.tied) is None


def test_five_launches_and_twenty_operations_whatever_the_layers() -> None:
    """Also counted are views. On a device two tables are pinned and sent, and the cuts are read."""
    for layers in (layers_of(40), layers_of(40, 64, 5)):
        with operations() as seen:
            job = Job(layers, 2)
            seen.counts.clear()
            job.search.answer(job.answers)
        job.check()
        assert seen.launches == [f"{name}_kernel" for name in LAUNCHES]
        assert sum(seen.counts.values()) + 5 <= 20, seen.counts


def test_a_call_takes_twenty_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are none. On a device classes and two tables, which are pinned, are sent; votes, ties
    and cuts are read."""
    held = {id(rows): rows for rows in layers_of(40, 64, 5)}
    layers = list(held.values())
    labels = np.random.default_rng(2).integers(0, 4, 60)
    monkeypatch.setattr(transfer.Transfer, "take", lambda own, rows: torch.from_numpy(rows.array))
    with operations() as seen:
        found = pdepth.probe_votes(layers, labels, query_rows=[3, 9], k=5, backend="triton")
    assert seen.launches == [f"{name}_kernel" for name in LAUNCHES]
    assert seen.total + 8 <= 20, seen.counts
    for layer, votes in zip(layers, found.votes, strict=True):
        wanted = definition.probe_votes(layer, labels, query_rows=[3, 9], k=5).votes
        assert first_difference(votes, wanted) is None


@pytest.mark.slow_if(scratch=[0])
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("scratch", [search.SCRATCH, 0])
def test_a_second_launch_can_be_captured(scratch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other values in the same memory; what was given up is read after it. With little scratch the
    queries come in chunks, of a tile each."""
    monkeypatch.setattr(filter, "WHOLE", replace(filter.WHOLE, queries=16))
    job = Job(layers_of(20, 70, rows=40), 3 if scratch else 18, scratch=scratch)
    job.search.answer(job.answers)
    job.check()
    for layer in job.layers:
        layer.copy_(layer.flip(0) * 3)
    if scratch:
        job.layers[0][1] = 2e30  # beside which 16 bits tell the others from each other no more
    job.votes.fill_(-7)
    with operations(captured=True) as seen:
        launched = job.search.launch(job.answers)
    assert seen.launches[:5] == [f"{name}_kernel" for name in LAUNCHES]
    job.search.finish(job.answers, launched)
    job.check()


@pytest.mark.usefixtures("poisoned")
def test_queries_that_are_given_up_are_answered_after_the_launch() -> None:
    """A query beyond float16, and a layer beyond any scale."""
    rng = np.random.default_rng(3)
    support = [rng.standard_normal((60, 20)), rng.standard_normal((60, 9)) * 1e140]
    queries = [rng.standard_normal((3, 20)), rng.standard_normal((3, 9)) * 1e140]
    queries[0][1] *= 1e9
    labels = rng.integers(0, 4, 60)
    with operations() as seen:
        found = pdepth.probe_votes(support, labels, queries, k=5, backend="triton")
    assert seen.launches == [*(f"{name}_kernel" for name in LAUNCHES), *["distances_kernel"] * 2]
    for own, asked, votes in zip(support, queries, found.votes, strict=True):
        wanted = definition.probe_votes(own, labels, asked, k=5).votes
        assert first_difference(votes, wanted) is None


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda values: values.sum().item(),
        lambda values: values.nonzero(),
        lambda values: values[values > 0],
        lambda values: values.copy_(torch.tensor([1.0, 2.0])),
        lambda values: values.to(torch.float64),
    ],
)
def test_what_no_graph_can_hold_is_seen(forbidden: Any) -> None:
    values = torch.ones(2)
    with pytest.raises(AssertionError, match="in a CUDA graph"), operations(captured=True):
        forbidden(values)


@pytest.mark.usefixtures("large_supports")
def test_large_supports_cannot_be_captured() -> None:
    job = Job(layers_of(20), 2)
    job.search.answer(job.answers)
    with pytest.raises(AssertionError, match="in a CUDA graph"), operations(captured=True):
        job.search.launch(job.answers)


@pytest.mark.slow_if(large=[True], metric=["cosine", "inner_product"])
@pytest.mark.slow_if(large=[False], metric=["sqeuclidean"])
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "inner_product"])
def test_an_index_packs_its_support_once(
    metric: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever k and the queries, one layer or all; until rows are added."""
    if large:
        monkeypatch.setattr(lists, "WHOLE", 0)
    rng = np.random.default_rng(5)
    support = [rng.integers(-2, 3, (60, width)).astype("f4") + 0.1 for width in (20, 70)]
    queries = [rng.integers(-2, 3, (2, width)).astype("f8") + 0.1 for width in (20, 70)]
    labels = rng.integers(0, 3, 60)
    index = pdepth.Index.of_layers(support, labels, metric=metric, backend="triton")
    before, measured = index.nbytes, []
    for k in (4, 7):
        with operations() as seen:
            found = index.votes(queries, k=k)
        measured.append(seen.launches.count("measure_kernel"))
        for own, asked, votes in zip(support, queries, found.votes, strict=True):
            wanted = definition.probe_votes(own, labels, asked, k=k, metric=metric)
            assert first_difference(votes, wanted.votes) is None
    assert measured == [2, 0]
    assert index.nbytes > before
    with operations() as seen:
        found = index.votes(query_rows=[3, 50], k=5)
    assert "measure_kernel" not in seen.launches
    assert seen.launches.count("prepare_kernel") == 1
    for own, votes in zip(support, found.votes, strict=True):
        wanted = definition.probe_votes(own, labels, query_rows=[3, 50], k=5, metric=metric)
        assert first_difference(votes, wanted.votes) is None
    index.add([rows[:5] for rows in support], labels[:5])
    found = index.votes(queries, k=4)
    for own, asked, votes in zip(support, queries, found.votes, strict=True):
        grown = np.concatenate([own, own[:5]])
        wanted = definition.probe_votes(
            grown, np.concatenate([labels, labels[:5]]), asked, k=4, metric=metric
        )
        assert first_difference(votes, wanted.votes) is None


def test_an_index_without_room_packs_for_each_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "FREE_SHARE", 0.0)
    rng = np.random.default_rng(5)
    support, labels = rng.standard_normal((60, 20)), rng.integers(0, 3, 60)
    index = pdepth.Index(support, labels, backend="triton")
    before = index.nbytes
    for _ in range(2):
        with operations() as seen:
            found = index.votes(support[:2], k=4)
        assert "measure_kernel" in seen.launches
    assert index.nbytes == before
    wanted = definition.probe_votes(support, labels, support[:2], k=4).votes
    assert first_difference(found.votes, wanted) is None
