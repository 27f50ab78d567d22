"""Embeddings beyond memory are computed again, span by span, and the depths are the same."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdepth import DepthResult, _native, prediction_depth
from pdepth.backends import cpu
from pdepth.embeddings.dataset import Changed
from pdepth.embeddings.recompute import SAMPLE, RecomputedEmbeddings, RecomputedRows
from pdepth.search.chunks import ChunkedSession

from helpers.spans import (
    BATCH,
    DRY_ROWS,
    DRY_RUNS,
    QUERIES,
    ROW,
    SUPPORT,
    WIDTHS,
    CountingNetwork,
    K,
    Noisy,
    blobs,
    depth,
    network,
    same,
)


@pytest.mark.slow_if(options=[{"early_exit": False}, {"k": (2, 5, 9)}, {"reference": "last_probe"}])
@pytest.mark.slow_if(
    held_out=[False], options=[{"metric": "cosine", "return_map": "pca"}, {"return_counts": True}]
)
@pytest.mark.slow_if(held_out=[True], options=[{"metric": "cosine", "return_map": "pca"}])
@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_exit": False},
        {"k": (2, 5, 9)},
        {"reference": "last_probe"},
        {"reference": "label", "weights": "distance", "return_map": "pca"},
        {"metric": "cosine", "return_map": "pca"},
        {"return_counts": True},
    ],
)
def test_depths_are_the_same_in_any_memory(held_out: bool, options: dict[str, Any]) -> None:
    queries = QUERIES if held_out else None
    rows = 220 if held_out else 150
    expected = depth(queries=queries, **options)
    result = expected if isinstance(expected, DepthResult) else expected[5]
    assert len(set(result.depth.tolist())) > 3  # the case has something to tell apart
    for memory in (ROW * rows, ROW * rows // 3, 9000):
        same(depth(queries=queries, memory=memory, **options), expected)


def test_how_often_the_network_runs() -> None:
    """Once; or once a span of probes, for the active queries only and up to the span's probes."""
    rows = 150 + 70
    model = CountingNetwork()
    names = ["net.0", "net.2", "net.4"]
    expected = depth(queries=QUERIES, model=model, layers=names)
    assert sum(entry for entry in model.rows if entry != "whole") == rows + DRY_ROWS
    model.rows.clear()
    memory = int(rows * 4 * (30 + 20 + 3) / 0.75) + 8
    result = depth(queries=QUERIES, model=model, layers=names, memory=memory)
    same(result, expected)
    whole = model.rows.count("whole")
    batch_rows = [entry for entry in model.rows if entry != "whole"]
    first = -(-150 // BATCH) + -(-70 // BATCH) + DRY_RUNS + 2  # a batch of each again, for its bits
    assert whole == first
    again = sum(batch_rows) - rows - DRY_ROWS - 2 * BATCH
    active = int((result.depth <= 2).sum())  # at the earlier span
    assert 0 < active < 70
    batches = len(set((np.flatnonzero(result.depth <= 2) // BATCH).tolist()))
    assert 150 < again <= 150 + batches * BATCH


def test_a_support_that_does_not_fit_is_computed_once_a_span(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its labels are read first; then queries stay, and batches of it come and go."""
    few = blobs(20, seed=1)
    spans: list[range] = []
    shared = RecomputedEmbeddings._shared

    def record(self: RecomputedEmbeddings, probes: range, *args: Any) -> Any:
        spans.append(probes)
        return shared(self, probes, *args)

    monkeypatch.setattr(RecomputedEmbeddings, "_shared", record)
    expected = depth(queries=few, model=CountingNetwork())
    for memory, readings in ((ROW * 140, 1), (ROW * 90, 2)):
        spans.clear()
        model = CountingNetwork()
        same(depth(queries=few, model=model, memory=memory), expected)
        assert len(spans) == readings
        assert [probe for probes in reversed(spans) for probe in probes] == [0, 1, 2, 3, 4]
        batch_rows = [entry for entry in model.rows if entry != "whole"]
        whole = model.rows.count("whole")
        assert whole == -(-150 // BATCH) + -(-20 // BATCH) + DRY_RUNS + 2
        again = sum(batch_rows) - 150 - 20 - DRY_ROWS - 2 * BATCH
        assert 150 * (readings - 1) <= again <= 170 * (readings - 1)


def test_lists_do_not_outlive_their_span(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[weakref.ref[Any]] = []
    read_together, shared = ChunkedSession._read_together, RecomputedEmbeddings._shared
    in_memory: list[int] = []

    def record(self: Any, *args: Any) -> Any:
        by_probe = read_together(self, *args)
        lists.extend(weakref.ref(distances) for distances, _ in by_probe.values())
        return by_probe

    def count(self: Any, *args: Any) -> Any:
        in_memory.append(sum(distances() is not None for distances in lists))
        return shared(self, *args)

    monkeypatch.setattr(ChunkedSession, "_read_together", record)
    monkeypatch.setattr(RecomputedEmbeddings, "_shared", count)
    depth(queries=blobs(20, seed=1), memory=ROW * 90)
    assert len(lists) == len(WIDTHS)
    assert in_memory == [0, 0]


@pytest.mark.slow
def test_a_probe_beyond_memory_is_read_as_it_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = depth(queries=QUERIES, early_exit=False)
    read: list[int] = []
    rows_at = RecomputedRows.rows_at

    def record(self: RecomputedRows, places: Any) -> Any:
        read.append(len(places))
        return rows_at(self, places)

    monkeypatch.setattr(RecomputedRows, "rows_at", record)
    same(depth(queries=QUERIES, early_exit=False, memory=8000), expected)
    assert len(read) > 10
    assert max(read) < 150


def test_rows_that_differ_at_each_reading_are_refused_with_advice(tmp_path: Path) -> None:
    data = Noisy(SUPPORT)
    sentence = "support: .* in rows 0-15; read without random transforms: dataset.transform = "
    for number, options in enumerate(
        ({"memory": ROW * 80}, {}, {"keep_embeddings": tmp_path / "kept"}), start=1
    ):
        with pytest.raises(Changed, match=sentence):
            depth(data, **options)
        assert data.read == number * 2 * BATCH
    assert not (tmp_path / "kept").exists()


def test_a_network_that_differs_at_each_pass_goes_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x + 1e-3 * torch.randn_like(x))

    calls: list[str] = []
    to_disk = RecomputedEmbeddings._to_disk

    def record(self: RecomputedEmbeddings) -> Any:
        calls.append("disk")
        return to_disk(self)

    monkeypatch.setattr(RecomputedEmbeddings, "_to_disk", record)
    depth(model=Random(), memory=ROW * 80)
    assert calls == ["disk"]
    depth(model=Random(), memory=ROW * 80, run_dir=tmp_path / "run")  # which keeps them
    assert calls == ["disk"]
    remaining = {path.name.split("-")[0] for path in (tmp_path / "run").iterdir()}
    assert remaining == {".embeddings", "about.json", "reading.npz", "votes"}


def test_few_rows_of_a_large_batch_run_twice(tmp_path: Path) -> None:
    """Once to see whether a run can resume, once to see whether values can be computed again."""
    model = CountingNetwork()
    run_dir = tmp_path / "run"
    prediction_depth(
        model, SUPPORT, k=K, batch_size=50, memory=ROW * 80, run_dir=run_dir, progress=False
    )
    assert model.rows.count(SAMPLE) == 4
    readings = model.rows.count(50) / 3
    assert readings == int(readings) > 1


def test_data_that_changes_on_the_way_is_noticed() -> None:
    class Late(Noisy):
        def __getitem__(self, row: int) -> Any:
            self.read += 1
            x, y = self.data[row]
            return x + (1.0 if self.read > 190 and row == 77 else 0.0), y

    with pytest.raises(Changed, match="support: expected the same .*, got others in row 77; read"):
        depth(Late(SUPPORT), memory=ROW * 80)


def test_less_memory_than_was_thought_gives_the_same_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = depth()
    run, held = _native.run, []

    def run_short_of_memory(**arguments: Any) -> Any:
        held.append(arguments["held_bytes"])
        if arguments["held_bytes"] > 10_000_000:
            raise MemoryError
        return run(**arguments)

    monkeypatch.setattr(_native, "run", run_short_of_memory)
    same(depth(), expected)
    assert held[0] == cpu.HELD_BYTES
    assert held == sorted(held, reverse=True)
    monkeypatch.setattr(_native, "run", lambda **_: run_short_of_memory(held_bytes=1 << 60))
    with pytest.raises(MemoryError):
        depth()
