"""The ids of a result's neighbours, which `write_depth` puts into sample fields."""

from __future__ import annotations

import numpy as np
import pytest

import pdepth
from pdepth.compat.shared.neighbor_ids import neighbor_ids

RNG = np.random.default_rng(0)
SUPPORT = [RNG.standard_normal((40, 3)) for _ in range(2)]
LABELS = np.arange(40) % 4
IDS = [f"id {row}" for row in range(40)]


def test_ids_are_those_of_the_nearest_rows() -> None:
    found = pdepth.depth_from_embeddings(SUPPORT, LABELS, LABELS, k=5, return_neighbors=3)
    _, rows = pdepth.kneighbors(SUPPORT[1], k=3)
    assert neighbor_ids(found, IDS) == [[IDS[row] for row in nearest] for nearest in rows]
    of_first = neighbor_ids(found, IDS, "probe 0")
    _, rows = pdepth.kneighbors(SUPPORT[0], k=3)
    assert found.neighbors is not None
    for example, ids in enumerate(of_first):
        searched = found.neighbors.searched[0, example]
        assert ids == ([IDS[row] for row in rows[example]] if searched else [])
    assert not found.neighbors.searched[0].all()


def test_what_is_wrong_is_said() -> None:
    without = pdepth.depth_from_embeddings(SUPPORT, LABELS, LABELS, k=5)
    with pytest.raises(ValueError, match="neighbors: expected .* pass return_neighbors=8"):
        neighbor_ids(without, IDS)
    found = pdepth.depth_from_embeddings(SUPPORT, LABELS, LABELS, k=5, return_neighbors=3)
    with pytest.raises(ValueError, match="probe: expected one of probe 0, probe 1, got 'x'"):
        neighbor_ids(found, IDS, "x")
    with pytest.raises(ValueError, match="support_ids: expected 40, one for each row"):
        neighbor_ids(found, IDS[1:])
