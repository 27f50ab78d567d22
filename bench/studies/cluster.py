"""What a cluster adds: two workers of one core on a local Ray beside one process with one thread.

    python bench/studies/cluster.py                 both jobs: measure, store, render
    python bench/studies/cluster.py arrays          rows at hand: one search
    python bench/studies/cluster.py network         images under a ResNet18, all votes
    python bench/studies/cluster.py --render        the table of docs/cluster.md, as stored

`--rounds` is how often, in turn; `--queries` how many a job has, for slower machines. The gate:
both ways have the same votes, or there is no number.
Each way runs in a process of its own. Ray (extra `ray`, and psutil) runs already when the job
begins, and workers start within it; the processor time is that of the process, of the workers and
of Ray's own processes, as the operating system counts it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import pdepth
from pdepth.bench.common import HOME, RESULTS, describe, machine
from pdepth.bench.pages import load, render, save

NAME, STORED = "bench/studies/cluster.py", HOME / RESULTS / "cluster.json"
PAGE = Path("docs", "cluster.md")
PACKAGES = "numpy", "torch", "ray"
ROUNDS, WORKERS = 3, 2
SUPPORT, WIDTH = 200_000, 1_024
IMAGES = 6_000  # of CIFAR-10
OWN, OF_WORKERS, OF_RAY = "caller", "workers", "ray"
WORKER = "ray::Worker"  # how the names of Ray's processes with our workers begin


def arrays(asked: int, **options: Any) -> Any:
    """Votes of rows in ten classes, as after a ReLU."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((10, WIDTH), np.float32) / 10

    def rows(count: int) -> tuple[Any, Any]:
        labels = np.arange(count) % 10
        values = rng.standard_normal((count, WIDTH), np.float32)
        for begin in range(0, count, 10_000):
            part = slice(begin, begin + 10_000)
            values[part] += centres[labels[part]]
        return np.maximum(values, 0, out=values), labels

    (support, labels), (queries, _) = rows(SUPPORT), rows(asked)
    return lambda: pdepth.probe_votes(support, labels, queries, **options).votes


def network(asked: int, **options: Any) -> Any:
    """All votes of test images among training images under a ResNet18."""
    from torch.utils.data import Subset

    from pdepth.bench.data import real_data

    data = real_data()
    support = Subset(data.dataset("train"), range(IMAGES))
    queries = Subset(data.dataset("test"), range(asked))
    model = data.resnet18()
    return lambda: (
        pdepth.prediction_depth(
            model, support, queries, early_exit=False, progress=False, **options
        ).votes
    )


JOBS: dict[str, Callable[..., Any]] = {"arrays": arrays, "network": network}
ASKED = {"arrays": 320_000, "network": 3_000}  # queries


class ProcessorTime:
    """Seconds of this process and those below it, by kind, while a block of code runs."""

    before: dict[int, float]
    ended: threading.Event
    thread: threading.Thread
    own: float

    PAUSE = 0.25  # seconds; a process that ends within one has its last ones uncounted

    def __enter__(self) -> ProcessorTime:
        self.before = {pid: seconds for pid, (seconds, _) in self._read().items()}
        self.seen: dict[int, tuple[float, str]] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.own = time.process_time()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.own = time.process_time() - self.own
        self.ended.set()
        self.thread.join()

    def seconds(self) -> dict[str, float]:
        """Of the process that makes the call, of the workers, and of Ray's own processes."""
        by_kind = {OWN: self.own, OF_WORKERS: 0.0, OF_RAY: 0.0}
        for pid, (seconds, name) in self.seen.items():
            kind = OF_WORKERS if name.startswith(WORKER) else OF_RAY
            by_kind[kind] += seconds - self.before.get(pid, 0.0)
        return by_kind

    def _watch(self) -> None:
        while not self.ended.wait(self.PAUSE):
            self._note()
        self._note()

    def _note(self) -> None:
        for pid, (seconds, name) in self._read().items():
            known = self.seen.get(pid, (0.0, ""))[1]  # one that ends loses its name first
            self.seen[pid] = seconds, known if known.startswith(WORKER) else name

    def _read(self) -> dict[int, tuple[float, str]]:
        import psutil

        found = {}
        for process in psutil.Process().children(recursive=True):
            try:
                times = process.cpu_times()
                found[process.pid] = times.user + times.system, " ".join(process.cmdline()[:1])
            except psutil.Error:
                continue
        return found


def run_job(job: str, asked: int, workers: int) -> dict[str, Any]:
    """One way of a job in this process; no workers: one process with one thread."""
    import torch

    torch.set_num_threads(1)
    options: dict[str, Any] = {"num_threads": 1}
    if workers:
        import ray

        from pdepth.cluster import Cluster

        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        options = {"cluster": Cluster(workers=workers)}
    call = JOBS[job](asked, **options)
    begin = time.perf_counter()
    with ProcessorTime() as processor:
        votes = call()
    return {
        "seconds": time.perf_counter() - begin,
        "processor": processor.seconds(),
        "votes": hashlib.sha256(np.ascontiguousarray(votes).tobytes()).hexdigest(),
    }


def start(job: str, asked: int, workers: int) -> subprocess.Popen[str]:
    """One way of a job, in a process of its own."""
    sizes = ["--queries", str(asked), "--in-this-process", str(workers)]
    command = [sys.executable, __file__, job, *sizes]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def record_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it measured. Raises CalledProcessError where it failed."""
    out, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    record: dict[str, Any] = json.loads(out.splitlines()[-1])
    times = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in record["processor"].items())
    print(f"{record['seconds']:.1f} s; processor: {times}", flush=True)
    return record


def measure(job: str, asked: int, rounds: int) -> dict[str, Any]:
    """In turn: one process alone, two of them at once, and the workers.

    Two at once share memory and caches as two workers do; that is what processor time is compared
    with. Time is compared with that of one alone.

    Raises:
        SystemExit: the votes differ.
    """
    taken = []
    for _ in range(rounds):
        alone = record_of(start(job, asked, 0))
        two = [start(job, asked, 0), start(job, asked, 0)]
        both = [record_of(process) for process in two]
        taken.append((alone, both, record_of(start(job, asked, WORKERS))))
    if len({each["votes"] for alone, both, many in taken for each in (alone, *both, many)}) != 1:
        raise SystemExit(f"{job}: the votes differ: no number.")
    rows = [
        {
            "alone": alone["processor"][OWN],
            "at_once": sum(each["processor"][OWN] for each in both) / len(both),
            "seconds": alone["seconds"],
            "many_seconds": many["seconds"],
            **many["processor"],
        }
        for alone, both, many in taken
    ]
    sums = [row[OWN] + row[OF_WORKERS] + row[OF_RAY] for row in rows]

    def middle(values: Iterable[float]) -> float:
        return float(median(values))

    return {
        "rounds": rounds,
        "queries": asked,
        **{name: middle(row[name] for row in rows) for name in rows[0]},
        "ratio": middle(total / row["at_once"] for total, row in zip(sums, rows, strict=True)),
        "ratio_alone": middle(total / row["alone"] for total, row in zip(sums, rows, strict=True)),
        "workers_ratio": middle(row[OF_WORKERS] / row["at_once"] for row in rows),
        "time_ratio": middle(row["many_seconds"] / row["seconds"] for row in rows),
        "machine": machine(*PACKAGES),
    }


TITLES = {
    "arrays": f"{SUPPORT:,} rows, {{:,}} queries, {WIDTH:,} columns",
    "network": f"ResNet18, {IMAGES:,} images, {{:,}} queries, 11 probes, all votes",
}


def table(stored: dict[str, Any]) -> str:
    """Each job's times, and its machine."""
    lines = [
        "| job | one process: processor time alone, two at once; time | two workers: the caller, "
        "workers, Ray; time | processor time / one of two at once, / one alone | workers only | "
        "time / one alone | rounds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for job in [job for job in JOBS if job in stored]:
        record = stored[job]
        kinds = ", ".join(f"{record[kind]:.0f}" for kind in (OWN, OF_WORKERS, OF_RAY))
        title = TITLES[job].format(record["queries"])
        lines.append(
            f"| {title} | {record['alone']:.0f}, {record['at_once']:.0f} s; "
            f"{record['seconds']:.0f} s | {kinds} s; {record['many_seconds']:.0f} s | "
            f"**{record['ratio']:.2f}**, {record['ratio_alone']:.2f} | "
            f"{record['workers_ratio']:.2f} | **{record['time_ratio']:.2f}** | "
            f"{record['rounds']} |"
        )
    machines = dict.fromkeys(describe(record["machine"]) for record in stored.values())
    return "\n".join([*lines, "", f"<small>{'; '.join(machines)}</small>"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], default=[])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--in-this-process", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_this_process is not None:
        print(json.dumps(run_job(options.jobs[0], options.queries, options.in_this_process)))
        return
    stored = load(STORED) if STORED.exists() else {}
    for job in [] if options.render else options.jobs or list(JOBS):
        stored[job] = measure(job, options.queries or ASKED[job], options.rounds)
        save(stored, STORED)
    render(NAME, table(stored), PAGE)


if __name__ == "__main__":
    main()
