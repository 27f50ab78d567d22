"""What a crash leaves, at every file operation: run as a script, it prints the points that failed.

python crashes.py CASE[,CASE ...] FOLDER [STEP] [OFFSET]: at each STEP-th operation from OFFSET on,
a child of this prepared process does the case's work and ends there (half of a write is written);
another child does it again, and checks what is there.
"""

from __future__ import annotations

import builtins
import io
import os
import pathlib
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from pdepth import open_neighbors, open_store
from pdepth.analysis import networks as network_members
from pdepth.analysis.ensemble import Ensemble, Member
from pdepth.analysis.ensemble_file import add_networks
from pdepth.report import folder as results_folder
from pdepth.report.html import thumbnails
from pdepth.report.run import RunOptions, run_to_folder
from pdepth.report.write import write_report
from pdepth.result import DepthResult

from helpers.spans import BATCH, QUERIES, ROW, SUPPORT, K, depth, network, same

CRASHED = 77
PATCHED = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")


class Crash:
    """Ends the process at the n-th file operation that changes something."""

    def __init__(self, at: int) -> None:
        self.left = at

    def count(self, before: Callable[[], object] = lambda: None) -> None:
        self.left -= 1
        if self.left < 0:
            before()
            os._exit(CRASHED)

    def install(self) -> None:
        crash, opened, opened_by_number = self, io.open, os.open

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                half = memoryview(content).cast("B")
                crash.count(lambda: super(Raw, self).write(half[: len(half) // 2]))
                return super().write(content)

        def open_counted(
            path: Any, mode: str = "r", buffering: int = -1, encoding: Any = None,
            errors: Any = None, newline: str | None = None, **options: Any,
        ) -> Any:  # fmt: skip
            if not set(mode) & set("wax+") or isinstance(path, int):
                return opened(path, mode, buffering, encoding, errors, newline, **options)
            crash.count()
            raw = Raw(path, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, "utf-8", newline=newline)

        def open_number(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                crash.count()
            return opened_by_number(path, flags, *args, **options)

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                crash.count()
                return function(*args, **options)

            return call

        patches: dict[str, Any] = {name: counted(getattr(os, name)) for name in PATCHED}
        for name, function in patches.items():
            setattr(os, name, function)
        builtins.open = io.open = open_counted  # type: ignore[assignment]
        os.open = open_number  # type: ignore[assignment]
        accessor = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10's paths hold their own
        for name, function in {**patches, "open": open_counted}.items():
            if hasattr(accessor, name):
                setattr(accessor, name, staticmethod(function))


# ---- the work, and what has to be there after a crash and the same work once more ----


def run(path: Path) -> None:
    options = RunOptions(k=(K,), batch_size=BATCH, num_threads=1, return_neighbors=3)
    try:
        run_to_folder(network(), SUPPORT, QUERIES, path / "out", options, progress=False)
    except FileExistsError:  # the crash came after the results
        assert not (path / "out" / results_folder.UNFINISHED).exists()
    result = DepthResult.load(path / "out/depth.parquet")
    neighbors = open_neighbors(path / "out/neighbors.pdepth")
    same(replace(result, neighbors=neighbors), expected(neighbors=3))
    left = {name for name in os.listdir(path / "out") if not name.endswith(".removed")}
    assert left <= {"depth.parquet", "neighbors.pdepth", ".lock"}, left


def overwrite(path: Path) -> None:
    options = RunOptions(k=(K,), batch_size=BATCH, num_threads=1)
    run_to_folder(
        network(), SUPPORT, QUERIES, path / "out", options, overwrite=True, progress=False
    )
    same(DepthResult.load(path / "out/depth.parquet"), expected())
    assert set(os.listdir(path / "out")) == {"depth.parquet"}


def keep(path: Path) -> None:
    with suppress(FileExistsError):  # it was finished
        depth(queries=QUERIES, keep_embeddings=path / "kept", num_threads=1)
    check_store(path / "kept")


def keep_and_run(path: Path) -> None:
    options = {"keep_embeddings": path / "kept", "run_dir": path / "run", "num_threads": 1}
    same(depth(queries=QUERIES, **options), expected())
    check_store(path / "kept")


def relabel(path: Path) -> None:
    """A run that has ended, and then other labels."""
    options = {"keep_embeddings": path / "kept", "run_dir": path / "run", "num_threads": 1}
    same(depth(OTHER, QUERIES, **options), depth(OTHER, QUERIES, num_threads=1))
    store = check_store(path / "kept")
    np.testing.assert_array_equal(store.support.labels, OTHER.tensors[1])
    assert len(list(path.glob("kept/support/labels*"))) == 1


def spill(path: Path) -> None:
    """A call that cannot go on, and a run that can."""
    (path / "disk").mkdir(exist_ok=True)
    options = {"memory": ROW * 70, "spill": path / "disk", "num_threads": 1}
    same(depth(queries=QUERIES, **options), expected())
    same(depth(queries=QUERIES, run_dir=path / "run", **options), expected())
    assert set(os.listdir(path / "disk")) <= {".pdepth-spill.lock"}


def report(path: Path) -> None:
    images = f"npz:{path.parent / 'images.npz'}"
    write_report(path / "out", overwrite=True, images=images, thumbnails="all")
    page = (path / "out/report.html").read_text()
    assert page.rstrip().endswith("</html>")
    same(DepthResult.load(path / "out/depth.parquet"), expected())
    pictures = path.parent / "reported/out/report-thumbnails"
    assert os.listdir(path / "out/report-thumbnails") == os.listdir(pictures)


def ensemble(path: Path) -> None:
    file = path / "out/ensemble.parquet"
    add_networks(None, list, None, range(3), file, {"k": "5"})  # type: ignore[arg-type]
    loaded = Ensemble.load(file)
    assert sorted(loaded.names) == [0, 1, 2]
    assert loaded.depths.sum() == 3 * len(SUPPORT)
    assert [name for name in os.listdir(path / "out") if not name.endswith(".lock")] == [file.name]


CASES = {
    function.__name__: function
    for function in (run, overwrite, keep, keep_and_run, relabel, spill, report, ensemble)
}
LABELS = SUPPORT.tensors[1].clone()
LABELS[40:70] = (LABELS[40:70] + 1) % 3
OTHER = TensorDataset(SUPPORT.tensors[0], LABELS)
_EXPECTED: dict[int | None, Any] = {}


def expected(neighbors: int | None = None) -> Any:
    if neighbors not in _EXPECTED:
        result = depth(queries=QUERIES, num_threads=1, return_neighbors=neighbors)
        _EXPECTED[neighbors] = result
    return _EXPECTED[neighbors]


def check_store(path: Path) -> Any:
    store = open_store(path)
    store.verify()
    np.testing.assert_array_equal(store.parts[-1].predictions, expected().predictions)
    assert set(os.listdir(path)) <= {"support", "queries", "manifest.json", ".lock"}
    return store


def prepare(path: Path, case: str) -> None:
    """What cases begin from, once; and whatever the first of all calls imports or makes."""
    results_folder.can_draw = lambda: False  # type: ignore[assignment]
    thumbnails.MAX_BYTES = 3000  # in the page: others are in a folder beside it
    network_members.measure_all = _members  # type: ignore[assignment]
    torch.set_num_threads(1)
    expected()
    if case == "relabel":
        keep_and_run(path / "prepared")
    if case == "report":
        run(path / "prepared")
        x = np.random.default_rng(0).random((len(QUERIES), 3, 4, 4), np.float32)
        np.savez(path / "images.npz", x=x, y=QUERIES.tensors[1].numpy())
        (path / "reported").mkdir()
        shutil.copytree(path / "prepared/out", path / "reported/out")
        images = f"npz:{path / 'images.npz'}"
        write_report(path / "reported/out", images=images, thumbnails="all")


def _members(networks: Any, *_: Any, **options: Any) -> Any:
    for number in networks:
        rng = np.random.default_rng(number)
        labels, held_out = SUPPORT.tensors[1].numpy(), rng.random(len(SUPPORT)) < 0.3
        predictions, depths = rng.integers(0, 3, labels.shape), rng.integers(0, 4, labels.shape)
        yield Member(depths, predictions, held_out, 4, number, labels)


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a child that does some work."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def crash_at_each(case: str, path: Path, step: int, offset: int) -> bool:
    """Whether the case ends right after each crash; says so in a line."""
    (path / "prepared").mkdir(parents=True)
    prepare(path, case)
    work, failed, points = CASES[case], [], 0
    for at in range(offset, 10**6, step):
        folder = path / str(at)
        shutil.copytree(path / "prepared", folder)

        def crashing(at: int = at, folder: Path = folder) -> None:
            Crash(at).install()
            work(folder)

        code = in_child(crashing)
        points += code == CRASHED
        if code not in (0, CRASHED) or in_child(lambda folder=folder: work(folder)) != 0:  # type: ignore[misc]
            failed.append(at)
            print(f"point {at} of {case}: code {code}", flush=True)
        shutil.rmtree(folder)
        if code == 0:
            break
    print(f"{case}: {points} points, {len(failed)} failed {failed}", flush=True)
    return not failed


def main(cases: str, where: str, step: str = "1", offset: str = "0") -> None:
    right = [
        crash_at_each(case, Path(where, case), int(step), int(offset)) for case in cases.split(",")
    ]
    sys.exit(not all(right))


if __name__ == "__main__":
    main(*sys.argv[1:])
