"""The bill before the job: its numbers, and that what happens does not exceed them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import pdepth

from helpers.spans import BATCH, DRY_ROWS, QUERIES, ROW, SUPPORT, WIDTHS, CountingNetwork, network


def plan(**options):
    settings = {"k": 5, "batch_size": BATCH, "measure": False}
    return pdepth.plan(network(), SUPPORT, QUERIES, **(settings | options))


def test_one_pass_where_all_fits():
    found = plan()
    assert found.widths == WIDTHS
    assert (found.support, found.queries, found.forwarded) == (150, 70, 220)
    assert found.passes == (found.probes,)
    assert found.flop == 2 * 150 * 70 * sum(WIDTHS)
    assert found.embeddings == 220 * ROW
    assert found.memory > found.embeddings
    assert found.seconds is None
    assert (found.written, found.read, found.device_memory) == (0, 0, 0)


def test_passes_and_rows_are_those_that_happen(monkeypatch):
    """With all votes asked, what is run is what was said."""
    memory = int(220 * 4 * (30 + 20 + 3) / 0.75) + 8
    found = plan(memory=memory)
    assert found.passes == (("2", "4", "softmax"), ("input", "0"))
    assert found.forwarded == 440
    model = CountingNetwork()
    pdepth.prediction_depth(
        model, SUPPORT, QUERIES, k=5, batch_size=BATCH, memory=memory, early_exit=False,
        layers=["net.0", "net.2", "net.4"], progress=False,
    )  # fmt: skip
    ran = sum(rows for rows in model.rows if rows != "whole")
    assert ran == found.forwarded + DRY_ROWS + 2 * BATCH  # and one batch again, for its bits


def test_a_store_is_in_the_bill(tmp_path):
    found = plan(keep_embeddings=tmp_path / "kept")
    assert found.written == found.read == 220 * ROW
    assert found.memory < 10**9
    assert not list(tmp_path.iterdir())


def test_time_comes_from_a_measurement():
    found = plan(measure=True)
    assert found.forward_seconds > 0
    assert found.search_seconds > 0
    assert found.seconds == found.forward_seconds + found.search_seconds
    text = str(found)
    assert re.search(r"^probes +5, widths 6; 40; 30; 20; 3$", text, re.M)
    assert re.search(r"^rows +150 of support, 70 queries$", text, re.M)
    assert re.search(r"^forward +220 rows in 1 pass, \d", text, re.M)
    assert re.search(r"^search +2\.08 MFLOP at most, ", text, re.M)
    assert re.search(r"^time +.* at most, as measured here$", text, re.M)


class Images(Dataset):
    """Rows of 3 x 32 x 32, so many that their embeddings are beyond a small memory."""

    def __len__(self):
        return 200

    def __getitem__(self, row):
        if row >= len(self):
            raise IndexError
        return torch.full((3, 32, 32), row / 200), row % 4


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip


def test_a_plan_beyond_the_machine_names_max_width():
    """What it says of max_width is what a plan with it says."""
    options = {"k": 5, "measure": False, "batch_size": 8}
    whole = 3 * 32 * 32 + 32 * 32 * 32 + 64 * 32 * 32 + 4
    asked = pdepth.plan(convolutions(), Images(), memory="60MB", **options)
    assert asked.embeddings == 200 * 4 * whole
    assert asked.narrower.max_width == 16384
    given = pdepth.plan(convolutions(), Images(), memory="60MB", max_width=16384, **options)
    assert given.widths == (3 * 32 * 32, 32 * 22 * 22, 64 * 16 * 16, 4)
    assert (asked.narrower.embeddings, asked.narrower.flop) == (given.embeddings, given.flop)
    assert given.narrower is None
    assert given.notes == ("max_width 16384: averaged to fewer positions at 1 to 3",)
    lines = [line.split(maxsplit=1) for line in str(asked).splitlines()]
    assert ["narrower", "max_width=16384 would need 28.0 MB and 2.8 GFLOP"] in lines

    less = pdepth.plan(convolutions(), Images(), memory="16MB", **options).narrower
    assert less.max_width == 4096  # the widest with which all fits
    least = pdepth.plan(convolutions(), Images(), memory=2_500_000, **options).narrower
    assert least.max_width == 1024  # not even that fits
    fits = pdepth.plan(convolutions(), Images(), memory="2GB", **options)
    assert fits.narrower is None
    flat = plan(memory=int(220 * 4 * 53 / 0.75) + 8)  # no positions to average over
    assert len(flat.passes) == 2
    assert flat.narrower is None


def test_a_long_search_is_beyond_the_machine(monkeypatch):
    options = {"k": 5, "batch_size": 8, "memory": "2GB"}
    monkeypatch.setattr("pdepth.planning.LARGE_FLOP", 1e9)
    assert pdepth.plan(convolutions(), Images(), measure=False, **options).narrower is not None
    rates = {"row_seconds_of": [1e-9] * 4, "_search_rates": [(16, 1e6), (4096, 1e6)]}
    for name, rate in rates.items():
        monkeypatch.setattr(f"pdepth.planning.{name}", lambda *_, rate=rate: rate)
    slow = pdepth.plan(convolutions(), Images(), **options)
    assert slow.search_seconds > 3600
    assert slow.narrower.max_width == 16384  # 2.8 GFLOP: three quarters of an hour
    rates["_search_rates"] = [(16, 1e9), (4096, 1e9)]
    monkeypatch.setattr("pdepth.planning._search_rates", lambda *_: rates["_search_rates"])
    assert pdepth.plan(convolutions(), Images(), **options).narrower is None


@pytest.mark.slow
def test_resnet50_at_224_pixels():
    """The example of docs/models.md."""
    models = pytest.importorskip("torchvision.models")

    class Pictures(Images):
        def __len__(self):
            return 5000

        def __getitem__(self, row):
            if row >= len(self):
                raise IndexError
            return torch.full((3, 224, 224), row / 5000), row % 4

    options = {"memory": "16GB", "measure": False, "batch_size": 2}
    network = models.resnet50()
    flattened = pdepth.plan(network, Pictures(), **options)
    assert (flattened.embeddings, flattened.flop) == (129_474_080_000, 3.236852e14)
    assert str(flattened.narrower) == "max_width=16384 would need 5.1 GB and 12.8 TFLOP"
    pooled = pdepth.plan(network, Pictures(), pool="mean", **options)
    assert (pooled.embeddings, pooled.flop) == (3_333_920_000, 8.3348e12)
    assert pooled.widths[:3] == (150528, 64, 256)
    assert pooled.narrower is None
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    for printed in map(str, (flattened, pooled)):
        lines = [line for line in printed.splitlines() if not line.startswith("memory")]  # threads'
        lines = [re.sub(f"{tempfile.gettempdir()}, (.*?)(;.*)?$", r"/tmp, \1", x) for x in lines]
        assert set(lines) <= set(page.splitlines())


def test_what_a_plan_cannot_say():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(*SUPPORT.tensors, strict=True)

    with pytest.raises(
        ValueError, match="support: expected data that knows how many rows it has, got a stream"
    ):
        pdepth.plan(network(), Stream())
    with pytest.raises(MemoryError, match="memory: expected at least .*, got 700 bytes"):
        plan(memory=700)
    with pytest.raises(
        ValueError, match=r"k: expected at most 149 \(support has 150 .*\), got 150"
    ):
        pdepth.plan(network(), SUPPORT, k=150)


PEAK = """
import sys, torch
from pathlib import Path
from torch import nn
from torch.utils.data import TensorDataset
import pdepth

def status(name):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))
    return int(line.split()[1]) * 1024

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(),
                    nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4))
data = TensorDataset(torch.randn(1500, 64), torch.arange(1500) % 4)
asked = TensorDataset(*(each[:300] for each in data.tensors)) if sys.argv[2] == "others" else None
on_disk = {sys.argv[3]: sys.argv[4]} if len(sys.argv) > 3 else {}
options = {"memory": sys.argv[1], "batch_size": 64, "num_threads": 2, "k": 5}
small = TensorDataset(*(each[:200] for each in data.tensors))
pdepth.prediction_depth(net, small, progress=False, early_exit=False, **options)
bill = pdepth.plan(net, data, asked, measure=False, **options, **on_disk)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
said = []
note = lambda event: said.append(event.text) if event.stage == "note" else None
pdepth.prediction_depth(net, data, asked, progress=note, early_exit=False, **options, **on_disk)
print(said[-1], file=sys.stderr)
print(bill.memory, status("VmHWM") - before)
"""


def peak(*arguments: object) -> tuple[int, int, str]:
    """Bytes that the plan says, bytes that the run takes, and what the run says of it.

    Large blocks that are freed go back to the system: glibc by itself keeps up to 32 MB each.
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, arguments)], check=True, capture_output=True,
        text=True, env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},
    )  # fmt: skip
    said, taken = map(int, done.stdout.split())
    return said, taken, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "queries"), [("50MB", "own"), ("50MB", "others"), ("1GB", "own")]
)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_is_no_higher_than_was_said(memory, queries):
    """74 MB of embeddings; batches of the forward pass, 1 MB each, come on top.

    The queries of others fit into 50 MB, and the support passes by.
    """
    said, taken, text = peak(memory, queries)
    if queries == "others":
        assert "computed in one pass" in text
    assert said <= pdepth.arrays.memory.parse_bytes(memory)
    assert taken <= said + 8_000_000
    if memory == "1GB":
        assert taken > 74_000_000


@pytest.mark.parametrize("queries", ["own", "others"])
@pytest.mark.parametrize("option", ["spill", "keep_embeddings"])
@pytest.mark.slow_if(queries=["own"])
@pytest.mark.slow_if(option=["keep_embeddings"])
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_is_no_higher_where_embeddings_are_on_disk(tmp_path, option, queries):
    """What was read goes, where pages of a map would stay: 74 MB are searched in 50 MB."""
    folder = tmp_path if option == "spill" else tmp_path / "kept"
    said, taken, text = peak("50MB", queries, option, folder)
    assert said <= 50_000_000
    assert taken <= said + 8_000_000
    assert ("spilled to" if option == "spill" else "kept in") in text
