"""Options and fixtures of the whole suite."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from helpers.skips import TEST_EXTRA, with_remedy
from helpers.torch_or_skip import HAS_TORCH, NEED_TORCH, torch

# Before Triton is imported: without a GPU its kernels run one program at a time, on the CPU.
if HAS_TORCH and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pdepth
from pdepth import native
from pdepth.backends import triton

collect_ignore = [] if HAS_TORCH else NEED_TORCH

# The same examples at each run; `--hypothesis-profile=long` looks for others, and takes minutes.
hypothesis.settings.register_profile("fast", max_examples=40, derandomize=True, deadline=None)
hypothesis.settings.register_profile("same", max_examples=150, derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=5000, deadline=None)

VOTES = {True: 12_000, False: 240_000}  # of the fast tier, and of all tests
STAGE_VOTES = {True: 2_000, False: 40_000}  # of each filter stage at level avx2; others take fewer
TRITON_VOTES = {True: 13, False: 39}  # fewer: the kernels may be interpreted


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--installed",
        action="store_true",
        help="refuse the checkout's pdepth: an installed one is tested, from another folder",
    )
    parser.addoption(
        "--votes",
        type=int,
        help="how many votes the fuzz compares with the definition "
        f"(default {VOTES[False]:,}; {VOTES[True]:,} in the fast tier)",
    )
    parser.addoption(
        "--stage-votes",
        type=int,
        help="how many the fuzz of each filter stage compares at level avx2 "
        f"(default {STAGE_VOTES[False]:,}; {STAGE_VOTES[True]:,} in the fast tier)",
    )
    parser.addoption(
        "--triton-votes",
        type=int,
        help="how many the fuzz of the triton backend compares "
        f"(default {TRITON_VOTES[False]}; {TRITON_VOTES[True]} in the fast tier)",
    )


def in_fast_tier(config: pytest.Config) -> bool:
    """Whether slow tests are left out, as pyproject.toml's options leave them."""
    return bool(config.option.markexpr == "not slow")


@pytest.hookimpl(optionalhook=True)  # of xdist, before it starts the workers
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Workers share the cores: more threads of OpenMP, which wait in a loop, double the time."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, native.default_threads() // len(specs))))


def pytest_configure(config: pytest.Config) -> None:
    if config.option.installed and Path(pdepth.__file__).is_relative_to(config.rootpath / "pdepth"):
        raise pytest.UsageError(f"--installed: expected an installed pdepth, got {pdepth.__file__}")
    fast = in_fast_tier(config)
    config.option.votes = config.option.votes or VOTES[fast]
    config.option.stage_votes = config.option.stage_votes or STAGE_VOTES[fast]
    config.option.triton_votes = config.option.triton_votes or TRITON_VOTES[fast]
    if config.getoption("--hypothesis-profile") is None:
        hypothesis.settings.load_profile("fast" if fast else "same")


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        for mark in item.iter_markers("slow_if"):
            if unknown := mark.kwargs.keys() - parameters.keys():
                raise pytest.UsageError(f"{item.nodeid}: no parameter {unknown} for slow_if")
            if all(parameters[name] in values for name, values in mark.kwargs.items()):
                item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    return naming_remedy((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return naming_remedy((yield))


def naming_remedy(report: Any) -> Any:
    """The report, where it is of a skip with what would run the test."""
    if report.skipped and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = path, line, with_remedy(reason)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not HAS_TORCH:
        terminalreporter.write_line(
            f"{len(NEED_TORCH)} files need torch, which is not installed: {TEST_EXTRA}"
        )


@pytest.fixture(scope="session")
def of_tier(pytestconfig: pytest.Config) -> Callable[[Any, Any], Any]:
    """`of_tier(fast, full)`: how much a test does in the fast tier, and among all tests."""
    fast = in_fast_tier(pytestconfig)
    return lambda fewer, full: fewer if fast else full


@pytest.fixture(params=list(native.simd_levels()))
def level(request: pytest.FixtureRequest, level_named: Callable[[str], str]) -> str:
    """Each compiled instruction set in turn, forced."""
    return level_named(request.param)


@dataclass(frozen=True)
class Engine:
    """One way to the votes: a level of the CPU engine, or the GPU engine.

    options: the arguments that choose it. interpreted: whether it is so slow that a test has to
    take a small problem; on a device it takes the same as the others.
    """

    name: str
    options: dict[str, Any]
    interpreted: bool = False

    def of(self, size: int, small: int) -> int:
        return small if self.interpreted else size


@pytest.fixture(params=[*native.simd_levels(), "triton"])
def engine(request: pytest.FixtureRequest, level_named: Callable[[str], str]) -> Engine:
    """Each engine in turn."""
    if request.param == "triton":
        if reason := triton.unavailable():
            pytest.skip(f"no GPU engine here: {reason}")
        return Engine("triton", {"backend": "triton"}, triton.interpreted())
    return Engine(level_named(request.param), {"backend": "cpu"})


@pytest.fixture
def level_named(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Forces a compiled instruction set by its name, or skips the test."""

    def force(name: str) -> str:
        if not native.simd_levels()[name]:
            pytest.skip(f"this machine lacks {name}")
        monkeypatch.setenv(native.SIMD, name)
        return name

    return force


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill fresh tensors with NaN, or a large integer: a read before the first write shows."""
    empty = torch.empty

    def filled(*arguments: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*arguments, **options)
        if tensor.dtype.is_floating_point:
            return tensor.fill_(math.nan)
        return tensor.fill_(1 if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max // 3)

    monkeypatch.setattr(torch, "empty", filled)


@pytest.fixture
def large_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lists of the GPU engine hold all rows: small supports go the way of large ones."""
    if triton.unavailable():
        return  # and no test of these asks for it
    from pdepth.kernels import lists

    monkeypatch.setattr(lists, "WHOLE", 0)
