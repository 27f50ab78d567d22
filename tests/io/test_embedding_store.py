"""Embeddings kept on disk: the depths of the direct run, and nothing unfinished taken for whole."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from typer.testing import CliRunner

import pdepth
from pdepth import cli
from pdepth.embeddings.batch import Batch, Inputs
from pdepth.embeddings.dataset import Rows
from pdepth.io import embedding_store as module
from pdepth.io.array_files import PieceWriter

from helpers.cases import first_difference

K = 3


def blobs(rows: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    x = torch.randn(rows, 6, generator=generator) + 1.2 * nn.functional.one_hot(labels, 6)
    return TensorDataset(x, labels)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


SUPPORT, QUERIES = blobs(80, 1), blobs(31, 2)


def keep(path: Path, queries: Any = None, model: nn.Module | None = None, **options: Any) -> Any:
    model = network() if model is None else model
    settings = {"k": K, "progress": False, "batch_size": 9, "keep_embeddings": path}
    return pdepth.prediction_depth(model, SUPPORT, queries, **settings | options)


def same(found: Any, wanted: Any) -> None:
    for name in ("depth", "undefined", "votes", "known", "predictions", "labels"):
        assert first_difference(getattr(found, name), getattr(wanted, name)) is None, name
    for name in ("probes", "k", "widths", "leave_one_out", "meta"):
        assert getattr(found, name) == getattr(wanted, name)


# ---- equality with the direct run ----


@pytest.mark.parametrize("queries", [None, QUERIES])
@pytest.mark.parametrize("early_exit", [True, False])
def test_the_same_depths(queries: Any, early_exit: bool, tmp_path: Path) -> None:
    direct = keep(tmp_path / "kept", queries, early_exit=early_exit)
    embedding_store = pdepth.open_store(tmp_path / "kept")
    same(pdepth.depth_from_embeddings(embedding_store, k=K, early_exit=early_exit), direct)
    other = pdepth.prediction_depth(network(), SUPPORT, queries, k=9, progress=False)
    same(pdepth.depth_from_embeddings(embedding_store, k=9), other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_type_of_the_network(dtype: torch.dtype, tmp_path: Path) -> None:
    direct = keep(tmp_path / "kept", QUERIES, network().to(dtype))
    embedding_store = pdepth.open_store(tmp_path / "kept")
    embedding_store.verify()
    same(pdepth.depth_from_embeddings(embedding_store, k=K), direct)
    manifest = json.loads((tmp_path / "kept/manifest.json").read_text())
    kinds = [each["dtype"] for each in manifest["parts"]["support"]["arrays"]]
    assert kinds[1] == str(dtype).removeprefix("torch.")


def test_what_a_store_holds(tmp_path: Path) -> None:
    keep(tmp_path / "kept", QUERIES)
    embedding_store = pdepth.open_store(str(tmp_path / "kept"))
    assert repr(embedding_store).endswith("kept', 80 support rows, 31 queries, 4 probes)")
    assert list(embedding_store.support.embeddings) == list(embedding_store.probes)
    first = embedding_store.support.embeddings[embedding_store.probes[0]]
    assert isinstance(first, np.memmap)
    assert first_difference(first, SUPPORT.tensors[0].numpy()) is None
    first[0] = 5  # in memory only
    embedding_store.verify()
    assert embedding_store.queries is not None
    assert embedding_store.asked is embedding_store.queries
    assert first_difference(embedding_store.queries.labels, QUERIES.tensors[1].numpy()) is None
    assert not (tmp_path / "kept" / module.UNFINISHED).exists()
    votes = pdepth.probe_votes(
        embedding_store.support.embeddings, embedding_store.support.labels, k=K
    )
    assert votes.votes.shape == (4, 80)


def test_some_rows_and_other_labels_or_predictions(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    embedding_store = pdepth.open_store(tmp_path / "kept")
    every = pdepth.depth_from_embeddings(embedding_store, k=K)
    rows = [70, 3, 3]
    some = pdepth.depth_from_embeddings(embedding_store, query_rows=rows, k=K)
    assert first_difference(some.depth, every.depth[rows]) is None
    assert first_difference(some.labels, every.labels[rows]) is None
    mine = np.roll(embedding_store.support.labels, 1)
    arrays = embedding_store.support.embeddings
    wanted = pdepth.depth_from_embeddings(arrays, mine, embedding_store.support.predictions, k=K)
    found = pdepth.depth_from_embeddings(embedding_store, mine, k=K)
    assert first_difference(found.depth, wanted.depth) is None
    found = pdepth.depth_from_embeddings(embedding_store, predictions=mine, k=K)
    wanted = pdepth.depth_from_embeddings(arrays, embedding_store.support.labels, mine, k=K)
    assert first_difference(found.depth, wanted.depth) is None


def test_fingerprints(tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(SUPPORT)

    for name, options in {
        "a": {},
        "b": {"batch_size": 80},
        "c": {"model": network(1)},
    }.items():
        keep(tmp_path / name, QUERIES, **options)
    loader = DataLoader(Stream(), batch_size=7)
    pdepth.prediction_depth(network(), loader, k=K, progress=False, keep_embeddings=tmp_path / "d")
    a, b, c, d = (pdepth.open_store(tmp_path / name) for name in "abcd")
    assert a.fingerprint == b.fingerprint == d.fingerprint != c.fingerprint
    assert a.support.fingerprint == b.support.fingerprint == c.support.fingerprint
    assert a.support.fingerprint == d.support.fingerprint
    assert a.queries is not None
    assert a.queries.fingerprint != a.support.fingerprint


def test_fingerprints_of_data_see_values_types_and_labels() -> None:
    def of(*batches: tuple[torch.Tensor, torch.Tensor]) -> str:
        parts = [Batch(Inputs.of(x, len(y)), y) for x, y in batches]
        checksums = np.concatenate([batch.row_checksums() for batch in parts])
        return Rows(torch.cat([batch.labels for batch in parts]).numpy(), checksums).fingerprint

    x, y = SUPPORT.tensors
    other = x.clone()
    other[79, 5] += 1
    assert of((x, y)) == of((x[:1], y[:1]), (x[1:], y[1:]))
    assert (
        len(
            {
                of((x, y)),
                of((other, y)),
                of((x.double(), y)),
                of((x, y + 1)),
                of((x.reshape(80, 2, 3), y)),
            }
        )
        == 5
    )


# ---- what is refused ----


def test_functions_without_a_store_want_labels() -> None:
    x = SUPPORT.tensors[0]
    with pytest.raises(
        TypeError, match="labels: expected integers unless support is a store, got None"
    ):
        pdepth.depth_from_embeddings([x], k=K)
    with pytest.raises(
        TypeError, match="predictions: expected integers unless support is a store, got"
    ):
        pdepth.depth_from_embeddings([x], SUPPORT.tensors[1], k=K)


def test_a_store_brings_its_own(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    embedding_store = pdepth.open_store(tmp_path / "kept")
    with pytest.raises(TypeError, match="queries: expected None beside a store, which has its own"):
        pdepth.depth_from_embeddings(embedding_store, queries=[SUPPORT.tensors[0]], k=K)
    with pytest.raises(TypeError, match="probes: expected None beside a store"):
        pdepth.depth_from_embeddings(embedding_store, probes=["a"], k=K)
    with pytest.raises(ValueError, match="query_rows: expected rows from 0 to 79, got 80"):
        pdepth.depth_from_embeddings(embedding_store, query_rows=[80], k=K)


def test_other_directories_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for _ in range(2):  # without the mark of an unfinished store, and with it
        with pytest.raises(
            FileExistsError, match="expected a new or empty directory, got .*, which holds mine.txt"
        ):
            keep(tmp_path)
        (tmp_path / module.UNFINISHED).touch()
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(NotADirectoryError, match="expected a directory, got the file .*mine.txt"):
        keep(tmp_path / "mine.txt")
    with pytest.raises(FileNotFoundError, match="in an existing folder, got none at"):
        keep(tmp_path / "a/b")
    keep(tmp_path / "kept")
    before = (tmp_path / "kept/manifest.json").read_bytes()
    with pytest.raises(
        FileExistsError, match="got .*, which holds a finished store or another manifest"
    ):
        keep(tmp_path / "kept", model=network(1))
    assert (tmp_path / "kept/manifest.json").read_bytes() == before


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="x: expected a store of embeddings, got no directory"
    ):
        pdepth.open_store(tmp_path / "x")
    with pytest.raises(
        ValueError, match="expected a store of embeddings, got a directory without manifest.json"
    ):
        pdepth.open_store(tmp_path)
    for text in ("{}", "nonsense", "[1]", '{"kind": "pdepth embeddings", "version": 1}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(
            ValueError, match="expected a manifest that pdepth wrote, got another file"
        ):
            pdepth.open_store(tmp_path)


def test_another_version(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    path = tmp_path / "kept/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 3}))
    with pytest.raises(ValueError, match="expected version 1 or 2 of the format, got 3, of"):
        pdepth.open_store(tmp_path / "kept")


def test_a_store_of_version_1_opens_byte_by_byte_as_it_was_laid_out(tmp_path: Path) -> None:
    """Written here by hand: what an earlier pdepth wrote has to open for good."""
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    arrays = {
        "00": rows,
        "01": rows[:, :2] + 1,
        "labels": [0, 1, 0, 1],
        "predictions": [0, 1, 1, 1],
    }
    (tmp_path / "support").mkdir()
    about = {}
    for name, array in arrays.items():
        path = tmp_path / f"support/{name}.npy"
        array = np.ascontiguousarray(array)
        np.save(path, array)
        content = path.read_bytes()
        about[name] = {
            "file": f"support/{name}.npy",
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "bytes": len(content),
            "crc32": zlib.crc32(content),
        }
    part = {
        "fingerprint": "f" * 32,
        "arrays": [{"probe": "input"} | about["00"], {"probe": "softmax"} | about["01"]],
        "labels": about["labels"],
        "predictions": about["predictions"],
    }
    manifest = {
        "kind": "pdepth embeddings",
        "version": 1,
        "probes": ["input", "softmax"],
        "model": "e" * 32,
        "meta": {"model": "Net"},
        "parts": {"support": part},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    store = pdepth.open_store(tmp_path)
    store.verify()
    assert store.probes == ("input", "softmax")
    assert (store.support.embeddings["input"] == rows).all()
    assert store.support.predictions.tolist() == [0, 1, 1, 1]
    result = pdepth.depth_from_embeddings(store, k=1)
    expected = pdepth.depth_from_embeddings(
        [rows, rows[:, :2]], [0, 1, 0, 1], [0, 1, 1, 1], k=1, probes=["input", "softmax"]
    )
    assert result.depth.tolist() == expected.depth.tolist()


# ---- what time and disks do ----


@pytest.mark.parametrize("name", ["support/00.npy", "support/03.npy", "support/labels.npy"])
def test_a_changed_byte_is_found(name: str, tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    path = tmp_path / "kept" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    sentence = rf"{name}: expected checksum \w{{8}} as it was written, got \w{{8}} in bytes 0-"
    if "labels" in name:
        with pytest.raises(ValueError, match=sentence):
            pdepth.open_store(tmp_path / "kept")
        return
    embedding_store = pdepth.open_store(tmp_path / "kept")
    with pytest.raises(ValueError, match=sentence):
        embedding_store.verify()


def test_missing_and_short_files(tmp_path: Path) -> None:
    keep(tmp_path / "kept")
    path = tmp_path / "kept/support/01.npy"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=f"01.npy: expected {size} bytes, got {size - 4}"):
        pdepth.open_store(tmp_path / "kept")
    path.write_bytes(b"x" * size)
    with pytest.raises(
        ValueError, match="01.npy: expected a .npy file, got one that cannot be read"
    ):
        pdepth.open_store(tmp_path / "kept")
    path.unlink()
    with pytest.raises(ValueError, match=f"01.npy: expected a file of {size} bytes, got none"):
        pdepth.open_store(tmp_path / "kept")


KILLED = """
import os, signal, sys
sys.path[:0] = {folders!r}
import test_embedding_store as test_store
from pathlib import Path
from pdepth.io.array_files import PieceWriter

put, left = PieceWriter.write, [{after}]

def stop(self, block):
    left[0] -= 1
    if left[0] < 0:
        self.file.write(block[:{half}])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, block)

PieceWriter.write = stop
test_store.keep(Path({path!r}), test_store.QUERIES)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("after", "half"), [(0, 9), (4, 0), (11, 100), (23, 100)])
def test_a_killed_run_is_recognised_and_begun_anew(after: int, half: int, tmp_path: Path) -> None:
    """After the first headers, amid arrays, or when the last of them is written."""
    path = tmp_path / "kept"
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    script = KILLED.format(folders=folders, after=after, half=half, path=str(path))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    with pytest.raises(
        ValueError, match="expected a finished store, got one whose writing was interrupted;"
    ):
        pdepth.open_store(path)
    direct = keep(path, QUERIES)
    embedding_store = pdepth.open_store(path)
    embedding_store.verify()
    same(pdepth.depth_from_embeddings(embedding_store, k=K), direct)
    assert sorted(os.listdir(path)) == ["manifest.json", "queries", "support"]


@pytest.mark.parametrize("after", [0, 5, 6])
@pytest.mark.parametrize("made", [True, False])
def test_a_full_disk(
    after: int, made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, left = PieceWriter.write, [after]

    def full(self: Any, block: bytes) -> Any:
        left[0] -= 1
        if left[0] < 0:
            self.file.write(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(self, block)

    path = tmp_path / "kept"
    if made:
        path.mkdir()
    monkeypatch.setattr(PieceWriter, "write", full)
    with pytest.raises(OSError, match=r"The disk of .*kept is full.*; nothing was kept\."):
        keep(path)
    assert path.exists() == made
    assert not made or os.listdir(path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = PieceWriter.__init__

    def on_full(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self.file = Path("/dev/full").open("wb")  # noqa: SIM115

    monkeypatch.setattr(PieceWriter, "__init__", on_full)
    with pytest.raises(OSError, match=r"The disk of .*kept is full; nothing was kept\."):
        keep(tmp_path / "kept")
    assert os.listdir(tmp_path) == []


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no")

    with pytest.raises(
        ValueError,
        match="model: expected a network that runs on the data, .*; got RuntimeError: no",
    ):
        keep(tmp_path / "kept", model=nn.Sequential(nn.Linear(6, 3), Broken()), layers=["0"])
    assert os.listdir(tmp_path) == []


def test_a_store_stays_when_the_search_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr("pdepth.depth.ProbeSearch", fails)
    with pytest.raises(RuntimeError, match="no"):
        keep(tmp_path / "kept")
    pdepth.open_store(tmp_path / "kept").verify()


@pytest.mark.parametrize(
    "name", ["../outside.npy", "support/../../outside.npy", "{}/outside.npy", "..\\\\o", "C:o"]
)
def test_a_manifest_names_no_file_of_another_folder(tmp_path: Path, name: str) -> None:
    keep(tmp_path / "kept")
    name = name.format(tmp_path)
    shutil.copy(tmp_path / "kept/support/labels.npy", tmp_path / "outside.npy")
    manifest = json.loads((tmp_path / "kept/manifest.json").read_text())
    manifest["parts"]["support"]["labels"]["file"] = name
    (tmp_path / "kept/manifest.json").write_text(json.dumps(manifest))
    sentence = f"manifest.json: expected names of files inside the store, got {name!r}."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        pdepth.open_store(tmp_path / "kept")


# ---- from the shell ----


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        textwrap.dedent("""
            import torch
            from torch.utils.data import TensorDataset

            def net():
                torch.manual_seed(0)
                return torch.nn.Sequential(
                    torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
                )

            def rows():
                x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
                return TensorDataset(x, torch.arange(60) % 3)
        """)
    )
    torch.manual_seed(0)
    weights = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).state_dict()
    torch.save(weights, "net.pt")
    command = [
        *("run", "mine.py:net", "--weights", "net.pt", "--support", "mine.py:rows", "--k", "3"),
        *("--out", "out", "--keep-embeddings", "kept", "--quiet"),
    ]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    embedding_store = pdepth.open_store("kept")
    embedding_store.verify()
    found = pdepth.depth_from_embeddings(embedding_store, k=3)
    wanted = pdepth.DepthResult.load("out/depth.parquet")
    assert first_difference(found.depth, wanted.depth) is None
    again = subprocess.run(
        [sys.executable, "-m", "pdepth", *command, "--overwrite"], capture_output=True, text=True
    )
    assert again.returncode == 2
    sentence = (
        "Error: keep_embeddings: expected a new or empty directory, got kept, which holds a fin"
    )
    assert again.stderr.startswith(sentence)
