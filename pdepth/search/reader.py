"""The thread that reads rows while the kernels work."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from pdepth import native
from pdepth.arrays.memory import human
from pdepth.arrays.rows import Rows
from pdepth.arrays.sources import Stored

log: logging.Logger = logging.getLogger("pdepth")


class Reader:
    """Reads rows in a thread, and knows how long the others waited for it."""

    def __enter__(self) -> Reader:
        native.check_headroom(threads=1)
        self._pool = ThreadPoolExecutor(1, "pdepth-reader")
        self._pool.submit(int).result()  # the thread begins now, while there is memory for it
        self._start, self._bytes, self._reading, self._waiting = time.monotonic(), 0, 0.0, 0.0
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown()
        elapsed = time.monotonic() - self._start
        if kind is None and self._waiting > elapsed / 2:
            log.info(
                "Reading was the limit: %s at %s/s; the kernels waited %.1f of %.1f s.",
                human(self._bytes),
                human(int(self._bytes / max(self._reading, 1e-9))),
                self._waiting,
                elapsed,
            )

    def get(self, rows: Rows, numbers: Any) -> Rows:
        """Some rows, in memory."""
        return self._wait(self._submit(rows, numbers))

    def chunks(self, rows: Rows, bounds: list[int]) -> Iterator[tuple[int, Rows]]:
        """The rows between bounds, and the number of the first, one chunk read ahead.

        Nothing here holds a chunk that was yielded: two are in memory if the caller drops it.
        """
        spans = [slice(*span) for span in pairwise(bounds)]
        coming = self._submit(rows, spans[0])
        for begin, following in zip(bounds, [*spans[1:], None], strict=False):
            chunk = [self._wait(coming)]
            if following is not None:
                coming = self._submit(rows, following)
            else:
                del coming
            yield begin, chunk.pop()

    def _submit(self, rows: Rows, numbers: Any) -> Future[Rows]:
        return self._pool.submit(self._read, rows, numbers)

    def _read(self, rows: Rows, numbers: Any) -> Rows:
        begin = time.monotonic()
        read = rows[numbers]
        if isinstance(rows, Stored):
            self._bytes += read.array.nbytes
        self._reading += time.monotonic() - begin
        return read

    def _wait(self, coming: Future[Rows]) -> Rows:
        begin = time.monotonic()
        try:
            return coming.result()
        finally:
            self._waiting += time.monotonic() - begin
