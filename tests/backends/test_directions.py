"""The filter stage on images of rows under leading directions: its bound, and its votes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import _native, certify, definition, native
from pdepth.backends import cpu

from helpers.adversaries import attacks, true_scores
from helpers.cases import cast, first_difference
from helpers.torch_or_skip import torch

NAMES = ("avx2", "portable", "avxvnni", "avx512vnni")
LEVELS = [name for name in NAMES if native.simd_levels().get(name)]
ROWS, WIDTH = 2300, 130  # the stage serves no fewer than 2,176 rows, and no fewer than 97 columns


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name == LEVELS[0] else [pytest.mark.slow]) for name in LEVELS
    ]
)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PDEPTH_SIMD", request.param)
    return request.param


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "FIRST_STAGE", "directions")


def layer(seed: int, count: int = ROWS, width: int = WIDTH, rank: int = 20) -> Any:
    """Rows that vary in few directions, and a little in all, as those of a dense layer."""
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).standard_normal((rank, width))
    sizes = 0.9 ** np.arange(rank)
    rows = rng.standard_normal((count, rank)) * sizes @ mixed + 0.1 * rng.standard_normal(
        (count, width)
    )
    return np.maximum(rows + 0.5, 0).astype(np.float32)


def directions_of(rng: np.random.Generator, width: int) -> Any:
    """(96, width) float32: orthonormal rows, zeros after them, and their departure."""
    count = min(95, width)
    values = np.zeros((96, width), np.float32)
    values[:count] = np.linalg.qr(rng.standard_normal((width, count)))[0].T
    wide = values[:count].astype(float)
    return values, float(np.linalg.norm(wide @ wide.T - np.eye(count))) * (1 + 1e-6)


def scored(level: str, pair: Any, values: Any, departure: float, floor: float) -> Any:
    support, queries = pair
    true = true_scores(support, queries, differences=True)
    distances = np.nextafter(true.astype(float), np.inf)
    return distances, _native.image_scores(
        (support, "float64"), (queries, "float64"), level, values, departure=departure,
        floor=floor, scale=1.0, distances=distances,
    )  # fmt: skip


# ---- the bound ----


def test_the_constants_are_those_of_certify() -> None:
    constants = _native.image_constants()
    assert constants == {
        name: getattr(certify, name) for name in ("IMAGE_COLUMNS", "PROJECTED_SECTION")
    }


SHARES = [2.0**-14, 2.0**-4, 2.0]  # of the norms, as the floor


@pytest.mark.parametrize("share", SHARES)
def test_no_row_as_near_as_is_proven_is_cut(level: str, share: float) -> None:
    """And the cut is that of pdepth.certify, to the last bit."""
    stage = certify.FilterStage(
        **next(s for s in _native.filter_stages(level) if s["name"] == "int16")
    )
    compared = 0
    for number, (adversary, pair) in enumerate(attacks(seed=5)):
        if number % 3 != SHARES.index(share):  # each pair meets one floor
            continue
        width = pair[0].shape[1]
        values, departure = directions_of(np.random.default_rng(number), width)
        floor = share * float(np.median(np.linalg.norm(pair[0], axis=1)) + 1)
        distances, found = scored(level, pair, values, departure, floor)
        assert (found["scores"] < found["cuts"]).all(), adversary
        wide = {name: array.astype(float) for name, array in found.items()}
        products = certify.Products.of(
            stage, certify.IMAGE_COLUMNS, wide["support_norms"], wide["support_residuals"]
        )
        bound = certify.Images(products, width, departure, floor)
        for i in range(0, len(pair[1]), 2):
            for j in range(number % 7, len(pair[0]), 13):
                value = bound.cut(
                    wide["query_norms"][i], wide["query_residuals"][i], float(distances[i, j])
                )
                above = np.float32(value)
                above = above if float(above) > value else np.nextafter(above, np.float32(np.inf))
                assert found["cuts"][i, j] == above
                compared += 1
    assert compared > 300


@pytest.mark.parametrize("width", [96, 97, 130, 1000])
def test_rows_within_the_span_meet_the_bound(level: str, width: int) -> None:
    """Their images are as far apart as they are: a bound a little too narrow would cut some."""
    rng = np.random.default_rng(width)
    values, departure = directions_of(rng, width)
    span = values[:95].astype(float)
    support, queries = (rng.standard_normal((n, 95)) @ span * 2.0**20 for n in (200, 20))
    support[:40] = queries[rng.integers(0, 20, 40)] * (1 + 2.0 ** rng.uniform(-20, -3, (40, 1)))
    floor = 2.0**23  # some norm: no last column hides a difference
    _, found = scored(level, (support, queries), values, departure, floor)
    assert (found["scores"] < found["cuts"]).all()
    _, wrong = scored(level, (support, queries), values * np.float32(1.002), 0.0, floor)
    assert (wrong["scores"] >= wrong["cuts"]).any()


# ---- votes and neighbours ----


def agree(support: Any, queries: Any, k: int, **options: Any) -> None:
    labels = np.random.default_rng(7).integers(0, 5, len(support))
    expected = definition.probe_votes(support, labels, queries, k=k, **options)
    votes = pdepth.probe_votes(support, labels, queries, k=k, return_counts=True, **options)
    assert first_difference(votes.votes, expected.votes) is None
    assert first_difference(votes.counts, expected.counts) is None
    assert first_difference(votes.tied, expected.tied) is None
    near = definition.kneighbors(support, queries, k=k, **options)
    found = pdepth.kneighbors(support, queries, k=k, **options)
    assert first_difference(found[1], near[1]) is None
    assert first_difference(found[0], near[0]) is None


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(("k", "width"), [(1, 97), (30, 130), (7, 513), (256, 128)])
def test_votes_are_those_of_the_definition(level: str, k: int, width: int) -> None:
    agree(layer(0, width=width), layer(1, 37, width), k)


def far_from_nought(rows: Any) -> Any:
    return rows + np.float32(1000)


def whole(rows: Any) -> Any:
    """Distances tie exactly."""
    return np.round(rows)


def twice(rows: Any) -> Any:
    return np.concatenate([rows[: len(rows) // 2], rows[: len(rows) - len(rows) // 2]])


def rank_three(rows: Any) -> Any:
    """The directions take all there is: nothing but the floor is left."""
    return (rows[:, :3] @ np.random.default_rng(5).standard_normal((3, WIDTH))).astype(np.float32)


def in_all_directions(rows: Any) -> Any:
    """Images tell little: lists are too short, and the next stage is taken."""
    return np.random.default_rng(len(rows)).standard_normal(rows.shape).astype(np.float32)


def with_outliers(rows: Any) -> Any:
    rows = rows.copy()
    rows[:: max(2, len(rows) // 9)] *= np.float32(1e9)
    return rows


def tiny(rows: Any) -> Any:
    return rows * np.float32(1e-30)


def huge(rows: Any) -> Any:
    return rows * np.float32(1e25)


def one_column(rows: Any) -> Any:
    return rows * (np.arange(WIDTH) == 3).astype(np.float32)


def dead(rows: Any) -> Any:
    return rows * np.float32(0) + np.float32(0.3)


KINDS = (
    *(far_from_nought, whole, twice, rank_three, in_all_directions, with_outliers, tiny, huge),
    *(one_column, dead),
)


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_hard_to_tell_apart(level: str, kind: Callable[[Any], Any]) -> None:
    agree(kind(layer(2)), kind(layer(3, 11)), 9)


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "uint8", "int64"])
def test_rows_of_any_type(level: str, dtype: str) -> None:
    support, queries = (cast(layer(seed, n) * 20, dtype) for seed, n in ((4, ROWS), (5, 11)))
    wide = [
        rows.double().numpy() if isinstance(rows, torch.Tensor) else rows.astype(np.float64)
        for rows in (support, queries)
    ]
    expected = definition.kneighbors(*wide, k=9)
    found = pdepth.kneighbors(support, queries, k=9)
    assert first_difference(np.asarray(found[1]), expected[1]) is None
    assert first_difference(np.asarray(found[0]), expected[0]) is None


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_other_metrics(level: str, metric: str) -> None:
    agree(layer(6), layer(7, 11), 9, metric=metric)


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("num_threads", [1, 3])
def test_rows_of_the_support_as_queries(level: str, num_threads: int) -> None:
    support = layer(8)
    support[5:9] = support[4]
    labels = np.random.default_rng(9).integers(0, 5, ROWS)
    rows = np.random.default_rng(10).integers(0, ROWS, 150)
    rows[:5] = range(4, 9)
    expected = definition.probe_votes(support, labels, k=9, query_rows=rows)
    votes = pdepth.probe_votes(support, labels, k=9, query_rows=rows, num_threads=num_threads)
    assert first_difference(votes.votes, expected.votes) is None
    own = pdepth.kneighbors(support, k=9, query_rows=rows, exclude_self=False)
    true = definition.kneighbors(support, k=9, query_rows=rows, exclude_self=False)
    assert first_difference(own[1], true[1]) is None


@pytest.mark.usefixtures("first")
def test_little_memory(level: str) -> None:
    support, queries = layer(11), layer(12, 40)
    expected = definition.kneighbors(support, queries, k=9)
    for memory in ("64KiB", "2MiB", "20MiB"):
        found = pdepth.kneighbors(support, queries, k=9, memory=memory)
        assert first_difference(found[1], expected[1]) is None


@pytest.mark.usefixtures("first")
def test_depths(level: str) -> None:
    layers = [layer(seed) for seed in (13, 14)]
    queries = [layer(seed, 40) for seed in (15, 16)]
    rng = np.random.default_rng(17)
    labels, predictions = rng.integers(0, 3, ROWS), rng.integers(0, 3, 40)
    table = [
        definition.probe_votes(rows, labels, asked, k=9).votes
        for rows, asked in zip(layers, queries, strict=True)
    ]
    expected, _ = definition.depth_from_votes(np.stack(table), predictions)
    for early_exit in (True, False):
        result = pdepth.depth_from_embeddings(
            layers, labels, predictions, queries, k=9, early_exit=early_exit
        )
        assert first_difference(result.depth, expected) is None


# ---- kept by an index ----


def stages_of(index: pdepth.Index) -> list[str]:
    (probe,) = index._now().probes
    return [stage["stage"] for stage in probe.packed.packing()["stages"]]


@pytest.mark.usefixtures("first")
def test_an_index_keeps_images(level: str, tmp_path: Path) -> None:
    rows, queries = layer(18, ROWS + 300), layer(19, 20)
    index = pdepth.Index(rows[:ROWS])
    index.kneighbors(queries, k=9)
    assert "directions" in stages_of(index)
    for count in (ROWS + 1, ROWS + 300):
        index.add(rows[len(index) : count])
        expected = definition.kneighbors(rows[:count], queries, k=9)
        assert first_difference(index.kneighbors(queries, k=9)[1], expected[1]) is None
    index.save(tmp_path / "index")
    opened = pdepth.Index.load(tmp_path / "index")
    assert "directions" in stages_of(opened)
    found = opened.kneighbors(queries, k=9)
    assert first_difference(found[1], expected[1]) is None
    assert first_difference(found[0], expected[0]) is None


def test_the_rule_takes_layers_that_vary_in_few_directions(level: str) -> None:
    queries = 3000
    for rows, taken in (
        (layer(20, 2600, 2048), True),
        (layer(20, 2600, 100), False),  # narrow
        (np.random.default_rng(21).standard_normal((2600, 2048), np.float32), False),
    ):
        index = pdepth.Index(rows)
        near = index.kneighbors(rows[np.arange(queries) % 2600], k=9)
        assert ("directions" in stages_of(index)) == taken
        expected = definition.kneighbors(rows, rows[:8], k=9)
        assert first_difference(near[1][:8], expected[1]) is None
    assert math.isfinite(near[0].max())
