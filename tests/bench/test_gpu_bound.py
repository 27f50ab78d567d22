"""The gate `bound` of bench/gpu before made-up matrix units: those of the model pass it, and others
that lose four times as much do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pdepth.backends import triton as backend

from helpers.device import DEVICE

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.bench.gpu import context, gates
from pdepth.kernels import filter, lists, prepare

pytestmark = pytest.mark.slow
TOGETHER = 16  # products of a step
SIMULATED = 4  # queries of a tile
MODEL, WORSE = 23, 21  # bits that are kept below the largest term's first


def cut_off(values: NDArray[np.float64], largest: Any, bits: int) -> NDArray[np.float64]:
    """Toward nought, to `bits` below the first of `largest`."""
    unit = 2.0 ** (np.frexp(np.maximum(np.abs(largest), 1e-300))[1] - 1 - bits)
    return np.asarray(np.trunc(values / unit) * unit)


def product(
    x: NDArray[np.float64], y: NDArray[np.float64], section: int, bits: int
) -> NDArray[np.float64]:
    """x (n, D) times y (m, D): each step's products and the sum so far are aligned and cut off."""
    total = np.zeros((len(x), len(y)), np.float32)
    for first in range(0, x.shape[1], section):
        sums = np.zeros((len(x), len(y)))
        for at in range(first, min(first + section, x.shape[1]), TOGETHER):
            step = slice(at, at + TOGETHER)
            terms = np.concatenate([x[:, None, step] * y[None, :, step], sums[:, :, None]], axis=2)
            largest = np.abs(terms).max(axis=2, keepdims=True)
            sums = cut_off(terms, largest, bits).sum(axis=2)
            sums = cut_off(sums, sums, bits)
        total += sums.astype(np.float32)
    return total.astype(np.float64)


def packed_plainly(rows: torch.Tensor, *, centred: bool) -> SimpleNamespace:
    """`support.pack` without its kernels, whose interpretation takes minutes here."""
    assert not centred
    everyone = torch.arange(len(rows), device=rows.device)
    centre = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    scale = prepare.scales(rows.abs().max().double()[None])
    packed, norm, _ = prepare.prepare_reference(rows, everyone, centre, scale)
    packed = torch.nn.functional.pad(packed, (0, -packed.shape[1] % 64))
    halves, norms = (norm.square() / 2).float()[None], (norm * (1 + 2.0**-20)).float()[None]
    known = SimpleNamespace(rows=packed.flatten(), half_norms=halves, norms=norms)
    return SimpleNamespace(packed=known)


def reading(bits: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, int]:
    """The gate's worst share of the bound, and whether it has failed, before such units."""

    def scan(
        queries: torch.Tensor, support: torch.Tensor, halves: torch.Tensor, into: lists.Lists,
        bundles: Any, table: torch.Tensor, tile: filter.Tile, *, first: int, rows: int,
    ) -> None:  # fmt: skip
        columns = int(table[0, 0]) * tile.columns
        x, y = (each.view(-1, columns).double().cpu().numpy() for each in (queries, support))
        sums = x @ y.T
        sums[:SIMULATED] = product(x[:SIMULATED], y, tile.section or tile.columns, bits)
        scores = halves[0].cpu() - torch.from_numpy(sums.astype(np.float32))
        ordered = scores.view(torch.int32)
        ordered = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
        keys = (ordered.long() << 32) | torch.arange(rows)
        into.keys[0, :, :rows] = keys.to(into.keys.device)

    monkeypatch.setattr(gates.filter, "scan", scan)
    monkeypatch.setattr(gates, "pack", packed_plainly)
    bench = context.Bench(DEVICE, True, lambda line: None)
    gates.bound(bench)
    return max(bench.results.values()), bench.differing


def test_the_model_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    worst, failed = reading(MODEL, monkeypatch)
    assert 0.5 < worst <= 1
    assert failed == 0


def test_units_that_lose_four_times_as_much_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    worst, failed = reading(WORSE, monkeypatch)
    assert worst > 1
    assert failed == 1
