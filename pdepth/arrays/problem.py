"""What a backend is asked: the rows of each probe, checked, and the classes of the support."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth import _native, native
from pdepth.arrays import arguments
from pdepth.arrays.arguments import SearchOptions
from pdepth.arrays.mapped import watched
from pdepth.arrays.rows import Rows, device_of, is_array, rows_of
from pdepth.arrays.sources import Renumbered, RowNumbers, Stored, is_single, opened

MOST_ROWS = 2**31 - 1

ArrayPair = tuple[str, Any, Any]
"""A probe's name, its support and its queries, None for the support's own rows."""


class ZeroNormError(ValueError):
    """A row that metric="cosine" cannot take: it cannot be divided by its norm."""


@dataclass(frozen=True, eq=False)
class ProbeRows:
    """One probe's rows: `support` (M, D), and `queries` (n, D) or None for the support's own.

    Either may be `Stored`; no backend meets such rows, which `search.chunks` reads for it.
    packed: what the backend keeps of the support from search to search, if anything.
    """

    name: str
    support: Rows
    queries: Rows | None
    packed: Any = None

    def with_queries(self, queries: Rows) -> ProbeRows:
        """The support with other queries. Raises ValueError for those of another width."""
        if queries.width != self.support.width:
            raise ValueError(
                f"queries ({self.name}): expected width {self.support.width} as in support, got "
                f"{queries.width}."
            )
        return replace(self, queries=queries)

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """The arrays in memory, and what errors call each; see `mapped.watched`."""
        for kind, rows in (("support", self.support), ("queries", self.queries)):
            if rows is not None and not isinstance(rows, Stored):
                yield f"{kind} ({self.name})", rows.array
                if rows.norms is not None:
                    yield f"norms of {kind} ({self.name})", rows.norms
        for array in getattr(self.packed, "packed", ()):
            yield f"packed rows ({self.name})", array


@dataclass(frozen=True, eq=False)
class Problem:
    """The search of N queries at L probes, checked.

    probes: L of them. codes: (M,) int32, each support row's class as its position in `classes` (C,)
    int64, ascending. k: neighbours. exclude_self: whether queries that are support rows are left
    out of their own neighbours, by row number. query_rows: (N,) int64 rows of `queries`, or of the
    support where these are its own, or None for all. num_queries: N. device: of the first support,
    where it is a torch tensor; None for NumPy. memory: bytes that the search may take beside
    arrays, for rows in work and what a backend packs of them; None where the caller set no limit.
    metric: "sqeuclidean", also of rows that have norms or were divided by them, or "inner_product":
    then a distance is an inner product, its sign turned.
    """

    probes: tuple[ProbeRows, ...]
    codes: NDArray[np.int32]
    classes: NDArray[np.int64]
    k: int
    exclude_self: bool
    query_rows: NDArray[np.int64] | None
    num_queries: int
    num_threads: int
    device: Any = None
    memory: int | None = None
    metric: str = "sqeuclidean"

    @property
    def own_rows(self) -> bool:
        """Whether the queries are rows of the support."""
        return self.probes[0].queries is None

    @property
    def in_memory(self) -> bool:
        """Whether no rows are to be read."""
        return not any(
            isinstance(rows, Stored)
            for probe in self.probes
            for rows in (probe.support, probe.queries)
        )

    def watched(self, probes: Iterable[int]) -> AbstractContextManager[None]:
        """Read some probes' rows in memory; see `mapped.watched`."""
        return watched([each for number in probes for each in self.probes[number].arrays()])

    def row_numbers(self, queries: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """The rows of some queries, None for all; None for row i of each query i."""
        if self.query_rows is None or queries is None:
            return queries if self.query_rows is None else self.query_rows
        return self.query_rows[queries]


def probe_rows(
    name: str,
    support: Any,
    queries: Any,
    metric: str = "sqeuclidean",
    num_threads: int | None = None,
) -> ProbeRows:
    """One probe's arrays, checked: kinds, shapes, finite values and, for cosine, norms."""
    own = ProbeRows(name, checked_rows(support, f"support ({name})", metric, num_threads), None)
    if queries is None:
        return own
    return own.with_queries(checked_rows(queries, f"queries ({name})", metric, num_threads))


def checked_rows(
    array: Any,
    what: str,
    metric: str = "sqeuclidean",
    num_threads: int | None = None,
    numbers: NDArray[np.int64] | None = None,
) -> Rows:
    """The rows of `array`, known to be finite; for `metric="cosine"` with their norms.

    numbers: (n,) of the rows in sentences, where these are some of others.
    """
    threads = num_threads or native.default_threads()
    prepare: Callable[[Rows, RowNumbers], Rows]
    prepare = partial(_prepared, what=what, metric=metric, num_threads=threads)
    if numbers is not None:
        prepare = Renumbered(prepare, numbers)
    with watched([(what, array)]):
        if is_array(array):
            rows = rows_of(array, what)
        else:
            rows = Stored.of(array, what, prepare, normed=metric == "cosine")
        if len(rows) > MOST_ROWS:
            raise ValueError(f"{what}: expected at most {MOST_ROWS} rows, got {len(rows)}.")
        return rows if isinstance(rows, Stored) else prepare(rows, range(len(rows)))


def _prepared(rows: Rows, numbers: RowNumbers, *, what: str, metric: str, num_threads: int) -> Rows:
    """Rows of these numbers, known to be finite, and for `metric="cosine"` with their norms."""
    if rows.type.startswith(("float", "bfloat")):
        bad = _first_not_finite(rows, num_threads)
        if bad >= 0:
            raise ValueError(
                f"{what}: expected finite values, got NaN or infinity in row {numbers[bad]}."
            )
    return _normed(rows, numbers, what, num_threads) if metric == "cosine" else rows


def _first_not_finite(rows: Rows, num_threads: int) -> int:
    """The first row with NaN or infinity, or -1; a tensor is looked at on its device."""
    if not rows.on_device:
        native.check_headroom()
        return _native.first_not_finite(rows.array, rows.type, native.simd_level(), num_threads)
    step = max(1, 2**24 // rows.width)
    for begin in range(0, len(rows), step):
        bad = (~rows.array[begin : begin + step].isfinite()).any(dim=1)
        if bad.any():
            return begin + int(bad.int().argmax())
    return -1


def _normed(rows: Rows, numbers: RowNumbers, what: str, num_threads: int) -> Rows:
    """Rows with their norms; those of a device divided by them, in float64, where they are."""
    if rows.on_device:
        units, bad = _on_device(rows)
        normed = Rows(units, "float64")
    else:
        norms = np.empty((len(rows), 2))
        native.check_headroom()
        bad = _native.find_norms(rows.array, rows.type, norms, native.simd_level(), num_threads)
        normed = Rows(rows.array, rows.type, norms)
    if bad >= 0:
        raise ZeroNormError(
            f"{what}: expected rows with a norm for metric='cosine', got row {numbers[bad]}, whose "
            "norm is zero."
        )
    return normed


def _on_device(rows: Rows) -> tuple[Any, int]:
    """(n, D) float64 as `definition.as_rows` has them, and the first row of zeros or -1.

    A device does the same operations in the same order, and IEEE 754 rounds each alike; but for
    the roots, which torch does not promise to round so and NumPy does. A chunk at a time.
    """
    out = rows.array[:0].double().new_empty(rows.array.shape)
    step = max(1, 2**24 // rows.width)
    for begin in range(0, len(rows), step):
        values = rows.array[begin : begin + step].double()
        with native.default_arithmetic():
            _, exponents = np.frexp(values.abs().amax(1).cpu().numpy())
            first = np.minimum(-exponents, 1023)  # to scale up in two steps is exact
            factors = np.ldexp(1.0, first), np.ldexp(1.0, -exponents - first)
        for factor in factors:
            values = values * values.new_tensor(factor[:, None])
        terms = values * values
        while (width := terms.shape[1]) > 1:
            terms[:, : width // 2] += terms[:, width - width // 2 :]
            terms = terms[:, : width - width // 2]
        norms = np.sqrt(terms.cpu().numpy())
        if not norms.all():
            return out, begin + int((norms[:, 0] == 0).argmax())
        out[begin : begin + step] = values / values.new_tensor(norms)
    return out, -1


def problems(
    support: Any,
    queries: Any,
    labels: Any,
    options: SearchOptions,
    *,
    query_rows: Any = None,
    names: Sequence[str] | None = None,
) -> Iterator[Problem]:
    """The problem of a call; of an iterator, one for each probe as it comes, all of one shape.

    labels=None stands for one class.
    """
    pairs = array_pairs(support, queries)
    if not isinstance(support, Iterator):
        together = list(pairs)
        if names is not None:
            if len(names) != len(together):
                raise ValueError(f"probes: expected {len(together)} names, got {len(names)}.")
            together = [(str(n), *pair[1:]) for n, pair in zip(names, together, strict=True)]
        yield _problem(together, labels, query_rows, options)
        return
    names_left = iter(names or ())
    first: tuple[int, str] | None = None
    for name, *arrays in pairs:
        problem = _problem([(next(names_left, name), *arrays)], labels, query_rows, options)
        count = problem.num_queries, problem.probes[0].name
        first = first or count
        _equal_count([first, count], "queries")
        yield problem


def _problem(
    pairs: list[ArrayPair], labels: Any, query_rows: Any, options: SearchOptions
) -> Problem:
    if pairs[0][2] is not None:
        check_query_rows_alone(query_rows)
    probes = tuple([probe_rows(*pair, options.metric, options.num_threads) for pair in pairs])
    rows = _equal_count([(len(probe.support), probe.name) for probe in probes], "support")
    if labels is None:
        labels = np.zeros(rows, dtype=np.int64)
    encoded = arguments.encode_labels(labels, rows)
    return problem_of(probes, *encoded, query_rows, options, device_of(pairs[0][1]))


def problem_of(
    probes: tuple[ProbeRows, ...],
    classes: NDArray[np.int64],
    codes: NDArray[np.int32],
    query_rows: Any,
    options: SearchOptions,
    device: Any,
) -> Problem:
    """The problem of probes whose rows are checked, each alone; the rest as of `Problem`."""
    rows, own_rows = len(probes[0].support), probes[0].queries is None
    if not own_rows:
        count = _equal_count([(len(p.queries or ()), p.name) for p in probes], "queries")
    elif query_rows is None:
        count = rows
    else:
        query_rows = arguments.check_query_rows(query_rows, rows)
        count = len(query_rows)
    options.voting.check_rows(rows, leave_one_out=own_rows and options.exclude_self)
    check_one_device(probes)
    return Problem(
        probes=probes,
        codes=codes,
        classes=classes,
        k=options.voting.k,
        exclude_self=options.exclude_self,
        query_rows=query_rows,
        num_queries=count,
        num_threads=options.num_threads,
        device=device,
        memory=options.memory,
        metric=searched_metric(options.metric),
    )


def check_query_rows_alone(query_rows: Any) -> None:
    """Raise ValueError for rows of the support beside queries of their own."""
    if query_rows is not None:
        raise ValueError(
            "query_rows: expected None beside queries, since it picks rows of the support."
        )


def searched_metric(metric: str) -> str:
    """What backends compute for a metric: cosine is the distance of rows divided by norms."""
    return "sqeuclidean" if metric == "cosine" else metric


def check_one_device(probes: tuple[ProbeRows, ...]) -> None:
    """Tensors on CUDA devices are all on one."""
    first: tuple[str, Any] | None = None
    for probe in probes:
        for kind, rows in (("support", probe.support), ("queries", probe.queries)):
            if rows is None or not rows.on_device:
                continue
            first = first or (f"{kind} ({probe.name})", rows.array.device)
            if rows.array.device != first[1]:
                raise ValueError(
                    f"{kind} ({probe.name}): expected device {first[1]} as of {first[0]}, got "
                    f"{rows.array.device}."
                )


def _equal_count(counts: list[tuple[int, str]], what: str) -> int:
    first, first_name = counts[0]
    for rows, name in counts:
        if rows != first:
            raise ValueError(
                f"{what} ({name}): expected {first} rows as at {first_name}, got {rows}."
            )
    return first


def array_pairs(support: Any, queries: Any) -> Iterator[ArrayPair]:
    """The arrays of each probe, from what users may pass.

    Lazy: of iterators no more than one array is taken at a time.
    """
    if is_single(support):
        if queries is not None and not is_single(queries):
            raise TypeError(
                f"queries: expected one array as in support, got a {type(queries).__name__}."
            )
        yield _opened_pair("probe 0", support, queries)
        return
    if isinstance(support, Mapping | Sequence) and len(support) == 0:
        raise ValueError("support: expected at least one probe, got none.")
    named_queries = _queries_by_probe(support, queries)
    number = 0
    for number, (name, array) in enumerate(_named(support), 1):
        query = None
        if named_queries is not None:
            query = next(named_queries, _END)
            if query is _END:
                raise ValueError(
                    f"queries: expected as many probes as in support, got {number - 1}."
                )
            if query is None:
                raise TypeError(f"queries ({name}): expected an array, got None.")
        yield _opened_pair(name, array, query)
    if number == 0:
        raise ValueError("support: expected at least one probe, got none.")
    if named_queries is not None and next(named_queries, _END) is not _END:
        raise ValueError(f"queries: expected {number} probes as in support, got more.")


_END = object()


def _named(support: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(support, Mapping):
        return ((str(name), array) for name, array in support.items())
    if _is_collection(support):
        return ((f"probe {number}", array) for number, array in enumerate(support))
    raise TypeError(
        "support: expected an array, or a sequence, mapping or iterator of arrays, got a "
        f"{type(support).__name__}."
    )


def _queries_by_probe(support: Any, queries: Any) -> Iterator[Any] | None:
    if isinstance(support, Mapping) and isinstance(queries, Mapping):
        if list(queries) != list(support):
            raise ValueError(
                f"queries: expected the probes {list(support)} as in support, got {list(queries)}."
            )
        return iter(list(queries.values()))
    if queries is not None and not _is_collection(queries):
        raise TypeError(
            f"queries: expected one array a probe as in support, got a {type(queries).__name__}."
        )
    return None if queries is None else iter(queries)


def _opened_pair(name: str, support: Any, queries: Any) -> ArrayPair:
    own = opened(support, f"support ({name})")
    return name, own, None if queries is None else opened(queries, f"queries ({name})")


def _is_collection(value: Any) -> bool:
    return (
        isinstance(value, Iterator | Sequence) and not is_single(value) and type(value) is not bytes
    )
