"""Each picture of some results as a PDF of its own, as papers include them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.groups import groups_or_reason
from pdepth.analysis.network import against_depth, agreement, confused_pairs
from pdepth.io.atomic import check_ours, replacing_folder
from pdepth.report.figures.examples import Names
from pdepth.report.figures.groups import plot_groups
from pdepth.report.figures.network import (
    plot_against_depth,
    plot_agreement,
    plot_confused_pairs,
    plot_settling,
)
from pdepth.report.figures.plots import plot
from pdepth.report.html.thumbnails import UNREADABLE
from pdepth.result import DepthResult

SIGN = np.uint8(255) * (np.eye(9, dtype=np.uint8) | np.eye(9, dtype=np.uint8)[::-1])


class _Readable(Sequence[Any]):
    """Pictures, and a cross for those that cannot be read."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: Any) -> Any:
        try:
            return self._images[row]
        except UNREADABLE:
            return SIGN


def folder_of(page: Path) -> Path:
    """Where the PDFs beside a page are. Raises FileExistsError where other things are."""
    folder = page.with_name(f"{page.stem}-figures")
    check_ours(folder, _ours)
    return folder


def _ours(file: Path) -> bool:
    return file.suffix == ".pdf"


def write(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble,
    page: Path,
    images: Any = None,
    names: Names = None,
) -> Path:
    """Write all pictures that a result has what it takes for; the folder they are in.

    Of a result: depth, agreement, against-depth (labels), confused-pairs (every vote), settling
    (images); of several k also depth-by-k; of an ensemble groups. Needs the extra `plot`.
    """
    folder = folder_of(page)
    images = None if images is None else _Readable(images)
    with replacing_folder(folder, _ours) as temporary:
        for name, draw in _pictures(result, images, names).items():
            draw(temporary / f"{name}.pdf")
    return folder


def _pictures(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble, images: Any, names: Names
) -> dict[str, Callable[[Path], None]]:
    found: dict[str, Callable[[Path], None]] = {}
    if isinstance(result, Ensemble):
        many = result
        groups, _ = groups_or_reason(many)
        if groups is not None:
            found["groups"] = lambda path: plot_groups(many, groups, path, images, names)
        return found
    if isinstance(result, Mapping):
        if len(result) > 1:
            found["depth-by-k"] = partial(plot, dict(result))
        result = result[max(result)]
    one = result
    found["depth"] = lambda path: plot(one, path, images, names)
    found["agreement"] = partial(plot_agreement, agreement(one))
    if one.labels is not None:
        found["against-depth"] = partial(plot_against_depth, against_depth(one))
        if one.known.all():
            pairs = confused_pairs(one)
            if len(pairs):
                found["confused-pairs"] = lambda path: plot_confused_pairs(pairs, path, names)
    if images is not None:
        found["settling"] = lambda path: plot_settling(one, images, path, names)
    return found
