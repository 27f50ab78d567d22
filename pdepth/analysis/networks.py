"""Networks trained on random splits of one dataset, each asked about all of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, Subset

from pdepth.analysis.ensemble import Member
from pdepth.arrays import arguments
from pdepth.depth import prediction_depth

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pdepth.depth import ModelOptions

__all__ = ["ask", "asked", "network_seed", "split", "trained"]


def split(rows: int, held_out: float, number: int, seed: int = 0) -> NDArray[np.int64]:
    """The rows, ascending, that network `number` is held out from: a share of them, at random.

    Raises:
        ValueError: the share leaves no row held out, or none to train on.
    """
    count = round(rows * held_out)
    if not 0 < count < rows:
        raise ValueError(
            f"held_out is {held_out}, {count} of {rows} rows; some, and not all, are wanted."
        )
    order = np.random.default_rng([seed, number]).permutation(rows)
    return np.sort(order[:count])


def network_seed(number: int, seed: int = 0) -> int:
    """A seed of its own for training network `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def trained(
    train: Callable[[Any, int], nn.Module],
    data: Dataset[Any],
    numbers: Iterable[int],
    *,
    held_out: float = 0.1,
    seed: int = 0,
) -> Iterator[tuple[int, nn.Module, NDArray[np.int64]]]:
    """Each number with its network, and the rows that the network was held out from.

    Args:
        train: called with the other rows of `data`, a Dataset, and a seed; returns the network.
        data: a Dataset with a length.
    """
    rows = _rows(data)
    for number in numbers:
        out = split(rows, held_out, number, seed)
        support = Subset(data, _others(rows, out))
        model = train(support, network_seed(number, seed))
        if not isinstance(model, nn.Module):
            raise TypeError(f"train returned {type(model).__name__}; a network is wanted.")
        yield number, model, out


def ask(
    model: nn.Module,
    data: Dataset[Any],
    held_out_rows: Any,
    *,
    name: int | str,
    k: int = 30,
    **options: Unpack[ModelOptions],
) -> Member:
    """What one network says of all rows: its support's, each left out of its own vote, and others.

    Args:
        model, k, options: as in `pdepth.prediction_depth`.
        held_out_rows: distinct rows that it was not trained on.
        name: tells it from others.
    """
    rows = _rows(data)
    out = np.unique(arguments.check_query_rows(held_out_rows, rows))
    support = Subset(data, _others(rows, out))
    own = prediction_depth(model, support, k=k, **options)
    others = prediction_depth(model, support, Subset(data, out.tolist()), k=k, **options)
    return Member.of(own, others, out, name)


def asked(
    networks: Iterable[tuple[int | str, nn.Module, Any]],
    data: Dataset[Any],
    *,
    k: int = 30,
    **options: Unpack[ModelOptions],
) -> Iterator[Member]:
    """What each of some networks says, with its name and the rows that it was held out from."""
    for name, model, out in networks:
        yield ask(model, data, out, name=name, k=k, **options)


def _rows(data: Any) -> int:
    try:
        return len(data)
    except TypeError:
        raise TypeError(
            f"data is a {type(data).__name__} without a length; a Dataset with one is wanted."
        ) from None


def _others(rows: int, out: NDArray[np.int64]) -> list[int]:
    kept = np.ones(rows, bool)
    kept[out] = False
    found: list[int] = np.flatnonzero(kept).tolist()
    return found
