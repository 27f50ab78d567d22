"""The study of cleaned labels: what each way leaves of a data set."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from pdepth.analysis.label_errors import LabelIssues
from pdepth.bench.studies import cleaning as study


def cleaned(flags: list[bool]) -> dict[str, study.Cleaned]:
    """Six labels, of which the first and the last are wrong."""
    truth = np.array([0, 1, 2, 0, 1, 2])
    labels = np.array([1, 1, 2, 0, 1, 0])
    issues = LabelIssues(
        score=np.where(flags, 1.0, -1.0),
        label=labels,
        suggested=(labels + 1) % 3,
        threshold=0.0,
        rows=np.arange(6),
    )
    return study.cleanings(issues, truth, np.random.default_rng(0))


def test_each_way_leaves_what_its_name_says() -> None:
    found = {
        name: (rows.tolist(), labels.tolist())
        for name, (rows, labels) in cleaned([True, True, False, False, False, False]).items()
    }
    assert found[study.DROPPED] == ([2, 3, 4, 5], [2, 0, 1, 0])
    assert found[study.RELABELLED] == (list(range(6)), [2, 2, 2, 0, 1, 0])
    assert len(found[study.RANDOM][0]) == 4
    assert found[study.ORACLE] == ([1, 2, 3, 4], [1, 2, 0, 1])


def test_the_oracle_takes_as_many_rows_as_are_flagged() -> None:
    few = cleaned([False, True, False, False, False, False])
    assert len(few[study.ORACLE][0]) == 5
    assert {0, 5} - set(few[study.ORACLE][0].tolist())  # one of the two wrong ones
    many = cleaned([True, True, True, True, False, False])
    assert len(many[study.ORACLE][0]) == 2
    assert not {0, 5} & set(many[study.ORACLE][0].tolist())


def test_the_table_has_a_line_a_way() -> None:
    ways = {study.GIVEN: 0.5, study.DROPPED: 0.6}
    run = {"flagged": 10, "wrong": 12, "flagged_wrong": 8, "seconds": 1, "accuracy": ways}
    machine = {
        "versions": {},
        "commit": "",
        "threads": 1,
        "processor": "p",
        "level": "l",
        "date": "",
    }
    text = study.table({"machine": machine, "runs": [run] * 3})
    assert "| labels as given | 50.0 ± 0.0 |  |" in text
    assert "| flagged rows dropped | 60.0 ± 0.0 | 10.0 ± 0.0 |" in text
    assert "| labels as given | 50.0 (1) |  |" in study.table({"machine": machine, "runs": [run]})
