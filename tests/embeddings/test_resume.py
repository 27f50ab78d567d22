"""Runs that go on after a cut, a kill or a full disk; other runs are refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.utils.data import TensorDataset

from pdepth.embeddings import spans
from pdepth.embeddings.dataset import Changed
from pdepth.io.journal import Journal

from helpers.spans import QUERIES, ROW, SUPPORT, WIDTHS, Counted, blobs, depth, same


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
from helpers import spans as case
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
case.depth(queries=case.QUERIES, memory=case.ROW * 80, run_dir={path!r})
"""


@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_a_killed_run_goes_on(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pdepth.search import backward

    monkeypatch.setattr(backward, "BLOCK", 32)
    path = tmp_path / "run"
    script = KILLED.format(tests=str(Path(__file__).parents[1]), after=after, path=str(path))
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
