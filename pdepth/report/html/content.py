"""The content of a page, whatever it describes: texts, columns, plots and sheets of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.report.names import ClassNames
from pdepth.report.tables import Table

if TYPE_CHECKING:
    from pdepth.report.html.embedding_map import PageMap
    from pdepth.report.html.neighbors import PageNeighbors

Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Column:
    """One value per example, which the page shows in the table, sorts, filters and saves as CSV.

    Attributes:
        values: (N,) codes into the classes or into `choices`, whole numbers, floats, or strings.
        kind: "class", "choice", "whole", "number" or "text"; or "order", which is used for sorting
            and neither shown nor saved. A code beyond the last class, and NaN, are missing values.
        title: heading in the table; empty for a column that is not in the table.
        choices: meaning of the codes of a "choice".
        digits: decimals that a "number" is shown with.
    """

    values: NDArray[Any]
    kind: str
    title: str = ""
    choices: tuple[str, ...] = ()
    digits: int = 2


@dataclass(frozen=True)
class Sheet:
    """Images of the examples at one end of an order.

    Attributes:
        title, hint: heading, and what to make of these examples.
        where: (column, least, most): only examples whose values are within.
        by: (column, sign): sort by these, ascending for 1 and descending for -1; a fixed shuffle
            orders equal ones.
        more: (column, words before its value) to add to captions.
    """

    title: str
    hint: str
    where: tuple[tuple[str, float, float], ...]
    by: tuple[tuple[str, int], ...]
    more: tuple[str, str] | None = None

    def rows(self, columns: Mapping[str, Column], candidates: Int) -> Int:
        """The candidates that belong on the sheet, in the order of the sheet."""
        for name, least, most in self.where:
            values = columns[name].values[candidates]
            candidates = candidates[(values >= least) & (values <= most)]
        keys = [
            sign * columns[name].values[candidates].astype(np.float64) for name, sign in self.by
        ]
        return candidates[np.lexsort(keys[::-1])]


@dataclass(frozen=True)
class View:
    """A plot: its key in the page's code, its title, and how to read it."""

    key: str
    title: str
    how: str


@dataclass(frozen=True, eq=False)
class PageContent:
    """Everything that a page shows of N examples.

    Attributes:
        title, lead: heading, and what is measured, for a reader who has not heard of it.
        tiles: (number, what it counts), the few that matter most.
        sentences: the results in words.
        count: N.
        columns: by name, in the order of the table.
        classes: (C,) ascending, the labels that class codes stand for.
        names: of the classes.
        selects: columns that filters select from, with the label of each filter.
        depth: the column that the filter of depths uses.
        probes: names, where depths are those of one network and so numbers of probes.
        views, sheets, tables: in the order of the page.
        facts: further numbers that views need.
        neighbors: the nearest support rows of the examples, where they are kept.
        map: where the examples lie at each probe, where that is kept.
        run: which rows of which data the examples are, as files of decisions keep it; None where
            they are not those of one run.
        about: what was measured, and how, by name.
        image_class: the column with the class of an image.
    """

    title: str
    lead: str
    tiles: Sequence[tuple[str, str]]
    sentences: Sequence[str]
    count: int
    columns: Mapping[str, Column]
    classes: Int
    names: ClassNames
    selects: Mapping[str, str]
    depth: str
    probes: tuple[str, ...]
    views: Sequence[View]
    sheets: Sequence[Sheet]
    tables: Sequence[Table]
    about: Mapping[str, str]
    image_class: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    neighbors: PageNeighbors | None = None
    map: PageMap | None = None
    run: Mapping[str, Any] | None = None


def encode_classes(values: NDArray[Any], classes: Int, missing: Any = None) -> Int:
    """Codes of values (...), their places among C classes; C where missing."""
    codes = np.searchsorted(classes, values)
    if missing is not None:
        codes[missing] = len(classes)
    return codes


def count_of(count: int, total: int) -> str:
    """A count of examples in words, such as "487 of 500 examples (97.4 %)"."""
    return f"{count:,} of {total:,} examples ({100 * count / total:.1f} %)"


def join_words(words: Sequence[str]) -> str:
    """Words as in "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def heading(name: str) -> str:
    """The heading of a column, or of an entry of a result's meta."""
    special = {
        "k": "Neighbours that vote",
        "pdepth": "pdepth",
        "held_out": "Share held out",
        "placement": "Rule that placed the probes",
        "probes": "How the probes were taken",
    }
    return special.get(name, name.replace("_", " ").capitalize())


def format_signed(value: float) -> str:
    """A number with two decimals, and with a minus sign rather than a hyphen."""
    return f"{value:.2f}".replace("-", "\u2212")
