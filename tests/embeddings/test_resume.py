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

from pdepth.embeddings import recompute
from pdepth.embeddings.dataset import Changed
from pdepth.embeddings.recompute import RecomputedEmbeddings, SharedForward
from pdepth.io.journal import Journal
from pdepth.io.locks import LOCK, locked
from pdepth.search import backward
from pdepth.search.chunks import KeptLists
from pdepth.search.topk import RunningTopK

from helpers.spans import (
    BATCH,
    DRY_RUNS,
    QUERIES,
    ROW,
    WIDTHS,
    CountingNetwork,
    blobs,
    depth,
    same,
)


def test_the_lists_of_a_shared_reading_are_resumed_after_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeptLists, "pause", 0)
    take, remaining = RunningTopK.take, [8]

    def cut(self: Any, *args: Any) -> None:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise KeyboardInterrupt
        take(self, *args)

    monkeypatch.setattr(RunningTopK, "take", cut)
    options = {"queries": blobs(20, seed=1), "memory": ROW * 90, "run_dir": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        depth(**options)
    assert (tmp_path / "run" / "lists.npz").exists()
    remaining[0] = 10**6
    result = depth(**options)
    taken = 10**6 - remaining[0]
    remaining[0] = 10**6
    same(result, depth(**(options | {"run_dir": tmp_path / "whole"})))
    assert taken <= 10**6 - remaining[0] - 8 + len(WIDTHS)
    assert not (tmp_path / "run" / "lists.npz").exists()


def test_lists_of_other_values_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of distances to two kinds of rows would belong to neither."""
    monkeypatch.setattr(KeptLists, "pause", 0)
    monkeypatch.setattr(KeptLists, "share", 0)
    read, begins = SharedForward.read, []

    def cut(self: Any, sources: Any, rows: slice) -> Any:
        begins[-1].append(rows.start)
        if len(begins[-1]) > 1:
            raise KeyboardInterrupt
        return read(self, sources, rows)

    monkeypatch.setattr(SharedForward, "read", cut)
    options = {"queries": blobs(20, seed=1), "memory": ROW * 90, "run_dir": tmp_path / "run"}
    repeats = RecomputedEmbeddings._repeats
    for change in (0, 0, 1):
        begins.append([])
        monkeypatch.setattr(RecomputedEmbeddings, "_repeats", _changed(repeats, change))
        with pytest.raises(KeyboardInterrupt):
            depth(**options)
    assert begins[0][0] == 0
    assert begins[1][0] > 0
    assert begins[2][0] == 0


def _changed(repeats: Any, by: int) -> Any:
    def changed(embeddings: Any) -> bool:
        answer: bool = repeats(embeddings)
        embeddings._checksums = {n: check + by for n, check in embeddings._checksums.items()}
        return answer

    return changed


def test_lists_of_a_run_that_has_ended_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut between the last votes and the removal of the lists they came from."""
    monkeypatch.setattr(KeptLists, "pause", 0)
    monkeypatch.setattr(KeptLists, "share", 0)
    remove = Journal.remove

    def cut(journal: Journal, name: str) -> None:
        if not list(journal.path.glob("votes-000-*")):
            return remove(journal, name)
        raise KeyboardInterrupt

    options = {"queries": blobs(20, seed=1), "memory": ROW * 90, "run_dir": tmp_path / "run"}
    monkeypatch.setattr(Journal, "remove", cut)
    with pytest.raises(KeyboardInterrupt):
        depth(early_exit=False, **options)
    assert (tmp_path / "run" / "lists.npz").exists()
    monkeypatch.setattr(Journal, "remove", remove)
    depth(early_exit=False, **options)
    assert not (tmp_path / "run" / "lists.npz").exists()


def test_a_network_that_does_not_repeat_cannot_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"queries": QUERIES, "memory": ROW * 80, "run_dir": tmp_path / "run"}
    write_votes = Journal.write_votes

    def cut(self: Any, probe: int, *args: Any) -> None:
        if probe < 2:
            raise KeyboardInterrupt
        write_votes(self, probe, *args)

    monkeypatch.setattr(Journal, "write_votes", cut)
    with pytest.raises(KeyboardInterrupt):
        depth(**options)
    scratch = tmp_path / "run" / f"{recompute.SCRATCH_PREFIX}remaining"
    scratch.mkdir()
    monkeypatch.setattr(Journal, "write_votes", write_votes)
    monkeypatch.setattr(RecomputedEmbeddings, "_repeats", lambda embeddings: False)
    with pytest.raises(Changed, match="not give the same values when it runs again"):
        depth(**options)
    assert not scratch.exists()


@pytest.mark.slow_if(options=[{}, {"memory": ROW * 80}, {"memory": ROW * 50, "return_map": "pca"}])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": ROW * 80},
        {"memory": ROW * 50, "k": (2, 5), "weights": "distance"},
        {"k": (2, 5), "early_exit": False},
        {"return_neighbors": 3, "return_map": "pca"},
        {"memory": ROW * 50, "k": (2, 5), "return_neighbors": 6},
        {"memory": ROW * 50, "return_map": "pca"},
    ],
)
def test_a_run_goes_on_from_wherever_it_was_cut(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backward, "QUERY_CHUNK", 32)
    monkeypatch.setattr(KeptLists, "pause", 0)
    expected = depth(queries=QUERIES, **options)
    write, remaining = Journal.write, [0]

    def cut(self: Any, name: str, arrays: Any) -> None:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise KeyboardInterrupt
        write(self, name, arrays)

    monkeypatch.setattr(Journal, "write", cut)
    for after in range(120):
        remaining[0] = after % 4  # some further each time
        try:
            result = depth(queries=QUERIES, run_dir=tmp_path / "run", **options)
            break
        except KeyboardInterrupt:
            continue
    assert after > 3
    same(result, expected)
    model = CountingNetwork()
    same_names = {"layers": ["net.0", "net.2", "net.4"]}
    remaining[0] = 99
    depth(queries=QUERIES, model=model, run_dir=tmp_path / "other", **same_names, **options)
    model.rows.clear()
    depth(queries=QUERIES, model=model, run_dir=tmp_path / "other", **same_names, **options)
    assert [entry for entry in model.rows if entry != "whole"] == [3] * DRY_RUNS + [BATCH] * 2


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from helpers import spans as case
from pdepth.io import atomic
from pdepth.search import backward
backward.QUERY_CHUNK = 32
replace, remaining = os.replace, [{after}]

def stop(*paths):
    remaining[0] -= 1
    if remaining[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*paths)

os.replace = stop
case.depth(queries=case.QUERIES, memory=case.ROW * 80, run_dir={path!r})
"""


@pytest.mark.slow  # the fast tier has tests/io/test_crashes.py
@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_a_killed_run_goes_on(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backward, "QUERY_CHUNK", 32)
    path = tmp_path / "run"
    script = KILLED.format(tests=str(Path(__file__).parents[1]), after=after, path=str(path))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    result = depth(queries=QUERIES, memory=ROW * 80, run_dir=path)
    same(result, depth(queries=QUERIES))


def test_another_run_is_refused_and_says_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    depth(queries=QUERIES, run_dir=path)

    def refused(sentence: str, error: type[Exception] = ValueError, **options: Any) -> None:
        with pytest.raises(error, match=sentence):
            depth(**({"queries": QUERIES, "run_dir": path} | options))

    refused("a run of which k differs: 5 then, 6 now; use another directory to begin anew", k=6)
    refused("of which weights differs: uniform then, distance now", weights="distance")
    refused("of which metric differs: sqeuclidean then, cosine now", metric="cosine")
    refused("of which the network differs; use another", model=nn.Linear(6, 3), layers=[])
    refused("of which the batch size differs: 16 then, 8 now", batch_size=8)
    refused("of which the number of queries differs: 70 then, 69 now", queries=blobs(69, 1))
    with locked(path / LOCK, "run_dir"):
        refused("is in use by another process; wait, or use another directory", BlockingIOError)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    refused(
        "expected a new or empty directory or that of a run, got .*, which holds thesis.tex",
        FileExistsError,
        run_dir=foreign,
    )
    refused(
        "run_dir: expected a directory, got the file .*thesis.tex",
        FileExistsError,
        run_dir=foreign / "thesis.tex",
    )
    refused(
        "keep_embeddings: expected another directory than run_dir, got .*both for both",
        run_dir=tmp_path / "both",
        keep_embeddings=tmp_path / "both",
    )
    assert not (tmp_path / "both").exists()
    refused(
        "expected .*run in an existing folder, got none at",
        FileNotFoundError,
        run_dir=tmp_path / "no" / "run",
    )


def test_a_full_disk_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savez, remaining = np.savez, [2]

    def full(*args: Any, **arrays: Any) -> None:
        remaining[0] -= 1
        if remaining[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(*args, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"run is full; the votes so far are kept, and the same"):
        depth(run_dir=tmp_path / "run")
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".tmp")]
    remaining[0] = 99
    same(depth(run_dir=tmp_path / "run"), depth())


def test_embeddings_that_were_kept_before_the_cut_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = {"run_dir": tmp_path / "run", "keep_embeddings": tmp_path / "kept"}
    write_votes = Journal.write_votes

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "write_votes", cut)
    with pytest.raises(KeyboardInterrupt):
        depth(**directories)
    monkeypatch.setattr(Journal, "write_votes", write_votes)
    same(depth(**directories), depth())
