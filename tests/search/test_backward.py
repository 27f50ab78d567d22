"""Early exit: which queries are dropped, and that what is known is the definition's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Engine
from numpy.typing import NDArray

import pdepth
from pdepth import definition
from pdepth.arrays.arguments import check_search, check_voting
from pdepth.arrays.encoded import UNKNOWN
from pdepth.arrays.problem import Problem, problems
from pdepth.io.journal import Journal
from pdepth.search import backward, voting
from pdepth.search.backward import NO_CLASS, ProbeSearch

PROBES, ROWS = 4, 90
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, ROWS)
LAYERS = [
    (0.5 * probe * np.eye(3)[LABELS] + RNG.standard_normal((ROWS, 3))).astype(np.float32)
    for probe in range(PROBES)
]


def search_problem(k: Any, rows: NDArray[np.int64], weights: str = "uniform") -> Problem:
    options = check_search(check_voting(k, weights), "sqeuclidean", True, 2, None)
    (problem,) = problems(LAYERS, None, LABELS, options, query_rows=rows)
    return problem


def expected_votes(k: int, rows: NDArray[np.int64], weights: str = "uniform") -> Any:
    return np.stack(
        [
            definition.probe_votes(layer, LABELS, query_rows=rows, k=k, weights=weights).votes
            for layer in LAYERS
        ]
    )


@pytest.mark.parametrize(
    ("ks", "weights"), [((9,), "uniform"), ((9, 2), "uniform"), ((5,), "distance")]
)
def test_a_query_is_active_until_the_votes_of_every_k_differ(
    ks: tuple[int, ...], weights: str, engine: Engine
) -> None:
    rows = np.arange(0, ROWS, engine.of(1, 23))
    problem = search_problem(list(ks), rows, weights)
    target = np.where(rows % 5 == 0, NO_CLASS, LABELS[rows]).astype(np.int32)
    search = ProbeSearch(
        PROBES,
        len(rows),
        check_voting(list(ks), weights),
        engine.options["backend"],
        early_exit=True,
        target=target,
    )
    search.search(problem)
    agrees = {k: expected_votes(k, rows, weights) == target for k in ks}
    runs = {k: np.logical_and.accumulate(agrees[k][::-1])[::-1] for k in ks}
    some_run = np.any([runs[k] for k in ks], axis=0)
    assert search.active.tolist() == np.flatnonzero(some_run[0]).tolist()
    for k, votes in zip(ks, search.votes, strict=True):
        expected = np.where(runs[k], target, UNKNOWN)
        assert (votes.votes == expected).all()
    assert engine.interpreted or 0 < len(search.active) < len(rows)


@pytest.mark.parametrize("early_exit", [True, False])
def test_several_problems_are_searched_as_one(early_exit: bool) -> None:
    """Spans of probes, the later ones for the active queries only."""
    rows = np.arange(ROWS)
    whole = search_problem(7, rows)
    target = LABELS.astype(np.int32)

    def new_search() -> ProbeSearch:
        return ProbeSearch(
            PROBES, ROWS, check_voting(7), "cpu", early_exit=early_exit, target=target
        )

    expected, search = new_search(), new_search()
    expected.search(whole)
    for first, end in ((2, 4), (0, 2)):
        queries = search.active
        span = replace(
            whole, probes=whole.probes[first:end], query_rows=queries, num_queries=len(queries)
        )
        search.search(span, first, queries)
    assert (search.votes[0].votes == expected.votes[0].votes).all()
    assert search.active.tolist() == expected.active.tolist()


@pytest.mark.parametrize("weights", ["uniform", "exp"])
def test_progress_is_that_of_all_active_queries(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever query chunks a journal keeps votes, or weights are counted."""
    monkeypatch.setattr(backward, "QUERY_CHUNK", 32)
    monkeypatch.setattr(voting, "CHUNK_BYTES", 1)
    monkeypatch.setattr(voting, "CHUNK_QUERIES", 10)
    reports: dict[int, list[float]] = {}
    active: dict[int, set[int]] = {}

    def record(probe: int, fraction: float, queries: int) -> None:
        reports.setdefault(probe, []).append(fraction)
        active.setdefault(probe, set()).add(queries)

    ballot = check_voting(7, weights)
    journal = Journal(tmp_path / "run", {})
    search = ProbeSearch(
        PROBES,
        ROWS,
        ballot,
        "cpu",
        early_exit=True,
        target=LABELS.astype(np.int32),
        journal=journal,
    )
    search.search(search_problem(7, np.arange(ROWS), weights), progress=record)
    journal.close()
    agrees = expected_votes(7, np.arange(ROWS), weights) == LABELS
    runs = np.logical_and.accumulate(agrees[::-1])[::-1]
    expected = {p: ROWS if p == PROBES - 1 else int(runs[p + 1].sum()) for p in range(PROBES)}
    assert active == {probe: {count} for probe, count in expected.items() if count}
    for fractions in reports.values():
        assert fractions == sorted(fractions)
        assert len(fractions) > 1
        assert 0 <= fractions[0] < fractions[-1] <= 1


class Reading:
    """Values of several probes that come together, in chunks."""

    chunk_rows = 20
    fingerprint = np.arange(PROBES)

    def __init__(self) -> None:
        self.read_rows = 0

    def read(self, sources: Any, rows: slice) -> list[Any]:
        self.read_rows += rows.stop - rows.start
        return [source.array[rows] for source in sources]


class SharedSource:
    """A source that a reading serves."""

    def __init__(self, array: Any, shared: Reading) -> None:
        self.array, self.shared = array, shared
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows: slice) -> Any:
        return self.array[rows]


@pytest.mark.parametrize("early_exit", [True, False])
@pytest.mark.parametrize("rows", [[7, 3, 80, 3], list(range(ROWS))], ids=["some", "all"])
def test_sources_of_one_reading_are_read_once(early_exit: bool, rows: list[int]) -> None:
    """Whatever the order of the probes, and of the queries, of which one comes twice."""
    options: dict[str, Any] = {"query_rows": rows, "k": 7, "early_exit": early_exit}
    expected = pdepth.depth_from_embeddings(LAYERS, LABELS, LABELS[rows], **options)
    reading = Reading()
    sources = [SharedSource(layer, reading) for layer in LAYERS]
    result = pdepth.depth_from_embeddings(sources, LABELS, LABELS[rows], **options)
    assert (result.depth == expected.depth).all()
    assert (result.votes == expected.votes).all()
    assert reading.read_rows == ROWS


def test_a_journal_with_several_query_chunks_of_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every query chunk has the lists of its own queries."""
    monkeypatch.setattr(backward, "QUERY_CHUNK", 32)
    reading = Reading()
    options = check_search(check_voting(7), "sqeuclidean", True, 1, None)
    sources = [SharedSource(layer, reading) for layer in LAYERS]
    (problem,) = problems(sources, None, LABELS, options)
    for _ in range(2):
        journal = Journal(tmp_path / "run", {"k": "7"})
        search = ProbeSearch(
            PROBES,
            ROWS,
            options.voting,
            "cpu",
            early_exit=True,
            target=LABELS.astype(np.int32),
            journal=journal,
        )
        search.search(problem)
        journal.close()
        runs = np.logical_and.accumulate((expected_votes(7, np.arange(ROWS)) == LABELS)[::-1])
        assert (search.votes[0].votes == np.where(runs[::-1], LABELS, UNKNOWN)).all()
    assert reading.read_rows == ROWS  # the second time all votes are known
