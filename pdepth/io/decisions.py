"""What somebody decided of the rows of a run: which are kept, relabelled or dropped; selections.

Both are files that the report's page offers for download, and that people may write by hand:
docs/decisions.md has the formats.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.io import tables
from pdepth.io.atomic import check_path, disk, replacing

DECISIONS, SELECTION, VERSION = "pdepth-decisions", "pdepth-selection", 1
KINDS = ("keep", "relabel", "drop")
DROPPED = "dropped by decision"  # why a run has skipped a row
LARGEST = 2**63 - 1  # a label or a row, at most


def skipped_by_reason(reasons: Mapping[int, str]) -> dict[str, int]:
    """How many rows a run has skipped for each kind of reason, in words after "rows that"."""
    dropped = sum(reason == DROPPED for reason in reasons.values())
    counts = {"cannot be read": len(reasons) - dropped, "were dropped by decision": dropped}
    return {why: count for why, count in counts.items() if count}


@dataclass(frozen=True)
class RunRows:
    """Which rows decisions or a selection are of.

    Attributes:
        rows: how many the data has, skipped ones included.
        skipped: numbers of those that the run skipped, ascending. dropped: those of them that were
            dropped by earlier decisions.
        labels: a checksum of all labels of the others, in their order; None where there are none.
        inputs: a checksum of all their inputs; None where the run did not take it.
    """

    rows: int
    skipped: tuple[int, ...] = ()
    labels: str | None = None
    inputs: str | None = None
    dropped: tuple[int, ...] = ()

    @classmethod
    def of_json(cls, entry: Any, path: Path) -> RunRows:
        """What `to_json` made. Raises ValueError for anything else."""
        if not isinstance(entry, dict):
            raise _other(path, 'an entry "run" with the number of rows', entry)
        rows = _integer(entry.get("rows"), path, '"rows" of "run"')
        numbers = [
            _sorted_rows(entry.get(name, []), path, rows, f'"{name}" of "run"').tolist()
            for name in ("skipped", "dropped")
        ]
        for name in ("labels", "inputs"):
            if not isinstance(entry.get(name), str | None):
                raise _other(path, f'a checksum as "{name}" of "run", or null', entry[name])
        skipped, dropped = map(tuple, numbers)
        return cls(rows, skipped, entry.get("labels"), entry.get("inputs"), dropped)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {
            "rows": self.rows,
            "skipped": list(self.skipped),
            "labels": self.labels,
            "inputs": self.inputs,
            "dropped": list(self.dropped),
        }


@dataclass(frozen=True)
class Decision:
    """What was decided of one row.

    Attributes:
        row: its number in the data.
        decision: "keep", "relabel" or "drop".
        label: the new class, of "relabel" alone. name: the class's name, or None.
        given: the label that the run saw, or None. id: the row's file or name, or None.
    """

    row: int
    decision: str
    label: int | None = None
    name: str | None = None
    given: int | None = None
    id: str | None = None

    @classmethod
    def of_json(cls, entry: Any, rows: int, path: Path) -> Decision:
        """What `to_json` made, of data of so many rows. Raises ValueError for anything else."""
        if not isinstance(entry, dict):
            raise _other(path, "decisions that are objects", entry)
        row = _integer(entry.get("row"), path, '"row"', rows)
        decision = entry.get("decision")
        if decision not in KINDS:
            raise ValueError(
                f"{path}: expected one of {', '.join(KINDS)} as the decision of row {row}, got "
                f"{decision!r:.60}."
            )
        label, given = entry.get("label"), entry.get("given")
        if decision == "relabel":
            label = _integer(label, path, f'"label" of row {row}, which is relabelled')
        elif label is not None:
            raise ValueError(
                f"{path}: expected no label of row {row}, whose decision is {decision}, got "
                f"{label!r:.60}."
            )
        if given is not None:
            given = _integer(given, path, f'"given" of row {row}', least=-LARGEST)
        for key in ("class", "id"):
            if not isinstance(entry.get(key), str | None):
                raise _other(path, f'text as "{key}" of row {row}', entry[key])
        return cls(row, decision, label, entry.get("class"), given, entry.get("id"))

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file, without what is None."""
        values = {
            "row": self.row,
            "decision": self.decision,
            "label": self.label,
            "class": self.name,
            "given": self.given,
            "id": self.id,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Decisions:
    """What was decided of some rows of a run's examples.

    Attributes:
        run: which rows the data has.
        entries: one a row, in ascending rows.
    """

    run: RunRows
    entries: tuple[Decision, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        counts = [sum(entry.decision == kind for entry in self.entries) for kind in KINDS]
        kept, changed, dropped = counts
        return f"Decisions({kept} kept, {changed} relabelled, {dropped} dropped of {self.run.rows})"

    @property
    def dropped(self) -> NDArray[np.int64]:
        """Numbers of the rows that are to be left out, ascending."""
        rows = [entry.row for entry in self.entries if entry.decision == "drop"]
        return np.array(rows, np.int64)

    @property
    def relabelled(self) -> dict[int, int]:
        """The new label of each row that has one, by its number."""
        return {entry.row: entry.label for entry in self.entries if entry.label is not None}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, whole or not at all."""
        content = {
            "format": DECISIONS,
            "version": VERSION,
            "run": self.run.to_json(),
            "decisions": [entry.to_json() for entry in self.entries],
        }
        _write(path, content)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Decisions:
        """Read what the report's page or `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: another file, one that was cut short, or wrong entries: an unknown decision,
                a row that the data does not have, or twice, a label that is no integer from 0 on.
        """
        content, file = _read(path, DECISIONS)
        run = RunRows.of_json(content.get("run"), file)
        listed = content.get("decisions")
        if not isinstance(listed, list):
            raise _other(file, 'a list as "decisions"', listed)
        entries = [Decision.of_json(entry, run.rows, file) for entry in listed]
        entries.sort(key=lambda entry: entry.row)
        for entry, following in pairwise(entries):
            if entry.row == following.row:
                raise ValueError(
                    f"{file}: expected one decision a row, got two of row {entry.row}."
                )
        return cls(run, tuple(entries))


@dataclass(frozen=True, eq=False)
class Selection:
    """Some rows of a run's examples, under a name.

    Attributes:
        name: of the set.
        rows: (n,) int64, their numbers in the data, ascending, each once.
        run: which rows the data has; None of a CSV or Parquet file, which does not say.
    """

    name: str
    rows: NDArray[np.int64] = field(repr=False)
    run: RunRows | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON file, whole or not at all. Raises ValueError where `run` is None."""
        if self.run is None:
            raise ValueError(
                "run: expected the rows of the run that the selection is of, got None."
            )
        content = {
            "format": SELECTION,
            "version": VERSION,
            "run": self.run.to_json(),
            "name": self.name,
            "rows": self.rows.tolist(),
        }
        _write(path, content)


def read_selection(path: str | os.PathLike[str]) -> Selection:
    """Read a set of rows that the report's page exported: JSON, or CSV or Parquet (.csv, .parquet)
    with a column `row`.

    The name of a set in CSV or Parquet is its file's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another file, one that was cut short, or numbers that the data does not have.
        ImportError: of Parquet, pyarrow is missing (extra `tables`).
    """
    file = check_path(path)
    kind = file.suffix.lower()
    if kind in (".csv", ".parquet"):
        of_parquet = kind == ".parquet"
        what = "read_selection of a .parquet file"
        numbers = tables.row_numbers(file, "row", what) if of_parquet else _column(file)
        return Selection(file.stem, _sorted_rows(numbers, file, None, "rows"))
    content, file = _read(path, SELECTION)
    run = RunRows.of_json(content.get("run"), file)
    name, rows = content.get("name"), content.get("rows")
    if not isinstance(name, str) or not isinstance(rows, list):
        raise _other(file, 'a "name" and a list of "rows"', rows if isinstance(name, str) else name)
    return Selection(name, _sorted_rows(rows, file, run.rows, "rows"), run)


def _column(file: Path) -> list[int]:
    """The column `row` of a CSV file."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines)
        try:
            names = table.fieldnames or ()
            texts: list[str] = [line.get("row") or "" for line in table]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: expected CSV in UTF-8, got another file: {error}.") from None
    if "row" not in names:
        raise _other(file, "a column row", ", ".join(names))
    for text in texts:
        if not text.isdecimal():
            raise _other(file, "row numbers in the column row", text)
    return [int(text) for text in texts]


def _sorted_rows(rows: Any, file: Path, end: int | None, what: str) -> NDArray[np.int64]:
    """Row numbers of a list in a file, ascending, each once."""
    if not isinstance(rows, list):
        raise _other(file, f"a list as {what}", rows)
    return np.unique(np.array([_integer(row, file, what, end) for row in rows], np.int64))


def _write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    with disk(check_path(path), "nothing was written"), replacing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], Path]:
    """A file's content, of a format that is known here."""
    file = check_path(path)
    if file.is_dir():
        raise IsADirectoryError(f"{file}: expected a file of {kind}, got a folder.")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{file}: expected a file of {kind}, got no JSON, or one that was cut short: {reason}."
        ) from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != kind:
        raise _other(file, f'the format "{kind}"', found)
    version = content.get("version")
    if version != VERSION:
        raise ValueError(
            f"{file}: expected version {VERSION} of {kind}, got {version!r:.60}; the pdepth that "
            "wrote it reads it."
        )
    return content, file


def _integer(value: Any, path: Path, what: str, end: int | None = None, *, least: int = 0) -> int:
    """An integer of a file, below `end`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise ValueError(
            f"{path}: expected an integer from {least} on as {what}, got {value!r:.60}."
        )
    if end is not None and value >= end:
        raise ValueError(
            f"{path}: expected rows from 0 to {end - 1}, which the run's data has, got {value}."
        )
    return value


def _other(path: Path, expected: str, found: Any) -> ValueError:
    return ValueError(f"{path}: expected {expected}, got {found!r:.60}.")
