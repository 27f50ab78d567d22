"""Options and fixtures of the whole suite."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import torch

# Before Triton is imported: without a GPU its kernels run one program at a time, on the CPU.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from pdepth import native
from pdepth.backends import triton

# The same examples at each run; `--hypothesis-profile=long` looks for others, and takes minutes.
hypothesis.settings.register_profile("same", max_examples=150, derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=5000, deadline=None)
hypothesis.settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--votes",
        type=int,
        default=240_000,
        help="how many votes the fuzz compares with the definition (default 240,000)",
    )
    parser.addoption(
        "--triton-votes",
        type=int,
        default=39,
        help="how many the fuzz of the GPU engine compares (default 39: it may be interpreted)",
    )


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
