"""Why an example is as deep as it is: the rows that voted for it, probe by probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.io import tables
from pdepth.io.neighbor_file import KeptNeighbors
from pdepth.report.names import ClassNames, class_name
from pdepth.result import AGAINST, DepthResult

NEAREST = 8  # neighbours of each probe that are shown
SHOWN = 10  # examples in a notebook
AGAIN = "run it again with --keep-neighbors 8"


@dataclass(frozen=True)
class Copy:
    """A row of the support that is equal to an example, as far as was searched.

    row, neighbor: row numbers in the data. probe: the earliest that was searched. label,
    neighbor_label: classes; None where the example has none.
    """

    row: int
    neighbor: int
    probe: str
    label: int | None
    neighbor_label: int


@dataclass(frozen=True, eq=False)
class Explanation:
    """Some examples, and at every probe the nearest support rows and how all k neighbours voted.

    Attributes:
        result: depths and votes of these n examples alone, with their `neighbors`: K of each probe.
    """

    result: DepthResult

    @property
    def neighbors(self) -> KeptNeighbors:
        """Of the examples."""
        assert self.result.neighbors is not None
        return self.result.neighbors

    @property
    def rows(self) -> NDArray[np.int64]:
        """(n,) the examples' row numbers in their data."""
        return self.result.row_numbers

    @property
    def neighbor_rows(self) -> NDArray[np.int64]:
        """(L, n, K) the neighbours' row numbers in the support's data; -1 where not searched."""
        kept = self.neighbors
        rows = kept.rows.astype(np.int64)
        if kept.row_numbers is None:
            return rows
        return np.where(rows < 0, rows, kept.row_numbers[rows])

    @property
    def reference(self) -> NDArray[np.int64]:
        """(n,) the classes that votes are compared with: of the network, unless told otherwise."""
        return self.result.targets

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a line for each example, probe and rank that was searched.

        Columns: row, probe, rank (1 for the nearest), neighbor, distance, label (the neighbour's)
        and agrees (whether that is the class that votes are compared with). Needs the extra
        `tables`.
        """
        kept, numbers = self.neighbors, self.neighbor_rows
        example, probe, rank = np.nonzero(kept.rows.transpose(1, 0, 2) >= 0)
        at = probe, example, rank
        labels = kept.labels_of(kept.rows[at])
        columns = {
            "row": self.rows[example],
            "probe": np.array(kept.probes, object)[probe],
            "rank": rank + 1,
            "neighbor": numbers[at],
            "distance": kept.distances[at],
            "label": labels,
            "agrees": labels == self.reference[example],
        }
        named = {name: (values, None) for name, values in columns.items()}
        return tables.frame(named, "Explanation.to_pandas")

    def _repr_html_(self) -> str:
        """What a notebook shows: of each example a line a probe, with its vote and neighbours;
        bold are those that agree. Of the first `SHOWN` examples."""
        kept, votes = self.neighbors, self.votes()
        tables = []
        for example in range(min(SHOWN, len(self.rows))):
            lines = []
            for probe in np.flatnonzero(kept.searched[:, example]):
                agreed = self.reference[example]
                labels = kept.labels_of(kept.rows[probe, example]).tolist()
                near = ", ".join(
                    f"<b>{label}</b>&nbsp;({row})" if label == agreed else f"{label}&nbsp;({row})"
                    for label, row in zip(
                        labels, self.neighbor_rows[probe, example].tolist(), strict=True
                    )
                )
                vote = f"{votes[probe, example]} ({kept.counts[probe, example, 0]:g})"
                lines.append(
                    f"<tr><th>{escape(kept.probes[probe])}</th><td>{vote}</td><td>{near}</td></tr>"
                )
            depth = "undefined" if self.result.undefined[example] else self.result.depth[example]
            tables.append(
                f"<table><caption>Row {self.rows[example]}: depth {depth}, votes compared with "
                f"{self.reference[example]}</caption><thead><tr><th>probe</th><th>vote (of "
                f"{kept.k})</th><th>nearest: label (row)</th></tr></thead><tbody>{''.join(lines)}"
                "</tbody></table>"
            )
        if len(self.rows) > SHOWN:
            tables.append(f"<p>{len(self.rows) - SHOWN:,} more examples.</p>")
        return "".join([*tables, *(f"<p>{escape(remark)}</p>" for remark in self.remarks())])

    def votes(self) -> NDArray[np.int64]:
        """(L, n) the running vote: the class with most of the k votes; -1 where not searched."""
        return self.neighbors.votes()

    def copies(self) -> list[Copy]:
        """Neighbours at distance 0 where an example was first searched.

        At the first probe that is the same input: with another label it contradicts the example's,
        and a held-out example is in the support. At a later probe, where early exit ended, the
        values are the same there. The last of several probes is left out, whose values saturate.
        """
        kept, found = self.neighbors, []
        last = len(kept.probes) - 1
        if kept.metric == "inner_product":
            return []
        for example, row in enumerate(self.rows):
            searched = np.flatnonzero(kept.searched[:, example])
            if not len(searched) or (searched[0] == last and last > 0):
                continue
            probe = int(searched[0])
            own = None if self.result.labels is None else int(self.result.labels[example])
            for rank in np.flatnonzero(kept.distances[probe, example] == 0):
                label = int(kept.labels_of(kept.rows[probe, example, rank]))
                number = int(self.neighbor_rows[probe, example, rank])
                if not self.result.leave_one_out or label != own:
                    found.append(Copy(int(row), number, kept.probes[probe], own, label))
        return found

    def remarks(self) -> list[str]:
        """What `copies` finds, in sentences: the first of each example."""
        seen, lines = set(), []
        for copy in self.copies():
            if copy.row not in seen:
                seen.add(copy.row)
                lines.append(self._remark(copy))
        return lines

    def _remark(self, copy: Copy) -> str:
        input_itself = copy.probe == self.result.probes[0]
        same = "is the same" if input_itself else f"has the same values at {copy.probe}"
        differs = f", with another label: {copy.neighbor_label}, not {copy.label}"
        if copy.label is None or copy.neighbor_label == copy.label:
            differs = ""
        leak = "" if self.result.leave_one_out or not input_itself else "; it is no held-out row"
        return f"Row {copy.row}: support row {copy.neighbor} {same}{differs}{leak}."

    def summary(self, example: int, class_names: ClassNames = None) -> str:
        """One example in words: its classes, where it settles, and a line for each probe.

        Args:
            example: its place among `rows`.
            class_names: names by class, as a sequence or a mapping.
        """
        result, kept = self.result, self.neighbors

        def name(label: Any) -> str:
            return class_name(int(label), class_names)

        said = [f"row {self.rows[example]}"]
        if result.labels is not None:
            said.append(f"label {name(result.labels[example])}")
        said.append(f"seen as {name(result.predictions[example])}")
        if result.undefined[example]:
            said.append("undefined: the last probe disagrees")
        else:
            depth = int(result.depth[example])
            said.append(f"settles at {result.probes[depth]} (depth {depth})")
        lines = [", ".join(said)]
        width = max(map(len, kept.probes))
        for probe, title in enumerate(kept.probes):
            lines.append(f"  {title:<{width}}  {self._line(probe, example, name)}")
        against = AGAINST[result.reference]
        lines.append(f"  (* a vote for {against}'s class; rows nearest first, label in brackets)")
        return "\n".join(lines)

    def _line(self, probe: int, example: int, name: Callable[[Any], str]) -> str:
        kept = self.neighbors
        if not kept.searched[probe, example]:
            return "not searched: a later vote differs"
        counts, classes = kept.counts[probe, example], kept.ranked[probe, example]
        had = [
            f"{name(kept.classes[c])}: {count:.4g}"
            for c, count in zip(classes, counts, strict=True)
            if count
        ]
        vote = kept.classes[classes[0]]
        star = "*" if vote == self.reference[example] else " "
        rows, labels = kept.rows[probe, example], kept.labels_of(kept.rows[probe, example])
        numbers = self.neighbor_rows[probe, example]
        near = [f"{n} ({name(c)})" for n, c in zip(numbers, labels, strict=True)][: len(rows)]
        return f"{star} {', '.join(had[:3])}{', ...' if had[3:] else ''} | {', '.join(near)}"


def explain_result(result: DepthResult, rows: Any, k: int = NEAREST) -> Explanation:
    """Explain some examples of a result that kept its neighbours.

    Args:
        rows: one or several of the examples' row numbers in their data (`result.row_numbers`).
        k: neighbours of each probe; fewer where fewer were kept.

    Raises:
        ValueError: rows that the result has not, or no neighbours in it.
    """
    if result.neighbors is None:
        raise ValueError(
            "source: expected a result that kept its neighbours, got one without; pass "
            "return_neighbors=8."
        )
    nearest = arguments.check_int(k, "k")
    examples = examples_of(result, rows)
    kept = result.neighbors
    chosen = replace(
        kept,
        distances=np.array(kept.distances[:, examples, :nearest]),
        rows=np.array(kept.rows[:, examples, :nearest]),
        ranked=np.array(kept.ranked[:, examples]),
        counts=np.array(kept.counts[:, examples]),
    )
    return Explanation(replace(some_of(result, examples), neighbors=chosen))


def examples_of(result: DepthResult, rows: Any) -> NDArray[np.int64]:
    """Places (n,) in a result of examples by their row numbers in the data."""
    asked = asked_rows(rows)
    numbers = result.row_numbers
    order = np.argsort(numbers, kind="stable")
    at = np.searchsorted(numbers, asked, sorter=order).clip(max=len(order) - 1)
    places: NDArray[np.int64] = order[at]
    missing = numbers[places] != asked
    if missing.any():
        first = int(asked[missing][0])
        reasons = result.skipped.get("support" if result.leave_one_out else "queries", {})
        why = f", which was skipped: {reasons[first]}" if first in reasons else ""
        raise ValueError(
            f"rows: expected rows from {numbers.min()} to {numbers.max()}, got {first}{why}."
        )
    return places


def asked_rows(rows: Any) -> NDArray[np.int64]:
    """Row numbers (n,) from one integer or several."""
    several = [rows] if isinstance(rows, int | np.integer) and not isinstance(rows, bool) else rows
    if isinstance(several, Sequence):
        several = np.array(list(several)) if len(several) else np.empty(0, np.int64)
    asked = arguments.check_integers(several, "rows", booleans=False)
    if not len(asked):
        raise ValueError("rows: expected at least one row, got none.")
    return asked


def some_of(result: DepthResult, examples: NDArray[np.int64]) -> DepthResult:
    """The result of some examples alone, without neighbours and map."""

    def some(values: NDArray[Any] | None) -> Any:
        return None if values is None else values[..., examples]

    return replace(
        result,
        depth=some(result.depth),
        undefined=some(result.undefined),
        votes=some(result.votes),
        known=some(result.known),
        predictions=some(result.predictions),
        labels=some(result.labels),
        reference_values=some(result.reference_values),
        tied=some(result.tied),
        margins=some(result.margins),
        rows=some(result.row_numbers),
        checksums=some(result.checksums),
        neighbors=None,
        map=None,
    )


def check_unchanged(found: DepthResult, before: DepthResult, where: str) -> None:
    """Raise ValueError where inputs, labels or the network's classes are not those of the run."""
    kinds = {
        "checksum of the input": (found.checksums, before.checksums),
        "label": (found.labels, before.labels),
        "class of the network": (found.predictions, before.predictions),
    }
    for kind, (now, then) in kinds.items():
        if now is None or then is None:
            continue
        if (differs := now != then).any():
            row = int(before.row_numbers[differs][0])
            raise ValueError(
                f"row {row}: expected the {kind} of the run ({then[differs][0]}), got "
                f"{now[differs][0]}; {where} has changed since: {AGAIN}."
            )
