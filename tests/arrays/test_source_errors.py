"""Sources that are refused: not finite, torn, of other types, or without the library they need."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pdepth
from pdepth.arrays.sources import opened

from helpers.sources import (
    GRID,
    LABELS,
    K,
    Slices,
    arrow,
    check,
    check_neighbours,
    force,
    lists,
    npy_shards,
    parquet,
    parquet_file,
    refused,
    safetensors,
    zarr,
)


@pytest.mark.parametrize(("chunk", "block"), [(37, 50), (9, 31), (150, 29), (150, 150)])
def test_not_finite(
    chunk: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row of the whole source, whichever is read first."""
    force(monkeypatch, chunk, block)
    spoiled = GRID.copy()
    spoiled[[70, 120], 2] = np.nan, np.inf
    folder = npy_shards(spoiled, tmp_path)
    refused(ValueError, "support (probe 0) has NaN or infinity in row 70; finite", folder)
    refused(
        ValueError, "support (probe 0) has NaN or infinity in row 70;", folder, query_rows=[120]
    )
    asked = Slices(spoiled)
    refused(ValueError, "queries (probe 0) has NaN or infinity in row 70;", GRID, queries=asked)
    with pytest.raises(ValueError, match=r"support \(conv\) has NaN or infinity in row 70;"):
        pdepth.depth_from_embeddings(
            {"conv": folder, "fc": GRID}, LABELS, LABELS, k=K, early_exit=False
        )


def test_no_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 37, 50)
    array = GRID + 5
    array[77] = 0
    refused(
        ValueError, "support (probe 0) has no direction in row 77:", Slices(array), metric="cosine"
    )


def files(folder: Path, **arrays: Any) -> Path:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_shards_that_do_not_fit_together(tmp_path: Path) -> None:
    files(tmp_path, a=GRID, b=GRID[:, :5])
    refused(ValueError, "b.npy has rows of shape (5,) and", tmp_path)
    files(tmp_path, b=GRID.astype(np.float64))
    refused(ValueError, "b.npy has elements of type float64 and", tmp_path)
    safetensors.save_file({"x": torch.zeros(3, 6)}, tmp_path / "c.safetensors")
    refused(ValueError, "holds both .npy and .safetensors files; shards of one kind", tmp_path)


def test_no_shards(tmp_path: Path) -> None:
    refused(
        ValueError, f"support (probe 0): {tmp_path} holds no .npy or .safetensors file;", tmp_path
    )
    refused(FileNotFoundError, "support (probe 0): There is no file or directory", tmp_path / "x")
    refused(FileNotFoundError, "queries (probe 0): There is no", GRID, queries=str(tmp_path / "x"))
    (tmp_path / "a.txt").write_text("")
    refused(ValueError, "a.txt is no .npy, .safetensors or .parquet file;", tmp_path / "a.txt")
    zarr.create_group(str(tmp_path / "g"))
    refused(ValueError, "g is a zarr group; one of its arrays is wanted.", tmp_path / "g")


def test_broken_npy(tmp_path: Path) -> None:
    path = files(tmp_path, a=GRID) / "a.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refused(
        ValueError, f"a.npy is truncated: it has {len(content) - 1} bytes, and its header", path
    )
    path.write_bytes(b"no numbers")
    refused(ValueError, "a.npy is not a readable .npy file.", path)
    path.write_bytes(b"")
    refused(ValueError, "a.npy is not a readable .npy file.", path)
    np.save(path, np.asfortranarray(GRID))
    refused(ValueError, "a.npy is in Fortran's order; rows that lie side by side", path)
    np.save(path, GRID[:, 0])
    refused(ValueError, "support (probe 0) has shape (150,); (rows, width) is wanted.", path)
    np.save(path, GRID[:0])
    refused(ValueError, "support (probe 0) is empty, with shape (0, 6).", path)
    np.save(path, GRID.astype(np.complex64))
    refused(TypeError, "support (probe 0) has elements of type complex64;", path)
    np.save(path, GRID.astype(object))
    refused(TypeError, "support (probe 0) has elements of type object;", path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = files(tmp_path, a=GRID) / "a.npy"
    source = pdepth.open_source(path)
    path.write_bytes(path.read_bytes()[:-5])
    refused(ValueError, "a.npy has become shorter while it was read.", source)


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.save_file({"x": torch.zeros(9, 6), "y": torch.zeros(9, 6)}, path)
    refused(ValueError, "a.safetensors holds 2 tensors; one is wanted, or its name, as in pd", path)
    with pytest.raises(ValueError, match="holds no tensor 'z'; one of x, y is wanted"):
        pdepth.open_source(path, "z")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is truncated"):
        pdepth.open_source(path, "y")
    for content in (b"", b"\x05", (9).to_bytes(8, "little") + b"[]", b"\xff" * 30):
        path.write_bytes(content)
        refused(ValueError, "a.safetensors is not a readable .safetensors file.", path)
    safetensors.save_file({"x": torch.zeros(9, 6).to(torch.float8_e4m3fn)}, path)
    refused(TypeError, "a.safetensors has elements of type F8_E4M3;", path)


def test_columns_that_are_no_fixed_size_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    ragged = arrow.array([[1.0, 2.0], [3.0]])
    parquet.write_table(arrow.table({"x": ragged}), path)
    refused(TypeError, "a.parquet, column x, is of type list<", path)
    refused(TypeError, "a fixed-size list of numbers is wanted.", ragged)
    refused(TypeError, "a fixed-size list of numbers is wanted.", arrow.array([1.0, 2.0]))
    texts = arrow.array([["a", "b"]], arrow.list_(arrow.string(), 2))
    refused(TypeError, "a fixed-size list of numbers is wanted.", texts)
    table = arrow.table({"x": lists(GRID), "y": lists(GRID)})
    parquet.write_table(table, path)
    refused(ValueError, "a.parquet has 2 columns of fixed-size lists; one is wanted, or its", path)
    check(pdepth.open_source(path, "y"), GRID)
    with pytest.raises(ValueError, match="has no column 'z'; one of x, y is wanted"):
        pdepth.open_source(path, "z")
    path.write_bytes(path.read_bytes()[:-40])
    refused(ValueError, "a.parquet is not a readable Parquet file.", path)


def test_nulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 37, 50)
    kind = arrow.list_(arrow.float32(), 2)
    for row in (None, [1.0, None]):
        array = arrow.array([[1.0, 2.0]] * 99 + [row] + [[1.0, 2.0]] * 50, kind)
        refused(
            ValueError, "support (probe 0): it has a null in row 99; numbers are wanted.", array
        )
        parquet.write_table(arrow.table({"x": array}), tmp_path / "a.parquet", row_group_size=20)
        refused(ValueError, "column x, has a null in row 99;", tmp_path / "a.parquet")


def test_sources_that_do_not_keep_their_word(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 37, 50)
    source = Slices(GRID)
    source.dtype = np.dtype("float64")
    refused(ValueError, "support (probe 0)[0:30] is float32 of shape (30, 6); float64 of", source)
    source = Slices(GRID)
    source.shape = (160, 6)
    refused(ValueError, "is float32 of shape (", source, k=3)
    source = Slices(np.ma.masked_greater(GRID, 0))
    refused(TypeError, "support (probe 0)[0:50] is a MaskedArray;", source)


def test_too_little_memory() -> None:
    refused(
        MemoryError,
        "memory is 500 bytes; probe 0, of width 6, wants at least",
        Slices(GRID),
        memory=500,
    )
    refused(ValueError, "memory is 'much'; wanted bytes", GRID, memory="much")
    with pytest.raises(MemoryError) as caught:
        pdepth.kneighbors(Slices(GRID), k=K, memory=500)
    found = re.search(r"least (\d+\.\d) kB", str(caught.value))
    assert found
    enough = int(float(found[1]) * 1000) + 100
    check_neighbours(Slices(GRID), GRID, query_rows=np.arange(5), memory=enough)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet_file(GRID, tmp_path)
    (tmp_path / "z").mkdir()
    (tmp_path / "z/zarr.json").write_text("{}")
    for module in ("pyarrow", "pyarrow.parquet", "zarr"):
        monkeypatch.setitem(sys.modules, module, None)
    refused(ImportError, "rows.parquet needs pyarrow: pip install 'pdepth[sources]'.", path)
    refused(ImportError, "z needs zarr: pip install 'pdepth[sources]'.", tmp_path / "z")


def test_what_is_no_source() -> None:
    for value in ([[1.0]], 3, object(), np.ma.masked_greater(GRID, 0)):
        with pytest.raises(TypeError, match="a NumPy array or torch tensor is wanted"):
            opened(value, "support")
    with pytest.raises(TypeError, match="queries is a list and support one array"):
        pdepth.kneighbors(Slices(GRID), [GRID], k=K)
