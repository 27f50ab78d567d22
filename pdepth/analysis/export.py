"""Results in the formats of other tools: tables, label issues, data maps, and files of them.

    frame = table(result, ids=names, **outputs.measures())
    write(frame, "examples.csv")  # or .parquet, .jsonl
    write(pdepth.label_issues(run).to_pandas(), "issues.csv")
    write(cartography(training), "td_metrics.jsonl")

Needs pandas, and pyarrow for `.parquet`: the extra `tables`. FiftyOne's sample fields are written
by `pdepth.compat.fiftyone.write_depth`.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.analysis.checks import check_shape, check_values
from pdepth.analysis.suspect_labels import label_issues
from pdepth.analysis.training import forgetting
from pdepth.io.atomic import check_replaceable, check_suffix, replacing
from pdepth.optional import require
from pdepth.result import DepthResult

if TYPE_CHECKING:
    from pdepth.analysis.training import Training

__all__ = ["cartography", "check_new", "label_issues", "table", "write"]

SUFFIXES = (".parquet", ".csv", ".json", ".jsonl")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what it begins with, in a spreadsheet


def table(result: DepthResult, *, ids: Any = None, **columns: Any) -> Any:
    """A pandas DataFrame, one example per row: `id` (if given), `result.to_pandas()`, `columns`.

    Args:
        ids: (N,) names or numbers of the examples.
        columns: further columns by name, (N,) numbers each.

    Raises:
        ValueError: another length, or a name that the table has already.
    """
    frame = result.to_pandas()
    if ids is not None:
        frame.insert(0, "id", check_shape(ids, "ids", (len(result),)))
    for name, values in columns.items():
        if name in frame:
            raise ValueError(
                f"columns: expected names that the table does not have yet, got {name!r}."
            )
        frame[name] = check_values(values, name, len(result))
    return frame


def cartography(training: Training) -> Any:
    """A data map of training, in the columns of the Dataset Cartography's `td_metrics.jsonl`.

    Source: Swayamdipta et al., "Dataset Cartography", arXiv 2009.10795. Columns: `guid`, the id;
    `index`, the row; `threshold_closeness`, confidence (1 - confidence); `confidence`, the mean
    over checkpoints of the label's probability; `variability`, its standard deviation (of the
    population); `correctness`, the number of checkpoints whose prediction is the label;
    `forgetfulness`, forgetting events, and 1000 where no prediction is the label, as in their code.

    Raises:
        ValueError: the training has no label probabilities.
    """
    pandas = require("pandas", "cartography", "tables")
    if training.label_probability is None:
        raise ValueError("training: expected a Training with label_probability, got one without.")
    probability = training.label_probability.astype(np.float64)
    confidence = probability.mean(axis=0)
    forgotten = forgetting(training)
    return pandas.DataFrame(
        {
            "guid": training.ids,
            "index": np.arange(len(training.ids)),
            "threshold_closeness": confidence * (1 - confidence),
            "confidence": confidence,
            "variability": probability.std(axis=0),
            "correctness": (training.predictions == training.labels).sum(axis=0),
            "forgetfulness": np.where(forgotten.never, 1000, forgotten.events),
        }
    )


def check_new(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The path of a file that `write` may write.

    Raises:
        ValueError: another suffix. FileExistsError: it is there, and not to be replaced.
        FileNotFoundError: its folder is not.
    """
    check_suffix(path, SUFFIXES)
    if check_replaceable(path).exists() and not overwrite:
        raise FileExistsError(
            f"out: expected a new file, got {path}, which exists; pass --overwrite to replace it."
        )
    return Path(path)


def write(frame: Any, path: str | os.PathLike[str]) -> None:
    """Write a DataFrame to a .parquet, .csv, .json or .jsonl file, whole or not at all.

    A .json file is a list with an object a row, a .jsonl file has one a line; floats to the last
    bit, and null for missing values, NaN and infinity. The index is not written. In a .csv file,
    text that a spreadsheet would take for a formula (it begins with one of = + - @, a tab or a
    line's end) has an apostrophe before it.

    Raises:
        ValueError: another suffix.
    """
    suffix = check_suffix(path, SUFFIXES)
    if suffix == ".parquet":
        require("pyarrow", "write", "tables")
    with replacing(path) as temporary:
        if suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        elif suffix == ".csv":
            _without_formulas(frame).to_csv(temporary, index=False, lineterminator="\r\n")
        else:
            records = frame.astype(object).where(frame.notna(), None).to_dict("records")
            lines = [
                json.dumps({name: _json_value(value) for name, value in record.items()})
                for record in records
            ]
            if suffix == ".json":
                temporary.write_text("[" + ",\n".join(lines) + "]\n")
            else:
                temporary.write_text("".join(line + "\n" for line in lines))


def _without_formulas(frame: Any) -> Any:
    """A DataFrame in which text that begins as a formula does is marked as text."""

    def marked(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    frame = frame.rename(columns=marked)
    for number, kind in enumerate(frame.dtypes):
        if kind.kind not in "iufb":
            frame.isetitem(number, frame.iloc[:, number].map(marked))
    return frame


def _json_value(value: Any) -> Any:
    """A value that JSON can hold; NaN and infinity become null."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
