"""The reference set: whether an implementation's votes and depths are those of the definition.

reference/README.md says what the set holds. `pdepth bench --reference` asks pdepth itself;
`pdepth bench --check FILE.npz` asks another implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

import pdepth

from ..common import HERE, first_difference
from .engines import Pdepth, registry

PREFIXES = ("", "own_")  # of the queries' answers, and of the support's, each row left out
ANSWERS = ("votes", "tied", "depth", "undefined")


@cache
def reference() -> dict[str, NDArray[Any]]:
    with np.load(HERE / "reference" / "digits.npz") as stored:
        return dict(stored)


def differences(found: Mapping[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    """For each answer, and each probe of it: its name, how many there are, how many differ, where.

    Raises ValueError for an array of another shape or type, and where `found` holds no answer.
    """
    wanted = reference()
    names = [prefix + answer for prefix in PREFIXES for answer in ANSWERS]
    given = [name for name in names if name in found]
    if not given:
        raise ValueError(f"There is none of the arrays {', '.join(names)}.")
    for name in given:
        ours, theirs = wanted[name], np.asarray(found[name])
        if theirs.shape != ours.shape:
            raise ValueError(f"{name} has shape {theirs.shape}; {ours.shape} is wanted.")
        if theirs.dtype.kind not in "iub":
            raise ValueError(f"{name} has elements of type {theirs.dtype}; integers are wanted.")
        if ours.ndim == 1:
            yield name, ours.size, *first_difference(theirs, ours)
            continue
        for number, probe in enumerate(wanted["probes"]):
            row = first_difference(theirs[number], ours[number])
            yield f"{name}[{number}] ({probe})", ours.shape[1], *row


def check(found: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether all answers given are right, and a line on each."""
    told = list(differences(found))
    lines = [f"{name}: {count:,} compared, {wrong:,} differ{at}" for name, count, wrong, at in told]
    return not any(wrong for _, _, wrong, _ in told), "\n".join(lines)


def check_file(path: Path) -> tuple[bool, str]:
    """`check` of the arrays in a .npz file."""
    try:
        with np.load(path) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, AttributeError, TypeError, EOFError, BadZipFile):
        raise ValueError(f"{path} is no .npz file of arrays of numbers.") from None
    return check(found)


def check_pdepth() -> Iterator[tuple[bool, str]]:
    """`check` of each of pdepth's levels and backends that runs here, under its name.

    Not of the backend "reference": it is the definition, which made the set.
    """
    for engine in registry():
        if isinstance(engine, Pdepth) and engine.backend != "reference" and not engine.threads:
            right, lines = check(answers(engine))
            yield right, f"{engine.name}\n{lines}"


def answers(engine: Pdepth) -> dict[str, Any]:
    """All answers as this engine gives them, the depths by early exit."""
    known = reference()
    supports = {str(name): known[f"support_{name}"] for name in known["probes"]}
    queries = {name: known[f"queries_{name}"] for name in supports}
    found: dict[str, Any] = {}
    with engine.at_level():
        for prefix, asked in zip(PREFIXES, (queries, None), strict=True):
            options: dict[str, Any] = {"k": int(known["k"]), "backend": engine.backend}
            votes = pdepth.probe_votes(supports, known["labels"], asked, **options)
            result = pdepth.depth_from_embeddings(
                supports, known["labels"], known[f"{prefix}predictions"], asked, **options
            )
            each = (votes.votes, votes.tied, result.depth, result.undefined)
            found |= {prefix + name: array for name, array in zip(ANSWERS, each, strict=True)}
    return found
