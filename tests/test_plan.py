"""The bill before the job: its numbers, and that what happens does not exceed them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import IterableDataset

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
options = {"memory": sys.argv[1], "batch_size": 64, "num_threads": 2, "k": 5}
small = TensorDataset(*(each[:200] for each in data.tensors))
pdepth.prediction_depth(net, small, progress=False, early_exit=False, **options)
bill = pdepth.plan(net, data, asked, measure=False, **options)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
said = []
note = lambda event: said.append(event.text) if event.stage == "note" else None
pdepth.prediction_depth(net, data, asked, progress=note, early_exit=False, **options)
print(said[-1], file=sys.stderr)
print(bill.memory, status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "queries"), [("50MB", "own"), ("50MB", "others"), ("1GB", "own")]
)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_is_no_higher_than_was_said(memory, queries):
    """74 MB of embeddings; a batch of the forward pass and the allocator's slack come on top.

    The queries of others fit into 50 MB, and the support passes by.
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK, memory, queries], check=True, capture_output=True, text=True
    )
    if queries == "others":
        assert "computed in one pass" in done.stderr
    said, taken = map(int, done.stdout.split())
    assert said <= pdepth.arrays.memory.parse_bytes(memory)
    assert taken <= said + 32_000_000
    if memory == "1GB":
        assert taken > 74_000_000
