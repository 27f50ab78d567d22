"""Train networks on random splits of one dataset, and measure each on all of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdepth.analysis.ensemble import Member
from pdepth.arrays import arguments
from pdepth.cluster.options import Cluster
from pdepth.cluster.sending import pickled
from pdepth.cluster.workers import connected
from pdepth.optional import require

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset
    from typing_extensions import Unpack

    from pdepth.depth import ModelOptions
    from pdepth.embeddings.readable import Readable

__all__ = [
    "draw_held_out_rows",
    "measure",
    "measure_all",
    "network_seed",
    "readable_rows",
    "train_all",
]


def draw_held_out_rows(rows: int, held_out: float, number: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw the rows, ascending, that network `number` is held out from.

    Args:
        rows: number of rows of the dataset.
        held_out: share of rows to hold out.

    Raises:
        ValueError: the share leaves no row held out, or none to train on.
    """
    count = round(rows * held_out)
    if not 0 < count < rows:
        raise ValueError(
            f"held_out: expected a share that holds out some of {rows} rows and not all, got "
            f"{held_out}, which holds out {count}."
        )
    order = np.random.default_rng([seed, number]).permutation(rows)
    return np.sort(order[:count])


def network_seed(number: int, seed: int = 0) -> int:
    """The seed for training network `number`, different for each."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def readable_rows(data: Any, **options: Unpack[ModelOptions]) -> Readable:
    """Read all rows of a dataset once, and warn of those that cannot be read.

    Args:
        data: a Dataset with a length, or a dict of columns.
        options: of `pdepth.prediction_depth`; of these, those that say how data is read.
    """
    from pdepth.embeddings.dataset import Batches, DataOptions

    data, _ = _counted(data)
    reading = DataOptions(options.get("label_column"), options.get("processor"), True)
    readable = Batches(data, "data", options.get("batch_size", 256), reading).readable
    assert readable is not None
    return readable


def chosen_rows(
    data: Any, rows: Any, options: ModelOptions
) -> tuple[NDArray[np.int64] | None, ModelOptions]:
    """The rows (n,) int64 of a dataset to be measured, ascending, or None for all; other options.

    With the option skip_unreadable, those of `rows` that can be read.
    """
    chosen = None
    if rows is not None:
        count = _counted(data)[1]
        chosen = np.unique(arguments.check_integers(rows, "rows", booleans=False))
        if not len(chosen) or not 0 <= chosen[0] <= chosen[-1] < count:
            raise ValueError(f"rows: expected rows from 0 to {count - 1}, got {chosen}.")
    if options.get("skip_unreadable"):
        readable = readable_rows(data, **options).rows
        chosen = readable if chosen is None else np.intersect1d(chosen, readable)
        options = {**options, "skip_unreadable": False}
    return chosen, options


def train_all(
    train: Callable[[Any, int], Any],
    data: Dataset[Any],
    numbers: Iterable[int],
    *,
    held_out: float = 0.1,
    seed: int = 0,
    rows: Any = None,
) -> Iterator[tuple[int, nn.Module, NDArray[np.int64]]]:
    """Train networks, and yield each with its number and the rows held out from it.

    Args:
        train: called with the remaining rows of `data`, a Dataset, and a seed; returns the
            network, or a fitted skorch net.
        data: a Dataset with a length, or a dict of columns.
        numbers: of the networks.
        held_out: share of rows held out from each.
        rows: (n,) distinct row numbers of the data that are used, such as `readable_rows` has;
            None for all.
    """
    data, count = _counted(data)
    from torch.utils.data import Subset

    from pdepth.inputs import network_of

    used = np.arange(count) if rows is None else chosen_rows(data, rows, {})[0]
    assert used is not None
    for number in numbers:
        drawn = used[draw_held_out_rows(len(used), held_out, number, seed)]
        support = Subset(data, np.setdiff1d(used, drawn).tolist())
        model = train(support, network_seed(number, seed))
        yield number, network_of(model, "network returned by train"), drawn


def measure(
    model: nn.Module,
    data: Dataset[Any],
    held_out_rows: Any,
    *,
    name: int | str,
    k: int = 30,
    rows: Any = None,
    **options: Unpack[ModelOptions],
) -> Member:
    """Measure one network on all rows: those of its support, each left out of its vote, and others.

    Args:
        model, k, options: as in `pdepth.prediction_depth`.
        data: a Dataset with a length, or a dict of columns.
        held_out_rows: distinct rows that the network was not trained on.
        name: distinguishes the network from others.
        rows: (n,) distinct row numbers of the data that are measured, and in the support; None for
            all, or with skip_unreadable those that can be read. The member's `rows` has them.
    """
    data, count = _counted(data)
    from torch.utils.data import Subset

    from pdepth.depth import prediction_depth

    rows, options = chosen_rows(data, rows, options)
    used = np.arange(count) if rows is None else rows
    is_held_out = np.isin(used, arguments.check_query_rows(held_out_rows, count))
    support, others = (Subset(data, used[mask].tolist()) for mask in (~is_held_out, is_held_out))
    support_result = prediction_depth(model, support, k=k, **options)
    held_out_result = prediction_depth(model, support, others, k=k, **options)
    positions = np.flatnonzero(is_held_out)
    member = Member.from_results(support_result, held_out_result, positions, name)
    return replace(member, rows=rows)


def measure_all(
    networks: Iterable[tuple[int | str, nn.Module, Any]],
    data: Dataset[Any],
    *,
    k: int = 30,
    rows: Any = None,
    **options: Unpack[ModelOptions],
) -> Iterator[Member]:
    """`measure` for each network of (name, network, rows held out from it)."""
    rows, options = chosen_rows(data, rows, options)
    for name, model, held_out_rows in networks:
        yield measure(model, data, held_out_rows, name=name, k=k, rows=rows, **options)


def members_of(
    networks: Callable[[Sequence[int]], Iterable[tuple[int, nn.Module, Any]]],
    numbers: Sequence[int],
    data: Dataset[Any],
    *,
    k: int = 30,
    rows: Any = None,
    **options: Unpack[ModelOptions],
) -> Iterator[Member]:
    """`measure_all` for the networks of some numbers: here, or each by a task on a cluster.

    networks: called with numbers, yields (number, network, rows held out from it).
    """
    cluster = options.pop("cluster", None)
    if cluster is None:
        yield from measure_all(networks(numbers), data, k=k, rows=rows, **options)
        return
    import torch

    there = Cluster.of(cluster)
    threads = options.get("num_threads") or there.cpus_per_worker
    options |= {"num_threads": threads, "progress": False}
    if there.gpus_per_worker:
        options.setdefault("device", "cuda")
    with connected(there) as workers:
        call = partial(_member_of, networks, data, k, rows, options)
        sent = pickled(workers.cloudpickle, call, "networks and data")
        for members in workers.each(sent, numbers, torch.get_num_threads()):
            yield from members


def _member_of(
    networks: Callable[[Sequence[int]], Iterable[tuple[int, nn.Module, Any]]],
    data: Dataset[Any],
    k: int,
    rows: Any,
    options: ModelOptions,
    number: int,
) -> list[Member]:
    """The member of one number; none where `networks` does not yield it."""
    return list(measure_all(networks([number]), data, k=k, rows=rows, **options))


def _counted(data: Any) -> tuple[Any, int]:
    """A dataset whose rows are found by number, and how many they are; columns become one."""
    torch_data = require("torch.utils.data", "A network", "torch")
    from pdepth.embeddings.loaders import Columns

    if isinstance(data, torch_data.DataLoader):
        raise TypeError(
            "data: expected a Dataset with a length, got a DataLoader; pass loader.dataset."
        )
    if isinstance(data, Mapping):
        data = Columns(data, "data")
    try:
        return data, len(data)
    except TypeError:
        raise TypeError(
            f"data: expected a Dataset with a length, got {type(data).__name__} without one."
        ) from None
