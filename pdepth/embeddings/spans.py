"""The embeddings of a network's probes, a group at a time: kept in memory or on disk, or computed
anew where neither holds all of them; of the support, then, a chunk at a time if need be."""

from __future__ import annotations

import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pdepth.arrays.memory import LISTED, MERGED, Budget, human
from pdepth.arrays.rows import raw_bytes
from pdepth.embeddings.capture import (
    Captured,
    Layout,
    capture,
    capture_again,
    check_memory,
    footprint,
    forward,
    labels_of,
)
from pdepth.embeddings.dataset import Batch, Batches, Changed
from pdepth.io.embedding_store import (
    EmbeddingStore,
    Fingerprint,
    Growing,
    Writer,
    open_store,
    writing,
)
from pdepth.progress import Event, Observer, RowMeter

ENGINE = 1 << 31  # bytes that the search may take beside the embeddings, at most a quarter of all
QUERIES = 0.75  # of the room for embeddings may be the queries', where the support passes by
KEPT = ".embeddings-"  # how the folder of what must go to disk begins

Chunks = Iterator[tuple[int, list[Tensor]]]


@dataclass(frozen=True)
class Span:
    """Probes from `first` to before `end`, which are searched together, and their values' way.

    "held": support and queries are in memory; "passing": the queries are, and the support comes by
    in chunks; "streamed": one probe, read as it is searched.
    """

    first: int
    end: int
    way: Literal["held", "passing", "streamed"]


@dataclass(frozen=True, eq=False)
class Group:
    """Probes that are searched together.

    first: the first one's number. layers: of each its name, the support's rows and the queries',
    None for the support's own; arrays or sources. asked: (n,) int64, the queries by their numbers.
    memory: bytes that the search may take; None for what it finds. passing: where the support does
    not fit, but comes by in one pass: from a row on its chunks, each with its first row's number
    and the values at each layer; queries are arrays then, the support's own too. bits: then, of
    each layer, the checksum of the support's first batch.
    """

    first: int
    layers: list[tuple[str, Any, Any]]
    asked: NDArray[np.int64]
    memory: int | None
    passing: Callable[[int], Chunks] | None = None
    bits: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Reading:
    """What the first pass over support and queries told: labels (n,) of each, predictions (N,)."""

    labels: list[NDArray[np.int64]]
    predictions: NDArray[np.int64]


class Embeddings:
    """Support and queries at every probe of a network, handed out from the last to the first.

    Where they fit they are captured once. Elsewhere each group of probes that fits is captured
    when its turn comes, of the queries only those still asked. If more probes fit so, the support
    is not held but passes by; and a probe of which not even the queries fit is a source that runs
    the network as it is read. What a network does not give twice with the same bits is written to
    disk instead. Use it inside `at_rest`, as a context.

    anew: whether groups are computed anew. forward_rate, search_rate: rows a second of the forward
    pass, and operations a second of the search, about; None as long as nobody knows.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        sources: Sequence[Batches],
        *,
        budget: Budget,
        metric: str,
        k: int,
        home: torch.device | None,
        to_disk: bool = False,
        writer: Writer | None = None,
        store: EmbeddingStore | None = None,
        scratch: Path | None = None,
        network: str = "",
        meta: Mapping[str, str] | None = None,
        observer: Observer = lambda event: None,
    ) -> None:
        """sources: the support, and the queries unless they are its own rows. k: neighbours, at
        most. home: the device that holds all embeddings, or None. to_disk: whether they are kept
        there, by `writer`, or were in `store`. scratch: a folder for what must go to disk.
        network, meta: for a store.
        """
        self._model, self._layout, self._sources = model, layout, sources
        self._budget, self._metric, self._k, self._home = budget, metric, k, home
        self._writer, self._store, self._scratch = writer, store, scratch
        self._network, self._meta, self._observer = network, meta or {}, observer
        self._to_be_kept = to_disk
        self._held: list[dict[int, Any]] = []  # of each source, values by the probe's number
        self._stack = ExitStack()
        self._counts = [0 for _ in sources]
        self.forward_rate: float | None = None
        self.search_rate: float | None = None
        self._bits: dict[int, int] = {}  # checksums of the first batch, by the probe's number
        self._recalled = False  # a reading, and the network has not run yet
        self.anew = self._too_large()

    def __enter__(self) -> Embeddings:
        return self

    def __exit__(self, *about: Any) -> None:
        self._held.clear()
        self._stack.__exit__(*about)

    @property
    def rows(self) -> list[int] | None:
        """How many rows the sources have, where they know it."""
        known = [source.rows for source in self._sources]
        return None if None in known else [rows or 0 for rows in known]

    def _too_large(self) -> bool:
        """Whether all embeddings do not fit, and can be had another way."""
        if self._to_be_kept or self._home or self.rows is None:
            return False
        size = self._budget.size
        return size is not None and sum(map(self._bytes, self._every())) > room_for(size)

    # ---- the first pass ----

    def read(self) -> Reading:
        """Run the network over all rows; keep what belongs to the first group."""
        if self.anew and not self._repeats():
            self._to_disk()
        if self.rows is not None and self._writer is None:
            self._say(self._outlook(sum(self.rows)))
        if self._writer is not None and self.rows is not None:
            return self._kept(self._writer)
        numbers: Sequence[int] = self._every()
        if self.anew:
            span = self._span_before(len(numbers))
            numbers = numbers[span.first :] if span.way != "streamed" else []
            if span.way == "passing":
                return self._read_queries(numbers)
        captured = self._captured(numbers, self._sources)
        if self._writer is not None:
            self._add(self._writer, captured)
        return Reading([each.labels.numpy() for each in captured], captured[-1].predictions.numpy())

    def _read_queries(self, numbers: Sequence[int]) -> Reading:
        """Of the support only labels, since it will pass by once the queries are there."""
        support, queries = self._sources
        meter = RowMeter(self._observer, "labels", support.rows)
        labels = labels_of(self._layout, support, on_rows=meter)
        meter(len(labels), finished=True)
        (captured,) = self._captured(numbers, [queries])
        self._counts = [len(labels), *self._counts]
        self._held = [{}, *self._held]
        return Reading([labels.numpy(), captured.labels.numpy()], captured.predictions.numpy())

    def recall(self, reading: Reading) -> None:
        """Go on after a reading that is known; nothing is captured yet."""
        self._counts = [len(labels) for labels in reading.labels]
        self._recalled = True
        if self._scratch is not None:  # what a run has left that was killed
            for folder in self._scratch.glob(f"{KEPT}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _repeats(self) -> bool:
        """Whether the network gives the same again; and how fast it runs."""
        begin, source = time.perf_counter(), self._sources[0]
        self._bits, again = bits(self._model, self._layout, source)
        self.forward_rate = 2 * len(source.first[1]) / (time.perf_counter() - begin)
        return self._bits == again

    def _captured(self, numbers: Sequence[int], sources: Sequence[Batches]) -> list[Captured]:
        """All rows at some probes, held for the next group."""
        fingerprints = [Fingerprint() for _ in sources]
        found: list[Captured] = []
        for source, told in zip(sources, fingerprints, strict=True):
            meter = RowMeter(self._observer, source.what, source.rows)
            source.on_batch = told if self._writer is not None else _nothing
            held = sum(len(each.labels) for each in found)
            found.append(
                capture(
                    self._model,
                    self._layout,
                    source,
                    numbers=numbers,
                    device=self._home,
                    on_rows=meter,
                    make_room=_nothing if self.anew else partial(self._make_room, held),
                )
            )
            meter(len(found[-1].labels), finished=True)
        self._counts = [len(each.labels) for each in found]
        self._held = [dict(zip(numbers, each.embeddings, strict=True)) for each in found]
        self._fingerprints = fingerprints
        return found

    def _outlook(self, rows: int) -> str:
        """What will be held, in words."""
        if not self.anew:
            where = "memory" if self._home is None else f"the memory of {self._home}"
            return check_memory(self._layout, rows, self._budget, self._metric, where)
        needed, passes = human(footprint(self._layout, rows, self._metric)), len(self.groups())
        return (
            f"{needed} for {rows:,} rows x {len(self._layout.probes)} probes, more than the "
            f"{self._budget}: computed in {'one pass' if passes == 1 else f'{passes} passes'}"
        )

    def groups(self) -> list[Span]:
        """From the last to the first, as long as all queries are alive."""
        end = len(self._layout.probes)
        if not self.anew:
            return [Span(0, end, "held")]
        found = []
        while end:
            found.append(self._span_before(end))
            end = found[-1].first
        return found

    def _make_room(self, held: int, rows: int) -> None:
        check_memory(self._layout, held + rows, self._budget, self._metric)

    # ---- on disk ----

    def _to_disk(self) -> None:
        """Write all embeddings to a folder of this run."""
        needed = sum(map(self._bytes, self._every()))
        made = tempfile.TemporaryDirectory(prefix=KEPT, dir=self._scratch)
        folder = Path(self._stack.enter_context(made))
        if (free := shutil.disk_usage(folder).free) < needed:
            raise OSError(
                f"The embeddings take {human(needed)}, more than memory holds; they are not the "
                f"same when they are computed again, and {folder.parent} has {human(free)} free."
            )
        self._say(f"not the same when computed again: {human(needed)} go to {folder}")
        self._writer = self._stack.enter_context(writing(folder / "embeddings"))
        self.anew = False

    def _kept(self, writer: Writer) -> Reading:
        """Write the embeddings as they come; what is searched are maps of the files."""
        layout = self._layout
        kinds = [str(dtype).removeprefix("torch.") for dtype in layout.dtypes]
        shapes = dict(zip(layout.names, zip(kinds, layout.widths, strict=True), strict=True))
        labels: list[NDArray[np.int64]] = []
        kept = 0
        for source in self._sources:
            meter = RowMeter(self._observer, source.what, source.rows)
            told = Fingerprint()
            source.on_batch = told
            part: Growing = writer.growing(source.what, shapes, source.rows or 0)
            found = capture(self._model, layout, source, put=part.put, on_rows=meter)
            meter(len(found.labels), finished=True)
            kept += part.finish(found.labels, found.predictions, told.hexdigest())
            labels.append(found.labels.numpy())
        writer.finish(layout.names, self._network, self._meta)
        self._say(f"{human(kept)} kept in {writer.path}")
        self._store = open_store(writer.path)
        self._counts = [len(each) for each in labels]
        return Reading(labels, found.predictions.numpy())

    def _add(self, writer: Writer, captured: list[Captured]) -> None:
        """Write what a source of unknown length left in memory."""
        kept = 0
        for source, got, told in zip(self._sources, captured, self._fingerprints, strict=True):
            embeddings = dict(zip(self._layout.names, got.embeddings, strict=True))
            kept += writer.add(
                source.what, embeddings, got.labels, got.predictions, told.hexdigest()
            )
        writer.finish(self._layout.names, self._network, self._meta)
        self._say(f"{human(kept)} kept in {writer.path}")

    # ---- the groups ----

    def before(self, end: int, alive: NDArray[np.int64], begun: int | None = None) -> Group:
        """The group of probes that ends before number `end`, for the queries `alive`.

        begun: the first of a group that passed by when it was cut off, if it is to be the same.

        Raises `Changed` after a `recall` if the network does not give the same bits again.
        """
        if self._recalled and self.anew and not self._repeats():
            raise Changed(
                "the network does not give the same values when it runs again, and what was found "
                "before the interruption is of others; another run_dir begins anew."
            )
        self._recalled = False
        everyone = np.arange(self._counts[-1])
        if self._store is not None:
            parts = [self._store.support, self._store.queries][: len(self._sources)]
            arrays = [dict(enumerate(part.embeddings.values())) for part in parts if part]
            return self._group(0, end, arrays, everyone)
        if not self.anew and not self._held:
            self._captured(self._every(), self._sources)
        if self._held:
            first = min(self._held[-1], default=end)
            held, self._held = self._held, [] if self.anew else self._held
            if first < end and not held[0]:
                return self._passing(range(first, end), held[-1], everyone)
            if first < end:
                return self._group(first, end, held, everyone)
        span = self._span_before(end, alive, begun)
        if span.way == "streamed":
            return self._streamed(span.first, alive)
        numbers = range(span.first, end)
        if span.way == "passing":
            return self._passing(numbers, self._again(self._sources[-1], numbers, alive), alive)
        which = [np.arange(self._counts[0]), alive][: len(self._sources)]
        arrays = [
            self._again(source, numbers, rows)
            for source, rows in zip(self._sources, which, strict=True)
        ]
        return self._group(span.first, end, arrays, alive)

    def _passing(self, numbers: range, queries: dict[int, Any], asked: NDArray[np.int64]) -> Group:
        """Probes whose support is computed chunk by chunk while the queries stay."""
        every, support = np.arange(self._counts[0]), self._sources[0]
        layers = [
            (self._layout.names[n], self._recomputed(support, n, every), queries[n])
            for n in numbers
        ]
        chunks = partial(self._chunks, numbers, self._chunk(numbers, len(asked)))
        bits = tuple(self._bits[number] for number in numbers)
        return Group(numbers[0], layers, asked, self.search_memory, chunks, bits)

    def _chunks(self, numbers: range, rows: int, begin: int) -> Chunks:
        """The support from row `begin` on, `rows` at a time; none is held here once it is given."""
        support, total = self._sources[0], self._counts[0]
        meter = RowMeter(self._observer, support.what, total)
        for first in range(begin, total, rows):
            end = min(first + rows, total)
            some = np.arange(first, end)
            yield first, capture_again(self._model, self._layout, support, numbers, some)
            meter(end)
        meter(total, finished=True)

    def _group(
        self, first: int, end: int, values: list[dict[int, Any]], asked: NDArray[np.int64]
    ) -> Group:
        own = len(values) == 1
        layers = [
            (self._layout.names[n], values[0][n], None if own else values[1][n])
            for n in range(first, end)
        ]
        return Group(first, layers, asked, self.search_memory)

    @property
    def search_memory(self) -> int | None:
        """Bytes that the search may take beside a group's embeddings; None for what it finds."""
        size = self._budget.size
        if size is None or not (self._budget.given or self.anew):
            return None
        return size - room_for(size)

    def _streamed(self, number: int, alive: NDArray[np.int64]) -> Group:
        """A probe that does not fit: read, and so computed, as it is searched."""
        which = [np.arange(self._counts[0]), alive][: len(self._sources)]
        rows = [
            self._recomputed(source, number, some)
            for source, some in zip(self._sources, which, strict=True)
        ]
        layer = (self._layout.names[number], rows[0], rows[1] if len(rows) > 1 else None)
        return Group(number, [layer], alive, self._budget.size)

    def _recomputed(self, source: Batches, number: int, rows: NDArray[np.int64]) -> Recomputed:
        return Recomputed(self._model, self._layout, source, number, rows)

    def _again(
        self, source: Batches, numbers: Sequence[int], rows: NDArray[np.int64]
    ) -> dict[int, Any]:
        meter = RowMeter(self._observer, source.what, len(rows))
        found = capture_again(self._model, self._layout, source, numbers, rows, on_rows=meter)
        meter(len(rows), finished=True)
        return dict(zip(numbers, found, strict=True))

    # ---- what fits ----

    def _span_before(
        self, end: int, alive: NDArray[np.int64] | None = None, begun: int | None = None
    ) -> Span:
        """The longest before `end` that fits, for the queries `alive`; None for all."""
        asked = (self.rows or self._counts)[-1] if alive is None else len(alive)
        if begun is not None and self._chunk(range(begun, end), asked) > 0:
            return Span(begun, end, "passing")
        held, passing = end, end
        while held and self._fits(range(held - 1, end), alive):
            held -= 1
        while passing and self._chunk(range(passing - 1, end), asked) > 0:
            if passing < end and not self._worth(passing - 1, asked):
                break
            passing -= 1
        if passing < held:
            return Span(passing, end, "passing")
        return Span(held, end, "held") if held < end else Span(end - 1, end, "streamed")

    def _fits(self, numbers: range, alive: NDArray[np.int64] | None) -> bool:
        """Whether support and queries can be held at these probes."""
        assert self._budget.size is not None
        taken = sum(self._bytes(number, alive) for number in numbers)
        return taken <= room_for(self._budget.size)

    def _chunk(self, numbers: range, asked: int) -> int:
        """Rows of the support, whole batches, beside so many queries at these probes; or 0."""
        assert self._budget.size is not None
        room, batch = room_for(self._budget.size), self._sources[0].batch_rows or 1
        row = footprint(self._layout, 1, self._metric, numbers)
        listed = LISTED * len(numbers) + MERGED
        queries = asked * (row + listed * (self._k + 1))
        if queries > QUERIES * room:
            return 0
        return int((room - queries) // row // batch) * batch

    def _worth(self, number: int, asked: int) -> bool:
        """Whether one more probe, searched for all of the queries, costs less than a pass of its
        own, to which fewer would be alive."""
        if self.forward_rate is None or self.search_rate is None:
            return True
        operations = 2.0 * asked * self._layout.widths[number]  # for each row of the support
        return operations / self.search_rate <= 1 / self.forward_rate

    def _bytes(self, number: int, alive: NDArray[np.int64] | None = None) -> int:
        """Of all rows at a probe, or of the support and the queries alive."""
        rows = list(self.rows or self._counts)
        if alive is not None and len(rows) > 1:
            rows[1] = len(alive)
        return footprint(self._layout, sum(rows), self._metric, [number])

    def _every(self) -> Sequence[int]:
        return range(len(self._layout.probes))

    def _say(self, text: str) -> None:
        self._observer(Event("note", f"embeddings: {text}"))


def room_for(memory: int) -> int:
    """Bytes of `memory` that embeddings may take beside the search."""
    return memory - min(ENGINE, memory // 4)


def _nothing(_: Any) -> None:
    pass


class Recomputed:
    """Some rows of a probe, as a source for the engine: reading them runs the network.

    Read it inside `at_rest`. rows: (n,) int64, ascending.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        source: Batches,
        number: int,
        rows: NDArray[np.int64],
    ) -> None:
        self._model, self._layout, self._source = model, layout, source
        self._number, self._rows = number, rows
        self.shape = len(rows), layout.widths[number]
        self.dtype = layout.dtypes[number]

    def __getitem__(self, rows: slice) -> Tensor:
        return self.rows_at(np.arange(*rows.indices(len(self._rows))))

    def rows_at(self, places: NDArray[np.int64]) -> Tensor:
        """The rows at some places, ascending: each batch that holds one runs once."""
        rows = self._rows[places]
        (found,) = capture_again(self._model, self._layout, self._source, [self._number], rows)
        return found


def bits(
    model: nn.Module, layout: Layout, source: Batches
) -> tuple[dict[int, int], dict[int, int]]:
    """Checksums of the first batch at every probe, by its number; and of the same, read and run
    once more.

    Call it inside `at_rest`; it sees nothing of what changes less often. Raises `Changed` where the
    batch itself is another.
    """
    every = range(len(layout.probes))
    source.expect(source.checks)

    def checks(batches: Iterable[tuple[int, Batch]]) -> dict[int, int]:
        found: dict[int, int] = {}

        def put(number: int, begin: int, values: Tensor) -> None:
            found[number] = zlib.crc32(raw_bytes(values))

        for _ in forward(model, layout, source.what, batches, every, put):
            pass
        return found

    return checks([(0, source.first)]), checks(source.again([0]))
