"""Embeddings beyond memory are computed again, span by span, and the depths are the same."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdepth import DepthResult, _native
from pdepth.backends import cpu
from pdepth.embeddings import spans
from pdepth.embeddings.dataset import Changed

from helpers.spans import (
    BATCH,
    QUERIES,
    ROW,
    SUPPORT,
    WIDTHS,
    Counted,
    Noisy,
    blobs,
    depth,
    network,
    same,
)


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_exit": False},
        {"k": (2, 5, 9)},
        {"reference": "last_probe"},
        {"reference": "label", "weights": "distance"},
        {"metric": "cosine"},
        {"return_counts": True},
    ],
)
def test_depths_are_the_same_in_any_memory(held_out: bool, options: dict[str, Any]) -> None:
    queries = QUERIES if held_out else None
    rows = 220 if held_out else 150
    wanted = depth(queries=queries, **options)
    one = wanted if isinstance(wanted, DepthResult) else wanted[5]
    assert len(set(one.depth.tolist())) > 3  # the case has something to tell apart
    for memory in (ROW * rows, ROW * rows // 3, 9000):
        same(depth(queries=queries, memory=memory, **options), wanted)


def test_how_often_the_network_runs() -> None:
    """All in one pass; in groups, of which only the queries alive run again and no farther."""
    rows = 150 + 70
    model = Counted()
    names = ["net.0", "net.2", "net.4"]
    wanted = depth(queries=QUERIES, model=model, layers=names)
    assert sum(each for each in model.rows if each != "whole") == rows + 4  # and two dry passes
    model.rows.clear()
    memory = int(rows * 4 * (30 + 20 + 3) / 0.75) + 8
    found = depth(queries=QUERIES, model=model, layers=names, memory=memory)
    same(found, wanted)
    whole = model.rows.count("whole")
    ran = [each for each in model.rows if each != "whole"]
    first = -(-150 // BATCH) + -(-70 // BATCH) + 4  # two dry passes, one twice for its bits
    assert whole == first
    again = sum(ran) - rows - 4 - 2 * BATCH
    alive = int((found.depth <= 2).sum())  # those that are asked at the earlier group
    assert 0 < alive < 70
    batches = len(set((np.flatnonzero(found.depth <= 2) // BATCH).tolist()))
    assert 150 < again <= 150 + batches * BATCH


def test_a_support_that_does_not_fit_passes_by_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its labels are read first; then queries stay, and batches of it come and go."""
    few = blobs(20, seed=1)
    groups: list[range] = []
    passing = spans.Embeddings._passing

    def seen(self: spans.Embeddings, numbers: range, *given: Any) -> spans.Group:
        groups.append(numbers)
        return passing(self, numbers, *given)

    monkeypatch.setattr(spans.Embeddings, "_passing", seen)
    wanted = depth(queries=few, model=Counted())
    for memory, passed in ((ROW * 140, 1), (ROW * 90, 2)):
        groups.clear()
        model = Counted()
        same(depth(queries=few, model=model, memory=memory), wanted)
        assert len(groups) == passed
        assert [n for numbers in reversed(groups) for n in numbers] == [0, 1, 2, 3, 4]
        ran = [each for each in model.rows if each != "whole"]
        whole = model.rows.count("whole")
        assert whole == -(-150 // BATCH) + -(-20 // BATCH) + 4  # two dry passes, one twice
        again = sum(ran) - 150 - 20 - 4 - 2 * BATCH
        assert 150 * (passed - 1) <= again <= 170 * (passed - 1)


def test_lists_do_not_outlive_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    from pdepth.search import passing

    held: list[weakref.ref[Any]] = []
    nearest, before = passing.nearest, spans.Embeddings._passing
    alive: list[int] = []

    def seen(*given: Any) -> Any:
        found = nearest(*given)
        held.extend(weakref.ref(each[0]) for each in found.lists.values())
        return found

    def asked(self: Any, *given: Any) -> Any:
        alive.append(sum(each() is not None for each in held))
        return before(self, *given)

    monkeypatch.setattr(passing, "nearest", seen)
    monkeypatch.setattr(spans.Embeddings, "_passing", asked)
    depth(queries=blobs(20, seed=1), memory=ROW * 90)
    assert len(held) == len(WIDTHS)
    assert alive == [0, 0]


def test_a_probe_beyond_memory_is_read_as_it_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = depth(queries=QUERIES, early_exit=False)
    asked: list[int] = []
    rows_at = spans.Recomputed.rows_at

    def seen(self: spans.Recomputed, places: Any) -> Any:
        asked.append(len(places))
        return rows_at(self, places)

    monkeypatch.setattr(spans.Recomputed, "rows_at", seen)
    same(depth(queries=QUERIES, early_exit=False, memory=8000), wanted)
    assert len(asked) > 10
    assert max(asked) < 150


def test_rows_that_differ_at_each_reading_are_refused_with_advice(tmp_path: Path) -> None:
    data = Noisy(SUPPORT)
    with pytest.raises(Changed, match="in rows 0-15; .* without random transforms, or with keep_e"):
        depth(data, memory=ROW * 80)
    assert data.read == 2 * BATCH
    found = depth(data, memory=ROW * 80, keep_embeddings=tmp_path / "kept")
    assert data.read == 2 * BATCH + 150
    assert found.depth.min() < found.depth.max()


def test_a_network_that_differs_at_each_pass_goes_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x + 1e-3 * torch.randn_like(x))

    whole: list[str] = []
    monkeypatch.setattr(spans.Embeddings, "_to_disk", _told(whole, spans.Embeddings._to_disk))
    depth(model=Random(), memory=ROW * 80, run_dir=tmp_path / "run")
    assert whole == ["disk"]
    left = {path.name.split("-")[0] for path in (tmp_path / "run").iterdir()}
    assert left == {".lock", "about.json", "reading.npz", "votes"}


def _told(heard: list[str], call: Any) -> Any:
    def tell(self: Any) -> None:
        heard.append("disk")
        call(self)

    return tell


def test_data_that_changes_on_the_way_is_noticed() -> None:
    class Late(Noisy):
        def __getitem__(self, row: int) -> Any:
            self.read += 1
            x, y = self.data[row]
            return x + (1.0 if self.read > 190 and row == 77 else 0.0), y

    with pytest.raises(Changed, match="support gives other values than before in rows 64-79; the"):
        depth(Late(SUPPORT), memory=ROW * 80)


def test_less_memory_than_was_thought_gives_the_same_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = depth()
    run, held = _native.run, []

    def short(**given: Any) -> Any:
        held.append(given["held_bytes"])
        if given["held_bytes"] > 10_000_000:
            raise MemoryError
        return run(**given)

    monkeypatch.setattr(_native, "run", short)
    same(depth(), wanted)
    assert held[0] == cpu.HELD
    assert held == sorted(held, reverse=True)
    monkeypatch.setattr(_native, "run", lambda **_: short(held_bytes=1 << 60))
    with pytest.raises(MemoryError):
        depth()
