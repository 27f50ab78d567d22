"""Workers' embeddings on disk, spilled or kept: the same bits, and nothing that stays by chance."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path
from typing import Any

import pytest

import pdepth
from pdepth.cluster import Cluster, voter
from pdepth.cluster.keeping import KeptShard
from pdepth.cluster.network import NetworkShard
from pdepth.cluster.worker import Worker
from pdepth.embeddings import spilling
from pdepth.embeddings.spilled import SpilledEmbeddings
from pdepth.io.shared_store import SharedStore
from pdepth.io.spill_folder import DiskSpeed
from pdepth.progress import Event

from helpers import inline_ray
from helpers.spans import QUERIES, ROW, depth, same

SIDES = pytest.mark.parametrize("queries", [None, QUERIES], ids=["own", "queries"])
LITTLE = 40 * ROW  # of 80 rows a worker


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    inline_ray.install(monkeypatch)
    monkeypatch.setattr(voter, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr("pdepth.search.voting.CHUNK_QUERIES", 7)
    monkeypatch.setattr("pdepth.io.array_files.CHUNK_BYTES", 1000)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


class Stopped(Exception): ...


def stop(event: Event) -> None:
    if event.stage == "probes" and event.text == "2":
        raise Stopped


class Counted:
    """Calls of a method, which go on."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: type, name: str) -> None:
        self.calls, method = 0, getattr(kind, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            return method(*arguments, **options)

        patch.setattr(kind, name, counted)


def dying(patch: pytest.MonkeyPatch, after: int) -> None:
    """The first worker that has answered so often dies, and is started again."""
    answers, lists = 0, Worker.lists

    def answer(worker: Worker, *arguments: Any) -> Any:
        nonlocal answers
        answers += 1
        if answers == after:
            inline_ray.die(worker)
        return lists(worker, *arguments)

    patch.setattr(Worker, "lists", answer)


@pytest.mark.parametrize("rows", [8, 20, 40, 400])
@SIDES
def test_spilled(queries: Any, rows: int, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what each worker's memory holds, in one forward pass; and it is removed."""
    spilled = Counted(monkeypatch, SpilledEmbeddings, "read")
    cluster = Cluster(workers=2, memory_per_worker=rows * ROW)
    same(depth(queries=queries, spill=disk, cluster=cluster), depth(queries=queries))
    assert spilled.calls == (0 if rows == 400 else 2)
    assert os.listdir(disk) == []


def test_auto_spills_where_it_is_faster(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(disk))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(spilling, "is_memory", lambda _: False)
    spilled = Counted(monkeypatch, SpilledEmbeddings, "read")
    cluster = Cluster(workers=2, memory_per_worker=LITTLE)
    for speed, count in ((1e-9, 0), (1e18, 2)):
        monkeypatch.setattr(spilling, "disk_speed", lambda _, s=speed: DiskSpeed(s, s))
        same(depth(queries=QUERIES, spill="auto", cluster=cluster), depth(queries=QUERIES))
        assert spilled.calls == count
    assert os.listdir(disk) == []


@pytest.mark.slow
@SIDES
def test_a_worker_reads_what_it_had_spilled(
    queries: Any, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = depth(queries=queries, early_exit=False)
    cluster = Cluster(workers=2, memory_per_worker=LITTLE)
    found = Counted(monkeypatch, SpilledEmbeddings, "_of_earlier_call")
    lists = Worker.lists
    for after in range(1, 40, 6):
        monkeypatch.setattr(Worker, "lists", lists)
        dying(monkeypatch, after)
        got = depth(queries=queries, early_exit=False, spill=disk, cluster=cluster)
        same(got, expected)
        assert os.listdir(disk) == []
    assert found.calls == 7


def test_what_was_spilled_and_damaged_is_computed_again(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = SpilledEmbeddings._of_earlier_call

    def damaged(spilled: SpilledEmbeddings) -> Any:
        for file in spilled._store.glob("support/0*.npy"):
            with file.open("r+b") as opened:
                opened.seek(-3, os.SEEK_END)
                opened.write(b"abc")
        return died(spilled)

    monkeypatch.setattr(SpilledEmbeddings, "_of_earlier_call", damaged)
    dying(monkeypatch, 30)
    cluster = Cluster(workers=2, memory_per_worker=LITTLE)
    same(depth(spill=disk, early_exit=False, cluster=cluster), depth(early_exit=False))


def test_other_values_after_a_restart_are_refused(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where none of the values are in memory, by those of the first rows."""
    make, made = NetworkShard.__init__, 0

    def changed(shard: NetworkShard, *arguments: Any) -> None:
        nonlocal made
        make(shard, *arguments)
        made += 1
        if made == 3:
            next(shard._model.parameters()).data += 1e-3

    monkeypatch.setattr(NetworkShard, "__init__", changed)
    dying(monkeypatch, 9)
    with pytest.raises(ValueError, match="started again: expected the same values of the first r"):
        depth(spill=disk, cluster=Cluster(workers=2, memory_per_worker=8 * ROW))
    assert os.listdir(disk) == []


@SIDES
def test_an_interrupted_run_finds_what_workers_spilled(
    queries: Any, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many workers; with others it is computed again. Nothing is left."""
    expected = depth(queries=queries)
    options: dict[str, Any] = {"queries": queries, "spill": disk, "run_dir": tmp_path / "run"}
    reads = Counted(monkeypatch, SpilledEmbeddings, "read")
    for workers in (2, 3):
        cluster = Cluster(workers=2, memory_per_worker=LITTLE)
        options["run_dir"] = tmp_path / f"run {workers}"
        with pytest.raises(Stopped):
            depth(**options, cluster=cluster, progress=stop)
        assert sorted(name[-2:] for name in os.listdir(disk)) == ["-0", "-1"]
        cluster = Cluster(workers=workers, memory_per_worker=LITTLE)
        same(depth(**options, cluster=cluster), expected)
        assert reads.calls == 2
        reads.calls = 0
        assert os.listdir(disk) == []


def test_an_error_leaves_nothing_spilled(disk: Path) -> None:
    cluster = Cluster(workers=2, memory_per_worker=LITTLE)
    with pytest.raises(Stopped):
        depth(spill=disk, cluster=cluster, progress=stop)
    assert os.listdir(disk) == []


def test_a_folder_that_a_worker_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(workers=2, memory_per_worker=LITTLE)
    with pytest.raises(FileNotFoundError, match=r"worker 0 on .*: spill: expected an existing fo"):
        depth(spill=tmp_path / "none", cluster=cluster)
    monkeypatch.setattr("pdepth.io.spill_folder.SpillFolder.free", 7)
    with pytest.raises(
        OSError, match=r"worker 0 on .*: spill: expected .* free in .*, got 7 bytes"
    ):
        depth(spill=tmp_path, cluster=cluster)
    with pytest.raises(ValueError, match="spill: expected None beside keep_embeddings"):
        depth(spill=tmp_path, keep_embeddings=tmp_path / "kept", cluster=cluster)


@pytest.mark.parametrize(("workers", "chunk"), [(1, 64), (2, 1000), (3, 128), (7, 1000), (7, 64)])
@pytest.mark.parametrize("rows", [None, 20])
@SIDES
def test_kept(
    queries: Any,
    rows: int | None,
    workers: int,
    chunk: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same bytes as of one process, whose files have checksums of chunks: smaller than headers
    and rows of a worker, and larger."""
    monkeypatch.setattr("pdepth.io.array_files.CHUNK_BYTES", chunk)
    expected = depth(queries=queries, keep_embeddings=tmp_path / "one")
    cluster = Cluster(workers=workers, memory_per_worker=rows and rows * ROW)
    same(depth(queries=queries, keep_embeddings=tmp_path / "many", cluster=cluster), expected)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == (1 if queries is None else 2) * 8 + 1
    for file in files:
        assert filecmp.cmp(tmp_path / "one" / file, tmp_path / "many" / file, shallow=False), file
    store = pdepth.open_store(tmp_path / "many")
    store.verify()
    assert not list((tmp_path / "many").glob(".*"))
    again = pdepth.depth_from_embeddings(store, k=expected.k)
    assert (again.depth == expected.depth).all()


@pytest.mark.parametrize("rows", [None, 20])
@SIDES
def test_a_worker_reads_its_rows_of_the_store(
    queries: Any, rows: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it has died, when it compares their checksums; the network does not run again."""
    expected, lists = depth(queries=queries, early_exit=False), Worker.lists
    reads = Counted(monkeypatch, KeptShard, "read")
    for after in (1, 9, 20):
        monkeypatch.setattr(Worker, "lists", lists)
        dying(monkeypatch, after)
        cluster = Cluster(workers=2, memory_per_worker=rows and rows * ROW)
        got = depth(
            queries=queries, early_exit=False, keep_embeddings=tmp_path / f"{after}",
            cluster=cluster,
        )  # fmt: skip
        same(got, expected)
    assert reads.calls == 6


def test_a_store_that_was_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists, answers = Worker.lists, 0

    def answer(worker: Worker, *arguments: Any) -> Any:
        nonlocal answers
        answers += 1
        if answers == 9:
            with (tmp_path / "kept/support/01.npy").open("r+b") as file:
                file.seek(2000)
                file.write(b"abc")
            inline_ray.die(worker)
        return lists(worker, *arguments)

    monkeypatch.setattr(Worker, "lists", answer)
    with pytest.raises(
        ValueError, match=r"support/01.npy: expected checksum .* in bytes 2000-2999"
    ):
        depth(early_exit=False, keep_embeddings=tmp_path / "kept", cluster=Cluster(workers=2))


def test_a_directory_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while it is written nor afterwards, though one of the same name is there."""
    depth(keep_embeddings=tmp_path / "other")
    opened = KeptShard.__init__

    def elsewhere(shard: KeptShard, *arguments: Any) -> None:
        opened(shard, *arguments)
        object.__setattr__(shard.store, "path", tmp_path / "other")

    monkeypatch.setattr(KeptShard, "__init__", elsewhere)
    sentence = "keep_embeddings: expected a directory that all machines share, got .*at worker 0 on"
    with pytest.raises(ValueError, match=sentence):
        depth(keep_embeddings=tmp_path / "kept", cluster=Cluster(workers=2))
    assert os.listdir(tmp_path) == ["other"]
    store = SharedStore(tmp_path / "other", {}, "the seal of another", finished=True)
    assert not store.is_here
    assert SharedStore.of(tmp_path / "other").is_here


def test_a_finished_store_is_searched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a run that was interrupted, whatever the number of workers, or by none."""
    expected = depth(queries=QUERIES)
    run: dict[str, Any] = {"queries": QUERIES, "keep_embeddings": tmp_path / "kept"}
    with pytest.raises(Stopped):
        depth(**run, run_dir=tmp_path / "run", cluster=Cluster(workers=2), progress=stop)
    reads = Counted(monkeypatch, KeptShard, "read")
    same(depth(**run, run_dir=tmp_path / "run", cluster=Cluster(workers=3)), expected)
    same(depth(**run, run_dir=tmp_path / "new", cluster=Cluster(workers=2)), expected)
    same(depth(**run, run_dir=tmp_path / "here"), expected)
    assert reads.calls == 0
    with pytest.raises(FileExistsError, match="holds a finished store"):
        depth(**run, cluster=Cluster(workers=2))


def test_an_unfinished_store_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("The disk is full")

    monkeypatch.setattr("pdepth.io.shared_store.RowsWriter.close", broken)
    with pytest.raises(OSError, match=r"worker 0 on .*: The disk is full$"):
        depth(keep_embeddings=tmp_path / "kept", cluster=Cluster(workers=2))
    assert os.listdir(tmp_path) == []
