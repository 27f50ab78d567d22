"""Equality of every fast path with the float64 definition."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Engine

import pdepth
from pdepth import _native, definition, native
from pdepth.arrays import arguments
from pdepth.arrays.problem import problems
from pdepth.backends import cpu

from helpers.cases import (
    Case,
    activations,
    assert_exact,
    case,
    cast,
    first_difference,
    neighbors_of,
    oracle_of,
)
from helpers.torch_or_skip import torch

BLOCKS = 24
LEVELS = [name for name, runs in native.simd_levels().items() if runs]


@pytest.mark.fuzz
@pytest.mark.parametrize("block", range(BLOCKS))
def test_fuzz(block: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each oracle vote is compared at every level this machine has; counted once a level."""
    share = -(-request.config.getoption("--votes") // BLOCKS)
    compared, number = 0, block
    while compared < share:
        problem = case(number)
        oracle = oracle_of(problem)
        for level in LEVELS:
            monkeypatch.setenv(native.SIMD, level)
            compared += assert_exact(problem, oracle, num_threads=1 + number % 3)
        number += BLOCKS
    assert compared >= share


@pytest.mark.slow_if(width=[3, 400])
@pytest.mark.slow_if(engine=["triton"])
@pytest.mark.parametrize("width", [3, 40, 400])
def test_every_dtype_in_every_engine(engine: Engine, width: int) -> None:
    rng = np.random.default_rng(width)
    rows, asked = engine.of(1000, 100), engine.of(200, 2)
    if engine.interpreted and width != 40:
        pytest.skip("the interpreted fuzz has other widths")
    for dtype in ("float16", "bfloat16", "float32", "float64", "uint8", "int64"):
        values = activations(rng, rows + asked, width)
        problem = Case(
            f"{dtype} {width} {engine.name}",
            cast(values[:rows], dtype),
            rng.integers(0, 10, rows),
            cast(values[rows:], dtype),
            {"k": 30},
        )
        assert assert_exact(problem, oracle_of(problem), **engine.options) == asked


@pytest.mark.slow_if(backend=["triton"], dtype=["int8", "uint16", "int16", "uint32", "int32"])
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "uint32", "int32", "uint64", "bool"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_other_integers(dtype: str, backend: str) -> None:
    if pdepth.backends()[backend] != "available":
        pytest.skip(f"no backend {backend} here")
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 if dtype == "bool" else 120, (100, 20)).astype(dtype)
    problem = Case(dtype, values, rng.integers(0, 3, 100), values[:2], {"k": 7})
    assert_exact(problem, oracle_of(problem), backend=backend)


def test_neighbours_and_distances_have_the_bits_of_the_definition(
    engine: Engine, of_tier: Callable[[Any, Any], Any]
) -> None:
    for number in range(0, engine.of(600, 42), of_tier(42, 7)):
        problem = case(number, small=engine.interpreted)
        distances, rows = neighbors_of(problem)
        found_distances, found_rows = pdepth.kneighbors(
            problem.support, problem.queries, **problem.options, **engine.options
        )
        assert first_difference(found_rows, rows) is None, problem.name
        assert first_difference(found_distances, distances) is None, problem.name


def test_rows_beyond_a_distance_may_be_left_out(
    level: str, of_tier: Callable[[Any, Any], Any]
) -> None:
    """Those within it are all there, to the last bit of the distance."""
    returned = searched = 0
    for number in range(0, 900, of_tier(90, 15)):
        problem = case(number)
        expected = neighbors_of(problem)
        rng = np.random.default_rng(number)
        places = rng.integers(0, expected[0].shape[1], len(expected[0]))
        within = expected[0][np.arange(len(places)), places]
        within[rng.random(len(within)) < 0.1] = np.nan  # any distance
        options = {"metric": "sqeuclidean", "exclude_self": True} | problem.options
        voting = arguments.check_voting(options.pop("k", 30))
        rows = options.pop("query_rows", None)
        checked = arguments.check_search(voting, **options, num_threads=1, memory=None)
        (search,) = problems(problem.support, problem.queries, None, checked, query_rows=rows)
        with cpu.session(search) as session:
            distances, rows = session.neighbors(0, None, within)
        near = ~(expected[0] > within[:, None])
        assert first_difference(distances[near], expected[0][near]) is None, problem.name
        assert first_difference(rows[near], expected[1][near]) is None, problem.name
        returned += int((rows >= 0).sum())
        searched += expected[1].size
    assert returned < 0.9 * searched  # and many of the others are not


@lru_cache
def wide(width: int, queries: int) -> Case:
    support = np.random.default_rng(width).standard_normal((60, width)).astype(np.float32)
    options = {"query_rows": np.arange(queries), "k": 30}
    return Case(f"width {width}", support, np.zeros(60, int), None, options)


@pytest.mark.slow_if(engine=["triton"])
def test_large_widths_sum_in_the_definitions_order(engine: Engine) -> None:
    for width in (127, 128, 129, 1000, 4097, 20011)[: engine.of(6, 4)]:
        problem = wide(width, engine.of(60, 2))
        expected = neighbors_of(problem)
        distances, rows = pdepth.kneighbors(problem.support, **problem.options, **engine.options)
        assert first_difference(distances, expected[0]) is None
        assert first_difference(rows, expected[1]) is None


@pytest.mark.slow_if(engine=["triton"])
def test_cosine(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    support, queries = rng.standard_normal((500, 33)), rng.standard_normal((80, 33))
    labels = rng.integers(0, 5, 500)
    queries = queries[: engine.of(80, 3)]
    problem = Case("cosine", support, labels, queries, {"k": 30, "metric": "cosine"})
    assert_exact(problem, oracle_of(problem), **engine.options)


def test_votes_do_not_depend_on_threads(level: str, of_tier: Callable[[Any, Any], Any]) -> None:
    rng = np.random.default_rng(2)
    support = activations(rng, 3000, 50).astype(np.float32)
    labels = rng.integers(0, 100, 3000)
    wanted = pdepth.kneighbors(support, k=30, num_threads=1)
    votes = pdepth.probe_votes(support, labels, num_threads=1).votes
    for threads in of_tier((3,), (2, 3, 7)):
        found = pdepth.kneighbors(support, k=30, num_threads=threads)
        assert first_difference(found[1], wanted[1]) is None
        assert first_difference(found[0], wanted[0]) is None
        again = pdepth.probe_votes(support, labels, num_threads=threads).votes
        assert first_difference(again, votes) is None


@pytest.mark.slow_if(held=[1, 3 << 29])
@pytest.mark.slow_if(level=["bf16"])
@pytest.mark.parametrize("held", [1, 40_000, 3 << 29])
def test_many_rows_cross_every_tile(level: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles of queries and chunks of the support, with lists that must carry over.

    The bound has to grow with the chunks: rows that 16 bits hold badly come among the last.
    """
    monkeypatch.setattr(cpu, "HELD_BYTES", held)
    rng = np.random.default_rng(3)
    support = rng.standard_normal((2000, 100)).astype(np.float32)
    support[rng.integers(0, 2000, 5), 7] *= 1e4
    queries = np.concatenate([support[:900:3], rng.standard_normal((700, 100))]).astype("f4")
    queries[:, 7] = rng.choice([0, 9e3, 1e4], len(queries))
    problem = Case(f"{held} held", support, rng.integers(0, 10, 2000), queries, {"k": 30})
    assert_exact(problem, oracle_of(problem))


@pytest.mark.slow_if(engine=["triton"])
def test_the_cut_grows_with_the_bound(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest rows are the only ones that bfloat16 rounds, in whatever chunk they come.

    Rows and their opposites: the centre is nought, so that the others are packed as they are.
    """
    monkeypatch.setattr(cpu, "HELD_BYTES", 1)
    for seed in range(engine.of(20, 1)):
        rng = np.random.default_rng(seed)
        query = rng.choice([-3.0, -2, 2, 3], 64)
        steps = rng.choice([-0.25, 0.25], (400, 64))
        steps[100:, :30] *= 2
        steps[:4] *= 1 - rng.uniform(0.001, 0.01, (4, 1))  # the nearest, by little
        rows = query + steps
        problem = Case(
            f"seed {seed}",
            np.concatenate([rows, -rows])[rng.permutation(800)].astype(np.float32),
            np.arange(800),  # any neighbour that is missed changes the counts
            query[None].astype(np.float32),
            {"k": 10},
        )
        assert_exact(problem, oracle_of(problem), **engine.options)


@pytest.mark.slow_if(engine=["triton"])
@pytest.mark.parametrize("a_class", [10, 45])
def test_far_rows_that_tie_fill_every_list(engine: Engine, a_class: int) -> None:
    """Nearly one-hot rows: to a filter all other classes are equally far, and they come first.

    With 45 rows a class the 30 nearest are of the query's own; with 10, most are among the ties.
    """
    if engine.interpreted and a_class == 45:
        pytest.skip("too many rows for an interpreter")
    rng = np.random.default_rng(7)
    classes = engine.of(60, 30)
    labels = np.tile(np.arange(classes), a_class)
    rows = np.eye(classes)[labels] + 1e-7 * rng.standard_normal((len(labels), classes))
    queries = np.eye(classes)[:30] + 1e-7 * rng.standard_normal((30, classes))
    queries = queries[: engine.of(30, 1)]
    for dtype in ("float32", "float64")[: engine.of(2, 1)]:
        problem = Case(
            f"{a_class} of a class, {dtype}",
            rows.astype(dtype),
            rng.integers(0, 10, len(labels)),
            queries.astype(dtype),
            {"k": 30},
        )
        assert_exact(problem, oracle_of(problem), **engine.options)


@pytest.mark.slow_if(engine=["triton"])
@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("held_out", [True, False])
def test_depth(engine: Engine, early_exit: bool, held_out: bool) -> None:
    if engine.interpreted and not early_exit and held_out:
        pytest.skip("as with the support's own rows, and slow to interpret")
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 4, 400) * 7 - 5
    centres = rng.standard_normal((30, 4, 64))
    layers = [
        (0.2 * depth * centres[depth][(labels + 5) // 7] + rng.standard_normal((400, 64))).astype(
            np.float32
        )[:, : 8 + 8 * depth]
        for depth in range(7)
    ]
    predictions = np.where(rng.random(400) < 0.8, labels, 2)
    asked = np.arange(300, engine.of(400, 306))
    predictions[asked[:3]] = 99  # a class that the support does not have
    predictions = predictions[asked]
    if held_out:
        support, own = [layer[:300] for layer in layers], labels[:300]
        options = [{"queries": layer[asked]} for layer in layers]
        queries, rows = [each["queries"] for each in options], None
    else:
        support, own = layers, labels
        options = [{"query_rows": asked}] * 7
        queries, rows = None, asked
    found = pdepth.depth_from_embeddings(
        support,
        own,
        predictions,
        queries,
        query_rows=rows,
        k=15,
        early_exit=early_exit,
        **engine.options,
    )
    votes = np.stack(
        [
            definition.probe_votes(layer, own, **each, k=15).votes
            for layer, each in zip(support, options, strict=True)
        ]
    )
    depth, undefined = definition.depth_from_votes(votes, predictions)
    assert len(set(depth.tolist())) > engine.of(4, 2)  # the case has something to tell apart
    assert first_difference(found.depth, depth) is None
    assert first_difference(found.undefined, undefined) is None
    assert undefined[:3].all()
    assert first_difference(found.votes[found.known], votes[found.known]) is None
    assert found.known.all() == (not early_exit)
    settled = np.arange(len(layers))[:, None] >= depth
    assert first_difference(found.known, settled if early_exit else np.ones_like(settled)) is None


def test_depth_from_votes_is_the_definitions() -> None:
    rng = np.random.default_rng(6)
    for classes in (1, 2, 3):
        votes, reference = rng.integers(0, classes, (6, 500)), rng.integers(0, classes, 500)
        found, wanted = (
            f(votes, reference)
            for f in (
                pdepth.depth_from_votes,
                definition.depth_from_votes,
            )
        )
        assert first_difference(found[0], wanted[0]) is None
        assert first_difference(found[1], wanted[1]) is None


def test_layouts_are_read_as_they_are() -> None:
    rng = np.random.default_rng(7)
    base = rng.standard_normal((400, 90)).astype(np.float32)
    labels = rng.integers(0, 10, 200)
    for view in (base[::2, :41], base[::-2, 3:44], base[:200, ::-2], base.T[:41].T[:200]):
        plain = np.ascontiguousarray(view)
        wanted = definition.probe_votes(plain, labels, k=11)
        assert first_difference(pdepth.probe_votes(view, labels, k=11).votes, wanted.votes) is None
    swapped = plain.astype(plain.dtype.newbyteorder())
    assert first_difference(pdepth.probe_votes(swapped, labels, k=11).votes, wanted.votes) is None
    plain.setflags(write=False)
    images = plain[:, :40].reshape(200, 2, 4, 5)
    wanted = definition.probe_votes(images, labels, k=11)
    assert first_difference(pdepth.probe_votes(images, labels, k=11).votes, wanted.votes) is None


def test_memory_map(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    values = rng.standard_normal((300, 30)).astype(np.float32)
    np.save(tmp_path / "rows.npy", values)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    labels = rng.integers(0, 10, 300)
    wanted = definition.probe_votes(values, labels).votes
    assert first_difference(pdepth.probe_votes(mapped, labels).votes, wanted) is None


def test_collections_and_kinds_of_arrays() -> None:
    rng = np.random.default_rng(9)
    layers = [rng.standard_normal((120, width)).astype(np.float32) for width in (5, 40)]
    labels = rng.integers(0, 3, 120)
    wanted = np.stack([definition.probe_votes(layer, labels, k=9).votes for layer in layers])
    for given in (layers, tuple(layers), dict(zip("ab", layers, strict=True)), iter(layers)):
        found = pdepth.probe_votes(given, labels, k=9)
        assert isinstance(found.votes, np.ndarray)
        assert first_difference(found.votes, wanted) is None
    tensors = [torch.from_numpy(layer) for layer in layers]
    found = pdepth.probe_votes(tensors, torch.from_numpy(labels), k=9, return_counts=True)
    assert all(isinstance(a, torch.Tensor) for a in (found.votes, found.tied, found.counts))
    assert first_difference(found.votes.numpy(), wanted) is None
    distances, rows = pdepth.kneighbors(tensors[0], k=9)
    assert isinstance(distances, torch.Tensor)
    assert first_difference(rows.numpy(), definition.kneighbors(layers[0], k=9)[1]) is None
    named = pdepth.depth_from_embeddings(dict(zip("ab", layers, strict=True)), labels, labels, k=9)
    assert named.probes == ("a", "b")


def test_iterators_are_read_forward_and_answer_all_votes() -> None:
    rng = np.random.default_rng(11)
    layers = [rng.standard_normal((120, width)) for width in (5, 40, 9)]
    queries = [rng.standard_normal((30, width)) for width in (5, 40, 9)]
    labels, predictions = rng.integers(0, 3, 120), rng.integers(0, 3, 30)
    wanted = pdepth.depth_from_embeddings(layers, labels, predictions, queries, k=9)
    seen: list[int] = []
    found = pdepth.depth_from_embeddings(
        iter(layers),
        labels,
        predictions,
        iter(queries),
        k=9,
        probes=["a", "b", "c"],
        progress=lambda probe, fraction, asked: seen.append(probe),
    )
    assert first_difference(found.depth, wanted.depth) is None
    assert found.known.all()
    assert found.probes == ("a", "b", "c")
    assert found.widths == wanted.widths == (5, 40, 9)
    assert sorted(set(seen)) == [0, 1, 2]
    again = pdepth.probe_votes(layers, labels, iter(queries), k=9, return_counts=True)
    assert first_difference(again.votes, found.votes) is None
    assert again.counts.shape == (3, 30, 3)


def test_a_caller_that_flushes_subnormals_gets_the_same_bits() -> None:
    rng = np.random.default_rng(10)
    support = rng.standard_normal((200, 20)) * 1e-160  # squares are subnormal
    wanted = definition.kneighbors(support, k=30)
    torch.set_flush_denormal(True)
    try:
        flushed = definition.kneighbors(support, k=30)
        found = [pdepth.kneighbors(support, k=30, num_threads=threads) for threads in (1, 2)]
    finally:
        torch.set_flush_denormal(False)
    assert first_difference(flushed[1], wanted[1]) is not None  # flushing does change distances
    for distances, rows in found:
        assert first_difference(rows, wanted[1]) is None
        assert first_difference(distances, wanted[0]) is None


@pytest.mark.slow
def test_fresh_memory_is_never_read() -> None:
    """The same problems with every fresh allocation filled with a pattern that is no number."""
    code = (
        "from helpers.cases import assert_exact, case, oracle_of\n"
        "for number in range(48):\n"
        "    problem = case(number)\n"
        "    assert assert_exact(problem, oracle_of(problem)) > 0\n"
    )
    for pattern in ("1", "129"):  # filled with its complement: 0xfe.., 0x7e..
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "MALLOC_PERTURB_": pattern},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("seed", range(39))
def test_largest_inner_products(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products, rows and votes of the definition, at every level, with every kind of rows.

    Of two runs one begins with the stage that the rule chooses, and one with each in turn.
    """
    problem = case(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        products, rows = definition.kneighbors(
            problem.support, problem.queries, metric="inner_product", **problem.options
        )
        table = definition.probe_votes(
            problem.support, problem.labels, problem.queries, metric="inner_product",
            **problem.options,
        )  # fmt: skip
    for level in LEVELS:
        monkeypatch.setenv(native.SIMD, level)
        stages = _native.filter_stages(level)
        monkeypatch.setattr(
            cpu, "FIRST_STAGE", stages[seed // 2 % len(stages)]["name"] if seed % 2 else None
        )
        options = {"metric": "inner_product", "num_threads": 1 + seed // 2 % 2, **problem.options}
        found = pdepth.kneighbors(problem.support, problem.queries, **options)
        where = first_difference(found[1], rows)
        assert where is None, f"{problem.name}, {level}: rows differ first at {where}"
        assert np.array_equal(found[0], products, equal_nan=True)
        votes = pdepth.probe_votes(
            problem.support, problem.labels, problem.queries, return_counts=True, **options
        )
        for name in ("votes", "tied", "counts"):
            assert first_difference(getattr(votes, name), getattr(table, name)) is None


def test_inner_products_of_an_index_and_in_chunks(engine: Engine) -> None:
    count, asked = (90, 4) if engine.name == "triton" else (500, 30)
    rng = np.random.default_rng(3)
    support = rng.integers(-3, 4, (count, 40)).astype(np.float32)
    queries = rng.integers(-3, 4, (asked, 40)).astype(np.float32)
    products, rows = definition.kneighbors(support, queries, k=9, metric="inner_product")
    index = pdepth.Index(support[:40], metric="inner_product", **engine.options)
    index.kneighbors(queries, 3)
    index.add(support[40:])
    memory = "12.3MB" if engine.name == "triton" else 60_000  # for a tile, or some rows
    chunked = pdepth.kneighbors(
        SlicesOf(support), queries, k=9, metric="inner_product", memory=memory, **engine.options
    )
    for found in (index.kneighbors(queries, 9), chunked):
        assert first_difference(found[1], rows) is None
        assert first_difference(found[0], products) is None


def test_weights_of_inner_products() -> None:
    rng = np.random.default_rng(4)
    support, labels = rng.standard_normal((90, 6)), rng.integers(0, 3, 90)
    queries = rng.standard_normal((20, 6))
    options: dict[str, Any] = {"k": 7, "metric": "inner_product", "weights": "exp"}
    table = definition.probe_votes(support, labels, queries, temperature=0.5, **options)
    found = pdepth.probe_votes(
        support, labels, queries, temperature=0.5, return_counts=True, **options
    )
    assert first_difference(found.counts, table.counts) is None
    with pytest.raises(ValueError, match="weights: expected 'uniform' or 'exp'"):
        pdepth.probe_votes(support, labels, queries, **options | {"weights": "distance"})


class SlicesOf:
    """An array that is read in slices."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows: slice) -> Any:
        return self.array[rows]
