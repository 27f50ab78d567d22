"""Sources that are refused: not finite, torn, of other types, or without the library they need."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    save_tensors,
    zarr,
)
from helpers.torch_or_skip import torch


@pytest.mark.parametrize(("chunk", "block"), [(37, 50), (9, 31), (150, 29), (150, 150)])
def test_not_finite(
    chunk: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row of the whole source, whichever is read first."""
    force(monkeypatch, chunk, block)
    spoiled = GRID.copy()
    spoiled[[70, 120], 2] = np.nan, np.inf
    folder = npy_shards(spoiled, tmp_path)
    sentence = "(probe 0): expected finite values, got NaN or infinity in row 70."
    refused(ValueError, f"support {sentence}", folder)
    refused(ValueError, f"support {sentence}", folder, query_rows=[120])
    refused(ValueError, f"queries {sentence}", GRID, queries=Slices(spoiled))
    sentence = r"support \(conv\): expected finite values, got NaN or infinity in row 70\."
    with pytest.raises(ValueError, match=sentence):
        pdepth.depth_from_embeddings(
            {"conv": folder, "fc": GRID}, LABELS, LABELS, k=K, early_exit=False
        )


def test_rows_without_a_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 37, 50)
    array = GRID + 5
    array[77] = 0
    sentence = "support (probe 0): expected rows with a norm for metric='cosine', got row 77, whose"
    refused(ValueError, sentence, Slices(array), metric="cosine")


def files(folder: Path, **arrays: Any) -> Path:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_shards_that_do_not_fit_together(tmp_path: Path) -> None:
    files(tmp_path, a=GRID, b=GRID[:, :5])
    refused(ValueError, "b.npy: expected rows of shape (6,) as in", tmp_path)
    files(tmp_path, b=GRID.astype(np.float64))
    refused(ValueError, "b.npy: expected elements of type float32 as in", tmp_path)
    save_tensors(tmp_path / "c.safetensors", x=np.zeros((3, 6), "f4"))
    refused(ValueError, "expected shards, .npy or .safetensors, got both", tmp_path)


def test_no_shards(tmp_path: Path) -> None:
    sentence = f"support (probe 0): {tmp_path}: expected shards, .npy or .safetensors, got no such"
    refused(ValueError, sentence, tmp_path)
    refused(FileNotFoundError, "support (probe 0): There is no file or directory", tmp_path / "x")
    refused(FileNotFoundError, "queries (probe 0): There is no", GRID, queries=str(tmp_path / "x"))
    (tmp_path / "a.txt").write_text("")
    refused(
        ValueError, "a.txt: expected a .npy, .safetensors or .parquet file,", tmp_path / "a.txt"
    )
    zarr.open_group(str(tmp_path / "g"), mode="w")
    refused(
        ValueError, "g: expected a zarr array, got a group; name one of its arrays.", tmp_path / "g"
    )


def test_broken_npy(tmp_path: Path) -> None:
    path = files(tmp_path, a=GRID) / "a.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    size = len(content)
    sentence = f"a.npy: expected {size} bytes by its header, got {size - 1}: it is truncated."
    refused(ValueError, sentence, path)
    path.write_bytes(b"no numbers")
    refused(ValueError, "a.npy: expected a .npy file, got one that cannot be read.", path)
    path.write_bytes(b"")
    refused(ValueError, "a.npy: expected a .npy file, got one that cannot be read.", path)
    np.save(path, np.asfortranarray(GRID))
    refused(ValueError, "a.npy: expected rows in C order, got Fortran order.", path)
    np.save(path, GRID[:, 0])
    refused(ValueError, "support (probe 0): expected shape (rows, width), got (150,).", path)
    np.save(path, GRID[:0])
    refused(
        ValueError,
        "support (probe 0): expected at least one row and column, got shape (0, 6).",
        path,
    )
    np.save(path, GRID.astype(np.complex64))
    sentence = (
        "support (probe 0): expected integers or floats of 16 to 64 bits, got elements of type"
    )
    refused(TypeError, f"{sentence} complex64.", path)
    np.save(path, GRID.astype(object))
    refused(TypeError, f"{sentence} object.", path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = files(tmp_path, a=GRID) / "a.npy"
    source = pdepth.open_source(path)
    path.write_bytes(path.read_bytes()[:-5])
    refused(ValueError, "a.npy became shorter while it was read.", source)


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, x=np.zeros((9, 6), "f4"), y=np.zeros((9, 6), "f4"))
    refused(
        ValueError, "a.safetensors: expected one tensor, got 2; name it: pdepth.open_source(", path
    )
    with pytest.raises(ValueError, match="expected one of the tensors x, y, got 'z'"):
        pdepth.open_source(path, "z")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"expected \d+ bytes by its header, got \d+: it is truncated"
    ):
        pdepth.open_source(path, "y")
    for content in (b"", b"\x05", (9).to_bytes(8, "little") + b"[]", b"\xff" * 30):
        path.write_bytes(content)
        refused(
            ValueError, "a.safetensors: expected a .safetensors file, got one that cannot be", path
        )
    save_tensors(path, x=torch.zeros(9, 6).to(torch.float8_e4m3fn))
    refused(TypeError, "a.safetensors: expected elements of type BF16, ", path)
    refused(TypeError, ", got F8_E4M3.", path)


def test_columns_that_are_no_fixed_size_lists(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    ragged = arrow.array([[1.0, 2.0], [3.0]])
    parquet.write_table(arrow.table({"x": ragged}), path)
    refused(TypeError, "a.parquet, column x: expected fixed-size lists of numbers, got list<", path)
    refused(TypeError, "the array: expected fixed-size lists of numbers, got list<", ragged)
    refused(TypeError, "lists of numbers, got double.", arrow.array([1.0, 2.0]))
    texts = arrow.array([["a", "b"]], arrow.list_(arrow.string(), 2))
    refused(TypeError, "lists of numbers, got fixed_size_list<", texts)
    table = arrow.table({"x": lists(GRID), "y": lists(GRID)})
    parquet.write_table(table, path)
    refused(ValueError, "a.parquet: expected one column of fixed-size lists, got 2; name it", path)
    check(pdepth.open_source(path, "y"), GRID)
    with pytest.raises(ValueError, match="expected one of the columns x, y, got 'z'"):
        pdepth.open_source(path, "z")
    path.write_bytes(path.read_bytes()[:-40])
    refused(ValueError, "a.parquet: expected a Parquet file, got one that cannot be read.", path)


def test_nulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 37, 50)
    kind = arrow.list_(arrow.float32(), 2)
    for row in (None, [1.0, None]):
        array = arrow.array([[1.0, 2.0]] * 99 + [row] + [[1.0, 2.0]] * 50, kind)
        sentence = "expected numbers, got a null in row 99."
        refused(ValueError, f"support (probe 0): the array: {sentence}", array)
        parquet.write_table(arrow.table({"x": array}), tmp_path / "a.parquet", row_group_size=20)
        sentence = f"column x: {sentence}"
        if row is None and int(arrow.__version__.split(".")[0]) < 26:  # which reads no such list
            sentence = ": Expected all lists to be of size=2"
        refused(ValueError, sentence, tmp_path / "a.parquet")


def test_sources_that_do_not_keep_their_word(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 37, 50)
    source = Slices(GRID)
    source.dtype = np.dtype("float64")
    sentence = (
        "support (probe 0)[0:30]: expected float64 of shape (30, 6), as its source promises, "
    )
    refused(ValueError, f"{sentence}got float32 of shape (30, 6).", source)
    source = Slices(GRID)
    source.shape = (160, 6)
    refused(ValueError, "as its source promises, got float32 of shape (", source, k=3)
    source = Slices(np.ma.masked_greater(GRID, 0))
    refused(
        TypeError,
        "support (probe 0)[0:50]: expected a NumPy array or torch tensor, got a Ma",
        source,
    )


def test_too_little_memory() -> None:
    refused(
        MemoryError,
        "kB for probe 0, of width 6, got 500 bytes.",
        Slices(GRID),
        memory=500,
    )
    refused(
        ValueError,
        "memory: expected bytes or an amount such as '8GiB', got 'much'.",
        GRID,
        memory="much",
    )
    with pytest.raises(MemoryError) as caught:
        pdepth.kneighbors(Slices(GRID), k=K, memory=500)
    amount = re.search(r"^memory: expected at least (\d+\.\d) kB", str(caught.value))
    assert amount
    enough = int(float(amount[1]) * 1000) + 100
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
        with pytest.raises(
            TypeError, match="support: expected a NumPy array or torch tensor, got a "
        ):
            opened(value, "support")
    with pytest.raises(TypeError, match="queries: expected one array as in support, got a list"):
        pdepth.kneighbors(Slices(GRID), [GRID], k=K)
