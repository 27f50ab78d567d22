"""Write every figure that a result allows as a PDF of its own, into one folder."""

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
from pdepth.report.figures.depth import plot
from pdepth.report.figures.groups import plot_groups
from pdepth.report.figures.network import (
    plot_against_depth,
    plot_agreement,
    plot_confused_pairs,
    plot_settling,
)
from pdepth.report.images import UNREADABLE
from pdepth.report.names import ClassNames
from pdepth.result import DepthResult

CROSS = np.uint8(255) * (np.eye(9, dtype=np.uint8) | np.eye(9, dtype=np.uint8)[::-1])


class _ReadableImages(Sequence[Any]):
    """Images, with a cross in place of those that cannot be read."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: Any) -> Any:
        try:
            return self._images[row]
        except UNREADABLE:
            return CROSS


def folder_of(page: Path) -> Path:
    """The folder for PDFs beside a page; FileExistsError where it holds other files."""
    folder = page.with_name(f"{page.stem}-figures")
    check_ours(folder, _is_ours)
    return folder


def _is_ours(file: Path) -> bool:
    return file.suffix == ".pdf"


def write(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble,
    page: Path,
    images: Any = None,
    names: ClassNames = None,
) -> Path:
    """Write the figures of a result into the folder beside a page, and return the folder.

    Of a result: depth, agreement, against-depth (with labels), confused-pairs (with every vote),
    settling (with images); of several k also depth-by-k; of an ensemble groups. Needs the extra
    `plot`.
    """
    folder = folder_of(page)
    images = None if images is None else _ReadableImages(images)
    with replacing_folder(folder, _is_ours) as temporary:
        for name, draw in _figures(result, images, names).items():
            draw(temporary / f"{name}.pdf")
    return folder


def _figures(
    result: DepthResult | Mapping[int, DepthResult] | Ensemble, images: Any, names: ClassNames
) -> dict[str, Callable[[Path], None]]:
    """Functions that draw into a path, by name of the figure."""
    if isinstance(result, Ensemble):
        return _ensemble_figures(result, images, names)
    figures: dict[str, Callable[[Path], None]] = {}
    if isinstance(result, Mapping):
        if len(result) > 1:
            figures["depth-by-k"] = partial(plot, dict(result))
        result = result[max(result)]
    network = result
    figures["depth"] = lambda path: plot(network, path, images, names)
    figures["agreement"] = partial(plot_agreement, agreement(network))
    if network.labels is not None:
        figures["against-depth"] = partial(plot_against_depth, against_depth(network))
        if network.known.all():
            pairs = confused_pairs(network)
            if len(pairs):
                figures["confused-pairs"] = lambda path: plot_confused_pairs(pairs, path, names)
    if images is not None:
        figures["settling"] = lambda path: plot_settling(network, images, path, names)
    return figures


def _ensemble_figures(
    ensemble: Ensemble, images: Any, names: ClassNames
) -> dict[str, Callable[[Path], None]]:
    groups, _ = groups_or_reason(ensemble)
    if groups is None:
        return {}
    known_groups = groups
    return {"groups": lambda path: plot_groups(ensemble, known_groups, path, images, names)}
