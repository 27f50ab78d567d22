"""A group of probes whose support does not fit, and passes by the queries once, chunk by chunk."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.arguments import Problem
from pdepth.arrays.encoded import Engine
from pdepth.arrays.sources import Stored
from pdepth.embeddings.spans import Group
from pdepth.io.journal import Journal
from pdepth.progress import ProbeMeter
from pdepth.search.backward import Walk
from pdepth.search.chunks import Found, Lists, Running

NAME = "passing"  # in a journal
PAUSE = 5.0  # seconds between two writings of the lists, at least
SHARE = 20  # and times as many as the last one took


def begun(journal: Journal | None, end: int, asked: NDArray[np.int64]) -> int | None:
    """The first probe of a group that was cut off, if it is what comes before `end` now."""
    known = None if journal is None else journal.noted(NAME, ("first", "end", "asked"))
    if known is None or int(known["end"]) != end or not np.array_equal(known["asked"], asked):
        return None
    return int(known["first"])


def ask(
    walk: Walk,
    group: Group,
    problem: Problem,
    own: bool,
    journal: Journal | None,
    search: ProbeMeter,
) -> None:
    """Have a walk ask the problem's queries at all of its layers, the group's; see `nearest`."""
    engine = walk.engine_for(replace(problem, layers=()))
    found = nearest(group, problem, engine, own, journal, search)
    walk.ask(group.first, found.asked(problem), None, group.asked, found)


def nearest(
    group: Group,
    problem: Problem,
    engine: Engine,
    own: bool,
    journal: Journal | None,
    search: ProbeMeter,
) -> Found:
    """The neighbours of the problem's queries at all of its layers, the group's.

    own: whether queries are rows of the support, left out of their own vote. journal: keeps the
    lists on the way, and those of the same group of a run that was cut off, if what is computed
    has the same bits now.
    """
    assert group.passing is not None
    rows = group.asked if own else None
    running = [Running(engine, replace(problem, layers=()), rows) for _ in problem.layers]
    lists = [each.lists for each in running]
    place = {"first": np.int64(group.first), "end": np.int64(group.first + len(lists))}
    place |= {"asked": group.asked, "bits": np.array(group.bits)}
    total = len(problem.layers[0].support)
    queries = [layer.queries[:] for layer in problem.layers if layer.queries is not None]
    begin = _recalled(journal, place, lists)
    written, pause = time.monotonic(), PAUSE
    for first, values in group.passing(begin):
        begin = first + len(values[0])
        with search.at_work():
            for number, layer in enumerate(problem.layers):
                assert isinstance(layer.support, Stored)
                chunk = layer.support.given(values[number], first)
                running[number].take(layer.name, chunk, first, queries[number])
                del chunk
                search(group.first + number, begin / total, problem.count)
        del values  # before the next are computed
        if journal is not None and begin < total and time.monotonic() - written > pause:
            start = time.monotonic()
            _note(journal, place | {"seen": np.int64(begin)}, lists)
            written = time.monotonic()
            pause = max(PAUSE, SHARE * (written - start))
    return Found({layer.name: each for layer, each in zip(problem.layers, lists, strict=True)})


def _note(journal: Journal, place: dict[str, Any], lists: list[Lists]) -> None:
    distances = {f"distances {n}": each[0] for n, each in enumerate(lists)}
    rows = {f"rows {n}": each[1] for n, each in enumerate(lists)}
    journal.note(NAME, place | distances | rows)


def _recalled(journal: Journal | None, place: dict[str, Any], lists: list[Lists]) -> int:
    """Put what is known into the lists; how many rows of the support have passed."""
    known = None if journal is None else journal.noted(NAME, (*place, "seen"))
    if journal is None or known is None:
        return 0
    if any(not np.array_equal(known[key], place[key]) for key in place):
        return 0
    for number, each in enumerate(lists):
        for array, name in zip(each, ("distances", "rows"), strict=True):
            key = f"{name} {number}"  # one at a time: all are as large as the lists themselves
            array[:] = (journal.noted(NAME, (key,)) or {})[key]
    return int(known["seen"])
