"""What each layer gets before the filter: a centre, packed rows, equal rows left out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pdepth.backends import triton as backend

from helpers.cases import DTYPES, cast
from helpers.device import DEVICE, numbers, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)

from pdepth.kernels import bounds, duplicates, lists, measure, prepare, support
from pdepth.kernels.stack import Stack, fields

pytestmark = pytest.mark.usefixtures("poisoned")
PADDED, ASKED = 64, 32  # rows of the support and of the queries


@pytest.mark.parametrize("dtype", DTYPES)
def test_prepare_is_its_twin(dtype: str) -> None:
    """Rows of the support and queries, in one launch and in two."""
    rng = np.random.default_rng(6)
    widths, columns = (70, 9), (128, 64)
    layers = [on_device(cast(rng.standard_normal((40, width)) * 3, dtype)) for width in widths]
    asked = [on_device(cast(rng.standard_normal((25, width)) * 2, dtype)) for width in widths]
    order = torch.from_numpy(rng.permutation(40)[:33]).to(DEVICE)
    rows = torch.from_numpy(rng.integers(0, 25, 21)).to(DEVICE)
    packed, queries = _prepared(layers, asked, order, rows, columns, ("both",))
    apart = _prepared(layers, asked, order, rows, columns, ("support", "queries"))
    moved = measure.moves(layers[0].dtype)
    for i, wide in enumerate(widths):
        centre = packed.centres.split(widths)[i] if moved else torch.zeros(wide, device=DEVICE)
        scale = prepare.scales(packed.bound[:, bounds.SPAN.value])[i]
        begin = PADDED * sum(columns[:i])
        held = packed.rows[begin : begin + PADDED * columns[i]].view(PADDED, -1)
        begin = PADDED * sum(columns) + ASKED * sum(columns[:i])
        held_queries = packed.rows[begin : begin + ASKED * columns[i]].view(ASKED, -1)
        known = (packed.norms[i], None)
        _check(held, known, prepare.prepare_reference(layers[i], order, centre, scale))
        known = (queries.lists.norms[i], queries.lists.residuals[i])
        norms = _check(
            held_queries, known, prepare.prepare_reference(asked[i], rows, centre, scale)
        )
        assert norms.isfinite().all()
        _, norm, residual = prepare.prepare_reference(layers[i], order, centre, scale)
        assert ((packed.half_norms[i, :33] - norm**2 / 2).abs() <= 2.0**-23 * norm**2).all()
        assert (packed.half_norms[i, 33:] == math.inf).all()
        share = (residual / norm).where(residual > prepare.NEGLIGIBLE, 0.0).max()
        assert abs(float(packed.bound[i, bounds.RELATIVE.value]) - float(share)) <= 1e-6 * share
        assert packed.bound[i, bounds.LARGEST.value] == packed.norms[i, :33].max()
        assert packed.bound[i, bounds.CENTRE.value] == -1
        assert packed.bound[i, bounds.SCALE.value] == scale
        assert packed.bound[i, 1:4].tolist() == [0.25, 0.5, 0.75]
    assert torch.equal(packed.rows, apart[0].rows)
    assert torch.equal(packed.bound, apart[0].bound)
    own = queries.lists
    assert (own.sizes == 0).all()
    assert (own.proven == math.inf).all()
    assert (own.cuts[:, :21] == math.inf).all()
    assert (own.cuts[:, 21:] == -math.inf).all()
    assert own.selves[0, :21].tolist() == [2 * at if at % 2 else -1 for at in range(21)]


def _check(
    packed: torch.Tensor, known: tuple[torch.Tensor, torch.Tensor | None], expected: Any
) -> torch.Tensor:
    """Packed rows against their twin's; returns the norms that are known of them."""
    rows, *twins = expected
    count, width = rows.shape
    assert torch.equal(packed[:count, :width], rows)
    assert not packed[count:].any()
    assert not packed[:, width:].any()
    for rounded, least in zip(known, twins, strict=True):
        if rounded is not None:
            assert (rounded[:count] >= least).all()
            assert (rounded[:count] <= least * (1 + 2.0**-18)).all()
    return known[0][:count]


def _prepared(
    layers: list[torch.Tensor],
    asked: list[torch.Tensor],
    order: torch.Tensor,
    rows: torch.Tensor,
    columns: tuple[int, ...],
    steps: tuple[str, ...],
    *,
    inner_products: bool = False,
) -> tuple[prepare.Packed, prepare.Queries]:
    """The support's rows and some queries, of which every other one is a row of the support."""
    widths = [each.shape[1] for each in layers]
    middles = support.begins_of(widths, 1)
    blocks = [wide // prepare.BLOCK for wide in columns]
    first = support.begins_of(columns, PADDED)
    then = support.begins_of(columns, ASKED, PADDED * sum(columns))
    places = torch.tensor(
        [*zip(blocks, first, middles, strict=True), *zip(blocks, then, middles, strict=True)],
        device=DEVICE,
    )
    table = torch.tensor(fields([*layers, *asked]), device=DEVICE)
    made = support.measured(Stack(layers, table), places, columns, PADDED, ASKED)
    at = torch.arange(len(rows), device=DEVICE)
    constants = torch.tensor([[0.25, 0.5, 0.75]] * len(layers), dtype=torch.float64, device=DEVICE)
    queries = prepare.Queries(
        rows, at.where(at % 2 == 1, -1), 2 * numbers(40), made.packed.rows,
        lists.Lists.unset(len(layers), ASKED, 512, DEVICE), constants.view(torch.int64),
    )  # fmt: skip
    for what in steps:
        source = layers if what == "support" else asked
        prepare.prepare(
            Stack(source, table), places, order, made.packed, queries, what,
            inner_products=inner_products,
        )  # fmt: skip
    return made.packed, queries


def test_centres_of_inner_products() -> None:
    """A row's product with its centre, and the centre's norm, of which nothing may be lost."""
    rng = np.random.default_rng(8)
    layers = [on_device(rng.standard_normal((40, width)) + 5) for width in (70, 9)]
    packed, _ = _prepared(
        layers, layers, numbers(40), numbers(9), (128, 64), ("both",), inner_products=True
    )
    scales = prepare.scales(packed.bound[:, bounds.SPAN.value])
    for i, centre in enumerate(packed.centres.split((70, 9))):
        rows = (layers[i] - centre) * scales[i]
        products = -(rows * centre * scales[i]).sum(dim=1)
        norm = float((centre * scales[i]).norm())
        assert torch.allclose(packed.half_norms[i, :40].double(), products, rtol=1e-6, atol=1e-3)
        assert norm < packed.bound[i, bounds.CENTRE.value] <= norm * (1 + 2.0**-19)


@pytest.mark.parametrize("largest", [0.0, 2.0**-399, 1.0, 1.5, 2.0**15, 2.0**399])
def test_scales_bring_values_into_range(largest: float) -> None:
    """The kernel's scale is its twin's, and rows twice as far as the largest value are held."""
    rows = torch.tensor([[largest, 0.0], [-largest, 0.0]], dtype=torch.float64, device=DEVICE)
    packed, queries = _prepared([rows], [rows], numbers(2), numbers(2), (64,), ("both",))
    scale = float(prepare.scales(packed.bound[:, bounds.SPAN.value]))
    assert math.frexp(scale)[0] == 0.5
    assert largest == 0 or 2.0**13 <= largest * scale < 2.0**14
    expected = ((rows - packed.centres) * scale).half()
    assert torch.equal(packed.rows[:128].view(2, 64)[:, :2], expected)
    assert (queries.lists.cuts[0, :2] == math.inf).all()


@pytest.mark.parametrize("largest", [2.0**-401, 2.0**401])
def test_layers_without_a_scale_are_given_up(largest: float) -> None:
    rows = torch.tensor([[largest, 0.0], [-largest, 0.0]], dtype=torch.float64, device=DEVICE)
    packed, queries = _prepared([rows], [rows], numbers(2), numbers(2), (64,), ("both",))
    assert prepare.scales(packed.bound[:, bounds.SPAN.value]).isnan().all()
    assert (packed.norms == math.inf).all()
    assert (packed.half_norms == math.inf).all()
    assert packed.bound[0, bounds.LARGEST.value] == math.inf
    assert (queries.lists.cuts == -math.inf).all()


def test_queries_that_float16_cannot_hold_are_given_up() -> None:
    """Far larger than the support's rows."""
    rows = torch.tensor([[1.0, 2.0], [0.5, 1.0]], device=DEVICE)
    asked = torch.tensor([[1.0, 2.0], [1e9, 1.0]], device=DEVICE)
    _, queries = _prepared([rows], [asked], numbers(2), numbers(2), (64,), ("both",))
    assert queries.lists.norms[0, 0] < 2.0**16
    assert queries.lists.norms[0, 1] == math.inf
    assert queries.lists.cuts[0, :2].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [90, 300])
def test_centres_are_their_twin(dtype: str, count: int) -> None:
    """Of ordinary rows in the sample."""
    rng = np.random.default_rng(20)
    layers = [on_device(cast(rng.uniform(1, 99, (count, width)), dtype)) for width in (70, 3, 129)]
    sample = (numbers(count) * measure.GOLDEN.value % 2**32) * count >> 32
    for rows in layers[:2]:
        rows[sample[:9]] *= 0
        if dtype not in ("uint8", "int8"):
            rows[sample[10]] = 30_000
    centres = _measured(layers)[1]
    for rows, own in zip(layers, centres.split((70, 3, 129)), strict=True):
        assert torch.allclose(own, measure.centre_reference(rows), rtol=1e-12)
        assert own.max() < (300 if dtype not in ("uint8", "int8") else 1000)


def _measured(layers: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bounds, centres and hashes of layers."""
    widths = [rows.shape[1] for rows in layers]
    bound = torch.zeros((len(layers), bounds.LENGTH), dtype=torch.float64, device=DEVICE)
    hashes = torch.empty((len(layers), len(layers[0])), dtype=torch.int64, device=DEVICE)
    places = [[0, 0, begin] for begin in support.begins_of(widths, 1)]
    centres = torch.empty(sum(widths), dtype=torch.float64, device=DEVICE)
    measure.measure(Stack(layers), bound, hashes, torch.tensor(places, device=DEVICE), centres)
    return bound, centres, hashes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_rows_and_the_largest_value_are_their_twins(dtype: str) -> None:
    rng = np.random.default_rng(9)
    layers = [
        on_device(cast(rng.integers(0, 2, (90, width)).astype(float), dtype)) for width in (4, 3)
    ]
    layers[1][7] = -100 if layers[1].dtype.is_signed else 200
    bound, _, hashes = _measured(layers)
    largest = bound[:, bounds.SPAN.value]
    assert largest.tolist() == [each.double().abs().max() for each in layers]
    earlier = duplicates.earlier(Stack(layers), hashes)
    for own, each in zip(earlier, layers, strict=True):
        assert torch.equal(own, duplicates.earlier_reference(each))
        assert own.any()


def test_packed_layers_are_the_same_alone_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their places reach from one array into the others."""
    monkeypatch.setattr(lists, "WHOLE", 0)  # with equal rows
    rng = np.random.default_rng(4)
    parts = [
        support.pack(on_device(rng.integers(0, 2, (60, width)).astype("f4"))) for width in (5, 70)
    ]
    both = support.together(parts)
    assert both.columns == (64, 128)
    assert both.begins[0] == 0
    address = both.packed.rows.data_ptr() + 2 * both.begins[1]
    assert address == parts[1].packed.rows.data_ptr()
    for name in ("half_norms", "norms", "bound", "centres"):
        own = [getattr(part.packed, name) for part in parts]
        assert torch.equal(getattr(both.packed, name), torch.cat(own))
    assert both.earlier is not None
    assert both.earlier[0].max() > both.earlier[1].max()
    both.packed.bound.zero_()
    assert parts[0].packed.bound.any()
    assert replace(both, earlier=None).surplus(3) is None
