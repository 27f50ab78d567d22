"""Two-dimensional maps of the rows of each probe: principal components of its support, or UMAP.

The components are those of the support's rows at the probe, as the search takes them (divided by
their norms for the metric "cosine"), or, of a large or wide support, of a sample of them that is
the same whatever the run's memory: `sample` has the rule. Every row is projected alone, in float64,
so that a map does not depend on the chunks that rows come in, nor on what a run resumed from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.problem import ProbeRows, Problem
from pdepth.arrays.rows import Rows
from pdepth.arrays.sources import Stored
from pdepth.backends.base import Session
from pdepth.io.journal import Journal
from pdepth.io.map_file import AXES, METHODS, KeptMap
from pdepth.native import default_arithmetic
from pdepth.optional import require
from pdepth.search.chunks import ProbeQueries

SAMPLE_ROWS = 1024  # of the support that components are fitted to, at most
SAMPLE_ELEMENTS = 1 << 26  # that these have, at most: 256 MiB of float32
COLUMNS = 1 << 12  # of a wide sample that are widened at a time
BLOCK_ELEMENTS = 1 << 16  # that are widened and projected at a time
COPIED_BYTES = 1 << 26  # of some rows in memory, or of a device's, that are copied at a time
LARGEST_EXPONENT = 64  # and least, of values whose products are added up and whose places are kept
NEIGHBORS = 15  # of UMAP: its default
MAP = "map-{:03}"  # in a journal: of a probe

OpenSession = Callable[[Problem], AbstractContextManager[Session]]


@dataclass(frozen=True, eq=False)
class Axes:
    """mean (D,) and components (2, D), float64; a component without variance is 0.

    explained: (2,) float64, the share of the sample's variance that each has. unit: of the mean and
    of places, see `KeptMap`.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    explained: NDArray[np.float64]
    unit: float


@dataclass(frozen=True, eq=False)
class ProbeMap:
    """queries (n, 2) and support (M, 2) float32, or None; explained (2,) float64 and unit, see
    `KeptMap`."""

    queries: NDArray[np.float32]
    support: NDArray[np.float32] | None
    explained: NDArray[np.float64]
    unit: float = 1.0


def sample(rows: int, width: int) -> NDArray[np.int64] | None:
    """Which of a support's rows components are fitted to, ascending; None for all.

    All, where they are at most 1,024 with at most 2^26 elements; else as many as that, but at least
    two, drawn without replacement by NumPy's `default_rng(0)`.
    """
    count = max(2, min(SAMPLE_ROWS, SAMPLE_ELEMENTS // width))
    if rows <= count:
        return None
    return np.sort(np.random.default_rng(0).choice(rows, count, replace=False))


@default_arithmetic()
def fit(support: Rows) -> Axes:
    """The two leading principal components of a probe's support, or of a `sample` of it.

    The sign of a component is such that its entry of largest size, of equal ones the first, is
    positive, as scikit-learn's PCA has it.
    """
    numbers = sample(len(support), support.width)
    rows = support[slice(None) if numbers is None else numbers].on_host()
    count, width = len(rows), rows.width
    blocks = [slice(begin, begin + COLUMNS) for begin in range(0, width, COLUMNS)]
    scale = _scale_of(rows)
    mean = np.concatenate([_columns(rows, block, scale).mean(axis=0) for block in blocks])
    narrow = width <= count
    gram = np.zeros((width, width) if narrow else (count, count))
    for block in blocks:  # one, where the support is narrow
        centred = _columns(rows, block, scale) - mean[block]
        gram += centred.T @ centred if narrow else centred @ centred.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:AXES].clip(0), vectors[:, ::-1][:, :AXES].T
    total = float(np.trace(gram))
    values[values <= total * np.finfo(np.float64).eps * max(count, width)] = 0
    components = np.zeros((AXES, width))
    found = len(values)  # of a support of width 1 or a single row one
    if narrow:
        components[:found] = vectors
    else:
        for block in blocks:
            components[:found, block] = vectors @ (_columns(rows, block, scale) - mean[block])
    for component, value in zip(components, values, strict=False):
        if not value:
            component[:] = 0
            continue
        component /= np.linalg.norm(component) * np.sign(component[np.abs(component).argmax()])
    explained = np.zeros(AXES)
    explained[:found] = values / total if total else 0.0
    return Axes(mean, components, explained, 1 / scale)


def _scale_of(rows: Rows) -> float:
    """A power of two that brings rows near 1 whose squares or places would overflow or vanish,
    which float64 alone has; else 1."""
    if rows.type != "float64" or rows.norms is not None:
        return 1.0
    largest = max(rows.array.max(), -rows.array.min())
    _, exponent = np.frexp(largest)
    if not largest or abs(int(exponent)) <= LARGEST_EXPONENT:
        return 1.0
    return 2.0 ** -max(-1000, min(1000, int(exponent)))


def _columns(rows: Rows, block: slice, scale: float) -> NDArray[np.float64]:
    wide = Rows(rows.array[:, block], rows.type, rows.norms).widened()
    return wide if scale == 1 else wide * scale


@default_arithmetic()
def project(rows: Rows, axes: Axes) -> NDArray[np.float32]:
    """Where rows in memory lie (n, 2). The bits of a row's do not depend on the others."""
    found = np.empty((len(rows), AXES))
    step = max(1, BLOCK_ELEMENTS // rows.width)
    for begin in range(0, len(rows), step):
        block = slice(begin, begin + step)
        centred = _columns(rows[block], slice(None), 1 / axes.unit) - axes.mean
        # Not by a product of matrices, whose sums go by how many rows there are.
        np.einsum("nd,cd->nc", centred, axes.components, out=found[block])
    with np.errstate(over="ignore"):  # beyond float32: infinite
        return found.astype(np.float32)


def map_probe(problem: Problem, probe: int, queries: NDArray[np.int64], beside: bool) -> ProbeMap:
    """The principal components' map of some queries of a problem at a probe.

    queries: their numbers among the problem's, ascending. beside: whether the support is mapped,
    too.
    """
    pair = problem.probes[probe]
    axes = fit(pair.support)
    asked = pair.support if pair.queries is None else pair.queries
    numbers = problem.row_numbers(queries)
    numbers = queries if numbers is None else numbers
    support = None
    if beside:
        chunks = _chunks(problem, probe, pair.support, np.arange(len(pair.support)))
        support = np.concatenate([project(chunk, axes) for chunk in chunks])
    if support is not None and pair.queries is None:
        return ProbeMap(support[numbers], support, axes.explained, axes.unit)
    distinct, back = np.unique(numbers, return_inverse=True)
    chunks = _chunks(problem, probe, asked, distinct)
    found = np.concatenate([project(chunk, axes) for chunk in chunks])
    return ProbeMap(found[back], support, axes.explained, axes.unit)


def _chunks(problem: Problem, probe: int, rows: Rows, numbers: NDArray[np.int64]) -> Iterator[Rows]:
    """Some rows in NumPy's memory, by their ascending numbers: of a source as many at a time as a
    search reads."""
    if isinstance(rows, Stored):
        work = ProbeQueries(problem, probe, np.arange(problem.num_queries))
        step = max(1, min(work.chunk, work.query_chunk))
    elif len(numbers) == len(rows) and not rows.on_device:
        yield rows
        return
    else:
        step = max(1, COPIED_BYTES // rows.row_bytes)
    for begin in range(0, len(numbers), step):
        part = numbers[begin : begin + step]
        whole = part[-1] - part[0] == len(part) - 1
        yield rows[slice(int(part[0]), int(part[-1]) + 1) if whole else part].on_host()


def umap_probe(
    problem: Problem,
    probe: int,
    queries: NDArray[np.int64],
    beside: bool,
    open_session: OpenSession,
) -> ProbeMap:
    """UMAP's map, from exact neighbours in the support and the principal components' map.

    Support rows and queries are laid out together; the neighbours of both are support rows. Of the
    support's own rows all are laid out, whichever are asked.
    """
    umap = require("umap", "A map by UMAP", "umap")
    pair = problem.probes[probe]
    if len(pair.support) < NEIGHBORS:
        raise ValueError(
            f"return_map: expected a support of at least {NEIGHBORS} rows for 'umap', got "
            f"{len(pair.support)}; pass 'pca'."
        )
    alone = replace(
        problem,
        probes=(ProbeRows(pair.name, pair.support, None, pair.packed),),
        query_rows=None,
        num_queries=len(pair.support),
        exclude_self=True,
        k=NEIGHBORS - 1,
    )
    start = map_probe(alone, 0, np.arange(len(pair.support)), beside=True)
    parts = [(start.queries, _neighbors(alone, 0, None, open_session))]
    if pair.queries is not None:
        asked = replace(problem, k=NEIGHBORS - 1)
        pca = map_probe(problem, probe, queries, beside=False)
        parts.append((pca.queries, _neighbors(asked, probe, queries, open_session)))
    points = np.concatenate([points for points, _ in parts])
    distances, rows = (np.concatenate(of) for of in zip(*(near for _, near in parts), strict=True))
    flat = np.ptp(points, axis=0) == 0
    points[:, flat] = np.random.default_rng(0).random((len(points), int(flat.sum())))
    own = np.arange(len(points))[:, None]
    reducer = umap.UMAP(
        n_neighbors=NEIGHBORS,
        precomputed_knn=(
            np.hstack([own, rows]).astype(np.int32),
            np.hstack([np.zeros(own.shape), distances / start.unit]).astype(np.float32),
        ),
        init=points,
        random_state=0,
        n_jobs=1,
        force_approximation_algorithm=True,  # else it does without the neighbours of few rows
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precomputed_knn", UserWarning)  # it need not transform
        found = np.asarray(reducer.fit_transform(points), np.float32)
    support, nothing = found[: len(pair.support)], np.full(AXES, np.nan)
    if pair.queries is not None:
        return ProbeMap(found[len(support) :], support if beside else None, nothing)
    numbers = problem.row_numbers(queries)
    return ProbeMap(
        support[queries if numbers is None else numbers], support if beside else None, nothing
    )


def _neighbors(
    problem: Problem, probe: int, queries: NDArray[np.int64] | None, open_session: OpenSession
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The distances and rows of the support that are nearest; of rows with norms by cosine."""
    with problem.watched([probe]), open_session(problem) as session:
        squared, rows = session.neighbors(probe, queries)
    # Rows divided by their norms have |x - y|^2 = 2 - 2 cos, and angles fall as their roots do.
    return np.sqrt(squared), rows


class MapTable:
    """The maps of all N queries at all L probes, as they come.

    A journal has each probe's when it is done, before the votes that were cast there.
    """

    def __init__(self, method: str, queries: int, journal: Journal | None = None) -> None:
        self._method, self._count, self._journal = method, queries, journal
        self._found: dict[int, tuple[NDArray[np.int64], ProbeMap]] = {}

    @classmethod
    def of(
        cls, method: str | None, queries: int, journal: Journal | None = None
    ) -> MapTable | None:
        """A table, if a map is asked for."""
        return None if method is None else cls(method, queries, journal)

    def take(
        self,
        problem: Problem,
        probe: int,
        number: int,
        places: NDArray[np.int64],
        active: NDArray[np.int64],
        open_session: OpenSession,
    ) -> None:
        """Map the active queries at a probe, unless the journal has their map.

        number: the probe's, of all. places: of the active queries among the problem's.
        """
        if self.recall(number, active):
            return
        beside = not problem.own_rows or self._count < len(problem.probes[probe].support)
        if self._method == "pca":
            found = map_probe(problem, probe, places, beside)
        else:
            found = umap_probe(problem, probe, places, beside, open_session)
        self._found[number] = active, found
        if self._journal is not None:
            arrays: dict[str, NDArray[Any]] = {
                "active": active,
                "queries": found.queries,
                "explained": found.explained,
                "unit": np.array(found.unit),
            }
            if found.support is not None:
                arrays["support"] = found.support
            self._journal.write(MAP.format(number), arrays)

    def recall(self, number: int, active: NDArray[np.int64]) -> bool:
        """Take a probe's map from the journal, if it has that of these queries."""
        kept = None if self._journal is None else self._journal.read(MAP.format(number))
        if kept is None or not np.array_equal(kept["active"], active):
            return False
        found = ProbeMap(
            kept["queries"], kept.get("support"), kept["explained"], float(kept.get("unit", 1))
        )
        self._found[number] = active, found
        return True

    def kept(
        self,
        probes: tuple[str, ...],
        labels: NDArray[np.int64],
        support_rows: NDArray[np.int64] | None,
    ) -> KeptMap:
        """All of them. labels: (M,) of the support. support_rows: see `KeptMap`."""
        queries = np.full((self._count, len(probes), AXES), np.nan, np.float32)
        explained = np.full((len(probes), AXES), np.nan)
        units = np.ones(len(probes))
        support = None
        for number, (active, found) in self._found.items():
            queries[active, number], explained[number] = found.queries, found.explained
            units[number] = found.unit
            if found.support is None:
                continue
            if support is None:
                shape = len(found.support), len(probes), AXES
                support = np.full(shape, np.nan, np.float32)
            support[:, number] = found.support
        if support is None:
            return KeptMap(self._method, probes, queries, explained, units)
        return KeptMap(
            self._method, probes, queries, explained, units, support, labels, support_rows
        )


def fit_nbytes(support: int, width: int) -> int:
    """Bytes that fitting and projecting take beside the rows of a probe, at most."""
    count = min(support, max(2, min(SAMPLE_ROWS, SAMPLE_ELEMENTS // width)))
    least, wide = min(count, width), min(COLUMNS, width)
    elements = count * width + 2 * count * wide + 3 * least**2 + 2 * max(BLOCK_ELEMENTS, width)
    return 8 * elements + COPIED_BYTES


def check_map(
    method: Any, metric: str, *, cluster: object = None, name: str = "return_map"
) -> str | None:
    """`method`, or None for no map.

    Raises ValueError for another, or where it cannot be; ImportError without umap-learn.
    """
    if method is None:
        return None
    arguments.check_choice(method, name, METHODS)
    if cluster is not None:
        raise ValueError(
            f"{name}: expected None beside cluster, got {method!r}; a map is made where all rows "
            "are: leave one of them out."
        )
    if method == "umap":
        if metric == "inner_product":
            raise ValueError(
                f"{name}: expected 'pca' with metric='inner_product', whose products are no "
                f"distances, got {method!r}."
            )
        require("umap", f"{name}='umap'", "umap")
    return str(method)
