"""Gates: no time is taken before these have passed on the device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import torch

from pdepth import certify
from pdepth.bench import common
from pdepth.bench.gpu.context import Bench
from pdepth.kernels import filter, prepare
from pdepth.kernels.bundles import Bundles
from pdepth.kernels.lists import Lists, scores_of
from pdepth.kernels.support import pack


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
    """Rows (n, D) as a search packs them, at a size at which what the bound adds for tiny residuals
    is next to nothing, but not moved: (n, columns) float16, half squared norms and norms (1, n)."""
    packed = pack(rows, centred=False).packed
    held = packed.rows.view(packed.norms.shape[1], -1)[: len(rows)]
    more = columns - held.shape[1]
    held = torch.nn.functional.pad(held, (0, more)) if more > 0 else held[:, :columns]
    return held.contiguous(), packed.half_norms[:, : len(rows)], packed.norms[:, : len(rows)]


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
