"""Every way from a module's value to a row's vector, beside plain NumPy.

Values are small integers, whose sums have no rounding in any order: equality, and no tolerance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import pdepth
from pdepth.embeddings.batch import Inputs
from pdepth.embeddings.calling import Caller
from pdepth.embeddings.placement import Probe
from pdepth.embeddings.pooling import (
    Mask,
    Positions,
    RecurrentRun,
    averaged,
    grid_for,
    masks_of,
    pooled,
)

from helpers.networks import inspected

B = 5
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
MAPS = Probe("p", "p")
TOKENS = replace(MAPS, tokens=True)


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator).to(dtype)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()


def rounded(expected: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Float64 means as a network of this precision has them, by way of float32 for 16 bits."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.from_numpy(np.ascontiguousarray(expected)).to(wide).to(dtype)


def some(rows: int, count: int) -> Tensor:
    """Which positions count (B, T): some of each row, on no side in particular."""
    valid = torch.rand(rows, count, generator=torch.Generator().manual_seed(1)) < 0.6
    valid[:, 1] = True
    return valid


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (4, 5, 3), (2, 7, 1), (3, 2, 5, 3)])
def test_feature_maps(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """(B, C), (B, C, T), (B, C, H, W), (B, C, H, W, Z)."""
    value = values(B, *shape, dtype=dtype)
    assert torch.equal(pooled(MAPS, value, B), value)
    if len(shape) > 1:
        flat = array(value).reshape(B, shape[0], -1)
        mean = pooled(replace(MAPS, pool="mean"), value, B)
        assert torch.equal(mean, rounded(flat.mean(axis=2), dtype))
        largest = pooled(replace(MAPS, pool="max"), value, B)
        assert torch.equal(largest, rounded(flat.max(axis=2), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 3), (3, 5, 4), (1, 6), (9, 1)])
def test_tokens(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """(B, T, D), and of a grid (B, H, W, D)."""
    value = values(B, *shape, dtype=dtype)
    flat = array(value).reshape(B, -1, shape[-1])
    expected = {
        "token": flat[:, 0], "last": flat[:, -1], "mean": flat.mean(axis=1),
        "max": flat.max(axis=1), "flatten": array(value),
    }  # fmt: skip
    for pool, vectors in expected.items():
        got = pooled(replace(TOKENS, pool=pool), value, B)
        assert got.dtype == dtype
        assert torch.equal(got, rounded(vectors, dtype)), pool


@pytest.mark.parametrize("positions", [(0, None), (1, None), (2, 5), (0, 2), (3, 4)])
def test_parts_of_tokens(positions: tuple[int, int | None]) -> None:
    value = values(B, 6, 3)
    part = array(value)[:, slice(*positions)]
    for pool, vectors in (("mean", part.mean(axis=1)), ("max", part.max(axis=1))):
        probe = replace(TOKENS, pool=pool, positions=positions)
        assert torch.equal(pooled(probe, value, B), rounded(vectors, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_left_out(dtype: torch.dtype) -> None:
    value, valid = values(B, 7, 3, dtype=dtype), some(B, 7)
    value[~valid] = torch.nan  # nothing of it may get through, not even times 0
    rows = [array(tokens[kept]) for tokens, kept in zip(value, valid, strict=True)]
    expected = {
        "mean": np.stack([row.mean(axis=0) for row in rows]),
        "max": np.stack([row.max(axis=0) for row in rows]),
        "last": np.stack([row[-1] for row in rows]),
    }
    for pool, vectors in expected.items():
        got = pooled(replace(TOKENS, pool=pool), value, B, Positions(valid))
        assert torch.equal(got, rounded(vectors, dtype)), pool
    clean = values(B, 7, 3, dtype=dtype)
    whole = replace(TOKENS, pool="mean", masked=False)
    assert torch.equal(
        pooled(whole, clean, B, Positions(valid)), rounded(array(clean).mean(axis=1), dtype)
    )


def test_a_mask_of_other_positions_is_of_another_value() -> None:
    value = values(B, 7, 3)
    got = pooled(replace(TOKENS, pool="mean"), value, B, Positions(some(B, 6)))
    assert torch.equal(got, rounded(array(value).mean(axis=1), torch.float32))


def test_rows_of_the_second_axis_and_of_nested_values() -> None:
    value = values(7, B, 3)
    probe = replace(TOKENS, pool="mean", axis=1)
    expected = rounded(array(value).mean(axis=0), torch.float32)
    assert torch.equal(pooled(probe, value, B), expected)
    assert torch.equal(pooled(probe, {"hidden": (value, values(2, 2))}, B), expected)
    both = replace(MAPS, parts=(0, 1))
    one, two = values(B, 3, 2), values(B, 4, seed=1)
    assert torch.equal(pooled(both, (one, two), B), torch.cat([one.flatten(1), two], dim=1))


def test_sums_of_16_bits_do_not_overflow() -> None:
    value = torch.full((2, 700, 3), 300.0, dtype=torch.float16)  # a sum of 210,000
    for probe, tensor in ((TOKENS, value), (MAPS, value.movedim(1, 2))):
        got = pooled(replace(probe, pool="mean"), tensor, 2)
        assert torch.equal(got, torch.full((2, 3), 300.0, dtype=torch.float16))
    valid = torch.ones(2, 700, dtype=torch.bool)
    got = pooled(replace(TOKENS, pool="mean"), value, 2, Positions(valid))
    assert torch.equal(got, torch.full((2, 3), 300.0, dtype=torch.float16))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [True, False])
def test_last_states(kind: Any, both: bool, packed: bool) -> None:
    torch.manual_seed(0)
    network = kind(3, 4, 2, batch_first=True, bidirectional=both).eval()
    x, lengths = torch.randn(B, 6, 3), torch.tensor([3, 6, 1, 4, 2])
    if not packed:
        lengths[:] = 6
    sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
    with torch.no_grad():
        value = network(sequence if packed else x)
    run = RecurrentRun(network, (sequence if packed else x,), value)
    steps = nn.utils.rnn.pad_packed_sequence(value[0], True)[0] if packed else value[0]
    last = steps[torch.arange(B), lengths - 1]
    if both:  # the second direction ends at the first step
        last = torch.cat([last[:, :4], steps[:, 0, 4:]], dim=1)
    assert torch.equal(pooled(replace(MAPS, layer=1), run, B), last)
    states = value[1][0] if kind is nn.LSTM else value[1]
    first = torch.cat([states[0], states[1]], dim=1) if both else states[0]
    assert torch.equal(pooled(replace(MAPS, layer=0), run, B), first)


def test_nodes_of_graphs() -> None:
    value, graph = values(9, 3), torch.tensor([0, 2, 1, 0, 2, 2, 1, 0, 2])
    parts = [array(value[graph == number]) for number in range(3)]
    expected = {"mean": [p.mean(axis=0) for p in parts], "max": [p.max(axis=0) for p in parts]}
    for pool, vectors in expected.items():
        probe = replace(MAPS, pool=pool, nodes=True)
        got = pooled(probe, value, 3, Positions(graph=graph))
        assert torch.equal(got, rounded(np.stack(vectors), torch.float32))


def bins(size: int, grid: int) -> list[slice]:
    """Of adaptive averaging: from floor(i n / g) to before ceil((i + 1) n / g)."""
    return [slice(i * size // grid, -(-(i + 1) * size // grid)) for i in range(grid)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 7, 5), (1, 5, 2), (3, 9), (2, 4, 5, 3)])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_grids_average_equal_parts(shape: tuple[int, ...], grid: int, dtype: torch.dtype) -> None:
    value = 16 * values(B, *shape, dtype=dtype)
    sides = min(grid, *shape[1:])
    got = averaged(value, grid, tokens=False)
    assert got.dtype == dtype
    assert got.shape == (B, shape[0], *[sides] * (len(shape) - 1))
    for place in np.ndindex(*got.shape[2:]):
        parts = [bins(n, sides)[p] for n, p in zip(shape[1:], place, strict=True)]
        block = array(value[(slice(None), slice(None), *parts)]).reshape(B, shape[0], -1)
        expected = rounded(block.mean(axis=2), torch.float64)
        actual = got[(slice(None), slice(None), *place)].double()
        # Torch may average side by side, each time with its own rounding.
        assert torch.allclose(actual, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("shape", [(12, 3), (7, 2), (3, 4, 5)])
@pytest.mark.parametrize("runs", [1, 3, 5, 40])
def test_tokens_are_averaged_to_equal_runs(shape: tuple[int, ...], runs: int) -> None:
    value = values(B, *shape)
    flat = array(value).reshape(B, -1, shape[-1])
    count = min(runs, flat.shape[1])
    expected = np.stack([flat[:, part].mean(axis=1) for part in bins(flat.shape[1], count)], axis=1)
    got = averaged(value, runs, tokens=True)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, rounded(expected, torch.float32), rtol=1e-6, atol=1e-6)


def test_averages_of_integers_are_no_integers() -> None:
    image = torch.tensor([[[[0, 1], [1, 1]]]], dtype=torch.uint8)
    assert averaged(image, 1, tokens=False).item() == 0.75
    assert pooled(replace(MAPS, pool="mean"), image, 1).item() == 0.75


sizes = st.integers(1, 40)


@given(
    shape=st.one_of(
        st.tuples(sizes), st.tuples(sizes, sizes), st.tuples(sizes, sizes, sizes),
        st.tuples(sizes, sizes, sizes, sizes),
    ),
    max_width=st.integers(1, 5000),
    tokens=st.booleans(),
)  # fmt: skip
def test_no_grid_is_wider_and_none_could_be_larger(
    shape: tuple[int, ...], max_width: int, tokens: bool
) -> None:
    tokens = tokens and len(shape) > 1
    grid, width = grid_for(shape, max_width, tokens), int(np.prod(shape))
    if len(shape) == 1:
        assert grid is None
        return
    assert (grid is None) == (width <= max_width)
    if grid is None:
        return
    channels, sides = (shape[-1], 1) if tokens else (shape[0], len(shape) - 1)
    assert grid == 1 or channels * grid**sides <= max_width
    assert channels * (grid + 1) ** sides > max_width


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean(dim=(2, 3)))


IMAGES = TensorDataset(torch.randn(20, 3, 9, 9), torch.arange(20) % 5)


def test_max_width_reaches_every_probe_but_the_softmax() -> None:
    for width in (300, 100, 64, 36, 5):
        layout = inspected(Small(), IMAGES.tensors[0][:2], max_width=width)
        assert layout.names == ("input", "act", "softmax")
        side = {300: None, 100: 5, 64: 4, 36: 3, 5: 1}[width]
        assert layout.shapes[0] == (
            (3, 9, 9) if width >= 243 else (3, *[int((width // 3) ** 0.5)] * 2)
        )
        assert layout.shapes[1] == ((4, 7, 7) if side is None else (4, side, side))
        assert layout.shapes[-1] == (5,)
        assert any("max_width" in note for note in layout.notes) == (side is not None)


def depth(pool: Any = "auto", model: nn.Module | None = None, **options: Any) -> Any:
    return pdepth.prediction_depth(
        model or Small(), IMAGES, k=3, pool=pool, progress=False, **options
    )


def test_a_callable_pools() -> None:
    shapes: list[tuple[int, ...]] = []

    def corner(value: Tensor) -> Tensor:
        shapes.append(tuple(value.shape[1:]))
        assert not value.requires_grad
        return value[:, :2, :3, 0]

    result = depth({"act": corner})
    assert set(shapes) == {(4, 7, 7)}
    assert result.widths == (3 * 81, 6, 5)


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        (lambda value: value[:1], r"shape \(1, 4, 7, 7\)"),
        (lambda value: value.mean(), r"shape \(\)"),
        (lambda value: value.numpy(), "ndarray"),
        (lambda value: None, "NoneType"),
    ],
)
def test_a_callable_of_other_rows_is_refused(pool: Any, kind: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"pool: expected a callable that returns one row for each of 2 at .*, got {kind}",
    ):
        depth({"act": pool})


@pytest.mark.parametrize("pool", ["token", "last"])
def test_feature_maps_have_no_tokens(pool: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"pool: expected 'flatten', 'mean', 'max' or a callable for the feature maps of "
        rf"probe 'act', \(4, 7, 7\) a row, got '{pool}'",
    ):
        depth(pool)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"pool": "median"}, ValueError, "pool: expected one of auto, flatten, .*, got 'median'"),
        ({"pool": {"act": 3}}, ValueError, "pool: expected one of .* or a callable, got 3"),
        ({"layers": {"act": "median"}}, ValueError, "pool: expected one of .*, got 'median'"),
        ({"max_width": 0}, ValueError, "max_width: expected an integer >= 1, got 0"),
        ({"max_width": 1.5}, TypeError, "max_width: expected an integer, got 1.5"),
    ],
)
def test_wrong_options_in_one_sentence(options: Any, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        depth(**options)


class Masked(nn.Module):
    def forward(self, x: Tensor, attention_mask: Any = None, lengths: Any = None) -> Tensor:
        return x


def test_what_says_which_positions_count() -> None:
    caller, x = Caller(Masked()), torch.zeros(3, 4, 2)
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])

    def read(mask: Mask, **named: Tensor) -> Tensor | None:
        return mask.read(caller, Inputs((x,), named, 3))

    positive = read(Mask("attention_mask", "valid"), attention_mask=valid)
    assert torch.equal(positive, valid == 1)
    negative = read(Mask("attention_mask", "padding"), attention_mask=valid == 0)
    assert torch.equal(negative, valid == 1)
    of_lengths = read(Mask("lengths", "lengths"), lengths=torch.tensor([4, 0, 2]))
    assert of_lengths.tolist() == [[True] * 4, [False] * 4, [True, True, False, False]]
    ids = torch.tensor([[5, 6, 0], [7, 0, 0]])
    by_id = Mask("x", "ids", 0).read(caller, Inputs((ids,), {}, 2))
    assert by_id.tolist() == [[True, True, False], [True, False, False]]
    assert read(Mask("attention_mask", "valid")) is None
    assert read(Mask("attention_mask", "valid"), attention_mask=valid.unsqueeze(1)) is None


def test_names_of_masks_say_how_they_are_read() -> None:
    caller = Caller(Masked())

    def marks(**named: Tensor) -> list[tuple[str, str]]:
        inputs = Inputs((torch.zeros(2, 4, 2),), named, 2)
        return [(mask.name, mask.marks) for mask in masks_of(caller, inputs)]

    ones = torch.ones(2, 4, dtype=torch.long)
    assert marks(attention_mask=ones)[0] == ("attention_mask", "valid")
    assert marks(src_key_padding_mask=ones == 0)[0] == ("src_key_padding_mask", "padding")
    assert marks(lengths=torch.tensor([4, 2])) == [("lengths", "lengths")]
    assert marks() == []
