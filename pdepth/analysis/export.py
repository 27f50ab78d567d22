"""Results as other tools read them: tables, label issues, data maps, and files of them.

    frame = table(result, ids=names, **outputs.measures())
    write(frame, "examples.csv")  # or .parquet, .jsonl
    write(label_issues(result), "issues.csv")
    write(cartography(training), "td_metrics.jsonl")

Everything here needs pandas, and `.parquet` pyarrow: the extra `tables`. FiftyOne's sample fields
are in `pdepth.compat.fiftyone.write_depth`.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdepth.analysis.network import of_examples, whole
from pdepth.io.atomic import replacing
from pdepth.optional import require
from pdepth.result import DepthResult
from pdepth.votes import depth_from_votes

if TYPE_CHECKING:
    from pdepth.analysis.training import Training

SUFFIXES = (".parquet", ".csv", ".jsonl")


def table(result: DepthResult, *, ids: Any = None, **columns: Any) -> Any:
    """A pandas DataFrame, one example a row: `id`, where given, what `to_pandas` gives, `columns`.

    ids: (N,) names or numbers. columns: (N,) numbers each, by name. Raises ValueError for another
    length and for a name that is there already.
    """
    frame = result.to_pandas()
    if ids is not None:
        frame.insert(0, "id", _named(ids, len(result)))
    for name, values in columns.items():
        if name in frame:
            raise ValueError(f"columns has {name!r}, which the table has already.")
        frame[name] = of_examples(values, name, len(result))
    return frame


def label_issues(result: DepthResult, *, ids: Any = None, threshold: float = 0.0) -> Any:
    """Labels that the probes contradict, in the columns of cleanlab's `CleanLearning`.

    Columns: `id`, where given; `is_label_issue`, whether label_quality is at most `threshold`;
    `label_quality`, 1 - d / L, where d is the depth of the votes against the given label: 1 where
    every probe votes for the label, 0 where the last does not; `given_label`; `predicted_label`,
    the network's class; `depth`, d. As in cleanlab low is bad, and rows keep their order; but
    cleanlab's quality is of predicted probabilities, and this one of neighbours' votes.

    Asked of the support itself, each row left out of its own vote, it doubts labels that the
    network has learned by heart: raise the threshold there. Raises ValueError for a result without
    labels, one whose votes early exit left unknown, unless its `reference` is "label", and a
    threshold that is not from 0 to below 1.
    """
    pandas = require("pandas", "label_issues", "tables")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}; from 0 to below 1 is wanted.")
    if result.reference == "label":
        depth, labels = result.depth, result.labels
    else:
        labels, votes = whole(result, "label_issues")
        depth, _ = depth_from_votes(votes, labels)
    quality = 1 - depth / len(result.probes)
    return pandas.DataFrame(
        ({} if ids is None else {"id": _named(ids, len(result))})
        | {
            "is_label_issue": quality <= threshold,
            "label_quality": quality,
            "given_label": labels,
            "predicted_label": result.predictions,
            "depth": depth,
        }
    )


def cartography(training: Training) -> Any:
    """A data map of training, in the columns of the Dataset Cartography's `td_metrics.jsonl`.

    Of Swayamdipta et al., "Dataset Cartography", arXiv 2009.10795. Columns: `guid`, the id;
    `index`, the row; `threshold_closeness`, confidence (1 - confidence); `confidence`, the mean
    over checkpoints of the label's probability; `variability`, its standard deviation (of the
    population); `correctness`, at how many checkpoints the prediction is the label;
    `forgetfulness`, forgetting events, 1000 where it never is, as their code has it.

    Raises ValueError where the training holds no label probabilities.
    """
    pandas = require("pandas", "cartography", "tables")
    if training.label_probability is None:
        raise ValueError("cartography needs label_probability, and this Training has none.")
    from pdepth.analysis.training import forgetting

    share = training.label_probability.astype(np.float64)
    confidence = share.mean(axis=0)
    forgotten = forgetting(training)
    return pandas.DataFrame(
        {
            "guid": training.ids,
            "index": np.arange(len(training.ids)),
            "threshold_closeness": confidence * (1 - confidence),
            "confidence": confidence,
            "variability": share.std(axis=0),
            "correctness": (training.predictions == training.labels).sum(axis=0),
            "forgetfulness": np.where(forgotten.never, 1000, forgotten.events),
        }
    )


def write(frame: Any, path: str | os.PathLike[str]) -> None:
    """Write a DataFrame to a .parquet, .csv or .jsonl file, whole or not at all.

    .jsonl has one object a line, floats to the last bit, and null for what is missing, nan or
    infinite. The index is left out. Raises ValueError for another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"path {os.fspath(path)!r} ends in none of {', '.join(SUFFIXES)}.")
    if suffix == ".parquet":
        require("pyarrow", "write", "tables")
    with replacing(path) as temporary:
        if suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        elif suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            lines = [json.dumps({n: _plain(v) for n, v in row.items()}) for row in _rows(frame)]
            temporary.write_text("".join(line + "\n" for line in lines))


def _rows(frame: Any) -> Any:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _plain(value: Any) -> Any:
    """As JSON has it, which knows neither nan nor infinity."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(ids: Any, count: int) -> Any:
    found = np.asarray(ids)
    if found.shape != (count,):
        raise ValueError(f"ids has shape {found.shape}; ({count},) is wanted.")
    return found
