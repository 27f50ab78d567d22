"""pdepth.compat.shared.radius against the definition: within a radius, the nearest, all distances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pdepth import definition
from pdepth.compat.shared import radius
from pdepth.compat.shared.radius import Space, square_within

from helpers.cases import KINDS, cast


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_as_the_definition(
    kind: Callable[..., Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Radii are distances that occur, so that a rounding in the wrong direction is seen."""
    monkeypatch.setattr(radius, "AT_ONCE", 1000)
    rng = np.random.default_rng(KINDS.index(kind))
    for width in (1, 7, 40):
        values = cast(kind(rng, 130, width), dtype)
        support, queries = values[:120], values[110:]  # ten of them are rows
        space = Space(support, 2)
        own, asked = definition.as_rows(support), definition.as_rows(queries)
        with np.errstate(over="ignore"):
            every = np.stack([definition.squared_distances(own, query) for query in asked])
            assert (space.squared(queries) == every).all()
            for k in (1, 5, 120):
                squared, rows = definition.kneighbors(support, queries, k=k)
                found = space.nearest(queries, k)
                assert (found[0] == squared).all()
                assert (found[1] == rows).all()
            for limit in (0, *rng.choice(every.ravel(), 4), -1, np.inf):
                found = list(space.within(queries, float(limit)))
                assert len(found) == len(queries)
                for near, squared in zip(found, every, strict=True):
                    assert (near == np.flatnonzero(squared <= limit)).all()


def test_squares_within_a_radius() -> None:
    """The greatest square whose root is within, and the next one's is not."""
    rng = np.random.default_rng(0)
    radii = [0.0, 1.0, 1e-170, 1e-160, 1e150, 1e200, 5e-324]
    for own in (*radii, *rng.random(200), *10.0 ** rng.uniform(-150, 150, 200)):
        square = square_within(float(own))
        beyond = math.nextafter(square, math.inf)
        assert math.sqrt(square) <= own
        assert math.sqrt(beyond) > own or (beyond == math.inf and own > 1e154)
    assert square_within(-1.0) < 0
    assert square_within(np.inf) == np.inf
