"""All that a GPU has to show, in one command: equality first, then times, limits and peers.

    python bench/gpu                    every part, in order
    python bench/gpu equality times     some of them
    python bench/gpu --list             what there is

Parts are meant to stay under ten minutes each; one that fails is named, and the others go on. But
no time is taken before tests, bound and equality have passed: in this run, or stored by this commit
(of a copy without its history, PDEPTH_COMMIT names it). What each part found is stored under
bench/results/, one file a device, and a part that runs again replaces its own. Without a GPU,
TRITON_INTERPRET=1 and --tiny go through the script at sizes that an interpreter manages: no times
worth anything, but it is known to run.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import product
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch

import pdepth
from pdepth import certify, definition
from pdepth.arrays.arguments import Layer
from pdepth.arrays.rows import rows_of
from pdepth.backends import triton as engine
from pdepth.bench import common
from pdepth.bench.suite.render import save
from pdepth.bench.suite.shapes import CLASSES, NETWORKS, K
from pdepth.kernels import filter, prepare
from pdepth.kernels.groups import Groups
from pdepth.kernels.lists import Lists, scores_of
from pdepth.kernels.search import Answer, Search, majority

WIDTHS = (16, 64, 128, 256, 512, 1024, 4096)
ROUNDS = 5
LIMIT = 400  # seconds, after which a long part begins nothing new
Say = Callable[[str], None]
TYPES = ("float32", "bfloat16", "float16", "float64", "uint8", "int64")


@dataclass
class Bench:
    """The device, the sizes, and what a part has found.

    keep: stores what a part has found so far, in case it does not come to its end.
    """

    device: torch.device
    tiny: bool
    say: Say
    keep: Callable[[], None] = lambda: None
    found: dict[str, Any] = field(default_factory=dict)
    differing: int = 0

    def size(self, rows: int) -> int:
        return min(rows, 150 if rows > 1000 else 60) if self.tiny else rows

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], Any]) -> float:
        self.wait()
        begin = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begin

    def normal(self, rows: int, width: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(rows, width, generator=generator, device=self.device)

    def rows_of(
        self, kind: str, rows: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Support and queries (rows, width) each, and labels (rows,) int32 of the support.

        "normal" says nothing of its labels, so that most votes have to be settled; "classes" are
        clusters behind a ReLU, as trained layers have them.
        """
        generator = torch.Generator(self.device).manual_seed(2)
        labels, own = torch.randint(
            0, CLASSES, (2, rows), generator=generator, device=self.device, dtype=torch.int32
        )
        support, queries = self.normal(rows, width), self.normal(rows, width, 1)
        if kind == "classes":
            centres = self.normal(CLASSES, width, 3)
            support = support.add_(centres[labels.long()]).relu_()
            queries = queries.add_(centres[own.long()]).relu_()
        return support, queries, labels

    def interleaved(
        self, calls: dict[str, Callable[[], Any]], rounds: int = ROUNDS
    ) -> dict[str, Any]:
        """Medians over rounds in which each call has its turn; an error in a call's place."""
        times: dict[str, list[float]] = {}
        errors: dict[str, str] = {}
        for number in range(1 + (1 if self.tiny else rounds)):
            for name, call in calls.items():
                if name in errors:
                    continue
                try:
                    taken = self.seconds(call)
                except Exception as error:
                    errors[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                    continue
                if number:  # the first compiles and warms
                    times.setdefault(name, []).append(taken)
        return {**{name: median(each) for name, each in times.items()}, **errors}


# ---- equality ----


def _layers(rng: np.random.Generator, rows: int, width: int) -> Iterator[tuple[str, Any]]:
    """Every kind of layer that has broken a k-NN engine, (rows, width) each."""
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


def tests(bench: Bench) -> None:
    """The GPU engine's tests, on this device: copies, chunks, streams and the kernels' twins."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["tests/backends/test_triton.py", "tests/kernels"]
    command += ["--ignore", "tests/kernels/test_compiled.py"]  # for GPUs that are not here
    done = subprocess.run(
        [*command, "-k", "centres"] if bench.tiny else command, cwd=common.HOME,
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    bench.say(done.stdout.rstrip())
    bench.differing += done.returncode != 0
    bench.found["said"] = done.stdout.splitlines()[-1:]


WAYS = ("device", "host", "unaligned", "chunks", "early exit", "together")
BESIDE = (10, 40, 200, 1500)  # widths of the layers that are asked together with another


def equality(bench: Bench) -> None:
    """Votes and ties against the CPU engine's, all of them, and the definition's on a sample."""
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
        asked = 3 if bench.tiny else int(rng.integers(100, 2_001)) | 1
        width = int(np.exp(rng.uniform(0, np.log(40 if bench.tiny else 5_000))))
        k, classes = int(rng.choice([1, 30, 30, 61])), int(rng.choice([2, 10, 100]))
        labels = rng.integers(0, classes, rows)
        for number, (kind, values) in enumerate(_layers(rng, rows + asked, width)):
            way = WAYS[(number + turn) % len(WAYS)]  # each kind comes in every way
            dtype = TYPES[int(rng.integers(len(TYPES)))]
            given = torch.from_numpy(_fitting(values, dtype)).to(getattr(torch, dtype))
            support, queries = given[:rows], given[rows:]
            own = rng.random() < 0.5
            options: dict[str, Any] = {"k": min(k, rows - 1)}
            if own:
                options["query_rows"] = rng.integers(0, rows, asked)
            here = None if own else queries
            wanted = pdepth.probe_votes(support, labels, here, backend="cpu", **options)
            name = (
                f"turn {turn}: {kind}, {dtype}, {rows} x {asked} x {width}, k = {options['k']}, "
                f"{way}, {'own rows' if own else 'others'}"
            )
            if way == "early exit":
                agree = rng.random(asked) < 0.7
                predictions = np.where(agree, wanted.votes.numpy(), rng.permutation(labels)[:asked])
                wrong = _depths_differing(given, rows, own, labels, predictions, options)
                if wrong:
                    differing.append(f"{name}: {wrong} depths differ from the CPU engine's")
            elif way == "together":
                wrong = _differing_together(bench, given, rows, own, labels, options)
                if wrong:
                    differing.append(f"{name}: {wrong} votes differ from the CPU engine's")
            else:
                with mock.patch.object(
                    engine.TritonSession,
                    "_in_chunks",
                    autospec=True,
                    side_effect=engine.TritonSession._in_chunks,
                ) as chunks:
                    found = _given(bench, way, support, labels, here, options)
                counted["layers in chunks"] += chunks.call_count
                for what in ("votes", "tied"):
                    wrong = _differing(getattr(found, what), getattr(wanted, what))
                    if wrong:
                        differing.append(f"{name}: {wrong} {what} differ from the CPU engine's")
            counted["cpu"] += asked
            counted[way] += 1
            some = rng.choice(asked, min(asked, 2), replace=False)
            asked_rows = {"query_rows": options["query_rows"][some]} if own else {}
            with np.errstate(over="ignore"):
                table = definition.probe_votes(
                    support, labels, None if own else queries[some], k=options["k"], **asked_rows
                )
            if (wanted.votes.numpy()[some] != table.votes).any():
                differing.append(f"{name}: the CPU engine's votes differ from the definition's")
            counted["definition"] += len(some)
    bench.differing += len(differing)
    bench.found |= {"seed": seed, "compared": counted, "differing": differing}
    bench.say(
        f"{counted['cpu']:,} votes compared with the CPU engine's and {counted['definition']} with "
        f"the definition's, {counted['layers in chunks']} layers in chunks; "
        f"{len(differing)} layers differ"
    )
    for line in differing:
        bench.say(f"  {line}")


def _differing(found: Any, wanted: Any) -> int:
    return int((torch.as_tensor(found).cpu() != torch.as_tensor(wanted).cpu()).sum())


def _given(
    bench: Bench,
    way: str,
    support: torch.Tensor,
    labels: Any,
    queries: torch.Tensor | None,
    options: dict[str, Any],
) -> pdepth.Votes:
    """Votes of rows on the device or, in chunks or not, of the host; or on the device, at addresses
    that no vector load takes."""

    def placed(rows: torch.Tensor | None) -> torch.Tensor | None:
        if rows is None or way in ("host", "chunks"):
            return rows
        if way == "device":
            return rows.to(bench.device)
        wide = torch.zeros(len(rows) + 1, rows.shape[1] + 1, dtype=rows.dtype, device=bench.device)
        wide[1:, 1:] = rows.to(bench.device)
        return wide[1:, 1:]

    if way == "chunks":
        asked = None if queries is None else rows_of(queries, "queries")
        layer = Layer("layer", rows_of(support, "support"), asked)
        options = options | {"memory": 2 * engine.least_room(layer, options["k"])}
    found: pdepth.Votes = pdepth.probe_votes(
        placed(support), labels, placed(queries), backend="triton", **options
    )
    return found


def _differing_together(
    bench: Bench,
    given: torch.Tensor,
    rows: int,
    own: bool,
    labels: Any,
    options: dict[str, Any],
) -> int:
    """Of a layer beside others of all widths, which are parts and repetitions of it."""
    layers = [
        given.repeat(1, -(-width // given.shape[1]))[:, :width].contiguous()
        for width in (BESIDE[0], given.shape[1], *BESIDE[1:])
    ]
    support = [each[:rows].to(bench.device) for each in layers]
    queries = None if own else [each[rows:].to(bench.device) for each in layers]
    found = pdepth.probe_votes(support, labels, queries, backend="triton", **options)
    wrong = 0
    for place, each in enumerate(layers):
        here = None if own else each[rows:]
        alone = pdepth.probe_votes(each[:rows], labels, here, backend="cpu", **options)
        wrong += _differing(found.votes[place], alone.votes)
        wrong += _differing(found.tied[place], alone.tied)
    return wrong


def _depths_differing(
    given: torch.Tensor,
    rows: int,
    own: bool,
    labels: Any,
    predictions: Any,
    options: dict[str, Any],
) -> int:
    """Of two layers, with early exit on the device and without on the CPU."""
    layers = [given[:, : (given.shape[1] + 1) // 2], given]
    support = [each[:rows] for each in layers]
    queries = None if own else [each[rows:] for each in layers]
    found, wanted = (
        pdepth.depth_from_embeddings(
            support,
            labels,
            predictions,
            queries,
            backend=backend,
            early_exit=backend == "triton",
            **options,
        )
        for backend in ("triton", "cpu")
    )
    return _differing(found.depth, wanted.depth) + _differing(found.undefined, wanted.undefined)


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
            packed = torch.zeros(len(values), columns, dtype=torch.float16, device=bench.device)
            packed[:, :width] = values
            support, queries = packed[:rows], packed[: tile.queries].flip(0).contiguous()
            halves = support.double().square().sum(dim=1) / 2
            lists = Lists(1, tile.queries, 512, bench.device)
            blocks = torch.tensor([[columns // tile.columns, 0, 0]], device=bench.device)
            filter.scan(
                queries.flatten(), support.flatten(), halves.float()[None], lists,
                Groups(lists, tile.group), blocks, tile, first=0, rows=rows,
            )  # fmt: skip
            keys = lists.keys[0, :, :rows]
            true = filter.scan_reference(queries, support, halves)
            off = (scores_of(keys) - true.gather(1, keys & (2**31 - 1))).abs()
            norms = support.double().norm(dim=1)[keys & (2**31 - 1)].cpu().numpy()
            norm = queries.double().norm(dim=1)[:, None].cpu().numpy()
            share = float((off.cpu().numpy() / proven.error(norm, np.float64(0), norms)).max())
            bench.found[f"{width}, {tile.columns} at a time, {name}"] = share
            worst = max(worst, share)
        bench.say(f"D = {width:6}: worst error / bound so far {worst:.3f}")
    if worst > 1:
        bench.differing += 1
        bench.say("the bound does not hold: votes cannot be trusted")


def _sums_to_lose(bench: Bench, rows: int, width: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Rows (n, D) whose products lose as much as they can, all in one direction."""
    normal = bench.normal(rows, width)
    yield "normal", normal
    yield "of one sign", normal.abs() + 1
    place = torch.arange(width, device=bench.device)
    for every in (16, 64, 1024, max(width, 2)):
        # Beside a 1 each product is less than a sum's last place, and all point one way.
        for small in (2.0**-11.9, 2.0**-12.1, 2.0**-12.6):
            row = torch.full((width,), small, device=bench.device)
            row[place % every == 0] = 1
            yield f"swallowed, {small:.1e} beside 1 of {every}", row.expand(rows, -1)
    signs = torch.where(place % 2 == 0, 1.0, -1.0)
    large = normal[:, : (width + 1) // 2].repeat_interleave(2, dim=1)[:, :width]
    yield "cancelling", 100 * large * signs + 2.0**-6 * normal
    yield "of mixed scales", normal * 2.0 ** bench.normal(rows, width, 1).mul(3).round()


# ---- times ----


def _search(support: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    votes = torch.empty(len(queries), dtype=torch.int32, device=support.device)
    tied = torch.empty(len(queries), dtype=torch.bool, device=support.device)
    rows = torch.arange(len(queries), device=support.device)
    search = Search([support], [queries], rows, rows.new_full(rows.shape, -1), labels, K)
    search.answer([Answer(votes=votes, tied=tied)])
    return votes


def _blocks(queries: torch.Tensor, columns: int) -> Sequence[torch.Tensor]:
    """Queries a few at a time, so that a block of distances takes a gigabyte."""
    return torch.split(queries, max(1, (1 << 28) // columns))


def _peers(
    support: torch.Tensor, queries: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], Any]]:
    """Other ways to the same votes; those whose library is missing are left out."""

    def vote(rows: torch.Tensor) -> torch.Tensor:
        votes: torch.Tensor = majority(labels[rows])[0]
        return votes

    def matmul(precision: str) -> torch.Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return products()
        finally:
            torch.set_float32_matmul_precision(before)

    def products() -> torch.Tensor:
        norms = support.square().sum(dim=1)
        return torch.cat(
            [
                vote((norms - 2 * (part @ support.T)).topk(K, largest=False).indices)
                for part in _blocks(queries, len(support))
            ]
        )

    def cdist() -> torch.Tensor:
        return torch.cat(
            [
                vote(torch.cdist(part, support).topk(K, largest=False).indices)
                for part in _blocks(queries, len(support))
            ]
        )

    def flashlib() -> torch.Tensor:
        from flashlib import flash_knn

        return vote(flash_knn(queries[None], support[None], K)[1][0].long())

    def faiss() -> torch.Tensor:
        library, resources = _faiss()
        _, rows = library.knn_gpu(resources, queries, support, K)
        return vote(rows)

    return {
        "torch matmul + topk": partial(matmul, "highest"),
        "torch matmul + topk, TF32": partial(matmul, "high"),
        "torch.cdist + topk": cdist,
        "flashlib": flashlib,
        "faiss": faiss,
    }


@lru_cache
def _faiss() -> tuple[Any, Any]:
    """faiss, taught torch's tensors, and its memory on the device: once, and in no time taken."""
    import faiss
    import faiss.contrib.torch_utils

    return faiss, faiss.StandardGpuResources()


def times(bench: Bench) -> None:
    """One layer of 50,000 x 50,000, by width: pdepth beside the 16-bit matrix product."""
    widths = (16, 64) if bench.tiny else (*WIDTHS, 65_536)
    for width, kind in product(widths, ("normal", "classes")):
        here = bench.size(50_000 if width <= 4096 else 20_000)
        support, queries, labels = bench.rows_of(kind, here, width)
        halves = support.half(), queries.half()

        def multiply(halves: tuple[torch.Tensor, torch.Tensor] = halves) -> None:
            for part in _blocks(halves[1], len(halves[0])):
                part @ halves[0].T

        found = bench.interleaved(
            {
                "pdepth": partial(_search, support, queries, labels),
                "float16 product": multiply,
                "copy": partial(torch.clone, torch.cat([support, queries])),
            }
        )
        work = 2.0 * here * here * width
        rates = {
            name: work / each / 1e12 for name, each in found.items() if isinstance(each, float)
        }
        bench.found[f"{here} x {here} x {width}, {kind}"] = found | {"TFLOP/s": rates}
        bench.keep()
        share = rates.get("pdepth", math.nan) / rates.get("float16 product", math.nan)
        bench.say(
            f"{here:,} x {here:,} x {width:6}, {kind:7}: "
            f"{rates.get('pdepth', math.nan):7.1f} TFLOP/s, "
            f"{share:.2f} of the float16 product"
        )


def peers(bench: Bench) -> None:
    """The same votes by other libraries, on the same rows; how many differ from pdepth's."""
    rows = bench.size(50_000)
    for width in (40,) if bench.tiny else (64, 128, 512, 4096):
        support, queries, labels = bench.rows_of("normal", rows, width)
        ours = _search(support, queries, labels)
        ways = _peers(support, queries, labels)
        found = bench.interleaved(
            {"pdepth": partial(_search, support, queries, labels), **ways},
            rounds=3,
        )
        differ = {
            name: int((way().to(ours.dtype) != ours).sum())
            for name, way in ways.items()
            if isinstance(found[name], float)
        }
        bench.found[f"{rows} x {rows} x {width}"] = found | {"differing": differ}
        bench.keep()
        for name, taken in found.items():
            said = taken if isinstance(taken, str) else f"{taken:9.4f} s"
            wrong = f", {differ[name]:,} of {rows:,} votes differ" if name in differ else ""
            bench.say(f"{rows:,} x {rows:,} x {width:5} {name:26} {said}{wrong}")


def networks(bench: Bench) -> None:
    """All probes of a network on CIFAR-10's sizes, a layer's rows at a time, and a small job."""
    support, queries = (40, 2) if bench.tiny else (50_000, 10_000)
    labels = torch.randint(0, CLASSES, (support,), device=bench.device, dtype=torch.int32)
    widths = (24, 10) if bench.tiny else NETWORKS["ResNet18"]
    total = 0.0
    done: dict[int, Any] = {}
    for width in widths:
        if width not in done:  # equal widths take equal times
            rows = bench.normal(support + queries, width)
            call = partial(_search, rows[:support], rows, labels)
            done[width] = bench.interleaved({"one": call}, rounds=2)["one"]
            bench.say(f"{support:,} x {support + queries:,} x {width}: {done[width]}")
            del rows, call
        total += done[width] if isinstance(done[width], float) else math.nan
    layer_times = {str(width): taken for width, taken in done.items()}
    bench.found["ResNet18, all probes"] = {"seconds": total, "layers": layer_times}
    bench.keep()
    bench.say(f"ResNet18, {len(widths)} probes, {support:,} x {support + queries:,}: {total:.3f} s")
    small = bench.size(1000)
    layers = [bench.normal(small, width) for width in ((8, 40) if bench.tiny else [256] * 11)]
    own = np.random.default_rng(0).integers(0, CLASSES, small)
    asked = np.arange(2 if bench.tiny else small)
    job = partial(pdepth.probe_votes, layers, own, query_rows=asked, backend="triton")
    found = bench.interleaved({"small job": job}, rounds=20)
    bench.found[f"{small} x {small} x {len(layers)} layers"] = found
    bench.say(f"{small:,} x {small:,} x {len(layers)} layers, one call: {found}")


def kernels(bench: Bench) -> None:
    """Where the time of a layer goes, by kernel."""
    if bench.device.type != "cuda":
        bench.say("a profile wants a CUDA device")
        return
    for width, kind in product((64, 512, 4096), ("normal", "classes")):
        support, queries, labels = bench.rows_of(kind, 50_000, width)
        _search(support, queries, labels)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            _search(support, queries, labels)
            bench.wait()
        spent = {each.key: each.device_time_total / 1e3 for each in profile.key_averages()}
        top = dict(sorted(spent.items(), key=lambda item: -item[1])[:10])
        bench.found[f"{width}, {kind}"] = top
        bench.keep()
        bench.say(f"D = {width}, {kind}, milliseconds:")
        for name, taken in top.items():
            bench.say(f"  {taken:9.3f} {name[:80]}")


def race(bench: Bench) -> None:
    """Configurations of the filter, then selections; the winners are for kernels/filter.py."""
    rows = bench.size(50_000)
    choices = {
        64: [filter.Tile(q, s, 64, 0, w, g) for q, s, w in _TILES for g in (2, 3)],
        128: [filter.Tile(q, s, 128, 0, w, g) for q, s, w in _TILES for g in (2, 3)],
        256: [filter.Tile(q, s, 256, 0, w, 2) for q, s, w in _TILES],
        1024: [
            filter.Tile(q, s, d, 1024, w, g)
            for q, s, w in _TILES
            for d, g in ((64, 3), (64, 4), (32, 4))
        ],
    }
    if bench.tiny:
        choices = {40: choices[64][:1]}
    for width, tiles in choices.items():
        given = bench.rows_of("normal", rows, width)
        ours, begin = _search(*given), time.perf_counter()
        times: dict[filter.Tile, float] = {}
        for number, tile in enumerate(tiles):
            if time.perf_counter() - begin > LIMIT / len(choices):
                bench.say(f"D = {width}: no time for the other {len(tiles) - number} tiles")
                break
            times[tile] = _raced(bench, width, tile, given, ours)
        best = sorted(times, key=lambda tile: times[tile])[:2]
        for tile, group in product(best, (1,) if bench.tiny else (1, 4, 16)):
            if group == 1 or tile.support // group <= 32:  # bits of a word
                _raced(bench, width, replace(tile, group=group), given, ours)


def _raced(
    bench: Bench,
    width: int,
    tile: filter.Tile,
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ours: torch.Tensor,
) -> float:
    """Seconds of one configuration; infinite where it fails or its votes are others."""
    with mock.patch.object(filter, "tile_for", return_value=tile):
        found = bench.interleaved({"one": partial(_search, *given)}, 3)["one"]
        if isinstance(found, float) and not bool((_search(*given) == ours).all()):
            found = "votes differ"
    bench.found.setdefault(str(width), []).append({"tile": str(tile), "seconds": found})
    bench.keep()
    bench.say(f"D = {width}: {found} {tile}")
    return found if isinstance(found, float) else math.inf


_TILES = ((128, 64, 4), (128, 64, 8), (128, 128, 8), (64, 128, 4), (64, 64, 4), (128, 256, 8))


def compiling(bench: Bench) -> None:
    """The first call of a process whose cache of compiled kernels is empty, and with it filled."""
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        bench.say("Triton wants a C compiler, and there is none")
        return
    code = (
        "import time, torch, pdepth, pdepth.kernels.search\n"
        f"device = {str(bench.device)!r}\n"
        f"rows = torch.randn({bench.size(2000)}, {40 if bench.tiny else 512}, device=device)\n"
        f"labels = torch.arange({bench.size(2000)}) % 10\n"
        "begin = time.perf_counter()\n"
        "pdepth.probe_votes(rows, labels, query_rows=torch.arange(2), backend='triton')\n"
        "print(time.perf_counter() - begin)\n"
    )
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TRITON_CACHE_DIR": cache}
        taken = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE,
                    text=True, check=True,
                ).stdout
            )
            for _ in range(2)
        ]  # fmt: skip
    bench.found |= {"empty cache": taken[0], "filled cache": taken[1]}
    bench.say(f"first call {taken[0]:.2f} s, with compiled kernels in the cache {taken[1]:.2f} s")


GATES: dict[str, Callable[[Bench], None]] = {
    each.__name__: each for each in (tests, bound, equality)
}
PARTS = GATES | {each.__name__: each for each in (times, peers, networks, kernels, race, compiling)}


def about(device: torch.device) -> dict[str, Any]:
    """The machine, and the device with its driver."""
    found: dict[str, Any] = common.machine("torch", "triton", "flashlib", "faiss-gpu-cu12")
    if device.type != "cuda":
        return {**found, "device": "none: Triton's interpreter"}
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        driver = ""
    return found | {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "device_memory": properties.total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def _passed(record: Any, where: dict[str, Any]) -> bool:
    """Whether a gate has found no difference: in this run, or earlier with all the same."""
    if record is None or record["differing"]:
        return False
    before = record["about"]
    known = where["commit"] and not where["commit"].endswith("-dirty")
    same = all(before.get(key) == where.get(key) for key in ("commit", "versions", "driver"))
    return before is where or bool(known and same)


def main(arguments: list[str]) -> int:
    tiny = "--tiny" in arguments
    wanted = [each for each in arguments if each != "--tiny"]
    if "--list" in wanted:
        print("\n".join(f"{name:10} {part.__doc__}" for name, part in PARTS.items()))
        return 0
    if unknown := [each for each in wanted if each not in PARTS]:
        print(f"Error: {unknown[0]!r} is no part; there are {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    if (reason := engine.unavailable()) is not None:
        print(f"Error: no GPU engine here: {reason}", file=sys.stderr)
        return 2
    device = torch.device("cpu" if engine.interpreted() else "cuda")
    if device.type == "cpu" and not tiny:
        print("Error: Triton is interpreted here; --tiny is wanted with it.", file=sys.stderr)
        return 2
    where = about(device)
    name = re.sub(r"\W+", "-", where["device"].lower())
    path = common.HOME / common.RESULTS / f"gpu-{name}.json"
    stored = json.loads(path.read_text())["parts"] if path.exists() and not tiny else {}
    failed = []
    for part in wanted or PARTS:
        closed = [gate for gate in GATES if not _passed(stored.get(gate), where)]
        if part not in GATES and closed:
            print(f"{part}: left out, since {', '.join(closed)} did not pass here")
            failed.append(part)
            continue
        bench = Bench(device, tiny, lambda line: print(line, flush=True))

        def keep(part: str = part, bench: Bench = bench) -> None:
            found = {"about": where, "differing": bench.differing, "found": bench.found}
            stored[part] = found
            if not tiny:
                save({"parts": stored}, path)

        if part not in GATES:  # half of a gate is none
            bench.keep = keep
        print(f"== {part}: {PARTS[part].__doc__}", flush=True)
        begin = time.perf_counter()
        try:
            PARTS[part](bench)
        except Exception:
            bench.differing += 1  # nobody knows
            traceback.print_exc()
        keep()
        if bench.differing:
            failed.append(part)
        print(f"== {part}: {time.perf_counter() - begin:.0f} s", flush=True)
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
