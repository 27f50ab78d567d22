"""Options and fixtures of the whole suite."""

from __future__ import annotations

import pytest

from pdepth import native


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
