"""Which rows a worker has: as it sees them, and as they are seen from where a call is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

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

    shards: by worker, its `network.SpanShard` in the object store. bounds: of the support and, if
    they are not its own rows, of the queries: where those of each worker begin, and the last end.
    """

    shards: list[Any]
    bounds: list[list[int]]


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
