"""Filter stages that a layer may begin with: each gives the definition's votes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import _native, definition
from pdepth.backends import cpu

from helpers.cases import first_difference


def rows(seed: int, count: int, width: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("width", [5, 40])
def test_a_layer_may_begin_with_any_stage(
    level: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    support, queries = rows(0, 300, width), rows(1, 40, width)
    labels = np.random.default_rng(2).integers(0, 4, 300)
    for metric in ("sqeuclidean", "inner_product"):
        expected = definition.kneighbors(support, queries, k=7, metric=metric)
        votes = definition.probe_votes(support, labels, queries, k=7, metric=metric).votes
        for stage in _native.filter_stages(level):
            monkeypatch.setattr(cpu, "FIRST_STAGE", stage["name"])
            found = pdepth.kneighbors(support, queries, k=7, metric=metric)
            assert first_difference(found[1], expected[1]) is None
            assert first_difference(found[0], expected[0]) is None
            voted = pdepth.probe_votes(support, labels, queries, k=7, metric=metric)
            assert first_difference(voted.votes, votes) is None


def test_a_stage_that_the_level_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "FIRST_STAGE", "float8")
    with pytest.raises(ValueError, match="stage: expected a filter stage"):
        pdepth.kneighbors(rows(0, 20, 13), k=3)
