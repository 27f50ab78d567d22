"""Train networks on random splits of one dataset, and measure each on all of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from pdepth.analysis.ensemble import Member
from pdepth.arrays import arguments
from pdepth.depth import prediction_depth
from pdepth.inputs import network_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pdepth.depth import ModelOptions

__all__ = ["draw_held_out_rows", "measure", "measure_all", "network_seed", "train_all"]


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


def train_all(
    train: Callable[[Any, int], Any],
    data: Dataset[Any],
    numbers: Iterable[int],
    *,
    held_out: float = 0.1,
    seed: int = 0,
) -> Iterator[tuple[int, nn.Module, NDArray[np.int64]]]:
    """Train networks, and yield each with its number and the rows held out from it.

    Args:
        train: called with the remaining rows of `data`, a Dataset, and a seed; returns the
            network, or a fitted skorch net.
        data: a Dataset with a length, or a dict of columns.
        numbers: of the networks.
        held_out: share of rows held out from each.
    """
    data, count = _counted(data)
    for number in numbers:
        rows = draw_held_out_rows(count, held_out, number, seed)
        support = Subset(data, _other_rows(count, rows))
        model = train(support, network_seed(number, seed))
        yield number, network_of(model, "network returned by train"), rows


def measure(
    model: nn.Module,
    data: Dataset[Any],
    held_out_rows: Any,
    *,
    name: int | str,
    k: int = 30,
    **options: Unpack[ModelOptions],
) -> Member:
    """Measure one network on all rows: those of its support, each left out of its vote, and others.

    Args:
        model, k, options: as in `pdepth.prediction_depth`.
        data: a Dataset with a length, or a dict of columns.
        held_out_rows: distinct rows that the network was not trained on.
        name: distinguishes the network from others.
    """
    data, count = _counted(data)
    rows = np.unique(arguments.check_query_rows(held_out_rows, count))
    support = Subset(data, _other_rows(count, rows))
    support_result = prediction_depth(model, support, k=k, **options)
    held_out_result = prediction_depth(model, support, Subset(data, rows.tolist()), k=k, **options)
    return Member.from_results(support_result, held_out_result, rows, name)


def measure_all(
    networks: Iterable[tuple[int | str, nn.Module, Any]],
    data: Dataset[Any],
    *,
    k: int = 30,
    **options: Unpack[ModelOptions],
) -> Iterator[Member]:
    """`measure` for each network of (name, network, rows held out from it)."""
    for name, model, rows in networks:
        yield measure(model, data, rows, name=name, k=k, **options)


def _counted(data: Any) -> tuple[Any, int]:
    """A dataset whose rows are found by number, and how many they are; columns become one."""
    from pdepth.embeddings.loaders import Columns

    if isinstance(data, DataLoader):
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


def _other_rows(count: int, rows: NDArray[np.int64]) -> list[int]:
    others = np.ones(count, bool)
    others[rows] = False
    return [int(row) for row in np.flatnonzero(others)]
