"""Sources that are not in memory: the votes of the definition, whatever is read in which chunks."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pdepth
from pdepth import definition
from pdepth.arrays.sources import Source, opened
from pdepth.search import chunks

from helpers.cases import DTYPES, KINDS, cast, first_difference

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
safetensors = pytest.importorskip("safetensors.torch")
zarr = pytest.importorskip("zarr")

README = Path(__file__).parents[2] / "README.md"
RNG = np.random.default_rng(0)
K, ROWS, WIDTH = 7, 150, 6
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


# ---- every kind of source; each takes an array and a folder ----


def npy_shards(array: Any, folder: Path) -> Any:
    for number, (a, b) in enumerate(pairwise(BOUNDS)):
        np.save(folder / f"{number:03}.npy", array[a:b])
    (folder / "notes.txt").write_text("no shard")
    return folder


def one_npy(array: Any, folder: Path) -> Any:
    np.save(folder / "all.npy", array)
    return str(folder / "all.npy")


def tensor_shards(array: Any, folder: Path) -> Any:
    for number, (a, b) in enumerate(pairwise(BOUNDS)):
        part = torch.as_tensor(array[a:b]).contiguous()
        safetensors.save_file({"rows": part}, folder / f"{number:03}.safetensors", {"by": "test"})
    return folder


def named_tensors(array: Any, folder: Path) -> Any:
    for number, (a, b) in enumerate(pairwise(BOUNDS)):
        part = torch.as_tensor(array[a:b]).contiguous()
        others = {"a": torch.zeros(3), "z": torch.ones(5, 2)}
        safetensors.save_file({"rows": part, **others}, folder / f"{number:03}.safetensors")
    return pdepth.open_source(folder, "rows")


def zarr_array(array: Any, folder: Path) -> Any:
    return zarr.create_array(str(folder / "z"), data=array, chunks=(40, 4))


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


@pytest.fixture(params=[(1, 150), (37, 50), (64, 13), (150, 40), (150, 150)])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Rows of the support and queries that are in work at a time, forced."""
    force(monkeypatch, *request.param)
    return request.param  # type: ignore[no-any-return]


def force(monkeypatch: pytest.MonkeyPatch, chunk: int, block: int) -> None:
    monkeypatch.setattr(
        chunks,
        "_sizes",
        lambda problem, layer, asked: (min(chunk, len(layer.support)), min(block, asked)),
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


# ---- equality ----


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_leaves_rows_out_by_number(
    kind: Callable[..., Any], sizes: tuple[int, int], tmp_path: Path
) -> None:
    check(kind(GRID, tmp_path), GRID)


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_asks_for_every_kind(
    kind: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, 37, 50)
    asked = np.vstack([GRID[::2], GRID[:75] + 0.5]).astype(np.float32)
    (tmp_path / "support").mkdir()
    (tmp_path / "queries").mkdir()
    support = kind(GRID, tmp_path / "support")
    check(support, GRID, asked, asked)
    queries = kind(asked, tmp_path / "queries")
    check(GRID, GRID, queries, asked)
    check(support, GRID, queries, asked)


@pytest.mark.parametrize("dtype", [*DTYPES, "int8", "uint16", "int32", "uint64", "bool"])
def test_every_type(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 37, 50)
    values = np.random.default_rng(1).standard_normal((ROWS, WIDTH))
    array = cast(values, dtype) if dtype in DTYPES else np.abs(values * 40).astype(dtype)
    (tmp_path / "t").mkdir()
    check(tensor_shards(array, tmp_path / "t"), array)
    check(Slices(array), array)
    if dtype != "bfloat16":
        check(npy_shards(array, tmp_path), array)
        check(Slices(torch.as_tensor(array)), array)
    if dtype not in ("bfloat16", "bool"):
        check(parquet_file(array, tmp_path), array)
        check(arrow_chunks(array, tmp_path), array)


def test_bfloat16_of_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    force(monkeypatch, 37, 50)
    tensor = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    array = tensor.float().numpy().astype(ml_dtypes.bfloat16)
    check(Slices(array), tensor)
    check(array, tensor)


def test_foreign_byte_order_and_more_dimensions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, 37, 50)
    array = GRID.reshape(ROWS, 3, 2).astype(">f8")
    check(npy_shards(array, tmp_path), array.astype("f8"))
    check(Slices(array), array.astype("f8"))


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_every_kind_of_rows(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties, duplicates, constant layers, squares beyond float64's end, across chunks."""
    rng = np.random.default_rng(number)
    force(monkeypatch, int(rng.integers(5, 60)), int(rng.integers(10, 60)))
    values = KINDS[number](rng, ROWS + 30, int(rng.integers(1, 90)))
    check(Slices(values[:ROWS]), values[:ROWS], values[ROWS:], values[ROWS:])
    check(Slices(values[:ROWS]), values[:ROWS])
    check(Slices(values[:ROWS]), values[:ROWS], exclude_self=False)


@pytest.mark.parametrize("k", [1, 60, ROWS - 1])
def test_k_up_to_all_rows(k: int, sizes: tuple[int, int]) -> None:
    check(Slices(GRID), GRID, k=k)
    check(Slices(GRID), GRID, GRID[:9], GRID[:9], k=k + 1)


@pytest.mark.parametrize("exclude_self", [True, False])
def test_query_rows(exclude_self: bool, sizes: tuple[int, int]) -> None:
    rows = np.array([149, 3, 3, 0, 77, 76, 78, 3])
    check(Slices(GRID), GRID, query_rows=rows, exclude_self=exclude_self)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_every_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pdepth.backends()[backend] != "available":
        pytest.skip(pdepth.backends()[backend])
    force(monkeypatch, 50, 100)
    asked = np.array([0, 49, 50, 51, 99])
    check_neighbours(Slices(GRID[:100]), GRID[:100], query_rows=asked, backend=backend)
    asked = GRID[:5].copy()  # Triton's interpreter knows memory by where it begins
    check_neighbours(Slices(GRID[:100]), GRID[:100], Slices(asked), asked, backend=backend)


def test_cosine(tmp_path: Path, sizes: tuple[int, int]) -> None:
    array = np.random.default_rng(2).standard_normal((ROWS, 33)).astype(np.float32)
    check(npy_shards(array, tmp_path), array, metric="cosine")
    check(memory_map(array, tmp_path), array, metric="cosine")
    check(array, array, metric="cosine", memory=20_000)
    check(Slices(torch.from_numpy(array)), array, array[:5], array[:5], metric="cosine")


@pytest.mark.parametrize("memory", [6_000, "40kB", "1MB"])
def test_memory_changes_no_bit(memory: int | str) -> None:
    source = Slices(GRID)
    check(source, GRID, memory=memory)
    assert source.threads == {"pdepth-reader_0"}


def test_a_layer_that_fits_is_read_once() -> None:
    source = Slices(GRID)
    pdepth.kneighbors(source, k=K)
    assert source.read == [(0, ROWS)]


def test_a_support_that_fits_beside_blocks_of_queries_is_read_once() -> None:
    source, asked = Slices(GRID), Slices(np.tile(GRID, (40, 1)))
    pdepth.kneighbors(source, asked, k=K, memory=300_000)
    assert source.read == [(0, ROWS)]
    assert len(asked.read) > 10


def test_votes_of_several_probes_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, 37, 50)
    arrays = [GRID, GRID[:, :3].copy(), np.abs(GRID)]
    sources = {"a": npy_shards(arrays[0], tmp_path), "b": arrays[1], "c": Slices(arrays[2])}
    wanted = [definition.probe_votes(a, LABELS, k=K).votes for a in arrays]
    for form in (sources, list(sources.values()), iter(sources.values())):
        assert first_difference(pdepth.probe_votes(form, LABELS, k=K).votes, wanted) is None


@pytest.mark.parametrize("way", ["own", "some", "queries"])
def test_early_exit_asks_only_who_is_left(way: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    probes = [rng.standard_normal((ROWS, w)) + np.eye(w)[LABELS % w] for w in (5, 4, 8, 3)]
    options: dict[str, Any] = {"k": K}
    if way == "some":
        options["query_rows"] = np.array([5, 5, 149, 0, 30, 31, 32, 90])
    asked = [p[::3] * 1.1 for p in probes] if way == "queries" else [None] * 4
    oracle = [
        definition.probe_votes(p, LABELS, q, **options).votes
        for p, q in zip(probes, asked, strict=True)
    ]
    predictions = np.where(rng.random(len(oracle[-1])) < 0.5, oracle[-1], oracle[-2])
    depth, undefined = definition.depth_from_votes(oracle, predictions)
    sources = [Slices(p) for p in probes]
    queries = None if way != "queries" else [Slices(q) for q in asked]
    told: list[tuple[int, float, int]] = []
    found = pdepth.depth_from_embeddings(
        sources, LABELS, predictions, queries, **options, progress=lambda *step: told.append(step)
    )
    assert first_difference(found.depth, depth) is None
    assert first_difference(found.undefined, undefined) is None
    for probe, votes in enumerate(oracle):
        known = probe >= depth
        assert first_difference(found.known[probe], known) is None
        assert first_difference(found.votes[probe], np.where(known, votes, -1)) is None
        assert {n for p, _, n in told if p == probe} <= {int((depth <= probe + 1).sum())}
    every = pdepth.depth_from_embeddings(
        sources, LABELS, predictions, queries, **options, early_exit=False
    )
    assert first_difference(every.votes, oracle) is None
    assert first_difference(every.depth, depth) is None


def test_a_probe_that_none_reaches_is_not_read() -> None:
    first, last = Slices(GRID), Slices(GRID)
    found = pdepth.depth_from_embeddings([first, last], LABELS, np.full(ROWS, 99), k=K)
    assert found.undefined.all()
    assert first.read == []
    assert last.read


# ---- how it is read ----


def test_one_chunk_is_read_ahead_while_the_kernel_works(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 30, ROWS)
    steps: list[str] = []
    begun = threading.Event()

    class Watched(Slices):
        def __getitem__(self, rows: slice) -> Any:
            steps.append(f"read {rows.start}")
            begun.set()
            return super().__getitem__(rows)

    class Engine:
        @staticmethod
        def neighbors(problem: Any) -> Any:
            begun.wait(5)
            begun.clear()
            time.sleep(0.02)
            steps.append("work")
            from pdepth.backends import cpu

            return cpu.neighbors(problem)

    monkeypatch.setattr("pdepth.votes.backend_named", lambda *_: Engine)
    asked = GRID[:9]
    begun.set()
    found = pdepth.kneighbors(Watched(GRID), asked, k=K)
    assert first_difference(found[1], definition.kneighbors(GRID, asked, k=K)[1]) is None
    assert steps.index("read 30") < steps.index("work") < steps.index("read 90")
    assert steps.count("work") == 5


def test_rows_far_apart_are_read_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.random.default_rng(0).standard_normal((60, 20_000)).astype(np.float32)
    source = Slices(wide)
    asked = [2, 3, 50]
    force(monkeypatch, 60, 60)
    queries = pdepth.kneighbors(wide, source, k=3)
    assert source.read == [(0, 60)]
    source.read.clear()
    force(monkeypatch, 59, 60)
    found = pdepth.kneighbors(source, query_rows=asked, k=3, exclude_self=False)
    assert first_difference(found[1], queries[1][asked]) is None
    assert (2, 4) in source.read
    assert (50, 51) in source.read


def test_slow_reading_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Slices):
        def __getitem__(self, rows: slice) -> Any:
            time.sleep(0.05)
            return super().__getitem__(rows)

    with caplog.at_level(logging.INFO, "pdepth"):
        pdepth.kneighbors(Slow(GRID), k=K)
    (line,) = caplog.messages
    assert re.fullmatch(
        r"Reading was the limit: 3\.6 kB at [\d.]+ kB/s; the kernels waited 0\.\d of 0\.\d s\.",
        line,
    )


PEAK = """
import sys, numpy as np, pdepth
from pathlib import Path

def status(name):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))
    return int(line.split()[1]) * 1024

rng = np.random.default_rng(0)
small = rng.standard_normal((3000, 64)).astype("f4")
pdepth.kneighbors(small, k=5)  # threads and their scratch are there
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
options = {"k": 5, "memory": 64_000_000, "num_threads": 1}
if sys.argv[2] == "own":
    options["query_rows"] = np.arange(0, 100_000, 997)
    asked = None
else:
    asked = pdepth.open_source(sys.argv[1])[0:50]
pdepth.kneighbors(sys.argv[1], asked, metric=sys.argv[3], **options)
print(status("VmHWM") - before)
"""


@pytest.mark.parametrize(("way", "metric"), [("own", "sqeuclidean"), ("queries", "cosine")])
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_near_what_is_given(way: str, metric: str, tmp_path: Path) -> None:
    """200 MB of float32 (400 MB normalised) under 64 MB."""
    rng = np.random.default_rng(0)
    for number in range(5):
        np.save(tmp_path / f"{number}.npy", rng.standard_normal((20_000, 512), dtype=np.float32))
    command = [sys.executable, "-c", PEAK, str(tmp_path), way, metric]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < 96_000_000


# ---- what is refused ----


def refused(error: type[Exception], sentence: str, support: Any = None, **options: Any) -> None:
    with pytest.raises(error) as caught:
        pdepth.kneighbors(support, **{"k": K, **options})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


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


# ---- what is told of it runs ----


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Source.__doc__ is not None
    docstring = textwrap.dedent(Source.__doc__.split("ten lines:\n")[1].split("\n\n    It is")[0])
    (section,) = re.findall(r"## Embeddings larger than memory\n.*?\n## ", README.read_text(), re.S)
    (readme,) = re.findall(r"```python\n(class .*?)```", section, re.S)
    array = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for number, path in enumerate(paths):
        np.save(path, array[1000 * number :][:1000])
    force(monkeypatch, 1234, 40)
    for text in (docstring, readme):
        names: dict[str, Any] = {"np": np}
        exec(text, names)
        found = pdepth.kneighbors(names["Blocks"](paths, 4), array[:50], k=K)
        wanted = definition.kneighbors(array, array[:50], k=K)
        assert first_difference(found[1], wanted[1]) is None


def test_what_is_no_source() -> None:
    for value in ([[1.0]], 3, object(), np.ma.masked_greater(GRID, 0)):
        with pytest.raises(TypeError, match="a NumPy array or torch tensor is wanted"):
            opened(value, "support")
    with pytest.raises(TypeError, match="queries is a list and support one array"):
        pdepth.kneighbors(Slices(GRID), [GRID], k=K)
