"""Rows and labels from data in every usual form: in the data's order, in fixed batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdepth.embeddings.batch import Batch, Inputs, same_shapes
from pdepth.embeddings.collation import Collated, Collation, Failure, described
from pdepth.embeddings.loaders import Source, source_of
from pdepth.embeddings.processors import check_processor
from pdepth.embeddings.readable import Readable, keep_readable

__all__ = ["Batch", "Batches", "Changed", "DataOptions"]


class Changed(ValueError):
    """A batch is not what it was when it was first read."""


@dataclass(frozen=True)
class DataOptions:
    """How rows become inputs and labels.

    Attributes:
        label_column: of rows that are dicts, the labels' key; None for `label` or `labels`.
        processor: makes a batch's tensors; the network is called with what it returns, and with no
            other column of the rows.
            A tokenizer of transformers takes the column of text, or the two of a pair
            (`sentence1` and `sentence2`, `premise` and `hypothesis`, a tuple of two), and pads to
            the longest of the batch; lists of token ids it pads. An image processor takes the
            column of images: PIL, encoded or arrays; a feature extractor that of sounds; a joint
            processor of these is the one that the rows need.
            Any other callable takes the list of a batch's texts, or else one row's image or array,
            as a transform does.
        skip_unreadable: leave out rows that cannot be read, see `readable.keep_readable`; it takes
            a reading.
    """

    label_column: str | None = None
    processor: Any = None
    skip_unreadable: bool = False


class Batches:
    """A dataset whose first batch is known before the rest is read.

    first: the first batch, checked.
    rows: how many rows will come, or None where the dataset does not say.
    readable: which rows of the data these are, where some are skipped or decisions were applied.
    source: how they are read.
    elsewhere: reads labels and checksums of all rows, where other processes read the data.
    checks: where it `remembers`, labels and checksums of each batch that has been read, in order,
        with which every later reading is compared.
    Iterating yields every batch, the first included, and raises ValueError where they are not as
    many rows as that; `again` reads some once more.
    """

    source: Source
    remembers: bool

    def __init__(
        self, data: Any, what: str, batch_size: int, options: DataOptions | None = None
    ) -> None:
        """`what` is the argument's name in error sentences.

        Data are a Dataset or DataLoader of torch, PyTorch Geometric, skorch or Hugging Face, a
        list of rows, a dict (or BatchEncoding) of columns, or a Lightning data module, whose rows
        for training these are, for tests where `what` is "queries". Rows are (input, label), with
        further entries ignored; dicts with their labels under `label`, `labels` or the options'
        `label_column`; or graphs with their label as `y`. An input may be a tuple or a dict of
        several, which become arguments by place or by name; text and None are left out of them.

        Datasets are read in batches of `batch_size`; a DataLoader keeps its own batch size,
        collation and workers, but neither its shuffling nor its drop_last. A SubsetRandomSampler's
        rows, and no others, are read in the dataset's order. IterableDatasets are read in theirs,
        once: random transforms in them are not noticed.

        Raises TypeError for data or a processor of another kind; ValueError for empty data, for
        batches that are not inputs and integer labels, and, as `Changed`, where the first batch
        is another when it is read again. Later batches are checked as they are read.
        """
        options = options or DataOptions()
        check_processor(options.processor)
        self.what = what
        self.source = source_of(data, what, batch_size)
        self.readable = Readable.of_decided(self.source.dataset)
        if options.skip_unreadable:
            with _random_state_kept():
                self.source, left = keep_readable(self.source, what, options.processor)
            self.readable = left if self.readable is None else self.readable.some(left)
        self._collation = Collation(self.source.collate, options.label_column, options.processor)
        self._pads = options.processor is not None
        self.rows: int | None = self.source.rows
        self.checks: list[Rows] = []
        self.elsewhere: Callable[[], Rows] | None = None
        self.remembers = False  # whether readings keep and compare checksums
        batches = self.source.read(self._collation)
        first = next(batches, None)
        if first is None:
            raise ValueError(f"{what}: expected at least one (input, label) row, got none.")
        checked = self._checked(first)
        # Kept while others are read, by a loader that may fill the same buffers for each batch.
        self.first: Batch = Batch(checked.inputs.map(torch.clone), checked.labels.clone())
        self._rest: Iterator[Any] | None = batches  # until they have been read
        self.check_repeats()

    def __iter__(self) -> Iterator[Batch]:
        done = 0
        first = [] if self._rest is None else [self.first]
        rest = self.source.read(self._collation) if self._rest is None else self._rest
        self._rest = None
        batches = chain(first, map(self._checked, self._within_length(rest)))
        for number, batch in enumerate(batches):
            done += len(batch.labels)
            if self.rows is not None and done > self.rows:
                raise ValueError(f"{self.what}: expected {self.rows} rows by its length, got more.")
            if self.remembers:
                self._compare(number, batch)
            yield batch
        if self.rows is not None and done < self.rows:
            raise ValueError(f"{self.what}: expected {self.rows} rows by its length, got {done}.")

    def _within_length(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; ValueError where a row is missing that the length promises."""
        try:
            yield from batches
        except IndexError as error:
            raise ValueError(
                f"{self.what}: expected {self.rows} rows by its length, got an IndexError for one "
                f"of them: {error}"
            ) from error

    def read_rows(self) -> Rows:
        """All rows as they are now; the network does not run."""
        self.remembers = True
        if self.elsewhere is not None:
            self.expect(self.elsewhere())
            return self.known_rows
        for _ in self:
            pass
        return self.known_rows

    def expect(self, rows: Rows) -> None:
        """Remember all rows as another process read them, with which readings are compared."""
        self.remembers = True
        size = self.batch_rows or 1
        self.checks = [
            Rows(rows.labels[begin : begin + size], rows.checksums[begin : begin + size])
            for begin in range(0, len(rows.labels), size)
        ]

    @property
    def known_rows(self) -> Rows:
        """All rows that have been read; where it `remembers`."""
        return Rows(
            np.concatenate([rows.labels for rows in self.checks]),
            np.concatenate([rows.checksums for rows in self.checks]),
        )

    @property
    def checksums(self) -> NDArray[np.uint64] | None:
        """(n,) of all rows' inputs; None where it does not remember them."""
        return self.known_rows.checksums if self.remembers else None

    @property
    def batch_rows(self) -> int | None:
        """Rows of every batch but the last; None where batches cannot be read again."""
        return None if self.rows is None else self.source.batch_size

    @cached_property
    def varies(self) -> bool:
        """Whether rows have other shapes in other batches, as text that is padded to the longest.

        Known from the first batch's padding; else, of series (B, T) or (B, T, F), from the batches
        in the middle and at the end, which are read for it. Of IterableDatasets only the former.
        """
        inputs = self.first.inputs
        mask = inputs.kwargs.get("attention_mask")
        if self._pads and isinstance(mask, Tensor) and bool((mask == 0).any()):
            return True
        ranks = [tensor.ndim for _, tensor in inputs.tensors()]
        size = self.batch_rows
        if size is None or inputs.graph is not None or not {2, 3} & set(ranks):
            return False
        last = ((self.rows or 1) - 1) // size
        others = sorted({last // 2, last} - {0})
        return not all(same_shapes(inputs, batch.inputs) for batch in self._read(others))

    def check_repeats(self) -> None:
        """Read the first batch again, and compare every value.

        Where workers read, another one does, twice: once with other seeds, and once after
        what it has read changed a generator that the dataset itself holds.
        Raises `Changed`; IterableDatasets are not read again.
        """
        if not self.source.repeats:
            return
        workers = min(1, self.source.workers)
        with _random_state_kept():
            for batch in self.source.read_again(self._collation, [0] * (1 + workers), workers):
                if not self.first.same_as(self._checked(batch)):
                    raise self._changed(0, np.arange(len(self.first.labels)))

    def again(self, numbers: Iterable[int]) -> Iterator[tuple[int, Batch]]:
        """The first row and the rows of some batches, by their numbers, as they were first read.

        The same rows are together: a forward pass may depend on what it runs beside.
        Raises `Changed` for a batch that differs, as after a random transform.
        """
        size, numbers = self.source.batch_size or 1, list(numbers)
        for number, batch in zip(numbers, self._read(numbers), strict=True):
            self._compare(number, batch)
            yield number * size, batch

    def _read(self, numbers: list[int]) -> Iterator[Batch]:
        """Some batches once more, by their numbers."""
        source = self.source
        workers = source.workers if len(numbers) > source.workers else 0
        batches = source.read_again(self._collation, numbers, workers)
        return map(self._checked, self._within_length(batches))

    def _compare(self, number: int, batch: Batch) -> None:
        """Keep a batch's labels and checksums, or compare them with those that are known."""
        rows = Rows(batch.labels.numpy(), batch.row_checksums())
        if number == len(self.checks):
            self.checks.append(rows)
        elif number < len(self.checks) and len(changed := rows.other_than(self.checks[number])):
            raise self._changed(number, changed)

    def _changed(self, number: int, rows: NDArray[np.int64]) -> Changed:
        """rows: of a batch, by their places in it."""
        rows = self.numbers(number * (self.source.batch_size or 1) + rows)
        return Changed(
            f"{self.what}: expected the same values at each reading, got others in {ranges(rows)}; "
            "read without random transforms: dataset.transform = the evaluation transform."
        )

    def numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers that some rows have in the data, of which others may be skipped."""
        return rows if self.readable is None else self.readable.rows[rows]

    def _checked(self, collated: Collated | Failure) -> Batch:
        what = self.what
        if isinstance(collated, Failure):
            raise ValueError(f"{what}: {collated.sentence}") from collated.cause
        labels = _labels(collated.labels, what)
        inputs = Inputs.of(collated.inputs, len(labels))
        rows = _rows_of(inputs, what)
        if rows and len(labels) not in rows:
            nodes = "" if inputs.graph is None else "; for labels of nodes call pdepth.capture"
            raise ValueError(
                f"{what}: expected one label for each input of a batch, got {rows[0]} inputs and "
                f"{len(labels)} labels{nodes}."
            )
        return Batch(inputs, labels)


@dataclass(frozen=True, eq=False)
class Rows:
    """What a run remembers of a dataset: labels (n,) int64, and checksums (n,) uint64 of inputs."""

    labels: NDArray[np.int64]
    checksums: NDArray[np.uint64]

    def other_than(self, other: Rows) -> NDArray[np.int64]:
        """The numbers of rows that differ in label or inputs."""
        labels, inputs = (
            differing(getattr(other, name), getattr(self, name)) for name in ("labels", "checksums")
        )
        return np.union1d(labels, inputs)

    @property
    def fingerprint(self) -> str:
        """One checksum of them all, in their order."""
        whole = blake2b(self.labels.tobytes(), digest_size=16)
        whole.update(self.checksums.tobytes())
        return whole.hexdigest()


def differing(then: NDArray[Any], now: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of rows (n,) and (m,) that differ, or are in one of them alone."""
    both = min(len(then), len(now))
    missing = np.arange(both, max(len(then), len(now)))
    return np.concatenate([np.flatnonzero(then[:both] != now[:both]), missing])


def ranges(rows: NDArray[np.int64], most: int = 4) -> str:
    """Ascending rows in few words: "row 3", "rows 3, 400-699"."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:most]]
    left = sum(map(len, runs[most:]))
    return f"row{'s' * (len(rows) > 1)} {', '.join(texts)}" + (f" and {left} more" if left else "")


def _rows_of(inputs: Inputs, what: str) -> list[int]:
    """How many rows the inputs may be of: graphs, or the lengths of tensors; none where none tells.

    Several tensors need not be of one length: a mask, say, may serve all rows.
    """
    if inputs.graph is not None:
        return [int(inputs.graph.num_graphs)]
    shapes = [tensor.shape for _, tensor in inputs.tensors()]
    if shapes and not any(shapes):
        raise ValueError(f"{what}: expected tensors of rows as inputs, got single numbers.")
    return [shape[0] for shape in shapes if shape]


def _labels(labels: Any, what: str) -> Tensor:
    if not isinstance(labels, Tensor):
        try:
            labels = torch.as_tensor(np.asarray(labels), device="cpu")
        except (TypeError, ValueError):  # text; rows of unequal length
            raise ValueError(
                f"{what}: expected integers as labels, got {described(labels)}; names, if any, "
                "belong into the dataset's `classes`."
            ) from None
    if labels.ndim != 1:
        several = labels.ndim == 2 and labels.shape[1] > 1
        raise ValueError(
            f"{what}: expected one label for each row of a batch, got labels of shape "
            f"{tuple(labels.shape)}"
            + (
                "; pdepth is for single-label classifiers: of one-hot labels pass "
                "labels.argmax(1); of several labels a row run once each, with labels[:, i] and "
                "output= that takes its logit."
                if several
                else "; pass integers of shape (rows,)."
            )
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{what}: expected integers as labels, got {labels.dtype}.")
    integers: Tensor = labels.to("cpu", torch.int64, copy=True)
    return integers


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave the caller's random state as it is, whatever a dataset draws from it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
