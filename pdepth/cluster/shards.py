"""Which rows a worker has: as it sees them, and as they are seen from where a call is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pdepth.arrays.rows import Rows


@dataclass(frozen=True, eq=False)
class ShardRows:
    """The rows of a support at one probe that one worker searches.

    first: the number that the first of them has in the support.
    """

    name: str
    rows: Rows
    first: int


@dataclass(frozen=True, eq=False)
class RemoteSpan:
    """Probes whose rows workers have.

    first: the first one's number at the workers. shards: by worker, its `network.SpanShard` in the
    object store. bounds: of the support and, if they are not its own rows, of the queries: where
    those of each worker begin, and the last end. active: (n,) the queries that are active, by their
    numbers. at_a_time: for how many of them the support passes by at a time; None where it is
    searched where it is.
    """

    first: int
    shards: list[Any]
    bounds: list[list[int]]
    active: NDArray[np.int64]
    at_a_time: int | None = None


@dataclass(frozen=True, eq=False)
class RemoteRows:
    """Rows at a probe that workers have, as a `Source` that nobody reads here.

    number: of the probe at the workers. shape: (rows, width). dtype: torch's.
    """

    span: RemoteSpan
    number: int
    shape: tuple[int, int]
    dtype: Any

    def __getitem__(self, rows: slice) -> NoReturn:
        raise AssertionError("rows of workers are searched where they are")
