"""The neighbours of a page's examples: which rows are shown, and how they are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.io.neighbor_file import KeptNeighbors
from pdepth.report.html.content import Int, encode_classes

MAX_BYTES = 12 << 20  # of all neighbours in a page, before compression
EXPLAINED = 96  # examples at the ends of sheets whose neighbours have pictures
MAX_PICTURES = 6_000  # of neighbours, in a page


@dataclass(frozen=True, eq=False)
class PageNeighbors:
    """The nearest support rows of a page's N examples at L probes.

    Attributes:
        kept: rows and labels.
        own: the support's rows are the examples.
    """

    kept: KeptNeighbors
    own: bool

    def of_examples(self, examples: Int) -> NDArray[np.int64]:
        """(n, L, K) rows of the support; M where an example was not searched."""
        rows = self.kept.rows[:, examples].transpose(1, 0, 2).astype(np.int64)
        return np.where(rows < 0, len(self.kept.codes), rows)

    def nearest(self, examples: Int) -> Int:
        """Distinct rows of the support that are neighbours of some examples, those of the first
        example first."""
        rows = self.of_examples(examples).ravel()
        rows, first = np.unique(rows[rows < len(self.kept.codes)], return_index=True)
        return rows[np.argsort(first)]

    def all_rows(self) -> Int:
        """Distinct rows of the support that are neighbours of any example."""
        rows = np.unique(self.kept.rows)
        return rows[rows >= 0].astype(np.int64)

    def pack(self, order: Int) -> tuple[dict[str, Any], bytes]:
        """What the header says of packed neighbours, and these: of all examples, or of as many as
        there is room for.

        order: the examples, the most important first.

        The bytes: unless they are of all, the n examples as u4; then (n, L, K) rows of the support
        in the type that the header names, little-endian, M where there is none.
        """
        probes, count, nearest = self.kept.rows.shape
        size = next(size for size in (1, 2, 4) if len(self.kept.codes) < 256**size)
        room = MAX_BYTES // (probes * nearest * size)
        examples = np.arange(count) if room >= count else np.sort(order[:room])
        packed = self.of_examples(examples).astype(f"<u{size}").tobytes()
        named = b"" if room >= count else examples.astype("<u4").tobytes()
        header = {
            "examples": None if room >= count else len(examples),
            "explained": order[:EXPLAINED].tolist(),
            "type": f"u{size}",
        }
        return header, named + packed

    def header(self, classes: Int) -> dict[str, Any]:
        """What a page's code has to know of its neighbours. classes: (C,) of the page's codes."""
        numbers = self.kept.row_numbers
        return {
            "nearest": self.kept.rows.shape[2],
            "support": len(self.kept.codes),
            "own": self.own,
            "classes": encode_classes(self.kept.classes, classes).tolist(),
            "numbered": numbers is not None and not self.own,
        }

    def pack_support(self) -> bytes:
        """The support's M labels as codes of its own classes, u4, and where some of its rows were
        skipped the M row numbers, f8."""
        numbers = self.kept.row_numbers
        codes = self.kept.codes.astype("<u4").tobytes()
        padded = codes + bytes(-len(codes) % 8)
        return padded if numbers is None else padded + numbers.astype("<f8").tobytes()

    def describe(self, example: int) -> dict[str, Any]:
        """The neighbours of one example for JSON: (L, K) rows, M where there is none, and
        distances, None where one is infinite, too."""
        rows = self.of_examples(np.array([example]))[0]
        distances = np.asarray(self.kept.distances[:, example], np.float64)
        known = [
            [float(value) if np.isfinite(value) else None for value in line] for line in distances
        ]
        return {"rows": rows.tolist(), "distances": known}
