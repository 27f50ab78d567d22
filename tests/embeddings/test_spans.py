"""Embeddings beyond memory: computed again, group by group, and runs that go on after a kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from pdepth import DepthResult, _native
from pdepth.backends import cpu
from pdepth.depth import prediction_depth
from pdepth.embeddings import spans
from pdepth.embeddings.dataset import Changed
from pdepth.io.journal import Journal

K, BATCH = 5, 16
WIDTHS = (6, 40, 30, 20, 3)
ROW = 4 * sum(WIDTHS)  # bytes of a row at all probes


def blobs(rows: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    x = torch.randn(rows, 6, generator=generator) + 1.2 * nn.functional.one_hot(labels, 6)
    return TensorDataset(x, labels)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 40), nn.ReLU(inplace=True), nn.Linear(40, 30), nn.ReLU(inplace=True),
        nn.Linear(30, 20), nn.ReLU(inplace=True), nn.Linear(20, 3),
    )  # fmt: skip


SUPPORT, QUERIES = blobs(150), blobs(70, seed=1)


def depth(support: Any = SUPPORT, queries: Any = None, model: Any = None, **options: Any) -> Any:
    settings = {"k": K, "progress": False, "batch_size": BATCH}
    return prediction_depth(model or network(), support, queries, **(settings | options))


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for k in wanted:
            same(found[k], wanted[k])
        return
    for name in ("depth", "undefined", "votes", "known", "predictions", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
    for name in ("tied", "margins", "reference_values"):
        if getattr(wanted, name) is not None:
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
    assert (found.probes, found.widths, found.k) == (wanted.probes, wanted.widths, wanted.k)
    assert found.leave_one_out == wanted.leave_one_out


class Counted(nn.Module):
    """How many rows each forward pass had, and which of its layers ran."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rows = network(), []
        self.net[6].register_forward_hook(lambda *_: self.rows.append("whole"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        return self.net(x)


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


def test_what_has_passed_by_is_not_computed_again_after_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdepth.search import passing

    monkeypatch.setattr(passing, "PAUSE", 0)
    take, left = passing.Running.take, [8]

    def cut(self: Any, *given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        take(self, *given)

    monkeypatch.setattr(passing.Running, "take", cut)
    options = {"queries": blobs(20, seed=1), "memory": ROW * 90, "run_dir": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        depth(**options)
    left[0] = 10**6
    found = depth(**options)
    taken = 10**6 - left[0]
    left[0] = 10**6
    same(found, depth(**(options | {"run_dir": tmp_path / "whole"})))
    assert taken <= 10**6 - left[0] - 8 + len(WIDTHS)
    assert not (tmp_path / "run" / "passing.npz").exists()


def test_what_has_passed_by_with_other_bits_passes_by_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, say: a list of distances to two kinds of rows would belong to neither."""
    from pdepth.search import passing

    monkeypatch.setattr(passing, "PAUSE", 0)
    monkeypatch.setattr(passing, "SHARE", 0)
    chunks, begins, left = spans.Embeddings._chunks, [], [1]

    def cut(self: Any, numbers: range, rows: int, begin: int) -> Any:
        begins.append(begin)
        for each in chunks(self, numbers, rows, begin):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(spans.Embeddings, "_chunks", cut)
    options = {"queries": blobs(20, seed=1), "memory": ROW * 90, "run_dir": tmp_path / "run"}
    bits = spans.bits
    for change in (0, 0, 1):
        left[0] = 1
        monkeypatch.setattr(spans, "bits", _changed(bits, change))
        with pytest.raises(KeyboardInterrupt):
            depth(**options)
    assert begins[0] == 0
    assert begins[1] > 0
    assert begins[2] == 0


def _changed(bits: Any, by: int) -> Any:
    def changed(*given: Any) -> Any:
        return tuple({n: check + by for n, check in each.items()} for each in bits(*given))

    return changed


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


def test_a_network_that_does_not_repeat_cannot_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"queries": QUERIES, "memory": ROW * 80, "run_dir": tmp_path / "run"}
    keep = Journal.keep

    def cut(self: Any, probe: int, *given: Any) -> None:
        if probe < 2:
            raise KeyboardInterrupt
        keep(self, probe, *given)

    monkeypatch.setattr(Journal, "keep", cut)
    with pytest.raises(KeyboardInterrupt):
        depth(**options)
    (tmp_path / "run" / f"{spans.KEPT}left").mkdir()
    monkeypatch.setattr(Journal, "keep", keep)
    monkeypatch.setattr(spans, "bits", lambda *_: ({}, {0: 1}))
    with pytest.raises(Changed, match="not give the same values when it runs again"):
        depth(**options)
    assert not (tmp_path / "run" / f"{spans.KEPT}left").exists()


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


class Noisy(Dataset[Any]):
    """Other values at each reading, as a random transform gives them."""

    def __init__(self, data: TensorDataset) -> None:
        self.data, self.read = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Any:
        self.read += 1
        x, y = self.data[row]
        return x + 0.01 * self.read, y


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


# ---- runs that go on ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": ROW * 80},
        {"memory": ROW * 50, "k": (2, 5), "weights": "distance"},
        {"k": (2, 5), "early_exit": False},
    ],
)
def test_a_run_goes_on_from_wherever_it_was_cut(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdepth.io import journal
    from pdepth.search import backward, passing

    monkeypatch.setattr(backward, "BLOCK", 32)
    monkeypatch.setattr(passing, "PAUSE", 0)
    wanted = depth(queries=QUERIES, **options)
    note, left = journal.Journal.note, [0]

    def cut(self: Any, name: str, arrays: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        note(self, name, arrays)

    monkeypatch.setattr(journal.Journal, "note", cut)
    for after in range(40):
        left[0] = after % 4  # some further each time
        try:
            found = depth(queries=QUERIES, run_dir=tmp_path / "run", **options)
            break
        except KeyboardInterrupt:
            continue
    assert after > 3
    same(found, wanted)
    model = Counted()
    same_names = {"layers": ["net.0", "net.2", "net.4"]}
    left[0] = 99
    depth(queries=QUERIES, model=model, run_dir=tmp_path / "other", **same_names, **options)
    model.rows.clear()
    depth(queries=QUERIES, model=model, run_dir=tmp_path / "other", **same_names, **options)
    assert [each for each in model.rows if each != "whole"] == [2, 2]  # the dry passes alone


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_spans as test_passes
from pdepth.io import atomic
from pdepth.search import backward
backward.BLOCK = 32
replace, left = os.replace, [{after}]

def stop(*paths):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*paths)

os.replace = stop
test_passes.depth(queries=test_passes.QUERIES, memory=test_passes.ROW * 80, run_dir={path!r})
"""


@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_a_killed_run_goes_on(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pdepth.search import backward

    monkeypatch.setattr(backward, "BLOCK", 32)
    path = tmp_path / "run"
    script = KILLED.format(tests=str(Path(__file__).parent), after=after, path=str(path))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    found = depth(queries=QUERIES, memory=ROW * 80, run_dir=path)
    same(found, depth(queries=QUERIES))


def test_another_run_is_refused_and_says_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    depth(queries=QUERIES, run_dir=path)

    def refused(sentence: str, error: type[Exception] = ValueError, **options: Any) -> None:
        with pytest.raises(error, match=sentence):
            depth(**({"queries": QUERIES, "run_dir": path} | options))

    refused("a run of which k was another: 5 then, 6 now; another directory begins anew", k=6)
    refused("of which weights was another: uniform then, distance now", weights="distance")
    refused("of which metric was another: sqeuclidean then, cosine now", metric="cosine")
    refused("of which the network was another; another", model=nn.Linear(6, 3), layers=[])
    refused("of which the batch size was another: 16 then, 8 now", batch_size=8)
    refused("of which the number of queries was another: 70 then, 69 now", queries=blobs(69, 1))
    other = TensorDataset(SUPPORT.tensors[0] * 1.5, SUPPORT.tensors[1])
    refused(
        "a run of other data: support gives other values than before in rows 0-15; another",
        support=other,
    )
    changed = SUPPORT.tensors[0].clone()
    changed[149, 0] += 1
    last = TensorDataset(changed, SUPPORT.tensors[1])
    refused("other data: support gives other values than before in rows 144-149; ano", support=last)
    from pdepth.io.journal import _locked

    lock = _locked(path)
    refused("where another process is at work; one at a time is wanted", BlockingIOError)
    os.close(lock)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    refused("holds thesis.tex and no run of pdepth", FileExistsError, run_dir=foreign)
    refused("there is no folder", FileNotFoundError, run_dir=tmp_path / "no" / "run")


def test_a_full_disk_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdepth.io import journal

    savez, left = np.savez, [2]

    def full(*given: Any, **arrays: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(*given, **arrays)

    monkeypatch.setattr(journal.np, "savez", full)
    with pytest.raises(OSError, match=r"run is full; what was found so far is kept, and the same"):
        depth(run_dir=tmp_path / "run")
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".tmp")]
    left[0] = 99
    same(depth(run_dir=tmp_path / "run"), depth())


def test_embeddings_that_were_kept_before_the_cut_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdepth.io import journal

    where = {"run_dir": tmp_path / "run", "keep_embeddings": tmp_path / "kept"}
    keep = journal.Journal.keep

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal.Journal, "keep", cut)
    with pytest.raises(KeyboardInterrupt):
        depth(**where)
    monkeypatch.setattr(journal.Journal, "keep", keep)
    same(depth(**where), depth())


# ---- memory that runs out ----


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
