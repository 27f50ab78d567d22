"""bench/gpu without a GPU: its parts run, and nothing is timed before its votes are compared."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pdepth.backends import triton as backend

from helpers.device import DEVICE

if (reason := backend.unavailable()) is not None:
    pytest.skip(f"no triton backend here: {reason}", allow_module_level=True)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU to run it on")
    script = Path(__file__).parents[2] / "bench" / "gpu"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, str(script), *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert "equality" in run("--list").stdout
    assert "part: expected tests, bound, equality, times" in run("peer").stderr
    assert "pass --tiny with it" in run("equality").stderr
    done = run("--tiny", "tests", "bound", "equality", "kernels")
    assert done.returncode == 0, done.stderr
    assert "1 passed" in done.stdout
    assert "a profile needs a CUDA device" in done.stdout
    worst = [float(each) for each in re.findall(r"worst error / bound so far (\S+)", done.stdout)]
    assert len(worst) == 3
    assert 0.001 < worst[-1] < 1
    assert "30 votes compared with the cpu backend's" in done.stdout
    assert "0 layers differ" in done.stdout
    assert not list(tmp_path.iterdir())


def test_no_time_is_taken_where_equality_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pdepth.bench import common
    from pdepth.bench.gpu import __main__ as gpu

    where = {"device": "A Device", "commit": "abc", "versions": {"triton": "1"}, "driver": "2"}
    ran: list[str] = []
    trouble: list[BaseException] = []

    def part(name: str) -> Any:
        def call(bench: gpu.Bench) -> None:
            """A part."""
            ran.append(name)
            bench.results["ran"] = len(ran)
            if name == "equality" and trouble:
                raise trouble.pop()

        return call

    def run(*parts: str) -> int:
        ran.clear()
        return gpu.main([*parts])

    gates = {name: part(name) for name in gpu.GATES}
    monkeypatch.setattr(gpu, "GATES", gates)
    monkeypatch.setattr(gpu, "PARTS", gates | {"times": part("times")})
    monkeypatch.setattr(gpu, "about", lambda device: where.copy())
    monkeypatch.setattr(gpu.backend, "unavailable", lambda: None)
    monkeypatch.setattr(gpu.backend, "interpreted", lambda: False)
    monkeypatch.setattr(common, "HOME", tmp_path)
    assert run("times") == 1
    assert ran == []
    assert run() == 0
    assert ran == ["tests", "bound", "equality", "times"]
    assert run("times") == 0  # by what is stored
    stored = json.loads((tmp_path / "bench/results/gpu-a-device.json").read_text())["parts"]
    assert [each["about"] for each in stored.values()] == [where] * 4
    trouble.append(ValueError("no votes"))
    assert run("equality", "times") == 1  # an error is no equality
    assert ran == ["equality"]
    assert "times: left out, since equality did not pass here" in capsys.readouterr().out
    assert run("equality", "times") == 0
    for key, value in (("commit", "def"), ("commit", "abc-dirty"), ("commit", "")):
        where[key] = value
        assert run("times") == 1
        assert run("tests", "bound", "equality", "times") == 0
        assert run("times") == (0 if value == "def" else 1)


@pytest.mark.slow
def test_a_layer_that_fails_leaves_no_sum_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from pdepth.bench.gpu import context, measurements

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
    from pdepth.bench import common

    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(common, "CHECKOUT", True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("PDEPTH_COMMIT", "abc")
    assert common.commit() == "abc"
