"""An index of rows in files and other sources, which are read whole: the definition's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import Index, definition
from pdepth.search.index import ChangedRowsError

from helpers.torch_or_skip import torch

RNG = np.random.default_rng(11)
ROWS = RNG.integers(-3, 4, (200, 20)).astype(np.float32) + np.float32(0.5)
QUERIES = RNG.integers(-3, 4, (9, 20)).astype(np.float32) + np.float32(0.5)
LABELS = RNG.integers(0, 4, 200)
METRICS = ["sqeuclidean", "cosine", "inner_product"]


class OneBuffer:
    """Fills the same memory at each reading."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype
        self.buffer = np.empty_like(rows)

    def __getitem__(self, rows: slice) -> Any:
        out = self.buffer[: rows.stop - rows.start]
        out[:] = self.rows[rows]
        return out


def stored(kind: str, rows: Any, folder: Path) -> Any:
    """Rows as a path or a source."""
    path = folder / f"{kind}-{len(list(folder.iterdir()))}"
    if kind == "file":
        path = path.with_suffix(".npy")
        np.save(path, rows)
        return str(path)
    if kind == "shards":
        path.mkdir()
        for number, part in enumerate(np.array_split(rows, 3)):
            np.save(path / f"part_{number}.npy", part)
        return path
    if kind == "bfloat16":
        path = path.with_suffix(".safetensors")
        tensors = {"rows": torch.from_numpy(rows).bfloat16()}
        pytest.importorskip("safetensors.torch").save_file(tensors, path)
        return pdepth.open_source(path, "rows")
    return OneBuffer(rows)


KINDS = ["file", "shards", "bfloat16", "one buffer"]


def expected(support: Any, queries: Any, k: int, metric: str) -> tuple[Any, Any]:
    found: tuple[Any, Any] = pdepth.kneighbors(support, queries, k=k, metric=metric)
    if metric != "inner_product":
        oracle = definition.kneighbors(support, queries, k=k, metric=metric)
        assert (found[1] == oracle[1]).all()
        assert (found[0] == oracle[0]).all()
    return found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_sources_are_taken_wherever_arrays_are(kind: str, metric: str, tmp_path: Path) -> None:
    index = Index(stored(kind, ROWS[:150], tmp_path), LABELS[:150], metric=metric)
    queries = stored(kind, QUERIES, tmp_path)
    for _ in range(2):
        found = index.kneighbors(queries, 5)
        wanted = expected(ROWS[:150], QUERIES, 5, metric)
        assert isinstance(found[0], np.ndarray)
        assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
    index.add(stored(kind, ROWS[150:], tmp_path), LABELS[150:])
    found, wanted = index.kneighbors(queries, 5), expected(ROWS, QUERIES, 5, metric)
    assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
    votes = pdepth.probe_votes(ROWS, LABELS, QUERIES, k=5, metric=metric)
    assert (index.votes(queries, k=5).votes == votes.votes).all()
    index.save(tmp_path / "index")
    if metric != "cosine" or kind != "bfloat16":
        source = stored(kind, ROWS, tmp_path)
        assert len(Index.load(tmp_path / "index", support=source)) == 200
    with pytest.raises(ValueError, match="expected the index of this support, got another's"):
        Index.load(tmp_path / "index", support=stored(kind, ROWS + 1, tmp_path))


def test_rows_that_are_kept_have_their_values(tmp_path: Path) -> None:
    """Also those of a type that NumPy lacks, from a file of an index, too."""
    for kind in KINDS:
        Index(stored(kind, ROWS, tmp_path)).save(tmp_path / "index")
        for index in (Index(stored(kind, ROWS, tmp_path)), Index.load(tmp_path / "index")):
            assert isinstance(index.rows, torch.Tensor if kind == "bfloat16" else np.ndarray)
            assert (np.array(index.rows.tolist()) == ROWS).all()


def test_layers_of_sources(tmp_path: Path) -> None:
    layers = {kind: stored(kind, ROWS, tmp_path) for kind in KINDS}
    index = Index.of_layers(layers, LABELS)
    queries = [stored(kind, QUERIES, tmp_path) for kind in KINDS]
    for found in zip(*index.kneighbors(queries, 4), strict=True):
        wanted = expected(ROWS, QUERIES, 4, "sqeuclidean")
        assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
    with pytest.raises(ValueError, match="queries: expected 4 arrays, one a layer, got a str"):
        index.kneighbors("rows")  # of as many letters


def test_a_source_that_fills_its_buffer_again_does_not_change_the_rows() -> None:
    source = OneBuffer(ROWS)
    for copy in (True, False):
        index = Index(source, copy=copy)
        source.buffer[:] = 0
        assert (
            index.kneighbors(QUERIES, 4)[1] == expected(ROWS, QUERIES, 4, "sqeuclidean")[1]
        ).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_sample_of_the_callers_rows_is_compared(metric: str) -> None:
    """64 rows, as docs/embeddings.md says."""
    rows, noticed = RNG.integers(-9, 9, (640, 20)).astype(np.float64) + 0.5, []
    index = Index(rows, copy=False, metric=metric)
    for row in range(640):
        rows[row, 3] += 1
        try:
            index.kneighbors(QUERIES[:1], 1)
        except ChangedRowsError:
            noticed.append(row)
        rows[row, 3] -= 1
    assert len(noticed) == 64
    assert noticed[0] == 0
    assert noticed[-1] == 639


def test_what_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = stored("file", ROWS, tmp_path)
    monkeypatch.setattr("pdepth.arrays.sources.free_bytes", lambda: ROWS.nbytes)
    assert len(Index(path)) == 200
    sentence = (
        r"^support \(probe 0\): expected rows that fit into memory, got 19.2 kB where 16.0 kB are "
        r"free; pdepth.kneighbors and pdepth.probe_votes read them in chunks\.$"
    )
    with pytest.raises(MemoryError, match=sentence):
        Index(path, metric="cosine")  # with norms
    monkeypatch.setattr("pdepth.arrays.sources.free_bytes", lambda: None)
    assert len(Index(path, metric="cosine")) == 200


@pytest.mark.parametrize(
    ("support", "words"),
    [
        (ROWS.tolist(), "expected a NumPy array or torch tensor, got a list"),
        (None, "expected a NumPy array or torch tensor, got a NoneType"),
        ([ROWS, ROWS], "expected one array, got a list; for several layers use pdepth.Index.of_la"),
        ({"a": ROWS}, "expected one array, got a dict; for several layers use pdepth.Index.of_lay"),
        (["a.npy", "b.npy"], "expected one array, got a list; for several layers use pdepth.Index"),
        ({}, "expected a NumPy array or torch tensor, got a dict"),
    ],
)
def test_layers_are_spoken_of_where_there_are_some(support: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"^support.*: {words}"):
        Index(support)


def test_what_is_wrong_with_a_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^support \(probe 0\): There is no file or"):
        Index("none.npy")
    with pytest.raises(FileNotFoundError, match=r"^queries \(probe 0\): There is no file or"):
        Index(ROWS).kneighbors(Path("none.npy"), 3)
    spoiled = ROWS.copy()
    spoiled[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"^support \(probe 0\): .* NaN or infinity in row 7"):
        Index(stored("shards", spoiled, tmp_path))
    with pytest.raises(ValueError, match=r"^rows \(probe 0\): expected 200 rows of width 20 "):
        Index(ROWS).add(stored("file", ROWS.astype(np.float64), tmp_path))


@pytest.mark.filterwarnings("error")  # torch's, of an array that cannot be written to
def test_answers_of_a_loaded_index_are_of_the_kind_of_its_support(tmp_path: Path) -> None:
    tensor = torch.from_numpy(ROWS)
    Index(tensor, LABELS).save(tmp_path / "index")
    wanted = expected(ROWS, QUERIES, 4, "sqeuclidean")
    for support in (None, ROWS, tensor):
        index, kind = Index.load(tmp_path / "index", support=support), np.ndarray
        if support is tensor:
            kind = torch.Tensor
            assert index.kneighbors(QUERIES, 4)[1].device == tensor.device
        found = index.kneighbors(torch.from_numpy(QUERIES), 4)
        assert all(isinstance(each, kind) for each in (*found, index.rows))
        assert isinstance(index.votes(QUERIES, k=4).votes, kind)
        assert all((np.asarray(a) == b).all() for a, b in zip(found, wanted, strict=True))
    Index.of_layers({"a": tensor, "b": ROWS}).save(tmp_path / "layers")
    index = Index.load(tmp_path / "layers", support={"a": tensor, "b": ROWS})
    assert isinstance(index.kneighbors([QUERIES, QUERIES], 4)[0], torch.Tensor)
