"""Cosine of rows of any norm; callers whose thread flushes subnormal numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import _native, definition, native
from pdepth.arrays.problem import _on_device
from pdepth.arrays.rows import Rows, rows_of
from pdepth.compat import faiss
from pdepth.compat.shared.radius import DistanceIndex
from pdepth.result import margins

from helpers.cases import DTYPES, KINDS, cast, first_difference
from helpers.sources import Slices, force
from helpers.torch_or_skip import torch

SCALES = (-1060, -1022, -700, -540, -1, 0, 3, 500, 700, 1000)


def formula_before(rows: Any) -> Any:
    """Unit rows without a power of two first, as they were in 0.1."""
    with np.errstate(all="ignore"):
        return rows / np.sqrt(definition.total(rows * rows))[:, None]


def unit_rows(rows: Any, threads: int = 2) -> tuple[Any, int]:
    """Rows divided by the norms that compiled code finds, and the first row of zeros or -1."""
    plain = rows_of(rows, "rows")
    norms = np.full((len(plain), 2), np.nan)
    bad = _native.find_norms(plain.array, plain.type, norms, native.simd_level(), threads)
    with np.errstate(invalid="ignore"):
        return Rows(plain.array, plain.type, norms).widened(), bad


# ---- norms ----


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_rows_keep_their_bits(kind: Callable[..., Any]) -> None:
    compared = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows = kind(rng, 40, int(rng.integers(1, 300)))
        size = np.abs(rows)
        least = np.where(size == 0, np.inf, size).min(axis=1)
        ordinary = (size.max(axis=1) < 2.0**490) & (least > 2.0**-490) & (least < np.inf)
        if not ordinary.any():
            continue
        compared += int(ordinary.sum())
        expected = formula_before(rows[ordinary])
        assert first_difference(definition.as_rows(rows[ordinary], "cosine"), expected) is None
    if kind.__name__ not in ("subnormal", "constant"):
        assert compared > 100


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_compiled_rows_are_those_of_the_definition(dtype: str, threads: int) -> None:
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng(number)
        values = kind(rng, 70, int(rng.integers(1, 300)))
        rows = cast(values * 2.0 ** float(rng.integers(-30, 30)), dtype)
        wide = rows_of(rows, "rows").widened()
        nonzero = wide.any(axis=1)
        units, bad = unit_rows(rows, threads)
        assert bad == (-1 if nonzero.all() else int((~nonzero).argmax()))
        if not nonzero.any():
            continue
        expected = definition.as_rows(wide[nonzero], "cosine")
        assert first_difference(units[nonzero], expected) is None


@pytest.mark.parametrize("scale", SCALES)
def test_a_power_of_two_changes_no_bit(scale: int) -> None:
    """Whole numbers, so that the smallest are exact as subnormal numbers too."""
    rng = np.random.default_rng(0)
    rows = rng.integers(-4000, 4000, (60, 33)).astype(np.float64)
    labels = rng.integers(0, 4, 60)
    expected = formula_before(rows)
    scaled = np.ldexp(rows, scale)
    assert first_difference(definition.as_rows(scaled, "cosine"), expected) is None
    assert first_difference(unit_rows(scaled)[0], expected) is None
    on_device, bad = _on_device(Rows(torch.from_numpy(scaled), "float64"))
    assert bad == -1
    assert first_difference(on_device, expected) is None
    votes = pdepth.probe_votes(scaled, labels, k=7, metric="cosine")
    assert first_difference(votes.votes, pdepth.probe_votes(expected, labels, k=7).votes) is None


@pytest.mark.parametrize("factor", [1e-300, 1e-200, 1e-162, 1e-150, 1e150, 1e200, 1e300])
def test_norms_near_the_ends_of_float64(factor: float) -> None:
    """The same angles as the rows times 2^700 or so, which float64 holds."""
    rng = np.random.default_rng(1)
    rows, labels = rng.standard_normal((90, 21)), rng.integers(0, 4, 90)
    small = rows * factor * 10.0 ** rng.uniform(-5, 5, (90, 1))
    middle = np.ldexp(small, -int(np.log2(factor)))
    for metric_rows in (small, Slices(small)):
        distances, near = pdepth.kneighbors(metric_rows, k=9, metric="cosine")
        expected = definition.kneighbors(formula_before(middle), k=9)
        assert first_difference(near, expected[1]) is None
        assert first_difference(distances, expected[0]) is None
    table = definition.probe_votes(small, labels, k=9, metric="cosine", weights="exp")
    votes = pdepth.probe_votes(
        small, labels, k=9, metric="cosine", weights="exp", return_counts=True
    )
    assert first_difference(votes.counts, table.counts) is None


def test_elements_far_apart_in_one_row() -> None:
    rows = np.array([[1e300, 1e-300, 5e-324], [5e-324, 0, -5e-324], [1.7e308, -1.7e308, 1e308]])
    units, bad = unit_rows(rows)
    assert bad == -1
    expected = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, -1.0] / np.sqrt(2)])
    assert first_difference(units[:2], expected) is None
    assert first_difference(definition.as_rows(rows, "cosine"), units) is None
    assert abs((units[2] ** 2).sum() - 1) < 1e-15


def test_only_a_row_of_zeros_has_no_norm() -> None:
    rows = np.full((9, 4), 5e-324)
    pdepth.kneighbors(rows, k=3, metric="cosine")
    rows[7] = -0.0
    sentence = r"got row 7, whose norm is zero\."
    for form in (rows, Slices(rows)):
        with pytest.raises(ValueError, match=sentence):
            pdepth.kneighbors(form, k=3, metric="cosine")


# ---- what a thread has set ----


@pytest.fixture
def flushing() -> Iterator[None]:
    """A thread that flushes subnormal numbers, as it does before and after."""
    torch.set_flush_denormal(True)
    try:
        assert flushes()
        yield
        assert flushes(), "the caller's setting is lost"
    finally:
        torch.set_flush_denormal(False)


def equal(found: Any, expected: Any) -> None:
    """To the bit, which a thread that flushes cannot tell."""
    with native.default_arithmetic():
        assert first_difference(found, expected) is None


def flushes() -> bool:
    return bool((np.array([1e-310]) * np.array([0.5]) == 0).all())


TINY = np.random.default_rng(2).standard_normal((150, 20)) * 1e-160  # squares are subnormal
CLASSES = np.random.default_rng(3).integers(0, 3, 150)
with np.errstate(all="ignore"):
    TABLES = {
        weights: definition.probe_votes(TINY, CLASSES, k=7, weights=weights, temperature=1e-320)
        for weights in ("uniform", "distance", "exp")
    }
NEIGHBORS = definition.kneighbors(TINY, k=7)
ANGLES = definition.kneighbors(TINY, k=7, metric="cosine")
TO_FIRST = definition.squared_distances(TINY, TINY[0])


def table_of(weights: str, backend: str, support: Any) -> Any:
    temperature = 1e-320 if weights == "exp" else None
    return pdepth.probe_votes(
        support, CLASSES, k=7, weights=weights, temperature=temperature, backend=backend,
        return_counts=True,
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("weights", ["uniform", "distance", "exp"])
@pytest.mark.usefixtures("flushing")
def test_counts_of_a_thread_that_flushes(
    weights: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = TABLES[weights]
    for chunk in (None, 40):
        if chunk is not None:
            force(monkeypatch, chunk, 50)
        votes = table_of(weights, backend, TINY if chunk is None else Slices(TINY))
        for name in ("votes", "tied", "counts"):
            equal(getattr(votes, name), getattr(expected, name))
        with native.default_arithmetic():
            top = np.sort(expected.counts, axis=1)
            margins = top[:, -1] - top[:, -2]
        equal(votes.margins, margins)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.usefixtures("flushing")
def test_neighbours_of_a_thread_that_flushes(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms: list[Any] = [TINY, Slices(TINY)]
    for metric, expected in (("sqeuclidean", NEIGHBORS), ("cosine", ANGLES)):
        for form in forms:
            distances, rows = pdepth.kneighbors(form, k=7, metric=metric, backend=backend)
            equal(rows, expected[1])
            equal(distances, expected[0])
    force(monkeypatch, 40, 50)  # merged in Python
    distances, rows = pdepth.kneighbors(Slices(TINY), k=7, backend=backend)
    equal(rows, NEIGHBORS[1])
    equal(distances, NEIGHBORS[0])


@pytest.mark.usefixtures("flushing")
def test_float32_rows_that_are_subnormal() -> None:
    with native.default_arithmetic():
        rows = (TINY * 1e120).astype(np.float32)  # of about 1e-40
        expected = definition.kneighbors(rows, k=7)
        assert len(np.unique(expected[0])) > 100
    for backend in ("cpu", "reference"):
        distances, near = pdepth.kneighbors(rows, k=7, backend=backend)
        equal(near, expected[1])
        equal(distances, expected[0])


@pytest.mark.usefixtures("flushing")
def test_adapters_of_a_thread_that_flushes() -> None:
    products, rows = pdepth.kneighbors(TINY, TINY, k=5, metric="inner_product")
    with native.default_arithmetic():
        expected = pdepth.kneighbors(TINY, TINY, k=5, metric="inner_product")
    equal(rows, expected[1])
    equal(products, expected[0])
    with native.default_arithmetic():
        single = (TINY * 1e139).astype(np.float32)  # squares of about 1e-42
    found = faiss.knn(single, single, 5)
    with native.default_arithmetic():
        wanted = faiss.knn(single, single, 5)
    equal(found[1], wanted[1])
    equal(found[0], wanted[0])
    radius = DistanceIndex(TINY, 2)
    with native.default_arithmetic():
        nearest = definition.nearest(TO_FIRST, 5)
        limit = float(TO_FIRST[nearest[-1]])
    (inside,) = radius.radius_neighbors(TINY[:1], limit)
    equal(inside, np.sort(nearest))


@pytest.mark.usefixtures("flushing")
def test_margins_that_are_subnormal() -> None:
    counts = np.frombuffer(np.array([900, 700, 0, 5, 5, 2], np.int64).tobytes()).reshape(2, 3)
    assert margins(counts).tobytes() == np.array([200, 0], np.int64).tobytes()


def test_sklearn_of_a_thread_that_flushes() -> None:
    neighbors = pytest.importorskip("pdepth.compat.sklearn").NearestNeighbors
    search = neighbors(n_neighbors=5, algorithm="brute").fit(TINY)
    expected = search.kneighbors()
    torch.set_flush_denormal(True)
    try:
        distances, rows = search.kneighbors()
    finally:
        torch.set_flush_denormal(False)
    equal(rows, expected[1])
    equal(distances, expected[0])
    equal(distances, np.sqrt(NEIGHBORS[0][:, :5]))


def test_another_thread_keeps_its_own_setting() -> None:
    torch.set_flush_denormal(True)
    seen = []
    try:
        with native.default_arithmetic():
            assert not flushes()
            other = threading.Thread(target=lambda: seen.append(flushes()))
            other.start()
            other.join()
        assert flushes()
        with pytest.raises(KeyError), native.default_arithmetic():
            raise KeyError
        assert flushes()
    finally:
        torch.set_flush_denormal(False)
    assert seen == [False]  # a new thread begins as its parent is
    assert not flushes()


def test_an_environment_that_is_none() -> None:
    with pytest.raises(ValueError, match="environment: expected what this returned"):
        _native.arithmetic(b"1")
