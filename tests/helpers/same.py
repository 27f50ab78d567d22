"""Results that have to be the same, whoever computed them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdepth.io.map_file import KeptMap
from pdepth.io.neighbor_file import KeptNeighbors
from pdepth.result import DepthResult, Votes


def same_votes(got: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for k in expected:
            same_votes(got[k], expected[k])
        return
    assert isinstance(got, Votes)
    for name in ("votes", "classes", "tied", "counts", "distances", "rows"):
        of_one, of_many = getattr(expected, name), getattr(got, name)
        assert (of_one is None) == (of_many is None), name
        if of_one is not None:
            np.testing.assert_array_equal(np.asarray(of_many), np.asarray(of_one), strict=True)


def same_depths(got: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for k in expected:
            same_depths(got[k], expected[k])
        return
    assert isinstance(got, DepthResult)
    for name in ("depth", "undefined", "votes", "known", "predictions", "tied", "margins"):
        of_one, of_many = getattr(expected, name), getattr(got, name)
        assert (of_one is None) == (of_many is None), name
        if of_one is not None:
            np.testing.assert_array_equal(of_many, of_one, strict=True)
    same_neighbors(got.neighbors, expected.neighbors)
    same_map(got.map, expected.map)
    assert (got.probes, got.widths, got.meta) == (expected.probes, expected.widths, expected.meta)


def same_neighbors(got: KeptNeighbors | None, expected: KeptNeighbors | None) -> None:
    if got is None or expected is None:
        assert got is expected
        return
    for name in ("distances", "rows", "ranked", "counts", "classes", "codes", "row_numbers"):
        of_one, of_many = getattr(expected, name), getattr(got, name)
        assert (of_one is None) == (of_many is None), name
        if of_one is not None:
            np.testing.assert_array_equal(np.asarray(of_many), np.asarray(of_one), strict=True)
    assert (got.k, got.probes, got.metric) == (expected.k, expected.probes, expected.metric)


def same_map(got: KeptMap | None, expected: KeptMap | None) -> None:
    if got is None or expected is None:
        assert got is expected
        return
    for name in ("queries", "explained", "units", "support", "support_labels", "support_rows"):
        of_one, of_many = getattr(expected, name), getattr(got, name)
        assert (of_one is None) == (of_many is None), name
        if of_one is not None:
            np.testing.assert_array_equal(np.asarray(of_many), np.asarray(of_one), strict=True)
    assert (got.method, got.probes) == (expected.method, expected.probes)
