"""Comparisons of runs, read from their folders and written into one of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdepth.analysis.runs import RunComparison, compare
from pdepth.arrays import arguments
from pdepth.io.atomic import replacing
from pdepth.optional import require
from pdepth.report.folder import can_draw, check_out, read_runs
from pdepth.report.html import page
from pdepth.report.html.thumbnails import KINDS
from pdepth.report.pictures import BuiltIn, find_images
from pdepth.result import DepthResult

PAGE, TABLE, FIGURE, CHANGES = (
    "comparison.html",
    "comparison.csv",
    "comparison.pdf",
    "changes.pdf",
)


@dataclass(frozen=True)
class ComparisonOptions:
    """How runs are compared.

    Attributes:
        names: of the sides; none: those of the folders.
        k: which of several k.
        other_inputs: see `pdepth.analysis.runs.compare`.
        images, thumbnails: see `pdepth.report.write.write_report`.
    """

    names: Sequence[str] = ()
    k: int | None = None
    other_inputs: bool = False
    images: str | None = None
    thumbnails: str = "sample"


def write_comparisons(
    runs: Sequence[Path],
    against: Sequence[Path],
    out: Path,
    options: ComparisonOptions | None = None,
    *,
    built_in: BuiltIn | None = None,
    overwrite: bool = False,
) -> list[tuple[RunComparison, list[Path]]]:
    """Compare runs, and write a page, a table and figures of each comparison into a folder.

    Args:
        runs: with `against` the runs of the first side, such as seeds; without, each run after the
            first is compared with that.
        against: the runs of the second side.
        out: the folder, made where it is missing; of several comparisons there is a folder in it
            for each, of the name of its second side.
        options: of the comparison.
        built_in: see `pdepth.report.pictures.find_images`.
        overwrite: replace what is there.

    Returns:
        Each comparison, and the files written.

    Raises:
        FileExistsError: a comparison is there.
        ImportError: pyarrow, pandas or plotly is missing: extra `report`.
        FileNotFoundError, ValueError: as `read_results`, `compare` and `find_images` raise them.
    """
    options = options or ComparisonOptions()
    for module in ("pyarrow", "pandas", "plotly"):
        require(module, "pdepth compare", "report")
    arguments.check_choice(options.thumbnails, "thumbnails", KINDS)
    if len(runs) < (1 if against else 2):
        raise ValueError("RUN: expected two runs or more, got one; name another, or --against one.")
    pairs = [(runs, against)] if against else [(runs[:1], [run]) for run in runs[1:]]
    sides = [(_named(first), _named(second)) for first, second in pairs]
    if options.names:
        if len(options.names) != len(pairs) + 1:
            raise ValueError(
                f"names: expected {len(pairs) + 1}, one a side, got {len(options.names)}."
            )
        sides = [(options.names[0], name) for name in options.names[1:]]
    seconds = [second for _, second in sides]
    if len({*seconds}) < len(seconds):
        raise ValueError(f"RUN: expected distinct names, got {', '.join(seconds)}; pass --names.")
    folders = [out] if len(pairs) == 1 else [out / second for second in seconds]
    for folder in folders:
        check_out(folder, [PAGE, TABLE, FIGURE, CHANGES], overwrite=overwrite)
    comparisons = [
        compare(
            *([_read(path, options.k) for path in side] for side in pair),
            names=names,
            other_inputs=options.other_inputs,
        )
        for pair, names in zip(pairs, sides, strict=True)
    ]
    return [
        (comparison, _write(comparison, folder, options, built_in))
        for comparison, folder in zip(comparisons, folders, strict=True)
    ]


def _named(side: Sequence[Path]) -> str:
    """What a side is called: by its run, or by what several have in common."""
    first = side[0].resolve()
    name = first.parent.name if first.stem == "depth" else first.stem
    return name if len(side) == 1 else f"{name} and {len(side) - 1} more"


def _read(path: Path, k: int | None) -> DepthResult:
    """The result of a run; of several k the one that is asked for."""
    found = read_runs(path)
    present = ", ".join(map(str, sorted(found)))
    if k is None and len(found) > 1:
        raise ValueError(f"k: expected one of {present} in {path}, got none; pass --k.")
    if k is not None and k not in found:
        raise ValueError(f"k: expected one of {present} in {path}, got {k}.")
    return next(iter(found.values())) if k is None else found[k]


def _write(
    comparison: RunComparison, folder: Path, options: ComparisonOptions, built_in: BuiltIn | None
) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    shown = find_images(comparison.first[0], options.images, built_in)
    with replacing(folder / TABLE) as temporary:
        comparison.to_pandas().to_csv(temporary, index=False)
    page.write(
        comparison,
        folder / PAGE,
        images=shown.images,
        class_names=shown.names,
        thumbnails=options.thumbnails,
        note=shown.note,
    )
    for name in (FIGURE, CHANGES):  # those of an earlier comparison
        (folder / name).unlink(missing_ok=True)
    return [folder / PAGE, folder / TABLE, *_draw(comparison, folder, shown.images, shown.names)]


def _draw(comparison: RunComparison, folder: Path, images: Any, names: Any) -> list[Path]:
    """The figures that can be drawn."""
    if not can_draw():
        return []
    from pdepth.report.figures.runs import plot_changes, plot_comparison

    plot_comparison(comparison, folder / FIGURE, names)
    if images is None or not comparison.change.any():
        return [folder / FIGURE]
    plot_changes(comparison, images, folder / CHANGES, names)
    return [folder / FIGURE, folder / CHANGES]
