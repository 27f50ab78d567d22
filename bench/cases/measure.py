"""Measures a case: who answers is warmed, fitted, and asked in interleaved rounds, by two clocks.

Wall time is what a user waits for. Processor time, of all threads, hardly changes when others use
the machine, so that ratios of it can be trusted there too; a contestant with more threads than
another has no advantage by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import numpy as np

from pdepth.bench.cases.catalogue import Case
from pdepth.bench.cases.contestants import Contestant
from pdepth.bench.cases.gate import Refused, Verdict, judge
from pdepth.bench.cases.tasks import Sizes, Task
from pdepth.bench.suite.engines import CEILING, PDEPTH

REST = 0.02  # seconds before each turn, while threads of the previous one still spin
TURN = 0.02  # seconds that brief calls are repeated for
BRIEF = 0.5  # seconds below which the first round only warms
MOST_ROUNDS, FITS = 40, 3
HELD = 1e7  # answers that are kept of each contestant
Report = Callable[[str], None]


@dataclass
class Player:
    """A contestant in a case: what it is asked through, its times and its answers.

    Attributes:
        wall, processor: seconds of a call, a turn each. first: seconds of fitting and a first call.
        answers: by batch.
        repeats: calls of a turn.
    """

    who: Contestant
    library: Any
    fitted: Any = None
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)
    repeats: int = 1

    def begin(self, task: Task, *, timed: bool) -> None:
        """Fit; with its first call, timed, or alone."""
        started = time.perf_counter()
        self.fitted = self.who.fit(self.library, task)
        if timed:
            self.who.ask(self.fitted, task.queries_of(0), task)
            self.first.append(time.perf_counter() - started)

    def turn(self, task: Task, batch: int) -> None:
        """Ask for some batches, from this one on; keep times and answers.

        Raises Refused where pdepth gives another answer than before.
        """
        batches = [(batch + number) % task.batches for number in range(self.repeats)]
        queries = [task.queries_of(number) for number in batches]
        time.sleep(REST)
        wall, processor = time.perf_counter(), time.process_time()
        answers = [self.who.ask(self.fitted, each, task) for each in queries]
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        self.wall.append(wall / self.repeats)
        self.processor.append(processor / self.repeats)
        for number, answer in zip(batches, answers, strict=True):
            self._keep(task, number, answer)

    def _keep(self, task: Task, batch: int, answer: Any) -> None:
        known = self.answers.get(batch)
        if known is None:
            if not self.answers or (len(self.answers) + 1) * np.size(answer) <= HELD:
                self.answers[batch] = answer
        elif self.who.kind == PDEPTH and not np.array_equal(known, answer):
            raise Refused(f"{self.who.name}: expected the answers of its first call, got others.")

    def forget(self) -> None:
        """Take the times so far for warming, and repeat calls that are brief."""
        self.repeats = max(1, min(50, int(TURN / max(self.wall[-1], 1e-6))))
        self.wall.clear()
        self.processor.clear()


def measure(case: Case, sizes: Sizes, patience: float, report: Report) -> dict[str, Any]:
    """A case's record.

    Args:
        case: what is measured.
        sizes: of its rows.
        patience: seconds after which it begins no further round.
        report: called with a sentence for each contestant that is left out.

    Raises Refused where pdepth's answers are not the definition's, and what pdepth raises.
    """
    task = case.task(sizes)
    players = enter(case, task, report)
    began = time.monotonic()
    for _ in range(FITS if case.fitted else 1):
        for player in players:
            player.fitted = None
            player.begin(task, timed=case.fitted)
        if time.monotonic() - began > patience / 2:
            break
    rounds(players, task, patience)
    answers = {player.who.name: player.answers for player in players if player.who.kind != CEILING}
    ours = case.contestants[0].name
    same = tuple(player.who.name for player in players if player.who.kind == PDEPTH)
    verdict = judge(case.answers, task, ours, answers, same)
    return {
        "group": case.group,
        "name": case.name,
        "support": list(task.support.shape),
        "asked": task.asked,
        "k": task.k,
        "metric": task.metric,
        "beside": case.beside,
        "checked": verdict.checked,
        "answered": verdict.answered,
        "contestants": [record(player, players[0], verdict) for player in players],
    }


def enter(case: Case, task: Task, report: Report) -> list[Player]:
    """Those who can answer, each warmed on a few rows."""
    players, small = [], task.small()
    work = float(task.support.size) * task.asked
    for who in case.contestants:
        if reason := who.missing():
            report(reason)
            continue
        if work > who.limit:
            continue
        try:
            player = Player(who, who.library())
            player.begin(small, timed=True)
        except Exception as error:
            if who.kind == PDEPTH:
                raise
            report(f"{who.name} is left out: {type(error).__name__}: {error}")
            continue
        player.first.clear()
        players.append(player)
    return players


def rounds(players: list[Player], task: Task, patience: float) -> None:
    """Interleaved rounds; the first only warms, where it is brief."""
    began, batch, number = time.monotonic(), 0, 0
    while number < MOST_ROUNDS:
        turn = number % len(players)  # no one always follows the same other
        for player in players[turn:] + players[:turn]:
            player.turn(task, batch)
        batch = (batch + max(player.repeats for player in players)) % task.batches
        number += 1
        if number == 1 and all(player.wall[0] < BRIEF for player in players):
            for player in players:
                player.forget()
        elif time.monotonic() - began > patience:
            break


def record(player: Player, ours: Player, verdict: Verdict) -> dict[str, Any]:
    """What is stored of a contestant; ratios are of its times over pdepth's, round by round."""
    name = player.who.name
    return {
        "name": name,
        "kind": player.who.kind,
        "rounds": len(player.wall),
        "seconds": median(player.wall),
        "processor_seconds": median(player.processor),
        "least": [min(player.wall), min(player.processor)],
        "first": median(player.first) if player.first else None,
        "ratio": spread(player.wall, ours.wall),
        "processor_ratio": spread(player.processor, ours.processor),
        "differing": verdict.differing.get(name),
        "recall": verdict.recall.get(name),
        "beyond": verdict.beyond.get(name),
    }


def spread(over: list[float], under: list[float]) -> list[float]:
    """The lower quartile, the median and the upper quartile of ratios."""
    ratios = [above / below for above, below in zip(over, under, strict=True)]
    if len(ratios) == 1:
        return ratios * 3
    return quantiles(ratios, n=4, method="inclusive")
