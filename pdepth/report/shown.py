"""What an explanation shows of rows: their pictures or texts, and the folder that they go into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.io.atomic import replacing
from pdepth.optional import require
from pdepth.report.explain import read_largest
from pdepth.report.explanation import Explanation, examples_of
from pdepth.report.folder import Results, can_draw
from pdepth.report.folder import check_out as check_folder
from pdepth.report.names import ClassNames
from pdepth.report.pictures import BuiltIn, Images, class_names_of, find_images
from pdepth.result import DepthResult

TABLE, PICTURES = "explanation.csv", ("row-{}.png", "row-{}.pdf")


@dataclass(frozen=True)
class Shown:
    """queries, support: inputs by row numbers of their data, images or texts; where there are none,
    numbers are shown. names: of the classes, or None. note: why there are no pictures."""

    queries: Mapping[int, Any] = field(default_factory=dict)
    support: Mapping[int, Any] = field(default_factory=dict)
    names: ClassNames = None
    note: str = ""


def shown_inputs(
    run: Path,
    explanation: Explanation,
    named: tuple[str | None, str | None],
    built_in: BuiltIn,
    *,
    wanted: bool = True,
) -> Shown:
    """The inputs of an explanation's rows: of the data that a run names, or that the caller does.

    Args:
        run: its directory, or a table in it.
        named: DATA of support and of queries, None for what the run names.
        built_in: functions from a result to its images, by the data that it names.
        wanted: whether inputs are needed, and not the names of classes alone.

    Raises ValueError for data of other rows or labels that the caller names.
    """
    result = read_largest(run)
    support, queries = named
    if not wanted:
        return Shown(names=class_names_of(result))
    own = result.leave_one_out
    asked = find_images(result, support if own else queries, built_in)
    examples = examples_of(result, explanation.rows)
    of_queries = _by_number(asked, explanation.rows, examples)
    near = explanation.neighbors.rows
    places = np.unique(near[near >= 0])
    of_support = asked if own else support_images(explanation.result, support, built_in)
    numbers = explanation.neighbors.row_numbers
    numbered = places if numbers is None else numbers[places]
    return Shown(
        queries=of_queries,
        support=_by_number(of_support, numbered, places),
        names=asked.names or of_support.names,
        note=asked.note or of_support.note,
    )


def neighbors_images(
    results: Results, spec: str | None = None, built_in: BuiltIn | None = None
) -> Images:
    """The images of the neighbours that results show, where these are no examples themselves.

    Args: as `find_images`, with its errors.
    """
    result = results[max(results)] if isinstance(results, Mapping) else results
    if not isinstance(result, DepthResult) or result.neighbors is None or result.leave_one_out:
        return Images()
    return support_images(result, spec, built_in)


def support_images(result: DepthResult, spec: str | None, built_in: BuiltIn | None) -> Images:
    """The images of the support of a result with neighbours; see `find_images`.

    Its data are compared with the support as if that had been measured.
    """
    kept = result.neighbors
    assert kept is not None
    labels = kept.classes[kept.codes]
    count = len(labels)
    measured = DepthResult(
        depth=np.zeros(count, np.int64), undefined=np.zeros(count, bool),
        votes=np.zeros((0, count), np.int64), known=np.zeros((0, count), bool),
        predictions=labels, labels=labels, probes=(), k=result.k, leave_one_out=True,
        meta=result.meta, rows=kept.row_numbers,
    )  # fmt: skip
    return find_images(measured, spec, built_in)


def _by_number(images: Images, numbers: NDArray[Any], places: NDArray[Any]) -> dict[int, Any]:
    """The inputs at some places among a result's examples, by their row numbers."""
    from pdepth.report.figures.explanation import inputs_of

    source = images.images if images.images is not None else images.texts
    if source is None:
        return {}
    found = inputs_of(source, places)
    pairs = zip(numbers, places, strict=True)
    return {int(number): found[int(place)] for number, place in pairs if int(place) in found}


def check_out(out: Path, rows: Sequence[int], *, overwrite: bool) -> None:
    """Raise, before any work, where files could not be written; see `folder.check_out`."""
    names = [TABLE, *(name.format(row) for row in rows for name in PICTURES)]
    check_folder(out, names, overwrite=overwrite)
    require("pandas", "pdepth explain --out", "tables")


def write_explanation(
    explanation: Explanation, out: Path, shown: Shown, *, dark: bool = False
) -> list[Path]:
    """Write the table and, where matplotlib is installed, a picture of each row, as PNG and PDF."""
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / TABLE) as temporary:
        explanation.to_pandas().to_csv(temporary, index=False)
    written = [out / TABLE]
    if not can_draw():
        return written
    from pdepth.report.figures.explanation import plot_explanation

    for example, row in enumerate(explanation.rows.tolist()):
        for name in PICTURES:
            plot_explanation(
                explanation, out / name.format(row), example,
                query_input=shown.queries.get(row), support_inputs=shown.support,
                class_names=shown.names, dark=dark,
            )  # fmt: skip
            written.append(out / name.format(row))
    return written
