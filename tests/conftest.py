"""Options and fixtures of the whole suite."""

from __future__ import annotations

import hypothesis
import pytest

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


@pytest.fixture(params=list(native.simd_levels()))
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each compiled instruction set in turn, forced."""
    if not native.simd_levels()[request.param]:
        pytest.skip(f"this machine lacks {request.param}")
    monkeypatch.setenv(native.SIMD, request.param)
    return request.param
