"""What is launched: how often, for which addresses, and that nothing is computed in vain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import pdepth
from pdepth import definition
from pdepth.backends import room
from pdepth.backends import triton as backend

from helpers.cases import cast, first_difference

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no GPU engine here: {reason}", allow_module_level=True)

from pdepth.kernels import rescore, search, settle

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.usefixtures("large_supports")
@pytest.mark.slow
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
    assert counts == [10, 18]
    for layer, votes in zip(layers, found.votes, strict=True):
        wanted = definition.probe_votes(layer, labels, query_rows=asked, k=7).votes
        assert first_difference(votes, wanted) is None


def test_distances_that_are_not_asked_for_are_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 30 neighbours 29 are certain; two rows are equally far, in float32 and in float64."""
    computed = counted(monkeypatch)
    rows = np.zeros((40, 1040), dtype="f4")
    rows[np.arange(40), np.arange(40)] = 1 + 0.1 * np.arange(40)
    rows[30, 30] = rows[29, 29]
    labels = np.arange(40) % 2
    query = np.zeros((1, 1040), dtype="f4")
    found = pdepth.probe_votes(rows, labels, query, k=30, backend="triton")
    wanted = definition.probe_votes(rows, labels, query, k=30)
    assert first_difference(found.votes, wanted.votes) is None
    assert first_difference(found.tied, wanted.tied) is None
    assert computed == {"settle": 2, "rescore": 2}


def clusters(rng: np.random.Generator, rows: int, width: int, apart: int, noise: float) -> Any:
    """Rows around few points: near one another, and far from where the scores are rounded."""
    points = 30 * rng.standard_normal((apart, width))
    return points[rng.integers(0, apart, rows)] + noise * rng.standard_normal((rows, width))


@pytest.mark.slow_if(kind=["bfloat16", "float64", "uint8"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64", "uint8"])
def test_rows_at_the_border_are_rescored_and_few_computed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For neighbours, which are not rescored, all that may be among them are computed."""
    computed = counted(monkeypatch)
    rng = np.random.default_rng(3)
    values = clusters(rng, 154, 300, 2, 3.0)
    rows = cast(np.clip(values + 128, 0, 255) if kind == "uint8" else values, kind)
    labels = rng.integers(0, 4, 150)
    rows, queries = rows[:150], rows[150:] if kind == "float32" else rows[150:151]
    wanted = definition.probe_votes(rows, labels, queries, k=15)
    found = pdepth.probe_votes(rows, labels, queries, k=15, backend="triton")
    assert first_difference(found.votes, wanted.votes) is None
    assert first_difference(found.tied, wanted.tied) is None
    if kind == "float32":  # the others lose less when they are packed
        assert 20 < computed["rescore"] < 60
    if kind != "uint8":  # whose distances are equal by the dozen
        assert computed["settle"] <= 4
    pdepth.kneighbors(rows, queries, k=15, backend="triton")
    assert computed["settle"] >= 15 * len(queries)


@pytest.mark.slow
@pytest.mark.usefixtures("large_supports")
@pytest.mark.parametrize(("rows", "completed"), [(140, 0), (230, 0), (330, 1)])
@pytest.mark.parametrize("width", [100, 200])
def test_long_lists_are_settled(
    rows: int, completed: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of up to a quarter and half of their room; beyond, float64 differences take their place."""
    asked = []
    by_differences = search.Search._by_differences

    def seen(self: Any, layer: Any, answer: Any, queries: Any, *known: Any) -> Any:
        asked.append(len(queries))
        return by_differences(self, layer, answer, queries, *known)

    monkeypatch.setattr(search.Search, "_by_differences", seen)
    rng = np.random.default_rng(rows)
    values = 30 + 1e-3 * rng.standard_normal((rows + 1, width)).astype("f4")
    values[:30] *= -1  # and the others are far from their centre
    labels = rng.integers(0, 4, rows)
    found = pdepth.probe_votes(values[:rows], labels, values[rows:], backend="triton")
    wanted = definition.probe_votes(values[:rows], labels, values[rows:])
    assert first_difference(found.votes, wanted.votes) is None
    assert first_difference(found.tied, wanted.tied) is None
    assert asked == [1] * completed
    target = np.array([found.votes[0]])
    depth = pdepth.depth_from_embeddings(
        [values[:rows]], labels, target, queries=[values[rows:]], backend="triton"
    )
    assert depth.depth.tolist() == [0]
    near = pdepth.kneighbors(values[:rows], values[rows:], backend="triton")
    for mine, expected in zip(
        near, definition.kneighbors(values[:rows], values[rows:]), strict=True
    ):
        assert first_difference(mine, expected) is None


@pytest.mark.usefixtures("large_supports")
@pytest.mark.slow
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
    monkeypatch.setattr(room.Room, "rows", 40_000)
    pdepth.probe_votes(layers[:1], labels, **options)
    monkeypatch.undo()
    _watch(monkeypatch, seen)
    pdepth.probe_votes(layers, labels, **options)  # as a small support
    assert len(launched) == 9
    assert not odd


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


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many distances settlement computes in float64, and in float32."""
    if not backend.interpreted():
        pytest.skip("nobody can count inside a kernel")
    computed = {"settle": 0, "rescore": 0}
    for name, module in (("settle", settle), ("rescore", rescore)):

        def distances(
            *given: Any, name: str = name, whole: Callable[..., Any] = module.distances
        ) -> Any:
            computed[name] += int(given[2].handle.data.sum())
            return whole(*given)

        monkeypatch.setattr(module, "distances", distances)
    return computed
