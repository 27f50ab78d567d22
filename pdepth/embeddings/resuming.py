"""What a run remembers, and what of that still holds: compared before anything is reused.

Of the data, labels and a checksum of each row's inputs; of the network, beside its weights,
checksums of what its first rows gave at every probe.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.memory import human
from pdepth.embeddings import recompute
from pdepth.embeddings.capture import footprint
from pdepth.embeddings.collect import Embeddings, Job, Reading
from pdepth.embeddings.dataset import Batches, Rows, differing, ranges
from pdepth.embeddings.kept import KeptEmbeddings
from pdepth.io.atomic import remove_folder
from pdepth.io.embedding_store import (
    EmbeddingStore,
    Origin,
    Part,
    Writer,
    holds_store,
    is_store,
    open_store,
    relabel,
    reopen,
    tidy,
    writing,
)
from pdepth.io.journal import Journal, OtherRun
from pdepth.progress import Event

INNER = ".embeddings"  # in run_dir: the store of a network that does not give the same bits twice


@dataclass(frozen=True, eq=False)
class Known:
    """What a journal says of an earlier reading.

    Attributes:
        rows: of support and queries. predictions: (N,) int64.
        first: checksums of the first rows' values; none of a network that does not repeat.
        token: a number that no other reading of such a network has.
    """

    rows: list[Rows]
    predictions: NDArray[np.int64]
    first: tuple[int, ...]
    token: int = field(default_factory=lambda: secrets.randbits(62))

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]] | None, readers: list[Batches]) -> Known | None:
        if arrays is None:
            return None
        rows = [Rows(arrays[f"{r.what} labels"], arrays[f"{r.what} inputs"]) for r in readers]
        first = tuple(arrays["first"].tolist())
        return cls(rows, arrays["predictions"], first, int(arrays["token"]))

    def arrays(self, readers: list[Batches]) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {
            "predictions": self.predictions,
            "first": np.array(self.first, np.int64),
            "token": np.int64(0 if self.first else self.token),
        }
        for reader, rows in zip(readers, self.rows, strict=True):
            arrays[f"{reader.what} labels"] = rows.labels
            arrays[f"{reader.what} inputs"] = rows.checksums
        return arrays

    @property
    def reading(self) -> Reading:
        return Reading([rows.labels for rows in self.rows], self.predictions)


@dataclass(frozen=True, eq=False)
class Start:
    """How a run with or without a journal comes to its embeddings and its reading.

    Attributes:
        origin: what the embeddings are of. target: the directory that keeps them, or None.
        plan: makes the embeddings that are not kept. stack: where all that is open is closed.
        kept: makes of a store, to be written or finished, the embeddings that it keeps where other
            processes have them; None for this process's own.
    """

    job: Job
    origin: Origin
    target: Path | None
    plan: Callable[[], Embeddings]
    stack: ExitStack
    kept: Callable[[Writer | EmbeddingStore, Origin | None], Embeddings] | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether other processes have the embeddings."""
        return self.kept is not None

    def anew(self) -> tuple[Embeddings, Reading]:
        """Read the data and run the network."""
        if self.target is None:
            embeddings = self.plan()
        else:
            if is_store(self.target):
                raise holds_store(self.target)
            writer = self.stack.enter_context(writing(self.target))
            embeddings = self.kept_in(writer)
        self.stack.enter_context(embeddings)
        return embeddings, embeddings.read()

    def kept_in(self, target: Writer | EmbeddingStore) -> Embeddings:
        """The embeddings that a store keeps."""
        if self.kept is not None:
            return self.kept(target, self.origin)
        return KeptEmbeddings(self.job, target, self.origin)

    def with_journal(self, journal: Journal) -> tuple[Embeddings, Reading]:
        """As far as an earlier run came, and what it read is the same; else anew, and a note."""
        for reader in self.job.readers:
            reader.remembers = True
        known = Known.of(journal.read_reading(), self.job.readers)
        first = first_of(self.job)
        start = replace(self, origin=replace(self.origin, first=first))
        if self.elsewhere:
            return _Resuming(start, journal, known).begin()
        if self.target is None and not (first and (known is None or known.first)):
            start = replace(start, target=self._inner(journal))
        return _Resuming(start, journal, known).begin()

    def _inner(self, journal: Journal) -> Path | None:
        """The directory of a store within run_dir; None where its disk has no room."""
        path, job = journal.path / INNER, self.job
        if is_store(path):
            return path
        if job.rows is not None:
            needed = footprint(job.layout, sum(job.rows))
            if (free := shutil.disk_usage(journal.path).free) < needed:
                job.note(
                    "not the same when computed again: this run cannot be resumed, since "
                    f"{human(needed)} would go to {journal.path}, which has {human(free)} free"
                )
                return None
        job.note(f"not the same when computed again: they go to {path}")
        remove_folder(path)
        return path


@dataclass(frozen=True, eq=False)
class _Resuming:
    """What is known, beside what is there."""

    start: Start
    journal: Journal
    known: Known | None

    @property
    def job(self) -> Job:
        return self.start.job

    def begin(self) -> tuple[Embeddings, Reading]:
        known, store = self.known, self._store()
        if store is None and (known is None or self.job.rows is None):
            embeddings, reading = self._anew()
            if known is not None:
                self._tell(self._changes(known.rows, [r.known_rows for r in self.job.readers]))
            return embeddings, reading
        rows = [reader.read_rows() for reader in self.job.readers]
        changed = None if known is None else self._changes(known.rows, rows)
        if known is not None and not (changed and changed.inputs):
            self._check_network(known.first)
        if store is not None:
            return self._with_store(store, rows, changed)
        assert known is not None
        if changed or not known.first:  # of a network that does not repeat nothing was kept
            self._tell(changed)
            return self._anew()
        if self.start.target is not None:  # a store that is new, or was left unfinished
            return self._anew()
        embeddings = self.start.stack.enter_context(self.start.plan())
        embeddings.resume(known.reading)
        return embeddings, known.reading

    def _changes(self, then: list[Rows], now: list[Rows]) -> Changes:
        return changes(then, now, self.job.readers)

    def _store(self) -> EmbeddingStore | None:
        """The finished store in the target, if there is one."""
        target = self.start.target
        if target is None or not is_store(target):
            return None
        if target.name != INNER:
            return open_store(target)
        try:
            tidy(target)
            return open_store(target)
        except ValueError as error:
            self.job.note(f"{error} It is written anew")
            reopen(target)
            return None

    def _with_store(
        self, store: EmbeddingStore, rows: list[Rows], changed: Changes | None
    ) -> tuple[Embeddings, Reading]:
        """Search a finished store, if it is of this network and of these inputs."""
        difference = self._difference(store)
        of_store = None
        if not difference:
            parts = [_rows_of(part) for part in store.parts]
            of_store = self._changes(parts, rows)
            if self.known is None:
                difference = str(of_store or "")
            elif of_store and of_store.inputs:
                if changed and not self._changes(self.known.rows, parts).inputs:
                    self._tell(changed)
                    reopen(store.path)
                    return self._anew()
                difference = f"the data differ: {of_store}"
        if difference and self.known is None:
            raise holds_store(store.path)
        if difference:
            raise ValueError(
                f"keep_embeddings: expected the store of this run, got {store.path}, of which "
                f"{difference}; use another run_dir to begin anew."
            )
        if of_store:
            relabel(store, [r.labels for r in rows], [r.fingerprint for r in rows])
            store = open_store(store.path)
        if changed or self.known is None:
            self._tell(changed, f"the embeddings in {store.path} are searched")
        first = self.start.origin.first if self.known is None else self.known.first
        token = {} if self.known is None or changed else {"token": self.known.token}
        now = Known(rows, np.array(store.parts[-1].predictions), first, **token)
        self.journal.write_reading(now.arrays(self.job.readers))
        embeddings = self.start.stack.enter_context(self.start.kept_in(store))
        return embeddings, now.reading

    def _anew(self) -> tuple[Embeddings, Reading]:
        embeddings, reading = self.start.anew()
        rows = [reader.known_rows for reader in self.job.readers]
        now = Known(rows, reading.predictions, self.start.origin.first)
        self.journal.write_reading(now.arrays(self.job.readers))
        return embeddings, reading

    def _check_network(self, then: tuple[int, ...]) -> None:
        """Raise OtherRun where the network gives others than the interrupted run's values."""
        now = self.start.origin.first
        if not then or then == now:
            return
        if not now:
            raise OtherRun(
                f"run_dir {self.journal.path}: the network does not give the same values when it "
                "runs again, and the votes before the interruption are of others; use another "
                "directory to begin anew."
            )
        raise OtherRun(
            f"run_dir {self.journal.path} holds a run of which the network's values differ, "
            f"{_where(self.job, then, now)}: by its code, the kind of processor or torch's number "
            "of threads; use another directory to begin anew."
        )

    def _difference(self, store: EmbeddingStore) -> str:
        """What of a store's origin is not this job's, in words; or ""."""
        origin, layout = self.start.origin, self.job.layout
        if store.origin is None:
            return "version 1 of the format does not say what it is of"
        probes = [store.support.embeddings[name] for name in store.probes]
        types = [str(values.dtype).removeprefix("torch.") for values in probes]
        versions = [str(o.meta.get("placement version", 1)) for o in (store.origin, origin)]
        if versions[0] != versions[1]:
            return f"the version of placement differs: {versions[0]} then, {versions[1]} now"
        compared = {
            "the network": (store.origin.network, origin.network),
            "the list of probes": (store.probes, layout.names),
            "the pooling": (store.origin.layout, origin.layout),
            "the widths": ([v.shape[1] for v in probes], list(layout.widths)),
            "the type": (types, [str(t).removeprefix("torch.") for t in layout.dtypes]),
            "the number of queries": (len(store.parts), len(self.job.readers)),
        }
        for name, (of_store, of_job) in compared.items():
            if of_store != of_job:
                return f"{name} differs"
        then, now = store.origin.first, origin.first
        if then and now and then != now and self._first_rows_are(store):
            return f"the network's values differ, {_where(self.job, then, now)}"
        return ""

    def _first_rows_are(self, store: EmbeddingStore) -> bool:
        """Whether a store's first rows have the inputs that they have now."""
        now = self.job.readers[0].checks[0].checksums
        return bool(np.array_equal(_rows_of(store.support).checksums[: len(now)], now))

    def _tell(self, changed: Changes | None, then: str = "the run begins anew") -> None:
        what = f"{changed}; " if changed else ""
        self.job.observer(Event("note", f"run_dir {self.journal.path}: {what}{then}."))


@dataclass(frozen=True)
class Changes:
    """What of the data differs, in words of its rows; true where anything does.

    Attributes:
        inputs, labels: "support rows 3-5", of each part that differs.
    """

    inputs: tuple[str, ...]
    labels: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.inputs or self.labels)

    def __str__(self) -> str:
        kinds = (("inputs", self.inputs), ("labels", self.labels))
        texts = [f"{kind} of {' and '.join(which)}" for kind, which in kinds if which]
        return f"{' and '.join(texts)} differ"


def changes(then: list[Rows], now: list[Rows], readers: Sequence[Batches]) -> Changes:
    """What differs between two readings of support and queries; rows have the data's numbers."""

    def of(name: str) -> tuple[str, ...]:
        texts = []
        parts = ("support", "query")
        for part, before, after, reader in zip(parts, then, now, readers, strict=False):
            if len(rows := differing(getattr(before, name), getattr(after, name))):
                texts.append(f"{part} {ranges(reader.numbers(rows))}")
        return tuple(texts)

    return Changes(of("checksums"), of("labels"))


def first_of(job: Job) -> tuple[int, ...]:
    """Checksums of what the first rows give at every probe, and of their predictions; none where
    they are not the same when the network runs again. Call it inside `at_rest`."""
    checksums, again = recompute.first_rows_checksums(job)
    return tuple(checksums[n] for n in sorted(checksums)) if checksums == again else ()


def _where(job: Job, then: tuple[int, ...], now: tuple[int, ...]) -> str:
    """The first place where the network's values differ."""
    names = [*job.layout.names, ""]
    place = next((i for i, pair in enumerate(zip(then, now, strict=False)) if len({*pair}) > 1), -1)
    return f"first at probe {names[place]!r}" if names[place] else "in its predictions"


def _rows_of(part: Part) -> Rows:
    assert part.checksums is not None  # in stores from version 2 on
    return Rows(np.asarray(part.labels), np.asarray(part.checksums))
