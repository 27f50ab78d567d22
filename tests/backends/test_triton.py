"""The GPU engine. Without a GPU its kernels are interpreted: the same code, one program at a time,
at sizes that this allows; and compiled for two architectures, to be looked at."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pdepth
from pdepth import definition
from pdepth.arrays import problem as problem_module
from pdepth.arrays.rows import Rows, rows_of
from pdepth.backends import room, transfer
from pdepth.backends import triton as backend

from helpers import cases
from helpers.cases import activations, assert_exact, case, cast, first_difference, oracle_of
from helpers.device import DEVICE, on_device

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no GPU engine here: {reason}", allow_module_level=True)

from pdepth.kernels import complete, filter, lists, search

pytestmark = pytest.mark.usefixtures("poisoned")
BLOCKS = 13


@pytest.mark.fuzz
@pytest.mark.slow_if(block=[0, 1, 3, 4, 5, 7, 8, 10])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_fuzz(block: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of layer, against the definition; every other one as a large support."""
    whole = lists.WHOLE
    share = -(-request.config.getoption("--triton-votes") // BLOCKS)
    compared, number = 0, block
    while compared < share:
        problem = case(number, small=True)
        monkeypatch.setattr(lists, "WHOLE", whole if (block + number // BLOCKS) % 2 else 0)
        compared += assert_exact(problem, oracle_of(problem), backend="triton")
        number += BLOCKS


@pytest.mark.slow_if(seed=list(range(3, 39)))
@pytest.mark.parametrize("seed", range(39))
def test_largest_inner_products(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products, rows and votes of the definition, with every kind of rows."""
    if seed % 2:
        monkeypatch.setattr(lists, "WHOLE", 0)
    problem = case(seed, small=True)
    options: dict[str, Any] = {"metric": "inner_product", **problem.options}
    with np.errstate(over="ignore", invalid="ignore"):
        products, rows = definition.kneighbors(problem.support, problem.queries, **options)
        table = definition.probe_votes(problem.support, problem.labels, problem.queries, **options)
    found = pdepth.kneighbors(problem.support, problem.queries, backend="triton", **options)
    assert first_difference(found[1], rows) is None, problem.name
    assert np.array_equal(found[0], products, equal_nan=True), problem.name
    votes = pdepth.probe_votes(
        problem.support, problem.labels, problem.queries, backend="triton", **options
    )
    assert first_difference(votes.votes, table.votes) is None, problem.name
    assert first_difference(votes.tied, table.tied) is None, problem.name


@pytest.mark.usefixtures("large_supports")
def test_layers_in_tiles_for_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a launch of its own, by tensor descriptors."""
    monkeypatch.setattr(filter, "tile_for", lambda width, device: filter.LARGE)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 600)
    support = [activations(rng, 600, width).astype("f4") for width in (40, 300)]
    found = pdepth.probe_votes(support, labels, query_rows=[5, 77], k=12, backend="triton")
    for layer, votes in zip(support, np.asarray(found.votes), strict=True):
        expected = definition.probe_votes(layer, labels, query_rows=[5, 77], k=12)
        assert first_difference(votes, expected.votes) is None


@pytest.mark.usefixtures("large_supports")
@pytest.mark.parametrize("seed", range(2))
def test_products_with_a_far_centre_are_rounded_by_more_than_their_order_allows(seed: int) -> None:
    """What float32 holds of a row's product with the centre hides which of two products is larger:
    the bound's share of it is what gives the order."""
    rng = np.random.default_rng(seed)
    along = np.ones(40) / np.sqrt(40)
    beside = rng.standard_normal((124, 40))
    beside -= np.outer(beside @ along, along)
    support = 1000 + np.outer(np.where(np.arange(120) % 2, 1.0, -1.0), along) + 0.01 * beside[:120]
    queries = 1000 + 0.01 * beside[120:]
    options: dict[str, Any] = {"k": 5, "metric": "inner_product"}
    expected = definition.kneighbors(support, queries, **options)
    found = pdepth.kneighbors(support, queries, backend="triton", **options)
    assert first_difference(found[1], expected[1]) is None
    assert first_difference(found[0], expected[0]) is None


@pytest.mark.usefixtures("large_supports")
@pytest.mark.slow
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


@pytest.mark.slow
def test_many_chunks_and_lists_that_carry_over() -> None:
    rng = np.random.default_rng(3)
    support = rng.standard_normal((4500, 40)).astype("f4")
    support[rng.integers(0, 4500, 5), 7] *= 1e4
    queries = np.concatenate([support[:1], rng.standard_normal((1, 40))]).astype("f4")
    labels = rng.integers(0, 10, 4500)
    assert len(search.support_chunks(4500)) == 4
    found = pdepth.probe_votes(support, labels, queries, backend="triton")
    wanted = definition.probe_votes(support, labels, queries)
    assert first_difference(found.votes, wanted.votes) is None


@pytest.mark.usefixtures("large_supports")
@pytest.mark.slow
def test_ties_without_end_reach_the_complete_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly one-hot rows, more equally far ones than a list holds, none equal to another."""
    rng = np.random.default_rng(7)
    labels = np.tile(np.arange(60), 12)
    rows = np.eye(60)[labels] + 1e-9 * rng.standard_normal((720, 60))
    asked = []
    nearest = complete.nearest
    monkeypatch.setattr(
        complete,
        "nearest",
        lambda *given, **more: asked.append(len(given[1])) or nearest(*given, **more),
    )
    labels = rng.integers(0, 10, 720)
    found = pdepth.probe_votes(rows, labels, np.eye(60)[:2], backend="triton")
    assert (
        first_difference(found.votes, definition.probe_votes(rows, labels, np.eye(60)[:2]).votes)
        is None
    )
    assert asked


@pytest.mark.usefixtures("large_supports")
@pytest.mark.parametrize("own", [True, False])
def test_supports_beyond_the_memory_come_in_chunks(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(8)
    values = rng.integers(-2, 3, (120, 12)).astype("f4")  # ties across chunks
    labels = rng.integers(0, 5, 120)
    monkeypatch.setattr(room.Room, "rows", 40_000)
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


@pytest.mark.slow
def test_a_device_with_less_memory_than_it_said_gives_the_same_votes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time it has no more, the rest is done in half the room, at last in chunks."""
    rng = np.random.default_rng(13)
    values = [rng.integers(-2, 3, (400, width)).astype("f4") for width in (9, 300, 12)]
    labels, asked = rng.integers(0, 5, 400), np.array([0, 200, 399])
    whole = search.Search
    rooms: list[tuple[int, int]] = []

    def most(supports: Any, *rest: Any, **more: Any) -> Any:
        rooms.append((len(supports), len(supports[0])))
        if sum(each.numel() for each in supports) > 60_000:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(supports, *rest, **more)

    monkeypatch.setattr(search, "Search", most)
    monkeypatch.setattr(room, "_free", lambda device: 60_000_000)
    monkeypatch.setattr(room.Room, "rows", property(lambda own: own._bytes // 30))
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
    answer, shrink = search.Search.answer, backend.TritonSession._shrink
    held: list[weakref.ref[Any]] = []
    remaining: list[Any] = []

    def once(self: search.Search, answers: Any) -> None:
        if not held:
            held.extend([weakref.ref(self), weakref.ref(self.layers[0].support)])
            raise error(words)
        answer(self, answers)

    def record(session: backend.TritonSession) -> None:
        remaining.extend(reference() for reference in held)
        shrink(session)

    monkeypatch.setattr(search.Search, "answer", once)
    monkeypatch.setattr(backend.TritonSession, "_shrink", record)
    asked = np.array([0, 89])
    found = pdepth.probe_votes(values, labels, query_rows=asked, k=9, backend="triton").votes
    wanted = definition.probe_votes(values, labels, query_rows=asked, k=9).votes
    assert first_difference(found, wanted) is None
    assert remaining == [None, None]


def test_other_errors_of_the_device_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(search.Search, "answer", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        pdepth.probe_votes(np.zeros((40, 3)), np.zeros(40, int), backend="triton")


def test_a_device_without_room_for_a_tile_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_free", lambda device: 1_000_000)
    with pytest.raises(
        MemoryError, match=r"room for 1\.0 MB, and one tile of probe 0 takes 1\d\.\d MB"
    ):
        pdepth.probe_votes(np.zeros((40, 3)), np.zeros(40, int), backend="triton")

    def never(*_: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(room, "_free", lambda device: 1 << 31)
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
            values = on_device(cast(rng.uniform(1, 90, (40, width)), dtype))
            for rows in (Rows(values, dtype), rows_of(values.cpu(), "rows")):
                found = problem_module._normed(rows, range(40), "rows", 1)
                assert transfer.type_of(found) == torch.float64
                copies = transfer.Transfer(DEVICE)
                units = copies.take(found).cpu().numpy()
                copies.close()
                assert (units == definition.as_rows(values, "cosine")).all()
    with pytest.raises(
        ValueError, match="rows: expected rows with a norm for .*, got row 2, whose norm is zero"
    ):
        problem_module._normed(
            Rows(torch.eye(4, device=DEVICE)[:, :2], "float32"), range(4), "rows", 1
        )


@pytest.mark.parametrize("kind", [cases.normal, cases.grid, cases.duplicates])
def test_more_neighbours_than_a_list_holds(kind: Callable[..., Any]) -> None:
    """Every distance is computed: ties and equal rows in the definition's order."""
    rng = np.random.default_rng(5)
    support, labels, asked = kind(rng, 310, 20), rng.integers(0, 3, 310), np.array([0, 7, 309])
    for k in (257, 309):
        options: dict[str, Any] = {"query_rows": asked, "k": k}
        problem = cases.Case(f"k = {k}", support, labels, None, options)
        assert_exact(problem, oracle_of(problem), backend="triton")
        found = pdepth.kneighbors(support, **options, backend="triton")
        for mine, expected in zip(found, cases.neighbors_of(problem), strict=True):
            assert first_difference(mine, expected) is None


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
            "expected torch built for CUDA, got ROCm; backend='cpu' takes its arrays too."
        )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused() == "torch sees no CUDA device."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert refused() == (
        "expected a CUDA device of compute capability 8.0 or more, got 7.5; "
        "backend='cpu' takes its arrays too."
    )
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert refused() == "triton is not installed: pip install 'pdepth[gpu]'."
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: name != "torch" or None)
    assert refused() == "torch is not installed: pip install 'pdepth[gpu]'."


@pytest.mark.parametrize(
    ("versions", "refused"),
    [
        (("3.6.0", "2.4.0"), True),
        (("3.6.0+git1", "2.10.1"), True),
        (("3.6.0", "2.3.5"), False),
        (("3.7.0", "2.4.6"), False),
        (("3.10.0", "3.0.0"), False),
    ],
)
def test_versions_that_do_not_interpret_together_are_named(
    versions: tuple[str, str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backend.INTERPRET, "1")
    monkeypatch.setattr("triton.__version__", versions[0])
    monkeypatch.setattr(np, "__version__", versions[1])
    if not refused:
        assert backend.unavailable() is None
        return
    with pytest.raises(ValueError, match="'triton' is not available: ") as caught:
        pdepth.probe_votes(np.zeros((40, 3)), np.zeros(40, int), backend="triton")
    assert str(caught.value).endswith(
        f"Triton {versions[0]} does not interpret kernels with NumPy {versions[1]}; "
        "pip install 'triton>=3.7', or 'numpy<2.4'."
    )
