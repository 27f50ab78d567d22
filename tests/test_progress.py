"""The clock of a search, which forward passes stop."""

from __future__ import annotations

import pytest

from pdepth import progress
from pdepth.progress import SearchClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test moves."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_only_the_search_is_counted(now: list[float]) -> None:
    clock = SearchClock()
    now[0] += 5
    assert clock.seconds == 0
    with clock.running():
        now[0] += 2
        assert clock.seconds == 2
        with clock.paused():
            now[0] += 7
            assert clock.seconds == 2
        now[0] += 1
    now[0] += 9
    assert clock.seconds == 3
    with clock.running():
        now[0] += 4
    assert clock.seconds == 7


def test_a_clock_that_runs_from_the_start(now: list[float]) -> None:
    clock = SearchClock(running=True)
    now[0] += 3
    assert clock.seconds == 3


def test_an_error_stops_the_clock_and_ends_a_pause(now: list[float]) -> None:
    clock = SearchClock()

    def fail() -> None:
        with clock.running():
            now[0] += 1
            try:
                with clock.paused():
                    now[0] += 1
                    raise RuntimeError
            finally:
                now[0] += 1

    with pytest.raises(RuntimeError):
        fail()
    now[0] += 8
    assert clock.seconds == 2
