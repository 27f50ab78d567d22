"""The GPU engine. Without a GPU its kernels are interpreted: the same code, one program at a time,
at sizes that this allows; and compiled for two architectures, to be looked at."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pdepth
from pdepth import certify, definition
from pdepth.arrays import arguments
from pdepth.arrays.rows import Rows, rows_of
from pdepth.backends import transfer
from pdepth.backends import triton as backend

from helpers.cases import DTYPES, activations, assert_exact, case, cast, first_difference, oracle_of

if (reason := backend.available()) is not None:
    pytest.skip(f"no GPU engine here: {reason}", allow_module_level=True)

from pdepth.kernels import (
    centre,
    compact,
    complete,
    differences,
    duplicates,
    exact,
    filter,
    groups,
    lists,
    prepare,
    search,
    settle,
)
from pdepth.kernels.stack import Stack

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BLOCKS = 13


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory holds no numbers: what is read before it is written shows."""
    empty = torch.empty

    def spoiled(*arguments: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*arguments, **options)
        if tensor.dtype.is_floating_point:
            return tensor.fill_(math.nan)
        return tensor.fill_(1 if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max // 3)

    monkeypatch.setattr(torch, "empty", spoiled)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_fuzz(block: int, request: pytest.FixtureRequest) -> None:
    """Every kind of layer, against the definition."""
    share = -(-request.config.getoption("--triton-votes") // BLOCKS)
    compared, number = 0, block
    while compared < share:
        problem = case(number, small=True)
        compared += assert_exact(problem, oracle_of(problem), backend="triton")
        number += BLOCKS


@pytest.mark.parametrize("programs", [1, 1 << 20])
def test_layers_of_every_width_together(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call over all tiles of the filter, and several layers of each; or one tile for all."""
    monkeypatch.setattr(filter, "programs", lambda device: programs)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    widths = (5, 17, 100, 200, 257, 60)
    support = [activations(rng, 300, width).astype("f4") for width in widths]
    rows = rng.integers(0, 300, 2)
    found = pdepth.probe_votes(support, labels, query_rows=rows, k=12, backend="triton")
    for layer, votes, tied in zip(support, found.votes, found.tied, strict=True):
        wanted = definition.probe_votes(layer, labels, query_rows=rows, k=12)
        assert first_difference(votes, wanted.votes) is None
        assert first_difference(tied, wanted.tied) is None


def test_queries_that_come_in_parts() -> None:
    """More than one tile's, with room for the lists of one: of layers that settle apart."""
    rng = np.random.default_rng(22)
    labels = rng.integers(0, 4, 90)
    layers = [_rows(activations(rng, 90, width).astype("f4")) for width in (20, 200)]
    rows, device = _numbers(90).repeat(2)[:130], {"device": DEVICE}
    votes = torch.empty((2, 130), dtype=torch.int32, **device)
    tied = torch.empty((2, 130), dtype=torch.bool, **device)
    codes = torch.from_numpy(labels.astype("i4")).to(DEVICE)
    made = search.Search(layers, layers, rows, rows, codes, 5, scratch=0)
    made.answer([search.Answer(votes=v, tied=t) for v, t in zip(votes, tied, strict=True)])
    for layer, own, ties in zip(layers, votes.cpu(), tied.cpu(), strict=True):
        wanted = definition.probe_votes(layer.cpu(), labels, k=5)
        assert first_difference(own, np.tile(wanted.votes, 2)[:130]) is None
        assert first_difference(ties, np.tile(wanted.tied, 2)[:130]) is None


def test_many_stretches_and_lists_that_carry_over() -> None:
    rng = np.random.default_rng(3)
    support = rng.standard_normal((4500, 40)).astype("f4")
    support[rng.integers(0, 4500, 5), 7] *= 1e4
    queries = np.concatenate([support[:1], rng.standard_normal((1, 40))]).astype("f4")
    labels = rng.integers(0, 10, 4500)
    assert len(search.stretches(4500)) == 4
    found = pdepth.probe_votes(support, labels, queries, backend="triton")
    wanted = definition.probe_votes(support, labels, queries)
    assert first_difference(found.votes, wanted.votes) is None


def test_ties_without_end_reach_the_complete_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly one-hot rows, more equally far ones than a list holds, none equal to another."""
    rng = np.random.default_rng(7)
    labels = np.tile(np.arange(60), 12)
    rows = np.eye(60)[labels] + 1e-9 * rng.standard_normal((720, 60))
    asked = []
    nearest = complete.nearest
    monkeypatch.setattr(
        complete, "nearest", lambda *given: asked.append(len(given[1])) or nearest(*given)
    )
    labels = rng.integers(0, 10, 720)
    found = pdepth.probe_votes(rows, labels, np.eye(60)[:2], backend="triton")
    assert (
        first_difference(found.votes, definition.probe_votes(rows, labels, np.eye(60)[:2]).votes)
        is None
    )
    assert asked


@pytest.mark.parametrize("own", [True, False])
def test_supports_beyond_the_memory_come_in_chunks(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(8)
    values = rng.integers(-2, 3, (120, 12)).astype("f4")  # ties across chunks
    labels = rng.integers(0, 5, 120)
    monkeypatch.setattr(backend._Call, "budget", 40_000)
    chunks: list[int] = []
    take = transfer.Transfer.take

    def seen(self: transfer.Transfer, rows: Any) -> torch.Tensor:
        chunks.append(len(rows))
        return take(self, rows)

    monkeypatch.setattr(transfer.Transfer, "take", seen)
    asked = {"query_rows": np.array([0, 60, 119])} if own else {"queries": values[:3] + 0.5}
    found = pdepth.probe_votes(values, labels, **asked, k=9, backend="triton")
    wanted = definition.probe_votes(values, labels, **asked, k=9)
    assert first_difference(found.votes, wanted.votes) is None
    assert first_difference(found.tied, wanted.tied) is None
    assert len(chunks) > 3


def test_a_device_with_less_memory_than_it_said_gives_the_same_votes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time it has no more, the rest is done in half the room, at last in chunks."""
    rng = np.random.default_rng(13)
    values = [rng.integers(-2, 3, (400, width)).astype("f4") for width in (9, 300, 12)]
    labels, asked = rng.integers(0, 5, 400), np.array([0, 200, 399])
    whole = search.Search
    rooms: list[tuple[int, int]] = []

    def most(supports: Any, *rest: Any) -> Any:
        rooms.append((len(supports), len(supports[0])))
        if sum(each.numel() for each in supports) > 60_000:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(supports, *rest)

    monkeypatch.setattr(search, "Search", most)
    monkeypatch.setattr(backend, "_free", lambda device: 60_000_000)
    monkeypatch.setattr(backend._Call, "budget", property(lambda call: call.room // 30))
    found = pdepth.probe_votes(values, labels, query_rows=asked, k=9, backend="triton")
    for layer, votes in zip(values, found.votes, strict=True):
        wanted = definition.probe_votes(layer, labels, query_rows=asked, k=9).votes
        assert first_difference(votes, wanted) is None
    assert max(rooms)[0] == 3  # all layers at first
    assert min(rows for _, rows in rooms) < 400  # and pieces of one in the end


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory."),
        (RuntimeError, "Triton Error [CUDA]: out of memory"),
    ],
)
def test_what_ran_out_is_let_go_of_before_the_next_try(
    error: type[RuntimeError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(17)
    values, labels = rng.standard_normal((90, 20)).astype("f4"), rng.integers(0, 5, 90)
    answer, shrink = search.Search.answer, backend._Call._shrink
    held: list[weakref.ref[Any]] = []
    left: list[Any] = []

    def once(self: search.Search, answers: Any) -> None:
        if not held:
            held.extend([weakref.ref(self), weakref.ref(self.layers[0].support)])
            raise error(words)
        answer(self, answers)

    def seen(call: backend._Call) -> None:
        left.extend(each() for each in held)
        shrink(call)

    monkeypatch.setattr(search.Search, "answer", once)
    monkeypatch.setattr(backend._Call, "_shrink", seen)
    asked = np.array([0, 89])
    found = pdepth.probe_votes(values, labels, query_rows=asked, k=9, backend="triton").votes
    wanted = definition.probe_votes(values, labels, query_rows=asked, k=9).votes
    assert first_difference(found, wanted) is None
    assert left == [None, None]


def test_other_errors_of_the_device_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(search.Search, "answer", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        pdepth.probe_votes(np.zeros((40, 3)), np.zeros(40, int), backend="triton")


def test_a_device_without_room_for_a_tile_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_free", lambda device: 1_000_000)
    with pytest.raises(
        MemoryError, match=r"room for 1\.0 MB, and one tile of probe 0 takes 1\d\.\d MB"
    ):
        pdepth.probe_votes(np.zeros((40, 3)), np.zeros(40, int), backend="triton")

    def never(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(backend, "_free", lambda device: 1 << 31)
    monkeypatch.setattr(search, "Search", never)
    with pytest.raises(MemoryError, match="one tile of probe 0 takes"):
        pdepth.probe_votes(np.zeros((40, 3)), np.zeros(40, int), backend="triton")


def test_rows_are_the_same_after_their_transfer() -> None:
    rng = np.random.default_rng(14)
    values = rng.integers(0, 99, (50, 6))
    copies = transfer.Transfer(DEVICE)
    every = [
        *(rows_of(values.astype(kind), kind) for kind in ("f8", "f4", "f2", "u1", "u2", "u4")),
        *(rows_of(values.astype(kind), kind) for kind in ("u8", "i1", "i2", "i4", "i8")),
        rows_of(torch.from_numpy(values).bfloat16(), "bfloat16"),
        rows_of(values.astype("f4")[::-2, 1:4], "backward"),
    ]
    for rows in every:
        copies.expect(rows)
    for rows in [*every[::2], *every[1::2]]:
        found = copies.take(rows)
        assert found.device.type == DEVICE.type
        assert (found.double().cpu().numpy() == rows.widened()).all()
    copies.expect(every[0])
    copies.close()


def test_rows_of_the_host_are_copied_in_inference_mode() -> None:
    rows = rows_of(np.eye(4), "rows")
    with torch.inference_mode():
        copies = transfer.Transfer(DEVICE)
        found = copies.take(rows)
        copies.close()
    assert torch.equal(found.cpu(), torch.eye(4, dtype=torch.float64))


def test_an_interrupted_copy_is_waited_for_before_its_memory_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go = threading.Event(), threading.Event()
    seen: list[str] = []

    def slow(*_: Any) -> None:
        begun.set()
        go.wait(5)
        seen.append("the thread is done")

    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "_copy", slow)
    copies = transfer.Transfer(DEVICE)
    stream = SimpleNamespace(synchronize=lambda: seen.append("the stream is done"))
    copies._lane = SimpleNamespace(stream=stream)  # type: ignore[assignment]
    rows = rows_of(np.eye(4), "rows")
    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copies.take(rows)
    target = weakref.ref(copies._coming[id(rows)][1])
    stream.synchronize = lambda: seen.append(f"the stream is done, {target() is not None}")
    begun.wait()
    threading.Timer(0.1, go.set).start()
    copies.close()
    assert seen == ["the thread is done", "the stream is done, True"]
    assert target() is None


def test_pinned_memory_is_the_hosts_whatever_the_default_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "empty", lambda size, **options: asked.append(options))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: None)
    transfer._Lane(torch.device("cuda"))
    assert [(each["device"], each["pin_memory"]) for each in asked] == 2 * [("cpu", True)]


def test_directions_have_the_bits_of_the_definition() -> None:
    rng = np.random.default_rng(16)
    for width in (1, 2, 5, 64, 129, 1001):
        for dtype in ("float32", "bfloat16", "float64", "uint8"):
            values = _rows(cast(rng.uniform(1, 90, (40, width)), dtype))
            found = arguments._normalised(Rows(values, dtype), range(40), "rows")
            assert found.type == "float64"
            assert (found.array.cpu().numpy() == definition.as_rows(values, "cosine")).all()
    with pytest.raises(ValueError, match="rows has no direction in row 2: its norm is zero"):
        arguments._normalised(Rows(torch.eye(4, device=DEVICE)[:, :2], "float32"), range(4), "rows")


def test_compact_is_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "BLOCK", 64)
    rng = np.random.default_rng(15)
    for asked in (1, 63, 64, 200):
        found, wanted = (_rows(rng.integers(-1, 2, asked).astype("i4")) for _ in range(2))
        who = _rows(np.sort(rng.permutation(300)[:asked]))
        votes = [torch.full((300,), 7, dtype=torch.int32, device=DEVICE) for _ in range(2)]
        left = compact.compact(found, wanted, who, votes[0])
        assert torch.equal(left, compact.compact_reference(found, wanted, who, votes[1]))
        assert torch.equal(*votes)


def test_exact_ways_agree_with_one_another() -> None:
    rng = np.random.default_rng(5)
    for width in (1, 2, 127, 128, 129, 1000, 1025, 2049, 20011):
        for dtype in ("float32", "bfloat16", "float16", "float64", "uint8", "int64"):
            if width > 2000 and dtype != "float32":
                continue
            x, y = (_rows(cast(30 * rng.standard_normal((n, width)), dtype)) for n in (1, 3))
            found = complete.distances(
                x, _numbers(1), y, torch.zeros(3, dtype=torch.bool, device=DEVICE),
                torch.full((1,), -1, device=DEVICE), 0, 3,
            )  # fmt: skip
            assert torch.equal(found, complete.distances_reference(x, y))
            wanted = [definition.squared_distances(_wide(y), query) for query in _wide(x)]
            assert first_difference(found.cpu(), np.stack(wanted)) is None, (width, dtype)


def test_a_fold_takes_each_term_once() -> None:
    for width in (1, 2, 5, 129, 1025, 65536, 70001):
        by = exact.fold(width, DEVICE)
        offsets, limits = by.leaves.cpu().numpy()
        taken = np.concatenate(
            [np.arange(at, at + size) for at, size in zip(offsets, limits, strict=True)]
        )
        assert np.array_equal(np.sort(taken), np.arange(width))


def test_prepare_is_its_twin() -> None:
    rng = np.random.default_rng(6)
    widths, columns = (70, 9), (128, 64)
    for dtype in DTYPES:
        layers = [_rows(cast(rng.standard_normal((40, width)) * 3, dtype)) for width in widths]
        order = torch.from_numpy(rng.permutation(40)[:33]).to(DEVICE)
        centres = [rows.double().mean(dim=0) for rows in layers]
        scales = torch.tensor([2.0**9, 2.0**8], dtype=torch.float64, device=DEVICE)
        packed, *known = _prepared(layers, order, torch.cat(centres), scales, columns, 64)
        for i, wide in enumerate(widths):
            wanted, norm, residual = prepare.prepare_reference(
                layers[i], order, centres[i], scales[i]
            )
            half_norms, norms, residuals = (each[i] for each in known)
            assert torch.equal(packed[i][:33, :wide], wanted)
            assert not packed[i][33:].any()
            assert not packed[i][:, wide:].any()
            for found, least in ((norms, norm), (residuals, residual)):
                assert (found[:33] >= least).all()
                assert (found[:33] <= least * (1 + 2.0**-18)).all()
            assert ((half_norms[:33] - norm**2 / 2).abs() <= 2.0**-23 * norm**2).all()
            assert (half_norms[33:] == math.inf).all()


def _prepared(
    layers: list[torch.Tensor],
    order: torch.Tensor,
    centres: torch.Tensor,
    scales: torch.Tensor,
    columns: tuple[int, ...],
    padded: int,
) -> list[Any]:
    """Packed rows of each layer; half norms, norms and residuals of all."""
    packed = torch.empty(padded * sum(columns), dtype=torch.float16, device=DEVICE)
    known = torch.empty((3, len(layers), padded), dtype=torch.float32, device=DEVICE)
    widths = [rows.shape[1] for rows in layers]
    places = [
        [columns[i] // prepare.BLOCK, padded * sum(columns[:i]), sum(widths[:i])]
        for i in range(len(layers))
    ]
    prepare.prepare(
        Stack(layers), order, torch.tensor(places, device=DEVICE), centres, scales, packed, *known
    )
    parts = packed.split([padded * each for each in columns])
    return [[part.view(padded, -1) for part in parts], *known]


def test_what_float16_cannot_hold_has_an_infinite_norm() -> None:
    rows = torch.tensor([[1.0, 2.0], [1e9, 1.0]], device=DEVICE)
    nothing = torch.zeros(2, dtype=torch.float64, device=DEVICE)
    one = torch.ones(1, dtype=torch.float64, device=DEVICE)
    norms = _prepared([rows], _numbers(2), nothing, one, (64,), 16)[2]
    assert norms[0, 0] < 3
    assert norms[0, 1] == math.inf


def test_centres_are_their_twin() -> None:
    """Of ordinary rows in the sample; nought where rows need no rounding as they are."""
    rng = np.random.default_rng(20)
    order = torch.from_numpy(rng.permutation(1100)).to(DEVICE)
    for dtype in DTYPES:
        layers = [cast(rng.uniform(1, 99, (1100, width)), dtype) for width in (70, 3, 129)]
        stack = Stack([_rows(each) for each in layers])
        for rows in stack.layers[:2]:
            rows[order[:9]] *= 0
            if dtype not in ("uint8", "int8"):
                rows[order[10]] = 30_000
        found = centre.centres(stack, order, torch.tensor([0, 70, 73], device=DEVICE))
        for rows, own in zip(stack.layers, found.split(stack.widths), strict=True):
            wanted = centre.centre_reference(rows[order[: centre.SAMPLE]])
            if rows.dtype.itemsize == 1 or dtype in ("float16", "bfloat16"):
                assert not own.any()
            else:
                assert torch.allclose(own, wanted, rtol=1e-12)


def test_surplus_and_largest_are_their_twins() -> None:
    rng = np.random.default_rng(9)
    for dtype in DTYPES:
        layers = [
            _rows(cast(rng.integers(0, 2, (90, width)).astype(float), dtype)) for width in (4, 3)
        ]
        layers[1][7] = -100 if layers[1].dtype.is_signed else 200
        for keep in (1, 3, 50):
            found, largest = duplicates.surplus(Stack(layers), keep)
            assert largest.tolist() == [each.double().abs().max() for each in layers]
            for own, each in zip(found, layers, strict=True):
                assert torch.equal(own, duplicates.surplus_reference(each, keep))
                assert own.any() == (keep < 50)


def test_more_layers_take_no_more_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a width has too little work to fill the device by itself; but settlement has one for
    each of three shapes, and layers up to 16 wide have their own."""
    launched: list[str] = []
    _watch(monkeypatch, lambda kernel, given: launched.append(kernel.__name__))
    rng = np.random.default_rng(21)
    labels, asked = rng.integers(0, 3, 300), np.array([0, 299])
    widths = (90, 40, 300, 10)
    layers = [rng.standard_normal((300, width)).astype("f4") for width in widths]
    counts = []
    for some in (layers[:2], layers):
        launched.clear()
        found = pdepth.probe_votes(some, labels, query_rows=asked, k=7, backend="triton")
        counts.append(len(launched))
    assert counts == [13, 19]
    for layer, votes in zip(layers, found.votes, strict=True):
        wanted = definition.probe_votes(layer, labels, query_rows=asked, k=7).votes
        assert first_difference(votes, wanted) is None


@pytest.mark.parametrize(
    ("width", "wide"),
    [
        (20, False),
        (20, True),
        (64, False),
        (100, False),
        (250, False),
        (250, True),
        (1100, True),
        (2500, True),
    ],
)
def test_scores_are_within_the_bound_of_their_twin(width: int, wide: bool) -> None:
    """With a cut that nothing misses, the lists hold every score."""
    rng = np.random.default_rng(width)
    tile = filter.WIDE if wide else filter.tile_for(width, DEVICE)
    sums = filter.sums_of(tile)
    queries, support = (
        _packed(rng.standard_normal((n, width)) * 50, sums.columns(width)) for n in (128, 256)
    )
    halves = (support.double() ** 2).sum(dim=1) / 2
    found = lists.Lists(1, 128, 512, DEVICE)
    table = torch.tensor([[sums.columns(width) // tile.columns, 0, 0]], device=DEVICE)
    filter.scan(
        queries.flatten(), support.flatten(), halves.float()[None], found,
        groups.Groups(found, tile.group), table, tile, first=128, rows=128,
    )  # fmt: skip
    assert (found.sizes == 128).all()
    keys = found.keys[0, :, :128].sort(dim=1).values
    assert torch.equal(
        keys.bitwise_and(2**31 - 1).sort(dim=1).values[0].cpu(), _numbers(256)[128:].cpu()
    )
    wanted = filter.scan_reference(queries, support[128:], halves[128:].float())
    bound = certify.Products(sums, width, 0.0, prepare.NEGLIGIBLE)
    for i in range(128):
        place = (keys[i] & (2**31 - 1)) - 128
        off = (lists.scores_of(keys[i]) - wanted[i, place]).abs().cpu().numpy()
        norms = support[128:].double().norm(dim=1)[place].cpu().numpy()
        norm = np.float64(queries[i].double().norm().item())
        assert (off <= bound.error(norm, np.float64(0), norms)).all()


@pytest.mark.parametrize("width", [20, 300])
@pytest.mark.parametrize("size", [4, 8, 16])
def test_by_groups_the_same_rows_join_a_list_as_one_by_one(width: int, size: int) -> None:
    """From nothing to more than there is room for, of rows and of groups; twice, so that lists
    carry over."""
    rng = np.random.default_rng(size)
    tile = dataclasses.replace(filter.tile_for(width, DEVICE), group=size)
    columns = filter.sums_of(tile).columns(width)
    queries, support = (_packed(rng.standard_normal((n, width)), columns) for n in (128, 1024))
    halves = (support.float() ** 2).sum(dim=1) / 2
    scores = filter.scan_reference(queries, support, halves).cpu()
    cuts = rng.permutation(np.quantile(scores, np.linspace(0, 1, 128) ** 4))
    halves[rng.integers(0, 1024, 30)] = math.inf  # as of equal rows, which never vote
    table = torch.tensor([[columns // tile.columns, 0, 0]], device=DEVICE)
    room = 32  # fewer than the groups of the second stretch
    found = [lists.Lists(1, 128, room, DEVICE) for _ in range(2)]
    for own, by in zip(found, (groups.Groups(found[0], size), None), strict=True):
        own.cuts[0] = torch.from_numpy(cuts.astype("f4")).to(DEVICE)
        own.cuts[0, 5] = -math.inf
        shape = tile if by else dataclasses.replace(tile, group=1)
        for first, rows in ((0, 256), (256, 768)):
            filter.scan(
                queries.flatten(), support.flatten(), halves[None], own, by, table, shape,
                first=first, rows=rows,
            )  # fmt: skip
    by_groups, singly = found
    sizes = singly.sizes[0].clamp(max=room + 1)
    assert torch.equal(by_groups.sizes[0].clamp(max=room + 1), sizes)
    assert sizes[5] == 0
    assert (sizes > room).any()
    assert len(sizes.unique()) > 10
    for query in (sizes <= room).nonzero()[:, 0].tolist():
        keys = [own.keys[0, query, : sizes[query]].sort().values for own in found]
        assert torch.equal(*keys)


def test_a_list_that_lost_a_group_counts_as_overflowed() -> None:
    """Even where the groups that found a place fill it to the last row, and no more."""
    room = 16
    found = lists.Lists(1, 2, room, DEVICE)
    found.cuts[:] = 0.0
    by = groups.Groups(found, 8)
    by.firsts[:] = 100 * _numbers(room)
    by.members[:] = 1.0
    by.members[..., 3] = -1.0  # one row of each group passes
    by.counts[0] = torch.tensor([room, room + 1], device=DEVICE)
    by.unpack(found, 5)
    assert found.sizes[0].tolist() == [room, room + 1]
    assert (found.keys[0, 0] & (2**31 - 1)).tolist() == [100 * i + 15 for i in range(room)]
    assert not by.counts.any()


def test_differences_are_their_twin() -> None:
    rng = np.random.default_rng(10)
    queries, support = (_rows(rng.standard_normal((n, 23))) for n in (5, 100))
    order = torch.from_numpy(rng.permutation(100)).to(DEVICE)
    left_out = torch.zeros(100, dtype=torch.bool, device=DEVICE)
    left_out[17] = True
    scale = torch.tensor([4.0], dtype=torch.float64, device=DEVICE)
    found = lists.Lists(1, 32, 512, DEVICE)
    found.cuts[:, 5:] = -math.inf
    differences.scan(
        queries, _numbers(5), support, order, left_out, scale, found, first=0, rows=100
    )
    assert found.sizes[0].tolist() == [99] * 5 + [0] * 27
    wanted = differences.scan_reference(queries, support, 4.0).float()
    for i in range(5):
        key = found.keys[0, i, :99]
        rows = order[key & (2**31 - 1)]
        assert 17 not in rows.tolist()
        scores = (key >> 32).to(torch.int32).view(torch.float32)
        assert ((scores - wanted[i, rows]).abs() <= 2.0**-23 * wanted[i, rows]).all()


def test_a_list_is_tightened_as_its_twin_says() -> None:
    rng = np.random.default_rng(11)
    norms = torch.from_numpy(rng.uniform(1, 9, (1, 400)).astype("f4")).to(DEVICE)
    scores = torch.from_numpy(rng.standard_normal((1, 3, 300)).astype("f4")).to(DEVICE)
    sums = filter.sums_of(filter.WIDE)
    bound = certify.Products(sums, 700, 3e-4, prepare.NEGLIGIBLE)
    largest = float(norms.max())
    vector = bounds_of(bound, largest)
    found = lists.Lists(1, 3, 512, DEVICE)
    found.keys[:, :, :300] = keys_of(scores)
    found.sizes[:] = torch.tensor([300, 20, 600], device=DEVICE)
    found.selves[0, 0] = scores[0, 0].argmin()
    queries = torch.tensor([[2.0, 3.0, 4.0]], device=DEVICE)
    residuals = torch.tensor([[2e-4, 0.0, 0.0]], device=DEVICE)
    found.tighten(30, queries, residuals, norms, vector, differences=False)
    kept = np.delete(np.arange(300), int(scores[0, 0].argmin()))
    cut = lists.tighten_reference(
        scores[0, 0, kept].cpu(), norms[0, kept].cpu(), bound, 2.0, float(residuals[0, 0]),
        largest, 30,
    )  # fmt: skip
    assert cut < float(found.cuts[0, 0]) <= np.nextafter(np.float32(cut), np.float32(9))
    stays = kept[(scores[0, 0, kept] < found.cuts[0, 0]).cpu().numpy()]
    assert 30 <= len(stays) < 60
    size = int(found.sizes[0, 0])
    assert sorted((found.keys[0, 0, :size] & (2**31 - 1)).tolist()) == stays.tolist()
    assert float(found.cuts[0, 1]) == math.inf  # fewer than k prove nothing
    assert int(found.sizes[0, 1]) == 20
    assert found.given_up()[0].tolist() == [False, False, True]


def bounds_of(bound: certify.Products, largest: float) -> torch.Tensor:
    from pdepth.kernels import bounds

    vector = bounds.of_products(bound)
    vector[bounds.LARGEST.value] = largest
    return vector[None].to(DEVICE)


def keys_of(scores: torch.Tensor) -> torch.Tensor:
    bits = scores.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | torch.arange(scores.shape[-1], device=scores.device)


def test_distances_that_are_not_asked_for_are_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 30 neighbours 29 are certain; two rows are equally far."""
    if not backend.interpreted():
        pytest.skip("nobody can count inside a kernel")
    calls = []
    whole = settle.squared_distances
    monkeypatch.setattr(
        settle, "squared_distances", lambda *given: calls.append(1) or whole(*given)
    )
    rows = np.zeros((40, 1040), dtype="f4")
    rows[np.arange(40), np.arange(40)] = 1 + 0.1 * np.arange(40)
    rows[30, 30] = rows[29, 29]
    labels = np.arange(40) % 2
    query = np.zeros((1, 1040), dtype="f4")
    found = pdepth.probe_votes(rows, labels, query, k=30, backend="triton")
    wanted = definition.probe_votes(rows, labels, query, k=30)
    assert first_difference(found.votes, wanted.votes) is None
    assert first_difference(found.tied, wanted.tied) is None
    assert len(calls) == 2


def test_no_kernel_is_compiled_for_an_address_that_the_next_layer_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of arrays that share memory, odd layers' parts begin anywhere: they are named to Triton."""
    odd: set[tuple[str, str]] = set()
    launched: set[str] = set()

    def seen(kernel: Any, given: tuple[Any, ...]) -> None:
        named = kernel.kwargs["do_not_specialize_on_alignment"] or ()
        launched.add(kernel.__name__)
        for name, value in zip(kernel.arg_names, given, strict=False):
            users = name in ("source", "queries", "support")
            if isinstance(value, torch.Tensor) and value.data_ptr() % 16 and not users:
                odd.update([(kernel.__name__, name)] if name not in named else [])

    _watch(monkeypatch, seen)
    rng = np.random.default_rng(19)
    layers = [rng.integers(-2, 3, (131, width)).astype("f4") for width in (9, 40, 20, 11)]
    labels, asked = rng.integers(0, 3, 131), np.array([0, 64, 130])
    options: dict[str, Any] = {"query_rows": asked, "k": 7, "backend": "triton"}
    pdepth.probe_votes(layers, labels, **options)
    pdepth.depth_from_embeddings(layers, labels, labels[asked], **options)
    saturated = np.eye(60)[np.tile(np.arange(60), 12)] + 1e-9 * rng.standard_normal((720, 60))
    pdepth.probe_votes(saturated, np.arange(720) % 7, np.eye(60)[:2], backend="triton")
    monkeypatch.setattr(backend._Call, "budget", 40_000)
    pdepth.probe_votes(layers[:1], labels, **options)
    assert len(launched) == 12
    assert not odd


def test_majority_counts_as_the_definition() -> None:
    codes = np.random.default_rng(12).integers(0, 4, (200, 7))
    counts = np.stack([np.bincount(row, minlength=4) for row in codes])
    votes, tied = search.majority(torch.from_numpy(codes))
    wanted = definition.majority(counts)
    assert first_difference(votes, wanted[0]) is None
    assert first_difference(tied, wanted[1]) is None


def test_more_neighbours_than_a_list_holds_are_refused() -> None:
    rows = np.zeros((300, 3))
    with pytest.raises(ValueError, match="k is 257; backend='triton' takes at most 256 neighbours"):
        pdepth.probe_votes(rows, np.zeros(300, int), k=257, backend="triton")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.INTERPRET, raising=False)
    rows, labels = np.zeros((40, 3)), np.zeros(40, int)

    def refused() -> str:
        with pytest.raises(ValueError, match="backend 'triton' is not available: ") as caught:
            pdepth.probe_votes(rows, labels, backend="triton")
        return str(caught.value).split(": ", 1)[1]

    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "hip", "7.0")
        assert refused() == (
            "torch is built for ROCm, and CUDA is wanted; backend='cpu' takes its arrays too."
        )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused() == "torch sees no CUDA device."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert refused() == (
        "the CUDA device has compute capability 7.5, and 8.0 is wanted; "
        "backend='cpu' takes its arrays too."
    )
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert refused() == "triton is not installed: pip install triton."


def test_the_gpu_benchmark_runs_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU to run it on")
    script = Path(__file__).parents[2] / "bench" / "gpu"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, str(script), *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert "equality" in run("--list").stdout
    assert "'peer' is no part; there are tests, bound, equality, times" in run("peer").stderr
    assert "--tiny is wanted" in run("equality").stderr
    done = run("--tiny", "tests", "bound", "equality", "kernels")
    assert done.returncode == 0, done.stderr
    assert "1 passed" in done.stdout
    assert "a profile wants a CUDA device" in done.stdout
    worst = [float(each) for each in re.findall(r"worst error / bound so far (\S+)", done.stdout)]
    assert len(worst) == 3
    assert 0.001 < worst[-1] < 1
    assert "30 votes compared with the CPU engine's" in done.stdout
    assert "0 layers differ" in done.stdout
    assert not list(tmp_path.iterdir())


def test_no_time_is_taken_where_equality_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pdepth.bench import common
    from pdepth.bench.gpu.__main__ import __main__ as gpu

    where = {"device": "A Device", "commit": "abc", "versions": {"triton": "1"}, "driver": "2"}
    ran: list[str] = []
    trouble: list[BaseException] = []

    def part(name: str) -> Any:
        def call(bench: gpu.Bench) -> None:
            """A part."""
            ran.append(name)
            bench.found["ran"] = len(ran)
            if name == "equality" and trouble:
                raise trouble.pop()

        return call

    def run(*parts: str) -> int:
        ran.clear()
        return gpu.main([*parts])

    gates = {name: part(name) for name in gpu.GATES}
    monkeypatch.setattr(gpu, "GATES", gates)
    monkeypatch.setattr(gpu, "PARTS", gates | {"times": part("times")})
    monkeypatch.setattr(gpu, "about", lambda device: where.copy())
    monkeypatch.setattr(gpu.engine, "available", lambda: None)
    monkeypatch.setattr(gpu.engine, "interpreted", lambda: False)
    monkeypatch.setattr(common, "HOME", tmp_path)
    assert run("times") == 1
    assert ran == []
    assert run() == 0
    assert ran == ["tests", "bound", "equality", "times"]
    assert run("times") == 0  # by what is stored
    stored = json.loads((tmp_path / "bench/results/gpu-a-device.json").read_text())["parts"]
    assert [each["about"] for each in stored.values()] == [where] * 4
    trouble.append(ValueError("no votes"))
    assert run("equality", "times") == 1  # an error is no equality
    assert ran == ["equality"]
    assert "times: left out, since equality did not pass here" in capsys.readouterr().out
    assert run("equality", "times") == 0
    for key, value in (("commit", "def"), ("commit", "abc-dirty"), ("commit", "")):
        where[key] = value
        assert run("times") == 1
        assert run("tests", "bound", "equality", "times") == 0
        assert run("times") == (0 if value == "def" else 1)


def test_a_layer_that_fails_leaves_no_sum_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from pdepth.bench.gpu.__main__ import __main__ as gpu

    search_whole = gpu._search

    def failing(support: torch.Tensor, *rest: Any) -> torch.Tensor:
        if support.shape[1] == 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return search_whole(support, *rest)

    monkeypatch.setattr(gpu, "_search", failing)
    monkeypatch.setattr(gpu.pdepth, "probe_votes", lambda *_, **__: None)
    bench = gpu.Bench(DEVICE, True, lambda line: None)
    gpu.networks(bench)
    assert math.isnan(bench.found["ResNet18, all probes"]["seconds"])


def test_a_copy_without_history_is_told_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdepth.bench import common

    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(common, "CHECKOUT", True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("PDEPTH_COMMIT", "abc")
    assert common.commit() == "abc"


def test_every_kernel_compiles_without_spills() -> None:
    """For GPUs that are not here: registers, shared memory and the matrix instructions meant."""
    environment = {name: each for name, each in os.environ.items() if name != backend.INTERPRET}
    script = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "gpu_code.py"), "--json"]
    most = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a program may have
    running = {
        capability: subprocess.Popen(
            [*script, str(capability)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for capability in most
    }
    for capability, process in running.items():
        found = [json.loads(line) for line in process.communicate()[0].splitlines()]
        assert process.returncode == 0
        assert {each["kernel"] for each in found} == {
            *("prepare", "hash", "same", "filter", "unpack", "differences", "tighten"),
            *("settle", "distances", "compact", "lengths", "means"),
        }
        meant, other = ("HGMMA", "HMMA") if capability == 90 else ("HMMA", "HGMMA")
        for each in found:
            assert each["spilled"] == 0, each
            assert each["shared"] <= most[capability], each
            assert (each[meant] > 0) == (each["kernel"] == "filter"), each
            assert each[other] == 0, each
            if each["kernel"] == "filter":  # room for a tile's row is reserved once
                assert each["atomics"] == 1, each


def _watch(monkeypatch: pytest.MonkeyPatch, seen: Callable[[Any, tuple[Any, ...]], object]) -> None:
    """Tell of each launch its kernel and arguments."""
    if not backend.interpreted():
        pytest.skip("launches are seen where they are interpreted")
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def told(kernel: Any, *given: Any, **options: Any) -> Any:
        seen(kernel, given)
        return run(kernel, *given, **options)

    monkeypatch.setattr(InterpretedFunction, "run", told)


def _rows(values: Any) -> torch.Tensor:
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
    return tensor.to(DEVICE)


def _wide(rows: torch.Tensor) -> NDArray[np.float64]:
    return rows.double().cpu().numpy()


def _numbers(count: int) -> torch.Tensor:
    return torch.arange(count, device=DEVICE)


def _packed(values: NDArray[Any], columns: int) -> torch.Tensor:
    packed = torch.zeros((len(values), columns), dtype=torch.float16, device=DEVICE)
    packed[:, : values.shape[1]] = torch.from_numpy(values).half()
    return packed
