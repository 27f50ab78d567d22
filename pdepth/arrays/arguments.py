"""Every check of the engine's arguments: wrong input ends here, in one sentence, before work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import _native, definition, native
from pdepth.arrays.memory import parse_bytes
from pdepth.arrays.rows import Rows, is_array, is_torch, rows_of
from pdepth.arrays.sources import Numbers, Stored, is_single, opened

METRICS = ("sqeuclidean", "cosine")
WEIGHTS = ("uniform", "distance", "exp")
REFERENCES = ("prediction", "label", "last_probe")
MOST_ROWS = 2**31 - 1
MOST_THREADS = 1024

Pair = tuple[str, Any, Any]
_NONE_LEFT = object()


class ZeroNormError(ValueError):
    """A row that metric="cosine" cannot take: it cannot be divided by its norm."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One probe's rows: `support` (M, D), and `queries` (N, D) or None for the support's own.

    Either may be `Stored`; no backend meets such a layer, which `streaming` takes apart.
    """

    name: str
    support: Rows
    queries: Rows | None


@dataclass(frozen=True, eq=False)
class Problem:
    """A call of the engine, checked: what every backend is given.

    codes: (M,) int32, each support row's class as its place in `classes` (C,) int64, ascending.
    query_rows: (N,) int64 support rows that are asked, or None; count: N.
    device: of the first support, where it is a torch tensor; None for NumPy.
    memory: bytes that the call may take beside arrays: rows in work, what an engine packs of them;
        None where the caller named none.
    within: (N,) squared distances, or None: where neighbours are asked, rows that are farther need
        not be told, and are NaN and -1 where they are not; NaN for any distance.
    """

    layers: tuple[Layer, ...]
    codes: NDArray[np.int32]
    classes: NDArray[np.int64]
    k: int
    exclude_self: bool
    query_rows: NDArray[np.int64] | None
    count: int
    threads: int
    device: Any
    memory: int | None = None
    within: NDArray[np.float64] | None = None


def check_int(value: Any, what: str, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{what} is {value!r}; an integer is wanted.")
    if value < least:
        raise ValueError(f"{what} is {value}; at least {least} is wanted.")
    return int(value)


def check_choice(value: Any, what: str, names: Sequence[str], more: str = "") -> str:
    """`value`, one of some names."""
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{what} is {value!r}; one of {', '.join(names)}{more} is wanted.")
    return value


@dataclass(frozen=True)
class Voting:
    """How neighbours vote, checked: every number of them that is asked, and what a vote weighs."""

    ks: tuple[int, ...]
    several: bool
    weights: str
    temperature: float

    @property
    def meta(self) -> dict[str, str]:
        """What is not the default, in words, for a result."""
        if self.weights == "uniform":
            return {}
        temperature = {"temperature": str(self.temperature)} if self.weights == "exp" else {}
        return {"weights": self.weights, **temperature}

    @property
    def plain(self) -> bool:
        """Whether it is what a backend's own `votes` answers: one k, one vote a neighbour."""
        return len(self.ks) == 1 and self.weights == "uniform"


def check_voting(k: Any, weights: Any, temperature: Any) -> Voting:
    """`k` as one number or several, and the weights of votes."""
    several = isinstance(k, list | tuple | range) or (isinstance(k, np.ndarray) and k.ndim == 1)
    ks = tuple(check_int(each, "k") for each in k) if several else (check_int(k, "k"),)
    if not ks:
        raise ValueError("k is empty; at least one number is wanted.")
    if len(set(ks)) < len(ks):
        twice = next(each for each in ks if ks.count(each) > 1)
        raise ValueError(f"k holds {twice} twice; distinct numbers are wanted.")
    check_choice(weights, "weights", WEIGHTS)
    if temperature is None:
        return Voting(ks, several, weights, definition.TEMPERATURE)
    if weights != "exp":
        raise ValueError(f"temperature goes with weights='exp', and weights is {weights!r}.")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float | np.number):
        raise TypeError(f"temperature is {temperature!r}; a number is wanted.")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; a positive number is wanted.")
    return Voting(ks, several, weights, float(temperature))


def check_reference(value: Any, count: int | None = None) -> str | NDArray[np.int64]:
    """What votes are compared with: one of `REFERENCES`, or `count` integers."""
    if value is None or isinstance(value, str):
        return check_choice(value, "reference", REFERENCES, " or an array of integers")
    return check_integers(value, "reference", count)


def check_threads(num_threads: Any) -> int:
    """How many threads an engine uses; None for the process's share of the cores."""
    if num_threads is None:
        return native.default_threads()
    found = check_int(num_threads, "num_threads")
    if found > MOST_THREADS:
        raise ValueError(f"num_threads is {found}; at most {MOST_THREADS} are wanted.")
    return found


def check_k(k: int, rows: int, *, leave_one_out: bool) -> None:
    """A query has k neighbours among `rows` rows."""
    most = rows - leave_one_out
    if k > most:
        left = ", less the row left out" if leave_one_out else ""
        raise ValueError(f"k is {k} and support has {rows} rows{left}; at most {most} is wanted.")


def check_integers(
    value: Any, what: str, length: int | None = None, *, booleans: bool = True
) -> NDArray[np.int64]:
    """`value` as (length,) int64."""
    if is_torch(value):
        kind = str(value.dtype).removeprefix("torch.")
        value = value.detach().cpu()
        array = value.float().numpy() if kind == "bfloat16" else value.numpy()
    else:
        array = np.asarray(value)
        kind = str(array.dtype)
    if array.ndim != 1:
        raise ValueError(f"{what} has shape {array.shape}; one dimension is wanted.")
    if array.size and array.dtype.kind not in ("iub" if booleans else "iu"):
        raise TypeError(f"{what} has elements of type {kind}; integers are wanted.")
    if length is not None and len(array) != length:
        raise ValueError(f"{what} has {len(array)} entries; {length} are wanted.")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{what} holds {array.max()}; integers below 2^63 are wanted.")
    whole_numbers: NDArray[np.int64] = array.astype(np.int64)
    return whole_numbers


def encode_labels(labels: Any, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The distinct labels (C,), ascending, and each row's place among them (M,)."""
    classes, codes = np.unique(check_integers(labels, "labels", rows), return_inverse=True)
    return classes, codes.astype(np.int32)


def encode_known_labels(
    labels: Any, classes: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Labels (count,), each a class of the support's, and its place among these (C,)."""
    given = check_integers(labels, "labels", count)
    place = np.minimum(np.searchsorted(classes, given), len(classes) - 1)
    strange = given[classes[place] != given]
    if len(strange):
        raise ValueError(f"labels holds {strange[0]}, which is no class of the support.")
    return given, place


def pairs(support: Any, queries: Any) -> Iterator[Pair]:
    """(name, support array, query array or None) of each probe, from what users may pass.

    Lazy: of iterators no more than one array is taken at a time.
    """
    if is_single(support):
        if queries is not None and not is_single(queries):
            raise TypeError(
                f"queries is a {type(queries).__name__} and support one array; "
                "one array is wanted for both, or one array a probe."
            )
        yield _pair("probe 0", support, queries)
        return
    if isinstance(support, Mapping | Sequence) and len(support) == 0:
        raise ValueError("support holds no probe.")
    if isinstance(support, Mapping) and isinstance(queries, Mapping):
        if list(queries) != list(support):
            raise ValueError(
                f"queries has the probes {list(queries)}, support {list(support)}; "
                "the same names in the same order are wanted."
            )
        queries = list(queries.values())
    if queries is not None and not _is_collection(queries):
        raise TypeError(
            f"queries is a {type(queries).__name__}; one array a probe is wanted, as in support."
        )
    if isinstance(support, Mapping):
        named = ((str(name), array) for name, array in support.items())
    elif _is_collection(support):
        named = ((f"probe {number}", array) for number, array in enumerate(support))
    else:
        raise TypeError(
            f"support is a {type(support).__name__}; an array, or a sequence, mapping or iterator "
            "of arrays is wanted."
        )
    asked = None if queries is None else iter(queries)
    number = 0
    for number, (name, array) in enumerate(named, 1):
        query = None
        if asked is not None:
            query = next(asked, _NONE_LEFT)
            if query is _NONE_LEFT:
                raise ValueError(
                    f"queries has {number - 1} probes and support more; as many are wanted."
                )
            if query is None:
                raise TypeError(f"queries ({name}) is None; one array a probe is wanted.")
        yield _pair(name, array, query)
    if number == 0:
        raise ValueError("support holds no probe.")
    if asked is not None and next(asked, _NONE_LEFT) is not _NONE_LEFT:
        raise ValueError(f"queries has more probes than support's {number}; as many are wanted.")


def _pair(name: str, support: Any, queries: Any) -> Pair:
    own = opened(support, f"support ({name})")
    return name, own, None if queries is None else opened(queries, f"queries ({name})")


def _is_collection(value: Any) -> bool:
    return (
        isinstance(value, Iterator | Sequence) and not is_single(value) and type(value) is not bytes
    )


def layer(
    name: str, support: Any, queries: Any, metric: str, threads: int, memory: int | None
) -> Layer:
    """One probe's arrays, checked: kinds, shapes, finite values, and rows that have a direction."""
    own = embedding(support, f"support ({name})", metric, threads, memory)
    if queries is None:
        return Layer(name, own, None)
    asked = embedding(queries, f"queries ({name})", metric, threads, memory)
    if asked.width != own.width:
        raise ValueError(
            f"queries ({name}) has width {asked.width} and support {own.width}; "
            "equal widths are wanted."
        )
    return Layer(name, own, asked)


def embedding(array: Any, what: str, metric: str, threads: int, memory: int | None) -> Rows:
    """The rows of `array`, named `what`, known to be finite; for `metric="cosine"` normalised."""
    ready = partial(_ready, what=what, metric=metric, threads=threads)
    rows = rows_of(array, what) if is_array(array) else None
    if rows is None or (metric == "cosine" and _too_large(rows, memory)):
        rows = Stored.of(array, what, "float64" if metric == "cosine" else None, ready)
    if len(rows) > MOST_ROWS:
        raise ValueError(f"{what} has {len(rows)} rows; at most {MOST_ROWS} are wanted.")
    return rows if isinstance(rows, Stored) else ready(rows, range(len(rows)))


def _too_large(rows: Rows, memory: int | None) -> bool:
    """Whether the rows' normalised copies would not be held at once, but be made as they go."""
    if memory is None:
        return isinstance(rows.array, np.memmap)
    return 8 * rows.width * len(rows) > memory // 4


def _ready(rows: Rows, numbers: Numbers, *, what: str, metric: str, threads: int) -> Rows:
    """Rows of these numbers, known to be finite, and for `metric="cosine"` normalised."""
    if rows.type.startswith(("float", "bfloat")):
        bad = _first_not_finite(rows, threads)
        if bad >= 0:
            raise ValueError(
                f"{what} has NaN or infinity in row {numbers[bad]}; finite values are wanted."
            )
    return _normalised(rows, numbers, what) if metric == "cosine" else rows


def _first_not_finite(rows: Rows, threads: int) -> int:
    """The first row with NaN or infinity, or -1; found on the device if the rows are there."""
    if not rows.on_device:
        return _native.first_not_finite(rows.array, rows.type, native.simd_level(), threads)
    step = max(1, 2**24 // rows.width)
    for begin in range(0, len(rows), step):
        bad = (~rows.array[begin : begin + step].isfinite()).any(dim=1)
        if bad.any():
            return begin + int(bad.int().argmax())
    return -1


def _normalised(rows: Rows, numbers: Numbers, what: str) -> Rows:
    """Rows divided by their norms, in float64, where they are; a stretch at a time."""
    shape = rows.array.shape
    out = rows.array[:0].double().new_empty(shape) if rows.on_device else np.empty(shape)
    step = max(1, 2 ** (24 if rows.on_device else 19) // rows.width)
    for begin in range(0, len(rows), step):
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            normed = _unit(rows[begin : begin + step])
            squares = (normed * normed).sum(1)
        # A norm beyond float64's range, or of nought, leaves no row of norm one.
        bad = ~(abs(squares - 1) < 0.5)
        if bad.any():
            first = numbers[begin + int((bad * 1).argmax())]
            raise ZeroNormError(
                f"{what} has no direction in row {first}: its norm is zero or beyond float64's "
                "range; metric='cosine' wants one."
            )
        out[begin : begin + step] = normed
    return Rows(out, "float64")


def _unit(rows: Rows) -> Any:
    """(n, D) float64 as the definition has them.

    A device does the same operations in the same order, and IEEE 754 rounds each alike; but for
    the roots, which torch does not promise to round so and NumPy does.
    """
    if not rows.on_device:
        return definition.as_rows(rows.widened(), "cosine")
    values = rows.array.double()
    terms = values * values
    while (width := terms.shape[1]) > 1:
        terms[:, : width // 2] += terms[:, width - width // 2 :]
        terms = terms[:, : width - width // 2]
    norms = np.sqrt(terms.cpu().numpy())
    return values / values.new_tensor(norms)


def problems(
    support: Any, queries: Any, labels: Any, *, names: Sequence[str] | None = None, **options: Any
) -> Iterator[Problem]:
    """The call's problem; of an iterator, one for each probe as it comes, all of one shape."""
    found = pairs(support, queries)
    if not isinstance(support, Iterator):
        together = list(found)
        if names is not None:
            if len(names) != len(together):
                raise ValueError(f"probes has {len(names)} names; {len(together)} are wanted.")
            together = [(str(n), *p[1:]) for n, p in zip(names, together, strict=True)]
        yield problem(together, labels, **options)
        return
    given = iter(names or ())
    first: tuple[str, int] | None = None
    for name, *arrays in found:
        one = problem([(next(given, name), *arrays)], labels, **options)
        if first is None:
            first = (one.layers[0].name, one.count)
        _common([(first[1], first[0]), (one.count, one.layers[0].name)], "queries")
        yield one


def problem(
    pairs: list[Pair],
    labels: Any,
    *,
    query_rows: Any,
    k: Any,
    metric: str,
    exclude_self: bool,
    num_threads: int | None,
    memory: int | str | None,
) -> Problem:
    """The whole call, checked; `labels=None` stands for one class."""
    k, used = check_int(k, "k"), check_threads(num_threads)
    check_choice(metric, "metric", METRICS)
    budget = None if memory is None else parse_bytes(memory)
    own_rows = pairs[0][2] is None
    if query_rows is not None and not own_rows:
        raise ValueError("query_rows picks rows of the support and cannot go with queries.")
    layers = tuple(layer(*pair, metric, used, budget) for pair in pairs)
    rows = _common([(len(one.support), one.name) for one in layers], "support")
    if own_rows:
        count = rows
        if query_rows is not None:
            query_rows = check_query_rows(query_rows, rows)
            count = len(query_rows)
    else:
        count = _common([(len(one.queries or ()), one.name) for one in layers], "queries")
    check_k(k, rows, leave_one_out=own_rows and exclude_self)
    if labels is None:
        labels = np.zeros(rows, dtype=np.int64)
    classes, codes = encode_labels(labels, rows)
    device = pairs[0][1].device if is_torch(pairs[0][1]) else None
    _one_device(layers)
    return Problem(
        layers, codes, classes, k, bool(exclude_self), query_rows, count, used, device, budget
    )


def check_query_rows(query_rows: Any, rows: int) -> NDArray[np.int64]:
    """`query_rows` as (N,) int64, each a row of a support that has so many."""
    asked = check_integers(query_rows, "query_rows", booleans=False)
    if len(asked) == 0:
        raise ValueError("query_rows is empty.")
    if asked.min() < 0 or asked.max() >= rows:
        bad = asked[(asked < 0) | (asked >= rows)][0]
        raise ValueError(f"query_rows holds {bad}; rows from 0 to {rows - 1} are wanted.")
    return asked


def _one_device(layers: tuple[Layer, ...]) -> None:
    """Tensors that are on CUDA devices are on one."""
    first: tuple[str, Any] | None = None
    for layer in layers:
        for what, rows in (("support", layer.support), ("queries", layer.queries)):
            if rows is None or not rows.on_device:
                continue
            first = first or (f"{what} ({layer.name})", rows.array.device)
            if rows.array.device != first[1]:
                raise ValueError(
                    f"{what} ({layer.name}) is on {rows.array.device} and {first[0]} on "
                    f"{first[1]}; one device is wanted."
                )


def _common(counts: list[tuple[int, str]], what: str) -> int:
    first, first_name = counts[0]
    for rows, name in counts:
        if rows != first:
            raise ValueError(
                f"{what} has {first} rows at {first_name} and {rows} at {name}; "
                "equally many at every probe are wanted."
            )
    return first
