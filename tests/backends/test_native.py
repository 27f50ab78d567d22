"""The compiled backend as a guest in someone's process."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import _native, native

ROOT = Path(__file__).parents[2]


def test_levels_are_ordered_and_the_portable_one_runs() -> None:
    levels = native.simd_levels()
    assert list(levels)[:2] == ["bf16", "portable"]
    assert levels["bf16"]
    assert levels["portable"]
    assert native.simd_level() == [name for name, runs in levels.items() if runs][-1]


def test_supports_that_nobody_searches_make_no_chain() -> None:
    """300,000 of them, each after the one before, once ended in a stack overflow."""
    rows = np.ones((4, 2), np.float32)
    support = _native.Support((rows[:1], "float32"), metric="sqeuclidean", kept_bytes=1 << 20)
    for _ in range(300_000):
        support = support.followed_by((rows, "float32"))
    assert support.packing() is None
    assert support.nbytes == 0


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="csrc/ is not beside the tests")
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="no g++ and nm")
def test_a_level_shares_no_code_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weak symbol in a level's object could become the copy that every machine runs.

    Objects as a build compiles them, or as PDEPTH_BUILD_CACHE keeps them.
    """
    setuptools = pytest.importorskip("setuptools")
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.chdir(ROOT)
    build = runpy.run_path(str(ROOT / "setup.py"))
    levels = [name[6:] for name in build["SOURCES"] if name.startswith("level_")]
    assert set(native.simd_levels()) == set(levels)
    objects: dict[str, str] = {}

    class Levels(given["cmdclass"]["build_ext"]):  # type: ignore[misc]
        def build_extension(self, ext: Any) -> None:
            for level in levels:
                objects[level] = self.object_of(ext, f"csrc/level_{level}.cpp")

    command = Levels(setuptools.Distribution({"ext_modules": given["ext_modules"]}))
    command.build_temp = str(tmp_path)
    command.ensure_finalized()
    command.run()
    for level in levels:
        listed = subprocess.run(
            ["nm", "-C", "--defined-only", "--extern-only", objects[level]],
            capture_output=True,
            text=True,
            check=True,
        )
        shared = [line.split(None, 2)[2] for line in listed.stdout.splitlines()]
        assert shared == [f"pdepth::{level}_level"]


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
    before = count()
    for threads in (11, 23):  # more than any call before
        pdepth.probe_votes(support, rng.integers(0, 3, 500), num_threads=threads)
        assert count() == before


def test_progress_is_reported_and_its_exception_ends_the_call() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((4000, 300)).astype(np.float32) for _ in range(3)]
    labels = rng.integers(0, 10, 4000)
    seen: list[tuple[int, float, int]] = []

    def watch(probe: int, fraction: float, queries: int) -> None:
        seen.append((probe, fraction, queries))
        if probe == 1:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        pdepth.depth_from_embeddings(
            layers, labels, labels, early_exit=False, progress=watch, num_threads=2
        )
    assert {probe for probe, _, _ in seen} == {0, 1}
    assert all(0 <= fraction <= 1 and queries == 4000 for _, fraction, queries in seen)


def test_progress_never_goes_back() -> None:
    """Half of the rows lie closer together than float32 tells: all three stages are needed."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3000, 40))
    rows[::2] = rows[0] + 1e-9 * rng.standard_normal((1500, 40))
    seen: list[float] = []
    pdepth.depth_from_embeddings(
        [rows],
        rng.integers(0, 3, 3000),
        np.zeros(3000, dtype=int),
        num_threads=1,
        progress=lambda _probe, fraction, _queries: seen.append(fraction),
    )
    assert seen == sorted(seen)
    assert seen[-1] > 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="the limit works so on Linux")
def test_threads_that_the_system_refuses_are_done_without() -> None:
    """Under a stack limit beyond the address space no thread can be made."""
    code = (
        "import threading\n"
        "import numpy as np, pdepth\n"
        "rows = np.random.default_rng(0).standard_normal((500, 20))\n"
        "votes = pdepth.probe_votes(rows, np.arange(500) % 3, num_threads=8).votes\n"
        "expected = pdepth.probe_votes(rows, np.arange(500) % 3, num_threads=1).votes\n"
        "assert (votes == expected).all()\n"
        "try:\n"
        "    threading.Thread(target=print).start()\n"
        "except RuntimeError:\n"
        "    print('no thread was made')\n"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -s {2**37} && exec {sys.executable} -"],
        input=code,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "ulimit" in done.stderr:
        pytest.skip("the stack limit cannot be raised here")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no thread was made\n"


def test_ctrl_c_ends_a_long_call() -> None:
    code = (
        "import numpy as np, pdepth\n"
        "rows = np.random.default_rng(0).standard_normal((12000, 2000)).astype(np.float32)\n"
        "print('started', flush=True)\n"
        "pdepth.probe_votes([rows] * 200, np.arange(12000) % 10)\n"
        "print('ended', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)  # the whole call takes many minutes
        finally:
            process.kill()
    assert out == ""
    assert "KeyboardInterrupt" in err


def test_the_binding_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match="type: expected an element type, got float12"):
        _native.first_not_finite(np.zeros((2, 2)), "float12", "portable", 1)
    with pytest.raises(ValueError, match="each row contiguous"):
        _native.first_not_finite(np.zeros((2, 4))[:, ::2], "float64", "portable", 1)
