"""A pytest plugin, run in a process of its own: scikit-learn's tests meet pdepth's estimators.

The engine answers whatever the width is, and the last line says how often it was asked.
"""

from __future__ import annotations

from typing import Any

import pdepth
import pdepth.compat.sklearn as compat

asked = 0


def counted(function: Any) -> Any:
    def wrapper(*args: Any, **options: Any) -> Any:
        global asked
        asked += 1
        return function(*args, **options)

    return wrapper


def pytest_configure() -> None:
    pdepth.Index.kneighbors = counted(pdepth.Index.kneighbors)
    pdepth.Index.votes = counted(pdepth.Index.votes)
    compat.patch()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"engine asked {asked} times")
