"""Stored results by shape and engine, and how times and ratios are written."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from pdepth.bench.suite.engines import PEER


@dataclass(frozen=True)
class Row:
    """One shape: its sizes, and pytest-benchmark's records of its engines by name."""

    name: str
    params: dict[str, Any]
    engines: dict[str, dict[str, Any]]

    def seconds(self, engine: str) -> float | None:
        """The median over rounds; None for an engine that did not run."""
        record = self.engines.get(engine)
        return None if record is None else median(record["stats"]["data"])

    @property
    def ours(self) -> str:
        """pdepth's fastest level: the engine that each shape begins with."""
        return next(iter(self.engines))

    @property
    def peers(self) -> list[str]:
        """The exact peers, the fastest first."""
        exact = [
            name
            for name, record in self.engines.items()
            if record["extra_info"]["kind"] == PEER and record["extra_info"]["exact"]
        ]
        return sorted(exact, key=lambda name: self.seconds(name) or 0.0)

    @property
    def best_peer(self) -> str | None:
        """The fastest exact peer."""
        return next(iter(self.peers), None)

    def ratio(self, over: str | None, under: str | None) -> float | None:
        """The median over rounds of one engine's time over another's; None if one has none."""
        numerator, denominator = (self.engines.get(name or "") for name in (over, under))
        if numerator is None or denominator is None:
            return None
        times = zip(numerator["stats"]["data"], denominator["stats"]["data"], strict=True)
        ratios: float = median(above / below for above, below in times)
        return ratios

    def size(self) -> tuple[int, int, tuple[int, ...]]:
        """Rows of the support, queries, and widths."""
        return self.params["support"], self.params["queries"], tuple(self.params["widths"])


def rows_of(stored: dict[str, Any]) -> list[Row]:
    """The shapes of stored results, in their order."""
    rows: dict[str, Row] = {}
    for record in stored["benchmarks"]:
        row = rows.setdefault(record["group"], Row(record["group"], record["params"], {}))
        row.engines[record["name"]] = record
    return list(rows.values())


def shown_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.1:
        return f"{seconds:.3g}"
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


def shown_ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
