"""Rows and labels from a Dataset or a DataLoader: in the dataset's order, in fixed batches."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from pdepth.arrays.rows import raw_bytes

from pdepth.embeddings.batch import Batch, Inputs


from dataclasses import dataclass


@dataclass(frozen=True)
class DataOptions:
    label_column: str | None = None
    processor: Any = None


class Changed(ValueError):
    """A batch is not what it was when it was first read."""


class Batches:
    """A dataset whose first batch is known before the rest is read.

    first: the first batch, checked: inputs (B, ...) and labels (B,) int64.
    rows: how many rows will come, or None where the dataset does not say.
    checks: where it `remembers`, the checksum of each batch that has been read, in order; one that
        is known beforehand, from an earlier run, is compared.
    Iterating yields every batch, the first included, once, and raises ValueError where they are not
    as many rows as that; `again` reads some once more.
    """

    varies = False

    def __init__(self, data: Any, what: str, batch_size: int, options: Any = None) -> None:
        """`what` is the argument's name in error sentences.

        Datasets are read in batches of `batch_size`; a DataLoader keeps its own batch size,
        collation and workers, but neither its shuffling nor its drop_last. A SubsetRandomSampler's
        rows, and no others, are read in the dataset's order. IterableDatasets are read in theirs.

        Raises TypeError for what is neither Dataset nor DataLoader, ValueError for empty data and
        for batches that are not (input, integer label); batches after the first are checked as
        they are read.
        """
        self.what = what
        self.on_batch: Callable[[Batch], None] = lambda batch: None  # sees each batch first
        loader = _in_order(data, what, batch_size)
        unsized = isinstance(loader.dataset, IterableDataset) or loader.batch_size is None
        self.rows: int | None = None if unsized else len(loader.dataset)  # type: ignore[arg-type]
        self.checks: list[int] = []
        self.remembers = False  # whether readings keep and compare checksums
        self._loader = loader
        self._batches = iter(loader) if self.rows != 0 else iter(())
        first = next(self._batches, None)
        if first is None:
            raise ValueError(f"{what}: expected at least one (input, label) row, got none.")
        self.first: Batch = self._checked(first)

    def __iter__(self) -> Iterator[Batch]:
        done = 0
        for number, batch in enumerate(chain([self.first], map(self._checked, self._batches))):
            done += len(batch[1])
            if self.rows is not None and done > self.rows:
                raise ValueError(f"{self.what}: expected {self.rows} rows by its length, got more.")
            self.on_batch(batch)
            if self.remembers:
                self._compare(number, batch)
            yield batch
        if self.rows is not None and done < self.rows:
            raise ValueError(f"{self.what}: expected {self.rows} rows by its length, got {done}.")

    @property
    def batch_rows(self) -> int | None:
        """Rows of every batch but the last; None where batches cannot be read again."""
        return None if self.rows is None else self._loader.batch_size

    def again(self, numbers: Iterable[int]) -> Iterator[tuple[int, Batch]]:
        """The first row and the rows of some batches, by their numbers, as they were first read.

        The same rows are together: a forward pass may depend on what it runs beside.
        Raises `Changed` for a batch that differs, as after a random transform.
        """
        size, rows = self._loader.batch_size or 1, self.rows or 0
        numbers = list(numbers)
        loader = self._loader
        batches = DataLoader(
            loader.dataset,
            batch_sampler=[list(range(n * size, min((n + 1) * size, rows))) for n in numbers],
            num_workers=loader.num_workers if len(numbers) > loader.num_workers else 0,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout if len(numbers) > loader.num_workers else 0,
            worker_init_fn=loader.worker_init_fn,
            generator=torch.Generator(),
        )
        for number, batch in zip(numbers, map(self._checked, batches), strict=True):
            self._compare(number, batch)
            yield number * size, batch

    def expect(self, checks: list[int]) -> None:
        """The checksums of an earlier reading; the first and last batch are compared at once."""
        self.checks = checks
        self._compare(0, self.first)
        if self.batch_rows is not None and len(checks) > 1:
            for _ in self.again([len(checks) - 1]):
                pass

    def _compare(self, number: int, batch: Batch) -> None:
        """Keep a batch's checksum, or compare it with the one that is known."""
        checksum = 0
        for tensor in (*(t for _, t in batch.inputs.tensors()), batch.labels):
            checksum = zlib.crc32(raw_bytes(tensor), checksum)
        if number == len(self.checks):
            self.checks.append(checksum)
        elif number < len(self.checks) and self.checks[number] != checksum:
            first = number * (self._loader.batch_size or 1)
            raise Changed(
                f"{self.what}: expected the same values at each reading, got others in rows "
                f"{first}-{first + len(batch[1]) - 1}; read without random transforms, or pass "
                "keep_embeddings, which reads but once."
            )

    def _checked(self, batch: Any) -> Batch:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise ValueError(
                f"{self.what}: expected (input, label) rows, got {_described(batch)} without "
                "labels."
            )
        inputs, labels = batch[0], _labels(batch[1], self.what)
        if isinstance(inputs, np.ndarray):
            inputs = torch.from_numpy(inputs)
        if not isinstance(inputs, torch.Tensor) or inputs.ndim == 0:
            raise ValueError(f"{self.what}: expected tensors as inputs, got {_described(inputs)}.")
        if len(inputs) != len(labels):
            raise ValueError(
                f"{self.what}: expected one label for each input of a batch, got {len(inputs)} "
                f"inputs and {len(labels)} labels."
            )
        return Batch(Inputs.of(inputs, len(labels)), labels)


def _in_order(data: Any, what: str, batch_size: int) -> DataLoader[Any]:
    # A generator of its own: the loader would otherwise draw from the caller's random state.
    generator = torch.Generator()
    if isinstance(data, DataLoader):
        dataset = _sampled(data, what)
        unbatched = data.batch_size is None and data.batch_sampler is None
        return DataLoader(
            dataset,
            batch_size=None if unbatched else data.batch_size or batch_size,
            num_workers=data.num_workers,
            collate_fn=data.collate_fn,
            pin_memory=data.pin_memory,
            timeout=data.timeout,
            worker_init_fn=data.worker_init_fn,
            multiprocessing_context=data.multiprocessing_context,
            prefetch_factor=data.prefetch_factor,
            generator=generator,
        )
    arrays = (torch.Tensor, np.ndarray)
    if isinstance(data, (tuple, list)) and data and all(isinstance(x, arrays) for x in data):
        kind = "tensors" if isinstance(data[0], torch.Tensor) else "arrays"
        raise TypeError(
            f"{what}: expected a dataset, got a {type(data).__name__} of {kind}; pass "
            f"TensorDataset(*{what}){'' if kind == 'tensors' else ' of tensors'}."
        )
    if isinstance(data, IterableDataset) or (
        hasattr(data, "__getitem__") and hasattr(data, "__len__")
    ):
        return DataLoader(data, batch_size=batch_size, generator=generator)
    raise TypeError(
        f"{what}: expected a DataLoader, a Dataset with a length or an IterableDataset, got a "
        f"{type(data).__name__}."
    )


def _sampled(loader: DataLoader[Any], what: str) -> Any:
    """The loader's dataset, or the subset of it that its sampler draws from.

    Raises TypeError for a sampler that draws other rows than each once, whose order is unknown.
    """
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset
    sampler, batches = loader.sampler, loader.batch_sampler
    if type(batches) is BatchSampler:
        sampler = batches.sampler
    elif batches is not None:
        sampler = batches
    if isinstance(sampler, SubsetRandomSampler):
        return Subset(loader.dataset, sorted(sampler.indices))
    rows = len(loader.dataset)  # type: ignore[arg-type]
    takes_all = isinstance(sampler, RandomSampler) and (
        not sampler.replacement and sampler.num_samples == rows
    )
    if not takes_all and not isinstance(sampler, SequentialSampler):
        raise TypeError(
            f"{what}: expected a DataLoader that takes every row once, got a "
            f"{type(sampler).__name__} that chooses rows of its own; pass Subset(dataset, rows)."
        )
    return loader.dataset


def _labels(labels: Any, what: str) -> torch.Tensor:
    if not isinstance(labels, torch.Tensor):
        try:
            labels = torch.as_tensor(np.asarray(labels))
        except (TypeError, ValueError):  # text; rows of unequal length
            raise ValueError(
                f"{what}: expected integers as labels, got {_described(labels)}; names, if any, "
                "belong into the dataset's `classes`."
            ) from None
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{what}: expected integers as labels, got {labels.dtype}.")
    if labels.ndim != 1:
        raise ValueError(
            f"{what}: expected one label for each row of a batch, got labels of shape "
            f"{tuple(labels.shape)}."
        )
    integers: torch.Tensor = labels.to("cpu", torch.int64)
    return integers


def _described(value: Any) -> str:
    if isinstance(value, (tuple, list)) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__
