"""Gates: no time is taken before these have passed on the device."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch

import pdepth
from pdepth import certify, definition
from pdepth.arrays.problem import ProbeRows
from pdepth.arrays.rows import rows_of
from pdepth.backends.room import least_room
from pdepth.backends.triton import TritonSession
from pdepth.bench import common
from pdepth.bench.gpu.context import LIMIT, Bench
from pdepth.kernels import filter, prepare
from pdepth.kernels.bundles import Bundles
from pdepth.kernels.lists import Lists, scores_of
from pdepth.kernels.stack import Stack, on_device

TYPES = ("float32", "bfloat16", "float16", "float64", "uint8", "int64")
WAYS = ("device", "host", "unaligned", "chunks", "early exit", "together")
BESIDE = (10, 40, 200, 1500)  # widths of the layers that are searched together with another


def tests(bench: Bench) -> None:
    """The triton backend's tests, on this device: copies, chunks, streams, the kernels' twins."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["-m", "slow or not slow"]
    command += ["tests/backends/test_triton.py", "tests/kernels"]
    command += ["--ignore", "tests/kernels/test_compiled.py"]  # for GPUs that are not here
    done = subprocess.run(
        [*command, "-k", "centres"] if bench.tiny else command, cwd=common.HOME,
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    bench.say(done.stdout.rstrip())
    bench.differing += done.returncode != 0
    bench.results["summary"] = done.stdout.splitlines()[-1:]


def equality(bench: Bench) -> None:
    """Votes and ties against the cpu backend's, all of them, and the definition's on a sample."""
    seed = int.from_bytes(os.urandom(4), "little")
    rng = np.random.default_rng(seed)
    bench.say(f"seed {seed}")
    counted = dict.fromkeys(("cpu", "definition", "layers in chunks", *WAYS), 0)
    differing: list[str] = []
    begin = time.perf_counter()
    for turn in range(1 if bench.tiny else 6):
        if time.perf_counter() - begin > LIMIT:
            bench.say(f"{turn} turns took {LIMIT} s; no more")
            break
        rows = bench.size(int(rng.integers(2_000, 30_001)) | 1)
        count = 3 if bench.tiny else int(rng.integers(100, 2_001)) | 1
        width = int(np.exp(rng.uniform(0, np.log(40 if bench.tiny else 5_000))))
        k, classes = int(rng.choice([1, 30, 30, 61])), int(rng.choice([2, 10, 100]))
        labels = rng.integers(0, classes, rows)
        for number, (kind, values) in enumerate(_layers(rng, rows + count, width)):
            way = WAYS[(number + turn) % len(WAYS)]  # each kind comes in every way
            dtype = TYPES[int(rng.integers(len(TYPES)))]
            tensor = torch.from_numpy(_fitting(values, dtype)).to(getattr(torch, dtype))
            own = rng.random() < 0.5
            options: dict[str, Any] = {"k": min(k, rows - 1)}
            if own:
                options["query_rows"] = rng.integers(0, rows, count)
            problem = _Problem(tensor, rows, own, labels, options)
            name = (
                f"turn {turn}: {kind}, {dtype}, {rows} x {count} x {width}, k = {options['k']}, "
                f"{way}, {'own rows' if own else 'others'}"
            )
            differing += [f"{name}: {line}" for line in _compare(bench, way, problem, rng, counted)]
    bench.differing += len(differing)
    bench.results |= {"seed": seed, "compared": counted, "differing": differing}
    bench.say(
        f"{counted['cpu']:,} votes compared with the cpu backend's and {counted['definition']} "
        f"with the definition's, {counted['layers in chunks']} layers in chunks; "
        f"{len(differing)} layers differ"
    )
    for line in differing:
        bench.say(f"  {line}")


@dataclass
class _Problem:
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


def _compare(
    bench: Bench, way: str, problem: _Problem, rng: np.random.Generator, counted: dict[str, int]
) -> Iterator[str]:
    """One layer by one way; a line for each kind of answer that differs."""
    expected = problem.votes(backend="cpu")
    count = expected.votes.shape[-1]
    if way == "early exit":
        if wrong := _differing_depths(problem, expected, rng):
            yield f"{wrong} depths differ from the cpu backend's"
    elif way == "together":
        if wrong := _differing_together(bench, problem):
            yield f"{wrong} votes differ from the cpu backend's"
    else:
        with mock.patch.object(
            TritonSession, "_in_chunks", autospec=True, side_effect=TritonSession._in_chunks
        ) as chunks:
            votes = _votes_by(bench, way, problem)
        counted["layers in chunks"] += chunks.call_count
        for answer in ("votes", "tied"):
            if wrong := _differing(getattr(votes, answer), getattr(expected, answer)):
                yield f"{wrong} {answer} differ from the cpu backend's"
    counted["cpu"] += count
    counted[way] += 1
    sample = rng.choice(count, min(count, 2), replace=False)
    counted["definition"] += len(sample)
    options = dict(problem.options)
    if problem.own:
        options["query_rows"] = options["query_rows"][sample]
    queries = None if problem.queries is None else problem.queries[sample]
    with np.errstate(over="ignore"):
        table = definition.probe_votes(problem.support, problem.labels, queries, **options)
    if (expected.votes.numpy()[sample] != table.votes).any():
        yield "the cpu backend's votes differ from the definition's"


def _layers(rng: np.random.Generator, rows: int, width: int) -> Iterator[tuple[str, Any]]:
    """Every kind of layer that has broken a k-NN search, (rows, width) each."""
    values = rng.standard_normal((rows, width))
    yield "normal", values
    yield "integers that tie", rng.integers(-2, 3, (rows, width)).astype(float)
    yield "duplicates", values[rng.integers(0, max(1, rows // 9), rows)]
    yield "nearly equal rows", values[rng.integers(0, 9, rows)] + 1e-6 * values
    yield "a dead layer", np.zeros((rows, width))
    yield "behind a ReLU", np.maximum(0, values[rng.integers(0, 9, rows)] + 0.3 * values)
    yield "far from the origin", values + 1e3
    yield "an outlier", values * np.where(np.arange(rows) == rows // 2, 1e9, 1)[:, None]
    yield "large and small", values * 10.0 ** rng.uniform(-12, 12, (rows, 1))
    logits = np.exp(8 * (values - values.max(axis=1, keepdims=True)))
    yield "a softmax", logits / logits.sum(axis=1, keepdims=True)


def _differing(values: Any, expected: Any) -> int:
    return int((torch.as_tensor(values).cpu() != torch.as_tensor(expected).cpu()).sum())


def _votes_by(bench: Bench, way: str, problem: _Problem) -> pdepth.Votes:
    """Votes of rows on the device or, in chunks or not, of the host; or on the device, at addresses
    that no vector load takes."""

    def placed(rows: torch.Tensor) -> torch.Tensor:
        if way in ("host", "chunks"):
            return rows
        if way == "device":
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


def _differing_together(bench: Bench, problem: _Problem) -> int:
    """Of a layer beside others of all widths, which are cut or repeated from it."""
    tensor, rows = problem.tensor, problem.rows
    layers = [
        tensor.repeat(1, -(-width // tensor.shape[1]))[:, :width].contiguous()
        for width in (BESIDE[0], tensor.shape[1], *BESIDE[1:])
    ]
    support = [layer[:rows].to(bench.device) for layer in layers]
    queries = None if problem.own else [layer[rows:].to(bench.device) for layer in layers]
    together = pdepth.probe_votes(
        support, problem.labels, queries, backend="triton", **problem.options
    )
    wrong = 0
    for place, layer in enumerate(layers):
        alone = replace(problem, tensor=layer).votes(backend="cpu")
        wrong += _differing(together.votes[place], alone.votes)
        wrong += _differing(together.tied[place], alone.tied)
    return wrong


def _differing_depths(problem: _Problem, expected: pdepth.Votes, rng: np.random.Generator) -> int:
    """Of two layers, with early exit on the device and without on the CPU."""
    votes = expected.votes.numpy()
    predictions = np.where(
        rng.random(len(votes)) < 0.7, votes, rng.permutation(problem.labels)[: len(votes)]
    )
    tensor = problem.tensor
    layers = [replace(problem, tensor=t) for t in (tensor[:, : (tensor.shape[1] + 1) // 2], tensor)]
    queries = None if problem.own else [layer.queries for layer in layers]
    device, host = (
        pdepth.depth_from_embeddings(
            [layer.support for layer in layers],
            problem.labels,
            predictions,
            queries,
            backend=name,
            early_exit=name == "triton",
            **problem.options,
        )
        for name in ("triton", "cpu")
    )
    return _differing(device.depth, host.depth) + _differing(device.undefined, host.undefined)


def _fitting(values: Any, dtype: str) -> Any:
    if dtype in ("uint8", "int64"):
        low, high = (0, 255) if dtype == "uint8" else (-(2**40), 2**40)
        return np.clip(np.rint(values * 4 + (128 if low == 0 else 0)), low, high)
    most = 65504.0 if dtype == "float16" else 3e38
    return np.clip(values, -most, most)


def bound(bench: Bench) -> None:
    """How near the matrix units' sums come to the bound that counts them as truncated."""
    worst = 0.0
    widths = (20, 300) if bench.tiny else (16, 64, 128, 256, 1024, 4096, 65_536)
    tiles = [(width, filter.tile_for(width, bench.device)) for width in widths]
    tiles += [(width, filter.WIDE) for width in widths if width <= 256]  # beside wider layers
    for width, tile in tiles:
        sums = filter.sums_of(tile)
        columns, rows = sums.columns(width), tile.support
        proven = certify.Products(sums, width, 0.0, prepare.NEGLIGIBLE)
        for name, values in _sums_to_lose(bench, max(rows, tile.queries), width):
            support, halves, norms = _packed(values[:rows], columns)
            queries, _, query_norms = _packed(values[: tile.queries].flip(0), columns)
            lists = Lists(1, tile.queries, 512, bench.device)
            blocks = torch.tensor([[columns // tile.columns, 0, 0]], device=bench.device)
            filter.scan(
                queries.flatten(), support.flatten(), halves, lists, Bundles(lists, tile.bundle),
                blocks, tile, first=0, rows=rows,
            )  # fmt: skip
            keys = lists.keys[0, :, :rows]
            true = filter.scan_reference(queries, support, halves[0])
            off = (scores_of(keys) - true.gather(1, keys & (2**31 - 1))).abs()
            norm = norms[0, keys & (2**31 - 1)].double().cpu().numpy()
            error = proven.error(query_norms.T.double().cpu().numpy(), np.float64(0), norm)
            share = float((off.cpu().numpy() / error).max())
            bench.results[f"{width}, {tile.columns} at a time, {name}"] = share
            worst = max(worst, share)
        bench.say(f"D = {width:6}: worst error / bound so far {worst:.3f}")
    if worst > 1:
        bench.differing += 1
        bench.say("the bound does not hold: votes cannot be trusted")


def _packed(rows: torch.Tensor, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows (n, columns) float16, half squared norms and norms (1, n) as a search packs them: of a
    size at which what the bound adds for tiny residuals is next to nothing."""
    count, width, device = *rows.shape, rows.device
    packed = torch.empty(count, columns, dtype=torch.float16, device=device)
    halves, norms, residuals = torch.empty(3, 1, count, device=device)
    scale = prepare.LARGEST / 2.0 ** math.frexp(float(rows.abs().max()))[1]
    prepare.prepare(
        Stack([rows]), torch.arange(count, device=device),
        on_device([[columns // prepare.BLOCK, 0, 0]], device),
        torch.zeros(width, dtype=torch.float64, device=device),
        on_device([scale], device, torch.float64), packed, halves, norms, residuals,
    )  # fmt: skip
    return packed, halves, norms


def _sums_to_lose(bench: Bench, rows: int, width: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Rows (n, D) whose products lose as much as they can, all in one direction."""
    normal = bench.normal(rows, width)
    yield "normal", normal
    yield "of one sign", normal.abs() + 1
    place = torch.arange(width, device=bench.device)
    for every in (16, 64, 1024, max(width, 2)):
        # Beside a 1 each product is less than a sum's last place, and all point one way: just less
        # than that of units that keep 21, 22 or 23 bits below the 1, and less by more.
        for small in (0.707 / 2**10, 0.9995 / 2**11, 0.707 / 2**11, 2.0**-12.1, 2.0**-12.6):
            row = torch.full((width,), small, device=bench.device)
            row[place % every == 0] = 1
            yield f"swallowed, {small:.1e} beside 1 of {every}", row.expand(rows, -1)
    signs = torch.where(place % 2 == 0, 1.0, -1.0)
    large = normal[:, : (width + 1) // 2].repeat_interleave(2, dim=1)[:, :width]
    yield "cancelling", 100 * large * signs + 2.0**-6 * normal
    yield "of mixed scales", normal * 2.0 ** bench.normal(rows, width, 1).mul(3).round()
