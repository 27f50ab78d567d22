"""What the tests of several adapters share."""

from __future__ import annotations

from typing import Any

import pytest

from pdepth.compat.shared import class_scores, inner_products


@pytest.fixture(params=[False, True], ids=["host", "as on a device"])
def either_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner products as they are searched on the CPU, and by distances as they are on a device."""
    if request.param:
        for module in (class_scores, inner_products):
            monkeypatch.setattr(module, "is_on_device", _yes)


def _yes(rows: Any) -> bool:
    return True
