"""Options and fixtures of the whole suite."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

# Before Triton is imported: without a GPU its kernels run one program at a time, on the CPU.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from pdepth import native

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
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each compiled instruction set in turn, forced."""
    if not native.simd_levels()[request.param]:
        pytest.skip(f"this machine lacks {request.param}")
    monkeypatch.setenv(native.SIMD, request.param)
    return request.param
