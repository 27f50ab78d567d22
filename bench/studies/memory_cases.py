"""The cases of memory.py, each run in a process of its own, whose peak is then the case's.

python bench/studies/memory_cases.py NAME '{"argument": value}'    prints a record as JSON
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import pdepth
from pdepth import _native
from pdepth.bench.peak import memory_now, memory_peak

RUN = _native.run
MAPPED_ROWS, MAPPED_WIDTH, MAPPED_QUERIES = 1_000_000, 2_048, 2_000


class Shares:
    """Seconds of the network, of the search, and of settlement within it.

    "search_processor" is the search's processor time, of all threads.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(
            ("forward", "search", "search_processor", "settling"), 0.0
        )

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, its time added to a share."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - begin

        return wrapped

    def search(self, **arguments: Any) -> float:
        """The native search, timed; it returns the seconds that its threads spent on settlement."""
        begin = time.process_time()
        settling = self.timed("search", RUN)(**arguments)
        self.seconds["search_processor"] += time.process_time() - begin
        self.seconds["settling"] += settling / arguments["threads"]
        return float(settling)


def cifar10(memory: str, rows: int, queries: int, spill: str | None = None) -> dict[str, Any]:
    """The depths of test images, or with no queries of the training images themselves."""
    from torch.utils.data import Subset

    from pdepth.bench.data import real_data

    data = real_data()
    support = Subset(data.dataset("train"), range(rows))
    test = Subset(data.dataset("test"), range(queries)) if queries else None
    model, shares, notes = data.resnet18(), Shares(), []
    model.forward = shares.timed("forward", model.forward)
    setattr(_native, "run", shares.search)  # noqa: B010 - a compiled module's

    def note(event: Any) -> None:
        if event.stage == "note":
            notes.append(event.text)

    before, begin, processor = memory_now(), time.perf_counter(), time.process_time()
    result = pdepth.prediction_depth(
        model, support, test, memory=memory, spill=spill, progress=note
    )
    return {
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - processor,
        **shares.seconds,
        "peak": memory_peak(),
        "before": before,
        "notes": notes,
        "depths": digest(result),
        "undefined": int(result.undefined.sum()),
        "active": result.known.sum(axis=1).tolist(),
    }


def mapped(path: str, memory: str, in_memory: bool) -> dict[str, Any]:
    """Votes of float16 rows from a memory map, or from an array in memory."""
    rows = np.load(path, mmap_mode="r")
    labels, queries = np.arange(len(rows)) % 10, np.array(rows[:MAPPED_QUERIES]) + np.float16(0.5)
    support: Any = {"probe": np.array(rows) if in_memory else FileRows(rows)}
    before, begin = memory_now(), time.perf_counter()
    votes = pdepth.probe_votes(
        support,
        labels,
        {"probe": queries},
        memory=None if in_memory else memory,
        return_counts=False,
    ).votes
    seconds = time.perf_counter() - begin
    votes_digest = hashlib.sha256(np.ascontiguousarray(votes).tobytes()).hexdigest()
    return {"seconds": seconds, "peak": memory_peak(), "before": before, "votes": votes_digest}


class FileRows:
    """A memory map's file, read in slices, so that its pages are not this process's memory."""

    path: Any
    offset: Any
    shape: Any
    dtype: Any

    def __init__(self, rows: Any) -> None:
        self.path, self.offset = rows.filename, rows.offset
        self.shape, self.dtype = rows.shape, rows.dtype

    def __getitem__(self, rows: slice) -> Any:
        begin, end, _ = rows.indices(len(self))
        width = self.shape[1]
        return np.fromfile(
            self.path,
            self.dtype,
            (end - begin) * width,
            offset=self.offset + begin * width * self.dtype.itemsize,
        ).reshape(-1, width)

    def __len__(self) -> int:
        return int(self.shape[0])


def small(memory: str, run_dir: str | None) -> dict[str, Any]:
    """Every vote of 4,000 rows among 48,000 under a small network, in half a minute."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from pdepth.search.chunks import KeptLists

    KeptLists.pause = 0.5  # the run is short
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024),
        nn.ReLU(), nn.Linear(1024, 5),
    )  # fmt: skip
    labels = torch.arange(52_000) % 5
    rows = torch.randn(52_000, 64) + 2 * nn.functional.one_hot(labels, 64)
    support = TensorDataset(rows[:48_000], labels[:48_000])
    queries = TensorDataset(rows[48_000:], labels[48_000:])
    begin = time.perf_counter()
    result = pdepth.prediction_depth(
        net, support, queries, memory=memory, early_exit=False, run_dir=run_dir, progress=False
    )
    return {"seconds": time.perf_counter() - begin, "depths": digest(result)}


def digest(result: pdepth.DepthResult) -> str:
    """A hash of depths and votes."""
    return hashlib.sha256(result.depth.tobytes() + result.votes.tobytes()).hexdigest()


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "cifar10": cifar10,
    "mapped": mapped,
    "small": small,
}


if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](**json.loads(sys.argv[2]))))
