"""A folder of results: what its files are called, and how they are read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pdepth.analysis.ensemble import Ensemble
from pdepth.io import tables
from pdepth.io.journal import ABOUT, KIND
from pdepth.result import DepthResult

TABLE, PICTURE, SUPPORT_TABLE = "depth.parquet", "depth.png", "support.parquet"
OF_K, BY_K = "depth-k{}.parquet", "depth-by-k.png"
ENSEMBLE, GROUPS_PICTURE = "ensemble.parquet", "groups.png"
UNFINISHED = ".unfinished"  # until the run has ended
PROBES, READING = "the list of probes", "reading.npz"  # of a run that has not

Results = DepthResult | dict[int, DepthResult] | Ensemble


def read_results(path: Path) -> Results:
    """What a run, a demo or an ensemble has written into a folder, or one of its Parquet files.

    Raises:
        FileNotFoundError: no such path, or no results in it; of a run that is not finished, the
            sentence says what is missing.
        ValueError: a file that is not pdepth's.
    """
    if path.is_file():
        return _read(path)
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {path}.")
    for journal in (path / UNFINISHED, path):
        if (journal / ABOUT).is_file():
            raise FileNotFoundError(_unfinished(path, journal))
    for name in (TABLE, ENSEMBLE):
        if (path / name).is_file():
            return _read(path / name)
    found = [DepthResult.load(each) for each in sorted(path.glob(OF_K.format("*")))]
    if not found:
        raise FileNotFoundError(
            f"{path} holds no results of pdepth: {TABLE}, {OF_K.format('*')} or {ENSEMBLE} is "
            "wanted."
        )
    return {result.k: result for result in found}


def _read(path: Path) -> DepthResult | Ensemble:
    if tables.about_of(path)[0] == Ensemble.__name__:
        return Ensemble.load(path)
    return DepthResult.load(path)


def _unfinished(path: Path, journal: Path) -> str:
    """What a run that was cut short still lacks, as its journal has it."""
    try:
        about: dict[str, Any] = json.loads((journal / ABOUT).read_text())
    except ValueError:
        about = {}
    if about.get("kind") != KIND:
        return f"{path} holds no results of pdepth."
    probes = about.get(PROBES, "").split(", ")
    left = f"the votes of all {len(probes)} probes are missing"
    if not (journal / READING).exists():
        left = f"its first pass over the data and {left}"
    elif asked := {int(file.name.split("-")[1]) for file in journal.glob("votes-*.npz")}:
        # Probes are asked from the last to the first; of the last one asked some may be missing.
        missing = [name for number, name in enumerate(probes) if number < min(asked)]
        left = f"votes of {len(missing)} of {len(probes)} probes are missing"
        left += f" ({', '.join(missing)})" if missing else ", and its results are not written"
    return (
        f"{path} holds a run that is not finished: {left}; the same command, or call with its "
        "run_dir, goes on from there."
    )
