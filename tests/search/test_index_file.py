"""An index in a file: the answers of the rows it was saved with, or a sentence."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdepth import Index, definition, native
from pdepth.io.array_bundle import read_bundle, write_bundle

from helpers.cases import first_difference
from helpers.torch_or_skip import torch

LEVELS = [name for name, runs in native.simd_levels().items() if runs]
RNG = np.random.default_rng(8)
ROWS = RNG.integers(-3, 4, (300, 20)).astype(np.float32)
QUERIES = RNG.integers(-3, 4, (9, 20)).astype(np.float32)
LABELS = RNG.integers(0, 4, 300)


def assert_neighbors(found: Any, support: Any, queries: Any, **options: Any) -> None:
    distances, rows = definition.kneighbors(support, queries, **options)
    assert first_difference(found[1], rows) is None
    assert first_difference(found[0], distances) is None


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(native.SIMD, request.param)
    return str(request.param)


@pytest.mark.parametrize("metric", ["sqeuclidean", "inner_product"])
@pytest.mark.parametrize("width", [3, 20])
def test_a_file_of_an_index(
    tmp_path: Path, level: str, metric: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, queries = ROWS[:, :width], QUERIES[:, :width]
    index = Index(rows, LABELS, metric=metric)
    index.kneighbors(queries, 3)
    index.add(rows[:5], LABELS[:5])
    index.kneighbors(queries, 3)
    index.save(tmp_path / "index")
    both = np.concatenate([rows, rows[:5]])
    loaded = Index.load(tmp_path / "index", support=both, labels=[*LABELS, *LABELS[:5]])
    packed = loaded._now().probes[0].packed
    assert packed.packed  # what was packed is mapped
    assert_neighbors(loaded.kneighbors(queries, 7), both, queries, k=7, metric=metric)
    assert first_difference(loaded.votes(queries).votes, index.votes(queries).votes) is None
    loaded.add(rows[7:100], LABELS[7:100])  # grows out of the file
    more = np.concatenate([both, rows[7:100]])
    assert_neighbors(loaded.kneighbors(queries, 7), more, queries, k=7, metric=metric)
    for other in LEVELS:
        monkeypatch.setenv(native.SIMD, other)
        loaded = Index.load(tmp_path / "index")
        assert_neighbors(loaded.kneighbors(queries, 7), both, queries, k=7, metric=metric)


def test_a_file_that_another_version_packed(tmp_path: Path, level: str) -> None:
    """Another rule of packing: its bytes are not searched."""
    rng = np.random.default_rng(0)
    rows, queries = (rng.standard_normal((n, 200)).astype(np.float32) for n in (3000, 5))
    index = Index(rows)
    index.kneighbors(queries, 3)
    index.save(tmp_path / "index")
    about, arrays = read_bundle(tmp_path / "index")
    packed = [name for name in arrays if name.endswith(" values")]
    assert packed
    for name in packed:
        arrays[name] = np.roll(arrays[name], 1)
    write_bundle(tmp_path / "other", about, arrays)
    found = Index.load(tmp_path / "other", support=rows).kneighbors(queries, 3)
    assert_neighbors(found, rows, queries, k=3)


def test_a_file_of_layers_that_were_not_packed(tmp_path: Path) -> None:
    layers = [torch.from_numpy(ROWS).bfloat16(), ROWS[:, :2] + np.float32(0.5)]
    Index.of_layers(layers, metric="cosine").save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", support=layers)
    distances, rows = loaded.kneighbors([QUERIES, QUERIES[:, :2]], 3)
    assert_neighbors((distances[0], rows[0]), ROWS, QUERIES, k=3, metric="cosine")


def test_files_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "index"
    index = Index(ROWS, LABELS)
    index.kneighbors(QUERIES, 3)
    index.save(file)
    for right in ({}, {"support": ROWS}, {"labels": LABELS}, {"support": ROWS, "labels": LABELS}):
        assert len(Index.load(file, **right)) == 300
    for wrong, words in (
        ({"support": ROWS + 1, "labels": LABELS}, "index: expected the index of this support, got"),
        ({"support": ROWS[:9]}, "index: expected the index of this support, got"),
        ({"support": ROWS, "labels": LABELS + 1}, "index of these labels, got others"),
        ({"labels": LABELS + 1}, "index: expected the index of these labels, got others"),
        ({"labels": LABELS[:3]}, "labels: expected 300 entries, got 3"),
    ):
        with pytest.raises(ValueError, match=words):
            Index.load(file, **wrong)
    Index(ROWS).save(tmp_path / "without")
    with pytest.raises(ValueError, match="expected the index of these labels, got none"):
        Index.load(tmp_path / "without", labels=LABELS)
    layers = {"a": ROWS, "b": ROWS}
    Index.of_layers(layers).save(tmp_path / "layers")
    assert Index.load(tmp_path / "layers", support=layers).widths == (20, 20)
    for other, words in (
        ({"b": ROWS, "a": ROWS}, r"support: expected the layers \['a', 'b'\], got \['b', 'a'\]"),
        ([ROWS], "support: expected 2 arrays, one a layer"),
        (ROWS, "support: expected 2 arrays, one a layer"),
    ):
        with pytest.raises(ValueError, match=words):
            Index.load(tmp_path / "layers", support=other)
    with pytest.raises(FileNotFoundError):
        Index.load(tmp_path / "none")
    whole = file.read_bytes()
    for content, words in (
        (whole[:-1], "cut short"),
        (whole[:100], "damaged or cut short"),
        (whole[:5], "expected a file that pdepth wrote"),
        (whole + b"1", "lengthened"),
        (whole.replace(b'"format": 1', b'"format": 2'), "damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            Index.load(file)
    write_bundle(file, {"index": {"format": 2}}, {})
    with pytest.raises(ValueError, match="expected an index of format 1, got format 2"):
        Index.load(file)


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "index"
    index = Index(ROWS[:40, :3], LABELS[:40])
    index.kneighbors(QUERIES[:, :3], 3)
    index.save(file)
    whole, expected = file.read_bytes(), index.kneighbors(QUERIES[:, :3], 3)[1]
    same = 0
    for place in RNG.permutation(len(whole))[:400]:
        changed = bytearray(whole)
        changed[place] ^= int(RNG.integers(1, 256))
        file.write_bytes(changed)
        refusal = ""
        try:
            loaded = Index.load(file)
        except ValueError as error:
            refusal = str(error)
        if refusal:
            assert str(file) in refusal
            continue
        same += 1
        assert first_difference(loaded.kneighbors(QUERIES[:, :3], 3)[1], expected) is None
    assert same < 200  # what fills the file to whole lines


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before is as it was."""
    file = tmp_path / "index"
    Index(ROWS).save(file)
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="nothing was written"):
        Index(ROWS + 1).save(file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["index"]


def test_saving_where_it_was_loaded_from(tmp_path: Path) -> None:
    file = tmp_path / "index"
    Index(ROWS).save(file)
    loaded = Index.load(file)
    loaded.add(ROWS[:9])
    loaded.save(file)
    both = np.concatenate([ROWS, ROWS[:9]])
    for index in (loaded, Index.load(file, support=both)):
        assert_neighbors(index.kneighbors(QUERIES, 3), both, QUERIES, k=3)


@pytest.mark.skipif(os.name == "nt", reason="Windows cuts no file that is mapped")
def test_files_that_are_cut_short_while_they_are_mapped(tmp_path: Path) -> None:
    """An error with the file's name, and not the process's end."""
    rows = np.tile(ROWS, (100, 1))
    rows[:, 0] = np.arange(len(rows))
    labels = np.arange(len(rows))

    def loaded() -> Any:
        Index(rows, labels).save(tmp_path / "index")
        index = Index.load(tmp_path / "index")
        os.truncate(tmp_path / "index", 4096)
        return index

    def of_the_caller() -> Any:
        np.save(tmp_path / "rows.npy", rows)
        index = Index(np.load(tmp_path / "rows.npy", mmap_mode="r"), labels, copy=False)
        os.truncate(tmp_path / "rows.npy", 4096)
        return index

    for make in (loaded, of_the_caller):
        for use in (
            lambda index: index.kneighbors(QUERIES, 3),
            lambda index: index.add(ROWS, LABELS),
            lambda index: index.save(tmp_path / "other"),
            pickle.dumps,
            copy.deepcopy,
        ):
            index = make()
            with pytest.raises(ValueError, match="(index|npy) became shorter while it was read"):
                use(index)
            assert not (tmp_path / "other").exists()
        assert make().labels.tolist() == labels.tolist()
