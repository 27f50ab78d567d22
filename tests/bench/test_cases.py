"""What people do with a search: tasks, contestants, the gate, rounds, what is stored and shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdepth import definition, native

pytest.importorskip("faiss")
pytest.importorskip("sklearn")

from pdepth.bench import common, pages
from pdepth.bench.cases import __main__ as command
from pdepth.bench.cases import catalogue, contestants, gate, level, measure, table, tasks
from pdepth.bench.cases.catalogue import RANKS, ROWS, VOTES, Case
from pdepth.bench.cases.contestants import APPROXIMATE, Contestant
from pdepth.bench.cases.tasks import IP, L2, Sizes, Task
from pdepth.bench.suite import engines

TINY = Sizes(100)
CASES = catalogue.catalogue()
BRIEF = (  # one of each kind of answer, of fitting and of rows, for the fast tier
    "small batches: 1 query, L2",
    "small batches: 10 queries, inner products",
    "many neighbours: 1,000 queries, L2, k = 10,000",
    "libraries: scikit-learn `predict`, 20,000 x 512, 10,000 queries, with `fit`",
    "leave-one-out: 20,000 x 512",
    "shapes: softmax, 10,000 x 10,000 x 10",
)


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "REST", 0.0)
    monkeypatch.setattr(measure, "TURN", 0.0)


def run(case: Case, sizes: Sizes = TINY) -> dict[str, Any]:
    return measure.measure(case, sizes, 0.0, lambda sentence: None)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case.title in BRIEF else [pytest.mark.slow], id=case.title)
        for case in CASES
    ],
)
def test_every_case_runs_and_passes_its_gate(case: Case) -> None:
    record = run(case)
    ours, *others = record["contestants"]
    assert ours["kind"] == engines.PDEPTH
    assert ours["ratio"] == [1, 1, 1]
    assert ours["differing"] == 0
    assert record["checked"] >= min(3, record["answered"])
    for other in others:
        assert other["rounds"] >= 1
        assert min(other["seconds"], other["processor_seconds"]) > 0
        if other["kind"] == engines.PEER and case.answers == ROWS:
            assert other["beyond"] == 0
            assert other["recall"] > 0.99
        if other["kind"] == engines.CEILING:
            assert other["differing"] is None
    if case.fitted:
        assert ours["first"] > 0
    assert json.loads(json.dumps(record)) == record


def test_the_catalogue_has_what_is_asked_for() -> None:
    titles = [case.title for case in CASES]
    assert len(set(titles)) == len(titles)
    assert set(BRIEF) <= set(titles)
    for metric in catalogue.SHORT.values():
        for batch in ("1 query", "10 queries", "100 queries", "1,000 queries", "10,000 queries"):
            assert f"small batches: {batch}, {metric}" in titles
        for k in ("1", "30", "100", "1,000", "10,000"):
            assert f"many neighbours: 1,000 queries, {metric}, k = {k}" in titles
    assert {case.group for case in CASES} == {
        "small batches", "many neighbours", "libraries", "graphs", "leave-one-out", "shapes",
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_names_tell_the_sizes(case: Case) -> None:
    made = case.task.args if isinstance(case.task, partial) else ()
    sizes = [f"{each:,}" for each in made if isinstance(each, int) and each not in (10, 30)]
    told = case.title + " 50,000 x 128 k = 30"  # what a group has in common
    assert [size for size in sizes if size not in told] == []


def task_of(metric: str = L2, rows: int = 400, k: int = 5, queries: int = 12) -> Task:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows + queries, 8)).astype(np.float32)
    return tasks.split(values, rows, k=k, metric=metric, batch=4)


def test_a_task_is_asked_batch_by_batch() -> None:
    task = task_of()
    assert (task.asked, task.batches) == (4, 3)
    assert task.rows_of(1).tolist() == [4, 5, 6, 7]
    assert task.queries is not None
    np.testing.assert_array_equal(task.queries_of(2), task.queries[8:])
    own = replace(task, queries=None, batch=0)
    assert (own.asked, own.batches, own.queries_of(0)) == (400, 1, None)
    small = task.small()
    assert len(small.support) == 256
    assert len(replace(task, k=300).small().support) == 400


def answers_of(task: Task, kind: str) -> dict[int, Any]:
    """The definition's, by batch."""
    every: Any = range(task.batches)
    return {batch: expected(kind, task, task.rows_of(batch)) for batch in every}


def expected(kind: str, task: Task, numbers: Any) -> Any:
    """The definition's answers for some queries."""
    scores = gate._scores(task, numbers) if kind == ROWS else []
    return gate._definition(kind, task, numbers, scores)


def test_rows_of_the_definition() -> None:
    for metric in (L2, IP):
        task = task_of(metric)
        assert task.queries is not None
        rows = np.concatenate(list(answers_of(task, ROWS).values()))
        if metric == L2:
            right = definition.kneighbors(task.support, task.queries, k=5)[1]
        else:
            products = task.queries.astype(float) @ task.support.T.astype(float)
            right = np.argsort(-products, axis=1, kind="stable")[:, :5]
        np.testing.assert_array_equal(rows, right)
    own = replace(task_of(), queries=None, batch=0)
    right = definition.kneighbors(own.support, k=5)[1]
    np.testing.assert_array_equal(answers_of(own, ROWS)[0], right)


@pytest.mark.parametrize("kind", [ROWS, VOTES, RANKS])
def test_the_gate_refuses_a_wrong_answer(kind: str) -> None:
    task = task_of(IP if kind == RANKS else L2)
    right = answers_of(task, kind)
    wrong = {batch: answer.copy() for batch, answer in right.items()}
    wrong[1][2] += 1
    assert gate.judge(kind, task, "a", {"a": right, "b": wrong}).differing == {"a": 0, "b": 1}
    with pytest.raises(gate.Refused, match=r"answers of a are not the definition's, on a sample"):
        gate.judge(kind, task, "a", {"a": wrong, "b": right})
    with pytest.raises(gate.Refused, match="answers of b are not a's"):
        gate.judge(kind, task, "a", {"a": right, "b": wrong}, same=("a", "b"))
    short = {batch: answer[:, None] for batch, answer in right.items()}
    with pytest.raises(gate.Refused, match="expected answers of shape"):
        gate.judge(kind, task, "a", {"a": short})


@pytest.mark.parametrize("metric", [L2, IP])
def test_what_float32_explains_and_what_it_does_not(metric: str) -> None:
    task = task_of(metric)
    # two rows that differ in their last bit: float32 may take either for the other
    task.support[0] = task.support[1] * np.float32(1 + 2**-23)
    assert task.queries is not None
    task.queries[:] = 3 * task.support[1]
    right = answers_of(task, ROWS)
    assert set(right[0][0][:2]) == {0, 1}
    swapped = {batch: rows.copy() for batch, rows in right.items()}
    further = {batch: rows.copy() for batch, rows in right.items()}
    twice = {batch: rows.copy() for batch, rows in right.items()}
    for batch in right:
        swapped[batch][:, [0, 1]] = right[batch][:, [1, 0]]
        more = expected(ROWS, replace(task, k=40), task.rows_of(batch))
        further[batch][:, -1] = more[:, -1]
        twice[batch][:, 1] = right[batch][:, 0]
    answers = {"a": right, "swapped": swapped, "further": further, "twice": twice}
    verdict = gate.judge(ROWS, task, "a", answers)
    assert verdict.checked == verdict.answered == 12
    assert verdict.beyond == {"a": 0, "swapped": 0, "further": 12, "twice": 12}
    assert verdict.differing == {"a": 0, "swapped": 12, "further": 12, "twice": 12}
    assert verdict.recall == {"a": 1, "swapped": 1, "further": 0.8, "twice": 0.8}


def contestant(name: str, kind: str, ask: Callable[..., Any]) -> Contestant:
    return Contestant(name, "pdepth", lambda module, task: task, ask, kind)


def test_a_round_with_other_answers_ends_the_case() -> None:
    calls = []

    def fickle(fitted: Any, queries: Any, task: Task) -> Any:
        calls.append(1)
        votes = definition.probe_votes(task.support, task.labels, queries, k=task.k).votes
        return votes + (len(calls) > 3)  # after warming and two rounds

    ours = contestant("pdepth", engines.PDEPTH, fickle)
    case = Case("group", "case", lambda sizes: replace(task_of(), batch=0), (ours,), VOTES)
    measure.measure(case, TINY, 0.0, print)  # two rounds: the first warms
    calls.clear()
    with pytest.raises(gate.Refused, match="expected the answers of its first call, got others"):
        measure.measure(case, TINY, 60.0, print)


def test_rounds_are_interleaved_and_whoever_fails_is_left_out() -> None:
    calls: list[str] = []

    def answer(name: str) -> Callable[..., Any]:
        def ask(fitted: Any, queries: Any, task: Task) -> Any:
            calls.append(name)
            return definition.kneighbors(task.support, queries, k=task.k)[1]

        return ask

    def fail(fitted: Any, queries: Any, task: Task) -> Any:
        raise NotImplementedError("not today")

    everyone = (
        contestant("pdepth", engines.PDEPTH, answer("pdepth")),
        contestant("a", engines.PEER, answer("a")),
        contestant("broken", engines.PEER, fail),
        replace(contestant("wide", engines.PEER, fail), limit=100),
        replace(contestant("gone", engines.PEER, fail), module="no_such_module"),
    )
    sentences: list[str] = []
    case = Case("group", "case", lambda sizes: task_of(), everyone, fitted=True)
    record = measure.measure(case, TINY, 0.0, sentences.append)
    assert calls == ["pdepth", "a", "pdepth", "a", "pdepth", "a", "a", "pdepth"]
    assert [each["name"] for each in record["contestants"]] == ["pdepth", "a"]
    assert sentences == [
        "broken is left out: NotImplementedError: not today",
        "gone is left out: no_such_module is not installed.",
    ]
    broken = replace(case, contestants=(contestant("pdepth", engines.PDEPTH, fail),))
    with pytest.raises(NotImplementedError):
        measure.measure(broken, TINY, 0.0, print)


def test_each_row_is_left_out_of_its_own_neighbours() -> None:
    rows = np.array([[0, 2, 1], [2, 1, 0], [0, 1, 3], [0, 1, 2]])
    np.testing.assert_array_equal(contestants.without_own(rows), [[2, 1], [2, 0], [0, 1], [0, 1]])


def test_an_index_answers_rightly() -> None:
    for metric in (L2, IP):
        task = task_of(metric)
        index = contestants.fit_index(sys.modules["pdepth"], task)
        rows = contestants.ask_neighbors(index, task.queries, task)
        right = np.concatenate(list(answers_of(task, ROWS).values()))
        np.testing.assert_array_equal(rows, right)


def test_a_process_is_held_to_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    for variables in level.HELD.values():
        for name in variables:
            monkeypatch.delenv(name, raising=False)
    assert level.held() == ""
    level.hold(None)
    assert started == []
    level.hold("avx2")
    ((program, arguments, environment),) = started
    assert program == sys.executable
    assert arguments == sys.orig_argv
    assert environment[native.SIMD] == "avx2"
    for name, value in level.HELD["avx2"].items():
        monkeypatch.setenv(name, value)
    level.hold("avx2")
    assert len(started) == 1
    assert level.held() == "avx2"


def record_of(name: str, *ratios: tuple[str, str, float]) -> dict[str, Any]:
    """A stored case: (contestant, kind, seconds) over pdepth's one second."""
    return {
        "group": "small batches", "name": name, "beside": "", "support": [5_000, 64], "asked": 12,
        "checked": 3, "answered": 12, "commit": "1234567",
        "contestants": [
            {
                "name": who, "kind": kind, "rounds": 3, "seconds": seconds,
                "processor_seconds": 2 * seconds, "first": None, "ratio": [0, seconds, 9],
                "processor_ratio": [0, seconds / 2, 9],
                "least": [seconds / 4, seconds], "differing": 1, "recall": 0.5,
                "beyond": int(kind == APPROXIMATE),
            }
            for who, kind, seconds in (("pdepth", engines.PDEPTH, 1.0), *ratios)
        ],
    }  # fmt: skip


def test_what_stands_beside_pdepth() -> None:
    peers = (
        ("quick", APPROXIMATE, 0.1), ("slow", engines.PEER, 3.0), ("best", engines.PEER, 2.0),
        ("product", engines.CEILING, 0.5),
    )  # fmt: skip
    record = record_of("a", *peers)
    assert table.beside(record)["name"] == "best"  # type: ignore[index]
    record["contestants"][3]["beyond"] = 1
    assert table.beside(record)["name"] == "slow"  # type: ignore[index]
    assert table.beside(record | {"beside": "quick"})["name"] == "quick"  # type: ignore[index]
    line = table.line(record, record_of("a", ("slow", engines.PEER, 4.0)))
    assert line[0] == "a"
    assert line[1:3] == ("5,000 x 12 x 64", "1,000")
    assert line[3:9] == ("3,000 slow, finds 0.500", "**3.00**", "1.50", "3.00", "4.00", "2.00")
    assert table.line(record_of("b"), None) == ("b", line[1], "1,000", *["-"] * 7)


def test_runs_are_kept_by_label_and_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STORED", tmp_path / "cases.json")
    about = common.machine() | {"level": "avx2", "held": "avx2"}
    peer = ("peer", engines.PEER, 2.0)
    order = ["small batches: a", "small batches: b"]
    command.store(record_of("b", peer), "now", about, order)
    command.store(record_of("a", peer), "now", about, order)
    command.store(record_of("a", ("peer", engines.PEER, 4.0)), "before", about, order)
    command.store(record_of("b", ("peer", engines.PEER, 8.0)), "now", about, order)
    command.store(record_of("b", peer), "now", about | {"level": "amx"}, order)
    stored = pages.load(command.STORED)
    kept = {
        (run["label"], run["level"]): [case["name"] for case in run["cases"]]
        for run in stored["runs"]
    }
    assert kept == {("before", "avx2"): ["a"], ("now", "avx2"): ["a", "b"], ("now", "amx"): ["b"]}
    text = table.table(stored)
    assert text.index("### Level avx2") < text.index("### Level amx")
    start = "| 5,000 x 12 x 64 | 1,000 |"
    assert f"| a {start} 2,000 peer, finds 0.500 | **2.00** | 1.00 | 2.00 | 4.00 | - | - |" in text
    assert f"| b {start} 8,000 peer, finds 0.500 | **8.00** | 4.00 | 8.00 | - | - | - |" in text


def test_the_stored_results_and_the_page_agree() -> None:
    if not common.CHECKOUT:
        pytest.skip("needs a checkout: an installed copy has no pages")
    if not command.STORED.exists():
        pytest.skip(f"{command.NAME} has no stored result")
    begin, end = f"<!-- {command.NAME} -->\n", f"\n<!-- end of {command.NAME} -->"
    page = (common.HOME / command.PAGE).read_text()
    assert page.split(begin)[1].split(end)[0] == table.table(pages.load(command.STORED))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")  # of the networks whose layers are cases
    into = ["--into", str(tmp_path)]
    assert command.main(["small*1 query*", "--list", *into]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "small batches: 1 query, L2",
        "small batches: 1 query, inner products",
    ]
    assert command.main(["small*1 query, L2", "--tiny", *into]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("small batches: 1 query, L2: ")
    assert "compared with the definition" in captured.out
    assert f"ResNet18's layers are left out: {tmp_path}" in captured.err
    with pytest.raises(SystemExit, match="PATTERN: expected one that matches a title of --list"):
        command.main(["nothing", *into])


def test_a_refused_case_has_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")

    def wrong(fitted: Any, queries: Any, task: Task) -> Any:
        return definition.probe_votes(task.support, task.labels, queries, k=task.k).votes + 1

    case = Case(
        "group", "case", lambda sizes: task_of(), (contestant("pdepth", engines.PDEPTH, wrong),),
        VOTES,
    )  # fmt: skip
    monkeypatch.setattr(catalogue, "catalogue", lambda: [case])
    assert command.main(["--tiny", "--into", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "group: case: no number: " in captured.err
