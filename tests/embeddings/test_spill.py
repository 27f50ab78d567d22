"""Embeddings that do not fit go to disk in one forward pass: the same depths, and nothing stays."""

from __future__ import annotations

import os
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth import DepthResult
from pdepth.embeddings import spilling
from pdepth.embeddings.spilled import SpilledEmbeddings
from pdepth.io import spill_folder
from pdepth.io.spill_folder import STORE, DiskSpeed, SpillFolder, disk_speed, is_memory
from pdepth.search.backward import ProbeSearch

from helpers.spans import (
    BATCH,
    DRY_ROWS,
    QUERIES,
    ROW,
    SUPPORT,
    CountingNetwork,
    K,
    blobs,
    depth,
    network,
    same,
)

MEMORY = ROW * 70  # of 220 rows
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def noted(**options: Any) -> tuple[Any, list[str]]:
    """A result, and the notes on the way."""
    notes: list[str] = []

    def note(event: Any) -> None:
        if event.stage == "note":
            notes.append(event.text)

    return depth(progress=note, **options), notes


def rows_run(model: CountingNetwork) -> int:
    return sum(entry for entry in model.rows if entry != "whole") - DRY_ROWS


@pytest.mark.slow_if(options=[{"early_exit": False}, {"k": (2, 5, 9)}, {"reference": "last_probe"}])
@pytest.mark.slow_if(held_out=[False], options=[{"metric": "cosine"}, {"return_counts": True}])
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
def test_depths_are_the_same_from_disk(held_out: bool, options: dict[str, Any], disk: Path) -> None:
    queries = QUERIES if held_out else None
    expected = depth(queries=queries, **options)
    result = expected if isinstance(expected, DepthResult) else expected[5]
    assert len(set(result.depth.tolist())) > 3  # the case has something to tell apart
    for memory in (ROW * (220 if held_out else 150), MEMORY, 9000):
        found, notes = noted(queries=queries, memory=memory, spill=disk, **options)
        same(found, expected)
        assert any(str(disk) in note for note in notes)
        assert os.listdir(disk) == []


def test_bfloat16_comes_back_from_disk_as_it_went(disk: Path) -> None:
    def rows(data: TensorDataset) -> TensorDataset:
        return TensorDataset(data.tensors[0].bfloat16(), data.tensors[1])

    data = {"support": rows(SUPPORT), "queries": rows(QUERIES)}
    expected = depth(model=network().bfloat16(), **data)
    assert len(set(expected.depth.tolist())) > 3
    same(depth(model=network().bfloat16(), memory=MEMORY, spill=disk, **data), expected)


def test_the_network_runs_once(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over each row, where it would run again for each span; only what does not fit is written."""
    model = CountingNetwork()
    names = ["net.0", "net.2", "net.4"]
    options = {"queries": QUERIES, "layers": names, "early_exit": False}
    memory = int(220 * 4 * (30 + 20 + 3) / 0.75) + 8  # holds the last three of five probes
    expected = depth(model=model, memory=memory, **options)
    assert rows_run(model) == 2 * 220 + 2 * BATCH
    written: list[list[str]] = []
    read = SpilledEmbeddings.read

    def look(self: SpilledEmbeddings) -> Any:
        reading = read(self)
        folder = next(disk.glob(f".*/{STORE}"))
        written.append(list(pdepth.open_store(folder).probes))
        return reading

    monkeypatch.setattr(SpilledEmbeddings, "read", look)
    model.rows.clear()
    same(depth(model=model, memory=memory, spill=disk, **options), expected)
    assert rows_run(model) == 220
    assert written == [["input", "net.0"]]


def test_what_fits_is_not_written(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpillFolder, "held", lambda self: pytest.fail("the disk is used"))
    _, notes = noted(memory="1GB", spill=disk)
    assert not any("spill" in note for note in notes)


def test_a_network_that_differs_at_each_pass_is_written_as_well(disk: Path) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x + 1e-3 * torch.randn_like(x))

    found, notes = noted(model=Random(), memory=MEMORY, spill=disk)
    assert len(found) == 150
    assert not any("not the same" in note for note in notes)


def speeds(monkeypatch: pytest.MonkeyPatch, disk_bytes: float, free: int = 10**12) -> None:
    """A network of a microsecond a row, and a disk of so many bytes a second."""
    speed = DiskSpeed(disk_bytes, disk_bytes)
    monkeypatch.setattr(spilling, "disk_speed", lambda folder: speed)
    monkeypatch.setattr(spilling, "is_memory", lambda folder: False)
    monkeypatch.setattr(spill_folder.shutil, "disk_usage", lambda path: Usage(10**13, 0, free))
    monkeypatch.setattr("pdepth.embeddings.spilling.row_seconds_of", lambda job, runs: [1e-6] * 5)


def test_auto_takes_the_disk_where_it_is_cheaper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = depth(queries=QUERIES)
    options = {"queries": QUERIES, "memory": MEMORY, "spill": "auto"}
    monkeypatch.setattr(spilling.tempfile, "gettempdir", lambda: str(tmp_path))
    speeds(monkeypatch, 1e12)
    model = CountingNetwork()
    names = ["net.0", "net.2", "net.4"]
    found, notes = noted(model=model, layers=names, **options)
    same(found, depth(queries=QUERIES, model=CountingNetwork(), layers=names))
    assert rows_run(model) == 220
    (line,) = [note for note in notes if "spill:" in note]
    number = r"\d+\.\d"
    assert re.fullmatch(
        rf"embeddings: spill: {number} kB to {tmp_path}, read from there: 1 forward pass in "
        rf"place of \d; {number} s with the disk, {number} s without",
        line,
    )
    assert os.listdir(tmp_path) == []

    speeds(monkeypatch, 1e3)
    found, notes = noted(**options)
    same(found, expected)
    (line,) = [note for note in notes if "spill:" in note]
    assert re.search(r"spill: not taken, .* s with the disk, 0\.0 s without$", line)
    assert any("computed in" in note for note in notes)


def test_auto_says_why_the_disk_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spilling.tempfile, "gettempdir", lambda: str(tmp_path))
    expected, sentences = depth(), []
    speeds(monkeypatch, 1e12, free=1000)
    sentences.append(noted(memory=MEMORY, spill="auto"))
    speeds(monkeypatch, 1e12)
    monkeypatch.setattr(spilling, "is_memory", lambda folder: True)
    sentences.append(noted(memory=MEMORY, spill="auto"))

    def refuse(folder: Path) -> DiskSpeed:
        raise PermissionError(13, "Permission denied")

    speeds(monkeypatch, 1e12)
    monkeypatch.setattr(spilling, "disk_speed", refuse)
    sentences.append(noted(memory=MEMORY, spill="auto"))
    reasons = [
        "1.0 kB are free",
        f"{tmp_path} is itself in memory",
        f"{tmp_path} cannot be written to: Permission denied",
    ]
    for (found, notes), reason in zip(sentences, reasons, strict=True):
        same(found, expected)
        (line,) = [note for note in notes if "spill:" in note]
        assert "not taken" in line
        assert line.endswith(reason)


def test_auto_goes_to_the_directory_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(monkeypatch, 1e12)
    run = tmp_path / "run"
    _, notes = noted(memory=MEMORY, spill="auto", run_dir=run)
    assert any(f"kB to {run}, read from there" in note for note in notes)
    assert not list(run.glob(".pdepth*"))


def test_a_folder_that_lacks_room_is_refused_before_the_work(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_folder.shutil, "disk_usage", lambda path: Usage(10**6, 0, 1000))
    model = CountingNetwork()
    with pytest.raises(
        OSError, match=rf"spill: expected 45\.6 kB free in {disk}, got 1\.0 kB; use a folder on"
    ):
        depth(model=model, memory=MEMORY, spill=disk, run_dir=tmp_path / "run", layers=LAYERS)
    assert rows_run(model) <= 0
    assert os.listdir(disk) == []
    assert not (tmp_path / "run").exists()


LAYERS = ["net.0", "net.2", "net.4"]


def test_what_is_no_folder(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for spill, error, sentence in (
        (3, TypeError, "spill: expected a folder, 'auto' or None, got a int"),
        (tmp_path / "none", FileNotFoundError, "spill: expected an existing folder or 'auto', got"),
        (tmp_path / "file", NotADirectoryError, "spill: expected a folder, got the file"),
    ):
        for call in (depth, plan):
            with pytest.raises(error, match=sentence):
                call(memory=MEMORY, spill=spill)
    with pytest.raises(ValueError, match="spill: expected None beside keep_embeddings, which"):
        depth(memory=MEMORY, spill="auto", keep_embeddings=tmp_path / "kept")
    assert sorted(os.listdir(tmp_path)) == ["disk", "file"]


def test_a_full_disk_leaves_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pdepth.io import array_files

    put, left = array_files.PieceWriter.write, [20]

    def short(self: Any, block: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        put(self, block)

    monkeypatch.setattr(array_files.PieceWriter, "write", short)
    with pytest.raises(OSError, match="The disk of .* is full; nothing was kept"):
        depth(memory=MEMORY, spill=disk)
    assert os.listdir(disk) == []


def cut_after(monkeypatch: pytest.MonkeyPatch, probes: int) -> None:
    """Interrupt a search after so many probes."""
    search, left = ProbeSearch._search, [probes]

    def cut(self: Any, *args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        search(self, *args)

    monkeypatch.setattr(ProbeSearch, "_search", cut)


def interrupted(monkeypatch: pytest.MonkeyPatch, probes: int, **options: Any) -> None:
    with monkeypatch.context() as patch:
        cut_after(patch, probes)
        with pytest.raises(KeyboardInterrupt):
            depth(**options)


@pytest.mark.parametrize("probes", [1, 3])
def test_a_run_that_was_cut_searches_what_is_on_the_disk(
    probes: int, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two probes are on the disk; three were in memory, and run again unless all were searched."""
    memory = int(220 * 4 * (30 + 20 + 3) / 0.75) + 8
    options = {"queries": QUERIES, "layers": LAYERS, "early_exit": False, "memory": memory}
    expected = depth(model=CountingNetwork(), **options)
    options |= {"spill": disk, "run_dir": tmp_path / "run"}
    interrupted(monkeypatch, probes, model=CountingNetwork(), **options)
    (folder,) = disk.iterdir()
    assert pdepth.open_store(folder / STORE).probes == ("input", "net.0")
    model = CountingNetwork()
    same(depth(model=model, **options), expected)
    first = 2 * 16 if probes == 3 else 2 * 16 + 2 * BATCH + 220  # rows that are compared
    assert rows_run(model) == first
    assert os.listdir(disk) == []
    model.rows.clear()
    same(depth(model=model, **options), expected)  # all is in the journal
    assert rows_run(model) == 2 * 16
    assert os.listdir(disk) == []


def test_without_a_directory_of_the_run_nothing_stays_of_a_cut(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, 2, memory=MEMORY, spill=disk)
    assert os.listdir(disk) == []


@pytest.mark.parametrize("damage", ["values", "manifest", "half"])
def test_what_is_damaged_on_the_disk_is_computed_again(
    damage: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"early_exit": False, "memory": MEMORY}
    expected = depth(**options)
    options |= {"spill": disk, "run_dir": tmp_path / "run"}
    interrupted(monkeypatch, 2, **options)
    store = next(disk.iterdir()) / STORE
    file = store / ("support/00.npy" if damage == "values" else "manifest.json")
    if damage == "half":
        file.unlink()
        (store / ".pdepth-unfinished").touch()
    else:
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    found, notes = noted(**options)
    same(found, expected)
    assert any("is computed again" in note for note in notes) == (damage != "half")
    assert os.listdir(disk) == []


def test_other_data_and_labels_begin_anew(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"early_exit": False, "memory": MEMORY, "spill": disk, "run_dir": tmp_path / "run"}
    interrupted(monkeypatch, 2, **options)
    x, y = (tensor.clone() for tensor in SUPPORT.tensors)
    x[7] += 1
    y[9] = (y[9] + 1) % 3
    for data in (TensorDataset(x, SUPPORT.tensors[1]), TensorDataset(x, y)):
        interrupted(monkeypatch, 2, support=data, **options)
        assert len(list(disk.iterdir())) == 1
    same(depth(data, **options), depth(data, early_exit=False))
    assert os.listdir(disk) == []


def test_embeddings_of_others_under_the_same_name_are_not_searched(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of data that were changed, read, and changed back."""
    options = {"early_exit": False, "memory": MEMORY, "spill": disk}
    run, other = tmp_path / "run", tmp_path / "other"
    interrupted(monkeypatch, 2, run_dir=run, **options)
    interrupted(monkeypatch, 2, run_dir=other, support=blobs(150, seed=5), **options)
    ours, others = (SpillFolder.of(disk, path).name for path in (run, other))
    shutil.rmtree(disk / ours)
    shutil.copytree(disk / others, disk / ours)
    found, notes = noted(run_dir=run, **options)
    same(found, depth(early_exit=False))
    assert any("holds others: they are computed again" in note for note in notes)


def test_a_folder_in_use_is_left_alone(disk: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        SpillFolder.of(disk, run).held(),
        pytest.raises(BlockingIOError, match="spill: .* is in use by another process"),
    ):
        depth(memory=MEMORY, spill=disk, run_dir=run)
    with SpillFolder.of(disk, None).held() as held:
        (held / STORE).mkdir()
        depth(memory=MEMORY, spill=disk)
        assert (held / STORE).is_dir()
    assert os.listdir(disk) == []


def test_what_a_killed_process_left_is_removed_by_the_next(disk: Path) -> None:
    left = disk / ".pdepth-spill-tmp-0123abcd" / STORE
    left.mkdir(parents=True)
    (left / "00.npy").write_bytes(b"half")
    (disk / "other").mkdir()
    depth(memory=MEMORY, spill=disk)
    assert os.listdir(disk) == ["other"]


def test_a_disk_is_measured_once(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_folder, "_SPEEDS", {})
    monkeypatch.setattr(spill_folder, "MEASURED_BYTES", 1 << 22)
    speed = disk_speed(disk)
    assert speed.write > 0
    assert speed.read > 0
    monkeypatch.setattr(spill_folder, "_measured", lambda folder: pytest.fail("measured again"))
    assert disk_speed(disk.parent) is speed
    assert os.listdir(disk) == []


def test_folders_in_memory_are_known(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    point = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntmpfs {point}/a tmpfs rw 0 0\n")
    assert not is_memory(tmp_path, mounts)
    assert is_memory(tmp_path / "a" / "b", mounts)
    assert not is_memory(tmp_path / "a", tmp_path / "none")


def plan(**options: Any) -> pdepth.Plan:
    settings = {"k": K, "batch_size": BATCH, "measure": False}
    return pdepth.plan(network(), SUPPORT, QUERIES, **(settings | options))


def test_a_plan_prices_both_ways(disk: Path) -> None:
    memory = int(220 * 4 * (30 + 20 + 3) / 0.75) + 8
    without, taken = plan(memory=memory), plan(memory=memory, spill=disk)
    assert without.spill is not None
    assert taken.spill is not None
    assert (without.spill.taken, taken.spill.taken) == (False, True)
    written = 220 * 4 * (6 + 40)
    assert (without.written, taken.written) == (0, written)
    assert taken.read >= written
    assert (len(without.passes), len(taken.passes)) == (2, 1)
    assert (without.forwarded, taken.forwarded) == (440, 220)
    assert taken.memory <= memory
    assert f"spill       40.5 kB to {disk}, read from there: 1 forward pass in place of 2" in str(
        taken
    )
    assert "spill       not taken, 40.5 kB to " in str(without)
    assert plan(memory="1GB", spill=disk).spill is None


def test_a_plan_measures_what_spilling_saves(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_folder, "_SPEEDS", {})
    monkeypatch.setattr(spill_folder, "MEASURED_BYTES", 1 << 22)
    found = plan(memory=MEMORY, measure=True, spill="auto", run_dir=disk / "new").spill
    assert found is not None
    assert found.seconds is not None
    assert found.again_seconds is not None
    assert found.taken == found.cheaper == (found.seconds < found.again_seconds)
    assert os.listdir(disk) == []
    bill = plan(memory=MEMORY, measure=True, spill=disk)
    assert bill.spill is not None
    assert bill.spill.disk_seconds is not None
    assert bill.forward_seconds is not None
    assert bill.search_seconds is not None
    of_network = bill.forward_seconds + bill.search_seconds
    assert bill.seconds == of_network + bill.spill.disk_seconds
    assert re.search(r"^disk +\d.* kB written, \d.* kB read, \d+\.\d s$", str(bill), re.M)


def test_seconds_of_a_row_grow_with_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.net[2].register_forward_pre_hook(lambda *_: __import__("time").sleep(0.05))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    seconds: list[list[float]] = []
    row_seconds = spilling.row_seconds_of

    def record(job: Any, runs: int) -> list[float]:
        seconds.append(row_seconds(job, runs))
        return seconds[-1]

    monkeypatch.setattr("pdepth.embeddings.spilling.row_seconds_of", record)
    depth(model=Slow(), memory=MEMORY, spill="auto", layers=LAYERS)
    (found,) = seconds
    assert found == sorted(found)
    assert found[1] * BATCH < 0.04
    assert found[2] * BATCH > 0.05
    np.testing.assert_array_less(0, found)
