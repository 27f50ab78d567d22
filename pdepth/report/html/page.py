"""Write one self-contained HTML page of a result: words, plots, images and a table.

    page.write(result, "report.html", images=images, class_names=names)

The page opens from the disk and needs no network. Its columns are in it as compressed arrays, and
so is plotly's JavaScript; the summary, which is read first, is plain HTML and visible at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pdepth import __version__
from pdepth.analysis.checks import check_examples, check_images, check_values
from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.runs import RunComparison
from pdepth.arrays import arguments
from pdepth.io.atomic import check_suffix, replacing
from pdepth.optional import require
from pdepth.report.html.comparison_content import comparison_content
from pdepth.report.html.content import PageContent, Sheet, View
from pdepth.report.html.embedding_map import PageMap
from pdepth.report.html.ensemble_content import ensemble_content
from pdepth.report.html.neighbors import PageNeighbors
from pdepth.report.html.packing import compress, encode_base64, json_for_script, pack
from pdepth.report.html.result_content import result_content
from pdepth.report.html.thumbnails import (
    KINDS,
    SUPPORT,
    Thumbnails,
    folder_of,
    make_thumbnails,
    order_rows,
)
from pdepth.report.names import ClassNames
from pdepth.report.style import PROBE, RIGHT, WRONG
from pdepth.report.tables import Table
from pdepth.result import DepthResult

__all__ = ["ServedPage", "serve", "write"]

ASSETS = files("pdepth.report.html") / "assets"
THUMBNAILS = "thumbnails"
SCRIPTS = (
    "data", "filter", "plots", "views", "comparison", "dots", "map", "sheets", "way", "example",
    "table", "parquet", "selection", "decisions", "page",
)  # fmt: skip


def write(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble | RunComparison,
    path: str | os.PathLike[str],
    *,
    images: Any = None,
    class_names: ClassNames = None,
    measures: Mapping[str, Any] | None = None,
    thumbnails: str = "sample",
    note: str = "",
    support_images: Any = None,
) -> Thumbnails:
    """Write a page, whole or not at all, for browsers from 2024 on.

    Args:
        result: of one network; of several k, of which the largest is shown; or an ensemble of at
            least two networks; or a comparison of runs.
        path: .html; its folder must exist.
        images, class_names: as in `pdepth.plot`; an image that raises OSError or ValueError when
            it is indexed is shown as a placeholder, and counted.
        measures: (N,) numbers by name, as `outputs(...).measures()` gives, to be plotted and
            listed; for a result of one network.
        thumbnails: "sample", the ends of each sheet and some other images are in the page; "all",
            the remaining ones are in the folder `<name>-thumbnails` beside it; "none".
        note: a sentence about the images, such as why there are none.
        support_images: those of the support's rows, of a held-out result that kept its neighbours.

    Returns:
        The thumbnails: those in the page, and the images that could not be read.

    Raises:
        ImportError: plotly (or pillow, with images) is missing: extra `report`.
        ValueError: another suffix, no examples, another number of images, measures that are not
            numbers or whose name is a column already, fewer than two networks.
        FileExistsError: the folder's name is taken by something else.
    """
    check_suffix(path, (".html", ".htm"))
    path = Path(path)
    arguments.check_choice(thumbnails, "thumbnails", KINDS)
    require("plotly.offline", "pdepth.report", "report")
    content = _build_content(result, class_names, measures)
    check_images(images, content.count)
    if content.neighbors is not None:
        check_images(
            support_images,
            len(content.neighbors.kept.codes),
            "support_images",
            "row of the support",
        )
    if thumbnails == "all":
        folder_of(path)
    with replacing(path) as temporary:
        small_images, folder = make_thumbnails(content, images, thumbnails, path, support_images)
        with folder:
            page = _assemble(content, small_images, note)
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # names of files
    return small_images


def _build_content(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble | RunComparison,
    names: ClassNames,
    measures: Mapping[str, Any] | None,
) -> PageContent:
    if isinstance(result, Ensemble | RunComparison):
        if measures:
            raise ValueError("measures: expected none but for one network's result, got some.")
        if isinstance(result, Ensemble):
            return ensemble_content(result, names)
        return comparison_content(result, names)
    by_k: dict[int, DepthResult] = {}
    if isinstance(result, Mapping):
        by_k = dict(result)
        if not by_k:
            raise ValueError("result: expected at least one k, got an empty mapping.")
        result = by_k[max(by_k)]
    if not isinstance(result, DepthResult):
        raise TypeError(
            "result: expected a DepthResult, a dict of them by k or an Ensemble, got "
            f"{type(result).__name__}."
        )
    check_examples(result)
    checked = {
        name: check_values(values, name, len(result)) for name, values in (measures or {}).items()
    }
    return result_content(result, names, checked, by_k)


@dataclass(frozen=True)
class ServedPage:
    """A page whose data are beside it, on a server.

    Attributes:
        text: HTML.
        files: what it asks for by name, gzip. Besides, thumbnails are at
            `thumbnails/ROW // 1000/ROW.png` or jpg and pictures at `images/ROW`, of the support's
            rows below `support/`.
        neighbors: of the examples, or None: at `neighbors/EXAMPLE` what `describe` tells, as JSON.
        map: of the examples, or None: its `parts`, gzip, at their names.
    """

    text: str
    files: Mapping[str, bytes]
    neighbors: PageNeighbors | None = None
    map: PageMap | None = None


def serve(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble | RunComparison,
    *,
    class_names: ClassNames = None,
    suffix: str = "",
    support_suffix: str = "",
    note: str = "",
) -> ServedPage:
    """The page of a result, for a server.

    Args:
        result, class_names, note: as in `write`.
        suffix: of thumbnails, "png" or "jpg"; "" where there are no images. support_suffix:
            likewise of the support's.

    Raises as `write`.
    """
    require("plotly.offline", "pdepth.report", "report")
    content = _build_content(result, class_names, None)
    thumbnails = Thumbnails(suffix, folder=THUMBNAILS if suffix else "")
    if support_suffix:
        thumbnails.support = Thumbnails(support_suffix, folder=f"{SUPPORT}/{THUMBNAILS}")
    beside: dict[str, bytes] = {}
    text = _assemble(content, thumbnails, note, beside)
    return ServedPage(text, beside, content.neighbors, content.map)


@cache
def _plotly() -> bytes:
    """plotly's JavaScript, compressed, which takes a while."""
    return compress(require("plotly.offline", "pdepth.report", "report").get_plotlyjs().encode())


def _assemble(
    content: PageContent,
    thumbnails: Thumbnails,
    note: str,
    beside: dict[str, bytes] | None = None,
) -> str:
    """The text of a page. beside: takes the parts that a server has; None: all are within."""

    def read_asset(name: str) -> str:
        return (ASSETS / name).read_text(encoding="utf-8")

    header, parts = _pack_parts(content, served=beside is not None)
    albums = {"examples": thumbnails}
    if thumbnails.support is not None:
        albums["support"] = thumbnails.support
    header["albums"] = {name: _album_header(name, album) for name, album in albums.items()}
    encoded = {
        name: {row: encode_base64(file) for row, file in album.embedded.items()}
        for name, album in albums.items()
    }
    if beside is None:
        within = {name: encode_base64(part) for name, part in parts.items()}
        connect, network = "'none'", "This page is one file and asks no network for anything."
    else:
        beside |= parts
        within = {}
        connect, network = "'self'", "It comes from this computer, while pdepth view runs there."
    notes = " ".join(filter(None, [note, _describe_thumbnails(thumbnails, content.count)]))
    lasso = "" if content.map is None else ", a lasso on the map"
    return Template(read_asset("page.html")).substitute(
        title=escape(content.title),
        lead=escape(content.lead),
        style=read_asset("page.css"),
        palette=f"--right:{RIGHT};--wrong:{WRONG};--probe:{PROBE}",
        tiles="".join(
            f"<div><dt>{escape(what)}</dt><dd>{escape(number)}</dd></div>"
            for number, what in content.tiles
        ),
        sentences="".join(f"<li>{escape(sentence)}</li>" for sentence in content.sentences),
        views="".join(map(_view_html, content.views)),
        sheets="".join(_sheet_html(i, sheet) for i, sheet in enumerate(content.sheets)),
        pictures=escape(notes),
        set_title="Set" if content.run is None else "Set and decisions",
        set_how=f"The filter's examples{lasso} and ticks in the table (key S) make one set.",
        tables="".join(map(_table_html, content.tables)),
        about="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
            for name, text in content.about.items()
        ),
        version=escape(__version__),
        header=json_for_script(header),
        parts="".join(
            f'<script type="text/plain" id="{name}">{part}</script>\n'
            for name, part in within.items()
        ),
        connect=connect,
        network=network,
        thumbnails=json_for_script(encoded),
        script="\n".join(read_asset(f"{name}.js") for name in SCRIPTS),
    )


def _pack_parts(content: PageContent, *, served: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header, and what the page's code unpacks when it needs it, by name."""
    header, data = pack(content)
    header["served"] = served
    parts = {"data": compress(data), "plotly": _plotly()}
    if content.neighbors is not None:
        header["neighbors"] = content.neighbors.header(content.classes)
        parts["support"] = compress(content.neighbors.pack_support())
        if not served:
            packing, packed = content.neighbors.pack(order_rows(content))
            header["neighbors"] |= packing
            parts["neighbors"] = compress(packed)
    if content.map is not None:
        header["map"] = content.map.header()
        if not served:
            parts |= {name: content.map.pack(name) for name in content.map.parts}
    return header, parts


def _album_header(name: str, album: Thumbnails) -> dict[str, Any]:
    """What a page's code has to know of thumbnails."""
    below = "" if name == "examples" else f"{name}/"
    return {
        "suffix": album.suffix,
        "folder": album.folder,
        "unreadable": album.unreadable,
        "originals": f"{below}images",  # on a server
    }


def _view_html(view: View) -> str:
    title = escape(view.title)
    return (
        f'<figure class="view" id="{view.key}"><figcaption><h3>{title}</h3>'
        f'<p>{escape(view.how)}</p></figcaption><div class="plot" role="img" '
        f'aria-label="Plot: {title}"></div></figure>'
    )


def _sheet_html(number: int, sheet: Sheet) -> str:
    return (
        f'<section class="sheet" aria-labelledby="sheet-{number}"><h3 id="sheet-{number}">'
        f"{escape(sheet.title)} <span></span></h3><p>{escape(sheet.hint)}</p><ul></ul></section>"
    )


def _table_html(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(table.caption)}"><table>'
        f"<caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _describe_thumbnails(thumbnails: Thumbnails, count: int) -> str:
    """How many images are in the page, where the others are, and how many cannot be read."""
    sentences = []
    embedded = len(thumbnails.embedded)
    if 0 < embedded < count:
        others = "; pdepth report --thumbnails all puts the others into a folder beside it."
        if thumbnails.folder:
            others = f", the others in the folder {thumbnails.folder} beside it."
        sentences.append(f"{embedded:,} of {count:,} pictures are in this page{others}")
    if unreadable := len(thumbnails.unreadable):
        sentences.append(
            f"{unreadable:,} of {thumbnails.tried:,} pictures cannot be read: a sign stands in "
            "their place."
        )
    return " ".join(sentences)
