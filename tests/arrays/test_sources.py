"""Sources that are not in memory: the votes of the definition, whatever is read in which chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import definition

from helpers.cases import DTYPES, KINDS, cast, first_difference
from helpers.sources import (
    ALL,
    GRID,
    LABELS,
    ROWS,
    WIDTH,
    K,
    Slices,
    arrow_chunks,
    check,
    check_neighbours,
    force,
    memory_map,
    npy_shards,
    parquet_file,
    tensor_shards,
)
from helpers.torch_or_skip import torch


@pytest.mark.slow_if(sizes=[(1, 150), (64, 13), (150, 40)])
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


@pytest.mark.slow_if(dtype=["int8", "uint16", "int32", "uint64"])
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
    if dtype not in ("bfloat16", "bool"):
        check(parquet_file(array, tmp_path), array)
        check(arrow_chunks(array, tmp_path), array)
    if dtype != "bfloat16":
        check(Slices(torch.as_tensor(array)), array)


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


@pytest.mark.slow_if(sizes=[(1, 150), (64, 13), (150, 40)])
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


@pytest.mark.slow_if(sizes=[(1, 150), (64, 13), (150, 40)])
def test_cosine(tmp_path: Path, sizes: tuple[int, int]) -> None:
    array = np.random.default_rng(2).standard_normal((ROWS, 33)).astype(np.float32)
    check(npy_shards(array, tmp_path), array, metric="cosine")
    check(memory_map(array, tmp_path), array, metric="cosine")
    check(array, array, metric="cosine", memory=20_000)
    check(Slices(torch.from_numpy(array)), array, array[:5], array[:5], metric="cosine")


def test_votes_of_several_probes_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, 37, 50)
    arrays = [GRID, GRID[:, :3].copy(), np.abs(GRID)]
    sources = {"a": npy_shards(arrays[0], tmp_path), "b": arrays[1], "c": Slices(arrays[2])}
    wanted = [definition.probe_votes(a, LABELS, k=K).votes for a in arrays]
    for form in (sources, list(sources.values()), iter(sources.values())):
        assert first_difference(pdepth.probe_votes(form, LABELS, k=K).votes, wanted) is None


@pytest.mark.slow_if(sizes=[(1, 150), (64, 13), (150, 40)])
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
