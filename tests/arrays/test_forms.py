"""Rows in forms that say what they mean: booleans, tables, shards in order, reused buffers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import definition

from helpers.cases import first_difference
from helpers.sources import GRID, LABELS, ROWS, K, check, check_neighbours, force, refused
from helpers.torch_or_skip import torch

TRUTH = np.random.default_rng(3).random((ROWS, 16)) < 0.5
SEEN_AS_BOOLEANS = np.where(  # as masks of OpenCV, seen as booleans
    TRUTH, np.random.default_rng(4).choice([1, 255, 2], TRUTH.shape), 0
).astype(np.uint8).view(bool)  # fmt: skip


# ---- booleans ----


class Slices:
    """The protocol and no more."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype

    def __getitem__(self, rows: slice) -> Any:
        return self.array[rows]


def stored_npy(array: Any, folder: Path) -> Any:
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def mapped_npy(array: Any, folder: Path) -> Any:
    return np.load(stored_npy(array, folder), mmap_mode="r")


def stored_tensors(array: Any, folder: Path) -> Any:
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"rows": array}, folder / "a.safetensors")
    return folder / "a.safetensors"


def strided(array: Any, folder: Path) -> Any:
    wide = np.zeros((2 * len(array), array.shape[1]), bool)
    wide[::2] = array
    wide.view(np.uint8)[::2] = array.view(np.uint8)
    return wide[::2]


def fortran(array: Any, folder: Path) -> Any:
    return np.asfortranarray(array.view(np.uint8)).view(bool)


BOOLEANS: list[Callable[[Any, Path], Any]] = [
    lambda array, _: array,
    lambda array, _: torch.from_numpy(array),
    lambda array, _: torch.from_numpy(array.view(np.uint8)).view(torch.bool),
    lambda array, _: Slices(array),
    lambda array, _: array.reshape(ROWS, 4, 4),
    *(stored_npy, mapped_npy, stored_tensors, strided, fortran),
]


@pytest.mark.parametrize("form", BOOLEANS)
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_a_boolean_is_true_whatever_its_byte(
    form: Callable[[Any, Path], Any], metric: str, tmp_path: Path
) -> None:
    expected = TRUTH.astype(np.float64)
    assert SEEN_AS_BOOLEANS.view(np.uint8).max() == 255
    support = form(SEEN_AS_BOOLEANS, tmp_path)
    check(support, expected, metric=metric)
    check(support, expected, SEEN_AS_BOOLEANS[:7], expected[:7], metric=metric)


def test_labels_and_references_that_are_booleans() -> None:
    labels = SEEN_AS_BOOLEANS[:, 0]
    votes = pdepth.probe_votes(GRID, labels, k=K)
    expected = definition.probe_votes(GRID, TRUTH[:, 0].astype(int), k=K)
    assert first_difference(votes.votes, expected.votes) is None
    table = np.stack([TRUTH[:, 1], TRUTH[:, 0]])
    depth, undefined = pdepth.depth_from_votes(table, labels)
    assert not undefined.any()
    assert first_difference(depth, (TRUTH[:, 1] != TRUTH[:, 0]).astype(int)) is None


# ---- tables and sparse matrices ----


def test_a_data_frame_is_its_values() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(GRID, columns=list("abcdef"), index=np.arange(ROWS)[::-1])
    check(frame, GRID)
    check(frame, GRID, frame[5:40], GRID[5:40])
    votes = pdepth.probe_votes({"first": frame, "second": GRID}, LABELS, k=K).votes
    assert first_difference(votes[0], votes[1]) is None
    twice = pandas.DataFrame(GRID, columns=list("aabbcc"))
    check_neighbours(twice, GRID)
    mixed = pandas.DataFrame(
        {
            "whole": pandas.array(GRID[:, 0].astype(int), "Int64"),
            "truth": GRID[:, 1] > 0,
            "half": GRID[:, 2].astype(np.float16),
            "sparse": pandas.arrays.SparseArray(GRID[:, 3]),
        }
    )
    expected = np.column_stack([GRID[:, 0], GRID[:, 1] > 0, GRID[:, 2:4]]).astype(np.float64)
    check_neighbours(mixed, expected)


def test_a_data_frame_of_polars_is_its_values() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({name: GRID[:, place] for place, name in enumerate("abcdef")})
    check_neighbours(frame, GRID)


def test_a_data_frame_of_other_things_is_refused() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": GRID[:, 0], "name": ["a"] * ROWS})
    sentence = "support (probe 0): expected a DataFrame of numbers, got elements of type "
    refused(TypeError, sentence, frame)
    with pytest.raises(TypeError, match="queries .* in column 'name'"):
        pdepth.kneighbors(GRID[:, :2], frame, k=K)
    missing = pandas.DataFrame({"x": GRID[:, 0], "y": pandas.array([None] + [1] * (ROWS - 1))})
    with pytest.raises((TypeError, ValueError), match="column 'y'|NaN or infinity in row 0"):
        pdepth.kneighbors(missing, k=K)
    refused(
        ValueError,
        "support (probe 0): expected at least one row and column, got a DataFrame of shape (9, 0)",
        pandas.DataFrame(index=range(9)),
    )
    refused(ValueError, "expected shape (rows, width), got (150,)", pandas.Series(GRID[:, 0]))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("suffix", ["matrix", "array"])
@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
def test_sparse_matrices_are_refused_by_name(kind: str, suffix: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    matrix = getattr(sparse, f"{kind}_{suffix}")(GRID)
    sentence = f"expected a dense array, got a sparse {kind}_{suffix}; pass its .toarray()."
    refused(TypeError, f"support (probe 0): {sentence}", matrix)
    refused(TypeError, f"queries (probe 0): {sentence}", GRID, queries=matrix)
    with pytest.raises(TypeError, match=r"support \(conv\): expected a dense array"):
        pdepth.depth_from_embeddings({"conv": matrix}, LABELS, LABELS, k=K)
    check_neighbours(matrix.toarray(), GRID)


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_tensors_are_refused_by_name(layout: str) -> None:
    tensor = torch.from_numpy(GRID).to_sparse(layout=getattr(torch, layout))
    sentence = f"expected a dense tensor, got a {layout} one; pass its .to_dense()."
    refused(TypeError, f"support (probe 0): {sentence}", tensor)


def test_a_matrix_of_numpy_is_an_array() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.asmatrix(GRID)
    check(matrix, GRID)
    check(matrix, GRID + 0, metric="sqeuclidean", backend="reference")


# ---- shards in order ----

NATURAL = [f"feat_{number}.npy" for number in range(12)]


def shards(folder: Path, names: list[str]) -> list[Path]:
    for name, part in zip(names, np.array_split(GRID, len(names)), strict=True):
        np.save(folder / name, part)
    return [folder / name for name in names]


def test_shards_come_in_natural_order(tmp_path: Path) -> None:
    shards(tmp_path, NATURAL)
    (tmp_path / "._feat_3.npy").write_bytes(b"what other systems leave")
    sentence = "feat_9.npy before feat_10.npy, where the order of the text is another; for another"
    with pytest.warns(UserWarning, match=sentence) as caught:
        votes = pdepth.probe_votes(str(tmp_path), LABELS, k=K)
    assert len(caught) == 1
    expected = definition.probe_votes(GRID, LABELS, k=K)
    assert first_difference(votes.votes, expected.votes) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"{number:04}.npy" for number in range(12)],
        ["a1.npy", "a2.npy", "b1.npy", "b10.npy"],
        ["A.npy", "B2.npy", "a.npy"],
        ["01.npy", "1.npy", "02.npy"],
        ["0.npy", "1_5.npy", "1a.npy", "9.npy"],
    ],
)
def test_shards_of_which_text_has_the_same_order(tmp_path: Path, names: list[str]) -> None:
    files = shards(tmp_path, names)
    natural = [files[place] for place in ((0, 1, 2) if names[0] == "01.npy" else range(len(names)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if names[0] == "01.npy" else "error")
        source = pdepth.open_source(tmp_path)
    assert np.array_equal(source[0:ROWS], np.vstack([np.load(file) for file in natural]))


def test_a_list_of_paths_fixes_any_order(tmp_path: Path) -> None:
    files = shards(tmp_path, NATURAL)
    order = [files[place] for place in np.random.default_rng(0).permutation(12)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = pdepth.open_source([order[0], *map(str, order[1:])])
        check(source, np.vstack([np.load(file) for file in order]))
    assert np.array_equal(pdepth.open_source(tuple(order))[0:ROWS], source[0:ROWS])
    with pytest.raises(FileNotFoundError, match=r"There is no file or directory .*feat_12\.npy"):
        pdepth.open_source([files[0], tmp_path / "feat_12.npy"])
    with pytest.raises(ValueError, match=r"expected a \.npy, \.safetensors or \.parquet file"):
        pdepth.open_source([tmp_path])
    for wrong in ([], [GRID], 3, None, {"a": files[0]}):
        with pytest.raises(TypeError, match="path: expected a path, or a list of the paths of"):
            pdepth.open_source(wrong)


# ---- buffers filled again ----


class Reader:
    """A source that fills one buffer of its own at each slice."""

    def __init__(self, rows: Any, kind: str = "numpy", at_numbers: bool = False) -> None:
        self.rows, self.shape = rows, rows.shape
        self.buffer = np.empty_like(rows) if kind == "numpy" else torch.from_numpy(rows).clone()
        self.dtype = self.buffer.dtype
        if at_numbers:
            self.rows_at = self._fill

    def __getitem__(self, rows: slice) -> Any:
        return self._fill(np.arange(rows.start, rows.stop))

    def _fill(self, numbers: Any) -> Any:
        values = self.buffer[: len(numbers)]
        self.buffer[:] = -9
        values[:] = type(self.buffer)(()) if len(numbers) == 0 else self._like(self.rows[numbers])
        return values

    def _like(self, rows: Any) -> Any:
        return torch.from_numpy(rows) if isinstance(self.buffer, torch.Tensor) else rows


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("at_numbers", [False, True])
@pytest.mark.parametrize("chunk", [7, 60, ROWS])
def test_a_source_may_fill_its_buffer_again(
    kind: str, at_numbers: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, chunk, 50)
    source = Reader(GRID, kind, at_numbers)
    check(source, GRID)
    check(source, GRID, GRID[:9], GRID[:9])
    check(source, GRID, source, GRID, exclude_self=True)
    check(source, GRID + 0, query_rows=np.array([3, 77, 149]))
    check(GRID, GRID, source, GRID)


def test_a_source_in_float64_keeps_its_rows_for_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 60, 50)
    rows = np.random.default_rng(0).standard_normal((ROWS, 5))
    check(Reader(rows), rows, metric="cosine")


def test_a_source_that_is_fresh_is_not_copied() -> None:
    given: list[Any] = []

    class Fresh(Slices):
        fresh = True

    class Seen(Slices):
        def __getitem__(self, rows: slice) -> Any:
            given.append(super().__getitem__(rows))
            return given[-1]

    from pdepth.arrays.problem import checked_rows

    for kind, is_shared in ((type("F", (Fresh, Seen), {}), True), (Seen, False)):
        rows = checked_rows(kind(GRID), "rows")[0:5].array
        assert np.shares_memory(rows, given[-1]) is is_shared
