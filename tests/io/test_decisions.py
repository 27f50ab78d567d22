"""Files of decisions and selections: what comes back, and the sentence for each wrong one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pdepth
from pdepth.io.decisions import Decision, Decisions, RunRows, Selection

RUN = {"rows": 9, "skipped": [4], "labels": "00ff", "inputs": None}
ENTRIES: list[Any] = [
    {"row": 8, "decision": "drop", "id": "a/8.png"},
    {"row": 2, "decision": "relabel", "label": 3, "class": "cat", "given": 5},
    {"row": 5, "decision": "keep", "note": "looked at"},
]


def write(path: Path, **changed: Any) -> Path:
    content = {"format": "pdepth-decisions", "version": 1, "run": RUN, "decisions": ENTRIES}
    path.write_text(json.dumps(content | changed))
    return path


def test_decisions_come_back_by_row(tmp_path: Path) -> None:
    read = Decisions.read(write(tmp_path / "d.json"))
    assert read.run == RunRows(9, (4,), "00ff", None)
    assert read.entries == (
        Decision(2, "relabel", 3, "cat", 5),
        Decision(5, "keep"),
        Decision(8, "drop", id="a/8.png"),
    )
    assert (read.dropped.tolist(), read.relabelled, len(read)) == ([8], {2: 3}, 3)
    assert repr(read) == "Decisions(1 kept, 1 relabelled, 1 dropped of 9)"
    read.save(tmp_path / "again.json")
    assert pdepth.Decisions.read(tmp_path / "again.json") == read
    assert {path.name for path in tmp_path.iterdir()} == {"d.json", "again.json"}


def entry(**values: Any) -> dict[str, Any]:
    return {"decisions": [values]}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"format": "other"}, "expected the format \"pdepth-decisions\", got 'other'"),
        ({"version": 2}, "expected version 1 of pdepth-decisions, got 2; the pdepth that wrote"),
        ({"run": None}, 'expected an entry "run" with the number of rows, got None'),
        ({"run": {}}, 'an integer from 0 on as "rows" of "run", got None'),
        ({"run": RUN | {"labels": 3}}, 'expected a checksum as "labels" of "run", or null, got 3'),
        ({"run": RUN | {"skipped": 4}}, 'expected a list as "skipped" of "run", got 4'),
        ({"run": RUN | {"skipped": [9]}}, "expected rows from 0 to 8, which the run's data has"),
        ({"decisions": {}}, 'expected a list as "decisions", got {}'),
        ({"decisions": [3]}, "expected decisions that are objects, got 3"),
        (entry(row=9, decision="keep"), "rows from 0 to 8, which the run's data has, got 9"),
        (entry(row=-1, decision="keep"), 'an integer from 0 on as "row", got -1'),
        (entry(row=True, decision="keep"), 'an integer from 0 on as "row", got True'),
        (entry(row=1.0, decision="keep"), 'an integer from 0 on as "row", got 1.0'),
        (entry(row=1), "one of keep, relabel, drop as the decision of row 1, got None"),
        (entry(row=1, decision="burn"), "keep, relabel, drop as the decision of row 1, got 'burn'"),
        (entry(row=1, decision="relabel"), '"label" of row 1, which is relabelled, got None'),
        (entry(row=1, decision="relabel", label=-3), '"label" of row 1, which is relabelled, got'),
        (entry(row=1, decision="drop", label=3), "expected no label of row 1, whose decision is"),
        (entry(row=1, decision="drop", given="x"), "\"given\" of row 1, got 'x'"),
        (entry(row=1, decision="drop", id=7), 'expected text as "id" of row 1, got 7'),
        ({"decisions": [ENTRIES[2], ENTRIES[2]]}, "expected one decision a row, got two of row 5"),
    ],
)
def test_wrong_decisions_are_named(changed: Any, sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.json", **changed)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{re.escape(sentence)}"):
        Decisions.read(path)


def test_what_is_no_file_of_decisions(tmp_path: Path) -> None:
    path = write(tmp_path / "d.json")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="got no JSON, or one that was cut short"):
        Decisions.read(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r'expected the format "pdepth-decisions", got None'):
        Decisions.read(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="got no JSON"):
        Decisions.read(path)
    with pytest.raises(IsADirectoryError, match="got a folder"):
        Decisions.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        Decisions.read(tmp_path / "none.json")
    with pytest.raises(TypeError, match="path: expected a path, got 3"):
        Decisions.read(3)  # type: ignore[arg-type]


def test_selections_as_json_and_csv(tmp_path: Path) -> None:
    Selection("deep", np.array([3, 7]), RunRows(9)).save(tmp_path / "s.json")
    read = pdepth.read_selection(tmp_path / "s.json")
    assert (read.name, read.rows.tolist(), read.run) == ("deep", [3, 7], RunRows(9))
    (tmp_path / "deep.csv").write_text("label,row\n1,7\n0,3\n0,3\n", encoding="utf-8-sig")
    of_csv = pdepth.read_selection(tmp_path / "deep.csv")
    assert (of_csv.name, of_csv.rows.tolist(), len(of_csv)) == ("deep", [3, 7], 2)
    with pytest.raises(ValueError, match="run: expected the rows of the run"):
        of_csv.save(tmp_path / "other.json")


def test_a_selection_as_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file = tmp_path / "deep.Parquet"
    pq.write_table(pa.table({"label": [1, 0, 0], "row": [7, 3, 3]}), file)
    read = pdepth.read_selection(file)
    assert (read.name, read.rows.tolist(), read.run) == ("deep", [3, 7], None)
    assert read.rows.dtype == np.int64
    for content, sentence in (
        ({"label": [1]}, "expected a column row, got 'label'"),
        ({"row": [1.5]}, "an integer from 0 on as rows, got 1.5"),
        ({"row": [-1]}, "an integer from 0 on as rows, got -1"),
        ({"row": [1, None]}, "an integer from 0 on as rows, got None"),
    ):
        pq.write_table(pa.table(content), file)
        with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: .*{re.escape(sentence)}"):
            pdepth.read_selection(file)
    file.write_text("row\n1\n")
    with pytest.raises(ValueError, match="expected a Parquet file, got one that cannot be read"):
        pdepth.read_selection(file)
    with pytest.raises(FileNotFoundError):
        pdepth.read_selection(tmp_path / "none.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"read_selection of a \.parquet file.*pdepth\[tables\]"):
        pdepth.read_selection(file)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("s.csv", "label\n1\n", "expected a column row, got 'label'"),
        ("s.csv", "", "expected a column row, got ''"),
        ("s.csv", "row\n-1\n", "expected row numbers in the column row, got '-1'"),
        ("s.csv", f"row\n{'7' * 200_000}\n", "expected CSV in UTF-8, got another file: field"),
        ("s.csv", "label,row\n1\n", "expected row numbers in the column row, got ''"),
        ("s.json", '{"format": "pdepth-selection"}', "expected version 1 of pdepth-selection, got"),
        ("s.json", '{"format": "pdepth-decisions"}', 'expected the format "pdepth-selection"'),
        (
            "s.json",
            '{"format": "pdepth-selection", "version": 1, "run": {"rows": 2}, "name": 3}',
            'expected a "name" and a list of "rows", got 3',
        ),
        (
            "s.json",
            '{"format": "pdepth-selection", "version": 1, "run": {"rows": 2}, "name": "", '
            '"rows": [2]}',
            "expected rows from 0 to 1, which the run's data has, got 2",
        ),
    ],
)
def test_wrong_selections_are_named(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        pdepth.read_selection(tmp_path / name)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(b"row\n\xff\xfe\n")
    with pytest.raises(ValueError, match="s.csv: expected CSV in UTF-8, got another file: 'utf-8'"):
        pdepth.read_selection(tmp_path / "s.csv")
