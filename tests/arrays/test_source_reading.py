"""How sources are read: once where they fit, one chunk ahead, and only the rows that count."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import definition
from pdepth.arrays.sources import Source
from pdepth.backends import cpu

from helpers.cases import first_difference
from helpers.sources import GRID, LABELS, ROWS, K, Slices, check, force

PAGE = Path(__file__).parents[2] / "docs" / "embeddings.md"


@pytest.mark.parametrize("memory", [6_000, "40kB", "1MB"])
def test_memory_changes_no_bit(memory: int | str) -> None:
    source = Slices(GRID)
    check(source, GRID, memory=memory)
    assert source.threads == {"pdepth-reader_0"}


def test_a_layer_that_fits_is_read_once() -> None:
    source = Slices(GRID)
    pdepth.kneighbors(source, k=K)
    assert source.read == [(0, ROWS)]


def test_a_support_that_fits_beside_blocks_of_queries_is_read_once() -> None:
    source, asked = Slices(GRID), Slices(np.tile(GRID, (40, 1)))
    pdepth.kneighbors(source, asked, k=K, memory=300_000)
    assert source.read == [(0, ROWS)]
    assert len(asked.read) > 10


def test_a_probe_that_none_reaches_is_not_read() -> None:
    first, last = Slices(GRID), Slices(GRID)
    found = pdepth.depth_from_embeddings([first, last], LABELS, np.full(ROWS, 99), k=K)
    assert found.undefined.all()
    assert first.read == []
    assert last.read


def test_one_chunk_is_read_ahead_while_the_kernel_works(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 30, ROWS)
    steps: list[str] = []
    begun = threading.Event()

    class Watched(Slices):
        def __getitem__(self, rows: slice) -> Any:
            steps.append(f"read {rows.start}")
            begun.set()
            return super().__getitem__(rows)

    neighbors = cpu.CpuSession.neighbors

    def watched(session: cpu.CpuSession, *arguments: Any) -> Any:
        begun.wait(5)
        begun.clear()
        time.sleep(0.02)
        steps.append("work")
        return neighbors(session, *arguments)

    monkeypatch.setattr(cpu.CpuSession, "neighbors", watched)
    asked = GRID[:9]
    begun.set()
    found = pdepth.kneighbors(Watched(GRID), asked, k=K)
    assert first_difference(found[1], definition.kneighbors(GRID, asked, k=K)[1]) is None
    assert steps.index("read 30") < steps.index("work") < steps.index("read 90")
    assert steps.count("work") == 5


def test_rows_far_apart_are_read_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.random.default_rng(0).standard_normal((60, 20_000)).astype(np.float32)
    source = Slices(wide)
    asked = [2, 3, 50]
    force(monkeypatch, 60, 60)
    queries = pdepth.kneighbors(wide, source, k=3)
    assert source.read == [(0, 60)]
    source.read.clear()
    force(monkeypatch, 59, 60)
    found = pdepth.kneighbors(source, query_rows=asked, k=3, exclude_self=False)
    assert first_difference(found[1], queries[1][asked]) is None
    assert (2, 4) in source.read
    assert (50, 51) in source.read


def test_slow_reading_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Slices):
        def __getitem__(self, rows: slice) -> Any:
            time.sleep(0.5)  # on a busy machine the search takes its time too
            return super().__getitem__(rows)

    with caplog.at_level(logging.INFO, "pdepth"):
        pdepth.kneighbors(Slow(GRID), k=K)
    (line,) = caplog.messages
    assert re.fullmatch(
        r"Reading was the limit: 3\.6 kB at [\d.]+ kB/s; the kernels waited [\d.]+ of [\d.]+ s\.",
        line,
    )


PEAK = """
import sys, numpy as np, pdepth
from pathlib import Path

def status(name):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))
    return int(line.split()[1]) * 1024

rng = np.random.default_rng(0)
small = rng.standard_normal((3000, 64)).astype("f4")
pdepth.kneighbors(small, k=5)  # threads and their scratch are there
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
options = {"k": 5, "memory": 64_000_000, "num_threads": 1}
if sys.argv[2] == "own":
    options["query_rows"] = np.arange(0, 100_000, 997)
    asked = None
else:
    asked = pdepth.open_source(sys.argv[1])[0:50]
pdepth.kneighbors(sys.argv[1], asked, metric=sys.argv[3], **options)
print(status("VmHWM") - before)
"""


@pytest.mark.slow_if(way=["own"])
@pytest.mark.parametrize(("way", "metric"), [("own", "sqeuclidean"), ("queries", "cosine")])
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_near_what_is_given(way: str, metric: str, tmp_path: Path) -> None:
    """200 MB of float32 under 64 MB."""
    rng = np.random.default_rng(0)
    for number in range(5):
        np.save(tmp_path / f"{number}.npy", rng.standard_normal((20_000, 512), dtype=np.float32))
    command = [sys.executable, "-c", PEAK, str(tmp_path), way, metric]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < 96_000_000


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documentation = inspect.getdoc(Source)  # without its indentation, which Python 3.13 strips
    assert documentation is not None
    docstring = textwrap.dedent(documentation.split("ten lines:\n")[1].split("\n\nIt is")[0])
    (section,) = re.findall(r"## Embeddings larger than memory\n.*?\n## ", PAGE.read_text(), re.S)
    (example,) = re.findall(r"```python\n(import numpy.*?)```", section, re.S)
    array = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for number, path in enumerate(paths):
        np.save(path, array[1000 * number :][:1000])
    force(monkeypatch, 1234, 40)
    for text in (docstring, example):
        names: dict[str, Any] = {"np": np}
        exec(text, names)
        found = pdepth.kneighbors(names["Blocks"](paths, 4), array[:50], k=K)
        wanted = definition.kneighbors(array, array[:50], k=K)
        assert first_difference(found[1], wanted[1]) is None
