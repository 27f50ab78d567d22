"""Engines of the benchmark suite that another process imports by name."""

from __future__ import annotations

from typing import Any

from pdepth.bench.suite import engines


class Fickle(engines.Pdepth):
    """Right in the gate, and wrong in the second round."""

    calls = 0

    def run(self, prepared: Any, k: int) -> Any:
        self.calls += 1
        return super().run(prepared, k) + (self.calls == 3)
