"""The compiled engine as a guest in someone's process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pdepth
from pdepth import _native, native

ROOT = Path(__file__).parents[1]


def test_levels_are_ordered_and_the_portable_one_runs() -> None:
    levels = native.simd_levels()
    assert next(iter(levels)) == "portable"
    assert levels["portable"]
    assert native.simd_level() == [name for name, runs in levels.items() if runs][-1]


@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="csrc/ is not beside the tests")
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="no g++ and nm")
@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_a_level_shares_no_code_with_the_rest(level: str, tmp_path: Path) -> None:
    """A weak symbol in a level's object could become the copy that every machine runs."""
    flags = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq"]}
    made = tmp_path / "level.o"
    source = ROOT / "csrc" / f"level_{level}.cpp"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", *flags.get(level, []), "-c", str(source), "-o", str(made)],
        check=True,
    )
    listed = subprocess.run(["nm", "-C", str(made)], capture_output=True, text=True, check=True)
    shared = [
        line.split(None, 2)[1:]
        for line in listed.stdout.splitlines()
        if line[16:].split()[0] in "WVuTDBR"
    ]
    assert shared == [["D", f"pdepth::{level}_level"]] or shared == [
        ["R", f"pdepth::{level}_level"]
    ]


def test_other_python_threads_run_meanwhile() -> None:
    rng = np.random.default_rng(0)
    support = rng.standard_normal((6000, 256)).astype(np.float32)
    labels = rng.integers(0, 10, 6000)
    turns, done = 0, threading.Event()

    def turn() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    other = threading.Thread(target=turn)
    other.start()
    before = turns
    pdepth.probe_votes(support, labels, num_threads=1)
    ran = turns - before
    done.set()
    other.join()
    assert ran > 10


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_outlives_a_call() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    rng = np.random.default_rng(0)
    support = rng.standard_normal((500, 20)).astype(np.float32)
    pdepth.probe_votes(support, rng.integers(0, 3, 500), num_threads=5)
    before = count()
    pdepth.probe_votes(support, rng.integers(0, 3, 500), num_threads=5)
    assert count() == before


def test_progress_is_reported_and_its_exception_ends_the_call() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((4000, 300)).astype(np.float32) for _ in range(3)]
    labels = rng.integers(0, 10, 4000)
    seen: list[tuple[int, float, int]] = []

    def watch(probe: int, fraction: float, asked: int) -> None:
        seen.append((probe, fraction, asked))
        if probe == 1:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        pdepth.depth_from_embeddings(
            layers, labels, labels, early_exit=False, progress=watch, num_threads=2
        )
    assert {probe for probe, _, _ in seen} == {0, 1}
    assert all(0 <= fraction <= 1 and asked == 4000 for _, fraction, asked in seen)


def test_ctrl_c_ends_a_long_call_soon() -> None:
    code = (
        "import numpy as np, pdepth\n"
        "rows = np.random.default_rng(0).standard_normal((30000, 2000)).astype(np.float32)\n"
        "print('begun', flush=True)\n"
        "pdepth.probe_votes(rows, np.arange(30000) % 10)\n"
        "print('ended', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - sent < 5
    assert out == ""
    assert "KeyboardInterrupt" in err


def test_the_binding_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="unknown element type"):
        _native.first_not_finite(np.zeros((2, 2)), "float12", "portable", 1)
    with pytest.raises(ValueError, match="each row contiguous"):
        _native.first_not_finite(np.zeros((2, 4))[:, ::2], "float64", "portable", 1)
