"""Address space that ends: the right answer or MemoryError, and never the process's end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter

import pytest

pytest.importorskip("resource")

# Children of a process that has called before, or never, with a little more memory than they hold.
CHILDREN = """
    import os, resource, signal, sys, traceback
    from pathlib import Path

    import numpy as np
    # What a first call imports: CPython 3.12 makes SystemError of memory that ends meanwhile.
    import numpy.ma  # by np.unique
    import psutil

    import pdepth

    class Slices:
        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, rows):
            return self.array[rows]

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2000, 64)).astype(np.float32)
    labels = rng.integers(0, 4, 2000)
    form, warm, step = sys.argv[1], sys.argv[2] == "warm", int(sys.argv[3])
    support = Slices(rows) if form == "source" else rows
    options = {"k": 5, "metric": "cosine" if form == "cosine" else "sqeuclidean"}
    process = os.fork()  # the expected answer, of a process that is not counted
    if process == 0:
        np.save("expected.npy", pdepth.probe_votes(support, labels, **options).votes)
        os._exit(0)
    os.waitpid(process, 0)
    expected = np.load("expected.npy")
    if warm:
        pdepth.probe_votes(support, labels, num_threads=1, **options)
    for threads in (1, 2, 5, 16):
        for place in range(step, 60, step):
            process = os.fork()
            if process == 0:
                held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                limit = held + int(1000 * 1.25**place)  # up to half a gigabyte
                signal.alarm(30)
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                try:
                    votes = pdepth.probe_votes(support, labels, num_threads=threads, **options)
                    os._exit(0 if (votes.votes == expected).all() else 2)
                except MemoryError:
                    os._exit(1)
                except BaseException:
                    traceback.print_exc()
                    os._exit(3)
            print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


@pytest.mark.slow_if(step=[1])
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
@pytest.mark.parametrize("step", [7, 1])
@pytest.mark.parametrize("past", ["warm", "fresh"])
@pytest.mark.parametrize("form", ["array", "cosine", "source"])
def test_every_amount_of_memory(form: str, past: str, step: int, tmp_path: object) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILDREN), form, past, str(step)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=str(tmp_path), check=True, timeout=300
    )
    ends = Counter(map(int, done.stdout.split()))
    assert set(ends) == {0, 1}, (ends, done.stderr[-2000:])
    assert min(ends.values()) >= 4
