"""Sources of every kind that hold one small array, compared with the answers for the array."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import definition
from pdepth.search import chunks

from helpers.cases import first_difference
from helpers.torch_or_skip import torch

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
zarr = pytest.importorskip("zarr")

K, ROWS, WIDTH = 7, 150, 6
RNG = np.random.default_rng(0)
GRID = RNG.integers(-1, 2, (ROWS, WIDTH)).astype(np.float32)  # ties and duplicates everywhere
LABELS = RNG.integers(-2, 5, ROWS)
BOUNDS = (0, 1, 2, 2, 60, 61, ROWS)  # shards of one row, and of none


class Slices:
    """The protocol and no more; counts what is read."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype
        self.read: list[tuple[int, int]] = []
        self.threads: set[str] = set()

    def __getitem__(self, rows: slice) -> Any:
        assert rows.step is None or rows.step == 1
        self.read.append((rows.start, rows.stop))
        self.threads.add(threading.current_thread().name)
        return self.array[rows.start : rows.stop]


def npy_shards(array: Any, folder: Path) -> Any:
    for number, (a, b) in enumerate(pairwise(BOUNDS)):
        np.save(folder / f"{number:03}.npy", array[a:b])
    (folder / "notes.txt").write_text("no shard")
    return folder


def one_npy(array: Any, folder: Path) -> Any:
    np.save(folder / "all.npy", array)
    return str(folder / "all.npy")


def save_tensors(path: Path, metadata: dict[str, str] | None = None, **arrays: Any) -> None:
    """A .safetensors file of arrays, or of tensors."""
    tensors = any(isinstance(each, torch.Tensor) for each in arrays.values())
    library = "safetensors.torch" if tensors else "safetensors.numpy"
    pytest.importorskip(library).save_file(arrays, path, metadata)


def tensor_shards(array: Any, folder: Path) -> Any:
    for number, (a, b) in enumerate(pairwise(BOUNDS)):
        save_tensors(folder / f"{number:03}.safetensors", {"by": "test"}, rows=array[a:b])
    return folder


def named_tensors(array: Any, folder: Path) -> Any:
    for number, (a, b) in enumerate(pairwise(BOUNDS)):
        path = folder / f"{number:03}.safetensors"
        save_tensors(path, a=np.zeros(3, "f4"), rows=array[a:b], z=np.ones((5, 2), "f4"))
    return pdepth.open_source(folder, "rows")


def zarr_array(array: Any, folder: Path) -> Any:
    rows = zarr.open_array(  # zarr 2 has no create_array
        str(folder / "z"), mode="w", shape=array.shape, dtype=array.dtype, chunks=(40, 4)
    )
    rows[:] = array
    return rows


def zarr_path(array: Any, folder: Path) -> Any:
    zarr_array(array, folder)
    return folder / "z"


def lists(array: Any) -> Any:
    values = arrow.array(np.ascontiguousarray(array).reshape(-1))
    return arrow.FixedSizeListArray.from_arrays(values, array.shape[1])


def arrow_array(array: Any, folder: Path) -> Any:
    return lists(np.vstack([array[:3], array]))[3:]


def arrow_chunks(array: Any, folder: Path) -> Any:
    return arrow.chunked_array([lists(array[a:b]) for a, b in pairwise(BOUNDS)])


def parquet_file(array: Any, folder: Path) -> Any:
    table = arrow.table({"id": np.arange(len(array)), "embedding": lists(array)})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=41)
    return folder / "rows.parquet"


def protocol(array: Any, folder: Path) -> Any:
    return Slices(array)


def memory_map(array: Any, folder: Path) -> Any:
    return np.load(one_npy(array, folder), mmap_mode="r")


ALL = (
    *(npy_shards, one_npy, tensor_shards, named_tensors, zarr_array, zarr_path),
    *(arrow_array, arrow_chunks, parquet_file, protocol, memory_map),
)


def force(monkeypatch: pytest.MonkeyPatch, chunk: int, block: int) -> None:
    monkeypatch.setattr(
        chunks,
        "chunk_sizes",
        lambda problem, rows, queries: (min(chunk, len(rows.support)), min(block, queries)),
    )


def check_neighbours(
    support: Any, array: Any, queries: Any = None, asked: Any = None, **options: Any
) -> None:
    """Neighbours and distances of a source are, to the bit, the definition's of its array.

    `queries` is what the engine is given and `asked` the array that it holds.
    """
    options = {"k": K, **options}
    with np.errstate(over="ignore"):
        distances, rows = definition.kneighbors(array, asked, **plain(options))
    found = pdepth.kneighbors(support, queries, **options)
    assert first_difference(found[1], rows) is None
    assert first_difference(found[0], distances) is None


def check(support: Any, array: Any, queries: Any = None, asked: Any = None, **options: Any) -> None:
    """So are votes, ties, counts and depths."""
    check_neighbours(support, array, queries, asked, **options)
    options = {"k": K, **options}
    with np.errstate(over="ignore"):
        oracle = definition.probe_votes(array, LABELS, asked, **plain(options))
    counted = pdepth.probe_votes(support, LABELS, queries, return_counts=True, **options)
    for name in ("classes", "votes", "tied", "counts"):
        assert first_difference(getattr(counted, name), getattr(oracle, name)) is None, name
    assert pdepth.probe_votes(support, LABELS, queries, **options).counts is None
    predictions = np.where(np.arange(len(oracle.votes)) % 3, oracle.votes, oracle.votes + 1)
    depth = pdepth.depth_from_embeddings(
        [support], LABELS, predictions, None if queries is None else [queries], **options
    )
    assert first_difference(depth.undefined, oracle.votes != predictions) is None


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Those that the definition has."""
    return {key: value for key, value in options.items() if key not in ("memory", "backend")}


def refused(error: type[Exception], sentence: str, support: Any = None, **options: Any) -> None:
    with pytest.raises(error) as caught:
        pdepth.kneighbors(support, **{"k": K, **options})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
