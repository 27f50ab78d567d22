"""What people have as data, as the `Source` of DataLoaders that read it in its own order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

Collate = Callable[[Any], Any]
WORKER_OPTIONS = ("timeout", "multiprocessing_context", "prefetch_factor")  # refused without any


@dataclass(frozen=True)
class Source:
    """Rows in their order, and how a DataLoader makes batches of them.

    dataset: of rows; of whole batches where batch_size is None. collate: the user's own; None for
    the default. options: of the DataLoader, for its workers.
    """

    dataset: Any
    batch_size: int | None
    collate: Collate | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def repeats(self) -> bool:
        """Whether a batch can be read again."""
        return not isinstance(self.dataset, IterableDataset)

    @property
    def rows(self) -> int | None:
        """How many rows there are; None where the dataset does not say."""
        return len(self.dataset) if self.repeats and self.batch_size is not None else None

    def part(self, begin: int, end: int) -> Source:
        """The rows from `begin` to before `end`, of a dataset whose rows have numbers."""
        data = self.dataset
        if type(data) is TensorDataset:  # in memory: of others' rows nothing goes along
            tensors = [tensor[begin:end].clone() for tensor in data.tensors]
            return replace(self, dataset=TensorDataset(*tensors))
        if hasattr(data, "part"):
            return replace(self, dataset=data.part(begin, end))
        return replace(self, dataset=Subset(data, range(begin, end)))

    def chosen(self, numbers: NDArray[np.int64]) -> Source:
        """Some rows, by their numbers."""
        return replace(self, dataset=Subset(self.dataset, numbers.tolist()))

    @property
    def workers(self) -> int:
        """Processes that read."""
        return int(self.options.get("num_workers", 0))

    def read(self, collate: Collate) -> Iterator[Any]:
        """All batches."""
        if self.rows == 0:
            return iter(())
        # A generator of its own: the loader would otherwise draw from the caller's random state.
        generator = torch.Generator()
        return iter(
            DataLoader(
                self.dataset,
                batch_size=self.batch_size,
                collate_fn=collate,
                generator=generator,
                **self.options,
            )
        )

    def read_again(self, collate: Collate, numbers: Sequence[int], workers: int) -> Iterator[Any]:
        """Some batches, by their numbers; workers have other seeds than in any other reading."""
        generator = torch.Generator()
        generator.seed()
        chosen: dict[str, Any] = {"batch_size": None, "sampler": numbers}
        if self.batch_size is not None:
            chosen = {"batch_sampler": _Rows(numbers, self.batch_size, len(self.dataset))}
        options = dict(self.options) | {"num_workers": workers}
        if not workers:
            options = {n: value for n, value in options.items() if n not in WORKER_OPTIONS}
        return iter(
            DataLoader(self.dataset, collate_fn=collate, generator=generator, **chosen, **options)
        )


class _Rows:
    """The rows of some batches, as a batch sampler."""

    def __init__(self, numbers: Sequence[int], size: int, rows: int) -> None:
        self._numbers, self._size, self._rows = numbers, size, rows

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[list[int]]:
        for number in self._numbers:
            yield list(range(self._rows)[number * self._size : (number + 1) * self._size])


class Columns(Dataset[Any]):
    """Columns of equal length by name as a dataset whose rows are dicts."""

    def __init__(self, columns: Mapping[str, Any], what: str) -> None:
        self._columns = dict(columns)
        lengths = {name: _length(column) for name, column in self._columns.items()}
        if not lengths or None in lengths.values():
            kinds = ", ".join(f"{n!r}: {type(c).__name__}" for n, c in self._columns.items())
            raise TypeError(
                f"{what}: expected a dict of tensors, arrays or lists of one value a row, got "
                f"{{{kinds}}}."
            )
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"{what}: expected columns of one length, got "
                f"{', '.join(f'{length} in {name!r}' for name, length in lengths.items())}."
            )
        self._length = next(iter(lengths.values())) or 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: column[row] for name, column in self._columns.items()}


def source_of(data: Any, what: str, batch_size: int) -> Source:
    """The source of a Dataset, DataLoader, data module or dict of columns.

    `what` is the argument's name: "queries" are a data module's rows for tests, others those for
    training. Raises TypeError for what is none of these.
    """
    if isinstance(data, Source):
        return data
    if callable(getattr(data, "train_dataloader", None)):
        data = _loader_of_module(data, what)
    if isinstance(data, DataLoader):
        return _source_of_loader(data, what, batch_size)
    _refuse_other_data(data, what)
    if isinstance(data, Mapping):
        data = Columns(data, what)
    if isinstance(data, IterableDataset) or (
        hasattr(data, "__getitem__") and hasattr(data, "__len__")
    ):
        return Source(data, batch_size)
    raise TypeError(
        f"{what}: expected a DataLoader, a Dataset with a length or an IterableDataset, got a "
        f"{type(data).__name__}."
    )


def _source_of_loader(loader: DataLoader[Any], what: str, batch_size: int) -> Source:
    unbatched = loader.batch_size is None and loader.batch_sampler is None
    names = [*WORKER_OPTIONS, "num_workers", "pin_memory", "worker_init_fn"]
    return Source(
        _sampled(loader, what),
        None if unbatched else loader.batch_size or batch_size,
        None if loader.collate_fn is default_collate else loader.collate_fn,
        {name: getattr(loader, name) for name in names},
    )


def _refuse_other_data(data: Any, what: str) -> None:
    """Raises TypeError for what has a length and entries, and yet no rows for a network."""
    kind = type(data).__name__
    if kind in ("DataFrame", "Series"):
        raise TypeError(
            f"{what}: expected a dataset, got a {kind}; pass {what}.to_dict('records') where a "
            f"column is text, or else list(zip({what}[columns].to_numpy('float32'), "
            f"{what}['label']))."
        )
    if isinstance(data, str | bytes):
        raise TypeError(
            f"{what}: expected a dataset, got the {kind} {data[:40]!r}; pass "
            f"pdepth.inputs.load_data({what}) for a name that the command line takes."
        )
    entries: list[Any] = []
    if isinstance(data, Mapping):
        entries = list(data.values())
    elif isinstance(data, tuple | list):
        entries = list(data)
    if isinstance(data, Mapping) and any(_is_dataset(entry) for entry in entries):
        names = list(data)
        raise TypeError(
            f"{what}: expected one dataset, got a {kind} of {', '.join(map(repr, names))}; pass "
            f"{what}[{names[0]!r}]."
        )
    if any(isinstance(entry, DataLoader) for entry in entries):
        raise TypeError(f"{what}: expected one DataLoader, got a {kind} of them; pass {what}[0].")
    arrays = (Tensor, np.ndarray)
    if isinstance(data, tuple | list) and data and all(isinstance(x, arrays) for x in data):
        of = "tensors" if isinstance(data[0], Tensor) else "arrays"
        raise TypeError(
            f"{what}: expected a dataset, got a {kind} of {of}; pass "
            f"TensorDataset(*{what}){'' if of == 'tensors' else ' of tensors'}."
        )


def _is_dataset(value: Any) -> bool:
    return isinstance(value, Dataset | DataLoader) or hasattr(value, "column_names")


def _length(column: Any) -> int | None:
    """Rows of a column; None for what is none."""
    if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__getitem__"):
        return None
    try:
        return len(column)
    except TypeError:  # a tensor of no dimension
        return None


def _loader_of_module(module: Any, what: str) -> DataLoader[Any]:
    """The DataLoader of a LightningDataModule, or another object with such methods."""
    stages = {"train_dataloader": "fit"}
    if what == "queries":
        stages = {
            "test_dataloader": "test",
            "val_dataloader": "fit",
            "predict_dataloader": "predict",
        }
    for name, stage in stages.items():
        method = getattr(module, name, None)
        if method is None or method.__module__.endswith(".core.hooks"):  # Lightning's, which raises
            continue
        loader = _built(module, method, stage)
        if isinstance(loader, DataLoader):
            return loader
        if loader is None or loader == []:  # Lightning's ways to say that there is none
            continue
        raise TypeError(
            f"{what}: expected one DataLoader from {name}() of {type(module).__name__}, got a "
            f"{type(loader).__name__}; pass the loader to read, {what}.{name}()[0] say."
        )
    raise TypeError(
        f"{what}: expected a data module with {' or '.join(stages)}, got {type(module).__name__}, "
        "which has none; pass a Dataset or DataLoader."
    )


def _built(module: Any, method: Callable[[], Any], stage: str) -> Any:
    """A data module's loader; one that gives none yet is prepared and set up for the stage.

    A trainer's set-up is not repeated: a random split without a seed would move rows.
    """
    try:
        loader = method()
        if getattr(loader, "dataset", loader) is not None:
            return loader
    except Exception:  # of attributes that `setup` makes; others come again
        pass
    for name, options in (("prepare_data", {}), ("setup", {"stage": stage})):
        if hasattr(module, name):
            getattr(module, name)(**options)
    return method()


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
