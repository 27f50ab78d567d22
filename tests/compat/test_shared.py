"""What several adapters need, against the definition or in plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pdepth import definition
from pdepth.compat.shared import duplicates, radius
from pdepth.compat.shared.duplicates import duplicate_sets
from pdepth.compat.shared.radius import DistanceIndex, products_above, squared_radius

from helpers.cases import KINDS, cast

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((300, 20))
ZEROS = ROWS.copy()
ZEROS[::50] *= 0.0  # some of them of -0.0
COPIES = ROWS[RNG.integers(0, 60, 300)]


def drawn(kind: Callable[..., Any], dtype: str) -> Iterator[tuple[Any, Any, Any]]:
    """A generator of numbers, a support and queries of each width; ten of them are rows."""
    rng = np.random.default_rng(KINDS.index(kind))
    for width in (1, 7, 40):
        values = cast(kind(rng, 130, width), dtype)
        yield rng, values[:120], values[110:]


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_distances_are_the_definitions(
    kind: Callable[..., Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Radii are distances that occur, so that a rounding in the wrong direction is seen."""
    monkeypatch.setattr(radius, "HELD", 1000)
    for rng, support, queries in drawn(kind, dtype):
        index = DistanceIndex(support, 2)
        own, query_rows = definition.as_rows(support), definition.as_rows(queries)
        with np.errstate(over="ignore"):
            every = np.stack([definition.squared_distances(own, query) for query in query_rows])
            assert (index.distances(queries) == every).all()
            for limit in (0, *rng.choice(every.ravel(), 4), -1, np.inf):
                within = list(index.radius_neighbors(queries, float(limit)))
                assert len(within) == len(queries)
                for near, squared in zip(within, every, strict=True):
                    assert (near == np.flatnonzero(squared <= limit)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_products_above_a_limit(
    kind: Callable[..., Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits are products that occur."""
    monkeypatch.setattr(radius, "HELD", 1000)
    for rng, support, queries in drawn(kind, dtype):
        own, query_rows = definition.as_rows(support), definition.as_rows(queries)
        with np.errstate(over="ignore", invalid="ignore"):
            every = np.stack([definition.total(own * query) for query in query_rows])
            for limit in (0, *rng.choice(every.ravel(), 4), np.inf, -np.inf, np.nan):
                above = list(products_above(support, queries, float(limit), 2))
                assert len(above) == len(queries)
                for near, products in zip(above, every, strict=True):
                    assert (near == np.flatnonzero(products >= limit)).all()


def test_squares_within_a_radius() -> None:
    """The greatest square whose root is within, and the next one's is not."""
    rng = np.random.default_rng(0)
    radii = [0.0, 1.0, 1e-170, 1e-160, 1e150, 1e200, 5e-324]
    for own in (*radii, *rng.random(200), *10.0 ** rng.uniform(-150, 150, 200)):
        square = squared_radius(float(own))
        beyond = math.nextafter(square, math.inf)
        assert math.sqrt(square) <= own
        assert math.sqrt(beyond) > own or (beyond == math.inf and own > 1e154)
    assert squared_radius(-1.0) < 0
    assert squared_radius(np.inf) == np.inf


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        ROWS.astype(np.float32),
        COPIES,
        np.concatenate([COPIES[:150], 2 * COPIES[:150]]),
        ZEROS,
        np.ones((30, 5)),
        np.eye(20)[0] + 1e-4 * ROWS,
        ROWS[:, :3],
        ROWS[:40, :3],
        (ROWS * 9).astype(np.int64),
        np.repeat(ROWS, 3, axis=0).astype(np.float16),
        np.array([[2**62, 1], [2**62 + 1, 1], [2**62, 1]]),  # float64 holds but one of the two
        np.zeros((1, 1)),
    ],
    ids=lambda rows: f"{rows.dtype} {rows.shape}",
)
@pytest.mark.parametrize("collide", [False, True])
def test_duplicates_are_the_equal_rows(
    rows: NDArray[Any], collide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all hashes are equal."""
    if collide:
        rows = rows[:40]
        monkeypatch.setattr(duplicates, "_hashes", lambda rows: np.zeros(len(rows), np.uint64))
        monkeypatch.setattr(duplicates, "CHUNK", 100)
    sets = duplicate_sets(rows)
    equal = (rows[:, None] == rows).all(axis=2)
    assert (((sets[:, None] == sets) & (sets >= 0)) == equal)[~np.eye(len(rows), dtype=bool)].all()


def test_hashes_of_whole_numbers_differ() -> None:
    """Few digits are no reason for many comparisons."""
    rows = np.unique(RNG.integers(0, 17, (20_000, 8)), axis=0)
    assert len(np.unique(duplicates._hashes(rows))) == len(rows)
