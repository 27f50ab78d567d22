"""A support that is packed once and searched many times."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays import arguments
from pdepth.arrays.arguments import Voting
from pdepth.arrays.convert import to_device
from pdepth.arrays.growing import GrowingRows
from pdepth.arrays.mapped import unmapped, watched
from pdepth.arrays.memory import search_bytes
from pdepth.arrays.problem import (
    ProbeRows,
    Problem,
    check_one_device,
    check_query_rows_alone,
    checked_rows,
    problem_of,
    searched_metric,
)
from pdepth.arrays.rows import Rows, as_given, device_of, is_array, is_torch, shares_memory
from pdepth.arrays.sources import in_memory, is_single, opened
from pdepth.backends import backend_named
from pdepth.native import ForkLock
from pdepth.result import Votes
from pdepth.search import index_file
from pdepth.search.backward import ProbeSearch
from pdepth.search.index_file import fingerprint
from pdepth.search.index_state import ChangedRowsError, IndexState, Sample, layers_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ChangedRowsError", "Index"]


class Index:
    """A support that is packed once, at the first search, and searched many times.

    Answers are those of `pdepth.kneighbors` and `pdepth.probe_votes`, to the last bit. Any number
    of threads may search at once; `add` changes what later searches see, not those under way. With
    one query or a few a search begins no threads.

    The rows are kept beside their packed form, since what a vote hangs on is settled from them.
    """

    def __init__(
        self,
        support: Any,
        labels: Any = None,
        *,
        metric: str = "sqeuclidean",
        copy: bool = True,
        backend: str = "auto",
        memory: int | str | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Check and keep the rows of a support.

        Args:
            support: (M, D) array: NumPy, also mapped, torch or a DataFrame of numbers, of the types
                of `pdepth.probe_votes`; M may be 0 if rows are added later. Or a path or source, as
                there, which is read into memory; so may queries be and rows that are added.
            labels: (M,) integers, the rows' classes; None for an index that does not vote.
            metric: as in `pdepth.kneighbors`.
            copy: False keeps the caller's array, which must not change: 64 of its rows are compared
                before each search.
            backend: as in `pdepth.probe_votes`; with triton the rows stay on the device.
            memory: bytes, or an amount such as "8GiB", that packed rows may take; a support that
                needs more is packed anew, in chunks, by each search. None: half of what is free.
            num_threads: threads of a search of the cpu backend, at most.

        Raises:
            ValueError, TypeError: for wrong arguments.
            MemoryError: a source takes more than the memory that is free.
        """
        if not is_single(support) and layers_of(support):
            raise TypeError(
                f"support: expected one array, got a {type(support).__name__}; for several layers "
                "use pdepth.Index.of_layers(...)."
            )
        self._single = True
        self._open([("probe 0", support)], labels, metric, copy, backend, memory, num_threads)

    @classmethod
    def of_layers(
        cls,
        layers: Any,
        labels: Any = None,
        *,
        metric: str = "sqeuclidean",
        copy: bool = True,
        backend: str = "auto",
        memory: int | str | None = None,
        num_threads: int | None = None,
    ) -> Self:
        """Make an index of several layers with the same rows, each of any width.

        Args:
            layers: a mapping of names to arrays (M, D), or a sequence of arrays.
            labels, metric, copy, backend, memory, num_threads: as of `Index`.

        Answers then have one more dimension, the layers, in front; queries come as the layers did.

        Raises:
            ValueError, TypeError: as `Index`, and for layers of different numbers of rows.
        """
        if is_single(layers) or not isinstance(layers, Mapping | Sequence) or not layers:
            raise TypeError(
                "layers: expected a mapping or a sequence of arrays, at least one, got a "
                f"{type(layers).__name__}; for one array use pdepth.Index(array)."
            )
        index = cls.__new__(cls)
        index._single = False
        if isinstance(layers, Mapping):
            named = [(str(name), array) for name, array in layers.items()]
        else:
            named = [(f"probe {number}", array) for number, array in enumerate(layers)]
        index._open(named, labels, metric, copy, backend, memory, num_threads)
        return index

    def _open(
        self,
        layers: Sequence[tuple[str, Any]],
        labels: Any,
        metric: Any,
        copy: Any,
        backend: Any,
        memory: Any,
        num_threads: Any,
    ) -> None:
        layers = [(name, opened(array, f"support ({name})")) for name, array in layers]
        self._prepare(metric, backend, memory, num_threads, device_of(layers[0][1]))
        rows = [self._checked(f"support ({name})", array) for name, array in layers]
        for (name, _), layer in zip(layers, rows, strict=True):
            if len(layer) != len(rows[0]):
                raise ValueError(
                    f"support ({name}): expected {len(rows[0])} rows as at {layers[0][0]}, got "
                    f"{len(layer)}."
                )
        if labels is not None:
            labels = arguments.check_integers(labels, "labels", len(rows[0]))
        # Those that were read, made contiguous or divided by norms are in memory of their own.
        shared = [
            is_array(array) and shares_memory(layer, array)
            for (_, array), layer in zip(layers, rows, strict=True)
        ]
        named = [(name, layer) for (name, _), layer in zip(layers, rows, strict=True)]
        with watched([(f"support ({name})", layer.array) for name, layer in named]):
            self._growing = [
                GrowingRows(layer, copy=bool(copy) and is_shared)
                for layer, is_shared in zip(rows, shared, strict=True)
            ]
            samples = None if copy else [Sample.of(layer) for layer in rows]
        probes = [
            self._held(name, growing.first(len(layer)))
            for (name, layer), growing in zip(named, self._growing, strict=True)
        ]
        check_one_device(tuple(probes))
        self._state: IndexState | None = IndexState(tuple(probes), labels, samples, self._single)

    def _prepare(
        self, metric: Any, backend: Any, memory: Any, num_threads: Any, device: Any = None
    ) -> None:
        self._options = arguments.check_search(Voting.plain(1), metric, True, num_threads, memory)
        self._limit = search_bytes(self._options.memory)  # of what is packed
        self._backend_name, self._device = backend, device
        self._backend = backend_named(backend, device)
        self._lock = ForkLock()

    def __len__(self) -> int:
        """Return the number of rows, M."""
        return len(self._now().probes[0].support)

    def __repr__(self) -> str:
        if self._state is None:
            return "<pdepth.Index, closed>"
        widths, rows = ", ".join(map(str, self.widths)), f"{len(self):,}"
        labels = "no labels" if self.labels is None else "labels"
        return f"<pdepth.Index of {rows} rows, widths {widths}, {self.metric}, {labels}>"

    @property
    def metric(self) -> str:
        """As it was given."""
        return str(self._options.metric)

    @property
    def widths(self) -> tuple[int, ...]:
        """The columns of each layer."""
        return tuple([probe.support.width for probe in self._now().probes])

    @property
    def rows(self) -> Any:
        """The rows (M, D) that are kept, or a list of each layer's, as tensors where these came so,
        and where they are bfloat16. Not to be written to.

        By cosine they are divided by their norms, in float64: copies, made when they are asked for.
        """
        arrays = [as_given(probe.support.divided(), self._device) for probe in self._now().probes]
        return arrays[0] if self._single else arrays

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The rows' classes (M,), or None."""
        return self._now().labels

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are kept, of their norms and of what is packed by now."""
        return sum(
            probe.support.nbytes + getattr(probe.packed, "nbytes", 0)
            for probe in self._now().probes
        )

    def kneighbors(
        self,
        queries: Any = None,
        k: int = 30,
        *,
        query_rows: Any = None,
        exclude_self: bool = True,
        num_threads: int | None = None,
    ) -> tuple[Any, Any]:
        """Find each query's k nearest rows: squared distances (N, k) float64 and rows (N, k) int64.

        Of several layers (L, N, k). Sorted by (distance, row); arguments as `pdepth.kneighbors`.
        num_threads: of this search; None for those of the index.

        Raises:
            ValueError, TypeError: for wrong arguments; an index that has no rows, or was closed; a
                caller's array that was changed.
        """
        k = arguments.check_int(k, "k")
        problem = self._problem(queries, k, query_rows, exclude_self, num_threads)
        probes = range(len(problem.probes))
        with problem.watched(probes), self._backend.session(problem) as session:
            pairs = [session.neighbors(probe) for probe in probes]
        if problem.metric == "inner_product":
            pairs = [(-distances, rows) for distances, rows in pairs]
        distances, rows = pairs[0] if self._single else map(np.stack, zip(*pairs, strict=True))
        return to_device(distances, self._device), to_device(rows, self._device)

    def votes(
        self,
        queries: Any = None,
        *,
        k: int | Sequence[int] = 30,
        query_rows: Any = None,
        weights: str = "uniform",
        temperature: float | None = None,
        exclude_self: bool = True,
        return_counts: bool = False,
        num_threads: int | None = None,
    ) -> Votes | dict[int, Votes]:
        """Compute the k-NN majority votes of queries: arguments and results as `probe_votes`.

        num_threads: of this search; None for those of the index.

        Raises:
            ValueError, TypeError: as `kneighbors`, and where the index has no labels.
        """
        voting = arguments.check_voting(k, weights, temperature)
        arguments.check_weights(voting, self.metric)
        if self._now().labels is None:
            raise ValueError("votes: expected an index with labels; pass Index(..., labels=...).")
        problem = self._problem(queries, voting.k, query_rows, exclude_self, num_threads)
        keep = "counts" if return_counts else ""
        search = ProbeSearch(
            len(problem.probes), problem.num_queries, voting, self._backend_name, keep=keep
        )
        search.search(problem)

        return search.tables(problem.classes, self._device, single=self._single)

    def add(self, rows: Any, labels: Any = None) -> None:
        """Add rows, numbered on from `len`; searches under way do not see them.

        Args:
            rows: (n, D), or one array a layer, of the support's type. labels: (n,), if and only if
                the index has labels.

        Raises:
            ValueError, TypeError: another width or type, labels too many or missing, or what the
                metric cannot take; after these and any other error the index is as it was.
        """
        with self._lock:
            state = self._now()
            more = self._checked_layers(rows, "rows")
            together = list(zip(state.probes, self._growing, more, strict=True))
            for probe, growing, layer in together:
                kind, own = (layer.width, layer.type), (probe.support.width, growing.type)
                if kind != own or len(layer) != len(more[0]):
                    raise ValueError(
                        f"rows ({probe.name}): expected {len(more[0])} rows of width {own[0]} and "
                        f"type {own[1]}, got {len(layer)} of width {kind[0]} and type {kind[1]}."
                    )
            if (labels is None) != (state.labels is None):
                expected = "none, as of the support" if state.labels is None else "integers"
                raise ValueError(f"labels: expected {expected}, got {labels!r:.60}.")
            if state.labels is not None:
                labels = arguments.check_integers(labels, "labels", len(more[0]))
                labels = np.concatenate([state.labels, labels])
            state.check_unchanged()
            if len(more[0]) == 0:
                return
            count, probes = len(state.probes[0].support), []
            with state.watched(), watched([(f"rows ({p.name})", r.array) for p, _, r in together]):
                for probe, growing, layer in together:
                    all_rows = growing.append(count, layer)
                    probes.append(self._held(probe.name, all_rows, probe.packed))
            self._state = IndexState(tuple(probes), labels, None, self._single)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write rows, labels and what is packed by now to one file, which `load` maps.

        Raises OSError where it cannot be written, and ValueError where the file of mapped rows
        became shorter: what was at `path` before is as it was.
        """
        state = self._now()
        state.check_unchanged()
        about = {"metric": self._options.metric, "single": self._single}
        with state.watched():
            index_file.save(path, state.probes, state.labels, about)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        support: Any = None,
        labels: Any = None,
        backend: str = "auto",
        memory: int | str | None = None,
        num_threads: int | None = None,
    ) -> Self:
        """Open a file of `save`: its rows and packed rows are mapped, once all have been checked.

        What was packed for another level of instructions is packed anew. Answers are of the kind
        of `support`, on its device; without it NumPy's, also of rows that were tensors.

        Args:
            support: rows that the file has to be of, as `Index` or `of_layers` takes them, layers
                by the same names; None for any.
            labels: (M,) integers that it has to have; None for any, or none.
            backend, memory, num_threads: as of `Index`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, of another version, or not of `support` or `labels`.
        """
        layers, kept_labels, about = index_file.load(path)
        index = cls.__new__(cls)
        index._single = about["single"]
        given = device_of(next(iter(layers_of(support)), support))
        index._prepare(about["metric"], backend, memory, num_threads, given)
        index._restore(layers, kept_labels)
        if support is not None:
            rows = index._checked_layers(support, "support")
            if [fingerprint(layer) for layer in rows] != about["fingerprints"]:
                raise ValueError(
                    f"{path}: expected the index of this support, got another's; make the index "
                    "anew."
                )
        if labels is not None:
            labels = arguments.check_integers(labels, "labels", len(index))
            if kept_labels is None or not np.array_equal(labels, kept_labels):
                raise ValueError(
                    f"{path}: expected the index of these labels, got "
                    f"{'none' if kept_labels is None else 'others'}; make the index anew."
                )
        return index

    def close(self) -> None:
        """Let go of all memory; searches under way end as they would have."""
        with self._lock:
            self._state, self._growing = None, []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        """Share rows and labels; what is packed is packed anew."""
        copied = type(self).__new__(type(self))
        copied.__setstate__(self._kept(self._now()))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a deep copy holds: as a copy's, the rows in memory."""
        kept = self._kept(state := self._now())
        with state.watched():
            return kept | {"layers": [(name, unmapped(rows)) for name, rows in kept["layers"]]}

    def _kept(self, state: IndexState) -> dict[str, Any]:
        options = self._options
        state.check_unchanged()
        return {
            "layers": [(probe.name, probe.support) for probe in state.probes],
            "labels": state.labels,
            "samples": state.samples,  # copy.copy shares the caller's rows
            "single": self._single,
            "options": (
                *(options.metric, self._backend_name, options.memory),
                *(options.num_threads, self._device),
            ),
        }

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._prepare(*kept["options"])
        self._single = kept["single"]
        layers = [(name, rows, None) for name, rows in kept["layers"]]
        self._restore(layers, kept["labels"], kept["samples"])

    def _restore(
        self,
        layers: Sequence[tuple[str, Rows, dict[str, Any] | None]],
        labels: NDArray[np.int64] | None,
        samples: list[Sample] | None = None,
    ) -> None:
        """Take rows as they are, and what was packed of them."""
        self._growing = [GrowingRows(rows, copy=False) for _, rows, _ in layers]
        probes = [self._held(name, rows, packing=packing) for name, rows, packing in layers]
        self._state = IndexState(tuple(probes), labels, samples, self._single)

    def _now(self) -> IndexState:
        """The state that a search sees, whatever is added meanwhile."""
        state = self._state
        if state is None:
            raise ValueError("Index: expected an open index, got one that was closed.")
        return state

    def _checked(self, what: str, given: Any) -> Rows:
        array, options = opened(given, what), self._options
        if not is_array(array):
            return in_memory(checked_rows(array, what, options.metric, options.num_threads), what)
        if array.ndim >= 2 and len(array) == 0 and 0 not in array.shape[1:]:
            one = array.new_ones if is_torch(array) else lambda s: np.ones_like(array, shape=s)
            return checked_rows(one((1, *array.shape[1:])), what, options.metric)[:0]
        return checked_rows(array, what, options.metric, options.num_threads)

    def _checked_layers(self, given: Any, what: str) -> list[Rows]:
        """Rows of each layer, with norms or divided by them as those that are kept."""
        state, found = self._now(), []
        arrays = state.by_layer(given, what)
        for probe, growing, array in zip(state.probes, self._growing, arrays, strict=True):
            home = array.cpu() if growing.normed and is_torch(array) else array
            rows = self._checked(f"{what} ({probe.name})", home)
            found.append(rows if growing.normed else rows.divided())
        return found

    def _held(
        self, name: str, rows: Rows, before: Any = None, packing: dict[str, Any] | None = None
    ) -> ProbeRows:
        """Rows as the backend keeps them.

        before: what it kept of the first of them. packing: what it had packed of them.
        """
        if len(rows) == 0:
            return ProbeRows(name, rows, None)
        support, packed = self._backend.hold(
            rows, searched_metric(self._options.metric), self._limit, before, packing
        )
        return ProbeRows(name, support, None, packed)

    def _problem(
        self, queries: Any, k: int, query_rows: Any, exclude_self: bool, num_threads: int | None
    ) -> Problem:
        state, options = self._now(), self._options
        if len(state.probes[0].support) == 0:
            raise ValueError("Index: expected rows to search, got none; add some first.")
        state.check_unchanged()
        probes = state.probes
        if queries is not None:
            check_query_rows_alone(query_rows)
            arrays = state.by_layer(queries, "queries")
            probes = tuple([self._with_queries(*pair) for pair in zip(probes, arrays, strict=True)])
        options = replace(
            options,
            voting=Voting.plain(k),
            exclude_self=bool(exclude_self),
            num_threads=options.num_threads
            if num_threads is None
            else arguments.check_threads(num_threads),
        )
        return problem_of(probes, *state.encoded, query_rows, options, self._device)

    def _with_queries(self, probe: ProbeRows, array: Any) -> ProbeRows:
        queries = self._checked(f"queries ({probe.name})", array)
        if len(queries) == 0:
            raise ValueError(f"queries ({probe.name}): expected at least one row, got none.")
        return probe.with_queries(queries)
