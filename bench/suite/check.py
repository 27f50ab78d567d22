"""The reference set: whether an implementation's votes and depths are those of the definition.

reference/README.md says what the set holds. `pdepth bench --reference` checks pdepth itself;
`pdepth bench --check FILE.npz` checks another implementation.
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
from pdepth.bench.common import HERE
from pdepth.bench.gate import first_difference
from pdepth.bench.suite.engines import Pdepth, registry

PREFIXES = ("", "own_")  # of the queries' answers, and of the support's, each row left out
ANSWERS = ("votes", "tied", "depth", "undefined")


@cache
def reference() -> dict[str, NDArray[Any]]:
    """The arrays of the reference set."""
    with np.load(HERE / "reference" / "digits.npz") as stored:
        return dict(stored)


def differences(results: Mapping[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    """For each answer, and each probe of it: its name, how many there are, how many differ, where.

    Args:
        results: arrays by the names of the reference set; at least one of its answers.

    Raises:
        ValueError: an array of another shape or type, or `results` has no answer.
    """
    expected = reference()
    answers = [prefix + answer for prefix in PREFIXES for answer in ANSWERS]
    names = [name for name in answers if name in results]
    if not names:
        raise ValueError(f"answers: expected one or more of {', '.join(answers)}; got none.")
    for name in names:
        ours, theirs = expected[name], np.asarray(results[name])
        if theirs.shape != ours.shape:
            raise ValueError(f"{name}: expected shape {ours.shape}, got {theirs.shape}.")
        if theirs.dtype.kind not in "iub":
            raise ValueError(f"{name}: expected integers or booleans, got {theirs.dtype}.")
        if ours.ndim == 1:
            yield name, ours.size, *first_difference(theirs, ours)
            continue
        for number, probe in enumerate(expected["probes"]):
            difference = first_difference(theirs[number], ours[number])
            yield f"{name}[{number}] ({probe})", ours.shape[1], *difference


def check(results: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether all answers in `results` are right, and a line on each."""
    rows = list(differences(results))
    lines = [
        f"{name}: {count:,} compared, {wrong:,} differ{place}" for name, count, wrong, place in rows
    ]
    return not any(wrong for _, _, wrong, _ in rows), "\n".join(lines)


def check_file(path: Path) -> tuple[bool, str]:
    """`check` of the arrays in a .npz file."""
    try:
        with np.load(path) as arrays:
            results = {name: arrays[name] for name in arrays.files}
    except (ValueError, AttributeError, TypeError, EOFError, BadZipFile):
        raise ValueError(f"{path}: expected a .npz file of arrays of numbers.") from None
    return check(results)


def check_pdepth() -> Iterator[tuple[bool, str]]:
    """`check` of each of pdepth's levels and backends that runs here, under its name.

    The backend "reference" is left out: it is the definition, which made the set.
    """
    for engine in registry():
        if isinstance(engine, Pdepth) and engine.backend != "reference" and not engine.threads:
            right, lines = check(answers_of(engine))
            yield right, f"{engine.name}\n{lines}"


def answers_of(engine: Pdepth) -> dict[str, Any]:
    """All answers of this engine, the depths by early exit."""
    known = reference()
    supports = {str(name): known[f"support_{name}"] for name in known["probes"]}
    held_out = {name: known[f"queries_{name}"] for name in supports}
    answers: dict[str, Any] = {}
    with engine.at_level():
        for prefix, queries in zip(PREFIXES, (held_out, None), strict=True):
            options: dict[str, Any] = {"k": int(known["k"]), "backend": engine.backend}
            votes = pdepth.probe_votes(supports, known["labels"], queries, **options)
            result = pdepth.depth_from_embeddings(
                supports, known["labels"], known[f"{prefix}predictions"], queries, **options
            )
            arrays = (votes.votes, votes.tied, result.depth, result.undefined)
            answers |= {prefix + name: array for name, array in zip(ANSWERS, arrays, strict=True)}
    return answers
