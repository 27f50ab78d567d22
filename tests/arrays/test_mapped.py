"""Mapped files that are cut short: an error that names the file, wherever it is noticed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth import _native
from pdepth.arrays.mapped import may_be_mapped, watched

from helpers.cases import first_difference
from helpers.torch_or_skip import torch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows cuts no file that is mapped")

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((3000, 24)).astype(np.float32)
LABELS = RNG.integers(0, 4, len(ROWS))
K = 5
EXPECTED = pdepth.probe_votes(ROWS, LABELS, k=K).votes


class Slices:
    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype

    def __getitem__(self, rows: slice) -> Any:
        return self.array[rows]


def mapped(path: Path, array: Any = ROWS, mode: Any = "r") -> Any:
    np.save(path, array)
    return np.load(path, mmap_mode=mode)


def of_tensor(path: Path) -> Any:
    return torch.from_numpy(mapped(path, mode="c"))


def of_bits(path: Path) -> Any:
    bits = torch.from_numpy(ROWS).bfloat16().view(torch.int16).numpy()
    return torch.from_numpy(mapped(path, bits, "c")).view(torch.bfloat16)


def of_torch(path: Path) -> Any:
    ROWS.tofile(path)
    return torch.from_file(str(path), size=ROWS.size, dtype=torch.float32).view(len(ROWS), -1)


FORMS: dict[str, Callable[[Path], Any]] = {
    "map": mapped,
    "private": lambda path: mapped(path, mode="c"),
    "view": lambda path: np.asarray(mapped(path))[::2, 3:],
    "backwards": lambda path: mapped(path)[::-1],
    "column order": lambda path: mapped(path, np.asfortranarray(ROWS)),
    "other byte order": lambda path: mapped(path, ROWS.astype(">f8")),
    "booleans": lambda path: mapped(path, ROWS > 0),
    "whole numbers": lambda path: mapped(path, (ROWS * 9).astype(np.int8)),
    "tensor": of_tensor,
    "bfloat16": of_bits,
    "torch": of_torch,
    "source": lambda path: Slices(mapped(path)),
    "source of tensors": lambda path: Slices(of_tensor(path)),
}


@pytest.mark.parametrize("left", [0, 300, 4096 * 5])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_a_map_that_is_cut_before_a_call(form: str, metric: str, left: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows = FORMS[form](path)
    os.truncate(path, left)
    tensor = form in ("tensor", "bfloat16", "torch", "source of tensors")
    name = re.escape(str(path))
    if tensor and left < 4096:  # of which no page may be left that has a name
        name = f"({name}|the file of its map)"
    sentence = rf"^support \(probe 0\).*: {name} became shorter while it was read\.$"
    labels = LABELS[: len(getattr(rows, "array", rows))]
    for _ in range(2):  # memory that was lost once stays so
        with pytest.raises(ValueError, match=sentence):
            pdepth.probe_votes(rows, labels, k=K, metric=metric)


def test_queries_labels_and_neighbours(tmp_path: Path) -> None:
    queries, labels = mapped(tmp_path / "queries.npy"), mapped(tmp_path / "labels.npy", LABELS)
    os.truncate(tmp_path / "queries.npy", 4096)
    os.truncate(tmp_path / "labels.npy", 100)
    with pytest.raises(ValueError, match=r"^queries \(probe 0\): .*queries\.npy became shorter"):
        pdepth.kneighbors(ROWS, queries, k=K)
    with pytest.raises(ValueError, match=r"^labels: .*labels\.npy became shorter"):
        pdepth.probe_votes(ROWS, labels, k=K)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_a_map_that_is_cut_during_a_search(backend: str, weights: str, tmp_path: Path) -> None:
    """Once the rows have been checked."""
    path = tmp_path / "rows.npy"
    rows = mapped(path, ROWS[:600] if backend == "reference" else ROWS)
    calls: list[Any] = []

    def cut(*progress: Any) -> None:
        if not calls:
            os.truncate(path, 4096)
        calls.append(progress)

    with pytest.raises(ValueError, match=r"^support \(conv\): .*rows\.npy became shorter"):
        pdepth.depth_from_embeddings(
            {"conv": rows}, LABELS[: len(rows)], LABELS[: len(rows)], k=K, backend=backend,
            weights=weights, num_threads=3, progress=cut,
        )  # fmt: skip
    assert calls


def test_a_store_that_is_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(24, 900), torch.nn.ReLU(), torch.nn.Linear(900, 4)
    )
    data = torch.utils.data.TensorDataset(
        torch.from_numpy(ROWS[:200]), torch.from_numpy(LABELS[:200])
    )
    pdepth.prediction_depth(network, data, k=K, progress=False, keep_embeddings=tmp_path / "kept")
    store = pdepth.open_store(tmp_path / "kept")

    def cut(probe: int, *_: Any) -> None:
        os.truncate(tmp_path / f"kept/support/{probe:02}.npy", 4096)

    with pytest.raises(ValueError, match=r"support \(.*\): .*support/0\d\.npy became shorter"):
        pdepth.depth_from_embeddings(store, k=K, progress=cut)
    with pytest.raises(ValueError, match=r"support/0\d\.npy: expected "):
        pdepth.depth_from_embeddings(pdepth.open_store(tmp_path / "kept"), k=K)


def test_a_file_that_grows_again_is_mapped_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows, content = mapped(path), path.read_bytes()
    os.truncate(path, 4096)
    with pytest.raises(ValueError, match="became shorter"):
        pdepth.probe_votes(rows, LABELS, k=K)
    path.write_bytes(content)
    with suppress(ValueError):  # as long as what was lost is
        assert first_difference(pdepth.probe_votes(rows, LABELS, k=K).votes, EXPECTED) is None
    del rows
    for _ in range(20):  # at the addresses that were lost, among others
        again = np.load(path, mmap_mode="r")
        assert first_difference(pdepth.probe_votes(again, LABELS, k=K).votes, EXPECTED) is None


def test_calls_beside_each_other(tmp_path: Path) -> None:
    """Two on a map that is cut, two on one that is not."""
    whole, part = mapped(tmp_path / "whole.npy"), mapped(tmp_path / "part.npy")
    os.truncate(tmp_path / "part.npy", 20_000)

    def votes(number: int) -> Any:
        try:
            return pdepth.probe_votes(part if number % 2 else whole, LABELS, k=K).votes
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(votes, range(40)))
    for number, result in enumerate(results):
        if number % 2:
            assert re.search(r"part\.npy became shorter", result)
        else:
            assert first_difference(result, EXPECTED) is None


def test_arrays_of_numpys_own_memory_are_not_watched() -> None:
    for array in (ROWS, ROWS[::2].T, np.empty(0), ROWS.view(np.int32), LABELS, "path", None):
        assert not may_be_mapped(array)
    for array in (torch.ones(3), torch.ones(3).numpy(), np.frombuffer(b"12345678")):
        assert may_be_mapped(array)
    assert not may_be_mapped(torch.eye(2).to_sparse())


def test_an_error_within_a_watch_is_its_own(tmp_path: Path) -> None:
    rows = mapped(tmp_path / "rows.npy")
    with pytest.raises(KeyError), watched([("rows", rows)]):
        raise KeyError
    os.truncate(tmp_path / "rows.npy", 0)
    with pytest.raises(ValueError, match="became shorter"), watched([("rows", rows)]):
        raise KeyError(float(rows.sum()))


def test_a_copy_may_read_from_the_end(tmp_path: Path) -> None:
    """As memcpy does for some pairs of addresses: every page before is one more that is lost."""
    rows = mapped(tmp_path / "rows.npy", np.ones((1000, 1024), np.float32))

    def cut_and_read() -> list[int]:
        os.truncate(tmp_path / "rows.npy", 5 * 4096)
        return [int(row.sum()) for row in rows[::-1]][::-1]

    with pytest.raises(ValueError, match="became shorter"), watched([("rows", rows)]):
        sums = cut_and_read()
    assert set(sums[5:]) == {0}
    assert set(sums[:4]) == {1024}


def test_many_arrays_are_lost_in_one_watch(tmp_path: Path) -> None:
    arrays = [mapped(tmp_path / f"{n}.npy", np.ones(4096)) for n in range(400)]

    def cut_and_read() -> None:
        for n in range(0, 400, 2):
            os.truncate(tmp_path / f"{n}.npy", 4096)
        assert [int(array[-1]) for array in arrays] == [0, 1] * 200

    for _ in range(2):  # also of what can no longer be read
        with (
            pytest.raises(ValueError, match=r"^(\d*[02468]): .*/\1.npy became shorter"),
            watched([(str(n), array) for n, array in enumerate(arrays)]),
        ):
            cut_and_read()
    with watched([("whole", array) for array in arrays[1::2]]):
        assert {int(array[-1]) for array in arrays[1::2]} == {1}


def test_a_part_of_what_was_lost(tmp_path: Path) -> None:
    """A watch of some rows leaves it known that the others are lost, too."""
    rows = mapped(tmp_path / "rows.npy", np.ones((1000, 1024), np.float32))
    os.truncate(tmp_path / "rows.npy", 5 * 4096)
    with pytest.raises(ValueError, match="became shorter"), watched([("rows", rows)]):
        rows.sum()
    for part in (rows[500:600], rows[700:], rows[10:20], rows):
        with pytest.raises(ValueError, match="became shorter"), watched([("part", part)]):
            part.sum()
    with watched([("part", rows[:4])]):
        assert rows[:4].sum() == 4096


def test_the_latest_losses_are_known(tmp_path: Path) -> None:
    """Of more than are kept, among others whose memory was freed and mapped anew."""
    path, rng = tmp_path / "rows.npy", np.random.default_rng(0)
    kept = []
    for _ in range(1500):
        array = mapped(path, np.ones((int(rng.integers(2, 9)), 512)))
        os.truncate(path, 4096)
        path.unlink()
        with pytest.raises(ValueError, match="became shorter"), watched([("rows", array)]):
            array.sum()
        if rng.random() < 0.3:
            kept.append(array)
    for array in kept:
        with pytest.raises(ValueError, match="became shorter"), watched([("rows", array)]):
            array.sum()


def test_random_cuts_read_by_many_threads(tmp_path: Path) -> None:
    """Forwards, backwards and in parts, before or after a watch begins; some of it twice."""

    def read(thread: int) -> None:
        path, rng = tmp_path / f"{thread}.npy", np.random.default_rng(thread)
        for _ in range(100):
            pages = int(rng.integers(2, 400))
            array = mapped(path, np.ones((pages, 1024), np.float32))
            left = int(rng.integers(1, pages + 1))  # the first page holds the header, too
            whole, parts = left == pages, np.array_split(array, int(rng.integers(1, 4)))
            size = left * 4096 if not whole else path.stat().st_size
            before = rng.random() < 0.5
            if before:
                os.truncate(path, size)
            for _ in range(2):
                named = [("rows", part) for part in parts]
                failure = None if whole else pytest.raises(ValueError, match="became shorter")
                with failure or nullcontext(), watched(named):
                    os.truncate(path, size)
                    for row in array[:: rng.choice([1, -1])]:
                        row.sum()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(read, range(4)))


def test_more_watches_than_there_is_room_for(tmp_path: Path) -> None:
    rows = mapped(tmp_path / "rows.npy")
    address = rows.__array_interface__["data"][0]
    watches = [_native.Watch([(address, address + rows.nbytes)]) for _ in range(300)]
    os.truncate(tmp_path / "rows.npy", 4096)
    assert float(rows[-1, -1]) == 0
    assert {watch.cut for watch in watches} == {0, -1}
    for watch in watches:
        watch.close()
    assert [watch.cut for watch in watches].count(0) == 256


# ---- other reads of files that were cut end the process, as before ----

CHILD = """
    import faulthandler, os, sys
    import numpy as np
    import pdepth

    rows = np.random.default_rng(0).standard_normal((3000, 24)).astype("f4")
    labels = np.arange(3000) % 3
    for name in ("a", "b"):
        np.save(name, rows)
    a, b = (np.load(name + ".npy", mmap_mode="r") for name in ("a", "b"))
    os.truncate("b.npy", 4096)
    when = sys.argv[1]
    faulthandler.enable()

    def read(*_):
        print("reads", flush=True)
        (a if when == "lost" else b).sum()

    if when == "after":
        pdepth.probe_votes(a, labels, k=5)
    elif when == "lost":
        os.truncate("a.npy", 4096)
        try:
            pdepth.probe_votes(a, labels, k=5)
        except ValueError as error:
            print(error)
    elif when == "during":
        pdepth.depth_from_embeddings([a], labels, labels, k=5, progress=read)
    read()
"""


@pytest.mark.parametrize(
    ("when", "signals", "word"),
    [
        ("after", (signal.SIGBUS,), "Bus error"),
        ("during", (signal.SIGBUS,), "Bus error"),
        ("lost", (signal.SIGSEGV, signal.SIGBUS), "Fatal Python error"),
    ],
)
def test_a_read_of_the_callers_own(
    when: str, signals: tuple[int, ...], word: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), when]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in [-number for number in signals], done.stderr
    assert word in done.stderr
    assert done.stdout.splitlines()[-1:] == ["reads"]
    assert ("became shorter" in done.stdout) == (when == "lost")
