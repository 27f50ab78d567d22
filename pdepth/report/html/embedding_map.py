"""The map of a page's examples at every probe, packed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.io.map_file import KeptMap
from pdepth.report.html.packing import compress

ABSENT = 2**16 - 1  # in place of an example that was not searched
FAR = 1e38  # from 0: what lies beyond is drawn there
PART = "map-{}"  # of a probe


@dataclass(frozen=True, eq=False)
class PageMap:
    """Where a page's N examples lie at L probes, to one of 65,535 steps of each axis."""

    kept: KeptMap
    _packed: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def parts(self) -> list[str]:
        """The names of what the page's code asks for, one a probe."""
        return [PART.format(probe) for probe in range(len(self.kept.probes))]

    @cached_property
    def boxes(self) -> NDArray[np.float64]:
        """(L, 4) where x begins, a step of x, where y begins, a step of y."""
        boxes = np.zeros((len(self.kept.probes), 4))
        for probe in range(len(self.kept.probes)):
            places = self._places(probe)
            places = places[~np.isnan(places[:, 0])]
            if len(places):
                least, most = places.min(axis=0), places.max(axis=0)
                boxes[probe, 0::2], boxes[probe, 1::2] = least, (most - least) / (ABSENT - 1)
        return boxes

    def header(self) -> dict[str, Any]:
        """What a page's code has to know of its map."""
        explained = [
            [None if np.isnan(share) else float(share) for share in axes]
            for axes in self.kept.explained
        ]
        return {"absent": ABSENT, "boxes": self.boxes.tolist(), "explained": explained}

    def pack(self, part: str) -> bytes:
        """One of `parts`: (N, 2) steps as u2, little-endian, gzip; `ABSENT` where not searched.

        A part is packed once, whoever asks for it, from whichever thread.
        """
        with self._lock:
            if part not in self._packed:
                self._packed[part] = self._pack(self.parts.index(part))
            return self._packed[part]

    def _pack(self, probe: int) -> bytes:
        begin, step = self.boxes[probe, 0::2], self.boxes[probe, 1::2]
        steps = np.round((self._places(probe) - begin) / np.where(step > 0, step, 1))
        return compress(np.where(np.isnan(steps), ABSENT, steps).astype("<u2").tobytes())

    def _places(self, probe: int) -> NDArray[np.float64]:
        """(N, 2) at a probe, finite or nan."""
        return self.kept.queries[:, probe].astype(np.float64).clip(-FAR, FAR)
