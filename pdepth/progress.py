"""Progress of a run: events, and who shows them: bars, plain lines or the caller's function."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Event:
    """A step of a run.

    Attributes:
        stage: "note" (a sentence, in `text`), "support" or "queries" (forward passes; counts are
            rows) or "probes" (the search; counts are floating-point operations, and `text` names
            the probe).
        done, total: how much of the stage is finished; total is None while it is unknown.
        detail: speed, active queries and time left, ready to be shown.
    """

    stage: str
    text: str
    done: float = 0.0
    total: float | None = None
    detail: str = ""

    @property
    def finished(self) -> bool:
        return self.done == self.total


Observer = Callable[[Event], None]
ProbeProgress = Callable[[int, float, int], None]
"""Called with (probe, its fraction done, queries searched there), about ten times a second."""


@contextmanager
def watch(progress: bool | Observer = True, stream: TextIO | None = None) -> Iterator[Observer]:
    """Yield the observer that `progress` stands for, and close it at the end.

    Args:
        progress: True: bars where `stream` is a terminal, plain lines elsewhere; False: nothing;
            a callable: called with each `Event`.
        stream: standard error by default.

    Raises:
        TypeError: `progress` is neither a bool nor a callable.
    """
    if not isinstance(progress, bool):
        if not callable(progress):
            raise TypeError(
                f"progress: expected True, False or a callable, got a {type(progress).__name__}."
            )
        yield progress
        return
    stream = stream or sys.stderr
    if not progress:
        yield lambda event: None
    elif stream.isatty():
        with _bars(stream) as observer:
            yield observer
    else:
        yield _Lines(stream)


@contextmanager
def _bars(stream: TextIO) -> Iterator[Observer]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(file=stream)) as bars:

        def observer(event: Event) -> None:
            if event.stage == "note":
                bars.console.print(event.text, highlight=False, markup=False)
                return
            if event.stage not in tasks:
                tasks[event.stage] = bars.add_task(event.stage, total=None, detail="")
            detail = event.detail if event.finished else f"{event.text}  {event.detail}".strip()
            bars.update(tasks[event.stage], completed=event.done, total=event.total, detail=detail)

        yield observer


class _Lines:
    """Plain lines for logs: one at the end of a stage, and one every `interval` until then."""

    interval = 15.0  # seconds; a log of an hour's run still fits on a few screens

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        recent = now - self.last.setdefault(event.stage, now) < self.interval
        if event.stage == "note":
            line = event.text
        elif event.finished or not recent:
            self.last[event.stage] = now
            share = f" {100 * event.done / event.total:.0f} %" if event.total else ""
            place = "" if event.finished else f" {event.text}".rstrip()
            line = f"{event.stage}{share}{place}: {event.detail}"
        else:
            return
        print(line, file=self.stream, flush=True)


class RowMeter:
    """Turns the rows of a reading into events with speed and time left."""

    observer: Observer
    stage: str
    total: int | None

    def __init__(self, observer: Observer, stage: str, total: int | None) -> None:
        self.observer, self.stage, self.total = observer, stage, total
        self.start: float = time.monotonic()

    def __call__(self, done: int, *, finished: bool = False) -> None:
        if done == self.total and not finished:
            return  # the end is one event, `finished`
        seconds = max(time.monotonic() - self.start, 1e-9)
        detail = f"{done:,} rows, {done / seconds:,.0f} rows/s"
        if finished:
            detail += f", {format_seconds(seconds)}"
        elif self.total and done:
            detail += f", {format_seconds(seconds * (self.total - done) / done)} left"
        self.observer(Event(self.stage, "", done, done if finished else self.total, detail))


class ChunkProgress:
    """Reports a backend's progress with one query chunk as that with all queries of a probe.

    Attributes:
        total: how many queries the probe is searched for. done: how many of them before the chunk.
    """

    def __init__(self, progress: ProbeProgress, first: int) -> None:
        """first: the number of the problem's first probe."""
        self._progress, self._first = progress, first
        self.total = self.done = 0

    def __call__(self, probe: int, fraction: float, queries: int) -> None:
        fraction = min(1.0, (self.done + fraction * queries) / self.total)
        self._progress(self._first + probe, fraction, self.total)


class SearchClock:
    """The time that a search takes, without the forward passes before and within it."""

    def __init__(self, running: bool = False) -> None:
        self._seconds = 0.0
        self._since: float | None = time.monotonic() if running else None

    @property
    def seconds(self) -> float:
        """So far."""
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the search runs."""
        self._set(True)
        try:
            yield
        finally:
            self._set(False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While something else runs within the search."""
        self._set(False)
        try:
            yield
        finally:
            self._set(True)

    def _set(self, running: bool) -> None:
        self._seconds, self._since = self.seconds, time.monotonic() if running else None


class ProbeMeter:
    """Turns a backend's (probe, fraction, active queries) into events with GFLOP/s and time left.

    Work at a probe is 2 x active queries x support rows x width. What lies ahead is counted with
    the queries that are active now: an upper bound where early exit drops more of them.

    limit: operations a second that the machine is capable of, for comparison; None where it was
    not measured. more: what else is shown, in words.
    """

    limit: float | None
    more: Callable[[], str]
    observer: Observer
    probes: Sequence[str]
    widths: Sequence[int]

    def __init__(
        self,
        observer: Observer,
        probes: Sequence[str],
        widths: Sequence[int],
        support_rows: int,
        limit: float | None = None,
        clock: SearchClock | None = None,
        more: Callable[[], str] = str,
    ) -> None:
        self.limit, self.more = limit, more
        self.observer, self.probes, self.widths = observer, probes, widths
        self.support_rows = support_rows
        self._clock = clock or SearchClock(running=True)
        self.work: dict[int, float] = {}  # floating-point operations, by probe
        self.fraction: dict[int, float] = {}

    def _cost(self, probe: int, active: int) -> float:
        return 2.0 * active * self.support_rows * self.widths[probe]

    def __call__(self, probe: int, fraction: float, active: int) -> None:
        self.work.setdefault(probe, self._cost(probe, active))
        self.fraction[probe] = fraction
        done = sum(self.work[p] * self.fraction[p] for p in self.work)
        ahead = sum(self._cost(p, active) for p in range(len(self.widths)) if p not in self.work)
        total = sum(self.work.values()) + ahead
        rate = done / max(self._clock.seconds, 1e-9)
        detail = f"{active:,} active queries, {self._speed(rate)}"
        if rate:
            detail += f", {format_seconds((total - done) / rate)} left"
        if more := self.more():
            detail += f", {more}"
        # Only `finish` ends the search: all depths may be known before probe 0.
        total = max(total, done * (1 + 1e-9) + 1)
        self.observer(Event("probes", self.probes[probe], done, total, detail))

    def _speed(self, rate: float) -> str:
        share = f" ({100 * rate / self.limit:.0f} % of a float32 product's)" if self.limit else ""
        return f"{rate / 1e9:,.0f} GFLOP/s{share}"

    def finish(self, queries: Sequence[int]) -> None:
        """End the search; queries: how many were active at each probe."""
        seconds = max(self._clock.seconds, 1e-9)
        done = sum(self._cost(probe, queries[probe]) for probe in self.work)
        detail = f"{sum(map(bool, queries))} of {len(self.probes)} probes searched"
        if done:  # 0 where all votes were read from a journal
            detail += f", {self._speed(done / seconds)}, {format_seconds(seconds)}"
        self.observer(Event("probes", "", done or 1.0, done or 1.0, detail))


def fastest(call: Callable[[], object], runs: int = 3) -> float:
    """Return the seconds of the fastest of `runs` calls, after one that warms up."""
    call()
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def format_seconds(seconds: float) -> str:
    """Return seconds in words: "4.2 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
