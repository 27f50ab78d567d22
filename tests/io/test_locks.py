"""Two processes at once: the second is refused before it touches anything, or waits its turn."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from torch.utils.data import Dataset

from pdepth import open_store
from pdepth.analysis import networks as network_members
from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.analysis.ensemble_file import add_networks
from pdepth.io.locks import LOCK, locked
from pdepth.report.run import RunOptions, run_to_folder

from helpers.spans import SUPPORT, depth, network, same


class Gated(Dataset[Any]):
    """Rows of which one, that no look at some batches reads, comes when it is let through."""

    def __init__(self) -> None:
        self.reached, self.gate = threading.Event(), threading.Event()

    def __len__(self) -> int:
        return len(SUPPORT)

    def __getitem__(self, row: int) -> Any:
        if row == 100:
            self.reached.set()
            assert self.gate.wait(60)
        return SUPPORT[row]


@pytest.mark.parametrize("run_dir", [True, False])
def test_a_second_process_leaves_the_first_ones_store_alone(run_dir: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"keep_embeddings": tmp_path / "kept"}
    if run_dir:
        options["run_dir"] = tmp_path / "run"
    data, results = Gated(), []
    first = threading.Thread(target=lambda: results.append(depth(data, **options)))
    first.start()
    try:
        assert data.reached.wait(60)
        before = sorted(path.name for path in (tmp_path / "kept/support").iterdir())
        assert before
        sentence = "keep_embeddings: .*kept is in use by another process; wait, or use another"
        with pytest.raises(BlockingIOError, match=sentence):
            depth(**options)
        if run_dir:  # with a store of its own it is refused by the other lock
            with pytest.raises(BlockingIOError, match="run_dir: .*run is in use by another"):
                depth(run_dir=tmp_path / "run", keep_embeddings=tmp_path / "other")
            assert not (tmp_path / "other").exists()
        assert sorted(path.name for path in (tmp_path / "kept/support").iterdir()) == before
    finally:
        data.gate.set()
        first.join()
    same(results[0], depth())
    open_store(tmp_path / "kept").verify()


def test_a_second_run_into_a_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with (
        locked(tmp_path / LOCK, "out"),
        pytest.raises(BlockingIOError, match="out: .* in use by another process; wait, or pass"),
    ):
        run_to_folder(network(), SUPPORT, None, tmp_path, RunOptions(k=(5,)), progress=False)


HOLDER = """
import sys, time
from pathlib import Path
from pdepth.io.locks import locked
with locked(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), locked(path, "x"):
            pass
        holder.kill()
        holder.wait()
    with locked(path, "x"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_child_that_ends_does_not_release_its_parents_lock(tmp_path: Path) -> None:
    with locked(tmp_path / LOCK, "x"):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(BlockingIOError), locked(tmp_path / LOCK, "x"):
            pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refuse)
    sentence = r"run_dir: .*run is on a file system that cannot lock files .*on another disk\."
    with pytest.raises(OSError, match=sentence):
        depth(run_dir=tmp_path / "run")
    with pytest.raises(OSError, match="keep_embeddings: .*kept is on a file system that cannot"):
        depth(keep_embeddings=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
    with pytest.raises(OSError, match="this system has no locks"), locked(tmp_path / LOCK, "x"):
        pass


# ---- an ensemble's file ----


def member(number: int) -> Member:
    rng = np.random.default_rng(number)
    held_out = rng.random(30) < 0.3
    labels, classes = np.arange(30) % 3, rng.integers(0, 3, 30)
    return Member(rng.integers(0, 4, 30), classes, held_out, 4, number, labels)


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """`networks` whose members are ready, and which takes a moment for each."""

    def measured(networks: Any, data: Any, **options: Any) -> Any:
        for number in networks:
            time.sleep(0.01)
            yield member(number)

    monkeypatch.setattr(network_members, "measure_all", measured)
    return lambda numbers: numbers


def test_processes_that_share_an_ensemble_lose_no_network(members: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "ensemble.parquet"
    pytest.importorskip("pyarrow")
    errors: list[BaseException] = []

    def grow(numbers: range) -> None:
        try:
            add_networks(None, members, None, numbers, path, {"k": "5"})
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=grow, args=(n,)) for n in (range(5), range(5, 9), range(3, 7))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    ensemble = Ensemble.load(path)
    assert sorted(ensemble.names) == list(range(9))
    expected = Ensemble(member(0).labels)
    for number in range(9):
        expected.add(member(number))
    np.testing.assert_array_equal(ensemble.depths, expected.depths)
    np.testing.assert_array_equal(ensemble.predicted, expected.predicted)


def test_another_setting_is_refused_and_overwriting_replaces_once(
    members: Any, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "ensemble.parquet"
    add_networks(None, members, None, range(2), path, {"k": "5"})
    with pytest.raises(FileExistsError, match="expected networks with k 6, got 5"):
        add_networks(None, members, None, range(2, 4), path, {"k": "6"})
    assert Ensemble.load(path).names == (0, 1)
    add_networks(None, members, None, range(2, 4), path, {"k": "6"}, overwrite=True)
    assert Ensemble.load(path).names == (2, 3)
