"""A folder of results: its files' names, and how they are checked, resumed, written and read."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pdepth.analysis.ensemble import Ensemble
from pdepth.analysis.groups import Groups
from pdepth.io import tables
from pdepth.io.atomic import remove_folder, remove_leftovers, replacing
from pdepth.io.journal import ABOUT, KIND, PROBES, READING
from pdepth.io.locks import LOCK, locked
from pdepth.io.neighbor_file import save_neighbors
from pdepth.result import DepthResult

TABLE, PICTURE, SUPPORT_TABLE = "depth.parquet", "depth.png", "support.parquet"
TABLE_OF_K, PICTURE_BY_K = "depth-k{}.parquet", "depth-by-k.png"
RUN_TABLES = TABLE, TABLE_OF_K.format("[0-9]*")
SKIPPED_ROWS, NEIGHBORS, MAP = "skipped.csv", "neighbors.pdepth", "map.pdepth"
ENSEMBLE, GROUPS_PICTURE = "ensemble.parquet", "groups.png"
UNFINISHED = ".unfinished"  # the journal of a run, until it has ended

Results = DepthResult | dict[int, DepthResult] | Ensemble


def result_names(ks: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the files that a run of these k writes, the picture last."""
    if len(ks) == 1:
        return TABLE, PICTURE
    return (*(TABLE_OF_K.format(k) for k in ks), PICTURE_BY_K)


def run_names() -> tuple[str, ...]:
    """Return the names of all files that a run may write, as patterns: those of other k, too, which
    would be read in place of its own."""
    return *RUN_TABLES, PICTURE, PICTURE_BY_K, NEIGHBORS, MAP


def check_out(
    out: Path, names: Sequence[str], *, overwrite: bool = False, others: Sequence[str] = ()
) -> None:
    """Raise, before any work, where results could not be written. Leaves nothing behind.

    Args:
        out: the folder, which need not exist.
        names: of the files to be written there, or patterns of them.
        overwrite: whether they may be there already.
        others: names or patterns of results of another kind, beside which these would not be read,
            or not those.

    Raises:
        FileExistsError: one of them is there, and not of an unfinished run; or one of the others.
        NotADirectoryError, PermissionError: the folder cannot be made or written to.
    """

    def found(wanted: Sequence[str]) -> list[str]:
        return [file.name for name in wanted for file in sorted(out.glob(name))]

    if beside := found(others):
        raise FileExistsError(
            f"out: expected a folder without results of another kind, got {out} with "
            f"{', '.join(beside)}; pass another --out."
        )
    present = found(names)
    # Results beside an unfinished run are its own: it was cut short while it wrote them.
    if present and not overwrite and not (out / UNFINISHED).exists():
        raise FileExistsError(
            f"out: expected a folder without results, got {out} with {', '.join(present)}; "
            "pass --overwrite to replace them."
        )
    nearest = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"out: expected a folder, got {out}, and {nearest} is a file.")
    try:  # permissions alone do not tell: file systems have rules of their own
        os.rmdir(tempfile.mkdtemp(dir=nearest, prefix=".pdepth-"))
    except OSError:
        raise PermissionError(
            f"out: expected a writable folder, got {out}, and {nearest} is not writable."
        ) from None


@contextmanager
def resumable(out: Path) -> Iterator[Path]:
    """Yield the directory of a run's journal within `out`; it stays when the run is cut short.

    A wrong argument or wrong data leaves nothing that was not there before.
    Raises BlockingIOError where another process is at work on a run there.
    """
    is_new_folder = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / LOCK, f"out: {out}", then="wait, or pass another --out"):
            remove_leftovers(out)
            with _journal_within(out / UNFINISHED) as run_dir:
                yield run_dir
    except (ValueError, TypeError):
        if is_new_folder:
            with suppress(OSError):
                out.rmdir()
        raise


@contextmanager
def _journal_within(run_dir: Path) -> Iterator[Path]:
    """Yield a directory for a run's journal, and remove it when the run has ended."""
    is_new_run = not run_dir.exists()
    try:
        yield run_dir
    except (ValueError, TypeError):
        if is_new_run:
            remove_folder(run_dir)
        raise
    except KeyboardInterrupt:
        if (
            run_dir / f"{READING}.npz"
        ).exists():  # before the first reading ends there is nothing to resume
            raise KeyboardInterrupt("The same command resumes from here.") from None
        raise
    remove_folder(run_dir)


def write_results(
    results: Mapping[int, DepthResult], out: Path, images: Any = None, class_names: Any = None
) -> list[Path]:
    """Write a table for each k, neighbours and map that were kept, and one picture where matplotlib
    is installed.

    What an older run has left there is removed first: none of it must stay beside new results.

    Args:
        results: by k; of one k or several.
        out: the folder, made where it is missing.
        images, class_names: as in `pdepth.plot`; of one k.

    Returns:
        The files written, a picture last.
    """
    out.mkdir(parents=True, exist_ok=True)
    *written, picture = (out / name for name in result_names(list(results)))
    for older in {file for name in run_names() for file in out.glob(name)}.difference(written):
        older.unlink()
    for result, table in zip(results.values(), written, strict=True):
        result.save(table)
    written = [
        *write_skipped(next(iter(results.values())).skipped, out),
        *written,
        *_write_neighbors(results, out),
        *_write_map(next(iter(results.values())), out),
    ]
    if not can_draw():
        return written
    from pdepth.report.figures.depth import plot

    if len(results) > 1:
        plot(dict(results), picture)
    else:
        plot(next(iter(results.values())), picture, images, class_names)
    return [*written, picture]


def _write_neighbors(results: Mapping[int, DepthResult], out: Path) -> list[Path]:
    path = out / NEIGHBORS
    kept = {k: result.neighbors for k, result in results.items() if result.neighbors is not None}
    if not kept:
        return []
    save_neighbors(kept, path)
    return [path]


def _write_map(result: DepthResult, out: Path) -> list[Path]:
    path = out / MAP
    if result.map is None:
        return []
    result.map.save(path)
    return [path]


def write_skipped(skipped: Mapping[str, Mapping[int, str]], out: Path) -> list[Path]:
    """Write which rows of the data were skipped, and why; without any, no file.

    skipped: reasons by row, of each dataset by its name.
    """
    path = out / SKIPPED_ROWS
    path.unlink(missing_ok=True)  # one of older results must not stay beside new ones
    if not any(skipped.values()):
        return []
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "row", "reason"])
        for name, reasons in skipped.items():
            writer.writerows([name, row, reason] for row, reason in reasons.items())
    return [path]


def write_groups(
    ensemble: Ensemble,
    groups: Groups | None,
    out: Path,
    images: Any = None,
    class_names: Any = None,
) -> list[Path]:
    """Write the picture of an ensemble's groups where matplotlib is installed.

    One of fewer networks is removed, where there are no groups, too.

    Returns:
        The files written: the picture, or none.
    """
    picture = out / GROUPS_PICTURE
    picture.unlink(missing_ok=True)
    if groups is None or not can_draw():
        return []
    from pdepth.report.figures.groups import plot_groups

    plot_groups(ensemble, groups, picture, images, class_names)
    return [picture]


def read_results(path: Path) -> Results:
    """Read what a run, the demo or an ensemble wrote into a folder, or one of its Parquet files.

    Returns:
        One result, the results of several k by k, or an ensemble.

    Raises:
        FileNotFoundError: no such path, or no results in it; of an unfinished run, the sentence
            says what is missing.
        ValueError: a file that is not pdepth's; results of a run beside those of an ensemble.
    """
    if path.is_file():
        return _read_table(path)
    if not path.is_dir():
        raise FileNotFoundError(f"RESULTS: expected a folder or a Parquet file, got {path}.")
    for journal in (path / UNFINISHED, path):
        if (journal / ABOUT).is_file():
            raise FileNotFoundError(_describe_unfinished(path, journal))
    of_run = [path / TABLE] if (path / TABLE).is_file() else []
    of_run += sorted(path.glob(TABLE_OF_K.format("*")))
    if (path / ENSEMBLE).is_file():
        if of_run:
            raise ValueError(
                f"RESULTS: expected those of a run or of an ensemble in {path}, got "
                f"{of_run[0].name} and {ENSEMBLE}; name one of the files."
            )
        return _read_table(path / ENSEMBLE)
    if of_run and of_run[0].name == TABLE:
        return _read_table(of_run[0])
    results = [DepthResult.load(file) for file in of_run]
    if not results:
        raise FileNotFoundError(
            f"RESULTS: expected {TABLE}, {TABLE_OF_K.format('*')} or {ENSEMBLE} in {path}, got "
            "none."
        )
    return {result.k: result for result in results}


def read_runs(path: Path) -> dict[int, DepthResult]:
    """What `read_results` reads of one network, by k.

    Raises ValueError for an ensemble, and what `read_results` raises.
    """
    results = read_results(path)
    if isinstance(results, Ensemble):
        raise ValueError(
            f"RUN: expected results of pdepth run, got an ensemble at {path}; name a run of one "
            "network."
        )
    return {results.k: results} if isinstance(results, DepthResult) else results


def _read_table(path: Path) -> DepthResult | Ensemble:
    if tables.about_of(path)[0] == Ensemble.__name__:
        return Ensemble.load(path)
    return DepthResult.load(path)


def _describe_unfinished(path: Path, journal: Path) -> str:
    """Say what a run that was cut short still lacks, by its journal."""
    try:
        about: dict[str, Any] = json.loads((journal / ABOUT).read_text())
    except ValueError:
        about = {}
    if about.get("kind") != KIND:
        return f"RESULTS: expected results of pdepth in {path}, got none."
    probes = about.get(PROBES, "").split(", ")
    lacking = f"the votes of all {len(probes)} probes are missing"
    if not (journal / f"{READING}.npz").exists():
        lacking = f"its first reading of the data and {lacking}"
    elif searched := {int(file.name.split("-")[1]) for file in journal.glob("votes-*.npz")}:
        # Probes are searched from the last to the first; the latest may lack some queries.
        missing = [name for number, name in enumerate(probes) if number < min(searched)]
        lacking = f"votes of {len(missing)} of {len(probes)} probes are missing"
        lacking += f" ({', '.join(missing)})" if missing else ", and its results are not written"
    return (
        f"RESULTS: expected a finished run in {path}, got one that was interrupted: {lacking}; "
        "the same command, or call with its run_dir, resumes it."
    )


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None
