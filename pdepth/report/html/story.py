"""What a page tells, whatever it is of: its words, columns, views and sheets of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.report.figures.examples import Names

Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Column:
    """One value an example: shown in the table, sorted by, filtered by, saved as CSV.

    Attributes:
        values: (N,) codes into the classes or into `choices`, whole numbers, floats, or strings.
        kind: "class", "choice", "whole", "number", "text", or "order", which is sorted by and
            neither shown nor saved. A code past the last class and nan are missing.
        title: its heading; an empty one keeps the column out of the table.
        choices: what the codes of a "choice" stand for.
        digits: decimals that a number is shown with.
    """

    values: NDArray[Any]
    kind: str
    title: str = ""
    choices: tuple[str, ...] = ()
    digits: int = 2


@dataclass(frozen=True)
class Sheet:
    """Pictures of examples at one end of something.

    Attributes:
        title, hint: what they are, and what to make of them.
        where: (column, least, most) that each is within.
        by: (column, 1 for the least first or -1); equals come in a fixed shuffle.
        more: (column, words before it) that captions tell, too.
    """

    title: str
    hint: str
    where: tuple[tuple[str, float, float], ...]
    by: tuple[tuple[str, int], ...]
    more: tuple[str, str] | None = None

    def rows(self, columns: Mapping[str, Column], among: Int) -> Int:
        """Those of `among`, first of all the ones to show."""
        for name, least, most in self.where:
            of = columns[name].values[among]
            among = among[(of >= least) & (of <= most)]
        keys = [sign * columns[name].values[among].astype(np.float64) for name, sign in self.by]
        return among[np.lexsort(keys[::-1])]


@dataclass(frozen=True)
class View:
    """A plot: what the page's code calls it, its title, and how to read it."""

    key: str
    title: str
    how: str


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers for those who read rather than look; the first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Story:
    """All that a page tells of N examples.

    Attributes:
        title, lead: the heading, and what is measured here, for a reader who never heard of it.
        tiles: (number, what it counts), the few that matter most.
        sentences: what was found.
        count: N.
        columns: by name, in the order of the table.
        classes: (C,) ascending, what codes stand for.
        names: of the classes.
        selects: the columns to filter by, with the label of each filter.
        depth: the column that the filter of depths takes.
        probes: names; the depths of one network are their numbers.
        views, sheets, tables: as the page shows them.
        facts: further numbers that views need.
        about: what was measured, and how, by name.
        image_class: the column that says which class a picture is of.
    """

    title: str
    lead: str
    tiles: Sequence[tuple[str, str]]
    sentences: Sequence[str]
    count: int
    columns: Mapping[str, Column]
    classes: Int
    names: Names
    selects: Mapping[str, str]
    depth: str
    probes: tuple[str, ...]
    views: Sequence[View]
    sheets: Sequence[Sheet]
    tables: Sequence[Table]
    about: Mapping[str, str]
    image_class: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def codes(values: NDArray[Any], classes: Int, missing: Any = None) -> Int:
    """Places of values (...) among the classes; C where missing."""
    found = np.searchsorted(classes, values)
    if missing is not None:
        found[missing] = len(classes)
    return found


def share(part: int, whole: int) -> str:
    """ "487 of 500 examples (97.4 %)"."""
    return f"{part:,} of {whole:,} examples ({100 * part / whole:.1f} %)"


def and_(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def heading(name: str) -> str:
    """What a column or an entry of a result's meta is called."""
    own = {"k": "Neighbours that vote", "pdepth": "pdepth", "held_out": "Share held out"}
    return own.get(name, name.replace("_", " ").capitalize())


def signed(value: float) -> str:
    """Two decimals, with a minus rather than a hyphen."""
    return f"{value:.2f}".replace("-", "\u2212")
