"""Checks of arguments: wrong input ends here, in one sentence, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import definition, native
from pdepth.arrays.mapped import watched
from pdepth.arrays.memory import parse_bytes
from pdepth.arrays.rows import is_torch

DISTANCES = ("sqeuclidean", "cosine")
METRICS = (*DISTANCES, "inner_product")
WEIGHTS = ("uniform", "distance", "exp")
REFERENCES = ("prediction", "label", "last_probe")
MOST_THREADS = 1024


def check_int(value: Any, name: str, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {value!r}.")
    if value < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}, got {value}.")
    return int(value)


def check_choice(value: Any, name: str, choices: Sequence[str], more: str = "") -> str:
    """`value`, which is one of `choices`; `more` names other kinds that the caller takes."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}{more}, got {value!r}.")
    return value


@dataclass(frozen=True)
class Voting:
    """How neighbours vote.

    ks: every number of neighbours that is answered. several: whether the caller passed a sequence.
    weights, temperature: of `definition.vote_weights`. nearest: how many of the nearest rows are
    answered beside the votes and all counts; 0 for neither.
    """

    ks: tuple[int, ...]
    several: bool
    weights: str
    temperature: float
    nearest: int = 0

    @classmethod
    def plain(cls, k: int, nearest: int = 0) -> Voting:
        """One vote for each of k neighbours."""
        return cls((k,), False, "uniform", definition.TEMPERATURE, nearest)

    @property
    def k(self) -> int:
        """The largest number of neighbours, which one search finds for all."""
        return max(*self.ks, self.nearest)

    @property
    def is_plain(self) -> bool:
        """Whether a backend's own votes answer it: one k, one vote a neighbour."""
        return len(self.ks) == 1 and self.weights == "uniform" and self.nearest <= self.ks[0]

    def check_rows(self, rows: int, *, leave_one_out: bool) -> None:
        """A query has so many neighbours among `rows` rows."""
        check_k(max(self.ks), rows, leave_one_out=leave_one_out)
        check_k(self.nearest, rows, leave_one_out=leave_one_out, name="return_neighbors")

    @property
    def meta(self) -> dict[str, str]:
        """What differs from the default, for a result's metadata."""
        if self.weights == "uniform":
            return {}
        temperature = {"temperature": str(self.temperature)} if self.weights == "exp" else {}
        return {"weights": self.weights, **temperature}


@native.default_arithmetic()  # of the temperature
def check_voting(
    k: Any, weights: Any = "uniform", temperature: Any = None, return_neighbors: Any = None
) -> Voting:
    """`k` as one number or several, the weights of votes, and how many neighbours are kept."""
    several = isinstance(k, list | tuple | range) or (isinstance(k, np.ndarray) and k.ndim == 1)
    ks = tuple([check_int(value, "k") for value in k]) if several else (check_int(k, "k"),)
    if not ks:
        raise ValueError("k: expected at least one integer, got an empty sequence.")
    if len(set(ks)) < len(ks):
        twice = next(value for value in ks if ks.count(value) > 1)
        raise ValueError(f"k: expected distinct integers, got {twice} twice.")
    check_choice(weights, "weights", WEIGHTS)
    nearest = 0 if return_neighbors is None else check_int(return_neighbors, "return_neighbors")
    if temperature is None:
        return Voting(ks, several, weights, definition.TEMPERATURE, nearest)
    if weights != "exp":
        raise ValueError(f"temperature: expected None unless weights='exp', got {temperature!r}.")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float | np.number):
        raise TypeError(f"temperature: expected a number, got {temperature!r}.")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: expected a positive finite number, got {temperature}.")
    return Voting(ks, several, weights, float(temperature), nearest)


@dataclass(frozen=True)
class SearchOptions:
    """What every search is told besides its rows, checked.

    metric: one of `METRICS`. exclude_self: whether a support row is left out of its own votes.
    num_threads: of the cpu backend. memory: bytes of rows in work, or None.
    """

    voting: Voting
    metric: str = "sqeuclidean"
    exclude_self: bool = True
    num_threads: int = 1
    memory: int | None = None


def check_search(
    voting: Voting,
    metric: Any,
    exclude_self: Any,
    num_threads: Any,
    memory: Any,
) -> SearchOptions:
    """The options of a search."""
    check_choice(metric, "metric", METRICS)
    check_weights(voting, metric)
    return SearchOptions(
        voting,
        metric,
        bool(exclude_self),
        check_threads(num_threads),
        None if memory is None else parse_bytes(memory),
    )


def check_weights(voting: Voting, metric: str) -> None:
    """Raise ValueError for weights that have no meaning with a metric."""
    if metric == "inner_product" and voting.weights == "distance":
        raise ValueError(
            "weights: expected 'uniform' or 'exp' with metric='inner_product', got 'distance'."
        )


def check_reference(value: Any, count: int | None = None) -> str | NDArray[np.int64]:
    """What votes are compared with: one of `REFERENCES`, or `count` integers."""
    if value is None or isinstance(value, str):
        return check_choice(value, "reference", REFERENCES, " or an array of integers")
    return check_integers(value, "reference", count)


def check_threads(num_threads: Any) -> int:
    """How many threads the cpu backend uses; None for the process's share of the cores."""
    if num_threads is None:
        return native.default_threads()
    checked = check_int(num_threads, "num_threads")
    if checked > MOST_THREADS:
        raise ValueError(f"num_threads: expected at most {MOST_THREADS}, got {checked}.")
    return checked


def check_k(k: int, rows: int, *, leave_one_out: bool, name: str = "k") -> None:
    """A query has k neighbours among `rows` rows."""
    most = rows - leave_one_out
    if k > most:
        rest = ", less the row that is left out" if leave_one_out else ""
        raise ValueError(
            f"{name}: expected at most {most} (support has {rows} rows{rest}), got {k}."
        )


def check_integers(
    value: Any, name: str, length: int | None = None, *, booleans: bool = True
) -> NDArray[np.int64]:
    """`value` as (length,) int64."""
    with watched([(name, value)]):
        return _integers(value, name, length, booleans)


def _integers(value: Any, name: str, length: int | None, booleans: bool) -> NDArray[np.int64]:
    if is_torch(value):
        kind = str(value.dtype).removeprefix("torch.")
        value = value.detach().cpu()
        array = value.float().numpy() if kind == "bfloat16" else value.numpy()
    else:
        array = np.asarray(value)
        kind = str(array.dtype)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected shape ({length or 'N'},), got {array.shape}.")
    if array.size and array.dtype.kind not in ("iub" if booleans else "iu"):
        raise TypeError(f"{name}: expected integers, got elements of type {kind}.")
    if length is not None and len(array) != length:
        raise ValueError(f"{name}: expected {length} entries, got {len(array)}.")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected integers below 2^63, got {array.max()}.")
    integers: NDArray[np.int64] = array.astype(np.int64)
    return integers


def encode_labels(labels: Any, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The distinct labels (C,), ascending, and each row's position among them (M,)."""
    checked = check_integers(labels, "labels", rows)
    classes = np.unique(checked)  # its inverse would take five times the labels' memory
    return classes, np.searchsorted(classes, checked).astype(np.int32)


def encode_known_labels(
    labels: Any, classes: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Labels (count,), each one of `classes` (C,), and their positions among these."""
    checked = check_integers(labels, "labels", count)
    codes, known = codes_of(checked, classes)
    if not known.all():
        raise ValueError(f"labels: expected classes of the support, got {checked[~known][0]}.")
    return checked, codes


def codes_of(
    labels: NDArray[np.int64], classes: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Each label's position in `classes` (C,), ascending, and whether it is one of them."""
    codes = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return codes, classes[codes] == labels


def check_query_rows(query_rows: Any, rows: int) -> NDArray[np.int64]:
    """`query_rows` as (N,) int64, each a row of a support that has `rows`."""
    checked = check_integers(query_rows, "query_rows", booleans=False)
    if len(checked) == 0:
        raise ValueError("query_rows: expected at least one row, got none.")
    if checked.min() < 0 or checked.max() >= rows:
        outside = checked[(checked < 0) | (checked >= rows)][0]
        raise ValueError(f"query_rows: expected rows from 0 to {rows - 1}, got {outside}.")
    return checked
