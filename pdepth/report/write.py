"""A report: the HTML page of a folder of results, and what lies beside it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pdepth.arrays import arguments
from pdepth.io.atomic import remove_folder
from pdepth.optional import require
from pdepth.report.explain import read_shown
from pdepth.report.figures import pdf as figures
from pdepth.report.html import page
from pdepth.report.html.thumbnails import KINDS
from pdepth.report.html.thumbnails import folder_of as thumbnail_folder_of
from pdepth.report.pictures import BuiltIn, find_images
from pdepth.report.shown import neighbors_images

REPORT = "report.html"


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the HTML file. folders: beside it, of thumbnails and of figures.
        note: why there are no pictures, or "".
        tried: how many pictures were read. unreadable: how many of them could not be.
    """

    page: Path
    folders: list[Path]
    note: str
    tried: int
    unreadable: int


def write_report(
    results: Path,
    out: Path | None = None,
    *,
    images: str | None = None,
    support: str | None = None,
    built_in: BuiltIn | None = None,
    thumbnails: str = "sample",
    pdf: bool = False,
    overwrite: bool = False,
) -> Report:
    """Write the results of a folder as one HTML page.

    Args:
        results: what a run, the demo or an ensemble wrote: the folder, or a Parquet file in it.
        out: the page; None: report.html in the folder.
        images, built_in: see `pdepth.report.pictures.find_images`. support: likewise of the
            neighbours, where the support's rows are no examples.
        thumbnails: "sample", "all" or "none"; see `pdepth.report.html.page`.
        pdf: also write each figure as a PDF, into a folder beside the page.
        overwrite: replace an earlier page and the folders beside it.

    Raises:
        FileExistsError: the page is there, or a folder's name is taken.
        FileNotFoundError, ValueError: as `read_results`, `find_images` and the page raise them.
        ImportError: plotly, pyarrow or matplotlib is missing: extra `report`.
    """
    for module in ("pyarrow", "plotly", *(("matplotlib",) if pdf else ())):
        require(module, "pdepth report", "report")
    loaded = read_shown(results)
    arguments.check_choice(thumbnails, "thumbnails", KINDS)
    path = out or (results if results.is_dir() else results.parent) / REPORT
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"out: expected a new file, got {path}, which exists; pass --overwrite to replace it."
        )
    pictures = find_images(loaded, images, built_in)
    of_support = neighbors_images(loaded, support, built_in)
    if pdf:
        figures.folder_of(path)
    shown = page.write(
        loaded,
        path,
        images=pictures.images,
        class_names=pictures.names,
        thumbnails=thumbnails,
        note=pictures.note or of_support.note,
        support_images=of_support.images,
    )
    folders = [path.with_name(shown.folder)] if shown.folder else []
    if pdf:
        folders.append(figures.write(loaded, path, pictures.images, pictures.names))
    for folder_of in (thumbnail_folder_of, figures.folder_of):  # an earlier page's
        with suppress(FileExistsError):  # which is not all ours
            if overwrite and (old := folder_of(path)) not in folders:
                remove_folder(old)
    return Report(path, folders, pictures.note, shown.tried, len(shown.unreadable))
