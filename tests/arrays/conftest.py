"""Fixtures of the tests of arrays."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[(1, 150), (37, 50), (64, 13), (150, 40), (150, 150)])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Rows of the support and queries that are in work at a time, forced."""
    from helpers.sources import force

    force(monkeypatch, *request.param)
    return request.param  # type: ignore[no-any-return]
