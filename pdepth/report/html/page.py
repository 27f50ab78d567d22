"""One self-contained HTML page of a result: words, plots, pictures and a table, without a network.

    page.write(result, "report.html", images=pictures, class_names=names)

The page opens from the disk. Its columns lie in it as arrays, compressed, and so does plotly's
JavaScript: what is read first, the summary, is plain HTML and there at once.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pdepth import __version__
from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.network import of_examples
from pdepth.arrays import arguments
from pdepth.io.atomic import replacing
from pdepth.optional import require
from pdepth.report.figures.drawing import PROBE, RIGHT, WRONG
from pdepth.report.figures.examples import Names, class_name
from pdepth.report.figures.plots import FEW
from pdepth.report.html import of_ensemble, of_result
from pdepth.report.html.story import Column, Story, Table
from pdepth.report.html.thumbnails import KINDS, Thumbnails, folder_of, make
from pdepth.result import DepthResult

__all__ = ["write"]

SCRIPTS = ("data", "filter", "plots", "views", "sheets", "table", "page")
LONGEST = 60  # letters of a class's name
EXACT = 2**53  # whole numbers that JavaScript holds exactly


def write(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble,
    path: str | os.PathLike[str],
    *,
    images: Any = None,
    class_names: Names = None,
    measures: Mapping[str, Any] | None = None,
    thumbnails: str = "sample",
    note: str = "",
) -> Thumbnails:
    """Write a page, whole or not at all; open it in any browser from 2024 on.

    Args:
        result: of one network; of several k, of which the largest is shown; or an ensemble of at
            least two networks.
        path: .html; its folder must exist.
        images, class_names: as in `pdepth.plot`; a picture that raises OSError or ValueError when
            it is indexed is a placeholder, and counted.
        measures: (N,) numbers by name, as `outputs(...).measures()` gives, to be plotted and
            listed; for a result of one network.
        thumbnails: "sample": the ends of each sheet and some others are in the page; "all": the
            rest, too, in the folder `<name>-thumbnails` beside it; "none".
        note: a sentence about the pictures, such as why there are none.

    Returns:
        The thumbnails: how many are in the page, and which pictures could not be read.

    Raises:
        ImportError: plotly (or pillow, of images) is missing: extra `report`.
        ValueError: another suffix, no examples, another number of images, measures that are no
            numbers or whose name is taken, fewer than two networks.
        FileExistsError: the folder's name is taken by something else.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path {os.fspath(path)!r} ends in neither .html nor .htm.")
    arguments.check_choice(thumbnails, "thumbnails", KINDS)
    require("plotly.offline", "pdepth.report", "report")
    story = _story(result, class_names, measures)
    if images is not None and len(images) != story.count:
        raise ValueError(f"images holds {len(images)} pictures for {story.count} examples.")
    if thumbnails == "all":
        folder_of(path)
    with replacing(path) as temporary:
        pictures, folder = make(story, images, thumbnails, path)
        with folder:
            temporary.write_text(_assemble(story, pictures, note), encoding="utf-8")
    return pictures


def _story(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble,
    names: Names,
    measures: Mapping[str, Any] | None,
) -> Story:
    if isinstance(result, Ensemble):
        if measures:
            raise ValueError("measures go with the result of one network, and result is of many.")
        return of_ensemble.story_of(result, names)
    if isinstance(result, Mapping):
        of_k = dict(result)
        if not of_k:
            raise ValueError("result holds no k; at least one is wanted.")
        result = of_k[max(of_k)]
    else:
        of_k = {}
    if not isinstance(result, DepthResult):
        raise TypeError(
            f"result is a {type(result).__name__}; a DepthResult, a dict of them by k or an "
            "Ensemble is wanted."
        )
    if len(result) == 0:
        raise ValueError("result holds no examples; there is nothing to tell.")
    given = {name: of_examples(of, name, len(result)) for name, of in (measures or {}).items()}
    return of_result.story_of(result, names, given, of_k)


@cache
def _plotly() -> str:
    """plotly's JavaScript, compressed, which takes a while."""
    return _compressed(require("plotly.offline", "pdepth.report", "report").get_plotlyjs().encode())


def _assemble(story: Story, pictures: Thumbnails, note: str) -> str:
    assets = files("pdepth.report.html") / "assets"

    def asset(name: str) -> str:
        return (assets / name).read_text(encoding="utf-8")

    header, data = pack(story)
    header["thumbnails"] = {
        "suffix": pictures.suffix,
        "folder": pictures.folder,
        "unreadable": pictures.unreadable,
    }
    encoded = {row: _base64(file) for row, file in pictures.embedded.items()}
    return Template(asset("page.html")).substitute(
        title=escape(story.title),
        lead=escape(story.lead),
        style=asset("page.css"),
        palette=f"--right:{RIGHT};--wrong:{WRONG};--probe:{PROBE}",
        tiles="".join(
            f"<div><dt>{escape(what)}</dt><dd>{escape(number)}</dd></div>"
            for number, what in story.tiles
        ),
        sentences="".join(f"<li>{escape(each)}</li>" for each in story.sentences),
        views="".join(_view(view.key, view.title, view.how) for view in story.views),
        sheets="".join(
            f'<section class="sheet" aria-labelledby="sheet-{i}"><h3 id="sheet-{i}">'
            f"{escape(sheet.title)} <span></span></h3><p>{escape(sheet.hint)}</p><ul></ul>"
            "</section>"
            for i, sheet in enumerate(story.sheets)
        ),
        pictures=escape(" ".join(filter(None, [note, _of_pictures(pictures, story.count)]))),
        tables="".join(map(_table, story.tables)),
        about="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in story.about.items()
        ),
        version=escape(__version__),
        header=_script(header),
        data=_compressed(data),
        thumbnails=_script(encoded),
        plotly=_plotly(),
        script="\n".join(asset(f"{name}.js") for name in SCRIPTS),
    )


def _view(key: str, title: str, how: str) -> str:
    return (
        f'<figure class="view" id="{key}"><figcaption><h3>{escape(title)}</h3><p>{escape(how)}</p>'
        f'</figcaption><div class="plot" role="img" aria-label="Plot: {escape(title)}"></div>'
        "</figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(each)}</td>" for each in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(table.caption)}"><table>'
        f"<caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _of_pictures(pictures: Thumbnails, count: int) -> str:
    said = ""
    if 0 < len(pictures.embedded) < count:
        said = f"{len(pictures.embedded):,} of {count:,} pictures are in this page"
        said += (
            f", the others in the folder {pictures.folder} beside it."
            if pictures.folder
            else "; pdepth report --thumbnails all puts the others into a folder beside it."
        )
    if bad := len(pictures.unreadable):
        said += (
            f" {bad:,} of {pictures.tried:,} pictures cannot be read: a sign stands in their place."
        )
    return said.strip()


def pack(story: Story) -> tuple[dict[str, Any], bytes]:
    """What the page's code needs, as JSON has it, and the columns, one after the other.

    Each column begins at a multiple of eight bytes, little-endian, in the type that its entry in
    `columns` names: u1, u2, u4, f8, or JSON of `length` bytes.
    """
    header: dict[str, Any] = {
        "count": story.count,
        "classes": [
            {"value": str(of), "name": class_name(int(of), story.names, LONGEST)}
            for of in story.classes
        ],
        "named": story.names is not None,
        "selects": list(story.selects.items()),
        "depth": story.depth,
        "probes": story.probes,
        "few": FEW,
        "facts": story.facts,
        "sheets": [
            {"where": sheet.where, "by": sheet.by, "more": sheet.more} for sheet in story.sheets
        ],
    }
    entries, parts = [], []
    for name, column in story.columns.items():
        kind, content = _packed(column)
        entries.append(
            {
                "name": name,
                "title": column.title,
                "kind": column.kind,
                "choices": column.choices,
                "digits": column.digits,
                "type": kind,
                "length": len(content),
            }
        )
        parts.append(content + bytes(-len(content) % 8))
    header["columns"] = entries
    return header, b"".join(parts)


def _packed(column: Column) -> tuple[str, bytes]:
    values = column.values
    whole = values.dtype.kind in "iu" and len(values) > 0
    if values.dtype.kind == "U" or (whole and max(abs(values.max()), abs(values.min())) > EXACT):
        return "json", json.dumps([str(each) for each in values]).encode()
    if whole and values.min() >= 0 and values.max() < 2**32:
        size = next(size for size in (1, 2, 4) if values.max() < 256**size)
        return f"u{size}", values.astype(f"<u{size}").tobytes()
    return "f8", values.astype("<f8").tobytes()


def _compressed(content: bytes) -> str:
    return _base64(gzip.compress(content, 6, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _script(content: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
