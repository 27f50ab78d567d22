"""Labels of a dataset: integers, or names that are numbered."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHOWN = 10  # classes whose names a note lists


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    """Read the names of classes in the order of their numbers: a line each, or a JSON list.

    Lines without a name at the end are left out.

    Raises:
        FileNotFoundError: no such file. ValueError: no names, one of them twice, or no text.
    """
    path, what = Path(path).expanduser(), "classes"
    if not path.is_file():
        raise FileNotFoundError(f"{what}: expected an existing file, got {path}.")
    names: Any = None
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.rstrip().splitlines()
    except (ValueError, RecursionError):  # no UTF-8, or no JSON
        pass
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError(
            f"{what}: expected the name of a class a line, or a JSON list of them, got {path}."
        )
    stripped = [name.strip() for name in names]
    if not stripped:
        raise ValueError(f"{what}: expected at least one name in {path}, got none.")
    if len(set(stripped)) < len(stripped):
        twice = next(name for name in stripped if stripped.count(name) > 1)
        raise ValueError(f"{what}: expected each name once in {path}, got {twice!r} twice.")
    return stripped


def check_labels(labels: NDArray[Any], name: str, count: int) -> NDArray[np.int64]:
    """Return labels as int64. Raises ValueError unless they are (count,) integers, count >= 1."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != count:
        raise ValueError(
            f"{name}: expected integers of shape ({count},), got {labels.dtype} of shape "
            f"{labels.shape}."
        )
    if count == 0:
        raise ValueError(f"{name}: expected at least one example, got none.")
    if labels.max() > np.iinfo(np.int64).max:  # of uint64
        raise ValueError(f"{name}: expected integers below 2**63, got {labels.max()}.")
    return labels.astype(np.int64)


def number_names(
    names: Sequence[str], source: str, class_names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], list[str]]:
    """Number labels that are names: as in `class_names` where all are there, else sorted.

    A warning says how names were sorted.

    Returns:
        (N,) int64, and a name by class.
    """
    if not len(names):
        raise ValueError(f"{source}: expected at least one example, got none.")
    own, codes = np.unique(np.asarray(names, object).astype(str), return_inverse=True)
    labels, known = renumber(codes.astype(np.int64), own.tolist(), class_names)
    if known == own.tolist() and list(class_names or ()) != known:
        more = ", ..." if len(known) > SHOWN else ""
        warnings.warn(
            f"{source}: labels are names; classes are numbered from 0 in their order: "
            f"{', '.join(known[:SHOWN])}{more}.",
            stacklevel=2,
        )
    return labels, known


def renumber(
    labels: NDArray[np.int64], own: Sequence[str], class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Number classes as in `class_names`, if the names of all that have rows are in it, once each.

    Returns:
        Labels (N,) int64, negative ones as they were, and a name by class.
    """
    position = {name: number for number, name in enumerate(class_names or ())}
    if labels.size and labels.max() >= len(own):
        return labels, list(own)
    used = {own[number] for number in np.unique(labels[labels >= 0])}
    if len(position) != len(class_names or ()) or not used <= set(position):
        return labels, list(own)
    new = np.array([position.get(name, -1) for name in own], np.int64)
    return np.where(labels < 0, labels, new[np.maximum(labels, 0)]), list(position)
