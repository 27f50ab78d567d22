"""The gate of equal answers: every kernel, type of rows and tile, against the cpu backend.

Problems are numbered, and made anew from a seed and their number wherever they are needed: what the
cpu backend and the definition say of them is computed by other processes meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

import pdepth
from pdepth import definition
from pdepth.arrays.problem import ProbeRows
from pdepth.arrays.rows import rows_of
from pdepth.backends.room import least_room
from pdepth.backends.triton import TritonSession
from pdepth.bench.gpu.context import SMALL_ROWS, Bench, small_supports

Arrays = dict[str, NDArray[Any]]

TYPES = (
    *("float32", "bfloat16", "float16", "float64"),
    *("uint8", "int8", "int16", "int32", "int64"),
)
# Widths by the way a distance is summed; among them those of each tile of the filter, and their
# ends. Up to 16 columns there is no tile.
WIDTHS = ((40, 5, 128, 17, 100, 16, 64), (200, 257, 1000, 700, 256), (1500, 1025, 2500))
EACH = (5, 50, 100, 200, 700, 1500)  # one for each kernel that a width chooses
PLACES = ("device", "host", "unaligned", "together")
WAYS = ("device", "early exit", "chunks", "counts", "products")
NEIGHBOURS = (30, 61, 200)  # one for each capacity of lists
SMALL = "small"  # as a way: of a support whose lists hold all of its rows
BESIDE = (10, 40, 200, 1500)  # widths of the layers that are searched together with another


@dataclass(frozen=True)
class Case:
    """What one problem is made of."""

    width: int
    dtype: str
    k: int
    way: str


def cases() -> list[Case]:
    """Types of rows by ways to sum a distance, lists by ways to answer, and k beyond any list."""
    types = [
        Case(widths[number % len(widths)], dtype, (30, 30, 1)[number % 3], PLACES[(n + number) % 4])
        for n, widths in enumerate(WIDTHS)
        for number, dtype in enumerate(TYPES)
    ]
    lists = [
        Case(width, "float32", k, WAYS[(number + i) % len(WAYS)])
        for number, width in enumerate(EACH)
        for k in NEIGHBOURS
        for i in range(2 if k < max(NEIGHBOURS) else 1)
    ]
    answers = [Case(width, "float32", 30, way) for width, way in product((50, 700, 1500), WAYS)]
    widest = [Case(4200, "float32", k, "device") for k in NEIGHBOURS]  # beyond a single section
    complete = Case(60, "float32", 300, "device")  # more neighbours than any list holds
    small = [
        Case(WIDTHS[number % 3][number // 3], dtype, NEIGHBOURS[number % 3], SMALL)
        for number, dtype in enumerate(TYPES)
    ]
    return list(dict.fromkeys([*types, *lists, *answers, *widest, complete, *small]))


@dataclass
class Problem:
    """A layer's rows, support first, and what every backend is given with them."""

    tensor: torch.Tensor
    rows: int
    own: bool
    labels: Any
    options: dict[str, Any]

    @property
    def support(self) -> torch.Tensor:
        return self.tensor[: self.rows]

    @property
    def queries(self) -> torch.Tensor | None:
        return None if self.own else self.tensor[self.rows :]

    def votes(self, **options: Any) -> pdepth.Votes:
        result: pdepth.Votes = pdepth.probe_votes(
            self.support, self.labels, self.queries, **self.options, **options
        )
        return result


def problem_of(seed: int, number: int, tiny: bool) -> tuple[str, Case, Problem]:
    """The problem of a number, and what it is in words."""
    rng = np.random.default_rng([seed, number])
    case = cases()[number]
    least, most = (case.k + 2, SMALL_ROWS) if case.way == SMALL else (2_000, 6_001)
    rows = 60 + 2 * case.k if tiny else int(rng.integers(least, most)) | 1
    leaving = case.way == "early exit"  # of few queries some have to reach the second layer
    count = (12 if leaving else 3) if tiny else int(rng.integers(100, 301)) | 1
    width = max(1, case.width)
    kinds = list(_layers(rng, rows + count, width))
    kind, values = kinds[number % len(kinds)]
    tensor = torch.from_numpy(_fitting(values(), case.dtype)).to(getattr(torch, case.dtype))
    own = bool(rng.random() < 0.5) and case.way != "products"
    labels = rng.integers(0, 2 if leaving else int(rng.choice([2, 10, 100])), rows)
    options: dict[str, Any] = {"k": min(case.k, rows - 1)}
    if own:
        options["query_rows"] = rng.integers(0, rows, count)
    if case.way == "products":
        options["metric"] = "inner_product"
    if case.way == "counts":
        options["return_counts"] = True
    name = (
        f"{number}: {kind}, {case.dtype}, {rows} x {count} x {width}, k = {options['k']}, "
        f"{case.way}, {'own rows' if own else 'others'}"
    )
    return name, case, Problem(tensor, rows, own, labels, options)


def equality(bench: Bench) -> None:
    """Votes, ties, counts and depths against the cpu backend's, the definition's on a sample."""
    numbers = range(len(cases()))[:: bench.every]
    asked = [number for number in numbers if str(number) not in bench.results]
    with oracles(bench.seed, asked, bench.tiny, bench.oracles) as expected:
        for place, (number, future) in enumerate(zip(asked, expected, strict=True)):
            if bench.left() < 0:
                bench.leave_out(f"equality: {len(asked) - place} of {len(numbers)} problems")
                break
            name, case, problem = problem_of(bench.seed, number, bench.tiny)
            wanted, trouble = future.result()
            try:
                found = _on_device(bench, case.way, problem, wanted)
                trouble += [
                    f"{wrong} of {key} differ from the cpu backend's"
                    for key in found
                    if (wrong := differing(found[key], wanted[key]))
                ]
            except Exception as error:  # the other problems are compared all the same
                trouble.append(f"{type(error).__name__}: {error}".splitlines()[0][:300])
                if bench.stubbed:
                    raise
            bench.results[str(number)] = {
                "problem": name, "compared": wanted[next(iter(wanted))].size,
                "differing": 0 if bench.stubbed else len(trouble), "how": trouble,
            }  # fmt: skip
            bench.keep()
            bench.differing += len(trouble)
            if not bench.stubbed:
                for line in trouble:
                    bench.say(f"  {name}: {line}")
    compared = sum(each["compared"] for each in bench.results.values())
    bench.say(
        f"{len(bench.results)} problems, {compared:,} answers compared with the cpu backend's; "
        f"{sum(each['differing'] > 0 for each in bench.results.values())} problems differ"
    )


@contextmanager
def oracles(
    seed: int, numbers: Sequence[int], tiny: bool, processes: int
) -> Iterator[list[Future[tuple[Arrays, list[str]]]]]:
    """What `oracle` says of each problem, by so many processes; 0: by this one, when asked."""
    if not processes:
        yield [_Later(seed, number, tiny) for number in numbers]
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", PDEPTH_NUM_THREADS="1"):
        futures = [pool.submit(oracle, seed, number, tiny) for number in numbers]
    try:
        yield futures
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Later(Future[tuple[Arrays, list[str]]]):
    """Computed when it is asked."""

    def __init__(self, seed: int, number: int, tiny: bool) -> None:
        super().__init__()
        self._asked = seed, number, tiny

    def result(self, timeout: float | None = None) -> tuple[Arrays, list[str]]:
        return oracle(*self._asked)


def oracle(seed: int, number: int, tiny: bool) -> tuple[Arrays, list[str]]:
    """The cpu backend's answers, and in what they differ from the definition's on a sample."""
    _, case, problem = problem_of(seed, number, tiny)
    rng = np.random.default_rng([seed, number, 1])
    votes = problem.votes(backend="cpu", num_threads=1)
    wrong: list[str] = []
    sample = rng.choice(votes.votes.shape[-1], 2, replace=False)
    options = {name: value for name, value in problem.options.items() if name != "return_counts"}
    if problem.own:
        options["query_rows"] = options["query_rows"][sample]
    queries = None if problem.queries is None else problem.queries[sample]
    with np.errstate(over="ignore"):
        table = definition.probe_votes(problem.support, problem.labels, queries, **options)
    if differing(np.asarray(votes.votes)[sample], table.votes):
        wrong.append("the cpu backend's votes differ from the definition's")
    if case.way == "together":
        each = [layer.votes(backend="cpu", num_threads=1) for layer in _beside(problem)]
        return {
            "votes": np.stack([np.asarray(layer.votes) for layer in each]),
            "tied": np.stack([np.asarray(layer.tied) for layer in each]),
        }, wrong
    if case.way == "early exit":
        own = np.asarray(votes.votes)
        others = rng.permutation(problem.labels)[: len(own)]
        predictions = np.where(rng.random(len(own)) < 0.7, own, others)
        return {**_depths(problem, predictions, "cpu"), "predictions": predictions}, wrong
    return _arrays(votes), wrong


def _arrays(votes: pdepth.Votes) -> Arrays:
    found = {"votes": _host(votes.votes), "tied": _host(votes.tied)}
    if votes.counts is not None:
        found["counts"] = _host(votes.counts)
    return found


def _host(values: Any) -> NDArray[Any]:
    return np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values)


def _on_device(bench: Bench, way: str, problem: Problem, wanted: Arrays) -> Arrays:
    """The triton backend's answers by one way."""
    if way == SMALL:
        with small_supports():
            return _arrays(_votes_by(bench, "device", problem))
    if way == "early exit":
        return _depths(problem, wanted["predictions"], "triton")
    if way == "together":
        layers = _beside(problem)
        support = [layer.support.to(bench.device) for layer in layers]
        queries = None
        if not problem.own:
            queries = [layer.tensor[problem.rows :].to(bench.device) for layer in layers]
        return _arrays(
            pdepth.probe_votes(
                support, problem.labels, queries, backend="triton", **problem.options
            )
        )
    with mock.patch.object(
        TritonSession, "_in_chunks", autospec=True, side_effect=TritonSession._in_chunks
    ) as chunks:
        found = _arrays(_votes_by(bench, way, problem))
    if way == "chunks" and not bench.tiny and not chunks.call_count:
        raise AssertionError("no layer came in chunks")
    return found


def _votes_by(bench: Bench, way: str, problem: Problem) -> pdepth.Votes:
    """Votes of rows on the device or, in chunks or not, of the host; or on the device, at addresses
    that no vector load takes."""

    def placed(rows: torch.Tensor) -> torch.Tensor:
        if way in ("host", "chunks"):
            return rows
        if way != "unaligned":
            return rows.to(bench.device)
        wide = torch.zeros(len(rows) + 1, rows.shape[1] + 1, dtype=rows.dtype, device=bench.device)
        wide[1:, 1:] = rows.to(bench.device)
        return wide[1:, 1:]

    options: dict[str, Any] = {}
    if way == "chunks":
        queries = None if problem.queries is None else rows_of(problem.queries, "queries")
        pair = ProbeRows("layer", rows_of(problem.support, "support"), queries)
        options["memory"] = 2 * least_room(pair, problem.options["k"])
    return replace(problem, tensor=placed(problem.tensor)).votes(backend="triton", **options)


def _beside(problem: Problem) -> list[Problem]:
    """A layer beside others of all widths, which are cut or repeated from it."""
    tensor = problem.tensor
    return [
        replace(
            problem, tensor=tensor.repeat(1, -(-width // tensor.shape[1]))[:, :width].contiguous()
        )
        for width in (BESIDE[0], tensor.shape[1], *BESIDE[1:])
    ]


def _depths(problem: Problem, predictions: NDArray[Any], backend: str) -> Arrays:
    """Of two layers, with early exit on the device and without on the CPU."""
    tensor = problem.tensor
    layers = [replace(problem, tensor=t) for t in (tensor[:, : (tensor.shape[1] + 1) // 2], tensor)]
    result = pdepth.depth_from_embeddings(
        [layer.support for layer in layers],
        problem.labels,
        predictions,
        None if problem.own else [layer.queries for layer in layers],
        backend=backend,
        early_exit=backend == "triton",
        **problem.options,
    )
    return {"depth": _host(result.depth), "undefined": _host(result.undefined)}


def differing(found: Any, expected: Any) -> int:
    """How many elements differ; all, where shapes do."""
    found, expected = np.asarray(found), np.asarray(expected)
    return int((found != expected).sum()) if found.shape == expected.shape else found.size


def _layers(rng: np.random.Generator, rows: int, width: int) -> Iterator[tuple[str, Any]]:
    """Every kind of layer that has broken a k-NN search, each a call that gives (rows, width)."""

    @lru_cache
    def values() -> NDArray[np.float64]:
        return rng.standard_normal((rows, width))

    def chosen(most: int) -> NDArray[np.float64]:
        return values()[rng.integers(0, max(1, most), rows)]

    def softmax() -> NDArray[np.float64]:
        logits = np.exp(8 * (values() - values().max(axis=1, keepdims=True)))
        return np.asarray(logits / logits.sum(axis=1, keepdims=True))

    outlier = np.where(np.arange(rows) == rows // 2, 1e9, 1)[:, None]
    yield "normal", values
    yield "integers that tie", lambda: rng.integers(-2, 3, (rows, width)).astype(float)
    yield "duplicates", lambda: chosen(rows // 9)
    yield "nearly equal rows", lambda: chosen(9) + 1e-6 * values()
    yield "a dead layer", lambda: np.zeros((rows, width))
    yield "behind a ReLU", lambda: np.maximum(0, chosen(9) + 0.3 * values())
    yield "far from the origin", lambda: values() + 1e3
    yield "an outlier", lambda: values() * outlier
    yield "large and small", lambda: values() * 10.0 ** rng.uniform(-12, 12, (rows, 1))
    yield "a softmax", softmax


def _fitting(values: Any, dtype: str) -> Any:
    if "int" in dtype:
        end = torch.iinfo(getattr(torch, dtype))
        low, high = max(end.min, -(2**40)), min(end.max, 2**40)
        return np.clip(np.rint(values * 4 + (128 if low == 0 else 0)), low, high)
    most = 65504.0 if dtype == "float16" else 3e38
    return np.clip(values, -most, most)
