"""bench/gpu without a GPU: the run goes through, leaves what it found, and times nothing that it
has not compared."""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pdepth.backends import triton as backend

from helpers.device import DEVICE

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("there is a GPU to run it on", allow_module_level=True)

from pdepth.bench import common
from pdepth.bench.gpu import __main__ as command
from pdepth.bench.gpu import budget, context, equality, measurements, specialisations, store, table
from pdepth.bench.gpu import run as gpu
from pdepth.bench.gpu.rows import Rows, read

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu"
PLAIN = {name: value for name, value in os.environ.items() if name != backend.INTERPRET}
WHERE = {"device": "A Device", "commit": "abc", "versions": {"triton": "1"}, "driver": "2"}


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=PLAIN | environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def test_a_rehearsal_goes_through_all_of_a_run() -> None:
    """Every kernel that it would compile is in the list, and none beside; six minutes suffice."""
    done = call("--rehearse")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{len(equality.cases())} problems" in done.stdout
    assert done.stdout.count("TFLOP/s: votes") == len(table.WIDTHS) * len(table.KINDS)
    (total,) = re.findall(r"(\d+) s  in all", done.stdout)
    assert 60 < int(total) <= budget.MOST


def test_a_kernel_that_is_not_in_the_list_fails_the_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys; from pathlib import Path; from pdepth.bench.gpu import rehearsal as r\n"
        "lines = r.specialisations.FILE.read_text().splitlines()\n"
        "r.specialisations.FILE = Path(sys.argv[1])\n"
        "kept = [line for line in lines if 'filter_kernel' not in line]\n"
        "r.specialisations.FILE.write_text('\\n'.join(kept))\n"
        "load = r.specialisations.load\n"
        "r.specialisations.load = lambda: load(Path(sys.argv[1]))\n"
        "plan = r.Plan(Path(sys.argv[1] + '-rows'), parts=['equality'], every=20)\n"
        "sys.exit(r.rehearse(plan, print, write=False))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "list")], env=PLAIN, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    assert "filter_kernel" in done.stdout
    assert "specialisations are not in the list" in done.stdout


@pytest.mark.slow
def test_interpreted_answers_are_judged() -> None:
    call_ = ["--rehearse", "--every", "9", "--minutes", "60", "equality", "bound", "table"]
    done = call(*call_, **{backend.INTERPRET: "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 problems differ" in done.stdout
    worst = [float(each) for each in re.findall(r"worst error / bound so far (\S+)", done.stdout)]
    assert len(worst) == 3
    assert 0.001 < worst[-1] < 1
    assert "TFLOP/s: votes" in done.stdout


def test_every_way_type_and_list_has_its_problem() -> None:
    cases = equality.cases()
    assert {case.dtype for case in cases} == set(equality.TYPES)
    assert {case.way for case in cases} == {*equality.PLACES, *equality.WAYS, equality.SMALL}
    assert {(case.width, case.k) for case in cases} >= {
        (width, k) for width in equality.EACH for k in equality.NEIGHBOURS
    }
    name, case, problem = equality.problem_of(5, 3, True)
    again = equality.problem_of(5, 3, True)
    assert (name, case) == again[:2]
    assert torch.equal(problem.tensor, again[2].tensor)
    assert equality.problem_of(6, 3, True)[2].tensor.ne(problem.tensor).any()


def test_a_wrong_answer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each way to answer; expected are those of the cpu backend."""
    bench = context.Bench(torch.device("cpu"), True, lambda line: None, seed=3, every=9)
    on_device = equality._on_device

    def by_cpu(bench: Any, way: str, problem: equality.Problem, wanted: Any) -> Any:
        return {name: array for name, array in wanted.items() if name != "predictions"}

    monkeypatch.setattr(equality, "_on_device", by_cpu)
    equality.equality(bench)
    assert bench.differing == 0
    assert len(bench.results) == len(range(0, len(equality.cases()), 9))

    def wrong(*given: Any) -> Any:
        found = by_cpu(*given)
        name = next(iter(found))
        found[name] = found[name] + 1
        return found

    monkeypatch.setattr(equality, "_on_device", wrong)
    bench.results.clear()
    equality.equality(bench)
    assert bench.differing == len(bench.results)
    assert all("differ from the cpu backend's" in each["how"][0] for each in bench.results.values())
    monkeypatch.setattr(equality, "_on_device", on_device)


def test_without_a_gpu_it_says_so_before_it_imports_anything(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = call(PYTHONPATH=str(tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert re.search(r"Error: .*(libcuda|no device).*--rehearse runs without one", done.stderr)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


class Driver:
    """libcuda as a device of some capability has it."""

    def __init__(self, major: int, minor: int, devices: int = 1, code: int = 0) -> None:
        self.values = {command.MAJOR: major, command.MINOR: minor}
        self.devices, self.code = devices, code

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDeviceGetCount(self, to: Any) -> None:
        to._obj.value = self.devices

    def cuDeviceGet(self, to: Any, number: int) -> None:
        to._obj.value = number

    def cuDeviceGetAttribute(self, to: Any, attribute: int, device: Any) -> None:
        to._obj.value = self.values[attribute]


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (Driver(9, 0), 90),
        (Driver(7, 5), "expected a device of capability 8.0 or more, got 7.5"),
        (Driver(9, 0, devices=0), "the NVIDIA driver finds no device"),
        (Driver(9, 0, code=100), "the NVIDIA driver finds no device (error 100 of cuInit)"),
    ],
)
def test_the_driver_is_asked(
    driver: Driver, said: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert command.capability() == said


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.installed()
    assert command.lacking(build=True) == []
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert not command.installed()
    assert command.lacking(build=False)[1] == (
        "triton is not installed here: carry its wheel (pip download --no-deps triton) and put it "
        "on PYTHONPATH."
    )
    assert any("pybind11" in line for line in command.lacking(build=True))
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    assert any("C++ compiler" in line for line in command.lacking(build=True))


def test_a_repository_that_is_not_installed_is_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rooms in their places and the module that was built among them."""
    started: dict[str, list[str]] = {}

    def start(self: Any, name: str, arguments: list[str], where: Path) -> None:
        started[name] = arguments
        code = "import sys; print(*sys.argv)"
        if name == "build":
            native = next((command.ROOT / "pdepth").glob("_native.*.so"))
            code = f"import os, shutil; os.mkdir('pdepth'); shutil.copy({str(native)!r}, 'pdepth')"
            where = tmp_path / "built"
        with self._log(name).open("w") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-c", code], cwd=where, stdout=log, text=True
            )

    monkeypatch.setattr(command.Beside, "_start", start)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    beside = command.Beside(tmp_path, 90, build=True)
    assert beside.wait() is None
    assert {*started} == {"build", "compile"}
    code = "import pdepth, pdepth.kernels.filter, pdepth.bench.gpu.run; print(pdepth.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=PLAIN | {"PYTHONPATH": os.environ["PYTHONPATH"]},
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "site" / "pdepth" / "__init__.py")


def test_what_is_compiled_beforehand_is_what_a_launch_looks_for(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from pdepth.bench.gpu import compiling\n"
        "from pdepth.bench.gpu.specialisations import load\n"
        "compiling.aim(90)\n"
        "from triton.backends.nvidia import driver\n"
        "driver.CudaLauncher = lambda *_: None\n"  # Triton 3.6's wants the processor's driver
        "from pdepth.kernels.duplicates import same_kernel, ROWS, BLOCK\n"
        "made = [e for e in load() if e.name == 'same' and e.arguments[0][0] == '*fp32']\n"
        "assert len(made) == 1\n"
        "code = lambda: sorted(map(str, Path(sys.argv[1]).glob('*/*.cubin')))\n"
        "made[0].warm(); before = code(); assert len(before) == 1\n"
        "whole, same = torch.zeros(99, dtype=torch.int64), torch.zeros(99, dtype=torch.bool)\n"
        "launch = lambda rows: same_kernel.warmup(rows, whole, 7, whole, whole, same, ROWS=ROWS,\n"
        "    BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False, grid=(1,))\n"
        "launch(torch.zeros(9)); assert code() == before\n"
        "launch(torch.zeros(9, dtype=torch.float64)); assert len(code()) == 2\n"
    )
    environment = PLAIN | {"TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([(1000, 999), (1001, 17), (1016, 16), (999, 1), (600, 160)], 5),
        ([(2000, 999), (2001, 17), (2016, 16), (1999, 1), (4096, 160), (1025, 2)], 9),
    ],
)
def test_a_first_call_compiles_few_kernels_and_other_sizes_none(
    sizes: list[tuple[int, int]], most: int
) -> None:
    code = (
        "import numpy as np, pdepth\n"
        "from pdepth.bench.gpu.rehearsal import stubbed\n"
        "rng = np.random.default_rng(0)\n"
        "def call(rows, queries):\n"
        "    values = rng.standard_normal((rows + queries, 64)).astype('f4')\n"
        "    labels = rng.integers(0, 9, rows)\n"
        "    pdepth.probe_votes(values[:rows], labels, values[rows:], backend='triton')\n"
        "with stubbed(gives_up=False) as found:\n"
        f"    first, *rest = {sizes}\n"
        "    call(*first); print(len(found))\n"
        "    for each in rest:\n"
        "        call(*each)\n"
        "    print(len(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=PLAIN, capture_output=True, text=True, check=True
    )
    first, after = map(int, done.stdout.split())
    assert first == after
    assert 5 <= first <= most


def parts_of(
    monkeypatch: pytest.MonkeyPatch, trouble: list[BaseException]
) -> tuple[list[str], list[str], Callable[..., int]]:
    """Of a run of two gates and a table: which of them ran, what was said, and what runs them."""
    ran: list[str] = []
    said: list[str] = []

    def part(name: str) -> Any:
        def do(bench: gpu.Bench) -> None:
            """A part."""
            ran.append(name)
            for number in range(3):
                if str(number) in bench.results:
                    continue
                if number == 2 and name == "equality" and trouble:
                    raise trouble.pop()
                bench.results[str(number)] = len(ran)
                bench.keep()
                if bench.left() < 0:
                    bench.leave_out(f"{name}: the rest")
                    return

        return do

    gates = {name: part(name) for name in ("equality", "bound")}
    monkeypatch.setattr(gpu, "GATES", gates)
    monkeypatch.setattr(gpu, "PARTS", gates | {"table": part("table")})
    monkeypatch.setattr(gpu, "about", lambda device: json.loads(json.dumps(WHERE)))

    def run(out: Path, *parts: str, **options: Any) -> int:
        ran.clear()
        said.clear()
        return gpu.run(gpu.Plan(out, parts=[*parts], **options), DEVICE, said.append)

    return ran, said, run


def test_no_time_is_taken_where_equality_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, _, run = parts_of(monkeypatch, [])
    assert run(tmp_path / "a", "table") == 1
    assert ran == []
    assert run(tmp_path / "b") == 0
    assert ran == ["equality", "bound", "table"]
    assert run(tmp_path / "c", "table", resume=tmp_path / "b") == 0  # by what is written
    assert ran == []
    assert run(tmp_path / "b") == 2  # its rows would be lost
    assert (tmp_path / "b" / "rows.jsonl").read_text().count("\n") == 1 + 3 * 4


def test_a_run_that_was_killed_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, said, run = parts_of(monkeypatch, [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    path = tmp_path / "rows.jsonl"
    assert [name for part, name in read(path) if part == "equality"] == ["0", "1"]
    with path.open("a") as file:
        file.write('{"part": "equality", "name": "2", "va')  # killed while it wrote
    assert run(tmp_path, resume=tmp_path) == 0
    assert ran == ["equality", "bound", "table"]
    values = read(path)
    assert [values["equality", str(number)] for number in range(3)] == [1, 1, 1]
    assert values["equality", ""]["differing"] == 0
    other = dict(WHERE, commit="def")
    monkeypatch.setattr(gpu, "about", lambda device: other)
    assert run(tmp_path / "other", resume=tmp_path) == 2
    assert "got other commit" in said[0]


def test_an_error_is_no_equality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, _, run = parts_of(monkeypatch, [ValueError("no votes")])
    assert run(tmp_path) == 1
    assert ran == ["equality", "bound"]
    assert "no votes" in read(tmp_path / "rows.jsonl")["equality", ""]["error"]


def test_too_little_time_is_said_with_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, said, run = parts_of(monkeypatch, [])
    assert run(tmp_path, ends=0.0) == 1
    assert "equality: left out, with 0 s left" in said
    assert not any(line.startswith("Failed") for line in said)
    assert "  table" in said
    assert f"Go on with: python bench/gpu --resume {tmp_path}" in said
    assert run(tmp_path, resume=tmp_path) == 0
    assert ran == ["equality", "bound", "table"]


def test_rows_of_the_table_without_time_are_left_out() -> None:
    bench = context.Bench(DEVICE, True, lambda line: None, stubbed=True, left=lambda: 0.5)
    table.table(bench)
    assert not bench.results
    assert len(bench.left_out) == len(table.WIDTHS) * len(table.KINDS)


def test_a_row_whose_votes_differ_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_torch(support: Any, queries: Any, labels: Any, target: Any = None) -> torch.Tensor:
        votes = torch.from_numpy(table.votes_in_float64(support, queries, labels)).int()
        if wrong:
            votes[wrong[0]] = (votes[wrong[0]] + 1) % 10
        return votes if target is None else votes.where(votes == target, -1)

    monkeypatch.setattr(table, "search", by_torch)
    bench = context.Bench(torch.device("cpu"), True, lambda line: None)
    wrong: list[int] = []
    row = table.measured(bench, "classes", 60, 24)
    assert row["differing"] == 0
    assert {"votes", "depth only", "float16 product", "torch matmul + topk"} <= {*row["seconds"]}
    wrong.append(2)
    row = table.measured(bench, "classes", 60, 24)
    assert row["differing"] == 1
    assert "seconds" not in row
    assert "1 differ" in table.markdown([row])


def test_rows_are_stored_and_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "HOME", tmp_path)
    page = tmp_path / "docs" / "gpu.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- bench/gpu -->\nnothing\n<!-- end of bench/gpu -->\nafter\n")
    here = common.machine("torch") | WHERE | {"versions": {"torch": "2"}}
    rows = Rows(tmp_path / "out", here)
    row = {"width": 64, "kind": "normal", "differing": 0, "TFLOP/s": {"votes": 101.25}}
    rows.write("table", "a", row)
    rows.write("equality", "", {"differing": 0})
    rows.close()
    assert "1 rows of the table" in store.store(tmp_path / "out")
    stored = json.loads((tmp_path / "bench/results/gpu-a-device.json").read_text())
    assert stored["parts"]["table"] == {"a": row}
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "| 64 | normal | 101.2 | - |" in text
    with pytest.raises(ValueError, match="expected a folder with the rows.jsonl"):
        store.store(tmp_path)


def test_the_list_has_the_seconds_that_its_budget_counts() -> None:
    known = specialisations.load()
    measured = [seconds for seconds in known.values() if seconds is not None]
    assert len(measured) > len(known) / 2
    doubled = {each: 2 * seconds for each, seconds in specialisations.seconds_of(known).items()}
    assert budget.compiling(doubled) > 1.5 * budget.compiling(specialisations.seconds_of(known))


@pytest.mark.slow
def test_a_layer_that_fails_leaves_no_sum_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    search_whole = measurements.search

    def failing(support: torch.Tensor, *rest: Any) -> torch.Tensor:
        if support.shape[1] == 10:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return search_whole(support, *rest)

    monkeypatch.setattr(measurements, "search", failing)
    monkeypatch.setattr(measurements.pdepth, "probe_votes", lambda *_, **__: None)
    bench = context.Bench(DEVICE, True, lambda line: None)
    measurements.networks(bench)
    assert math.isnan(bench.results["ResNet18, all probes"]["seconds"])


def test_a_copy_without_history_is_told_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(common, "CHECKOUT", True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("PDEPTH_COMMIT", "abc")
    assert common.commit() == "abc"
