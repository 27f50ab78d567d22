"""Times: one layer by width, networks, kernels, configurations of the filter, the first call."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch

import pdepth
from pdepth.bench.gpu.context import LIMIT, Bench, search, small_supports
from pdepth.bench.gpu.rivals import rivals
from pdepth.bench.suite.shapes import CLASSES, NETWORKS
from pdepth.kernels import filter

WIDTHS = (16, 64, 128, 256, 512, 1024, 4096)
TILES = ((128, 64, 4), (128, 64, 8), (128, 128, 8), (64, 128, 4), (64, 64, 4), (128, 256, 8))


def peers(bench: Bench) -> None:
    """The same votes by other libraries, on the same rows; how many differ from pdepth's."""
    rows = bench.size(50_000)
    for width in (40,) if bench.tiny else (64, 128, 512, 4096):
        support, queries, labels = bench.rows_of("normal", rows, width)
        ours = search(support, queries, labels)
        ways = rivals(support, queries, labels)
        taken = bench.interleaved(
            {"pdepth": partial(search, support, queries, labels), **ways},
            rounds=3,
        )
        differ = {
            name: int((way().to(ours.dtype) != ours).sum())
            for name, way in ways.items()
            if isinstance(taken[name], float)
        }
        bench.results[f"{rows} x {rows} x {width}"] = taken | {"differing": differ}
        bench.keep()
        for name, value in taken.items():
            text = value if isinstance(value, str) else f"{value:9.4f} s"
            wrong = f", {differ[name]:,} of {rows:,} votes differ" if name in differ else ""
            bench.say(f"{rows:,} x {rows:,} x {width:5} {name:26} {text}{wrong}")


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
            call = partial(search, rows[:support], rows, labels)
            done[width] = bench.interleaved({"one": call}, rounds=2)["one"]
            bench.say(f"{support:,} x {support + queries:,} x {width}: {done[width]}")
            del rows, call
        total += done[width] if isinstance(done[width], float) else math.nan
    layer_times = {str(width): taken for width, taken in done.items()}
    bench.results["ResNet18, all probes"] = {"seconds": total, "layers": layer_times}
    bench.keep()
    bench.say(f"ResNet18, {len(widths)} probes, {support:,} x {support + queries:,}: {total:.3f} s")
    small = bench.size(1000)
    layers = [bench.normal(small, width) for width in ((8, 40) if bench.tiny else [256] * 11)]
    own = np.random.default_rng(0).integers(0, CLASSES, small)
    rows = np.arange(2 if bench.tiny else small)
    job = partial(pdepth.probe_votes, layers, own, query_rows=rows, backend="triton")
    with small_supports():
        taken = bench.interleaved({"small job": job}, rounds=20)
    bench.results[f"{small} x {small} x {len(layers)} layers"] = taken
    bench.say(f"{small:,} x {small:,} x {len(layers)} layers, one call: {taken}")


def kernels(bench: Bench) -> None:
    """Where the time of a layer goes, by kernel."""
    if bench.device.type != "cuda":
        bench.say("a profile needs a CUDA device")
        return
    for width, kind in product((64, 512, 4096), ("normal", "classes")):
        support, queries, labels = bench.rows_of(kind, 50_000, width)
        search(support, queries, labels)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            search(support, queries, labels)
            bench.wait()
        spent = {each.key: each.device_time_total / 1e3 for each in profile.key_averages()}
        top = dict(sorted(spent.items(), key=lambda item: -item[1])[:10])
        bench.results[f"{width}, {kind}"] = top
        bench.keep()
        bench.say(f"D = {width}, {kind}, milliseconds:")
        for name, taken in top.items():
            bench.say(f"  {taken:9.3f} {name[:80]}")


def race(bench: Bench) -> None:
    """Configurations of the filter, then selections; the winners are for kernels/filter.py."""
    rows = bench.size(50_000)
    choices = {
        64: [filter.Tile(q, s, 64, 0, w, g) for q, s, w in TILES for g in (2, 3)],
        128: [filter.Tile(q, s, 128, 0, w, g) for q, s, w in TILES for g in (2, 3)],
        256: [filter.Tile(q, s, 256, 0, w, 2) for q, s, w in TILES],
        1024: [
            filter.Tile(q, s, d, 1024, w, g)
            for q, s, w in TILES
            for d, g in ((64, 3), (64, 4), (32, 4))
        ],
    }
    if bench.tiny:
        choices = {40: choices[64][:1]}
    for width, tiles in choices.items():
        rows_and_labels = bench.rows_of("normal", rows, width)
        ours, begin = search(*rows_and_labels), time.perf_counter()
        times: dict[filter.Tile, float] = {}
        for number, tile in enumerate(tiles):
            if time.perf_counter() - begin > LIMIT / len(choices):
                bench.say(f"D = {width}: no time for the other {len(tiles) - number} tiles")
                break
            times[tile] = _raced(bench, width, tile, rows_and_labels, ours)
        best = sorted(times, key=lambda tile: times[tile])[:2]
        for tile, bundle in product(best, (1,) if bench.tiny else (1, 4, 16)):
            if bundle == 1 or tile.support // bundle <= 32:  # bits of a word
                _raced(bench, width, replace(tile, bundle=bundle), rows_and_labels, ours)


def _raced(
    bench: Bench,
    width: int,
    tile: filter.Tile,
    rows_and_labels: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ours: torch.Tensor,
) -> float:
    """Seconds of one configuration; infinite where it fails or its votes are others."""
    with mock.patch.object(filter, "tile_for", return_value=tile):
        taken = bench.interleaved({"one": partial(search, *rows_and_labels)}, 3)["one"]
        if isinstance(taken, float) and not bool((search(*rows_and_labels) == ours).all()):
            taken = "votes differ"
    bench.results.setdefault(str(width), []).append({"tile": str(tile), "seconds": taken})
    bench.keep()
    bench.say(f"D = {width}: {taken} {tile}")
    return taken if isinstance(taken, float) else math.inf


def compiling(bench: Bench) -> None:
    """The first call of a process whose cache of compiled kernels is empty, and with it filled."""
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        bench.say("Triton needs a C compiler, and there is none")
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
    bench.results |= {"empty cache": taken[0], "filled cache": taken[1]}
    bench.say(f"first call {taken[0]:.2f} s, with compiled kernels in the cache {taken[1]:.2f} s")
