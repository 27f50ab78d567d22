"""Filter stages of 8-bit integers: a twin in NumPy has the same scores, to the bit."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pdepth import _native, native

from helpers.adversaries import scaled, score_pair, signs
from helpers.cases import first_difference

LEVELS = [
    name
    for name, runs in native.simd_levels().items()
    if runs and "int8" in [stage["name"] for stage in _native.filter_stages(name)]
]
SATURATES = ("portable", "avx2", "avx512")  # sums of two products are of 16 bits
ROUNDS_TWICE = ("portable", "bf16")  # a product and its subtraction
TILES = ("bf16", "amx")
BLOCK, TOGETHER, CHUNK = 1024, 64, 32
MOST = {"query": 156.0, "support": 210.0}  # norm of the columns of a chunk that meet in one sum
Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


def byte_stage(level: str) -> dict[str, Any]:
    return next(stage for stage in _native.filter_stages(level) if stage["name"] == "int8")


def blocks(width: int, packed: int) -> list[NDArray[np.int64]]:
    """Which column each packed one is, block by block; width: none."""
    whole, found, begin = width // BLOCK, [], 0
    while begin < packed:
        size = BLOCK
        while size > packed - begin:
            size //= 2
        columns = np.arange(begin, begin + size)
        if begin < whole * BLOCK:
            pieces = begin // BLOCK * TOGETHER + np.arange(0, whole * BLOCK, whole * TOGETHER)
            columns = (pieces[:, None] + np.arange(TOGETHER)).ravel()
        found.append(np.minimum(columns, width))
        begin += size
    return found


def turned(rows: NDArray[Any], packed: int) -> Floats:
    """Signs, and a Hadamard matrix in float32, a stage at a time."""
    padded = np.concatenate([rows, np.zeros((len(rows), 1))], axis=1)
    parts = []
    for columns in blocks(rows.shape[1], packed):
        size = len(columns)
        values = (padded[:, columns] * (1 / np.sqrt(size))).astype(np.float32)
        values *= signs(size).astype(np.float32)
        half = 1
        while half < size:
            pairs = values.reshape(len(rows), -1, 2, half)
            a, b = pairs[:, :, 0], pairs[:, :, 1]
            values = np.stack([a + b, a - b], axis=2).reshape(len(rows), size)
            half *= 2
        parts.append(values)
    return np.concatenate(parts, axis=1)


def turned_back(values: NDArray[Any], width: int) -> NDArray[Any]:
    """Rows that are turned into these values, or nearly."""
    rows, begin = np.zeros((len(values), width + 1)), 0
    for columns in blocks(width, values.shape[1]):
        size = len(columns)
        part, half = values[:, begin : begin + size], 1
        begin += size
        while half < size:
            pairs = part.reshape(len(values), -1, 2, half)
            part = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
            part, half = part.reshape(len(values), size), 2 * half
        rows[:, columns] = part / np.sqrt(size) * signs(size)
    return rows[:, :width]


def units(level: str, values: Floats, norms: NDArray[Any], side: str) -> Floats:
    """One for each row: none of its elements is beyond a byte, no sum beyond its bits."""
    sizes = np.abs(values)
    if level in SATURATES and side == "query":
        sizes = sizes[:, ::2] + sizes[:, 1::2]
    unit = sizes.max(axis=1).astype(float) / 127
    if level in SATURATES:
        squares = np.zeros((len(values), values.shape[1] // CHUNK, 8), np.float32)
        for part in (values * values).reshape(len(values), -1, 4, 8).transpose(2, 0, 1, 3):
            squares += part
        pairs = squares[..., ::2] + squares[..., 1::2]
        meeting = pairs[..., :2] + pairs[..., 2:]
        norm = np.sqrt(meeting.max(axis=(1, 2)).astype(float))
        unit = np.maximum(unit, norm / (MOST[side] - 2.01))
    if level in TILES:
        unit = np.maximum(unit, norms / (46340 - 1 - 0.5 * np.sqrt(values.shape[1])))
    rounded = (unit * (1 + 2.0**-20)).astype(np.float32) + np.float32(2.0**-126)
    return np.where(norms < 2.0**-40, np.float32(0), rounded)


def packed_rows(level: str, rows: NDArray[Any], side: str) -> tuple[Whole, Floats, NDArray[Any]]:
    """Whole numbers, (N, packed), the units that they are times of, and the rows' norms."""
    step = byte_stage(level)["step"]
    values = turned(rows, -(-rows.shape[1] // step) * step)
    norms = np.sqrt((rows * rows).sum(axis=1))
    unit = units(level, values, norms, side)
    with np.errstate(divide="ignore"):
        inverse = np.where(unit == 0, np.float32(0), np.float32(1) / unit)
    return np.rint(values * inverse[:, None]).astype(np.int64), unit, norms


def nearest_float32(value: Fraction) -> np.float32:
    """Of a tie the even one: float64 holds the tie as it is."""
    near = np.float32(float(value))
    around = [np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf)]
    distances = [abs(Fraction(float(each)) - value) for each in (near, *around)]
    return (near, *around)[distances.index(min(distances))]


def twin(level: str, support: NDArray[Any], queries: NDArray[Any]) -> Floats:
    """Scores, (N, M): integers summed exactly a section at a time, then float32."""
    y, y_units, y_norms = packed_rows(level, support, "support")
    x, x_units, _ = packed_rows(level, queries, "query")
    most, columns = byte_stage(level)["section"], y.shape[1]
    section = -(-columns // -(-columns // most))
    section = -(-section // CHUNK) * CHUNK
    sums = np.zeros((len(x), len(y)), np.float32)
    for begin in range(0, columns, section):
        part = x[:, begin : begin + section] @ y[:, begin : begin + section].T
        assert np.abs(part).max() < 2**31
        sums = part.astype(np.float32) + sums
    both = y_units * x_units[:, None]
    half = (0.5 * y_norms * y_norms).astype(np.float32)
    if level in ROUNDS_TWICE:
        return half - both * sums
    scores = np.empty_like(sums)
    for i, j in np.ndindex(scores.shape):
        product = Fraction(float(both[i, j])) * Fraction(float(sums[i, j]))
        scores[i, j] = nearest_float32(Fraction(float(half[j])) - product)
    return scores


def whole_rows(rng: np.random.Generator, width: int) -> NDArray[Any]:
    """Whole numbers, whose squares have an exact sum: ordinary rows, and such as test the units."""
    rows = rng.integers(-1000, 1001, (9, width)).astype(float)
    rows[1] = 0
    rows[2] = 0
    rows[2, rng.integers(width)] = 4000  # all of it in one element, before it is turned
    rows[3] = 7
    rows[4] = np.round(turned_back(np.full((1, -(-width // 64) * 64), 30.0), width)[0])
    return rows


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [5, 64, 97, 700, 1024, 1300, 2111, 3000])
def test_scores_are_those_of_the_twin(level: str, width: int) -> None:
    rng = np.random.default_rng(width)
    support, queries = whole_rows(rng, width), whole_rows(rng, width)
    support = np.concatenate([support, queries[:4], -queries[:4]])
    scored = _native.filter_scores((support, "float64"), (queries, "float64"), level, "int8")
    assert first_difference(scored["scores"], twin(level, support, queries)) is None


@pytest.mark.slow_if(width=[1 << 18], level=[name for name in LEVELS if name != "amx"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [2048, 1 << 18])
def test_the_fullest_sums(level: str, width: int) -> None:
    """Every byte as large as may be, all products of one sign: of many columns beyond 32 bits,
    had the units not grown."""
    row = turned_back(np.random.default_rng(0).choice([-1.0, 1.0], (1, width)), width)[0]
    support = np.stack([row, -row, row[::-1]])
    scored = score_pair(level, "int8", scaled((support, support)))
    assert (scored["lower"] <= scored["true"]).all()
    assert (scored["true"] <= scored["upper"]).all()
    whole, _, _ = packed_rows(level, support, "support")
    assert (np.abs(whole[:2]) >= (50 if level in SATURATES else 90)).all()
    if level in TILES and width == 1 << 18:
        assert 0.98 * 2**31 < (whole[0] ** 2).sum() < 2**31 < 127**2 * width
